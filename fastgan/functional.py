"""The public functions: fused ops with the argument order of ``torch.nn.functional``.

Every function is differentiable twice and more, keeps the dtype and the memory layout of its input (NCHW or
channels_last), and runs under autocast, ``torch.compile(fullgraph=True)`` and ``torch.export``. Sums and statistics are
taken in float32 (float64 for float64 input), without atomics: two runs give the same bits.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, fx

from .ops._checks import check_devices, whole
from .ops._norm import ACTIVATIONS, activate
from .ops.batch_norm import batch_norm as _batch_norm
from .ops.conv2d import conv2d
from .ops.conv_transpose2d import conv_transpose2d
from .ops.instance_norm import instance_norm as _instance_norm
from .ops.losses import REDUCTIONS
from .ops.losses import pointwise_loss as _pointwise_loss
from .ops.reflection_pad import reflection_pad2d
from .ops.reflection_pad_conv2d import reflection_pad_conv2d

__all__ = [
    "batch_norm",
    "bce_with_logits",
    "conv2d",
    "conv_transpose2d",
    "instance_norm",
    "l1_loss",
    "mse_loss",
    "reflection_pad2d",
    "reflection_pad_conv2d",
]


def batch_norm(
    input: Tensor,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    training: bool = False,
    momentum: float | Tensor = 0.1,
    eps: float = 1e-5,
    *,
    activation: str = "none",
    negative_slope: float = 0.2,
) -> Tensor:
    """Batch norm and activation in one pass.

    ``y = act((x - mean) / sqrt(var + eps) * weight + bias)`` with, in training, the mean and the biased variance of
    each channel over samples and pixels (Ioffe and Szegedy, 2015, "Batch Normalization", algorithm 1), otherwise the
    running ones.

    Args:
        input: (N, C), (N, C, L), (N, C, H, W) or of further dimensions, any floating dtype.
        running_mean, running_var: (C,), both or neither. In training they are updated in place, the variance with the
            unbiased one of the batch; otherwise they are the statistics used, and both are needed.
        weight, bias: (C,), the input's dtype or float32.
        momentum: weight of the new statistics in the running ones, a number or a tensor of one.
        activation: ``"none"``, ``"relu"`` or ``"leaky_relu"``.
        negative_slope: of the leaky ReLU.

    Returns:
        The shape, dtype and layout of the input.

    Raises:
        ValueError: one value a channel in training; running statistics that are missing; an eps that is not above 0 (in
            evaluation, below 0); an unknown activation; parameters of the wrong shape or on another device.
    """
    _check_batch_norm(input, running_mean, running_var, weight, bias, training, eps, activation)
    check_devices(input, weight=weight, bias=bias, running_mean=running_mean, running_var=running_var)
    return _batch_norm(
        input, running_mean, running_var, weight, bias, training, momentum, eps, activation, negative_slope
    )


def _check_batch_norm(input, running_mean, running_var, weight, bias, training, eps, activation):
    if input.dim() < 2:
        raise ValueError(
            f"batch_norm needs an input of at least 2 dimensions (N, C, ...), got shape {tuple(input.shape)}"
        )
    if not input.is_floating_point():
        raise ValueError(f"batch_norm needs a floating-point input, got {input.dtype}")
    channels = input.shape[1]
    if training and input.shape[0] * math.prod(input.shape[2:]) == 1:
        raise ValueError(f"Expected more than 1 value per channel when training, got input size {tuple(input.shape)}")
    if eps < 0 or (training and eps == 0):
        raise ValueError(f"batch_norm needs an eps of at least 0, and above 0 in training; got {eps}")
    _check_activation(activation)
    if (running_mean is None) != (running_var is None) or (not training and running_mean is None):
        raise ValueError("batch_norm needs running_mean and running_var together, and both when training is False")
    _check_per_channel(channels, weight=weight, bias=bias, running_mean=running_mean, running_var=running_var)


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
    halo: int = 0,
    interior: bool = False,
    moments: Tensor | None = None,
) -> Tensor | tuple[Tensor, Tensor]:
    """Instance norm, activation, residual and reflected halo in one pass.

    ``y = reflect_pad(act((x - mean) / sqrt(var + eps) * weight + bias) + residual, halo)`` with the mean and the biased
    variance of each sample and channel (Ulyanov, Vedaldi and Lempitsky, 2016, "Instance Normalization").

    Args:
        input: (N, C, H, W), any floating dtype. Other ranks from (N, C, L) up are taken without halo.
        running_mean, running_var: (C,), both or neither; updated in place when ``use_input_stats``, used instead of the
            statistics of the input otherwise (that case runs on stock torch ops).
        weight, bias: (C,), the input's dtype or float32.
        momentum: weight of the new statistics in the running ones.
        activation: ``"none"``, ``"relu"`` or ``"leaky_relu"``.
        negative_slope: of the leaky ReLU.
        residual: added after the activation; shape and dtype of the input (a spatial slice of a larger tensor is read
            in place).
        halo: width of the reflected border of the output, as the next convolution needs it; less than H and W.
        interior: give the view of the output without its halo as well, as a residual connection needs it. Its gradient
            and that of the whole output meet in this op's backward pass, where slicing the output would cost three.
        moments: of this very input, as :func:`reflection_pad_conv2d` gives them beside it. The result is the same
            within rounding; a kernel that reads them saves a pass over the input. None: it is read.

    Returns:
        (N, C, H + 2 halo, W + 2 halo) in the dtype and layout of the input; with ``interior`` also its (N, C, H, W)
        inside.

    Raises:
        ValueError: one spatial element a channel with ``use_input_stats``; a halo that does not fit; an eps below 0; an
            unknown activation; parameters or a residual of the wrong shape or on another device; moments that cannot be
            the input's.
    """
    halo, = whole("halo", halo, 1)
    _check_instance_norm(input, running_mean, running_var, weight, bias, use_input_stats, activation, residual, halo)
    if not eps >= 0:
        raise ValueError(f"instance_norm needs an eps of at least 0, got {eps}")
    check_devices(input, weight=weight, bias=bias, residual=residual, running_mean=running_mean,
                   running_var=running_var, moments=moments)
    _check_moments(input, moments)
    if not use_input_stats:
        y = F.instance_norm(input, running_mean, running_var, weight, bias, False, momentum, eps)
        y = activate(y, activation, negative_slope)
        y = y if residual is None else y + residual
        padded = F.pad(y, (halo,) * 4, mode="reflect") if halo else y
        return (padded, y) if interior else padded
    shape = input.shape
    if input.dim() != 4:
        input = input.flatten(2).unsqueeze(-1)
        residual = residual.flatten(2).unsqueeze(-1) if residual is not None else None
    y, mean, rstd, inner = _instance_norm(
        input, weight, bias, residual, eps, activation, negative_slope, halo, interior, moments
    )
    if running_mean is not None:
        _update_running(running_mean, running_var, input, mean, rstd, eps, momentum)
    if len(shape) != 4:  # without a halo
        y = inner = y.view(shape)
    return (y, inner) if interior else y


def _check_instance_norm(input, running_mean, running_var, weight, bias, use_input_stats, activation, residual, halo):
    if input.dim() < 3:
        raise ValueError(
            f"instance_norm needs an input of at least 3 dimensions (N, C, ...), got shape {tuple(input.shape)}"
        )
    if not input.is_floating_point():
        raise ValueError(f"instance_norm needs a floating-point input, got {input.dtype}")
    channels, spatial = input.shape[1], input.shape[2:]
    if use_input_stats and math.prod(spatial) == 1:
        raise ValueError(f"instance_norm needs more than one spatial element a channel, got shape {tuple(input.shape)}")
    _check_activation(activation)
    if (running_mean is None) != (running_var is None) or (not use_input_stats and running_mean is None):
        raise ValueError(
            "instance_norm needs running_mean and running_var together, and both when use_input_stats is False"
        )
    _check_per_channel(channels, weight=weight, bias=bias, running_mean=running_mean, running_var=running_var)
    if residual is not None and residual.shape != input.shape:
        raise ValueError(f"residual must have the input's shape {tuple(input.shape)}, got {tuple(residual.shape)}")
    if halo < 0 or (halo and input.dim() != 4):
        raise ValueError(f"halo must be at least 0, and 0 for inputs that are not (N, C, H, W); got {halo}")
    if halo and halo >= min(spatial):
        raise ValueError(f"a halo of {halo} must be smaller than the image, {spatial[0]} x {spatial[1]}")


def _check_moments(input: Tensor, moments: Tensor | None) -> None:
    if moments is None:
        return
    batch, channels = input.shape[:2]
    if moments.dim() != 4 or moments.shape[:2] != (2, batch) or channels not in moments.shape[2:]:
        raise ValueError(
            f"moments of shape {tuple(moments.shape)} are not of an input of shape {tuple(input.shape)}: give those "
            "that the convolution gave beside this input, or None"
        )


def _check_activation(activation: str) -> None:
    if activation not in ACTIVATIONS:
        raise ValueError(f"unknown activation {activation!r}: choose from {', '.join(ACTIVATIONS)}")


def _check_per_channel(channels: int, **parameters: Tensor | None) -> None:
    for name, parameter in parameters.items():
        if parameter is not None and parameter.shape != (channels,):
            raise ValueError(f"{name} must have shape ({channels},), one value a channel, got {tuple(parameter.shape)}")


def _update_running(running_mean, running_var, x, mean, rstd, eps, momentum):
    with torch.no_grad():
        count = x.shape[2] * x.shape[3]
        if mean is None:
            wide = x.to(torch.promote_types(x.dtype, torch.float32))
            var, mean = torch.var_mean(wide, (2, 3), correction=0)
        else:
            var = (rstd.pow(-2) - eps).clamp_min(0)
        running_mean.lerp_(mean.mean(0).to(running_mean.dtype), momentum)
        running_var.lerp_((var.mean(0) * (count / (count - 1))).to(running_var.dtype), momentum)


def l1_loss(input: Tensor, target: Tensor | float, *, reduction: str = "mean") -> Tensor:
    """Absolute difference |input - target|, with derivative 0 at ties.

    Args:
        input: any shape, any floating dtype.
        target: a tensor of the same shape, or a number (no target tensor is made).
        reduction: ``"mean"``, ``"sum"`` or ``"none"``.

    Returns:
        A scalar, or the input's shape for ``"none"``; the promoted dtype of input and target (float32 under autocast).

    Raises:
        ValueError: an unknown reduction, a target that is neither a tensor nor a number, or one on another device.
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
            target = torch.full_like(input, float(target))
        return F.binary_cross_entropy_with_logits(input, target, weight, reduction=reduction, pos_weight=pos_weight)
    return _loss("bce_with_logits", input, target, "bce", reduction)


def _loss(name: str, input: Tensor, target: Tensor | float, kind: str, reduction: str) -> Tensor:
    if reduction not in REDUCTIONS:
        raise ValueError(f"unknown reduction {reduction!r}: choose from {', '.join(REDUCTIONS)}")
    if not isinstance(target, (Tensor, int, float)):
        raise ValueError(f"{name} needs a tensor or a number as target, got {type(target).__name__}")
    if not input.is_floating_point():
        raise ValueError(f"{name} needs a floating-point input, got {input.dtype}")
    if isinstance(target, Tensor) and (target.dim() > 0 or input.dim() == 0):  # else a number, which may lie anywhere
        check_devices(input, target=target)
    if isinstance(target, Tensor) and kind == "bce" and target.shape != input.shape:
        raise ValueError(f"{name} needs a target of the input's shape {tuple(input.shape)}, got {tuple(target.shape)}")
    return _pointwise_loss(input, target, kind, reduction)


for _name in __all__:
    fx.wrap(_name)  # torch.fx records a call as a whole
