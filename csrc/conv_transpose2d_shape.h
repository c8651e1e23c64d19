// A transposed convolution as the CPU and the CUDA launchers see it. No torch here: conv_transpose2d.cpp translates.
#pragma once

#include <cstdint>

#include "types.h"

namespace fastgan {

// y[n, o, i s - p + k d] += x[n, c, i] w[c, o, k]; pairs are (height, width). Everything is checked: sizes fit
// together, no dimension but n is 0, and activations with a slope below 0 do not occur.
struct ConvTranspose2dShape {
  Dtype dtype;    // of x, y, weight, bias and all gradients
  Layout layout;  // of x, y and their gradients, which are dense
  int64_t n, c_in, c_out, groups;
  int64_t in[2], out[2];  // the images of x and y
  int64_t kernel[2], stride[2], padding[2], output_padding[2], dilation[2];
  int64_t weight_stride[4];  // of the weight or its gradient, (c_in, c_out / groups, kH, kW), dense in either layout
  Activation activation;     // of the forward pass
  double slope;              // of leaky_relu
};

}  // namespace fastgan
