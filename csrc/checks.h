// Argument checks and allocation that the op files share. Errors name the values.
#pragma once

#include <optional>
#include <string_view>

#include <ATen/core/Tensor.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/zeros.h>

#include "types.h"

namespace fastgan {

using at::Tensor;
using OptionalTensor = std::optional<Tensor>;

// The element type of x, which `half` extends by float16.
inline Dtype dtype_of(const Tensor& x, const char* op, bool half) {
  switch (x.scalar_type()) {
    case at::kFloat:
      return Dtype::float32;
    case at::kBFloat16:
      return Dtype::bfloat16;
    case at::kDouble:
      return Dtype::float64;
    case at::kHalf:
      if (half) return Dtype::float16;
      break;
    default:
      break;
  }
  TORCH_CHECK_TYPE(false, op, ": the compiled kernels take float32, bfloat16", half ? ", float16" : "",
                   " and float64 tensors, got ", x.scalar_type());
}

inline at::ScalarType accumulate_type(const Tensor& x) {
  return x.scalar_type() == at::kDouble ? at::kDouble : at::kFloat;
}

// The dense layout of a 4-d tensor; contiguous wins where both hold.
inline Layout layout_of(const Tensor& x, const char* op, const char* name) {
  TORCH_CHECK_VALUE(x.dim() == 4, op, ": ", name, " must have the four dimensions (N, C, H, W), got shape ", x.sizes());
  if (x.is_contiguous()) return Layout::nchw;
  TORCH_CHECK_VALUE(x.is_contiguous(at::MemoryFormat::ChannelsLast), op, ": ", name,
                    " must be dense, contiguous or channels_last, got strides ", x.strides(), " for shape ", x.sizes(),
                    "; pass ", name, ".contiguous()");
  return Layout::nhwc;
}

// The layout in which both of two dense tensors lie. One of them alone may lie in both: one channel, or one pixel.
inline Layout common_layout(const Tensor& x, const Tensor& y, const char* op, const char* name) {
  const Layout layout = layout_of(x, op, name);
  return layout == Layout::nchw && !y.is_contiguous() && x.is_contiguous(at::MemoryFormat::ChannelsLast) ? Layout::nhwc
                                                                                                         : layout;
}

inline Tensor empty(at::IntArrayRef sizes, const Tensor& pattern, Layout layout) {
  const auto format = layout == Layout::nchw ? at::MemoryFormat::Contiguous : at::MemoryFormat::ChannelsLast;
  return at::empty(sizes, pattern.options().memory_format(format));
}

// A tensor that must have a given shape and be dense in the layout of x.
inline void check_same_layout(const Tensor& t, at::IntArrayRef sizes, Layout layout, const char* op, const char* name) {
  TORCH_CHECK_VALUE(t.sizes() == sizes, op, ": ", name, " must have shape ", sizes, ", got ", t.sizes());
  const bool nchw = layout == Layout::nchw;
  TORCH_CHECK_VALUE(t.is_contiguous(nchw ? at::MemoryFormat::Contiguous : at::MemoryFormat::ChannelsLast), op, ": ",
                    name, " must be ", nchw ? "contiguous" : "channels_last", ", as the input is, got strides ",
                    t.strides(), " for shape ", t.sizes());
}

inline void check_dtype(const Tensor& t, const Tensor& x, const char* op, const char* name) {
  TORCH_CHECK_TYPE(t.scalar_type() == x.scalar_type(), op, ": ", name, " must have the input's dtype ", x.scalar_type(),
                   ", got ", t.scalar_type());
}

inline void check_device(const Tensor& t, const Tensor& x, const char* op, const char* name) {
  TORCH_CHECK_VALUE(t.device() == x.device(), op, ": ", name, " must be on the input's device ", x.device(), ", got ",
                    t.device());
}

// weight or bias of a norm, as a dense (C,) tensor of the accumulation dtype.
inline OptionalTensor channel_parameter(const OptionalTensor& t, const Tensor& x, const char* op, const char* name) {
  if (!t.has_value()) return t;
  check_device(*t, x, op, name);
  TORCH_CHECK_VALUE(t->dim() == 1 && t->size(0) == x.size(1), op, ": ", name, " must have shape [", x.size(1),
                    "], one value per channel of the input ", x.sizes(), ", got ", t->sizes());
  TORCH_CHECK_TYPE(t->scalar_type() == x.scalar_type() || t->scalar_type() == at::kFloat, op, ": ", name,
                   " must be Float or have the input's dtype ", x.scalar_type(), ", got ", t->scalar_type());
  return t->to(accumulate_type(x)).contiguous();
}

// A statistic of shape `sizes` that a forward pass returned for x.
inline void check_statistic(const Tensor& t, const Tensor& x, at::IntArrayRef sizes, const char* op, const char* name) {
  check_device(t, x, op, name);
  TORCH_CHECK_VALUE(t.sizes() == sizes && t.is_contiguous(), op, ": ", name, " must be contiguous with shape ", sizes,
                    ", got ", t.sizes());
  TORCH_CHECK_TYPE(t.scalar_type() == accumulate_type(x), op, ": ", name, " must be ", accumulate_type(x),
                   " for an input of ", x.scalar_type(), ", got ", t.scalar_type());
}

// The gradient of a norm's weight or bias: an empty tensor of float where there is none.
class ParameterGradient {
 public:
  explicit ParameterGradient(const OptionalTensor& parameter)
      : type_(parameter.has_value() ? parameter->scalar_type() : at::kFloat),
        sums_(parameter.has_value() ? at::zeros(parameter->sizes(), at::TensorOptions().dtype(at::kDouble))
                                    : at::empty({0}, at::TensorOptions().dtype(at::kDouble))) {}

  // One for each channel, or null where there is no parameter; 0 at first.
  double* sums() const { return sums_.numel() > 0 ? sums_.mutable_data_ptr<double>() : nullptr; }
  // In the parameter's dtype.
  Tensor rounded() const { return sums_.to(type_); }

 private:
  at::ScalarType type_;
  Tensor sums_;
};

inline const void* data(const OptionalTensor& t) { return t.has_value() ? t->const_data_ptr() : nullptr; }

inline Activation activation_of(std::string_view name, const char* op) {
  if (name == "none") return Activation::none;
  if (name == "relu") return Activation::relu;
  TORCH_CHECK_VALUE(name == "leaky_relu", op, ": activation must be none, relu or leaky_relu, got '", name, "'");
  return Activation::leaky_relu;
}

}  // namespace fastgan
