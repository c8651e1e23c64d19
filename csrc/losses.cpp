// The pointwise losses of torch.ops.fastgan_csrc: schema, argument checks, allocation. The arithmetic is in cpu/losses.
#include "cpu/losses/losses.h"

#include <string_view>
#include <tuple>

#include <ATen/ops/empty.h>
#include <ATen/ops/empty_like.h>
#include <ATen/ops/scalar_tensor.h>
#include <torch/library.h>

#include "checks.h"

namespace fastgan {
namespace {

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

}  // namespace

TORCH_LIBRARY_FRAGMENT(fastgan_csrc, m) {
  m.def(
      "pointwise_loss(Tensor input, Tensor? target, float label, str kind, str reduction, bool want_grad) "
      "-> (Tensor, Tensor)");
}

TORCH_LIBRARY_IMPL(fastgan_csrc, CPU, m) { m.impl("pointwise_loss", pointwise_loss_op); }

}  // namespace fastgan
