"""l1_loss, mse_loss and bce_with_logits: value and gradient in one pass over the input.

    l1   |x - t|                              (derivative sign(x - t), 0 at ties)
    mse  (x - t)^2
    bce  max(x, 0) - x t + log1p(exp(-|x|))   (binary cross-entropy of sigmoid(x), stable for any x)

The target is a tensor, or a number that then fills no tensor.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from . import _backend
from ._autocast import autocast_dtype
from ._layout import accumulate_dtype
from ._library import apply, define, differentiate, recording, run, with_signature

OP_OF_KIND = {"l1": "l1_loss", "mse": "mse_loss", "bce": "bce_with_logits"}
REDUCTIONS = ("mean", "sum", "none")


def reference(x: Tensor, target: Tensor | float, kind: str, reduction: str = "mean") -> Tensor:
    """The definition, in stock torch ops."""
    if not isinstance(target, Tensor):
        target = torch.full_like(x, target)
    loss = {"l1": F.l1_loss, "mse": F.mse_loss, "bce": F.binary_cross_entropy_with_logits}[kind]
    return loss(x, target, reduction=reduction)


def _launcher(backend: str):
    if backend == "cpp":
        return torch.ops.fastgan_csrc.pointwise_loss
    from fastgan.kernels import losses as kernels

    return kernels.forward


def _forward(x, target, label, kind, reduction, want_grad, backend):
    return _launcher(backend)(x, target, label, kind, reduction, want_grad)


def _forward_fake(x, target, label, kind, reduction, want_grad, backend):
    value = torch.empty_like(x) if reduction == "none" else x.new_empty((), dtype=accumulate_dtype(x.dtype))
    return value, torch.empty_like(x) if want_grad else x.new_empty((0,))


define(
    "pointwise_loss(Tensor x, Tensor? target, float label, str kind, str reduction, bool want_grad, str backend) "
    "-> (Tensor, Tensor)",
    _forward,
    _forward_fake,
)


def _backward(dvalue, x, target, slope, label, kind, scale):
    return slope * (dvalue * scale)


# x and target are there for the derivative alone.
define(
    "pointwise_loss_backward(Tensor dvalue, Tensor x, Tensor? target, Tensor slope, float label, str kind, float scale) "
    "-> Tensor",
    _backward,
    _backward,
)


@with_signature
class PointwiseLoss(torch.autograd.Function):
    """(value, slope): the loss, and its elementwise derivative before reduction where a gradient is wanted.

    The slope is kept unscaled by 1 / numel, which would underflow in float16.
    """

    @staticmethod
    def forward(x, target, label, kind, reduction, want_grad, backend):
        x = _flat(x)
        if target is not None:
            target = _flat_like(target, x)
        return torch.ops.fastgan.pointwise_loss.default(x, target, label, kind, reduction, want_grad, backend)

    @staticmethod
    def setup_context(ctx, inputs, output):
        x, target, ctx.label, ctx.kind, ctx.reduction, _want_grad, _backend = inputs
        _, slope = output
        ctx.mark_non_differentiable(slope)
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(x, target, slope)

    @staticmethod
    def backward(ctx, dvalue, _dslope):
        if dvalue is None:
            return (None,) * 7
        x, target, slope = ctx.saved_tensors
        scale = 1.0 / x.numel() if ctx.reduction == "mean" and x.numel() else 1.0
        dx = run(LossGradient, dvalue, x, target, slope, ctx.label, ctx.kind, scale)
        dtarget = None
        if ctx.needs_input_grad[1]:
            dtarget = -x * (dvalue * scale) if ctx.kind == "bce" else -dx
        return (dx if ctx.needs_input_grad[0] else None), dtarget, *[None] * 5


@with_signature
class LossGradient(torch.autograd.Function):
    """dx = dvalue * scale * slope(x, t), itself differentiable to any order."""

    @staticmethod
    def forward(dvalue, x, target, slope, label, kind, scale):
        if recording():  # a graph, whose derivative may be asked for
            return torch.ops.fastgan.pointwise_loss_backward.default(dvalue, x, target, slope, label, kind, scale)
        return _backward(dvalue, x, target, slope, label, kind, scale)

    @staticmethod
    def setup_context(ctx, inputs, output):
        dvalue, x, target, _slope, ctx.label, ctx.kind, ctx.scale = inputs
        ctx.save_for_backward(dvalue, x, target)

    @staticmethod
    def backward(ctx, u):
        dvalue, x, target = ctx.saved_tensors
        t = target if target is not None else ctx.label
        du = u * ctx.scale
        if ctx.kind == "l1":
            slope, curvature, mixed = torch.sign(x - t), None, None
        elif ctx.kind == "mse":
            slope, curvature, mixed = 2 * (x - t), 2.0, -2.0
        else:
            s = torch.sigmoid(x)
            slope, curvature, mixed = s - t, s * (1 - s), -1.0
        grad_dvalue = du * slope
        if dvalue.shape != x.shape:
            grad_dvalue = grad_dvalue.sum(dtype=dvalue.dtype)
        grad_x = du * dvalue * curvature if curvature is not None else None
        grad_target = du * dvalue * mixed if target is not None and mixed is not None else None
        return grad_dvalue, grad_x, grad_target, *[None] * 4


def _derivative(x, target, label, kind, reduction, want_grad, backend):
    value, slope = apply(PointwiseLoss, x, target, label, kind, reduction, True, backend)
    return value, slope if want_grad else x.new_empty((0,))  # it was not wanted when the program was made


differentiate("pointwise_loss", _derivative)
differentiate("pointwise_loss_backward", lambda *args: apply(LossGradient, *args))


def _flat(x: Tensor) -> Tensor:
    """``x`` itself where its memory is one dense block in a layout the kernels know, else a contiguous copy."""
    if x.is_contiguous() or (x.dim() == 4 and x.is_contiguous(memory_format=torch.channels_last)):
        return x
    return x.contiguous()


def _flat_like(target: Tensor, x: Tensor) -> Tensor:
    if x.is_contiguous():
        return target.contiguous()
    return target.contiguous(memory_format=torch.channels_last)


for _op in OP_OF_KIND.values():
    _backend.register(
        _op,
        cpp=_backend.cpp_serves(torch.float32, torch.bfloat16, torch.float64),
        triton=_backend.triton_serves(torch.float32, torch.bfloat16, torch.float16, torch.float64),
    )


def pointwise_loss(x: Tensor, target: Tensor | float, kind: str, reduction: str) -> Tensor:
    """The loss by the chosen backend, in the promoted dtype (float32 under autocast); arguments already checked."""
    op = OP_OF_KIND[kind]
    dtype = torch.promote_types(x.dtype, target.dtype) if isinstance(target, Tensor) else x.dtype
    if autocast_dtype(x) is not None and dtype != torch.float64:
        dtype = torch.float32  # the stock losses leave the lower precision, too
    x = x.to(dtype)
    if isinstance(target, Tensor):
        target = target.to(dtype)
    if isinstance(target, Tensor) and target.shape != x.shape:
        _backend.unserved(op, f"the target's shape {tuple(target.shape)} is not the input's {tuple(x.shape)}")
        backend = "reference"
    else:
        backend = _backend.select(op, x.device.type, dtype)
    if backend == "reference":
        return reference(x, target, kind, reduction)
    target, label = (target, 0.0) if isinstance(target, Tensor) else (None, float(target))
    target = x.view_as(x) if target is x else target  # torch.compile wants distinct tensors
    want_grad = torch.is_grad_enabled() and (x.requires_grad or (target is not None and target.requires_grad))
    value, _slope = run(PointwiseLoss, x, target, label, kind, reduction, want_grad, backend)
    return value.to(dtype)
