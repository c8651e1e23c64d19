"""reflection_pad_conv2d: convolution of a reflected image, and its two gradients.

    y = conv2d(reflect_pad(x, padding), weight, bias, stride, dilation)

Backends: ``triton`` reflects in the load of an implicit matrix product and makes no padded copy; ``winograd`` computes
3x3 convolutions on the CPU with a quarter of the multiplications; ``halo`` makes a padded copy with our reflection
padding and calls torch's convolution. Which is faster depends on shape and device: on a GPU a measured table says so,
on the CPU the rule of ``_Winograd``, and otherwise ``halo`` serves.

On the way to memory the output of ``triton`` can leave its moments: the means and the sums of squared deviations of
parts of each channel, which instance_norm merges in place of a pass of its own over the output.

The three products (output, input gradient, weight gradient) are linear in each operand and each other's derivatives, so
that any order of differentiation is made of them.

``winograd`` is F(4x4, 3x3) at the points 0, +-5/8, +-3/2 and infinity (Lavin and Gray, 2015, "Fast algorithms for
convolutional neural networks"), in all directions, computed in float32 whatever the dtype of the images. It rounds more
than a direct sum: for 256 channels behind a ReLU, the tests hold its root mean square error below 50 * 2^-24 = 3e-6 of
the result's standard deviation for y, dx and dweight, where torch's convolution of float32 stays below 12 * 2^-24. In
bfloat16 the rounding of the result outweighs that by far, and the error is torch's; for small images torch's
convolution serves beside its weight gradient there. Under autocast it reads float32 parameters as they are, and returns
their gradient in float32. A pixel that is large beside its neighbours rounds all 4 x 4 outputs of a tile that holds it,
those that do not see it, too: by at most 94 (C + 40) 2^-24 times the pixel and the largest weight, for C input channels
(of dx, by pixels of dy, O). An infinity or NaN spreads over the 4 x 4 outputs of each tile that sees it, as either of
the two, and numbers within a factor of 1000 of float32's largest may overflow.
``fastgan.backend(reflection_pad_conv2d="halo")``, or ``FASTGAN_BACKEND=reflection_pad_conv2d=halo`` in the environment,
gives torch's convolution instead.
"""

from __future__ import annotations

from collections.abc import Sequence
from types import SimpleNamespace

import torch
from torch import Tensor

from . import _convolution, _recompute, _table, reflection_pad
from ._autocast import autocast_dtype
from ._checks import batched, check_devices, check_reflection, whole
from ._dispatch import Backend, Backends, Call, Cpp, Op, Triton, choose, forced, serving
from ._layout import accumulate_dtype, dense, empty, holds, is_channels_last, like
from ._library import apply, define, differentiate, run, with_signature

Pair = tuple[int, int]


def reference(
    x: Tensor, weight: Tensor, bias: Tensor | None, stride: Pair, padding: Pair, dilation: Pair, groups: int
) -> Tensor:
    """The definition, in stock torch: pad height by padding[0] and width by padding[1] on both sides, convolve."""
    padded = reflection_pad.reference(x, (padding[1], padding[1], padding[0], padding[0]))
    return _convolution.conv2d(padded, weight, bias, stride, (0, 0), dilation, groups)


def halo(
    x: Tensor, weight: Tensor, bias: Tensor | None, stride: Pair, padding: Pair, dilation: Pair, groups: int
) -> Tensor:
    """The padding by our kernels, then torch's convolution."""
    if any(padding):
        x = reflection_pad.compute(x, (padding[1], padding[1], padding[0], padding[0]))
    return _convolution.conv2d(x, weight, bias, stride, (0, 0), dilation, groups)


def output_size(size: Pair, kernel: Pair, stride: Pair, padding: Pair, dilation: Pair) -> Pair:
    """(H + 2 padding - dilation (k - 1) - 1) // stride + 1, for both axes."""
    h, w = ((size[i] + 2 * padding[i] - dilation[i] * (kernel[i] - 1) - 1) // stride[i] + 1 for i in (0, 1))
    return h, w


def shape_key(shape, weight_shape, stride, padding, dilation) -> str:
    """A call's shape as the measured table writes it: input, (O, kH, kW), geometry."""
    parts = (shape, (weight_shape[0], *weight_shape[2:]), stride, padding, dilation)
    x, w, s, p, d = ("x".join([f"{n}" for n in part]) for part in parts)
    return f"{x} to {w} stride {s} padding {p} dilation {d}"


def fp32_precision() -> str:
    """What torch's own convolution does with float32 on a GPU: "tf32" or "ieee" (torch.backends.cudnn.allow_tf32)."""
    precision = torch.backends.cudnn.conv.fp32_precision  # type: ignore[attr-defined]
    return "tf32" if precision == "tf32" else "ieee"


def _halo_forward(x, weight, bias, stride, padding, dilation, precision, config):
    bias = bias.to(x.dtype) if bias is not None else None
    with torch.autocast(x.device.type, enabled=False):
        return like(halo(x, weight.to(x.dtype), bias, stride, padding, dilation, 1), x)


def _halo_input_gradient(dy, weight, size, stride, padding, dilation, precision, channels_last, config):
    top, left = padding
    padded = _empty((dy.shape[0], weight.shape[1], size[0] + 2 * top, size[1] + 2 * left), dy, channels_last)
    how = (stride, (0, 0), dilation, False, (0, 0), 1)
    dx = _convolution.gradients(dy, padded, weight.to(dy.dtype), *how, (True, False, False))[0]
    return torch.ops.fastgan.reflection_pad2d_backward(dx, left, left, top, top, "cpp") if top or left else dx


def _winograd_forward(x, weight, bias, stride, padding, dilation, precision, config):
    return torch.ops.fastgan_csrc.reflection_pad_conv2d(x, weight, bias, padding)


def _winograd_input_gradient(dy, weight, size, stride, padding, dilation, precision, channels_last, config):
    return torch.ops.fastgan_csrc.reflection_pad_conv2d_input_gradient(dy, weight, size, padding, channels_last)


def _winograd_weight_gradient(dy, x, kernel, stride, padding, dilation, precision, channels_last, config):
    return torch.ops.fastgan_csrc.reflection_pad_conv2d_weight_gradient(dy, x, padding, channels_last)


def _forward(x, weight, bias, stride, padding, dilation, backend):
    config = OP.config("forward", x, x.shape, weight.shape, stride, padding, dilation)
    forward = OP[backend].launchers.forward
    return forward(x, weight, bias, stride, padding, dilation, fp32_precision(), config)


def _forward_fake(x, weight, bias, stride, padding, dilation, backend):
    size = output_size(x.shape[2:], weight.shape[2:], stride, padding, dilation)
    return empty(x, (x.shape[0], weight.shape[0], *size))


def _part_of_moments(x: Tensor, weight: Tensor, stride: Pair, padding: Pair, dilation: Pair, backend: str) -> int:
    """Pixels of a part whose moments the backend leaves; 0: it leaves none."""
    if backend != "triton" or torch.compiler.is_compiling():  # its shapes may be symbols, which no tile is chosen by
        return 0
    from fastgan.kernels import reflection_pad_conv2d as kernels

    config = OP.config("forward", x, x.shape, weight.shape, stride, padding, dilation)
    geometry = kernels.geometry(x.shape, weight.shape, stride, padding, dilation)
    layout = "nhwc" if is_channels_last(x) else "nchw"
    return kernels.part_of_moments(layout, geometry, x.element_size(), fp32_precision(), config)


def _forward_and_moments(x, weight, bias, stride, padding, dilation, part, backend):
    from fastgan.kernels import reflection_pad_conv2d as kernels

    moments = _moments(x, weight, stride, padding, dilation, part)
    config = OP.config("forward", x, x.shape, weight.shape, stride, padding, dilation)
    return kernels.forward(x, weight, bias, stride, padding, dilation, fp32_precision(), config, moments), moments


def _moments(x, weight, stride, padding, dilation, part) -> Tensor:
    height, width = output_size(x.shape[2:], weight.shape[2:], stride, padding, dilation)
    parts, channels = height * width // part, weight.shape[0]
    last = (parts, channels) if is_channels_last(x) else (channels, parts)
    return x.new_empty((2, x.shape[0], *last), dtype=accumulate_dtype(x.dtype))


def _forward_and_moments_fake(x, weight, bias, stride, padding, dilation, part, backend):
    y = _forward_fake(x, weight, bias, stride, padding, dilation, backend)
    return y, _moments(x, weight, stride, padding, dilation, part)


def _input_gradient(dy, weight, size, stride, padding, dilation, channels_last, backend):
    shape = (dy.shape[0], weight.shape[1], *size)
    config = OP.config("input_gradient", dy, shape, weight.shape, stride, padding, dilation)
    input_gradient = OP[backend].launchers.input_gradient
    return input_gradient(dy, weight, size, stride, padding, dilation, fp32_precision(), channels_last, config)


def _input_gradient_fake(dy, weight, size, stride, padding, dilation, channels_last, backend):
    return _empty((dy.shape[0], weight.shape[1], *size), dy, channels_last)


def _weight_gradient(dy, x, kernel, stride, padding, dilation, channels_last, backend):
    shape = (dy.shape[1], x.shape[1], *kernel)
    config = OP.config("weight_gradient", x, x.shape, shape, stride, padding, dilation)
    weight_gradient = OP[backend].launchers.weight_gradient
    return weight_gradient(dy, x, kernel, stride, padding, dilation, fp32_precision(), channels_last, config)


def _weight_gradient_fake(dy, x, kernel, stride, padding, dilation, channels_last, backend):
    dtype = torch.float32 if backend == "winograd" else x.dtype
    return _empty((dy.shape[1], x.shape[1], *kernel), x, channels_last, dtype)


def _empty(shape, pattern: Tensor, channels_last: bool, dtype: torch.dtype | None = None) -> Tensor:
    format = torch.channels_last if channels_last else torch.contiguous_format
    return torch.empty(shape, dtype=dtype or pattern.dtype, device=pattern.device, memory_format=format)


_NAME = "reflection_pad_conv2d"
_GEOMETRY = "SymInt[2] stride, SymInt[2] padding, SymInt[2] dilation"
define(f"{_NAME}(Tensor x, Tensor weight, Tensor? bias, {_GEOMETRY}, str backend) -> Tensor", _forward, _forward_fake)
define(
    f"{_NAME}_and_moments(Tensor x, Tensor weight, Tensor? bias, {_GEOMETRY}, int part, str backend) "
    "-> (Tensor, Tensor)",
    _forward_and_moments,
    _forward_and_moments_fake,
)
define(
    f"{_NAME}_input_gradient(Tensor dy, Tensor weight, SymInt[2] size, {_GEOMETRY}, bool channels_last, str backend) "
    "-> Tensor",
    _input_gradient,
    _input_gradient_fake,
)
define(
    f"{_NAME}_weight_gradient(Tensor dy, Tensor x, SymInt[2] kernel, {_GEOMETRY}, bool channels_last, str backend) "
    "-> Tensor",
    _weight_gradient,
    _weight_gradient_fake,
)


@with_signature
class ReflectionPadConv2d(torch.autograd.Function):
    """y; x dense, `how` is (stride, padding, dilation)."""

    @staticmethod
    def forward(x, weight, bias, how, backends):
        return torch.ops.fastgan.reflection_pad_conv2d.default(x, weight, bias, *how, backends.forward)

    @staticmethod
    def setup_context(ctx, inputs, output):
        x, weight, bias, ctx.how, ctx.backends = inputs
        ctx.bias_dtype = bias.dtype if bias is not None else None
        ctx.save_for_backward(x, weight)

    @staticmethod
    def backward(ctx, dy):
        x, weight = ctx.saved_tensors
        dy = like(dy, x)
        dx = dweight = dbias = None
        if ctx.needs_input_grad[0]:
            dx = run(InputGradient, dy, weight, tuple(x.shape[2:]), ctx.how, is_channels_last(x), ctx.backends)
        if ctx.needs_input_grad[1]:
            dweight = run(
                WeightGradient, dy, x, tuple(weight.shape[2:]), ctx.how, is_channels_last(weight), ctx.backends
            ).to(weight.dtype)
        if ctx.needs_input_grad[2]:
            dbias = dy.sum((0, 2, 3), dtype=ctx.bias_dtype)
        return dx, dweight, dbias, None, None


@with_signature
class ReflectionPadConv2dAndMoments(ReflectionPadConv2d):
    """(y, its moments) of parts of `part` pixels; the moments say what y says already, and pass no gradient on."""

    @staticmethod
    def forward(x, weight, bias, how, part, backends):
        return torch.ops.fastgan.reflection_pad_conv2d_and_moments.default(
            x, weight, bias, *how, part, backends.forward
        )

    @staticmethod
    def setup_context(ctx, inputs, output):
        x, weight, bias, how, _part, backends = inputs
        y, moments = output
        ctx.mark_non_differentiable(moments)
        ctx.set_materialize_grads(False)
        ReflectionPadConv2d.setup_context(ctx, (x, weight, bias, how, backends), y)

    @staticmethod
    def backward(ctx, dy, _dmoments):
        return (None,) * 6 if dy is None else (*ReflectionPadConv2d.backward(ctx, dy), None)


@with_signature
class InputGradient(torch.autograd.Function):
    """dx of an image of `size`; dy dense."""

    @staticmethod
    def forward(dy, weight, size, how, channels_last, backends):
        return torch.ops.fastgan.reflection_pad_conv2d_input_gradient.default(
            dy, weight, size, *how, channels_last, backends.input_gradient
        )

    @staticmethod
    def setup_context(ctx, inputs, output):
        dy, weight, _size, ctx.how, ctx.channels_last, ctx.backends = inputs
        ctx.save_for_backward(dy, weight)

    @staticmethod
    def backward(ctx, u):
        dy, weight = ctx.saved_tensors
        u = u.contiguous(memory_format=torch.channels_last if ctx.channels_last else torch.contiguous_format)
        ddy = dweight = None
        if ctx.needs_input_grad[0]:
            ddy = run(ReflectionPadConv2d, u, weight, None, ctx.how, ctx.backends)
        if ctx.needs_input_grad[1]:
            dweight = run(
                WeightGradient, like(dy, u), u, tuple(weight.shape[2:]), ctx.how, is_channels_last(weight), ctx.backends
            ).to(weight.dtype)
        return ddy, dweight, *[None] * 4


@with_signature
class WeightGradient(torch.autograd.Function):
    """dweight of a kernel of size `kernel`, float32 if by Winograd; dy and x dense in one layout."""

    @staticmethod
    def forward(dy, x, kernel, how, channels_last, backends):
        return torch.ops.fastgan.reflection_pad_conv2d_weight_gradient.default(
            dy, x, kernel, *how, channels_last, backends.weight_gradient
        )

    @staticmethod
    def setup_context(ctx, inputs, output):
        dy, x, _kernel, ctx.how, _channels_last, ctx.backends = inputs
        ctx.save_for_backward(dy, x)

    @staticmethod
    def backward(ctx, u):
        dy, x = ctx.saved_tensors
        ddy = dx = None
        if ctx.needs_input_grad[0]:
            ddy = run(ReflectionPadConv2d, x, u, None, ctx.how, ctx.backends)
        if ctx.needs_input_grad[1]:
            dx = run(InputGradient, dy, u, tuple(x.shape[2:]), ctx.how, is_channels_last(x), ctx.backends)
        return ddy, dx, *[None] * 4


def _all_by(backend: str) -> Backends:
    """Who computes the other passes beside an op by ``backend``."""
    return Backends(backend, backend, "winograd" if backend == "halo" else backend)


def _how(stride: Sequence[int], padding: Sequence[int], dilation: Sequence[int]) -> tuple[Pair, Pair, Pair]:
    return (stride[0], stride[1]), (padding[0], padding[1]), (dilation[0], dilation[1])


differentiate(
    _NAME,
    lambda x, weight, bias, *rest: apply(ReflectionPadConv2d, x, weight, bias, _how(*rest[:3]), _all_by(rest[3])),
)
differentiate(
    f"{_NAME}_and_moments",
    lambda x, weight, bias, *rest: apply(
        ReflectionPadConv2dAndMoments, x, weight, bias, _how(*rest[:3]), rest[3], _all_by(rest[4])
    ),
)
differentiate(
    f"{_NAME}_input_gradient",
    lambda dy, weight, size, *rest: apply(
        InputGradient, dy, weight, tuple(size), _how(*rest[:3]), rest[3], _all_by(rest[4])
    ),
)
differentiate(
    f"{_NAME}_weight_gradient",
    lambda dy, x, kernel, *rest: apply(
        WeightGradient, dy, x, tuple(kernel), _how(*rest[:3]), rest[3], _all_by(rest[4])
    ),
)


# The fewest channels, of input and output, and the fewest 4x4 tiles of output, for which Winograd was measured faster.
_WINOGRAD_CHANNELS, _WINOGRAD_TILES = 32, 32
# Its arithmetic is float32's: in bfloat16 it pays where dot products are twice as fast at best, not on processors with
# matrix units: for the weight gradient, and from so many tiles on for the other passes.
_WINOGRAD_TILES_OF_BFLOAT16 = 256
_WINOGRAD_DTYPES: tuple[torch.dtype, ...] = (torch.float32, torch.bfloat16)
if torch.backends.cpu.get_cpu_capability() not in ("AVX2", "AVX512") or torch.cpu._is_amx_tile_supported():
    _WINOGRAD_DTYPES = (torch.float32,)


def _tiles(x: Tensor, padding: Pair) -> int:
    """How many tiles of 4x4 outputs Winograd computes."""
    h, w = output_size((x.shape[2], x.shape[3]), (3, 3), (1, 1), padding, (1, 1))
    return x.shape[0] * -(-h // 4) * -(-w // 4)


class _Triton(Triton):
    def refuses(self, call: Call) -> str:
        reason = super().refuses(call)
        if reason or call.asked == self.name:
            return reason
        return "not yet measured on this device, but for the shapes in its table (python -m fastgan.tune measures)"


class _Winograd(Cpp):
    name = "winograd"

    def refuses(self, call: Call) -> str:
        reason = super().refuses(call)
        if reason:
            return reason
        if call.asked != self.name and call.dtype not in _WINOGRAD_DTYPES:
            return "in bfloat16 it serves x86 processors without matrix units (AMX)"
        if call.asked and call.weight is not None and not _three_by_three(call, call.weight):
            kernel = "x".join(map(str, call.weight.shape[2:]))
            return (
                f"the kernel is {kernel} with stride {call.stride} and dilation {call.dilation}, not 3x3 with 1 and 1"
            )
        return ""

    def pays(self, call: Call) -> bool:
        """Where it was measured faster than torch's convolution, forward and backward."""
        x, weight = call.x, call.weight
        if x is None or weight is None or not _three_by_three(call, weight):
            return False
        enough = _tiles(x, call.padding) >= _WINOGRAD_TILES
        return min(weight.shape[:2]) >= _WINOGRAD_CHANNELS and holds(enough)

    def passes(self, call: Call) -> Backends:
        """By itself, or torch beside its weight gradient where that was measured faster."""
        if call.x is not None and call.dtype == torch.bfloat16 and not call.asked:
            if not holds(_tiles(call.x, call.padding) >= _WINOGRAD_TILES_OF_BFLOAT16):
                return Backends("halo", "halo", "winograd")
        return super().passes(call)


def _three_by_three(call: Call, weight: Tensor) -> bool:
    return tuple(weight.shape[2:]) == (3, 3) and (*call.stride, *call.dilation) == (1, 1, 1, 1)


class _Halo(Backend):
    name = "halo"
    takes_any = True

    def refuses(self, call: Call) -> str:
        if serving("reflection_pad2d", call.device, call.dtype) == "reference":
            return "no kernel of ours pads here"
        return ""


def _measured(call: Call) -> str | None:
    """The backend that the table of the device names for a call."""
    # Strict export would fix the sizes that the key names, those that may vary as well.
    if call.x is None or call.weight is None or call.device not in _table.KINDS:
        return None
    if torch.compiler.is_exporting() and torch.compiler.is_dynamo_compiling():
        return None
    key = shape_key(call.x.shape, call.weight.shape, call.stride, call.padding, call.dilation)
    return _table.backend("reflection_pad_conv2d", call.x, key)


OP = Op(
    "reflection_pad_conv2d",
    _Triton("reflection_pad_conv2d"),
    _Winograd(
        lambda: SimpleNamespace(
            forward=_winograd_forward,
            input_gradient=_winograd_input_gradient,
            weight_gradient=_winograd_weight_gradient,
        ),
        f"serves 3x3 kernels with stride 1, from {_WINOGRAD_CHANNELS} channels and {_WINOGRAD_TILES} tiles of 4x4 "
        "outputs on",
        dtypes=(torch.float32, torch.bfloat16),
    ),
    _Halo(lambda: SimpleNamespace(forward=_halo_forward, input_gradient=_halo_input_gradient)),
    shape_key=shape_key,
    measured=_measured,
)


def unsupported_reason(x: Tensor, groups: int, **parameters: Tensor | None) -> str:
    """Why the product kernels do not take this call, or the empty string."""
    if groups != 1:
        return f"groups is {groups}, not 1"
    for name, parameter in parameters.items():
        if parameter is not None and parameter.dtype != x.dtype:
            return f"{name} is {parameter.dtype} beside an input of {x.dtype}"
    return ""


def compute(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    stride: Pair,
    padding: Pair,
    dilation: Pair,
    groups: int,
    with_moments: bool = False,
) -> tuple[Tensor, Tensor | None]:
    """(y, its moments if asked for and if the backend leaves any) by the chosen backend; arguments already checked."""
    dtype = autocast_dtype(x)
    if dtype is not None:  # before the padding, which then moves half the bytes
        x = x.to(dtype)
        reason = unsupported_reason(x, groups)
    else:
        reason = unsupported_reason(x, groups, weight=weight, bias=bias)
    asked = forced("reflection_pad_conv2d")
    call = Call(x.device.type, x.dtype, asked, x, weight, stride, padding, dilation)
    backend = choose(OP, call, reason)
    if dtype is not None:
        dtype = torch.float32 if backend.name == "winograd" else dtype  # it reads float32 parameters as they are
        weight, bias = weight.to(dtype), bias.to(dtype) if bias is not None else None
    if backend.takes_any:
        path = halo if backend.name == "halo" else reference
        return path(x, weight, bias, stride, padding, dilation, groups), None
    x, how, backends = dense(x), (stride, padding, dilation), backend.passes(call)
    part = _part_of_moments(x, weight, *how, backend.name) if with_moments else 0
    if part:
        return run(ReflectionPadConv2dAndMoments, x, weight, bias, how, part, backends)
    return run(ReflectionPadConv2d, x, weight, bias, how, backends), None


def reflection_pad_conv2d(
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: int | Sequence[int] = 1,
    padding: int | Sequence[int] = 0,
    dilation: int | Sequence[int] = 1,
    groups: int = 1,
) -> Tensor:
    """Convolution of a reflected input, ``conv2d(pad(input, padding, "reflect"), weight, bias, stride, 0, ...)``.

    Args:
        input: (N, C, H, W) or (C, H, W), any floating dtype.
        weight: (O, C / groups, kH, kW).
        bias: (O,).
        padding: reflected width on both sides, one number or (height, width); less than the size it reflects.

    Returns:
        (N, O, H', W') with H' = (H + 2 padding - dilation (kH - 1) - 1) // stride + 1.

    Raises:
        ValueError: a padding that is negative or does not fit, a weight or a bias on another device; RuntimeError from
            torch for a weight that does not fit.
    """
    return convolve(input, weight, bias, stride, padding, dilation, groups)[0]


def convolve(
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    stride: int | Sequence[int],
    padding: int | Sequence[int],
    dilation: int | Sequence[int],
    groups: int,
    with_moments: bool = False,
) -> tuple[Tensor, Tensor | None]:
    """(The op, its moments if asked for and left by the kernel that serves), after the checks.

    The moments are the mean and the sum of squared deviations of equal parts of every plane, float32 (float64 for
    float64); only Triton's kernels leave them, of inputs (N, C, H, W) and outside of torch.compile.
    """
    stride, dilation = whole("stride", stride, 2), whole("dilation", dilation, 2)
    pad_h, pad_w = padding = whole("padding", padding, 2)
    sides = (pad_w, pad_w, pad_h, pad_h)
    if reflection_pad.goes_straight(input, sides) and _goes_straight(input, weight, bias, stride, padding, dilation):
        return torch.conv2d(reflection_pad.stock_pad(input, sides), weight, bias, stride, 0, dilation, groups), None
    x = batched("reflection_pad_conv2d", input)
    check_reflection("reflection_pad_conv2d", x, *sides)
    check_devices(input, weight=weight, bias=bias)
    y, moments = compute(x, weight, bias, stride, padding, dilation, groups, with_moments)
    _recompute.keep(y, x, weight)
    return (y, moments) if input.dim() == 4 else (y.squeeze(0), None)


def _goes_straight(x: Tensor, weight: Tensor, bias: Tensor | None, stride: Pair, padding: Pair, dilation: Pair) -> bool:
    """Whether torch is sure to be chosen for an image that it pads, without more ado."""
    return (
        not torch.compiler.is_compiling()
        and forced("reflection_pad_conv2d") is None
        and "cpu" not in _table.KINDS
        and (_convolution.plain(weight) or _convolution.plain_channels_last(weight))
        and (_convolution.plain(x) and weight.is_contiguous() or _convolution.plain_channels_last(x))
        and (bias is None or bias.is_contiguous() and bias.device == x.device)
        and not torch.is_autocast_enabled("cpu")
        and (
            weight.shape[1] < _WINOGRAD_CHANNELS
            or choose(OP, Call("cpu", x.dtype, None, x, weight, stride, padding, dilation)).takes_any
        )
    )
