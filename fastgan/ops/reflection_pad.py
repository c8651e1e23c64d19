"""reflection_pad2d and its adjoint, the fold: each is the other's derivative."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from ._checks import batched, check_reflection, whole
from ._dispatch import Call, Cpp, Op, Triton, choose, extension_ops, forced
from ._layout import dense, empty, memory_format
from ._library import apply, define, differentiate, run, with_signature

Padding = tuple[int, int, int, int]  # left, right, top, bottom, as in torch.nn.functional.pad


def reference(x: Tensor, padding: Padding) -> Tensor:
    """The definition: (N, C, H, W) -> (N, C, H + top + bottom, W + left + right)."""
    if not x.numel():  # which stock torch refuses to reflect
        return F.pad(x, padding)
    return F.pad(dense(x), padding, mode="reflect")


def _forward(x, left, right, top, bottom, backend):
    return OP[backend].launchers.forward(x, left, right, top, bottom)


def _forward_fake(x, left, right, top, bottom, backend):
    n, c, h, w = x.shape
    return empty(x, (n, c, h + top + bottom, w + left + right))


def _backward(dy, left, right, top, bottom, backend):
    return OP[backend].launchers.backward(dy, left, right, top, bottom)


def _backward_fake(dy, left, right, top, bottom, backend):
    n, c, h, w = dy.shape
    return empty(dy, (n, c, h - top - bottom, w - left - right))


define(
    "reflection_pad2d(Tensor x, int left, int right, int top, int bottom, str backend) -> Tensor",
    _forward,
    _forward_fake,
)
define(
    "reflection_pad2d_backward(Tensor dy, int left, int right, int top, int bottom, str backend) -> Tensor",
    _backward,
    _backward_fake,
)


@with_signature
class Pad(torch.autograd.Function):
    @staticmethod
    def forward(x, padding, backend):
        return torch.ops.fastgan.reflection_pad2d.default(dense(x), *padding, backend)

    @staticmethod
    def setup_context(ctx, inputs, output):
        _, ctx.padding, ctx.backend = inputs
        ctx.format = memory_format(output)

    @staticmethod
    def backward(ctx, dy):
        return run(Fold, dy.contiguous(memory_format=ctx.format), ctx.padding, ctx.backend), None, None


@with_signature
class Fold(torch.autograd.Function):
    @staticmethod
    def forward(dy, padding, backend):
        return torch.ops.fastgan.reflection_pad2d_backward.default(dense(dy), *padding, backend)

    @staticmethod
    def setup_context(ctx, inputs, output):
        _, ctx.padding, ctx.backend = inputs
        ctx.format = memory_format(output)

    @staticmethod
    def backward(ctx, u):
        return run(Pad, u.contiguous(memory_format=ctx.format), ctx.padding, ctx.backend), None, None


differentiate(
    "reflection_pad2d",
    lambda x, left, right, top, bottom, backend: apply(Pad, x, (left, right, top, bottom), backend),
)
differentiate(
    "reflection_pad2d_backward",
    lambda dy, left, right, top, bottom, backend: apply(Fold, dy, (left, right, top, bottom), backend),
)

OP = Op(
    "reflection_pad2d",
    Cpp(
        extension_ops(forward="reflection_pad2d", backward="reflection_pad2d_backward"),
        dtypes=(torch.float32, torch.bfloat16, torch.float16, torch.float64),
    ),
    Triton("reflection_pad"),
)


def pad(x: Tensor, padding: Padding, backend: str) -> Tensor:
    """Pad by the kernels of ``backend``, differentiable to any order."""
    return run(Pad, x, padding, backend)


def fold(dy: Tensor, padding: Padding, backend: str) -> Tensor:
    """The adjoint of :func:`pad`: every padded pixel is added back onto the pixel it mirrors."""
    return run(Fold, dy, padding, backend)


def compute(x: Tensor, padding: Padding) -> Tensor:
    """Pad by the chosen backend; arguments already checked."""
    backend = choose(OP, Call(x.device.type, x.dtype, forced("reflection_pad2d"))).name
    if backend == "reference":
        return reference(x, padding)
    return pad(x, padding, backend)


stock_pad = torch._C._nn.reflection_pad2d  # type: ignore[attr-defined]
_SMALL = 2**12  # elements up to which the call itself was measured to take longer than torch's padding


def goes_straight(x: Tensor, padding: Padding) -> bool:
    """Whether torch pads, without more ado: a small image that it is sure to take, and to keep in its layout."""
    if torch.compiler.is_compiling() or x.dim() != 4 or not x.is_cpu or not 0 < x.numel() <= _SMALL:
        return False
    if x.dtype is not torch.float32 and (not x.is_floating_point() or x.requires_grad and torch.is_grad_enabled()):
        return False  # whose gradient we sum in float32
    _, c, h, w = x.shape
    left, right, top, bottom = padding
    fits = 0 <= left < w and 0 <= right < w and 0 <= top < h and 0 <= bottom < h
    return (
        fits
        and (x.stride() == (c * h * w, h * w, w, 1) or x.stride() == (c * h * w, 1, w * c, c) and not x.is_contiguous())
        and forced("reflection_pad2d") is None
    )


def reflection_pad2d(input: Tensor, padding: int | Sequence[int]) -> Tensor:
    """Reflected padding that keeps the layout of its input.

    Args:
        input: (N, C, H, W) or (C, H, W), any floating dtype.
        padding: one width, or (left, right, top, bottom); each less than the size it reflects.

    Returns:
        (N, C, H + top + bottom, W + left + right), in the dtype and the layout of the input.

    Raises:
        ValueError: a padding that is negative or does not fit.
    """
    left, right, top, bottom = padding = whole("padding", padding, 4)
    if goes_straight(input, padding):
        return stock_pad(input, padding)
    x = batched("reflection_pad2d", input)
    check_reflection("reflection_pad2d", x, left, right, top, bottom)
    y = compute(x, padding)
    return y if input.dim() == 4 else y.squeeze(0)
