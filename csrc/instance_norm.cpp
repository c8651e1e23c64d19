// The instance_norm ops of torch.ops.fastgan_csrc: schemas, argument checks, allocation. The arithmetic is in
// cpu/instance_norm.
#include "cpu/instance_norm/instance_norm.h"

#include <cmath>
#include <string_view>
#include <tuple>

#include <ATen/ops/empty.h>
#include <torch/library.h>

#include "checks.h"

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
    const OptionalTensor& dy_interior) {
  const char* const op = "instance_norm_backward";
  const InstanceNormShape s = instance_norm_shape(x, activation, negative_slope, halo);
  const OptionalTensor w = channel_parameter(weight, x, op, "weight"), b = channel_parameter(bias, x, op, "bias");
  check_device(dy, x, op, "dy");
  check_dtype(dy, x, op, "dy");
  check_same_layout(dy, {s.n, s.c, s.h + 2 * halo, s.w + 2 * halo}, s.layout, op, "dy");
  if (dy_interior.has_value()) {
    TORCH_CHECK_VALUE(halo > 0, op, ": dy_interior is for a halo, got a halo of ", halo, "; add it to dy");
    check_device(*dy_interior, x, op, "dy_interior");
    check_dtype(*dy_interior, x, op, "dy_interior");
    check_same_layout(*dy_interior, x.sizes(), s.layout, op, "dy_interior");
  }
  check_statistic(mean, x, {s.n, s.c}, op, "mean");
  check_statistic(rstd, x, {s.n, s.c}, op, "rstd");
  Tensor dx = empty(x.sizes(), x, s.layout);
  Tensor dresidual = need_dresidual && halo > 0 ? empty(x.sizes(), x, s.layout) : at::empty({0}, x.options());
  const ParameterGradient dweight(weight), dbias(bias);
  if (x.numel() != 0) {
    instance_norm_backward(
        s, {dy.const_data_ptr(), data(dy_interior), x.const_data_ptr(),
            NormChannels{mean.const_data_ptr(), rstd.const_data_ptr(), data(w), data(b)}, dx.mutable_data_ptr(),
            dresidual.numel() > 0 ? dresidual.mutable_data_ptr() : nullptr, dweight.sums(), dbias.sums()});
  }
  return {dx, dweight.rounded(), dbias.rounded(), dresidual};
}

}  // namespace

TORCH_LIBRARY_FRAGMENT(fastgan_csrc, m) {
  m.def(
      "instance_norm(Tensor x, Tensor? weight, Tensor? bias, Tensor? residual, float eps, str activation, "
      "float negative_slope, int halo) -> (Tensor, Tensor, Tensor)");
  m.def(
      "instance_norm_backward(Tensor dy, Tensor x, Tensor mean, Tensor rstd, Tensor? weight, Tensor? bias, "
      "str activation, float negative_slope, int halo, bool need_dresidual, Tensor? dy_interior=None) "
      "-> (Tensor, Tensor, Tensor, Tensor)");
}

TORCH_LIBRARY_IMPL(fastgan_csrc, CPU, m) {
  m.impl("instance_norm", instance_norm_op);
  m.impl("instance_norm_backward", instance_norm_backward_op);
}

}  // namespace fastgan
