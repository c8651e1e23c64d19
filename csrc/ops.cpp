// The ops of torch.ops.fastgan_csrc: schemas, argument checks, allocation. The arithmetic is in cpu/.
//
// Ops have no derivative; fastgan/ops puts it on top. Every error is one sentence that names the values.
#include <cmath>
#include <string>
#include <string_view>
#include <tuple>

#include <ATen/ops/empty.h>
#include <ATen/ops/empty_like.h>
#include <ATen/ops/scalar_tensor.h>
#include <ATen/ops/zeros.h>
#include <torch/csrc/autograd/autograd_not_implemented_fallback.h>
#include <torch/library.h>

#include "checks.h"
#include "cpu/instance_norm.h"
#include "cpu/kernels.h"
#include "cpu/losses.h"
#include "cpu/reflection_pad.h"

namespace fastgan {
namespace {

InstanceNormShape instance_norm_shape(const Tensor& x, std::string_view activation, double slope, int64_t halo) {
  const char* const op = "instance_norm";
  InstanceNormShape s{};
  s.layout = layout_of(x, op, "input");
  s.dtype = dtype_of(x, op, false);
  s.n = x.size(0), s.c = x.size(1), s.h = x.size(2), s.w = x.size(3);
  s.activation = activation_of(activation, op);
  s.slope = slope;
  TORCH_CHECK_VALUE(halo == 0 || (halo > 0 && halo < s.h && halo < s.w), op, ": halo must be at least 0 and less than ",
                    "the height and the width of the input, got halo ", halo, " for ", s.h, " x ", s.w);
  s.halo = halo;
  return s;
}

std::tuple<Tensor, Tensor, Tensor> instance_norm_op(const Tensor& x, const OptionalTensor& weight,
                                                    const OptionalTensor& bias, const OptionalTensor& residual,
                                                    double eps, std::string_view activation, double negative_slope,
                                                    int64_t halo) {
  const char* const op = "instance_norm";
  const InstanceNormShape s = instance_norm_shape(x, activation, negative_slope, halo);
  const OptionalTensor w = channel_parameter(weight, x, op, "weight"), b = channel_parameter(bias, x, op, "bias");
  InstanceNormForward a{};
  if (residual.has_value()) {
    const Tensor& r = *residual;
    check_device(r, x, op, "residual");
    check_dtype(r, x, op, "residual");
    TORCH_CHECK_VALUE(r.sizes() == x.sizes(), op, ": residual must have the input's shape ", x.sizes(), ", got ",
                      r.sizes());
    const bool rows_dense = s.layout == Layout::nchw
                                ? s.w <= 1 || r.stride(3) == 1
                                : (s.c <= 1 || r.stride(1) == 1) && (s.w <= 1 || r.stride(3) == s.c);
    TORCH_CHECK_VALUE(x.numel() == 0 || rows_dense, op, ": the rows of residual must be laid out as the input's (",
                      s.layout == Layout::nchw ? "stride 1 along W" : "stride 1 along C and C along W",
                      "), got strides ", r.strides());
    a.residual = r.const_data_ptr();
    a.residual_stride_n = r.stride(0);
    a.residual_stride_c = r.stride(1);
    // A single row has no stride of its own: it counts as following densely.
    a.residual_stride_h = s.h > 1 ? r.stride(2) : s.layout == Layout::nchw ? s.w : s.w * s.c;
  }
  Tensor y = empty({s.n, s.c, s.h + 2 * halo, s.w + 2 * halo}, x, s.layout);
  const auto statistics = x.options().dtype(accumulate_type(x)).memory_format(at::MemoryFormat::Contiguous);
  Tensor mean = at::empty({s.n, s.c}, statistics), rstd = at::empty({s.n, s.c}, statistics);
  if (x.numel() == 0) {
    mean.zero_();
    rstd.fill_(1.0 / std::sqrt(eps));
    return {y, mean, rstd};
  }
  a.x = x.const_data_ptr();
  a.weight = data(w);
  a.bias = data(b);
  a.eps = eps;
  a.y = y.mutable_data_ptr();
  a.mean = mean.mutable_data_ptr();
  a.rstd = rstd.mutable_data_ptr();
  instance_norm_forward(s, a);
  return {y, mean, rstd};
}

std::tuple<Tensor, Tensor, Tensor, Tensor> instance_norm_backward_op(
    const Tensor& dy, const Tensor& x, const Tensor& mean, const Tensor& rstd, const OptionalTensor& weight,
    const OptionalTensor& bias, std::string_view activation, double negative_slope, int64_t halo, bool need_dresidual,
    const OptionalTensor& dinner) {
  const char* const op = "instance_norm_backward";
  const InstanceNormShape s = instance_norm_shape(x, activation, negative_slope, halo);
  const OptionalTensor w = channel_parameter(weight, x, op, "weight"), b = channel_parameter(bias, x, op, "bias");
  check_device(dy, x, op, "dy");
  check_dtype(dy, x, op, "dy");
  check_same_layout(dy, {s.n, s.c, s.h + 2 * halo, s.w + 2 * halo}, s.layout, op, "dy");
  if (dinner.has_value()) {
    TORCH_CHECK_VALUE(halo > 0, op, ": dinner is for a halo, got a halo of ", halo, "; add it to dy");
    check_device(*dinner, x, op, "dinner");
    check_dtype(*dinner, x, op, "dinner");
    check_same_layout(*dinner, x.sizes(), s.layout, op, "dinner");
  }
  check_statistic(mean, x, {s.n, s.c}, op, "mean");
  check_statistic(rstd, x, {s.n, s.c}, op, "rstd");
  Tensor dx = empty(x.sizes(), x, s.layout);
  Tensor dresidual = need_dresidual && halo > 0 ? empty(x.sizes(), x, s.layout) : at::empty({0}, x.options());
  const auto doubles = at::TensorOptions().dtype(at::kDouble), floats = at::TensorOptions().dtype(at::kFloat);
  Tensor dweight = weight.has_value() ? at::zeros({s.c}, doubles) : at::empty({0}, floats);
  Tensor dbias = bias.has_value() ? at::zeros({s.c}, doubles) : at::empty({0}, floats);
  if (x.numel() != 0) {
    InstanceNormBackward a{};
    a.dy = dy.const_data_ptr();
    a.dinner = dinner.has_value() ? dinner->const_data_ptr() : nullptr;
    a.x = x.const_data_ptr();
    a.mean = mean.const_data_ptr();
    a.rstd = rstd.const_data_ptr();
    a.weight = data(w);
    a.bias = data(b);
    a.dx = dx.mutable_data_ptr();
    a.dresidual = need_dresidual && halo > 0 ? dresidual.mutable_data_ptr() : nullptr;
    a.dweight = weight.has_value() ? dweight.mutable_data_ptr<double>() : nullptr;
    a.dbias = bias.has_value() ? dbias.mutable_data_ptr<double>() : nullptr;
    instance_norm_backward(s, a);
  }
  if (weight.has_value()) dweight = dweight.to(weight->scalar_type());
  if (bias.has_value()) dbias = dbias.to(bias->scalar_type());
  return {dx, dweight, dbias, dresidual};
}

std::tuple<Tensor, Tensor> pointwise_loss_op(const Tensor& input, const OptionalTensor& target, double label,
                                             std::string_view kind, std::string_view reduction, bool want_grad) {
  const char* const op = "pointwise_loss";
  PointwiseLoss a{};
  a.dtype = dtype_of(input, op, false);
  TORCH_CHECK_VALUE(kind == "l1" || kind == "mse" || kind == "bce", op, ": kind must be l1, mse or bce, got '", kind,
                    "'");
  a.kind = kind == "l1" ? LossKind::l1 : kind == "mse" ? LossKind::mse : LossKind::bce;
  TORCH_CHECK_VALUE(reduction == "none" || reduction == "mean" || reduction == "sum", op,
                    ": reduction must be none, mean or sum, got '", reduction, "'");
  TORCH_CHECK_VALUE(input.is_non_overlapping_and_dense(), op,
                    ": input must fill its memory without gaps or overlaps, got strides ", input.strides(),
                    " for shape ", input.sizes(), "; pass input.contiguous()");
  if (target.has_value()) {
    check_device(*target, input, op, "target");
    check_dtype(*target, input, op, "target");
    TORCH_CHECK_VALUE(target->sizes() == input.sizes(), op, ": target must have the input's shape ", input.sizes(),
                      ", got ", target->sizes());
    // Strides of dimensions of size 1 say nothing about the order of elements.
    bool same_order = true;
    for (int64_t d = 0; d < input.dim(); ++d) {
      same_order &= input.size(d) <= 1 || input.stride(d) == target->stride(d);
    }
    TORCH_CHECK_VALUE(same_order || input.numel() == 0, op, ": target must have the input's strides ", input.strides(),
                      ", got ", target->strides());
    a.target = target->const_data_ptr();
  }
  const bool elementwise = reduction == "none";
  Tensor value = elementwise ? at::empty_like(input) : Tensor();
  Tensor grad = want_grad ? at::empty_like(input) : at::empty({0}, input.options());
  a.count = input.numel();
  a.input = input.const_data_ptr();
  a.label = label;
  a.value = elementwise ? value.mutable_data_ptr() : nullptr;
  a.grad = want_grad ? grad.mutable_data_ptr() : nullptr;
  double sum = a.count > 0 ? pointwise_loss(a) : 0.0;
  if (!elementwise) {
    if (reduction == "mean") sum /= static_cast<double>(a.count);
    value = at::scalar_tensor(sum, at::TensorOptions().dtype(accumulate_type(input)));
  }
  return {value, grad};
}

ReflectionPad padding(const Tensor& x, int64_t left, int64_t right, int64_t top, int64_t bottom, bool padded,
                      const char* op) {
  ReflectionPad s{};
  s.layout = layout_of(x, op, padded ? "dy" : "input");
  s.dtype = dtype_of(x, op, true);
  s.left = left, s.right = right, s.top = top, s.bottom = bottom;
  s.n = x.size(0), s.c = x.size(1);
  s.h = x.size(2) - (padded ? top + bottom : 0);
  s.w = x.size(3) - (padded ? left + right : 0);
  for (const auto& [pad, size, name, axis] :
       {std::tuple{left, s.w, "left", "width"}, std::tuple{right, s.w, "right", "width"},
        std::tuple{top, s.h, "top", "height"}, std::tuple{bottom, s.h, "bottom", "height"}}) {
    TORCH_CHECK_VALUE(pad >= 0 && (pad == 0 || pad < size), op, ": the padding ", name,
                      " must be at least 0 and less than the ", axis, " of the unpadded image, got ", pad, " for a ",
                      axis, " of ", size);
  }
  TORCH_CHECK_VALUE(s.h >= 0 && s.w >= 0, op, ": dy of shape ", x.sizes(), " is smaller than its padding ", left, ", ",
                    right, ", ", top, ", ", bottom, " (left, right, top, bottom)");
  return s;
}

Tensor reflection_pad2d_op(const Tensor& x, int64_t left, int64_t right, int64_t top, int64_t bottom) {
  const ReflectionPad s = padding(x, left, right, top, bottom, false, "reflection_pad2d");
  Tensor y = empty({s.n, s.c, s.h + top + bottom, s.w + left + right}, x, s.layout);
  if (y.numel() != 0) reflection_pad_forward(s, x.const_data_ptr(), y.mutable_data_ptr());
  return y;
}

Tensor reflection_pad2d_backward_op(const Tensor& dy, int64_t left, int64_t right, int64_t top, int64_t bottom) {
  const ReflectionPad s = padding(dy, left, right, top, bottom, true, "reflection_pad2d_backward");
  Tensor dx = empty({s.n, s.c, s.h, s.w}, dy, s.layout);
  if (dx.numel() != 0) reflection_pad_backward(s, dy.const_data_ptr(), dx.mutable_data_ptr());
  return dx;
}

std::string cpu_capability() { return capability().name; }

void limit_cpu_capability(std::string_view name) {
  const std::string level(name);
  TORCH_CHECK_VALUE(limit_capability(level.c_str()),
                    "the CPU capability must be avx512_bf16, avx512, avx2 or default, got '", level, "'");
}

}  // namespace

TORCH_LIBRARY(fastgan_csrc, m) {
  m.def(
      "instance_norm(Tensor x, Tensor? weight, Tensor? bias, Tensor? residual, float eps, str activation, "
      "float negative_slope, int halo) -> (Tensor, Tensor, Tensor)");
  m.def(
      "instance_norm_backward(Tensor dy, Tensor x, Tensor mean, Tensor rstd, Tensor? weight, Tensor? bias, "
      "str activation, float negative_slope, int halo, bool need_dresidual, Tensor? dinner=None) "
      "-> (Tensor, Tensor, Tensor, Tensor)");
  m.def(
      "pointwise_loss(Tensor input, Tensor? target, float label, str kind, str reduction, bool want_grad) "
      "-> (Tensor, Tensor)");
  m.def("reflection_pad2d(Tensor x, int left, int right, int top, int bottom) -> Tensor");
  m.def("reflection_pad2d_backward(Tensor dy, int left, int right, int top, int bottom) -> Tensor");
  // The instruction set in use, and an upper limit for it from now on (avx512_bf16, avx512, avx2, default), for tests.
  m.def("cpu_capability() -> str", cpu_capability);
  m.def("limit_cpu_capability(str name) -> ()", limit_cpu_capability);
}

// No op here has a derivative: where one would be lost, the backward pass is an error. The ops in Python have them.
TORCH_LIBRARY_IMPL(fastgan_csrc, Autograd, m) {
  for (const char* name :
       {"instance_norm", "instance_norm_backward", "pointwise_loss", "reflection_pad2d", "reflection_pad2d_backward",
        "batch_norm", "batch_norm_apply", "batch_norm_backward", "conv_transpose2d", "conv_transpose2d_input_gradient",
        "conv_transpose2d_weight_gradient", "reflection_pad_conv2d", "reflection_pad_conv2d_input_gradient",
        "reflection_pad_conv2d_weight_gradient"}) {
    m.impl(name, torch::autograd::autogradNotImplementedFallback());
  }
}

TORCH_LIBRARY_IMPL(fastgan_csrc, CPU, m) {
  m.impl("instance_norm", instance_norm_op);
  m.impl("instance_norm_backward", instance_norm_backward_op);
  m.impl("pointwise_loss", pointwise_loss_op);
  m.impl("reflection_pad2d", reflection_pad2d_op);
  m.impl("reflection_pad2d_backward", reflection_pad2d_backward_op);
}

}  // namespace fastgan
