// The conv_transpose2d ops of torch.ops.fastgan_csrc: schemas, argument checks, allocation. The arithmetic is in
// cpu/conv_transpose2d.
#include "conv_transpose2d_call.h"

#include <algorithm>
#include <utility>

#include <torch/library.h>

#include "cpu/conv_transpose2d/conv_transpose2d.h"

namespace fastgan {
namespace {

const char* const kForward = "conv_transpose2d";
const char* const kInputGradient = "conv_transpose2d_input_gradient";
const char* const kWeightGradient = "conv_transpose2d_weight_gradient";
const char* const kAxis[2] = {"height", "width"};

// Stride, padding, output_padding, groups and dilation, each within its own range.
void set_geometry(ConvTranspose2dShape& s, at::IntArrayRef stride, at::IntArrayRef padding,
                  at::IntArrayRef output_padding, int64_t groups, at::IntArrayRef dilation, const char* op) {
  for (const auto& [values, name] : {std::pair{stride, "stride"}, std::pair{padding, "padding"},
                                     std::pair{output_padding, "output_padding"}, std::pair{dilation, "dilation"}}) {
    TORCH_CHECK_VALUE(values.size() == 2, op, ": ", name, " must have two values (height, width), got ", values);
  }
  TORCH_CHECK_VALUE(groups >= 1, op, ": groups must be at least 1, got ", groups);
  s.groups = groups;
  for (int i = 0; i < 2; ++i) {
    TORCH_CHECK_VALUE(stride[i] >= 1, op, ": stride must be at least 1, got ", stride);
    TORCH_CHECK_VALUE(dilation[i] >= 1, op, ": dilation must be at least 1, got ", dilation);
    TORCH_CHECK_VALUE(padding[i] >= 0, op, ": padding must be at least 0, got ", padding);
    TORCH_CHECK_VALUE(output_padding[i] >= 0 && (output_padding[i] < stride[i] || output_padding[i] < dilation[i]), op,
                      ": output_padding must be at least 0 and smaller than stride or dilation, got ",
                      output_padding[i], " for the ", kAxis[i], " with stride ", stride[i], " and dilation ",
                      dilation[i]);
    s.stride[i] = stride[i], s.padding[i] = padding[i];
    s.output_padding[i] = output_padding[i], s.dilation[i] = dilation[i];
  }
}

// (in - 1) stride + reach is the size of the output.
int64_t reach(const ConvTranspose2dShape& s, int i) {
  return 1 + s.dilation[i] * (s.kernel[i] - 1) + s.output_padding[i] - 2 * s.padding[i];
}

// Those of a dense weight, contiguous or channels_last; torch's own say nothing for dimensions of size 1.
void set_weight_strides(ConvTranspose2dShape& s, bool contiguous) {
  const int64_t o = s.c_out / s.groups, kh = s.kernel[0], kw = s.kernel[1];
  const int64_t strides[4] = {o * kh * kw, contiguous ? kh * kw : 1, contiguous ? kw : kw * o, contiguous ? 1 : o};
  std::copy(strides, strides + 4, s.weight_stride);
}

Tensor dense_weight(const Tensor& weight) {
  const bool dense = weight.is_contiguous() || weight.is_contiguous(at::MemoryFormat::ChannelsLast);
  return dense ? weight : weight.contiguous();
}

void set_weight(ConvTranspose2dShape& s, const Tensor& weight, const Tensor& x, int64_t c_in, const char* op) {
  check_device(weight, x, op, "weight");
  check_dtype(weight, x, op, "weight");
  TORCH_CHECK_VALUE(weight.dim() == 4 && weight.size(2) >= 1 && weight.size(3) >= 1, op,
                    ": weight must have the four dimensions (C, O / groups, kH, kW), got shape ", weight.sizes());
  TORCH_CHECK_VALUE(c_in < 0 || weight.size(0) == c_in, op, ": weight must have one row for each of the ", c_in,
                    " channels of the input, got shape ", weight.sizes());
  TORCH_CHECK_VALUE(weight.size(0) >= 1 && weight.size(1) >= 1 && weight.size(0) % s.groups == 0, op, ": ",
                    weight.size(0), " input channels and ", weight.size(1), " output channels of a group do not make ",
                    s.groups, " groups");
  s.c_in = weight.size(0), s.c_out = weight.size(1) * s.groups;
  s.kernel[0] = weight.size(2), s.kernel[1] = weight.size(3);
  set_weight_strides(s, weight.is_contiguous());
}

void set_output(ConvTranspose2dShape& s, const Tensor& x, const char* op) {
  for (int i = 0; i < 2; ++i) {
    s.in[i] = x.size(2 + i);
    s.out[i] = (s.in[i] - 1) * s.stride[i] + reach(s, i);
    TORCH_CHECK_VALUE(s.in[i] >= 1 && s.out[i] >= 1, op, ": a ", kAxis[i], " of ", s.in[i], " gives an output ",
                      kAxis[i], " of ", s.out[i], ": both must be at least 1");
  }
}

Tensor forward_op(const Tensor& x, const Tensor& weight, const OptionalTensor& bias, at::IntArrayRef stride,
                  at::IntArrayRef padding, at::IntArrayRef output_padding, int64_t groups, at::IntArrayRef dilation,
                  std::string_view activation, double negative_slope) {
  const Tensor dense = dense_weight(weight);
  const ConvTranspose2dCall call = conv_transpose2d_call(x, dense, bias, stride, padding, output_padding, groups,
                                                         dilation, activation, negative_slope, false);
  if (!call.empty) {
    conv_transpose2d_forward(call.shape, x.const_data_ptr(), dense.const_data_ptr(), data(bias),
                             call.result.mutable_data_ptr());
  }
  return call.result;
}

Tensor input_gradient_op(const Tensor& dy, const Tensor& weight, at::IntArrayRef stride, at::IntArrayRef padding,
                         at::IntArrayRef output_padding, int64_t groups, at::IntArrayRef dilation) {
  const Tensor dense = dense_weight(weight);
  const ConvTranspose2dCall call =
      conv_transpose2d_input_gradient_call(dy, dense, stride, padding, output_padding, groups, dilation, false);
  if (!call.empty) {
    conv_transpose2d_input_gradient(call.shape, dy.const_data_ptr(), dense.const_data_ptr(),
                                    call.result.mutable_data_ptr());
  }
  return call.result;
}

Tensor weight_gradient_op(const Tensor& dy, const Tensor& x, at::IntArrayRef kernel, bool channels_last,
                          at::IntArrayRef stride, at::IntArrayRef padding, at::IntArrayRef output_padding,
                          int64_t groups, at::IntArrayRef dilation) {
  const ConvTranspose2dCall call = conv_transpose2d_weight_gradient_call(dy, x, kernel, channels_last, stride, padding,
                                                                         output_padding, groups, dilation, false);
  if (!call.empty) {
    conv_transpose2d_weight_gradient(call.shape, dy.const_data_ptr(), x.const_data_ptr(),
                                     call.result.mutable_data_ptr());
  }
  return call.result;
}

}  // namespace

ConvTranspose2dCall conv_transpose2d_call(const Tensor& x, const Tensor& weight, const OptionalTensor& bias,
                                          at::IntArrayRef stride, at::IntArrayRef padding,
                                          at::IntArrayRef output_padding, int64_t groups, at::IntArrayRef dilation,
                                          std::string_view activation, double negative_slope, bool half) {
  const char* const op = kForward;
  ConvTranspose2dShape s{};
  s.dtype = dtype_of(x, op, half);
  s.layout = layout_of(x, op, "input");
  s.n = x.size(0);
  set_geometry(s, stride, padding, output_padding, groups, dilation, op);
  set_weight(s, weight, x, x.size(1), op);
  set_output(s, x, op);
  if (bias.has_value()) {
    check_device(*bias, x, op, "bias");
    check_dtype(*bias, x, op, "bias");
    TORCH_CHECK_VALUE(bias->dim() == 1 && bias->size(0) == s.c_out && bias->is_contiguous(), op,
                      ": bias must be contiguous with shape [", s.c_out, "], one value per output channel, got shape ",
                      bias->sizes(), " and strides ", bias->strides());
  }
  s.activation = activation_of(activation, op);
  s.slope = negative_slope;
  TORCH_CHECK_VALUE(s.activation != Activation::leaky_relu || negative_slope >= 0, op,
                    ": the slope of a fused leaky_relu must be at least 0, got ", negative_slope);
  return {s, empty({s.n, s.c_out, s.out[0], s.out[1]}, x, s.layout), s.n == 0};
}

ConvTranspose2dCall conv_transpose2d_input_gradient_call(const Tensor& dy, const Tensor& weight, at::IntArrayRef stride,
                                                         at::IntArrayRef padding, at::IntArrayRef output_padding,
                                                         int64_t groups, at::IntArrayRef dilation, bool half) {
  const char* const op = kInputGradient;
  ConvTranspose2dShape s{};
  s.dtype = dtype_of(dy, op, half);
  s.layout = layout_of(dy, op, "dy");
  s.n = dy.size(0);
  set_geometry(s, stride, padding, output_padding, groups, dilation, op);
  set_weight(s, weight, dy, -1, op);
  TORCH_CHECK_VALUE(dy.size(1) == s.c_out, op, ": dy must have the ", s.c_out, " output channels of weight ",
                    weight.sizes(), " in ", groups, " groups, got shape ", dy.sizes());
  for (int i = 0; i < 2; ++i) {
    s.out[i] = dy.size(2 + i);
    const int64_t steps = s.out[i] - reach(s, i);
    TORCH_CHECK_VALUE(s.out[i] >= 1 && steps >= 0 && steps % s.stride[i] == 0, op, ": no input gives an output ",
                      kAxis[i], " of ", s.out[i], " with kernel ", s.kernel[i], ", stride ", s.stride[i], ", padding ",
                      s.padding[i], ", output_padding ", s.output_padding[i], " and dilation ", s.dilation[i]);
    s.in[i] = steps / s.stride[i] + 1;
  }
  return {s, empty({s.n, s.c_in, s.in[0], s.in[1]}, dy, s.layout), s.n == 0};
}

ConvTranspose2dCall conv_transpose2d_weight_gradient_call(const Tensor& dy, const Tensor& x, at::IntArrayRef kernel,
                                                          bool channels_last, at::IntArrayRef stride,
                                                          at::IntArrayRef padding, at::IntArrayRef output_padding,
                                                          int64_t groups, at::IntArrayRef dilation, bool half) {
  const char* const op = kWeightGradient;
  ConvTranspose2dShape s{};
  s.dtype = dtype_of(x, op, half);
  TORCH_CHECK_VALUE(dy.dim() == 4, op, ": dy must have the four dimensions (N, O, H, W), got shape ", dy.sizes());
  s.layout = common_layout(x, dy, op, "input");
  s.n = x.size(0), s.c_in = x.size(1);
  set_geometry(s, stride, padding, output_padding, groups, dilation, op);
  TORCH_CHECK_VALUE(kernel.size() == 2 && kernel[0] >= 1 && kernel[1] >= 1, op,
                    ": kernel must have two values (height, width) of at least 1, got ", kernel);
  s.kernel[0] = kernel[0], s.kernel[1] = kernel[1];
  set_output(s, x, op);
  check_device(dy, x, op, "dy");
  check_dtype(dy, x, op, "dy");
  s.c_out = dy.size(1);
  check_same_layout(dy, {s.n, s.c_out, s.out[0], s.out[1]}, s.layout, op, "dy");
  TORCH_CHECK_VALUE(s.c_in >= 1 && s.c_out >= 1 && s.c_in % groups == 0 && s.c_out % groups == 0, op, ": ", s.c_in,
                    " input channels and ", s.c_out, " output channels do not make ", groups, " groups");
  const auto format = channels_last ? at::MemoryFormat::ChannelsLast : at::MemoryFormat::Contiguous;
  Tensor dweight = at::empty({s.c_in, s.c_out / groups, s.kernel[0], s.kernel[1]}, x.options().memory_format(format));
  set_weight_strides(s, !channels_last);
  if (s.n == 0) dweight.zero_();
  return {s, dweight, s.n == 0};
}

TORCH_LIBRARY_FRAGMENT(fastgan_csrc, m) {
  m.def(
      "conv_transpose2d(Tensor x, Tensor weight, Tensor? bias, int[] stride, int[] padding, int[] output_padding, "
      "int groups, int[] dilation, str activation, float negative_slope) -> Tensor");
  m.def(
      "conv_transpose2d_input_gradient(Tensor dy, Tensor weight, int[] stride, int[] padding, int[] output_padding, "
      "int groups, int[] dilation) -> Tensor");
  m.def(
      "conv_transpose2d_weight_gradient(Tensor dy, Tensor x, int[] kernel, bool channels_last, int[] stride, "
      "int[] padding, int[] output_padding, int groups, int[] dilation) -> Tensor");
}

TORCH_LIBRARY_IMPL(fastgan_csrc, CPU, m) {
  m.impl("conv_transpose2d", forward_op);
  m.impl("conv_transpose2d_input_gradient", input_gradient_op);
  m.impl("conv_transpose2d_weight_gradient", weight_gradient_op);
}

}  // namespace fastgan
