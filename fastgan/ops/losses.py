"""l1_loss, mse_loss and bce_with_logits: value and gradient in one pass over the input.

    l1   |x - t|                              (derivative sign(x - t), 0 at ties)
    mse  (x - t)^2
    bce  max(x, 0) - x t + log1p(exp(-|x|))   (binary cross-entropy of sigmoid(x), stable for any x)

The target is a tensor, or a number that then fills no tensor.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from . import _stock
from ._autocast import autocast_dtype
from ._checks import check_devices
from ._dispatch import Call, Cpp, Op, Triton, choose, extension_ops, forced
from ._layout import accumulate_dtype
from ._library import apply, define, differentiate, recording, run, with_signature

OPS = {
    kind: Op(name, Cpp(extension_ops(forward="pointwise_loss")), Triton("losses"))
    for kind, name in (("l1", "l1_loss"), ("mse", "mse_loss"), ("bce", "bce_with_logits"))
}
REDUCTIONS = ("none", "mean", "sum")  # in the order of torch's numbers for them


_DEFINITIONS: dict[str, Callable[..., Tensor]] = {
    "l1": F.l1_loss,
    "mse": F.mse_loss,
    "bce": F.binary_cross_entropy_with_logits,
}


def reference(x: Tensor, target: Tensor | float, kind: str, reduction: str = "mean") -> Tensor:
    """The definition, in stock torch ops."""
    if not isinstance(target, Tensor):
        whole = not (x.is_floating_point() or x.is_complex())
        # Beside integers a fraction stays one.
        dtype = torch.get_default_dtype() if whole and isinstance(target, float) else x.dtype
        target = torch.full_like(x, target, dtype=dtype)
    target = _as_lies(target, x)
    return _DEFINITIONS[kind](x, target, reduction=reduction)


def _forward(x, target, label, kind, reduction, want_grad, backend):
    return OPS[kind][backend].launchers.forward(x, target, label, kind, reduction, want_grad)


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
    "pointwise_loss_backward(Tensor dvalue, Tensor x, Tensor? target, Tensor slope, float label, str kind, float scale) "  # noqa: E501
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
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(dvalue, x, target)

    @staticmethod
    def backward(ctx, u):
        if u is None:
            return (None,) * 7
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


def _as_lies(t: Tensor, x: Tensor) -> Tensor:
    """``t`` in the layout of ``x`` where it has its shape: torch may give a result in that of either."""
    return _flat_like(t, x) if x.dim() == 4 and t.shape == x.shape and _flat(x) is x else t


def unsupported_reason(x: Tensor, target: Tensor | float) -> str:
    """Why no kernel takes this call, or the empty string."""
    if not x.is_floating_point():
        return f"its kernels take real floating-point tensors, not {x.dtype}"
    if isinstance(target, Tensor):
        if target.is_complex():
            return f"its kernels take real floating-point tensors, not {target.dtype}"
        if target.shape != x.shape:
            return f"the target's shape {tuple(target.shape)} is not the input's {tuple(x.shape)}"
    return ""


def compute(x: Tensor, target: Tensor | float, kind: str, reduction: str) -> Tensor:
    """The loss by the chosen backend, in the promoted dtype (float32 under autocast); arguments already checked."""
    reason = unsupported_reason(x, target)
    dtype = torch.promote_types(x.dtype, target.dtype) if isinstance(target, Tensor) else x.dtype
    if not reason or x.is_floating_point() and dtype.is_floating_point:  # others are torch's as they are
        if autocast_dtype(x) is not None and dtype != torch.float64:
            dtype = torch.float32  # the stock losses leave the lower precision, too
        x = x.to(dtype)
        target = target.to(dtype) if isinstance(target, Tensor) else target
    op = OPS[kind]
    backend = choose(op, Call(x.device.type, dtype, forced(op.name)), reason).name
    if backend == "reference":
        return reference(x, target, kind, reduction)
    other, label = (target, 0.0) if isinstance(target, Tensor) else (None, float(target))
    other = x.view_as(x) if other is x else other  # torch.compile wants distinct tensors
    want_grad = torch.is_grad_enabled() and (x.requires_grad or (other is not None and other.requires_grad))
    value, _slope = run(PointwiseLoss, x, other, label, kind, reduction, want_grad, backend)
    return value.to(dtype)


def l1_loss(input: Tensor, target: Tensor | float, *, reduction: str = "mean") -> Tensor:
    """Absolute difference |input - target|, with derivative 0 at ties.

    Args:
        input: any shape, any floating dtype; integers and complex numbers are torch's own function's.
        target: a tensor of the same shape, or a number, also one of numpy's (no target tensor is made).
        reduction: ``"mean"``, ``"sum"`` or ``"none"``.

    Returns:
        A scalar, or the input's shape for ``"none"``; the promoted dtype of input and target (float32 under autocast).

    Raises:
        ValueError: an unknown reduction, a target that is neither a tensor nor a number, or one on another device. For
            dtypes that torch's own function does not take, its error.
    """
    return _loss("l1_loss", input, target, "l1", reduction)


def mse_loss(input: Tensor, target: Tensor | float, *, reduction: str = "mean") -> Tensor:
    """Squared difference (input - target)^2: the least-squares GAN loss on logits (Mao et al., 2017, eq. 2) when
    ``target`` is a label. Arguments, result and errors as for :func:`l1_loss`."""
    return _loss("mse_loss", input, target, "mse", reduction)


def bce_with_logits(
    input: Tensor,
    target: Tensor | float,
    weight: Tensor | None = None,
    *,
    reduction: str = "mean",
    pos_weight: Tensor | None = None,
) -> Tensor:
    """Binary cross-entropy of sigmoid(input), ``max(x, 0) - x t + log1p(exp(-|x|))``: finite for every finite logit.
    The vanilla GAN loss (Goodfellow et al., 2014) when ``target`` is a label.

    Args:
        weight, pos_weight: as in ``torch.nn.functional.binary_cross_entropy_with_logits``; calls with either run on it.

    Other arguments, result and errors as for :func:`l1_loss`; a target tensor of another shape is a ValueError.
    """
    if weight is not None or pos_weight is not None:
        if not isinstance(target, Tensor):
            target = torch.full_like(input, _number("bce_with_logits", target))
        target = _as_lies(target, input)
        weight, pos_weight = (_as_lies(t, input) if t is not None else None for t in (weight, pos_weight))
        return F.binary_cross_entropy_with_logits(input, target, weight, reduction=reduction, pos_weight=pos_weight)
    return _loss("bce_with_logits", input, target, "bce", reduction)


def _loss(name: str, input: Tensor, target: Tensor | float, kind: str, reduction: str) -> Tensor:
    if reduction not in REDUCTIONS:
        raise ValueError(f"unknown reduction {reduction!r}: choose from mean, sum, none")
    if not isinstance(target, Tensor):
        target = _number(name, target)
    if _stock.plain(name, input) and (y := _by_stock(input, target, kind, reduction)) is not None:
        return y
    if isinstance(target, Tensor) and (target.dim() > 0 or input.dim() == 0):  # else a number, which may lie anywhere
        check_devices(input, target=target)
    if isinstance(target, Tensor) and kind == "bce" and target.shape != input.shape:
        raise ValueError(f"{name} needs a target of the input's shape {tuple(input.shape)}, got {tuple(target.shape)}")
    return compute(input, target, kind, reduction)


_STOCK = {
    "l1": torch._C._nn.l1_loss,
    "mse": torch._C._nn.mse_loss,
    "bce": lambda x, t, reduction: torch.binary_cross_entropy_with_logits(x, t, None, None, reduction),
}


def _by_stock(x: Tensor, target: Tensor | float, kind: str, reduction: str) -> Tensor | None:
    """The loss of a small tensor by torch's own op, or None where compute() gives another answer."""
    if not isinstance(target, Tensor):
        target = torch.full_like(x, target)
    elif not (target.dtype is x.dtype and target.is_cpu and target.shape == x.shape and target.is_contiguous()):
        return None
    if kind == "l1" and (x.requires_grad or target.requires_grad) and torch.is_grad_enabled():
        return None  # torch's slope at NaN is 0, ours NaN
    return _STOCK[kind](x, target, REDUCTIONS.index(reduction))


def _number(name: str, target: object) -> float:
    """A label as a Python number: one of numpy's, or an array of one, is its item."""
    if getattr(target, "shape", None) == () and hasattr(target, "item"):
        target = target.item()
    if not isinstance(target, (int, float)):
        raise ValueError(f"{name} needs a tensor or a number as target, got {type(target).__name__}")
    return target
