// Checks and allocation of the conv_transpose2d ops, for every device; the caller then runs its launcher.
//
// Where `empty` is set there is nothing to compute: the result is complete (empty, or zeros).
#pragma once

#include <string_view>

#include "checks.h"
#include "conv_transpose2d_shape.h"

namespace fastgan {

struct ConvTranspose2dCall {
  ConvTranspose2dShape shape;
  Tensor result;  // y, dx or dweight; not yet written
  bool empty;
};

// half: whether the launchers of this device take float16.
ConvTranspose2dCall conv_transpose2d_call(const Tensor& x, const Tensor& weight, const OptionalTensor& bias,
                                          at::IntArrayRef stride, at::IntArrayRef padding,
                                          at::IntArrayRef output_padding, int64_t groups, at::IntArrayRef dilation,
                                          std::string_view activation, double negative_slope, bool half);

// dx, in the layout of dy.
ConvTranspose2dCall conv_transpose2d_input_gradient_call(const Tensor& dy, const Tensor& weight, at::IntArrayRef stride,
                                                         at::IntArrayRef padding, at::IntArrayRef output_padding,
                                                         int64_t groups, at::IntArrayRef dilation, bool half);

// dweight, contiguous or channels_last; x in the layout of dy.
ConvTranspose2dCall conv_transpose2d_weight_gradient_call(const Tensor& dy, const Tensor& x, at::IntArrayRef kernel,
                                                          bool channels_last, at::IntArrayRef stride,
                                                          at::IntArrayRef padding, at::IntArrayRef output_padding,
                                                          int64_t groups, at::IntArrayRef dilation, bool half);

}  // namespace fastgan
