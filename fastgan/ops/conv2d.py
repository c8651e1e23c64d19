"""conv2d: torch's convolution, with detours where torch's own way is slow on a CPU.

    y = conv2d(x, weight, bias, stride, padding, dilation)

Backends: ``cpp`` computes the weight gradient, which is that of a transposed convolution with image and gradient
exchanged, by the kernel of ``conv_transpose2d``; output and input gradient are torch's. ``columns`` serves wide kernels
with few outputs: torch convolves with each column of the kernel, to O kW channels, whose results are shifted and added:

    y[o, i, j] = sum over k of z[k O + o, i, j + k],    z = conv2d(x, columns of the weight)

Without padding it is a reflected convolution that reflects nothing: a GPU's table of those decides for it, too.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from . import _backend, _table, conv_transpose2d, reflection_pad_conv2d
from ._autocast import autocast_dtype
from ._checks import check_devices, whole
from ._layout import accumulate_dtype, dense, is_channels_last, like
from ._library import run, with_signature

OP = "conv2d"
Pair = tuple[int, int]


def reference(
    x: Tensor, weight: Tensor, bias: Tensor | None, stride: Pair, padding: Pair, dilation: Pair, groups: int
) -> Tensor:
    """The definition, in stock torch: (N, C, H, W), (O, C / groups, kH, kW), (O,) -> (N, O, H', W')."""
    return F.conv2d(x, weight, bias, stride, padding, dilation, groups)


@with_signature
class Conv2d(torch.autograd.Function):
    """y; x and weight dense."""

    @staticmethod
    def forward(x, weight, bias, stride, padding, dilation):
        return F.conv2d(x, weight, bias, stride, padding, dilation)

    @staticmethod
    def setup_context(ctx, inputs, output):
        x, weight, bias, ctx.stride, ctx.padding, ctx.dilation = inputs
        ctx.has_bias = bias is not None
        ctx.save_for_backward(x, weight)

    @staticmethod
    def backward(ctx, dy):
        x, weight = ctx.saved_tensors
        dy = like(dy, x)
        dx = dweight = dbias = None
        if ctx.needs_input_grad[0] or (ctx.has_bias and ctx.needs_input_grad[2]):
            wanted = (ctx.needs_input_grad[0], False, ctx.has_bias and ctx.needs_input_grad[2])
            dx, _, dbias = torch.ops.aten.convolution_backward(
                dy, x, weight, [dy.shape[1]], ctx.stride, ctx.padding, ctx.dilation, False, (0, 0), 1, wanted
            )
        if ctx.needs_input_grad[1]:
            dweight = _weight_gradient(dy, x, weight, ctx.stride, ctx.padding, ctx.dilation)
        return dx, dweight, dbias, None, None, None


def _weight_gradient(dy: Tensor, x: Tensor, weight: Tensor, stride: Pair, padding: Pair, dilation: Pair) -> Tensor:
    kernel = weight.shape[2], weight.shape[3]
    # The rows and columns of x that no output sees from within the stride.
    rest = tuple(
        x.shape[2 + i] + 2 * padding[i] - dilation[i] * (kernel[i] - 1) - 1 - (dy.shape[2 + i] - 1) * stride[i]
        for i in (0, 1)
    )
    geometry = conv_transpose2d.Geometry(stride, padding, rest, 1, dilation)
    backends = conv_transpose2d.Backends("cpp", "cpp", "cpp")
    return run(conv_transpose2d.WeightGradient, x, dy, kernel, is_channels_last(weight), geometry, backends)


@with_signature
class ShiftAdd(torch.autograd.Function):
    """y of z, (N, taps O, H, W + taps - 1) -> (N, O, H, W); sums in float32 at least."""

    @staticmethod
    def forward(z, taps):
        planes = z.contiguous()  # whose rows are added several times as fast
        n, channels, h, w = z.shape
        outputs, w = channels // taps, w - taps + 1
        y = torch.zeros((n, outputs, h, w), dtype=accumulate_dtype(z.dtype), device=z.device)
        for k in range(taps):
            y += planes[:, k * outputs : (k + 1) * outputs, :, k : k + w]
        return like(y.to(z.dtype), z)

    @staticmethod
    def setup_context(ctx, inputs, output):
        z, ctx.taps = inputs
        ctx.channels_last = is_channels_last(z)

    @staticmethod
    def backward(ctx, dy):
        return run(ShiftSpread, dy, ctx.taps, ctx.channels_last), None


@with_signature
class ShiftSpread(torch.autograd.Function):
    """The adjoint of ShiftAdd."""

    @staticmethod
    def forward(dy, taps, channels_last):
        n, outputs, h, w = dy.shape
        format = torch.channels_last if channels_last else torch.contiguous_format
        shape = (n, taps * outputs, h, w + taps - 1)
        dz = torch.empty(shape, dtype=dy.dtype, device=dy.device, memory_format=format).zero_()
        for k in range(taps):
            dz[:, k * outputs : (k + 1) * outputs, :, k : k + w] = dy
        return dz

    @staticmethod
    def setup_context(ctx, inputs, output):
        _dy, ctx.taps, _channels_last = inputs

    @staticmethod
    def backward(ctx, dz):
        return run(ShiftAdd, dense(dz), ctx.taps), None, None


def _by_columns(x: Tensor, weight: Tensor, bias: Tensor | None, padding: Pair) -> Tensor:
    o, c, h, w = weight.shape
    columns = weight.permute(3, 0, 1, 2).reshape(w * o, c, h, 1)
    if bias is not None:  # with the first column, which meets every output once
        bias = torch.cat([bias, bias.new_zeros((w - 1) * o)])
    return run(ShiftAdd, dense(F.conv2d(x, columns, bias, 1, padding)), w)


def _columns_serve(device: str, dtype: torch.dtype, asked: bool) -> str:
    if device != "cpu":
        return "torch's convolution was measured slow on CPUs only"
    return "" if asked else "serves kernels of 5 columns or more, stride 1, from 32 channels on to at most 4"


def _columns_pay(x: Tensor, weight: Tensor, stride: Pair, dilation: Pair) -> bool:
    """Whether the detour by columns was measured faster, forward and backward."""
    if x.device.type != "cpu" or x.dtype not in (torch.float32, torch.bfloat16):
        return False
    return weight.shape[3] >= 5 and weight.shape[0] <= 4 and weight.shape[1] >= 32 and (*stride, *dilation) == (1,) * 4


_backend.register(
    OP, columns=_columns_serve, cpp=_backend.cpp_serves(torch.float32, torch.bfloat16, torch.float64)
)
_backend.remark(
    OP,
    "cpp",
    "computes the weight gradient alone; stock torch computes it where it was measured to be the faster one (two-core "
    "AVX-512 processor, torch 2.13): in float64, in NCHW, for stride 1, for images of less than 32 channels, and in "
    "bfloat16 for kernels of even width",
)


def _pays(x: Tensor, weight: Tensor, stride: Pair) -> bool:
    """Whether our weight gradient was measured faster than torch's: what the remark above says."""
    if x.dtype == torch.float64 or x.dtype == torch.bfloat16 and weight.shape[3] % 2 == 0:
        return False
    return is_channels_last(x) and max(stride) > 1 and weight.shape[1] >= 32


def _unserved(x: Tensor, weight: Tensor, bias: Tensor | None, groups: int) -> str:
    """Why the kernel does not take this call (stock torch says what is wrong, if anything), or the empty string."""
    if groups != 1:
        return f"groups is {groups}, not 1"
    if x.dim() != 4 or weight.dim() != 4:
        return f"the input has {x.dim()} dimensions and the weight {weight.dim()}, not 4"
    if x.numel() == 0:
        return "the input is empty"
    for name, t in (("weight", weight), ("bias", bias)):
        if t is not None and (t.dtype != x.dtype or t.device != x.device):
            return f"{name} is {t.dtype} on {t.device} beside an input of {x.dtype} on {x.device}"
    return ""


def compute(
    x: Tensor, weight: Tensor, bias: Tensor | None, stride: Pair, padding: Pair, dilation: Pair, groups: int
) -> Tensor:
    """The op by the chosen backend."""
    dtype = autocast_dtype(x)
    if dtype is not None:
        x, weight, bias = x.to(dtype), weight.to(dtype), bias.to(dtype) if bias is not None else None
    reason = _unserved(x, weight, bias, groups)
    if x.device.type in _table.KINDS and not reason and tuple(padding) == (0, 0) and not _backend.forced(OP):
        key = reflection_pad_conv2d.shape_key(x.shape, weight.shape, stride, padding, dilation)
        if _table.backend(reflection_pad_conv2d.OP, x, key) == "triton":
            return reflection_pad_conv2d.compute(x, weight, bias, stride, padding, dilation, groups)[0]
    measured = "columns" if not reason and _columns_pay(x, weight, stride, dilation) else None
    backend = _backend.select(OP, x.device.type, x.dtype, measured)
    if not reason and backend == "columns" and (*stride, *dilation) != (1,) * 4:
        reason = f"stride is {stride} and dilation {dilation}, not 1"
    if reason:
        _backend.unserved(OP, reason)
    elif backend == "columns":
        return _by_columns(dense(x), weight, bias, padding)
    elif backend == "cpp" and weight.requires_grad and (_backend.forced(OP) or _pays(x, weight, stride)):
        return run(Conv2d, dense(x), dense(weight), bias, stride, padding, dilation)
    return reference(x, weight, bias, stride, padding, dilation, groups)


def conv2d(
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: int | tuple[int, int] = 1,
    padding: int | tuple[int, int] = 0,
    dilation: int | tuple[int, int] = 1,
    groups: int = 1,
) -> Tensor:
    """``torch.nn.functional.conv2d``, zero padding included; its weight gradient by our kernel where that is faster.

    Args:
        input: (N, C, H, W) or (C, H, W), any floating dtype.
        weight: (O, C / groups, kH, kW).
        bias: (O,).

    Returns:
        (N, O, H', W') with H' = (H + 2 padding - dilation (kH - 1) - 1) // stride + 1.

    Raises:
        ValueError: a weight or a bias on another device; RuntimeError from torch for arguments that do not fit.
    """
    stride, dilation = whole("stride", stride, 2), whole("dilation", dilation, 2)
    padding = whole("padding", padding, 2)
    check_devices(input, weight=weight, bias=bias)
    return compute(input, weight, bias, stride, padding, dilation, groups)
