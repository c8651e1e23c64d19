"""conv_norm_act: the block that these networks are made of: convolution, norm, activation, residual.

    y = act(norm(conv(x))) + residual

It is a composition of the ops, which pass between them what no caller sees: the convolution's kernel may leave the
moments of its output for the norm, and the norm may write the reflected border, the halo, that the next block's
convolution needs. What a block keeps for its backward pass is the output of its convolution and the statistics: the
output of the norm is computed again for the convolution that read it (_recompute).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor

from . import batch_norm, conv2d, conv_transpose2d, instance_norm, reflection_pad_conv2d
from ._checks import batched, check_activation, check_devices
from ._norm import activate

NORMS = ("instance", "batch", "none")
PADDING_MODES = ("zeros", "reflect")


def compute(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: int | Sequence[int] = 1,
    padding: int | Sequence[int] | str = 0,
    dilation: int | Sequence[int] = 1,
    groups: int = 1,
    *,
    padding_mode: str = "zeros",
    transposed: bool = False,
    output_padding: int | Sequence[int] = 0,
    norm: str = "instance",
    running_mean: Tensor | None = None,
    running_var: Tensor | None = None,
    norm_weight: Tensor | None = None,
    norm_bias: Tensor | None = None,
    use_input_stats: bool = True,
    momentum: float | Tensor = 0.1,
    eps: float = 1e-5,
    activation: str = "none",
    negative_slope: float = 0.2,
    residual: Tensor | None = None,
    halo: int = 0,
    with_interior: bool = False,
) -> tuple[Tensor, Tensor | None]:
    """(y with a reflected border of width ``halo``, y without it if asked for); x is (N, C, H, W).

    Without a border, and without the second, where the norm is not instance norm or the image too small to reflect.
    """
    moments = None
    if isinstance(padding, str) and (transposed or padding_mode != "zeros"):
        raise ValueError(f"only a convolution that pads by zeros takes its padding by name, got {padding!r}")
    if transposed:
        assert not isinstance(padding, str)
        raw = conv_transpose2d.conv_transpose2d(x, weight, bias, stride, padding, output_padding, groups, dilation)
    elif padding_mode == "reflect":
        assert not isinstance(padding, str)
        raw, moments = reflection_pad_conv2d.convolve(
            x, weight, bias, stride, padding, dilation, groups, with_moments=norm == "instance"
        )
    else:
        raw = conv2d.conv2d(x, weight, bias, stride, padding, dilation, groups)
    if norm == "instance":
        instance_norm.check(
            raw, running_mean, running_var, norm_weight, norm_bias, use_input_stats, eps, activation, residual
        )
        if halo >= min(raw.shape[2:]):
            halo, with_interior = 0, False
        return instance_norm.normalise(
            raw, running_mean, running_var, norm_weight, norm_bias, use_input_stats, momentum, eps, activation,
            negative_slope, residual, halo, with_interior, moments,
        )  # fmt: skip
    if norm == "batch":
        y = batch_norm.batch_norm(
            raw, running_mean, running_var, norm_weight, norm_bias, use_input_stats, momentum, eps,
            activation=activation, negative_slope=negative_slope,
        )  # fmt: skip
    else:
        check_activation(activation)
        y = activate(raw, activation, negative_slope)
    if residual is not None:
        if residual.shape != y.shape:
            raise ValueError(f"residual must have the output's shape {tuple(y.shape)}, got {tuple(residual.shape)}")
        check_devices(y, residual=residual)
        y = y + residual
    return y, None


def conv_norm_act(
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: int | Sequence[int] = 1,
    padding: int | Sequence[int] | str = 0,
    dilation: int | Sequence[int] = 1,
    groups: int = 1,
    *,
    padding_mode: str = "zeros",
    transposed: bool = False,
    output_padding: int | Sequence[int] = 0,
    norm: str = "instance",
    running_mean: Tensor | None = None,
    running_var: Tensor | None = None,
    norm_weight: Tensor | None = None,
    norm_bias: Tensor | None = None,
    use_input_stats: bool = True,
    momentum: float | Tensor = 0.1,
    eps: float = 1e-5,
    activation: str = "none",
    negative_slope: float = 0.2,
    residual: Tensor | None = None,
) -> Tensor:
    """Convolution, norm, activation and residual: ``y = act(norm(conv(x))) + residual``.

    For its backward pass it keeps the output of the convolution and the norm's statistics; a convolution of ours that
    reads ``y`` computes y again instead of keeping it. The values are those of the ops one after the other.

    Args:
        input: (N, C, H, W) or (C, H, W), any floating dtype.
        weight: (O, C / groups, kH, kW); (C, O / groups, kH, kW) where ``transposed``.
        bias: (O,), of the convolution.
        stride, padding, dilation, groups: as for :func:`conv2d`, or for :func:`conv_transpose2d`.
        padding_mode: ``"zeros"``, or ``"reflect"`` as for :func:`reflection_pad_conv2d`.
        transposed: a transposed convolution, by :func:`conv_transpose2d`.
        output_padding: of the transposed convolution.
        norm: ``"instance"`` as for :func:`instance_norm`, ``"batch"`` as for :func:`batch_norm`, or ``"none"``.
        running_mean, running_var, norm_weight, norm_bias: (O,), of the norm.
        use_input_stats: whether the norm takes the statistics of its input, as in training, or the running ones.
        momentum, eps: of the norm.
        activation: ``"none"``, ``"relu"`` or ``"leaky_relu"``.
        negative_slope: of the leaky ReLU.
        residual: added after the activation; shape and dtype of the output.

    Returns:
        (N, O, H', W') as the convolution gives it, in the dtype and the layout of the input.

    Raises:
        ValueError: an unknown norm, padding mode or activation; reflected padding of a transposed convolution; an
            output_padding of another; what the convolution or the norm does not take; a residual of another shape or on
            another device.
    """
    if norm not in NORMS:
        raise ValueError(f"unknown norm {norm!r}: choose from {', '.join(NORMS)}")
    if padding_mode not in PADDING_MODES:
        raise ValueError(f"unknown padding_mode {padding_mode!r}: choose from {', '.join(PADDING_MODES)}")
    if transposed and padding_mode != "zeros":
        raise ValueError(f"a transposed convolution pads by zeros, got padding_mode={padding_mode!r}")
    if not transposed and output_padding not in (0, (0, 0)):
        raise ValueError(f"only a transposed convolution has an output_padding, got {output_padding!r}")
    check_activation(activation)
    arguments: dict[str, Any] = {
        "padding_mode": padding_mode, "transposed": transposed, "output_padding": output_padding, "norm": norm,
        "running_mean": running_mean, "running_var": running_var, "norm_weight": norm_weight, "norm_bias": norm_bias,
        "use_input_stats": use_input_stats, "momentum": momentum, "eps": eps, "activation": activation,
        "negative_slope": negative_slope,
    }  # fmt: skip
    x = batched("conv_norm_act", input)
    if residual is not None and residual.dim() == 3:
        residual = residual.unsqueeze(0)
    y, _ = compute(x, weight, bias, stride, padding, dilation, groups, residual=residual, **arguments)
    return y if input.dim() == 4 else y.squeeze(0)
