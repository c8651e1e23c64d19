// The batch_norm ops of torch.ops.fastgan_csrc: schemas, argument checks, allocation. The arithmetic is in
// cpu/batch_norm.
#include "cpu/batch_norm/batch_norm.h"

#include <cmath>
#include <limits>
#include <string_view>
#include <tuple>

#include <ATen/ops/empty.h>
#include <torch/library.h>

#include "checks.h"

namespace fastgan {
namespace {

// Of an input that is dense. One channel is one plane, and single pixels have their channels innermost.
BatchNormShape batch_norm_shape(const Tensor& x, std::string_view activation, double slope, const char* op) {
  BatchNormShape s{};
  s.layout = layout_of(x, op, "input");
  s.dtype = dtype_of(x, op, false);
  s.n = x.size(0), s.c = x.size(1), s.hw = x.size(2) * x.size(3);
  if (s.c == 1) {
    s.layout = Layout::nchw;
    s.hw *= s.n;
    s.n = 1;
  } else if (s.hw == 1) {
    s.layout = Layout::nhwc;
  }
  s.activation = activation_of(activation, op);
  s.slope = slope;
  return s;
}

Tensor statistic(const Tensor& x) {
  return at::empty({x.size(1)}, x.options().dtype(accumulate_type(x)).memory_format(at::MemoryFormat::Contiguous));
}

std::tuple<Tensor, Tensor, Tensor, Tensor> batch_norm_op(const Tensor& x, const OptionalTensor& weight,
                                                         const OptionalTensor& bias, double eps,
                                                         std::string_view activation, double negative_slope) {
  const char* const op = "batch_norm";
  const BatchNormShape s = batch_norm_shape(x, activation, negative_slope, op);
  const OptionalTensor w = channel_parameter(weight, x, op, "weight"), b = channel_parameter(bias, x, op, "bias");
  Tensor y = empty(x.sizes(), x, layout_of(x, op, "input"));
  Tensor mean = statistic(x), rstd = statistic(x), variance = statistic(x);
  if (x.numel() == 0) {
    for (Tensor* t : {&mean, &rstd, &variance}) t->fill_(std::numeric_limits<double>::quiet_NaN());
    return {y, mean, rstd, variance};
  }
  BatchNormForward a{};
  a.x = x.const_data_ptr();
  a.weight = data(w);
  a.bias = data(b);
  a.eps = eps;
  a.y = y.mutable_data_ptr();
  a.mean = mean.mutable_data_ptr();
  a.rstd = rstd.mutable_data_ptr();
  a.variance = variance.mutable_data_ptr();
  batch_norm_forward(s, a);
  return {y, mean, rstd, variance};
}

Tensor batch_norm_apply_op(const Tensor& x, const Tensor& mean, const Tensor& rstd, const OptionalTensor& weight,
                           const OptionalTensor& bias, std::string_view activation, double negative_slope) {
  const char* const op = "batch_norm_apply";
  const BatchNormShape s = batch_norm_shape(x, activation, negative_slope, op);
  const OptionalTensor w = channel_parameter(weight, x, op, "weight"), b = channel_parameter(bias, x, op, "bias");
  check_statistic(mean, x, {x.size(1)}, op, "mean");
  check_statistic(rstd, x, {x.size(1)}, op, "rstd");
  Tensor y = empty(x.sizes(), x, layout_of(x, op, "input"));
  if (x.numel() == 0) return y;
  batch_norm_apply(s, x.const_data_ptr(), {mean.const_data_ptr(), rstd.const_data_ptr(), data(w), data(b)},
                   y.mutable_data_ptr());
  return y;
}

std::tuple<Tensor, Tensor, Tensor> batch_norm_backward_op(const Tensor& dy, const Tensor& x, const Tensor& mean,
                                                          const Tensor& rstd, const OptionalTensor& weight,
                                                          const OptionalTensor& bias, std::string_view activation,
                                                          double negative_slope, bool training) {
  const char* const op = "batch_norm_backward";
  const BatchNormShape s = batch_norm_shape(x, activation, negative_slope, op);
  const Layout layout = layout_of(x, op, "input");
  const OptionalTensor w = channel_parameter(weight, x, op, "weight"), b = channel_parameter(bias, x, op, "bias");
  check_device(dy, x, op, "dy");
  check_dtype(dy, x, op, "dy");
  check_same_layout(dy, x.sizes(), layout, op, "dy");
  check_statistic(mean, x, {x.size(1)}, op, "mean");
  check_statistic(rstd, x, {x.size(1)}, op, "rstd");
  Tensor dx = empty(x.sizes(), x, layout);
  const ParameterGradient dweight(weight), dbias(bias);
  if (x.numel() != 0) {
    const BatchNormBackward a{
        dy.const_data_ptr(),   x.const_data_ptr(), {mean.const_data_ptr(), rstd.const_data_ptr(), data(w), data(b)},
        dx.mutable_data_ptr(), dweight.sums(),     dbias.sums()};
    if (training) {
      batch_norm_backward(s, a);
    } else {
      batch_norm_apply_backward(s, a);
    }
  }
  return {dx, dweight.rounded(), dbias.rounded()};
}

}  // namespace

TORCH_LIBRARY_FRAGMENT(fastgan_csrc, m) {
  m.def(
      "batch_norm(Tensor x, Tensor? weight, Tensor? bias, float eps, str activation, float negative_slope) "
      "-> (Tensor, Tensor, Tensor, Tensor)");
  m.def(
      "batch_norm_apply(Tensor x, Tensor mean, Tensor rstd, Tensor? weight, Tensor? bias, str activation, "
      "float negative_slope) -> Tensor");
  m.def(
      "batch_norm_backward(Tensor dy, Tensor x, Tensor mean, Tensor rstd, Tensor? weight, Tensor? bias, "
      "str activation, float negative_slope, bool training) -> (Tensor, Tensor, Tensor)");
}

TORCH_LIBRARY_IMPL(fastgan_csrc, CPU, m) {
  m.impl("batch_norm", batch_norm_op);
  m.impl("batch_norm_apply", batch_norm_apply_op);
  m.impl("batch_norm_backward", batch_norm_backward_op);
}

}  // namespace fastgan
