"""The public layers: fused ops as modules.

Each subclasses the stock layer, takes its constructor arguments, keeps its parameter names, and loads its state dict
strictly, both ways.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from . import functional as F

__all__ = [
    "BCEWithLogitsLoss",
    "BatchNorm1d",
    "BatchNorm2d",
    "Conv2d",
    "ConvTranspose2d",
    "InstanceNorm2d",
    "L1Loss",
    "MSELoss",
    "ReflectionPad2d",
    "ReflectionPadConv2d",
]


class _FusedBatchNorm(nn.modules.batchnorm._BatchNorm):
    """What the batch norm layers share: the activation in the same pass."""

    def __init__(
        self,
        num_features: int,
        eps: float = 1e-5,
        momentum: float | None = 0.1,
        affine: bool = True,
        track_running_stats: bool = True,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
        *,
        activation: str = "none",
        negative_slope: float = 0.2,
        **stock: bool,
    ) -> None:
        super().__init__(num_features, eps, momentum, affine, track_running_stats, device, dtype, **stock)
        if activation not in F.ACTIVATIONS:
            raise ValueError(f"unknown activation {activation!r}: choose from {', '.join(F.ACTIVATIONS)}")
        self.activation = activation
        self.negative_slope = negative_slope

    def forward(self, input: Tensor) -> Tensor:
        self._check_input_dim(input)
        if input.shape[1] != self.num_features:
            raise ValueError(f"expected {self.num_features} channels, got an input of shape {tuple(input.shape)}")
        momentum = self.momentum
        if self.training and self.track_running_stats and self.num_batches_tracked is not None:
            self.num_batches_tracked.add_(1)
            if momentum is None:  # the mean of all batches so far
                momentum = self.num_batches_tracked.double().reciprocal()
        running = not self.training or self.track_running_stats
        return F.batch_norm(
            input,
            self.running_mean if running else None,
            self.running_var if running else None,
            self.weight,
            self.bias,
            self.training or self.running_mean is None,
            momentum if momentum is not None else 0.0,
            self.eps,
            activation=self.activation,
            negative_slope=self.negative_slope,
        )

    def extra_repr(self) -> str:
        fused = f", activation={self.activation!r}" if self.activation != "none" else ""
        fused += f", negative_slope={self.negative_slope}" if self.activation == "leaky_relu" else ""
        return super().extra_repr() + fused


class BatchNorm1d(_FusedBatchNorm, nn.BatchNorm1d):
    """``nn.BatchNorm1d`` with the activation in the same pass.

    Args:
        num_features, eps, momentum, affine, track_running_stats: as for ``nn.BatchNorm1d``; momentum None takes the
            mean over all batches.
        activation, negative_slope: see :func:`fastgan.functional.batch_norm`.
        stock: further keywords that the stock layer of the installed torch takes (``bias`` in newer ones).

    What replaces a batch norm by a layer of torch's own, as ``nn.SyncBatchNorm.convert_sync_batchnorm`` does, knows of
    no activation and drops it: leave it at ``"none"`` there, and let ``nn.ReLU`` follow.

    Shape:
        (N, C) or (N, C, L), kept.
    """


class BatchNorm2d(_FusedBatchNorm, nn.BatchNorm2d):
    """``nn.BatchNorm2d`` with the activation in the same pass. Shape: (N, C, H, W), kept; arguments as for
    :class:`BatchNorm1d`."""


class InstanceNorm2d(nn.InstanceNorm2d):
    """``nn.InstanceNorm2d`` with activation, residual and the next layer's reflected halo in the same pass.

    Args:
        num_features, eps, momentum, affine, track_running_stats: as for ``nn.InstanceNorm2d``.
        activation, negative_slope, halo, interior: see :func:`fastgan.functional.instance_norm`.
        stock: further keywords that the stock layer of the installed torch takes (``bias`` in newer ones).

    Call:
        ``layer(input, residual=None, moments=None)``; the residual, of the input's shape, is added after the activation;
        moments as the convolution that made the input gave them.

    Shape:
        (N, C, H, W) or (C, H, W) -> (N, C, H + 2 halo, W + 2 halo); with ``interior`` also its inside, of the input's
        shape.
    """

    def __init__(
        self,
        num_features: int,
        eps: float = 1e-5,
        momentum: float = 0.1,
        affine: bool = False,
        track_running_stats: bool = False,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
        *,
        activation: str = "none",
        negative_slope: float = 0.2,
        halo: int = 0,
        interior: bool = False,
        **stock: bool,
    ) -> None:
        super().__init__(num_features, eps, momentum, affine, track_running_stats, device, dtype, **stock)
        if activation not in F.ACTIVATIONS:
            raise ValueError(f"unknown activation {activation!r}: choose from {', '.join(F.ACTIVATIONS)}")
        if not isinstance(halo, int) or halo < 0:
            raise ValueError(f"halo must be a whole number of at least 0, got {halo!r}")
        self.activation = activation
        self.negative_slope = negative_slope
        self.halo = halo
        self.interior = interior

    def forward(
        self, input: Tensor, residual: Tensor | None = None, moments: Tensor | None = None
    ) -> Tensor | tuple[Tensor, Tensor]:
        self._check_input_dim(input)
        batched = input if input.dim() == 4 else input.unsqueeze(0)
        if residual is not None and residual.dim() == 3:
            residual = residual.unsqueeze(0)
        if batched.shape[1] != self.num_features:
            raise ValueError(f"expected {self.num_features} channels, got an input of shape {tuple(input.shape)}")
        y = F.instance_norm(
            batched,
            self.running_mean,
            self.running_var,
            self.weight,
            self.bias,
            self.training or not self.track_running_stats,
            self.momentum if self.momentum is not None else 0.0,
            self.eps,
            activation=self.activation,
            negative_slope=self.negative_slope,
            residual=residual,
            halo=self.halo,
            interior=self.interior,
            moments=moments,
        )
        if input.dim() == 4:
            return y
        return tuple(each.squeeze(0) for each in y) if self.interior else y.squeeze(0)

    def extra_repr(self) -> str:
        fused = f", activation={self.activation!r}" if self.activation != "none" else ""
        fused += f", negative_slope={self.negative_slope}" if self.activation == "leaky_relu" else ""
        fused += f", halo={self.halo}" if self.halo else ""
        fused += ", interior=True" if self.interior else ""
        return super().extra_repr() + fused


class ReflectionPad2d(nn.ReflectionPad2d):
    """``nn.ReflectionPad2d`` that keeps channels_last. Shape: (N, C, H, W) or (C, H, W)."""

    def forward(self, input: Tensor) -> Tensor:
        return F.reflection_pad2d(input, self.padding)


class Conv2d(nn.Conv2d):
    """``nn.Conv2d`` by :func:`fastgan.functional.conv2d`. Arguments, shape and errors as for ``nn.Conv2d``."""

    def _conv_forward(self, input: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        if self.padding_mode != "zeros":
            input = nn.functional.pad(input, self._reversed_padding_repeated_twice, mode=self.padding_mode)
            return F.conv2d(input, weight, bias, self.stride, 0, self.dilation, self.groups)
        return F.conv2d(input, weight, bias, self.stride, self.padding, self.dilation, self.groups)


class ReflectionPadConv2d(nn.Conv2d):
    """``nn.Conv2d`` with ``padding_mode="reflect"`` in one op.

    Arguments as for ``nn.Conv2d`` (padding: one number or (height, width); padding_mode: ``"reflect"``); shape as
    :func:`fastgan.functional.reflection_pad_conv2d`.

    Call:
        ``layer(input)``, or ``layer(input, moments=True)`` for what an :class:`InstanceNorm2d` that follows takes.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int | tuple[int, int],
        stride: int | tuple[int, int] = 1,
        padding: int | tuple[int, int] = 0,
        dilation: int | tuple[int, int] = 1,
        groups: int = 1,
        bias: bool = True,
        padding_mode: str = "reflect",
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        if isinstance(padding, str):
            raise ValueError(f"padding must be a number or a pair of numbers, got {padding!r}")
        if padding_mode != "reflect":
            raise ValueError(f"padding_mode must be 'reflect', got {padding_mode!r}: nn.Conv2d has the other ones")
        super().__init__(
            in_channels, out_channels, kernel_size, stride, padding, dilation, groups, bias, padding_mode, device, dtype
        )

    def forward(self, input: Tensor, moments: bool = False) -> Tensor | tuple[Tensor, Tensor | None]:
        return F.reflection_pad_conv2d(
            input, self.weight, self.bias, self.stride, self.padding, self.dilation, self.groups, moments=moments
        )


class ConvTranspose2d(nn.ConvTranspose2d):
    """``nn.ConvTranspose2d`` by phases, with an optional activation in the same pass.

    Args:
        in_channels ... dtype: as for ``nn.ConvTranspose2d``.
        activation, negative_slope, shape, errors: see :func:`fastgan.functional.conv_transpose2d`.

    Call:
        ``layer(input, output_size=None)``; an output_size (H', W') takes the place of output_padding.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int | tuple[int, int],
        stride: int | tuple[int, int] = 1,
        padding: int | tuple[int, int] = 0,
        output_padding: int | tuple[int, int] = 0,
        groups: int = 1,
        bias: bool = True,
        dilation: int | tuple[int, int] = 1,
        padding_mode: str = "zeros",
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
        *,
        activation: str = "none",
        negative_slope: float = 0.2,
    ) -> None:
        super().__init__(
            in_channels, out_channels, kernel_size, stride, padding, output_padding, groups, bias, dilation,
            padding_mode, device, dtype,
        )  # fmt: skip
        if activation not in F.ACTIVATIONS:
            raise ValueError(f"unknown activation {activation!r}: choose from {', '.join(F.ACTIVATIONS)}")
        self.activation = activation
        self.negative_slope = negative_slope

    def forward(self, input: Tensor, output_size: tuple[int, int] | None = None) -> Tensor:
        return F.conv_transpose2d(
            input,
            self.weight,
            self.bias,
            self.stride,
            self.padding,
            self.output_padding if output_size is None else 0,
            self.groups,
            self.dilation,
            output_size=output_size,
            activation=self.activation,
            negative_slope=self.negative_slope,
        )

    def extra_repr(self) -> str:
        fused = f", activation={self.activation!r}" if self.activation != "none" else ""
        fused += f", negative_slope={self.negative_slope}" if self.activation == "leaky_relu" else ""
        return super().extra_repr() + fused


class L1Loss(nn.L1Loss):
    """``nn.L1Loss``, whose target may be a number: ``loss(input, target)``; see :func:`fastgan.functional.l1_loss`."""

    def forward(self, input: Tensor, target: Tensor | float) -> Tensor:
        return F.l1_loss(input, target, reduction=self.reduction)


class MSELoss(nn.MSELoss):
    """``nn.MSELoss``, whose target may be a number: ``loss(input, target)``; see :func:`fastgan.functional.mse_loss`.
    """

    def forward(self, input: Tensor, target: Tensor | float) -> Tensor:
        return F.mse_loss(input, target, reduction=self.reduction)


class BCEWithLogitsLoss(nn.BCEWithLogitsLoss):
    """``nn.BCEWithLogitsLoss``, whose target may be a number: ``loss(input, target)``; see
    :func:`fastgan.functional.bce_with_logits`."""

    def forward(self, input: Tensor, target: Tensor | float) -> Tensor:
        return F.bce_with_logits(
            input, target, self.weight, reduction=self.reduction, pos_weight=self.pos_weight
        )
