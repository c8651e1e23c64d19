"""conv2d: torch's convolution, with detours where torch's own way is slow on a CPU.

    y = conv2d(x, weight, bias, stride, padding, dilation)

Backends: ``cpp`` computes the weight gradient, which is that of a transposed convolution with image and gradient
exchanged, by the kernel of ``conv_transpose2d``; output and input gradient are torch's. ``columns`` serves wide kernels
with few outputs: torch convolves with each column of the kernel, to O kW channels, whose results are shifted and added:

    y[o, i, j] = sum over k of z[k O + o, i, j + k],    z = conv2d(x, columns of the weight)

Without padding it is a reflected convolution that reflects nothing: a GPU's table of those decides for it, too.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from . import _convolution, _recompute, _table, conv_transpose2d, reflection_pad_conv2d
from ._autocast import autocast_dtype, without_autocast
from ._checks import check_devices, whole
from ._dispatch import Backend, Backends, Call, Cpp, Op, choose, forced
from ._flops import counters
from ._layout import accumulate_dtype, dense, holds, is_channels_last, like, vmapped
from ._library import run, with_signature

Pair = tuple[int, int]


def reference(
    x: Tensor, weight: Tensor, bias: Tensor | None, stride: Pair, padding: Pair, dilation: Pair, groups: int
) -> Tensor:
    """The definition, in stock torch: (N, C, H, W), (O, C / groups, kH, kW), (O,) -> (N, O, H', W')."""
    return _convolution.conv2d(x, weight, bias, stride, padding, dilation, groups)


@with_signature
class Conv2d(torch.autograd.Function):
    """y; x and weight dense."""

    @staticmethod
    def forward(x, weight, bias, stride, padding, dilation):
        with without_autocast(x):
            return _convolution.conv2d(x, weight, bias, stride, padding, dilation, 1)

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
        wanted = (ctx.needs_input_grad[0], False, ctx.has_bias and ctx.needs_input_grad[2])
        if torch.is_grad_enabled():
            if wanted[0]:
                dx = _input_gradient(dy, x, weight, ctx.stride, ctx.padding, ctx.dilation)
            if wanted[2]:
                dbias = dy.sum((0, 2, 3))
        elif any(wanted):
            how = (ctx.stride, ctx.padding, ctx.dilation, False, (0, 0), 1)
            dx, _, dbias = _convolution.gradients(dy, x, weight, *how, wanted)
        if ctx.needs_input_grad[1]:
            dweight = _weight_gradient(dy, x, weight, ctx.stride, ctx.padding, ctx.dilation)
        return dx, dweight, dbias, None, None, None


# The gradients of a convolution, as the ops of a transposed one: image and gradient change places.


def _input_gradient(dy: Tensor, x: Tensor, weight: Tensor, stride: Pair, padding: Pair, dilation: Pair) -> Tensor:
    geometry = _transposed(dy, x, weight, stride, padding, dilation)
    return run(conv_transpose2d.ConvTranspose2d, dy, weight, None, geometry, "none", 0.0, _BACKENDS)


def _weight_gradient(dy: Tensor, x: Tensor, weight: Tensor, stride: Pair, padding: Pair, dilation: Pair) -> Tensor:
    geometry = _transposed(dy, x, weight, stride, padding, dilation)
    kernel = weight.shape[2], weight.shape[3]
    return run(conv_transpose2d.WeightGradient, x, dy, kernel, is_channels_last(weight), geometry, _BACKENDS)


_BACKENDS = Backends("reference", "reference", "cpp")


def _transposed(dy, x, weight, stride: Pair, padding: Pair, dilation: Pair) -> conv_transpose2d.Geometry:
    # The rows and columns of x that no output sees from within the stride.
    rest = []
    for i in (0, 1):
        seen = (dy.shape[2 + i] - 1) * stride[i] + dilation[i] * (weight.shape[2 + i] - 1) + 1
        rest.append(x.shape[2 + i] + 2 * padding[i] - seen)
    return conv_transpose2d.Geometry(stride, padding, tuple(rest), 1, dilation)


@with_signature
class ShiftAdd(torch.autograd.Function):
    """y of z, (N, taps O, H, W + taps - 1) -> (N, O, H, W)."""

    @staticmethod
    def forward(z, taps):
        planes = z.contiguous()  # whose rows are added several times as fast
        n, channels, h, w = z.shape
        outputs, w = channels // taps, w - taps + 1
        y = torch.zeros((n, outputs, h, w), dtype=z.dtype, device=z.device)
        for k in range(taps):
            y += planes[:, k * outputs : (k + 1) * outputs, :, k : k + w]
        return like(y, z)

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
    wide = accumulate_dtype(x.dtype)  # in which the sum over the columns is taken, before it is rounded
    with without_autocast(x):
        bias = bias.to(wide) if bias is not None else None
        z = _convolution.conv2d(x.to(wide), columns.to(wide), bias, (1, 1), padding, (1, 1), 1)
    return run(ShiftAdd, dense(z), w).to(x.dtype)


class _Columns(Backend):
    name = "columns"

    def refuses(self, call: Call) -> str:
        if call.device != "cpu":
            return "torch's convolution was measured slow on CPUs only"
        if call.asked and not _dense_taps(call):
            return f"stride is {call.stride} and dilation {call.dilation}, not 1"
        return ""

    def pays(self, call: Call) -> bool:
        """Where it was measured faster, forward and backward. Where work is counted it is not taken: it multiplies the
        pixels that it shifts out, too, which are none of the model's products."""
        if call.weight is None or call.dtype not in (torch.float32, torch.bfloat16):
            return False
        outputs, channels, _, columns = call.weight.shape
        return columns >= 5 and outputs <= 4 and channels >= 32 and _dense_taps(call) and not counters()


def _dense_taps(call: Call) -> bool:
    return (*call.stride, *call.dilation) == (1, 1, 1, 1)


class _Cpp(Cpp):
    def pays(self, call: Call) -> bool:
        """Where our weight gradient was measured faster than torch's: what the remark below says."""
        x, weight = call.x, call.weight
        if x is None or weight is None:
            return True
        if not weight.requires_grad or call.dtype == torch.float64 or max(call.stride) < 2:
            return False
        if call.dtype == torch.bfloat16 and weight.shape[3] % 2 == 0:
            return False
        return weight.shape[1] >= 32 and is_channels_last(x)


OP = Op(
    "conv2d",
    _Columns(remark="serves kernels of 5 columns or more, stride 1, from 32 channels on to at most 4"),
    _Cpp(
        remark="computes the weight gradient alone; stock torch computes it where it was measured to be the faster one "
        "(two-core AVX-512 processor, torch 2.13): in float64, in NCHW, for stride 1, for images of less than 32 "
        "channels, and in bfloat16 for kernels of even width",
    ),
)


def unsupported_reason(
    x: Tensor, weight: Tensor, bias: Tensor | None, stride: Pair, padding: Pair, dilation: Pair, groups: int
) -> str:
    """Why the kernels do not take this call (stock torch says what is wrong, if anything), or the empty string."""
    if groups != 1:
        return f"groups is {groups}, not 1"
    if x.dim() != 4 or weight.dim() != 4:
        return f"the input has {x.dim()} dimensions and the weight {weight.dim()}, not 4"
    if x.numel() == 0 or weight.numel() == 0:
        return "the input or the weight is empty"
    for name, t in (("weight", weight), ("bias", bias)):
        if t is not None and t.dtype != x.dtype:
            return f"{name} is {t.dtype} on {t.device} beside an input of {x.dtype} on {x.device}"
    if weight.shape[1] != x.shape[1] or (bias is not None and bias.shape != weight.shape[:1]):
        return "the channels of input, weight and bias do not fit"
    if vmapped(x) or vmapped(weight):
        return "vmap runs over the input or the weight"
    if min(*stride, *dilation) < 1 or min(padding) < 0:
        return f"stride is {stride}, padding {padding} and dilation {dilation}"
    if any(holds(x.shape[2 + i] + 2 * padding[i] <= dilation[i] * (weight.shape[2 + i] - 1)) for i in (0, 1)):
        return "the kernel is larger than the padded input"
    return ""


def compute(
    x: Tensor, weight: Tensor, bias: Tensor | None, stride: Pair, padding: Pair, dilation: Pair, groups: int
) -> Tensor:
    """The op by the chosen backend."""
    dtype = autocast_dtype(x)
    if dtype is not None:
        x, weight, bias = x.to(dtype), weight.to(dtype), bias.to(dtype) if bias is not None else None
    reason = unsupported_reason(x, weight, bias, stride, padding, dilation, groups)
    asked = forced("conv2d")
    if x.device.type in _table.KINDS and not reason and tuple(padding) == (0, 0) and not asked:
        key = reflection_pad_conv2d.shape_key(x.shape, weight.shape, stride, padding, dilation)
        if _table.backend("reflection_pad_conv2d", x, key) == "triton":
            return reflection_pad_conv2d.compute(x, weight, bias, stride, padding, dilation, groups)[0]
    call = Call(x.device.type, x.dtype, asked, x, weight, stride, padding, dilation)
    backend = choose(OP, call, reason).name
    if backend == "columns":
        return _by_columns(dense(x), weight, bias, padding)
    if backend == "cpp" and weight.requires_grad:
        return run(Conv2d, dense(x), dense(weight), bias, stride, padding, dilation)
    return reference(x, weight, bias, stride, padding, dilation, groups)


def conv2d(
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: int | Sequence[int] = 1,
    padding: int | Sequence[int] | str = 0,
    dilation: int | Sequence[int] = 1,
    groups: int = 1,
) -> Tensor:
    """``torch.nn.functional.conv2d``, zero padding included; its weight gradient by our kernel where that is faster.

    Args:
        input: (N, C, H, W) or (C, H, W), any floating dtype.
        weight: (O, C / groups, kH, kW), of the input's dtype.
        bias: (O,), of the input's dtype.
        padding: zeros on both sides, one number or (height, width); ``"valid"``, none; or ``"same"``, as many as keep
            the size for stride 1.

    Returns:
        (N, O, H', W') with H' = (H + 2 padding - dilation (kH - 1) - 1) // stride + 1, in the dtype and the layout of
        the input.

    Raises:
        ValueError: a weight or a bias on another device, an unknown padding, ``"same"`` with a stride; RuntimeError
            from torch for arguments that do not fit.
    """
    stride, dilation = whole("stride", stride, 2), whole("dilation", dilation, 2)
    if not isinstance(padding, str):
        padding = whole("padding", padding, 2)
    elif input.is_floating_point():
        input, padding = _pad_by_name(input, weight, padding, stride, dilation)
    check_devices(input, weight=weight, bias=bias)
    if isinstance(padding, str) or not input.is_floating_point():  # of which torch takes some
        return F.conv2d(input, weight, bias, stride, padding, dilation, groups)
    if _goes_straight(input, weight, bias, stride, padding, dilation):
        y = F.conv2d(input, weight, bias, stride, padding, dilation, groups)
    elif input.dim() == 3:
        return compute(input.unsqueeze(0), weight, bias, stride, padding, dilation, groups).squeeze(0)
    else:
        y = compute(input, weight, bias, stride, padding, dilation, groups)
    _recompute.keep(y, input, weight)
    return y


def _goes_straight(x: Tensor, weight: Tensor, bias: Tensor | None, stride: Pair, padding: Pair, dilation: Pair) -> bool:
    """Whether torch is sure to be chosen, and to be right, without more ado."""
    if (
        torch.compiler.is_compiling()
        or forced("conv2d") is not None
        or "cpu" in _table.KINDS
        or not (bias is None or bias.is_contiguous())
        or torch.is_autocast_enabled("cpu")
    ):
        return False
    if _convolution.plain(x):
        if not _convolution.plain(weight):
            return False
    elif not (
        _convolution.plain_channels_last(x)
        and (_convolution.plain(weight) or _convolution.plain_channels_last(weight))
        and dilation == (1, 1)
        and weight.shape[2] > padding[0]
        and weight.shape[3] > padding[1]
    ):
        return False
    if weight.shape[1] < 32:  # where nothing else was faster
        return True
    call = Call("cpu", x.dtype, None, x, weight, stride, padding, dilation)
    return choose(OP, call).name == "reference"


def _pad_by_name(x: Tensor, weight: Tensor, padding: str, stride: Pair, dilation: Pair) -> tuple[Tensor, Pair]:
    """What there is of the image and of the padding by number, for "same" or "valid"."""
    if padding == "valid":
        return x, (0, 0)
    if padding != "same":
        raise ValueError(f"padding must be a whole number or 2 of them, 'same' or 'valid', got {padding!r}")
    if stride != (1, 1):
        raise ValueError(f"padding='same' needs a stride of 1, got {stride}: give the padding in numbers")
    if weight.dim() != 4:
        return x, (0, 0)  # which torch refuses
    total = [dilation[i] * (weight.shape[2 + i] - 1) for i in (0, 1)]
    if total[0] % 2 or total[1] % 2:  # one more at the bottom or on the right
        x = F.pad(x, (0, total[1] % 2, 0, total[0] % 2))
    return x, (total[0] // 2, total[1] // 2)
