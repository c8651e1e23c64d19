"""instance_norm: statistics, affine, activation and residual in one op.

    y = pad(act((x - mean) * rstd * weight + bias) + residual, halo)

per sample and channel, with the biased variance (Ulyanov et al., 2016, eq. 4), rstd = 1 / sqrt(var + eps).

Inside a block (conv_norm_act) the kernels also write the reflected border, the halo, that the next convolution needs,
and read the moments that the convolution before left. Neither is public.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from . import _recompute
from ._checks import check_activation, check_devices, check_per_channel
from ._dispatch import Call, Cpp, Op, Triton, choose, extension_ops, forced
from ._layout import accumulate_dtype, dense, empty, holds, is_channels_last, like
from ._library import apply, define, differentiate, run, with_signature
from ._norm import activate, differentiate_backward, reciprocal_deviation, unsupported_parameters, update_running
from .batch_norm import compute as batch_norm
from .reflection_pad import compute as reflection_pad
from .reflection_pad import fold, pad
from .reflection_pad import reference as reflection_pad_reference


def reference(
    x: Tensor,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    residual: Tensor | None = None,
    eps: float = 1e-5,
    activation: str = "none",
    negative_slope: float = 0.2,
    halo: int = 0,
) -> Tensor:
    """The definition, in plain torch: (N, C, H, W) -> (N, C, H + 2 halo, W + 2 halo), in the layout of x."""
    return _unrounded(x, weight, bias, residual, eps, activation, negative_slope, halo).to(x.dtype)


def _unrounded(x, weight, bias, residual, eps, activation, negative_slope, halo) -> Tensor:
    """The definition, in the accumulation dtype.

    Written out, because torch 2.13's own instance_norm on the CPU gives a wrong input gradient at batch 1 when the
    gradient that reaches it is channels_last.
    """
    x = dense(x)
    wide = x.to(accumulate_dtype(x.dtype))
    var, mean = torch.var_mean(wide, (2, 3), correction=0, keepdim=True)
    y = (wide - mean) * reciprocal_deviation(var, eps)
    if weight is not None:
        y = y * weight[:, None, None]
    if bias is not None:
        y = y + bias[:, None, None]
    y = activate(y, activation, negative_slope)
    if residual is not None:
        y = y + like(residual, x).to(y.dtype)
    if halo:
        y = reflection_pad_reference(y, (halo,) * 4)
    return y


def shape_key(shape, halo: int) -> str:
    """A call's shape as the measured table writes it."""
    return "x".join(f"{n}" for n in shape) + f" halo {halo}"


def _forward(x, moments, weight, bias, residual, eps, activation, negative_slope, halo, backend):
    arguments = (x, weight, bias, residual, eps, activation, negative_slope, halo)
    forward = OP[backend].launchers.forward
    if backend != "triton":
        return forward(*arguments)
    return forward(*arguments, OP.config("forward", x, x.shape, halo), moments=moments)


def _forward_fake(x, moments, weight, bias, residual, eps, activation, negative_slope, halo, backend):
    n, c, h, w = x.shape
    statistics = x.new_empty((n, c), dtype=accumulate_dtype(x.dtype))
    return empty(x, (n, c, h + 2 * halo, w + 2 * halo)), statistics, torch.empty_like(statistics)


def inside(padded: Tensor, halo: int) -> Tensor:
    """The (N, C, H, W) view inside a tensor that carries a halo."""
    return padded[..., halo:-halo, halo:-halo] if halo else padded


def _backward(
    dy, dy_interior, x, mean, rstd, weight, bias, eps, activation, negative_slope, halo, need_dresidual, backend
):
    dy = like(dy, x)  # here, as a compiled backward pass may meet another layout of x than was traced
    dy_interior = like(dy_interior, x) if dy_interior is not None else None
    arguments = (dy, x, mean, rstd, weight, bias, activation, negative_slope, halo, need_dresidual)
    backward = OP[backend].launchers.backward
    if backend != "triton":
        return backward(*arguments, dy_interior)
    return backward(*arguments, OP.config("backward", x, x.shape, halo), dy_interior)


def _backward_fake(
    dy, dy_interior, x, mean, rstd, weight, bias, eps, activation, negative_slope, halo, need_dresidual, backend
):
    absent = x.new_empty((0,), dtype=torch.float32)
    return (
        empty(x, tuple(x.shape)),
        torch.empty_like(weight) if weight is not None else absent,
        torch.empty_like(bias) if bias is not None else absent.clone(),
        empty(x, tuple(x.shape)) if need_dresidual and halo else x.new_empty((0,)),
    )


define(
    "instance_norm(Tensor x, Tensor? moments, Tensor? weight, Tensor? bias, Tensor? residual, float eps, "
    "str activation, float negative_slope, int halo, str backend) -> (Tensor, Tensor, Tensor)",
    _forward,
    _forward_fake,
)
define(
    "instance_norm_backward(Tensor dy, Tensor? dy_interior, Tensor x, Tensor mean, Tensor rstd, Tensor? weight, "
    "Tensor? bias, float eps, str activation, float negative_slope, int halo, bool need_dresidual, str backend) "
    "-> (Tensor, Tensor, Tensor, Tensor)",
    _backward,
    _backward_fake,
)


@with_signature
class InstanceNorm(torch.autograd.Function):
    """(y, mean, rstd, y without its halo or None) of the op; x dense, residual of the same inner layout.

    Moments say what x says already, so that no gradient flows to them. The gradient of the view without halo meets that
    of y inside the backward pass. Autograd would pad it with zeros and add the two.
    """

    @staticmethod
    def forward(x, moments, weight, bias, residual, eps, activation, negative_slope, halo, with_interior, backend):
        y, mean, rstd = torch.ops.fastgan.instance_norm.default(
            x, moments, weight, bias, residual, eps, activation, negative_slope, halo, backend
        )
        return y, mean, rstd, inside(y, halo) if with_interior else None

    @staticmethod
    def setup_context(ctx, inputs, output):
        x, _moments, weight, bias, residual, *ctx.constants = inputs
        _, mean, rstd, _ = output
        ctx.mark_non_differentiable(mean, rstd)
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(x, mean, rstd, weight, bias)
        ctx.has_residual = residual is not None

    @staticmethod
    def backward(ctx, dy, _dmean, _drstd, dy_interior):
        x, mean, rstd, weight, bias = ctx.saved_tensors
        eps, activation, negative_slope, halo, _with_interior, backend = ctx.constants
        if dy is None:  # the gradient of what has no halo
            dy, dy_interior, halo = dy_interior, None, 0
        if dy is None:
            return (None,) * 11
        need_dresidual = ctx.has_residual and ctx.needs_input_grad[4]
        dx, dweight, dbias, dresidual = run(
            InstanceNormBackward, dy, dy_interior, x, mean, rstd, weight, bias, eps, activation, negative_slope, halo,
            need_dresidual and halo > 0, backend,
        )  # fmt: skip
        if need_dresidual and halo == 0:
            dresidual = dy
        return (
            dx,
            None,
            dweight if weight is not None else None,
            dbias if bias is not None else None,
            dresidual if need_dresidual else None,
            *[None] * 6,
        )


@with_signature
class InstanceNormBackward(torch.autograd.Function):
    """(dx, dweight, dbias, dresidual), itself differentiable to any order."""

    @staticmethod
    def forward(
        dy, dy_interior, x, mean, rstd, weight, bias, eps, activation, negative_slope, halo, need_dresidual, backend
    ):
        return torch.ops.fastgan.instance_norm_backward.default(
            dy, dy_interior, x, mean, rstd, weight, bias, eps, activation, negative_slope, halo, need_dresidual, backend
        )

    @staticmethod
    def setup_context(ctx, inputs, output):
        dy, dy_interior, x, _mean, _rstd, weight, bias, *ctx.constants = inputs
        ctx.save_for_backward(dy, dy_interior, x, weight, bias)
        ctx.set_materialize_grads(False)

    @staticmethod
    def backward(ctx, u, u_weight, u_bias, u_residual):
        # Of x, g0 = fold(dy) + dy_interior, and dresidual = g0.
        dy, dy_interior, x, weight, bias = ctx.saved_tensors
        eps, activation, negative_slope, halo, _need_dresidual, backend = ctx.constants
        g0 = dy.to(accumulate_dtype(x.dtype))
        if halo:
            g0 = fold(g0, (halo,) * 4, backend)
        if dy_interior is not None:
            g0 = g0 + dy_interior
        grad_g0, grad_x, grad_weight = differentiate_backward(
            u, u_weight, u_bias, g0, x, weight, bias, activation, negative_slope, (2, 3), eps
        )
        if u_residual is not None and u_residual.numel():
            u_residual = u_residual.to(g0.dtype)
            grad_g0 = u_residual if grad_g0 is None else grad_g0 + u_residual
        grad_dy = grad_interior = None
        if grad_g0 is not None:
            grad_g0 = grad_g0.expand(x.shape)
            grad_interior = grad_g0.to(dy_interior.dtype) if dy_interior is not None else None
            grad_dy = (pad(grad_g0, (halo,) * 4, backend) if halo else grad_g0).to(dy.dtype)
        grad_x = grad_x.to(x.dtype) if grad_x is not None else None
        return grad_dy, grad_interior, grad_x, None, None, grad_weight, *[None] * 7


differentiate("instance_norm", lambda *args: apply(InstanceNorm, *args[:9], False, args[9])[:3])
differentiate("instance_norm_backward", lambda *args: apply(InstanceNormBackward, *args))

OP = Op(
    "instance_norm",
    Cpp(extension_ops(forward="instance_norm", backward="instance_norm_backward")),
    Triton("instance_norm"),
    shape_key=shape_key,
)


def _residual_view(residual: Tensor, x: Tensor) -> Tensor:
    """The residual as the kernels read it: rows of x's inner layout, at free strides; a copy only where needed."""
    w = x.shape[3]
    c = x.shape[1]
    inner = (residual.stride(1), residual.stride(3)) == (1, c) if is_channels_last(x) else residual.stride(3) == 1
    return residual if inner or w == 0 else like(residual, x)


def unsupported_reason(x: Tensor, weight: Tensor | None, bias: Tensor | None, residual: Tensor | None) -> str:
    """Why no kernel takes this call, or the empty string."""
    if residual is not None and residual.dtype != x.dtype:
        return f"residual is {residual.dtype} beside an input of {x.dtype}"
    return unsupported_parameters(x, weight, bias)


def compute(
    x: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    residual: Tensor | None,
    eps: float,
    activation: str,
    negative_slope: float,
    halo: int,
    with_interior: bool,
    moments: Tensor | None = None,
) -> tuple[Tensor, Tensor | None]:
    """(y, y without its halo if asked for) by the chosen backend; arguments already checked.

    Moments of x are read by ``triton`` only.
    """
    dtype = x.dtype
    call = Call(x.device.type, dtype, forced("instance_norm"))
    backend = choose(OP, call, unsupported_reason(x, weight, bias, residual)).name
    if backend == "reference":
        y = _unrounded(x, weight, bias, residual, eps, activation, negative_slope, halo)
        # Rounded apart, so that their gradients meet unrounded; in float32 and float64 the inside is a view.
        return y.to(dtype), inside(y, halo).to(dtype) if with_interior else None
    x = dense(x)
    if residual is not None:
        residual = _residual_view(residual, x)
        residual = residual.view_as(residual) if residual is x else residual  # torch.compile wants distinct tensors
    weight = weight.contiguous() if weight is not None else None
    bias = bias.contiguous() if bias is not None else None
    # The compiler takes no Function whose results share memory; it fuses the padding and adding of gradients itself.
    both = with_interior and halo > 0 and not torch.compiler.is_compiling()
    arguments = (x, moments, weight, bias, residual, eps, activation, negative_slope, halo, both, backend)
    y, _mean, _rstd, inner = run(InstanceNorm, *arguments)
    if with_interior and not both:
        inner = inside(y, halo)
    if residual is None:
        how = (eps, activation, negative_slope, halo, backend)
        _recompute.remember(y, _again, x, moments, weight, bias, residual, *how)
    return y, inner


def _again(*arguments) -> Tensor:
    return torch.ops.fastgan.instance_norm.default(*arguments)[0]


def instance_norm(
    input: Tensor,
    running_mean: Tensor | None = None,
    running_var: Tensor | None = None,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    use_input_stats: bool = True,
    momentum: float = 0.1,
    eps: float = 1e-5,
    *,
    activation: str = "none",
    negative_slope: float = 0.2,
    residual: Tensor | None = None,
) -> Tensor:
    """Instance norm, activation and residual in one pass.

    ``y = act((x - mean) / sqrt(var + eps) * weight + bias) + residual`` with the mean and the biased variance of each
    sample and channel (Ulyanov, Vedaldi and Lempitsky, 2016, "Instance Normalization").

    Args:
        input: (N, C, H, W), any floating dtype, or of another rank from (N, C, L) up.
        running_mean, running_var: (C,), both or neither; updated in place when ``use_input_stats``, used instead of the
            statistics of the input otherwise (which is :func:`batch_norm` in evaluation, and computed by it).
        weight, bias: (C,), the input's dtype or float32.
        momentum: weight of the new statistics in the running ones.
        activation: ``"none"``, ``"relu"`` or ``"leaky_relu"``.
        negative_slope: of the leaky ReLU.
        residual: added after the activation; shape and dtype of the input (a spatial slice of a larger tensor is read
            in place).

    Returns:
        The shape, dtype and layout of the input.

    Raises:
        ValueError: one spatial element a channel with ``use_input_stats``; an eps below 0; an unknown activation;
            parameters or a residual of the wrong shape or on another device.
    """
    check(input, running_mean, running_var, weight, bias, use_input_stats, eps, activation, residual)
    shape = input.shape
    if use_input_stats and input.dim() != 4:
        input = input.flatten(2).unsqueeze(-1)
        residual = residual.flatten(2).unsqueeze(-1) if residual is not None else None
    y, _ = normalise(
        input, running_mean, running_var, weight, bias, use_input_stats, momentum, eps, activation, negative_slope,
        residual,
    )  # fmt: skip
    return y if y.shape == shape else y.view(shape)


def normalise(
    x: Tensor,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    weight: Tensor | None,
    bias: Tensor | None,
    use_input_stats: bool,
    momentum: float | Tensor,
    eps: float,
    activation: str,
    negative_slope: float,
    residual: Tensor | None,
    halo: int = 0,
    with_interior: bool = False,
    moments: Tensor | None = None,
) -> tuple[Tensor, Tensor | None]:
    """(y with its halo, y without it if asked for), and the running statistics updated; arguments already checked.

    The gradients of both meet in the op's backward pass, where slicing y would cost three. Moments are of this very
    input, as the convolution that made it left them: the result is the same within rounding. x is (N, C, H, W) where
    there is a halo, and where its own statistics are used.
    """
    if not use_input_stats:  # with statistics that are constants, batch norm does the same
        fused = residual is not None or halo > 0  # then rounded once, at the end
        dtype, wide = x.dtype, accumulate_dtype(x.dtype) if fused else x.dtype
        weight, bias = (t.to(wide) if t is not None and t.dtype == dtype else t for t in (weight, bias))
        y = batch_norm(
            x.to(wide), running_mean, running_var, weight, bias, False, momentum, eps, activation, negative_slope
        )
        if residual is not None:
            y = y + (like(residual, y) if y.dim() == 4 else residual).to(y.dtype)
        padded = reflection_pad(y, (halo,) * 4) if halo else y
        return padded.to(dtype), inside(padded, halo).to(dtype) if with_interior else None
    found = compute(x, weight, bias, residual, eps, activation, negative_slope, halo, with_interior, moments)
    if running_mean is not None and running_var is not None:
        _update_running(running_mean, running_var, x, momentum)
    return found


def check(
    input: Tensor,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    weight: Tensor | None,
    bias: Tensor | None,
    use_input_stats: bool,
    eps: float,
    activation: str,
    residual: Tensor | None,
) -> None:
    """ValueError for arguments that the op does not take."""
    if input.dim() < 3:
        raise ValueError(
            f"instance_norm needs an input of at least 3 dimensions (N, C, ...), got shape {tuple(input.shape)}"
        )
    if not input.is_floating_point():
        raise ValueError(f"instance_norm needs a floating-point input, got {input.dtype}")
    channels, spatial = input.shape[1], input.shape[2:]
    if use_input_stats and math.prod(spatial) == 1:
        raise ValueError(f"instance_norm needs more than one spatial element a channel, got shape {tuple(input.shape)}")
    check_activation(activation)
    if (running_mean is None) != (running_var is None) or (not use_input_stats and running_mean is None):
        raise ValueError(
            "instance_norm needs running_mean and running_var together, and both when use_input_stats is False"
        )
    check_per_channel(channels, weight=weight, bias=bias, running_mean=running_mean, running_var=running_var)
    if residual is not None and residual.shape != input.shape:
        raise ValueError(f"residual must have the input's shape {tuple(input.shape)}, got {tuple(residual.shape)}")
    if not eps >= 0:
        raise ValueError(f"instance_norm needs an eps of at least 0, got {eps}")
    check_devices(
        input, weight=weight, bias=bias, residual=residual, running_mean=running_mean, running_var=running_var
    )


def _update_running(running_mean: Tensor, running_var: Tensor, x: Tensor, momentum: float | Tensor) -> None:
    """The means over the samples of their means and unbiased variances, where there are samples.

    Of x itself: a variance that is small beside eps is lost in rstd.
    """
    if holds(x.numel() == 0):
        return
    variance, mean = torch.var_mean(x.detach().to(accumulate_dtype(x.dtype)), (2, 3))
    update_running(running_mean, mean.mean(0), momentum)
    update_running(running_var, variance.mean(0), momentum)
