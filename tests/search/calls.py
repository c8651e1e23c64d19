"""Random calls of the nine public functions, and what each of them computes, in stock torch."""

import contextlib
import dataclasses
from collections.abc import Callable, Iterator
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from fastgan.ops import _dispatch

from .draws import MILD, VALUES, Draws

HALF = (torch.bfloat16, torch.float16)
DTYPES = (torch.float32,) * 4 + (torch.bfloat16,) * 3 + (torch.float64, torch.float16)


@dataclasses.dataclass
class Call:
    """One call by keywords: ``function(**tensors, **arguments)``."""

    op: str
    number: int
    draws: Draws
    dtype: torch.dtype
    tensors: dict[str, Tensor]
    arguments: dict[str, Any]
    backend: str = "auto"
    updated: tuple[str, ...] = ()  # tensors that the call writes
    terms: int = 1  # of the longest sum behind one number of the results
    amplification: float = 1.0  # of the rounding of an algorithm, over that of a plain sum
    exact_input: bool = False  # the result jumps with the smallest change of the input, which has to be taken as it is
    wanted: tuple[str, ...] = ()  # the tensors of which gradients are taken

    @property
    def half(self) -> bool:
        return self.dtype in HALF

    def __str__(self) -> str:
        def show(t: Tensor) -> str:
            return f"{_name(t.dtype)} {tuple(t.shape)} strides {t.stride()}" + f" +{t.storage_offset()}" * bool(
                t.storage_offset()
            )

        tensors = ", ".join(f"{name}: {show(t)}" for name, t in self.tensors.items())
        arguments = ", ".join(f"{name}={value!r}" for name, value in self.arguments.items())
        return (
            f"{self.op} by {self.backend}; {tensors}; {arguments}; gradients of {', '.join(self.wanted) or 'nothing'}"
        )


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


# --- what each function computes ---


def activate(z: Tensor, activation: str, negative_slope: float) -> Tensor:
    if activation == "relu":
        return F.relu(z)
    return F.leaky_relu(z, negative_slope) if activation == "leaky_relu" else z


def _pad(x: Tensor, padding: tuple[int, int, int, int]) -> Tensor:
    return F.pad(x, padding, mode="reflect" if x.numel() else "constant")


_roundings: list[Callable[[Tensor], Tensor]] = []


@contextlib.contextmanager
def rounding(change: Callable[[Tensor], Tensor]) -> Iterator[None]:
    """Intermediate results of a norm, and the number that a loss aims at, are changed as by rounding."""
    _roundings.append(change)
    try:
        yield
    finally:
        _roundings.pop()


def rounded(t: Tensor) -> Tensor:
    return _roundings[-1](t) if _roundings else t


def _normalize(x: Tensor, mean: Tensor, var: Tensor, weight: Tensor | None, bias: Tensor | None, eps: float) -> Tensor:
    shape = (1, -1, *[1] * (x.dim() - 2))
    wide = torch.promote_types(x.dtype, torch.float32)
    spread = var.to(wide) + eps
    y = (x.to(wide) - rounded(mean)) * rounded(torch.where(spread > 0, spread, torch.inf).rsqrt())
    if weight is not None:
        y = y * weight.reshape(shape)
    if bias is not None:
        y = y + bias.reshape(shape)
    return y.to(x.dtype)


def _update(running: Tensor | None, new: Tensor, momentum: float) -> None:
    if running is not None and new.isfinite().all():
        running.copy_((1 - float(momentum)) * running + float(momentum) * new.detach())


def batch_norm(
    input, running_mean=None, running_var=None, weight=None, bias=None, training=False, momentum=0.1, eps=1e-5,
    activation="none", negative_slope=0.2,
):  # fmt: skip
    shape = (1, -1, *[1] * (input.dim() - 2))
    if training:
        over = (0, *range(2, input.dim()))
        var, mean = torch.var_mean(input.to(torch.promote_types(input.dtype, torch.float32)), over, correction=0)
        count = input.numel() // max(input.shape[1], 1)
        _update(running_mean, mean, momentum)
        _update(running_var, var * (count / max(count - 1, 1)), momentum)
    else:
        mean, var = running_mean, running_var
    z = _normalize(input, mean.reshape(shape), var.reshape(shape), weight, bias, eps)
    return activate(z, activation, negative_slope)


def instance_norm(
    input, running_mean=None, running_var=None, weight=None, bias=None, use_input_stats=True, momentum=0.1, eps=1e-5,
    activation="none", negative_slope=0.2, residual=None,
):  # fmt: skip
    if use_input_stats:
        over = tuple(range(2, input.dim()))
        wide = input.to(torch.promote_types(input.dtype, torch.float32))
        var, mean = torch.var_mean(wide, over, correction=0, keepdim=True)
        count = input[0, 0].numel() if input.numel() else 2
        _update(running_mean, mean.flatten(1).mean(0), momentum)
        _update(running_var, var.flatten(1).mean(0) * (count / (count - 1)), momentum)
    else:
        shape = (1, -1, *[1] * (input.dim() - 2))
        mean, var = running_mean.reshape(shape), running_var.reshape(shape)
    y = activate(_normalize(input, mean, var, weight, bias, eps), activation, negative_slope)
    return y if residual is None else y + residual


def reflection_pad2d(input, padding):
    left, right, top, bottom = (padding,) * 4 if isinstance(padding, int) else padding
    return _pad(input, (left, right, top, bottom))


def reflection_pad_conv2d(input, weight, bias=None, stride=1, padding=0, dilation=1, groups=1):
    pad_h, pad_w = (padding, padding) if isinstance(padding, int) else padding
    return F.conv2d(_pad(input, (pad_w, pad_w, pad_h, pad_h)), weight, bias, stride, 0, dilation, groups)


def conv_transpose2d(
    input, weight, bias=None, stride=1, padding=0, output_padding=0, groups=1, dilation=1, output_size=None,
    activation="none", negative_slope=0.2,
):  # fmt: skip
    if output_size is not None:
        stride, padding, dilation = (_pair(value) for value in (stride, padding, dilation))
        output_padding = tuple(
            output_size[i - 2] - (input.shape[i - 2] - 1) * stride[i] + 2 * padding[i]
            - dilation[i] * (weight.shape[i - 2] - 1) - 1
            for i in (0, 1)
        )  # fmt: skip
    y = F.conv_transpose2d(input, weight, bias, stride, padding, output_padding, groups, dilation)
    return activate(y, activation, negative_slope)


def _loss(loss: Callable, input, target, **others):
    return loss(input, target if isinstance(target, Tensor) else rounded(torch.full_like(input, target)), **others)


def l1_loss(input, target, reduction="mean"):
    return _loss(F.l1_loss, input, target, reduction=reduction)


def mse_loss(input, target, reduction="mean"):
    return _loss(F.mse_loss, input, target, reduction=reduction)


def bce_with_logits(input, target, weight=None, reduction="mean", pos_weight=None):
    loss = F.binary_cross_entropy_with_logits
    return _loss(loss, input, target, weight=weight, reduction=reduction, pos_weight=pos_weight)


def _stock_batch_norm(
    input, running_mean=None, running_var=None, weight=None, bias=None, training=False, momentum=0.1, eps=1e-5,
    activation="none", negative_slope=0.2,
):  # fmt: skip
    y = F.batch_norm(input, running_mean, running_var, weight, bias, training, float(momentum), eps)
    return activate(y, activation, negative_slope)


def _stock_instance_norm(
    input, running_mean=None, running_var=None, weight=None, bias=None, use_input_stats=True, momentum=0.1, eps=1e-5,
    activation="none", negative_slope=0.2, residual=None,
):  # fmt: skip
    y = F.instance_norm(input, running_mean, running_var, weight, bias, use_input_stats, momentum, eps)
    y = activate(y, activation, negative_slope)
    return y if residual is None else y + residual


def conv_norm_act(
    input, weight, bias=None, stride=1, padding=0, dilation=1, groups=1, padding_mode="zeros", transposed=False,
    output_padding=0, norm="instance", norm_weight=None, norm_bias=None, eps=1e-5, activation="none",
    negative_slope=0.2, residual=None,
):  # fmt: skip
    if transposed:
        y = conv_transpose2d(input, weight, bias, stride, padding, output_padding, groups, dilation)
    elif padding_mode == "reflect":
        y = reflection_pad_conv2d(input, weight, bias, stride, padding, dilation, groups)
    else:
        y = F.conv2d(input, weight, bias, stride, padding, dilation, groups)
    y = rounded(y)
    if norm == "instance":
        return instance_norm(
            y, None, None, norm_weight, norm_bias, True, 0.1, eps, activation, negative_slope, residual
        )
    if norm == "batch":
        y = batch_norm(y, None, None, norm_weight, norm_bias, True, 0.1, eps, activation, negative_slope)
    else:
        y = activate(y, activation, negative_slope)
    return y if residual is None else rounded(y) + residual


DEFINITIONS = {
    "batch_norm": batch_norm,
    "conv_norm_act": conv_norm_act,
    "instance_norm": instance_norm,
    "reflection_pad2d": reflection_pad2d,
    "reflection_pad_conv2d": reflection_pad_conv2d,
    "conv2d": F.conv2d,
    "conv_transpose2d": conv_transpose2d,
    "l1_loss": l1_loss,
    "mse_loss": mse_loss,
    "bce_with_logits": bce_with_logits,
}
# The same, by the functions of torch.nn.functional that a user of torch would call.
STOCK = DEFINITIONS | {"batch_norm": _stock_batch_norm, "instance_norm": _stock_instance_norm}


# --- the calls ---


def draw(op: str, number: int) -> Call:
    """Case ``number`` of ``op``."""
    draws = Draws(op, number)
    dtype = draws.one(DTYPES)
    call = _DRAWN[op](Call(op, number, draws, dtype, {}, {}))
    call.backend = draws.one(("auto", "auto", *(name for name in _backends(op) if name not in _ELSEWHERE)))
    real = [name for name in call.tensors if not name.startswith("running") and (op, name) not in _CONSTANTS]
    call.wanted = tuple(name for name in real if draws.chance(0.75))
    return call


def _backends(op: str) -> tuple[str, ...]:
    """Those of the op, or none of the one that calls others."""
    return _dispatch.OPS[op].names() if op in _dispatch.OPS else ()


_CONSTANTS = {("bce_with_logits", "weight"), ("bce_with_logits", "pos_weight")}  # torch has no gradient of them
_ELSEWHERE = ("triton", "cuda")  # on a GPU; Triton's interpreter is too slow for a search


def _pair(value) -> tuple[int, int]:
    return (value, value) if isinstance(value, int) else tuple(value)


def _add(call: Call, name: str, shape, values: str | None = None, dtype: torch.dtype | None = None) -> None:
    """A tensor of random values and layout among those of the call."""
    draws, dtype = call.draws, dtype or call.dtype
    values = values or draws.one(MILD if call.dtype == torch.float16 else VALUES)
    x = draws.values(shape, values, dtype)
    call.tensors[name] = draws.lay(x, draws.layout(x))


def _scaled(call: Call, name: str, shape, dtype: torch.dtype | None = None) -> None:
    """A parameter: of the order of 1."""
    _add(call, name, shape, call.draws.one(("normal", "normal", "normal", "constant", "ties", "zeros")), dtype)


def _image(draws: Draws, most: int = 9, least: int = 1) -> tuple[int, int, int, int]:
    """(N, C, H, W): small and odd, at times thin or empty."""
    n = draws.one((1, 1, 1, 2, 2, 3, 4, 0 if draws.chance(0.3) else 2))
    c = draws.one((1, 2, 3, 4, 5, 8, 16, 17))
    h, w = draws.whole(least, most), draws.whole(least, most)
    if draws.chance(0.2):
        h, w = draws.one(((least, w), (h, least), (least, most * 3), (most * 3, least)))
    return n, c, h, w


def _norm_parameters(call: Call, channels: int) -> None:
    draws = call.draws
    wide = torch.float32 if call.half and draws.chance(0.5) else call.dtype
    for name in ("weight", "bias"):
        if draws.chance(0.7):
            _scaled(call, name, (channels,), wide)
    call.arguments["activation"] = draws.one(("none", "none", "relu", "leaky_relu"))
    if call.arguments["activation"] == "leaky_relu" and draws.chance(0.7):
        call.arguments["negative_slope"] = draws.one((0.2, 0.01, 0.5, 1.5, 0.0))


def _running(call: Call, channels: int, needed: bool, momentum) -> None:
    draws = call.draws
    if not needed and draws.chance(0.4):
        call.arguments |= {"running_mean": None, "running_var": None}
        return
    wide = torch.float32 if call.half and draws.chance(0.7) else call.dtype
    for name in ("running_mean", "running_var"):
        x = draws.values((channels,), "normal", wide)
        x = x.abs() + 0.1 if name == "running_var" else x
        call.tensors[name] = draws.lay(x, draws.one(("plain", "every second", "offset", "window")))
    call.arguments["momentum"] = momentum
    call.updated = ("running_mean", "running_var") if not needed else ()


def _norm_values(call: Call, shape, statistics: bool) -> None:
    """The input, and an eps that fits it."""
    draws = call.draws
    values = draws.one(MILD if call.dtype == torch.float16 else VALUES)
    eps = draws.one((1e-5, 1e-5, 1e-5, 1e-3, 1e-8, 1.0, 0.0))
    if eps == 1e-8 and values == "constant":
        eps = 1e-5  # second derivatives multiply what rounding leaves of the deviations by eps ** -1.5
    if eps == 0 and statistics:  # planes of one value have a variance of 0, exactly
        values = "half"
        call.exact_input = True
    _add(call, "input", shape, values)
    call.arguments["eps"] = eps


def _draw_batch_norm(call: Call) -> Call:
    draws = call.draws
    n, c, h, w = _image(draws)
    shape = draws.one(((n, c, h, w), (n, c, h, w), (n, c, h, w), (n, c, h * w), (n * h + 1, c), (n, c, 2, h, w)))
    if draws.chance(0.004):
        shape = draws.one(((2, 64, 56, 56), (1, 3, 360, 370), (4, 100, 31, 32)))  # where kernels of ours begin to pay
    training = draws.chance(0.7)
    count = 1
    for size in (shape[0], *shape[2:]):
        count *= size
    if training and count == 1:
        shape, count = (shape[0] + 1, *shape[1:]), 2
    if training and draws.chance(0.8):
        call.arguments["training"] = True
    training = call.arguments.get("training", False)
    _norm_values(call, shape, training)
    _norm_parameters(call, shape[1])
    momentum = draws.one((0.1, 0.1, 0.0, 1.0, 0.3))
    _running(call, shape[1], not training, torch.tensor(momentum) if draws.chance(0.1) else momentum)
    call.terms = count
    return call


def _draw_instance_norm(call: Call) -> Call:
    draws = call.draws
    n, c, h, w = _image(draws, least=2 if draws.chance(0.5) else 1)
    if h * w == 1:
        w = 2
    shape = draws.one(((n, c, h, w),) * 5 + ((n, c, h * w), (n, c, 2, h, w)))
    if draws.chance(0.01):
        shape = draws.one(((1, 33, 64, 65), (2, 64, 32, 32)))
    statistics = draws.chance(0.75)
    _norm_values(call, shape, statistics)
    _norm_parameters(call, shape[1])
    _running(call, shape[1], not statistics, draws.one((0.1, 0.1, 0.0, 1.0, 0.3)))
    call.arguments["use_input_stats"] = statistics
    if draws.chance(0.35):
        _add(call, "residual", shape, draws.one(("normal", "off-centre")))
    call.terms = shape[0] * shape[2] * (shape[3] if len(shape) > 3 else 1) * (shape[4] if len(shape) > 4 else 1)
    return call


def _draw_reflection_pad2d(call: Call) -> Call:
    draws = call.draws
    shape = _image(draws)
    _, _, h, w = shape
    if draws.chance(0.15):
        shape = shape[1:]
    if draws.chance(0.3):
        call.arguments["padding"] = draws.whole(0, min(h, w) - 1)
    else:
        widths = [draws.whole(0, size - 1) for size in (w, w, h, h)]
        call.arguments["padding"] = tuple(0 if draws.chance(0.2) else width for width in widths)
    _add(call, "input", shape)
    call.terms = 9
    return call


def _convolution(call: Call, transposed: bool = False) -> tuple[int, int, int, int]:
    """Input, weight and bias of a convolution, whose geometry is in the arguments already; the input's shape."""
    draws = call.draws
    n, c, _h, _w = shape = call.arguments.pop("shape")
    kernel, groups, outputs = (call.arguments.pop(name) for name in ("kernel", "groups", "outputs"))
    if groups > 1:
        call.arguments["groups"] = groups
    weight = (c, outputs // groups, *kernel) if transposed else (outputs, c // groups, *kernel)
    given = shape[1:] if draws.chance(0.1) and n > 0 else shape
    _add(call, "input", given)
    if draws.chance(0.1):  # columns that cancel where the image is even
        values = draws.values(weight, "normal", call.dtype)
        values[..., 1::2] = -values[..., : weight[-1] // 2 * 2 : 2]
        call.tensors["weight"] = draws.lay(values, draws.layout(values))
    else:
        _scaled(call, "weight", weight)
    if draws.chance(0.6):
        _scaled(call, "bias", (outputs,))
    return shape


def _channels(draws: Draws) -> tuple[int, int, int]:
    """(inputs, outputs, groups)."""
    choices = (1, 2, 3, 4, 5, 8, 16)
    inputs, outputs = draws.one((*choices, 32, 33)), draws.one((*choices, 32))
    if draws.chance(0.15):
        groups = draws.one((2, 3, 4))
        per_group = draws.one((1, 2, 4))
        return groups * per_group, groups * draws.one((1, 2, 3)), groups
    return inputs, outputs, 1


def _kernel(draws: Draws) -> tuple[int, int]:
    side = draws.one((1, 2, 3, 3, 3, 4, 5))
    if draws.chance(0.35):
        return draws.one(((side, 1), (1, side), (side, draws.whole(1, 5)), (7, 7), (1, 7)))
    return side, side


def _numbers(draws: Draws, pair: tuple[int, int]):
    """A pair, or, where both are equal, one number at times."""
    return pair[0] if pair[0] == pair[1] and draws.chance(0.5) else pair


def _two(draws: Draws, *choices: int) -> tuple[int, int]:
    first = draws.one(choices)
    return (first, first) if draws.chance(0.6) else (first, draws.one(choices))


def _room(size: int, kernel: int, padding: int, dilation: int) -> int:
    """The size, or the least that holds the dilated kernel."""
    return max(size, dilation * (kernel - 1) + 1 - 2 * padding, 1)


def _draw_conv2d(call: Call) -> Call:
    draws = call.draws
    n, _, h, w = _image(draws)
    c, outputs, groups = _channels(draws)
    kernel, stride = _kernel(draws), _two(draws, 1, 1, 2, 2, 3, 4)
    padding, dilation = _two(draws, 0, 0, 1, 1, 2, 3), _two(draws, 1, 1, 1, 1, 2, 3)
    if draws.chance(0.12):  # where our weight gradient serves
        c, outputs, groups, stride, dilation = draws.one((32, 40, 64)), draws.one((1, 2, 33)), 1, (2, 2), (1, 1)
    elif draws.chance(0.12):  # where the columns of a kernel are taken one by one
        c, outputs, groups, stride, dilation = draws.one((32, 33)), draws.one((1, 3, 4)), 1, (1, 1), (1, 1)
        kernel = (kernel[0], draws.one((5, 7)))
    h, w = (_room(*sizes) for sizes in zip((h, w), kernel, padding, dilation))
    if draws.chance(0.25):  # an output of one pixel, row or column
        h, w = draws.one(((kernel[0], kernel[1]), (kernel[0], w), (h, kernel[1])))
        h, w = (_room(*sizes) for sizes in zip((h, w), kernel, padding, dilation))
    call.arguments = dict(
        shape=(n, c, h, w), kernel=kernel, groups=groups, outputs=outputs, stride=_numbers(draws, stride),
        padding=_numbers(draws, padding), dilation=_numbers(draws, dilation),
    )  # fmt: skip
    if stride == (1, 1) and draws.chance(0.1):
        call.arguments["padding"] = "same"
    elif draws.chance(0.03):
        call.arguments["padding"] = "valid"
        call.arguments["shape"] = (n, c, *(_room(*sizes) for sizes in zip((h, w), kernel, (0, 0), dilation)))
    _convolution(call)
    call.terms = max(c // groups * kernel[0] * kernel[1], n * h * w)
    return call


def _draw_reflection_pad_conv2d(call: Call) -> Call:
    draws = call.draws
    n, _, h, w = _image(draws)
    c, outputs, groups = _channels(draws)
    kernel, stride = _kernel(draws), _two(draws, 1, 1, 1, 2, 3)
    padding, dilation = _two(draws, 0, 1, 1, 2, 3), _two(draws, 1, 1, 1, 2)
    winograd = draws.chance(0.15)
    if winograd:
        kernel, stride, dilation, groups = (3, 3), (1, 1), (1, 1), 1
        c, outputs = draws.one((32, 33)), draws.one((32, 40))
        n, h, w = draws.one(((1, 23, 22), (2, 16, 15), (8, 5, 8), (1, 3, 130), (33, 2, 3)))
    h, w = (max(_room(*sizes), sizes[2] + 1) for sizes in zip((h, w), kernel, padding, dilation))
    call.arguments = dict(
        shape=(n, c, h, w), kernel=kernel, groups=groups, outputs=outputs, stride=_numbers(draws, stride),
        padding=_numbers(draws, padding), dilation=_numbers(draws, dilation),
    )  # fmt: skip
    _convolution(call)
    call.terms = max(c // groups * kernel[0] * kernel[1], n * h * w)
    if kernel == (3, 3):
        call.amplification = WINOGRAD
    return call


def _draw_conv_transpose2d(call: Call) -> Call:
    draws = call.draws
    n, _, h, w = _image(draws, most=6)
    c, outputs, groups = _channels(draws)
    kernel, stride = _kernel(draws), _two(draws, 1, 2, 2, 2, 3, 4)
    padding, dilation = _two(draws, 0, 0, 1, 1, 2), _two(draws, 1, 1, 1, 1, 2, 3)
    # At least one pixel of output.
    padding = tuple(
        min(p, ((size - 1) * s + d * (k - 1)) // 2)
        for size, k, s, p, d in zip((h, w), kernel, stride, padding, dilation)
    )
    extra = tuple(draws.whole(0, max(s, d) - 1) if draws.chance(0.4) else 0 for s, d in zip(stride, dilation))
    call.arguments = dict(
        shape=(n, c, h, w), kernel=kernel, groups=groups, outputs=outputs, stride=_numbers(draws, stride),
        padding=_numbers(draws, padding), dilation=_numbers(draws, dilation),
    )  # fmt: skip
    if draws.chance(0.2):
        extra = tuple(min(e, s - 1) for e, s in zip(extra, stride))
        call.arguments["output_size"] = tuple(
            (size - 1) * s - 2 * p + d * (k - 1) + 1 + e
            for size, k, s, p, d, e in zip((h, w), kernel, stride, padding, dilation, extra)
        )
    elif draws.chance(0.6):
        call.arguments["output_padding"] = _numbers(draws, extra)
    call.arguments["activation"] = draws.one(("none", "none", "none", "relu", "leaky_relu"))
    if call.arguments["activation"] == "leaky_relu":
        call.arguments["negative_slope"] = draws.one((0.2, 0.01, -0.3, 0.0))
    _convolution(call, transposed=True)
    call.terms = max(c // groups * kernel[0] * kernel[1], n * h * w * stride[0] * stride[1])
    return call


def _draw_conv_norm_act(call: Call) -> Call:
    """A convolution whose output has the deviations that it should have before a norm: no constant planes."""
    draws = call.draws
    kind = draws.one(("zeros", "reflect", "transposed"))
    n, c, h, w = draws.one((1, 1, 2, 3)), draws.one((1, 2, 3, 8, 16)), draws.whole(4, 9), draws.whole(4, 9)
    outputs, k, stride, padding = draws.one((1, 2, 3, 8, 16)), draws.one((1, 3, 3, 4)), draws.one((1, 1, 2)), 1
    if kind == "reflect" and draws.chance(0.3):
        c, outputs, k, stride, h, w = 32, 32, 3, 1, 16, 15  # where Winograd serves
    if c * k == 1:  # one number, which a norm divides by: its gradient is what rounding leaves
        k = 3
    weight = (c, outputs, k, k) if kind == "transposed" else (outputs, c, k, k)
    call.arguments = dict(stride=stride, padding=padding)
    if kind == "reflect":
        call.arguments["padding_mode"] = "reflect"
    elif kind == "transposed":
        call.arguments["transposed"] = True
    call.arguments["norm"] = norm = draws.one(("instance", "instance", "batch", "none"))
    call.arguments["activation"] = draws.one(("none", "relu", "leaky_relu"))
    call.arguments["eps"] = draws.one((1e-5, 1e-3, 0.1))
    _add(call, "input", (n, c, h, w), draws.one(("normal", "off-centre")))
    _add(call, "weight", weight, "normal")
    if draws.chance(0.5):
        _add(call, "bias", (outputs,), "normal")
    if norm != "none" and draws.chance(0.5):
        _add(call, "norm_weight", (outputs,), "normal")
        _add(call, "norm_bias", (outputs,), "normal")
    if kind == "transposed":
        size = [(each - 1) * stride - 2 * padding + k for each in (h, w)]
    else:
        size = [(each + 2 * padding - k) // stride + 1 for each in (h, w)]
    if draws.chance(0.4):
        _add(call, "residual", (n, outputs, *size), "normal")
    call.terms = max(c * k * k, n * h * w * stride * stride)
    if kind == "reflect" and k == 3:
        call.amplification = WINOGRAD
    return call


def _draw_loss(call: Call) -> Call:
    draws = call.draws
    shape = _image(draws)
    shape = draws.one((shape,) * 4 + (shape[1:], shape[:2], shape[2:3], (), (2, *shape[1:], 2)))
    values = draws.one(MILD if call.half else VALUES)
    if call.op == "mse_loss" and values == "large":
        values = "normal"
    _add(call, "input", shape, values)
    call.arguments["reduction"] = draws.one(("mean", "sum", "none"))
    if draws.chance(0.5):
        other = draws.one((torch.float32, torch.bfloat16, torch.float64)) if draws.chance(0.1) else call.dtype
        _add(call, "target", shape, values if draws.chance(0.6) else draws.one(MILD), other)
        if call.op == "bce_with_logits" and draws.chance(0.7):
            soft = call.tensors["target"].sigmoid()
            call.tensors["target"] = draws.lay(soft, draws.layout(soft))
    else:
        labels = (0, 1, 0.0, 1.0, 0.5, -1.0, 0.875) if call.half else (0, 1.0, 0.9, 0.1, -1)
        call.arguments["target"] = draws.one(labels)
    if call.op == "bce_with_logits" and call.tensors.get("target", call.tensors["input"]).dtype == call.dtype:
        for name in ("weight", "pos_weight"):
            if draws.chance(0.12):
                _scaled(call, name, shape if draws.chance(0.5) else shape[-1:])
    call.terms = max(1, call.tensors["input"].numel())
    return call


_DRAWN = {
    "batch_norm": _draw_batch_norm,
    "instance_norm": _draw_instance_norm,
    "reflection_pad2d": _draw_reflection_pad2d,
    "reflection_pad_conv2d": _draw_reflection_pad_conv2d,
    "conv2d": _draw_conv2d,
    "conv_transpose2d": _draw_conv_transpose2d,
    "conv_norm_act": _draw_conv_norm_act,
    "l1_loss": _draw_loss,
    "mse_loss": _draw_loss,
    "bce_with_logits": _draw_loss,
}
OPS = tuple(_DRAWN)


def _winograd_amplification() -> float:
    """How much larger than in a plain sum the terms are that F(4x4, 3x3) adds and takes away, at most.

    With y = A^T [(G w) (B^T x)], that is max of |A^T| (|G| 1) (|B^T| 1) over the sum of three terms, squared for two
    dimensions. The matrices follow from the points by the construction of Toom and Cook: A^T and G evaluate
    polynomials of degree 3 and 2, and B^T x is the transpose of interpolation at the points.
    """
    points = [0.0, 0.625, -0.625, 1.5, -1.5]
    evaluate = torch.tensor([[p**k for k in range(6)] for p in points] + [[0.0] * 5 + [1.0]], dtype=torch.float64)
    backward = torch.linalg.inv(evaluate).T.abs().sum(1)  # rows of |B^T|
    weights = torch.tensor([sum(abs(p) ** k for k in range(3)) for p in points] + [1.0], dtype=torch.float64)
    outputs = torch.tensor([[abs(p) ** k for p in points] + [float(k == 3)] for k in range(4)], dtype=torch.float64)
    return float((outputs @ (backward * weights)).max() / 3) ** 2


WINOGRAD = _winograd_amplification()
