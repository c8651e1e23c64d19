// The reflection_pad_conv2d ops of torch.ops.fastgan_csrc, 3x3 with stride 1: schemas, argument checks, allocation. The
// arithmetic is in cpu/reflection_pad_conv2d, on images with channels innermost; others are turned. Images are float32
// or bfloat16; parameters are read as float32, and their gradient is float32.
#include <torch/library.h>

#include "checks.h"
#include "cpu/reflection_pad_conv2d/winograd.h"

namespace fastgan {
namespace {

const char* const kForward = "reflection_pad_conv2d";
const char* const kInputGradient = "reflection_pad_conv2d_input_gradient";
const char* const kWeightGradient = "reflection_pad_conv2d_weight_gradient";

constexpr auto kNhwc = at::MemoryFormat::ChannelsLast;

at::MemoryFormat format(bool channels_last) { return channels_last ? kNhwc : at::MemoryFormat::Contiguous; }

Dtype check_image(const Tensor& x, const char* op, const char* name) {
  TORCH_CHECK_TYPE(x.scalar_type() == at::kFloat || x.scalar_type() == at::kBFloat16, op,
                   ": the C++ kernels take float32 and bfloat16 tensors, got ", x.scalar_type(), " for ", name);
  return x.scalar_type() == at::kFloat ? Dtype::float32 : Dtype::bfloat16;
}

void check_parameter(const Tensor& t, const Tensor& x, const char* op, const char* name) {
  check_device(t, x, op, name);
  TORCH_CHECK_TYPE(t.scalar_type() == at::kFloat || t.scalar_type() == x.scalar_type(), op, ": ", name,
                   " must be Float or have the input's dtype ", x.scalar_type(), ", got ", t.scalar_type());
}

void set_image(WinogradShape& s, int64_t n, int64_t h, int64_t w, at::IntArrayRef padding, const char* op) {
  TORCH_CHECK_VALUE(padding.size() == 2, op, ": padding must have two values (height, width), got ", padding);
  s.n = n, s.h = h, s.w = w;
  s.pad_h = padding[0], s.pad_w = padding[1];
  for (const auto& [pad, size, axis] : {std::tuple{s.pad_h, h, "height"}, std::tuple{s.pad_w, w, "width"}}) {
    TORCH_CHECK_VALUE(pad >= 0 && (pad == 0 || pad < size), op,
                      ": padding must be at least 0 and less than the image's ", axis, ", got ", pad, " for a ", axis,
                      " of ", size);
    TORCH_CHECK_VALUE(size + 2 * pad >= 3, op, ": a ", axis, " of ", size, " padded by ", pad,
                      " is smaller than the 3x3 kernel; pad more or pass a larger image");
  }
}

// A dense float32 weight; `shape` gets its sizes and its layout.
Tensor set_weight(WinogradShape& s, const Tensor& weight, const Tensor& x, const char* op) {
  check_parameter(weight, x, op, "weight");
  TORCH_CHECK_VALUE(
      weight.dim() == 4 && weight.size(2) == 3 && weight.size(3) == 3 && weight.size(0) >= 1 && weight.size(1) >= 1, op,
      ": weight must have the shape (O, C, 3, 3), got ", weight.sizes());
  s.o = weight.size(0), s.c = weight.size(1);
  s.weight = weight.is_contiguous() || !weight.is_contiguous(kNhwc) ? Layout::nchw : Layout::nhwc;
  return (s.weight == Layout::nchw ? weight.contiguous() : weight).to(at::kFloat);
}

template <class T>
const T* elements(const Tensor& t) {
  return static_cast<const T*>(t.const_data_ptr());
}

template <class T>
T* mutable_elements(const Tensor& t) {
  return static_cast<T*>(t.mutable_data_ptr());
}

Tensor forward_op(const Tensor& x, const Tensor& weight, const OptionalTensor& bias, at::IntArrayRef padding) {
  WinogradShape s{};
  const Dtype dtype = check_image(x, kForward, "the input");
  const bool channels_last = layout_of(x, kForward, "input") == Layout::nhwc;
  const Tensor dense_weight = set_weight(s, weight, x, kForward);
  TORCH_CHECK_VALUE(x.size(1) == s.c, kForward, ": weight of shape ", weight.sizes(), " takes ", s.c,
                    " channels, the input has shape ", x.sizes());
  set_image(s, x.size(0), x.size(2), x.size(3), padding, kForward);
  if (bias.has_value()) {
    check_parameter(*bias, x, kForward, "bias");
    TORCH_CHECK_VALUE(bias->dim() == 1 && bias->size(0) == s.o, kForward, ": bias must have shape [", s.o, "], got ",
                      bias->sizes());
  }
  Tensor y = at::empty({s.n, s.o, s.out_h(), s.out_w()}, x.options().memory_format(kNhwc));
  if (y.numel() != 0) {
    const Tensor image = x.contiguous(kNhwc);
    const Tensor dense_bias = bias.has_value() ? bias->to(at::kFloat).contiguous() : Tensor();
    with_type<float, BFloat16>(dtype, [&](auto element) {
      using T = decltype(element);
      winograd_forward(s, elements<T>(image), dense_weight.const_data_ptr<float>(),
                       dense_bias.defined() ? dense_bias.const_data_ptr<float>() : nullptr, mutable_elements<T>(y));
    });
  }
  return y.contiguous(format(channels_last));
}

Tensor input_gradient_op(const Tensor& dy, const Tensor& weight, at::IntArrayRef size, at::IntArrayRef padding,
                         bool channels_last) {
  WinogradShape s{};
  const Dtype dtype = check_image(dy, kInputGradient, "dy");
  layout_of(dy, kInputGradient, "dy");
  const Tensor dense_weight = set_weight(s, weight, dy, kInputGradient);
  TORCH_CHECK_VALUE(size.size() == 2, kInputGradient, ": size must have two values (height, width), got ", size);
  set_image(s, dy.size(0), size[0], size[1], padding, kInputGradient);
  TORCH_CHECK_VALUE(dy.sizes() == at::IntArrayRef({s.n, s.o, s.out_h(), s.out_w()}), kInputGradient,
                    ": dy must have shape [", s.n, ", ", s.o, ", ", s.out_h(), ", ", s.out_w(), "], got ", dy.sizes());
  Tensor dx = at::empty({s.n, s.c, s.h, s.w}, dy.options().memory_format(kNhwc));
  if (dx.numel() != 0) {
    const Tensor image = dy.contiguous(kNhwc);
    with_type<float, BFloat16>(dtype, [&](auto element) {
      using T = decltype(element);
      winograd_input_gradient(s, elements<T>(image), dense_weight.const_data_ptr<float>(), mutable_elements<T>(dx));
    });
  }
  return dx.contiguous(format(channels_last));
}

Tensor weight_gradient_op(const Tensor& dy, const Tensor& x, at::IntArrayRef padding, bool channels_last) {
  WinogradShape s{};
  const Dtype dtype = check_image(x, kWeightGradient, "the input");
  layout_of(x, kWeightGradient, "input");
  check_device(dy, x, kWeightGradient, "dy");
  check_dtype(dy, x, kWeightGradient, "dy");
  layout_of(dy, kWeightGradient, "dy");
  set_image(s, x.size(0), x.size(2), x.size(3), padding, kWeightGradient);
  s.c = x.size(1), s.o = dy.size(1);
  s.weight = channels_last ? Layout::nhwc : Layout::nchw;
  TORCH_CHECK_VALUE(dy.sizes() == at::IntArrayRef({s.n, s.o, s.out_h(), s.out_w()}), kWeightGradient,
                    ": dy must have shape [", s.n, ", O, ", s.out_h(), ", ", s.out_w(), "], got ", dy.sizes());
  Tensor dweight = at::empty({s.o, s.c, 3, 3}, x.options().dtype(at::kFloat).memory_format(format(channels_last)));
  if (s.n == 0) return dweight.zero_();
  if (dweight.numel() != 0) {
    const Tensor image = x.contiguous(kNhwc), gradient = dy.contiguous(kNhwc);
    with_type<float, BFloat16>(dtype, [&](auto element) {
      using T = decltype(element);
      winograd_weight_gradient(s, elements<T>(image), elements<T>(gradient), dweight.mutable_data_ptr<float>());
    });
  }
  return dweight;
}

}  // namespace

TORCH_LIBRARY_FRAGMENT(fastgan_csrc, m) {
  m.def("reflection_pad_conv2d(Tensor x, Tensor weight, Tensor? bias, int[2] padding) -> Tensor");
  m.def(
      "reflection_pad_conv2d_input_gradient(Tensor dy, Tensor weight, int[2] size, int[2] padding, bool channels_last) "
      "-> Tensor");
  m.def("reflection_pad_conv2d_weight_gradient(Tensor dy, Tensor x, int[2] padding, bool channels_last) -> Tensor");
}

TORCH_LIBRARY_IMPL(fastgan_csrc, CPU, m) {
  m.impl("reflection_pad_conv2d", forward_op);
  m.impl("reflection_pad_conv2d_input_gradient", input_gradient_op);
  m.impl("reflection_pad_conv2d_weight_gradient", weight_gradient_op);
}

}  // namespace fastgan
