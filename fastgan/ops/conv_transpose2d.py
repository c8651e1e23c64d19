"""conv_transpose2d, with bias and activation in one pass: y = act(conv_transpose(x, w) + b).

    y[o, i s - p + k d] = sum over c, k of  w[c, o, k] x[c, i]

for stride s, padding p, dilation d (Dumoulin and Visin, 2016, chapter 4, where it is a convolution of x with s - 1
zeros between its pixels). No kernel inserts zeros: output pixels of one residue modulo s, a phase, see a fixed subset
of the taps, and each phase is an ordinary convolution of x.

With T(x, w) the op, D(dy, w) its input gradient (a convolution with stride s) and W(dy, x) its weight gradient,
<T(x, w), dy> = <D(dy, w), x> = <W(dy, x), w> is linear in each of the three: the derivatives of T, D and W are T, D and
W again, to any order.
"""

from __future__ import annotations

from collections.abc import Sequence
from types import SimpleNamespace
from typing import NamedTuple

import torch
from torch import Tensor

from . import _convolution, _dispatch, _recompute
from ._autocast import autocast_dtype, without_autocast
from ._checks import batched, check_activation, check_devices, whole
from ._dispatch import Backend, Backends, Call, Cpp, Op, Reference, choose, forced
from ._extension import build_info
from ._layout import dense, empty, holds, is_channels_last, like
from ._library import apply, define, differentiate, run, with_signature
from ._norm import activate

Pair = tuple[int, int]


class Geometry(NamedTuple):
    """Everything about a transposed convolution but its tensors; pairs are (height, width)."""

    stride: Pair
    padding: Pair
    output_padding: Pair
    groups: int
    dilation: Pair

    def output_size(self, size: Pair, kernel: Pair) -> Pair:
        """(H-1) stride - 2 padding + dilation (k-1) + output_padding + 1, for both axes."""
        h, w = (
            (size[i] - 1) * self.stride[i]
            - 2 * self.padding[i]
            + self.dilation[i] * (kernel[i] - 1)
            + self.output_padding[i]
            + 1
            for i in (0, 1)
        )
        return h, w

    def input_size(self, size: Pair, kernel: Pair) -> Pair:
        """The size whose output has ``size``."""
        h, w = (
            (size[i] + 2 * self.padding[i] - self.dilation[i] * (kernel[i] - 1) - self.output_padding[i] - 1)
            // self.stride[i]
            + 1
            for i in (0, 1)
        )
        return h, w


def reference(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    geometry: Geometry,
    activation: str = "none",
    negative_slope: float = 0.2,
) -> Tensor:
    """The definition, in stock torch: (N, C, H, W), (C, O / groups, kH, kW), (O,) -> (N, O, H', W')."""
    g = geometry
    y = _convolution.conv_transpose2d(x, weight, bias, g.stride, g.padding, g.output_padding, g.groups, g.dilation)
    return activate(y, activation, negative_slope)


def _geometry(stride, padding, output_padding, groups, dilation) -> Geometry:
    return Geometry(tuple(stride), tuple(padding), tuple(output_padding), groups, tuple(dilation))


# What stock torch launches.


def _stock_forward(
    x, weight, bias, stride, padding, output_padding, groups, dilation, activation="none", negative_slope=0.0
):
    geometry = _geometry(stride, padding, output_padding, groups, dilation)
    with without_autocast(x):
        return like(reference(x, weight, bias, geometry, activation, negative_slope), x)


def _stock_input_gradient(dy, weight, channels_last, stride, padding, output_padding, groups, dilation):
    geometry = (stride, padding, output_padding, groups, dilation)
    pattern = _input_gradient_fake(dy, weight, channels_last, *geometry, "reference")
    how = (stride, padding, dilation, True, output_padding, groups)
    return _convolution.gradients(dy, pattern, weight, *how, (True, False, False))[0]


def _stock_weight_gradient(dy, x, kernel, channels_last, stride, padding, output_padding, groups, dilation):
    geometry = (stride, padding, output_padding, groups, dilation)
    pattern = _weight_gradient_fake(dy, x, kernel, channels_last, *geometry, "reference")
    how = (stride, padding, dilation, True, output_padding, groups)
    return _convolution.gradients(dy, x, pattern, *how, (False, True, False))[1]


# What the extension launches: one op for the CPU and CUDA, the tensors' device chooses.


def _compiled_input_gradient(dy, weight, channels_last, *geometry):
    dx = torch.ops.fastgan_csrc.conv_transpose2d_input_gradient(dy, weight, *geometry)
    return dx.contiguous(memory_format=_format(channels_last))  # a copy only where dy has one channel


def _compiled() -> SimpleNamespace:
    return SimpleNamespace(
        forward=torch.ops.fastgan_csrc.conv_transpose2d,
        input_gradient=_compiled_input_gradient,
        weight_gradient=torch.ops.fastgan_csrc.conv_transpose2d_weight_gradient,
    )


def _forward(x, weight, bias, stride, padding, output_padding, groups, dilation, activation, negative_slope, backend):
    geometry = (stride, padding, output_padding, groups, dilation)
    return OP[backend].launchers.forward(x, weight, bias, *geometry, activation, negative_slope)


def _forward_fake(
    x, weight, bias, stride, padding, output_padding, groups, dilation, activation, negative_slope, backend
):
    geometry = _geometry(stride, padding, output_padding, groups, dilation)
    size = geometry.output_size(tuple(x.shape[2:]), tuple(weight.shape[2:]))
    return empty(x, (x.shape[0], groups * weight.shape[1], *size))


def _format(channels_last: bool) -> torch.memory_format:
    return torch.channels_last if channels_last else torch.contiguous_format


def _input_gradient(dy, weight, channels_last, stride, padding, output_padding, groups, dilation, backend):
    geometry = (stride, padding, output_padding, groups, dilation)
    return OP[backend].launchers.input_gradient(dy, weight, channels_last, *geometry)


def _input_gradient_fake(dy, weight, channels_last, stride, padding, output_padding, groups, dilation, backend):
    geometry = _geometry(stride, padding, output_padding, groups, dilation)
    size = geometry.input_size(tuple(dy.shape[2:]), tuple(weight.shape[2:]))
    shape = (dy.shape[0], weight.shape[0], *size)
    return torch.empty(shape, dtype=dy.dtype, device=dy.device, memory_format=_format(channels_last))


def _weight_gradient(dy, x, kernel, channels_last, stride, padding, output_padding, groups, dilation, backend):
    geometry = (stride, padding, output_padding, groups, dilation)
    x = like(x, dy)  # here, as a compiled backward pass may meet other layouts than were traced
    return OP[backend].launchers.weight_gradient(dy, x, kernel, channels_last, *geometry)


def _weight_gradient_fake(dy, x, kernel, channels_last, stride, padding, output_padding, groups, dilation, backend):
    shape = (x.shape[1], dy.shape[1] // groups, *kernel)
    return torch.empty(shape, dtype=x.dtype, device=x.device, memory_format=_format(channels_last))


_GEOMETRY = "SymInt[2] stride, SymInt[2] padding, SymInt[2] output_padding, SymInt groups, SymInt[2] dilation"

define(
    f"conv_transpose2d(Tensor x, Tensor weight, Tensor? bias, {_GEOMETRY}, str activation, float negative_slope, "
    "str backend) -> Tensor",
    _forward,
    _forward_fake,
)
define(
    f"conv_transpose2d_input_gradient(Tensor dy, Tensor weight, bool channels_last, {_GEOMETRY}, str backend) "
    "-> Tensor",
    _input_gradient,
    _input_gradient_fake,
)
define(
    f"conv_transpose2d_weight_gradient(Tensor dy, Tensor x, SymInt[2] kernel, bool channels_last, {_GEOMETRY}, "
    "str backend) -> Tensor",
    _weight_gradient,
    _weight_gradient_fake,
)


@with_signature
class ConvTranspose2d(torch.autograd.Function):
    """T, with bias and activation; x dense."""

    @staticmethod
    def forward(x, weight, bias, geometry, activation, negative_slope, backends):
        if backends.forward == "reference" and not torch.compiler.is_compiling():  # spares the detour through the op
            return _stock_forward(x, weight, bias, *geometry, activation, negative_slope)
        return torch.ops.fastgan.conv_transpose2d.default(
            x, weight, bias, *geometry, activation, negative_slope, backends.forward
        )

    @staticmethod
    def setup_context(ctx, inputs, output):
        x, weight, bias, ctx.geometry, ctx.activation, ctx.negative_slope, ctx.backends = inputs
        ctx.save_for_backward(x, weight, output if ctx.activation != "none" else None)
        ctx.has_bias = bias is not None

    @staticmethod
    def backward(ctx, dy):
        x, weight, y = ctx.saved_tensors
        # The slope of an activation with a slope of at least 0 follows from its result; it is piecewise constant.
        if ctx.activation == "relu":
            dy = torch.ops.aten.threshold_backward(dy, y.detach(), 0)
        elif ctx.activation == "leaky_relu":
            dy = torch.ops.aten.leaky_relu_backward(dy, y.detach(), ctx.negative_slope, True)
        wanted = (ctx.needs_input_grad[0], ctx.needs_input_grad[1], ctx.has_bias and ctx.needs_input_grad[2])
        if ctx.backends[1:] == ("reference", "reference") and not torch.is_grad_enabled():
            stride, padding, output_padding, groups, dilation = ctx.geometry
            how = (stride, padding, dilation, True, output_padding, groups)
            return *_convolution.gradients(dy, x, weight, *how, wanted), *[None] * 4
        dx, dweight = _gradients(ctx, dy, x, weight)
        return dx, dweight, dy.sum((0, 2, 3)) if wanted[2] else None, *[None] * 4


@with_signature
class InputGradient(torch.autograd.Function):
    """D; dy dense in the layout that the result shall have."""

    @staticmethod
    def forward(dy, weight, channels_last, geometry, backends):
        return torch.ops.fastgan.conv_transpose2d_input_gradient.default(
            dy, weight, channels_last, *geometry, backends.input_gradient
        )

    @staticmethod
    def setup_context(ctx, inputs, output):
        dy, weight, _channels_last, ctx.geometry, ctx.backends = inputs
        ctx.save_for_backward(dy, weight)

    @staticmethod
    def backward(ctx, u):
        dy, weight = ctx.saved_tensors
        u = like(u, dy)
        ddy = dweight = None
        if ctx.needs_input_grad[0]:
            ddy = run(ConvTranspose2d, u, weight, None, ctx.geometry, "none", 0.0, ctx.backends)
        if ctx.needs_input_grad[1]:
            dweight = run(WeightGradient, dy, u, _kernel(weight), is_channels_last(weight), ctx.geometry, ctx.backends)
        return ddy, dweight, None, None, None


@with_signature
class WeightGradient(torch.autograd.Function):
    """W; dy and x dense in the same layout."""

    @staticmethod
    def forward(dy, x, kernel, channels_last, geometry, backends):
        return torch.ops.fastgan.conv_transpose2d_weight_gradient.default(
            dy, x, kernel, channels_last, *geometry, backends.weight_gradient
        )

    @staticmethod
    def setup_context(ctx, inputs, output):
        dy, x, _kernel, _channels_last, ctx.geometry, ctx.backends = inputs
        ctx.save_for_backward(dy, x)

    @staticmethod
    def backward(ctx, v):
        dy, x = ctx.saved_tensors
        ddy = dx = None
        if ctx.needs_input_grad[0]:
            ddy = run(ConvTranspose2d, x, v, None, ctx.geometry, "none", 0.0, ctx.backends)
        if ctx.needs_input_grad[1]:
            dx = run(InputGradient, dy, v, is_channels_last(x), ctx.geometry, ctx.backends)
        return ddy, dx, None, None, None, None


# By the op's own backend in all passes.
differentiate(
    "conv_transpose2d",
    lambda x, weight, bias, *rest: apply(
        ConvTranspose2d, x, weight, bias, _geometry(*rest[:5]), *rest[5:7], Backends(*3 * rest[7:])
    ),
)
differentiate(
    "conv_transpose2d_input_gradient",
    lambda dy, weight, channels_last, *rest: apply(
        InputGradient, dy, weight, channels_last, _geometry(*rest[:5]), Backends(*3 * rest[5:])
    ),
)
differentiate(
    "conv_transpose2d_weight_gradient",
    lambda dy, x, kernel, channels_last, *rest: apply(
        WeightGradient, dy, x, tuple(kernel), channels_last, _geometry(*rest[:5]), Backends(*3 * rest[5:])
    ),
)


def _kernel(weight: Tensor) -> Pair:
    return weight.shape[2], weight.shape[3]


def _gradients(ctx, dy: Tensor, x: Tensor, weight: Tensor) -> tuple[Tensor | None, Tensor | None]:
    dy = like(dy, x)
    dx = dweight = None
    if ctx.needs_input_grad[0]:
        dx = run(InputGradient, dy, weight, is_channels_last(x), ctx.geometry, ctx.backends)
    if ctx.needs_input_grad[1]:
        dweight = run(WeightGradient, dy, x, _kernel(weight), is_channels_last(weight), ctx.geometry, ctx.backends)
    return dx, dweight


class _Cpp(Cpp):
    def passes(self, call: Call) -> Backends:
        """By itself, or stock torch where that was measured to be the faster one: what the remark below says; never
        for float64."""
        x, weight = call.x, call.weight
        if call.asked or x is None or weight is None or x.dtype == torch.float64:
            return super().passes(call)
        if holds(weight.numel() > x.numel()):
            return _STOCK
        if weight.shape[1] >= 64 and holds(x.shape[2] * x.shape[3] >= 1024):
            return _STOCK._replace(weight_gradient="cpp") if is_channels_last(x) else super().passes(call)
        stock = x.dtype == torch.float32 or weight.shape[1] <= 3 or holds(x.numel() > 2**18)
        return _STOCK._replace(forward="cpp") if stock else super().passes(call)


class _Cuda(Backend):
    name = "cuda"

    def refuses(self, call: Call) -> str:
        if call.device != "cuda":
            return "the CUDA kernels take CUDA tensors"
        if not _dispatch.EXTENSION_LOADED:
            return _dispatch.EXTENSION_STATUS
        if not build_info().get("cuda"):
            return "the extension was built without CUDA: reinstall fastgan where nvcc and a torch for CUDA are"
        if call.asked != "cuda":
            return "not yet measured against cuDNN: it serves only when asked for"
        return ""


_STOCK = Backends("reference", "reference", "reference")

OP = Op(
    "conv_transpose2d",
    _Cpp(
        _compiled,
        "stock torch computes what it was measured to compute faster (two-core AVX-512 processor, torch 2.13): every "
        "pass of weights with more elements than the input; the forward pass and the input gradient of channels_last "
        "planes of 1024 pixels or more with 64 or more output channels; both gradients of smaller planes or fewer "
        "output channels in float32, when the input has more than 2^18 elements, or with up to 3 output channels",
    ),
    _Cuda(_compiled),
    reference=Reference(
        lambda: SimpleNamespace(
            forward=_stock_forward, input_gradient=_stock_input_gradient, weight_gradient=_stock_weight_gradient
        )
    ),
)


def unsupported_reason(x: Tensor, weight: Tensor, bias: Tensor | None) -> str:
    """Why no kernel takes this call (stock torch then says what is wrong), or the empty string."""
    for name, t in (("weight", weight), ("bias", bias)):
        if t is not None and t.dtype != x.dtype:
            return f"{name} is {t.dtype} on {t.device} beside an input of {x.dtype} on {x.device}"
    return ""


def compute(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    geometry: Geometry,
    activation: str = "none",
    negative_slope: float = 0.2,
) -> Tensor:
    """The op by the chosen backend; arguments already checked."""
    dtype = autocast_dtype(x)
    if dtype is not None:
        x, weight, bias = x.to(dtype), weight.to(dtype), bias.to(dtype) if bias is not None else None
    asked = forced("conv_transpose2d")
    backend = choose(OP, Call(x.device.type, x.dtype, asked), unsupported_reason(x, weight, bias))
    if backend.name == "reference":
        return reference(x, weight, bias, geometry, activation, negative_slope)
    x, weight = dense(x), dense(weight)
    bias = bias.contiguous() if bias is not None else None
    # With a slope below 0 the result does not tell on which side of 0 the argument was: not fused.
    fused = activation if activation != "leaky_relu" or negative_slope >= 0 else "none"
    passes = backend.passes(Call(x.device.type, x.dtype, asked, x, weight))
    y = run(ConvTranspose2d, x, weight, bias, geometry, fused, negative_slope, passes)
    return y if fused == activation else activate(y, activation, negative_slope)


def conv_transpose2d(
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: int | Sequence[int] = 1,
    padding: int | Sequence[int] = 0,
    output_padding: int | Sequence[int] = 0,
    groups: int = 1,
    dilation: int | Sequence[int] = 1,
    *,
    output_size: tuple[int, int] | None = None,
    activation: str = "none",
    negative_slope: float = 0.2,
) -> Tensor:
    """Transposed convolution, the gradient of a convolution as a layer (Dumoulin and Visin, 2016, chapter 4), then an
    activation, in one pass.

    Args:
        input: (N, C, H, W) or (C, H, W), any floating dtype.
        weight: (C, O / groups, kH, kW).
        bias: (O,).
        output_padding: extra rows and columns on the bottom and right side only; smaller than stride or dilation.
        output_size: (H', W') wanted; resolves ``output_padding``, which must then be 0.
        activation: ``"none"``, ``"relu"`` or ``"leaky_relu"``.
        negative_slope: of the leaky ReLU.

    Returns:
        (N, O, H', W') with H' = (H - 1) stride - 2 padding + dilation (kH - 1) + output_padding + 1, in the dtype and
        the layout of the input.

    Raises:
        ValueError: an output_size outside the range that the geometry can give (the message names the range), channels
            that do not fit, an output_padding that is not smaller than stride or dilation, an unknown activation, a
            weight or a bias on another device.
    """
    x = batched("conv_transpose2d", input)
    check_activation(activation)
    stride, dilation = whole("stride", stride, 2), whole("dilation", dilation, 2)
    padding, output_padding = whole("padding", padding, 2), whole("output_padding", output_padding, 2)
    if output_size is None and groups == 1 and (*dilation, *output_padding) == (1, 1, 0, 0):
        if _goes_straight(input, weight, bias, stride, padding):
            y = torch.conv_transpose2d(input, weight, bias, stride, padding)
            return y if activation == "none" else activate(y, activation, negative_slope)
    if weight.dim() != 4 or weight.shape[0] != x.shape[1]:
        raise ValueError(
            f"conv_transpose2d needs a weight of shape ({x.shape[1]}, O / groups, kH, kW) for an input of shape "
            f"{tuple(input.shape)}, got {tuple(weight.shape)}"
        )
    if groups < 1 or weight.shape[0] % groups:
        raise ValueError(f"conv_transpose2d cannot split {weight.shape[0]} input channels into {groups} groups")
    if bias is not None and bias.shape != (weight.shape[1] * groups,):
        raise ValueError(f"bias must have shape ({weight.shape[1] * groups},), got {tuple(bias.shape)}")
    if min(*stride, *dilation) < 1 or min(padding) < 0:
        raise ValueError(
            f"conv_transpose2d needs stride and dilation >= 1 and padding >= 0, got {stride}, {dilation} and {padding}"
        )
    smallest = Geometry(stride, padding, (0, 0), groups, dilation)
    size, kernel = (x.shape[2], x.shape[3]), (weight.shape[2], weight.shape[3])
    if output_size is not None:
        if output_padding != (0, 0):
            raise ValueError(
                f"give either output_size or output_padding, got {tuple(output_size)} and {output_padding}"
            )
        output_padding = _resolve_output_size(tuple(output_size), input.dim(), smallest, size, kernel)
    for axis, extra in zip(("height", "width"), zip(output_padding, stride, dilation)):
        if not 0 <= extra[0] < max(extra[1:]):
            raise ValueError(
                f"output_padding must be at least 0 and smaller than stride or dilation, got {extra[0]} for the {axis} "
                f"with stride {extra[1]} and dilation {extra[2]}"
            )
    check_devices(input, weight=weight, bias=bias)
    geometry = smallest._replace(output_padding=output_padding)
    if size[0] < 1 or size[1] < 1 or min(geometry.output_size(size, kernel)) < 1:
        raise ValueError(
            f"conv_transpose2d of a {size[0]} x {size[1]} input would give {geometry.output_size(size, kernel)}: "
            "both sizes must be at least 1; use less padding"
        )
    y = compute(x, weight, bias, geometry, activation, negative_slope)
    _recompute.keep(y, x, weight)
    return y if input.dim() == 4 else y.squeeze(0)


_SMALL = 2**12  # elements up to which the call itself may take longer than torch's kernel


def _goes_straight(x: Tensor, weight: Tensor, bias: Tensor | None, stride: Pair, padding: Pair) -> bool:
    """Whether torch computes a small image, without more ado; the geometry as it is by default but for these two."""
    if (
        torch.compiler.is_compiling()
        or forced("conv_transpose2d") is not None
        or not (_convolution.plain(x) and _convolution.plain(weight))
        or x.numel() > _SMALL
        or torch.is_autocast_enabled("cpu")
    ):
        return False
    (_, channels, h, w), (rows, outputs, kh, kw) = x.shape, weight.shape
    return (
        rows == channels
        and (bias is None or bias.shape == (outputs,) and bias.device == x.device and bias.is_contiguous())
        and min(stride) > 0
        and min(padding) >= 0
        and (h - 1) * stride[0] - 2 * padding[0] + kh > 0
        and (w - 1) * stride[1] - 2 * padding[1] + kw > 0
    )


def _resolve_output_size(output_size, dim: int, smallest: Geometry, size, kernel) -> tuple[int, int]:
    wanted = output_size[-2:]
    least = smallest.output_size(size, kernel)
    most = tuple(least[i] + smallest.stride[i] - 1 for i in (0, 1))
    if len(output_size) not in (2, dim) or any(not least[i] <= wanted[i] <= most[i] for i in (0, 1)):
        raise ValueError(
            f"output_size {output_size} cannot be had from a {size[0]} x {size[1]} input with this geometry: "
            f"heights {least[0]} to {most[0]} and widths {least[1]} to {most[1]} can"
        )
    return wanted[0] - least[0], wanted[1] - least[1]
