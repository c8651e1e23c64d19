// conv_transpose2d on the CPU: raw pointers, checked and allocated by csrc/conv_transpose2d.cpp. Not for float16.
#pragma once

#include "conv_transpose2d_shape.h"

namespace fastgan {

// y = act(x * w + bias); bias may be null.
void conv_transpose2d_forward(const ConvTranspose2dShape& shape, const void* x, const void* weight, const void* bias,
                              void* y);
// dx, the convolution of dy.
void conv_transpose2d_input_gradient(const ConvTranspose2dShape& shape, const void* dy, const void* weight, void* dx);
void conv_transpose2d_weight_gradient(const ConvTranspose2dShape& shape, const void* dy, const void* x, void* dweight);

}  // namespace fastgan
