"""The public layers: fused ops as modules.

Each subclasses the stock layer, takes its constructor arguments, keeps its parameter names, and loads its state dict
strictly, both ways.
"""

from __future__ import annotations

import functools
import sys
import warnings
from collections.abc import Callable
from typing import Any, Literal, NamedTuple, TypeGuard, cast

import torch
from torch import Tensor, fx, nn
from torch.nn.modules.module import _has_any_global_hook

from . import functional as F
from ._counters import Counted
from .ops.conv_norm_act import compute as compute_unit

__all__ = [
    "BCEWithLogitsLoss",
    "BatchNorm1d",
    "BatchNorm2d",
    "Conv2d",
    "ConvNormAct2d",
    "ConvTranspose2d",
    "InstanceNorm2d",
    "L1Loss",
    "MSELoss",
    "ReflectionPad2d",
    "ReflectionPadConv2d",
    "Sequential",
]


def _leaf(forward: Callable) -> Callable:
    """The forward of a layer that torch.fx records as one call of the layer, as it does for the layers of torch.nn, and
    that tells of quantized tensors."""

    @functools.wraps(forward)
    def checked(self: nn.Module, *inputs: Any, **named: Any) -> Any:
        for each in (*inputs, *named.values()) if named else inputs:
            if isinstance(each, fx.Proxy):
                return _recorded_call(cast("fx.Tracer", each.tracer), self, inputs, named)
            if isinstance(each, Tensor) and each.is_quantized:
                raise RuntimeError(
                    f"fastgan.nn.{type(self).__name__} computes in floating point and was given a quantized tensor: "
                    "quantize the model before fastgan.fuse, or leave this layer between DeQuantStub and QuantStub"
                )
        return forward(self, *inputs, **named)

    return checked


def _recorded_call(tracer: fx.Tracer, layer: nn.Module, inputs: tuple, named: dict[str, Any]) -> fx.Proxy:
    path = tracer.path_of_module(layer)
    if not path:
        raise RuntimeError(
            f"for torch.fx fastgan.nn.{type(layer).__name__} is one call that cannot be taken apart: trace a model "
            "that holds it, such as torch.nn.Sequential(layer)"
        )
    return tracer.create_proxy("call_module", path, inputs, named)


def _is_activation(layer: nn.Module) -> TypeGuard[nn.ReLU | nn.LeakyReLU]:
    """Whether a layer is an activation that the ops compute."""
    return type(layer) in (nn.ReLU, nn.LeakyReLU)


def _activation_of(layer: nn.Module) -> tuple[str, float]:
    """Name and slope of an activation that the ops compute."""
    return ("leaky_relu", layer.negative_slope) if isinstance(layer, nn.LeakyReLU) else ("relu", 0.0)


class UnitConvolution:
    """Mixed into a convolution that :class:`Sequential` can compute together with the norm behind it."""

    def conv_arguments(self) -> dict[str, Any]:
        """Those of :func:`fastgan.functional.conv_norm_act` that say what the layer computes."""
        raise NotImplementedError

    def is_plain(self) -> bool:
        """Whether a call of the layer does what these say, and nothing else."""
        raise NotImplementedError


class _FusedBatchNorm(Counted, nn.modules.batchnorm._BatchNorm):
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

    @property
    def eps(self) -> float:
        # Read by all of torch's functions that put another layer in the place of a batch norm, or fold it into one.
        if self.activation != "none" and not torch.compiler.is_compiling():
            reader = sys._getframe(1)
            if reader.f_globals.get("__name__", "").startswith(("torch.nn.", "torch.ao.", "torch.utils.")):
                name = type(self).__name__
                raise RuntimeError(
                    f"{reader.f_code.co_name} would drop the activation of fastgan.nn.{name}(activation="
                    f"{self.activation!r}): let nn.{'ReLU' if self.activation == 'relu' else 'LeakyReLU'} follow a "
                    f"{name} with activation='none' instead; networks of fastgan.models take norm='syncbatch'"
                )
        return self.__dict__["eps"]

    @eps.setter
    def eps(self, value: float) -> None:
        self.__dict__["eps"] = value

    @_leaf
    def forward(self, input: Tensor) -> Tensor:
        return self._normalise(input, self.activation, self.negative_slope)

    def _computes(self, follower: nn.Module) -> bool:
        return type(self).forward is _FusedBatchNorm.forward and self.activation == "none" and _is_activation(follower)

    def _compute(self, input: Tensor, follower: nn.Module) -> Tensor:
        return self._normalise(input, *_activation_of(follower))

    def _normalise(self, input: Tensor, activation: str, negative_slope: float) -> Tensor:
        self._check_input_dim(input)
        if self.activation == "none" and not input.is_floating_point():  # an error, unless there is nothing in it
            return super().forward(input)
        keeps = self.weight is not None or self.running_mean is not None  # a value for each of num_features channels
        if keeps and input.shape[1] != self.num_features:
            raise ValueError(f"expected {self.num_features} channels, got an input of shape {tuple(input.shape)}")
        running_mean, running_var, training, momentum = self._counted()
        return F.batch_norm(
            input,
            running_mean,
            running_var,
            self.weight,
            self.bias,
            training,
            momentum,
            self.__dict__["eps"],
            activation=activation,
            negative_slope=negative_slope,
        )

    def _counted(self) -> tuple[Tensor | None, Tensor | None, bool, float | Tensor]:
        """Running mean and variance, whether the batch has its own, and their weight; a batch is counted."""
        momentum: float | Tensor | None = self.momentum
        if self.training and self.track_running_stats and self.num_batches_tracked is not None:
            self.num_batches_tracked.add_(1)
            if momentum is None:  # the mean of all batches so far
                momentum = self.num_batches_tracked.double().reciprocal()
        running = (
            (None, None) if self.training and not self.track_running_stats else (self.running_mean, self.running_var)
        )
        return *running, self.training or self.running_mean is None, momentum if momentum is not None else 0.0

    def _norm_arguments(self) -> dict[str, Any]:
        running_mean, running_var, training, momentum = self._counted()
        return {
            "norm": "batch",
            "running_mean": running_mean,
            "running_var": running_var,
            "norm_weight": self.weight,
            "norm_bias": self.bias,
            "use_input_stats": training,
            "momentum": momentum,
            "eps": self.__dict__["eps"],
        }

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

    torch's functions that replace a batch norm, or fold it into another layer, know of no activation:
    ``nn.SyncBatchNorm.convert_sync_batchnorm``, ``torch.nn.utils.fuse_conv_bn_eval``, ``torch.utils.mkldnn.to_mkldnn``
    and their like end with a RuntimeError at a layer that holds one. Leave it at ``"none"`` there, and let ``nn.ReLU``
    follow in a :class:`Sequential`, which computes both in one pass, too.

    Shape:
        (N, C) or (N, C, L), kept.
    """


class BatchNorm2d(_FusedBatchNorm, nn.BatchNorm2d):
    """``nn.BatchNorm2d`` with the activation in the same pass. Shape: (N, C, H, W), kept; arguments as for
    :class:`BatchNorm1d`."""


class InstanceNorm2d(Counted, nn.InstanceNorm2d):
    """``nn.InstanceNorm2d`` with activation and residual in the same pass.

    Args:
        num_features, eps, momentum, affine, track_running_stats: as for ``nn.InstanceNorm2d``.
        activation, negative_slope: see :func:`fastgan.functional.instance_norm`.
        stock: further keywords that the stock layer of the installed torch takes (``bias`` in newer ones).

    Call:
        ``layer(input, residual=None)``; the residual, of the input's shape, is added after the activation.

    Shape:
        (N, C, H, W) or (C, H, W), kept.
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
        **stock: bool,
    ) -> None:
        super().__init__(num_features, eps, momentum, affine, track_running_stats, device, dtype, **stock)
        if activation not in F.ACTIVATIONS:
            raise ValueError(f"unknown activation {activation!r}: choose from {', '.join(F.ACTIVATIONS)}")
        self.activation = activation
        self.negative_slope = negative_slope

    @_leaf
    def forward(self, input: Tensor, residual: Tensor | None = None) -> Tensor:
        return self._normalise(input, residual, self.activation, self.negative_slope)

    def _computes(self, follower: nn.Module) -> bool:
        return type(self).forward is InstanceNorm2d.forward and self.activation == "none" and _is_activation(follower)

    def _compute(self, input: Tensor, follower: nn.Module) -> Tensor:
        return self._normalise(input, None, *_activation_of(follower))

    def _normalise(self, input: Tensor, residual: Tensor | None, activation: str, negative_slope: float) -> Tensor:
        self._check_input_dim(input)
        if self.activation == "none" and not input.is_floating_point():
            return super().forward(input)  # an error, unless there is nothing in it
        batched = input if input.dim() == 4 else input.unsqueeze(0)
        if residual is not None and residual.dim() == 3:
            residual = residual.unsqueeze(0)
        if batched.shape[1] != self.num_features:
            sentence = f"expected {self.num_features} channels, got an input of shape {tuple(input.shape)}"
            if self.affine:
                raise ValueError(sentence)
            warnings.warn(f"{sentence}, which a norm without parameters takes as well", stacklevel=3)
        y = F.instance_norm(
            batched,
            self.running_mean,
            self.running_var,
            self.weight,
            self.bias,
            self.training or not self.track_running_stats,
            self.momentum if self.momentum is not None else 0.0,
            self.eps,
            activation=activation,
            negative_slope=negative_slope,
            residual=residual,
        )
        return y if input.dim() == 4 else y.squeeze(0)

    def is_plain(self) -> bool:
        return type(self).forward is InstanceNorm2d.forward

    def _norm_arguments(self) -> dict[str, Any]:
        return {
            "norm": "instance",
            "running_mean": self.running_mean,
            "running_var": self.running_var,
            "norm_weight": self.weight,
            "norm_bias": self.bias,
            "use_input_stats": self.training or not self.track_running_stats,
            "momentum": self.momentum if self.momentum is not None else 0.0,
            "eps": self.eps,
            "activation": self.activation,
            "negative_slope": self.negative_slope,
        }

    def extra_repr(self) -> str:
        fused = f", activation={self.activation!r}" if self.activation != "none" else ""
        fused += f", negative_slope={self.negative_slope}" if self.activation == "leaky_relu" else ""
        return super().extra_repr() + fused


class ReflectionPad2d(Counted, nn.ReflectionPad2d):
    """``nn.ReflectionPad2d`` that keeps channels_last. Shape: (N, C, H, W) or (C, H, W)."""

    @_leaf
    def forward(self, input: Tensor) -> Tensor:
        if min(self.padding) < 0:  # crops
            return super().forward(input)
        return F.reflection_pad2d(input, self.padding)

    def _computes(self, follower: nn.Module) -> bool:
        left, right, top, bottom = self.padding
        return (
            type(self).forward is ReflectionPad2d.forward
            and (left, top) == (right, bottom)
            and min(left, top) >= 0
            and type(follower) in (Conv2d, nn.Conv2d)
            and follower.padding in ("valid", (0, 0))
        )

    def _compute(self, input: Tensor, follower: nn.Conv2d) -> Tensor:
        left, _, top, _ = self.padding
        return F.reflection_pad_conv2d(
            input, follower.weight, follower.bias, follower.stride, (top, left), follower.dilation, follower.groups
        )


class Conv2d(UnitConvolution, Counted, nn.Conv2d):
    """``nn.Conv2d`` by :func:`fastgan.functional.conv2d`. Arguments, shape and errors as for ``nn.Conv2d``."""

    @_leaf
    def forward(self, input: Tensor) -> Tensor:
        return super().forward(input)

    def _conv_forward(self, input: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        if self.padding_mode != "zeros":
            input = nn.functional.pad(input, self._reversed_padding_repeated_twice, mode=self.padding_mode)
            return F.conv2d(input, weight, bias, self.stride, 0, self.dilation, self.groups)
        return F.conv2d(input, weight, bias, self.stride, self.padding, self.dilation, self.groups)

    def conv_arguments(self) -> dict[str, Any]:
        return _arguments_of(self)

    def is_plain(self) -> bool:
        return type(self).forward is Conv2d.forward and self.padding_mode == "zeros"


class ReflectionPadConv2d(UnitConvolution, Counted, nn.Conv2d):
    """``nn.Conv2d`` with ``padding_mode="reflect"`` in one op.

    Arguments as for ``nn.Conv2d`` (padding: one number or (height, width); padding_mode: ``"reflect"``); shape as
    :func:`fastgan.functional.reflection_pad_conv2d`.
    """

    padding: tuple[int, ...]

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
        padding_mode: Literal["reflect"] = "reflect",
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

    @_leaf
    def forward(self, input: Tensor) -> Tensor:
        return F.reflection_pad_conv2d(
            input, self.weight, self.bias, self.stride, self.padding, self.dilation, self.groups
        )

    def conv_arguments(self) -> dict[str, Any]:
        return _arguments_of(self, padding_mode="reflect")

    def is_plain(self) -> bool:
        return type(self).forward is ReflectionPadConv2d.forward


class ConvNormAct2d(nn.Module):
    """Convolution, norm, activation and residual in one layer, by :func:`fastgan.functional.conv_norm_act`.

    Args:
        in_channels, out_channels, kernel_size, stride, padding, dilation, groups, bias: of the convolution.
        padding_mode: ``"zeros"`` or ``"reflect"``.
        transposed, output_padding: a transposed convolution.
        norm: ``"instance"``, ``"batch"`` or ``"none"``.
        eps, momentum, affine, track_running_stats: of the norm; None for what is usual: an instance norm has neither
            parameters nor running statistics, a batch norm has both.
        activation, negative_slope: see the function.
        device, dtype: of parameters and buffers.

    The state dict has that of a convolution under ``conv.`` and that of a norm under ``norm.``, as layers of torch.nn
    with these names would.

    Call:
        ``layer(input, residual=None)``; the residual, of the output's shape, is added after the activation.

    Shape:
        (N, C, H, W) or (C, H, W) -> as the convolution gives it.
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
        padding_mode: str = "zeros",
        *,
        transposed: bool = False,
        output_padding: int | tuple[int, int] = 0,
        norm: str = "instance",
        eps: float = 1e-5,
        momentum: float | None = 0.1,
        affine: bool | None = None,
        track_running_stats: bool | None = None,
        activation: str = "none",
        negative_slope: float = 0.2,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        if norm not in F.NORMS:
            raise ValueError(f"unknown norm {norm!r}: choose from {', '.join(F.NORMS)}")
        if padding_mode not in F.PADDING_MODES:
            raise ValueError(f"unknown padding_mode {padding_mode!r}: choose from {', '.join(F.PADDING_MODES)}")
        if activation not in F.ACTIVATIONS:
            raise ValueError(f"unknown activation {activation!r}: choose from {', '.join(F.ACTIVATIONS)}")
        if transposed and padding_mode != "zeros":
            raise ValueError(f"a transposed convolution pads by zeros, got padding_mode={padding_mode!r}")
        if not transposed and output_padding not in (0, (0, 0)):
            raise ValueError(f"only a transposed convolution has an output_padding, got {output_padding!r}")
        where: dict[str, Any] = {"device": device, "dtype": dtype}
        self.conv: Conv2d | ReflectionPadConv2d | ConvTranspose2d
        if transposed:
            self.conv = ConvTranspose2d(
                in_channels, out_channels, kernel_size, stride, padding, output_padding, groups, bias, dilation, **where
            )
        else:
            kind = ReflectionPadConv2d if padding_mode == "reflect" else Conv2d
            self.conv = kind(in_channels, out_channels, kernel_size, stride, padding, dilation, groups, bias, **where)
        usual = norm == "batch"
        affine = usual if affine is None else affine
        track_running_stats = usual if track_running_stats is None else track_running_stats
        self.norm: InstanceNorm2d | BatchNorm2d | nn.Identity
        if norm == "none":
            self.norm = nn.Identity()
        elif norm == "instance":
            self.norm = InstanceNorm2d(
                out_channels, eps, momentum if momentum is not None else 0.0, affine, track_running_stats, **where
            )
        else:
            self.norm = BatchNorm2d(out_channels, eps, momentum, affine, track_running_stats, **where)
        self.activation = activation
        self.negative_slope = negative_slope

    @_leaf
    def forward(self, input: Tensor, residual: Tensor | None = None) -> Tensor:
        return F.conv_norm_act(input, residual=residual, **self._arguments())

    def is_plain(self) -> bool:
        return type(self).forward is ConvNormAct2d.forward

    def _arguments(self) -> dict[str, Any]:
        norm = {"norm": "none"} if isinstance(self.norm, nn.Identity) else self.norm._norm_arguments()
        fused = {"activation": self.activation, "negative_slope": self.negative_slope}
        return self.conv.conv_arguments() | norm | fused

    def extra_repr(self) -> str:
        fused = f"activation={self.activation!r}"
        return fused + (f", negative_slope={self.negative_slope}" if self.activation == "leaky_relu" else "")


class ConvTranspose2d(UnitConvolution, Counted, nn.ConvTranspose2d):
    """``nn.ConvTranspose2d`` by phases, with an optional activation in the same pass.

    Args:
        in_channels ... dtype: as for ``nn.ConvTranspose2d``.
        activation, negative_slope, shape, errors: see :func:`fastgan.functional.conv_transpose2d`.

    Call:
        ``layer(input, output_size=None)``; an output_size (H', W') takes the place of output_padding.
    """

    padding: tuple[int, ...]

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
        padding_mode: Literal["zeros"] = "zeros",
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

    @_leaf
    def forward(self, input: Tensor, output_size: tuple[int, int] | None = None) -> Tensor:
        return self._transpose(input, output_size, self.activation, self.negative_slope)

    def _computes(self, follower: nn.Module) -> bool:
        # A leaky ReLU keeps what it was given, so that its result may be changed in place; our op keeps the result of
        # the activation, as ReLU does.
        return type(self).forward is ConvTranspose2d.forward and self.activation == "none" and type(follower) is nn.ReLU

    def _compute(self, input: Tensor, follower: nn.Module) -> Tensor:
        return self._transpose(input, None, *_activation_of(follower))

    def conv_arguments(self) -> dict[str, Any]:
        return _arguments_of(self, transposed=True, output_padding=self.output_padding)

    def is_plain(self) -> bool:
        return type(self).forward is ConvTranspose2d.forward and self.activation == "none"

    def _transpose(
        self, input: Tensor, output_size: tuple[int, int] | None, activation: str, negative_slope: float
    ) -> Tensor:
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
            activation=activation,
            negative_slope=negative_slope,
        )

    def extra_repr(self) -> str:
        fused = f", activation={self.activation!r}" if self.activation != "none" else ""
        fused += f", negative_slope={self.negative_slope}" if self.activation == "leaky_relu" else ""
        return super().extra_repr() + fused


def _only_stock_takes(target: Tensor | float, input: Tensor) -> TypeGuard[Tensor]:
    """Whether tensors are left to the stock loss: whole numbers and complex ones."""
    return isinstance(target, Tensor) and (not input.is_floating_point() or target.is_complex())


class L1Loss(nn.L1Loss):
    """``nn.L1Loss``, whose target may be a number: ``loss(input, target)``; see :func:`fastgan.functional.l1_loss`."""

    @_leaf
    def forward(self, input: Tensor, target: Tensor | float) -> Tensor:
        if _only_stock_takes(target, input):
            return super().forward(input, target)
        return F.l1_loss(input, target, reduction=self.reduction)


class MSELoss(nn.MSELoss):
    """``nn.MSELoss`` whose target may be a number: ``loss(input, target)``; see :func:`fastgan.functional.mse_loss`."""

    @_leaf
    def forward(self, input: Tensor, target: Tensor | float) -> Tensor:
        if _only_stock_takes(target, input):
            return super().forward(input, target)
        return F.mse_loss(input, target, reduction=self.reduction)


class BCEWithLogitsLoss(nn.BCEWithLogitsLoss):
    """``nn.BCEWithLogitsLoss``, whose target may be a number: ``loss(input, target)``; see
    :func:`fastgan.functional.bce_with_logits`."""

    @_leaf
    def forward(self, input: Tensor, target: Tensor | float) -> Tensor:
        if _only_stock_takes(target, input):
            return super().forward(input, target)
        return F.bce_with_logits(input, target, self.weight, reduction=self.reduction, pos_weight=self.pos_weight)


class Sequential(nn.Sequential):
    """``nn.Sequential`` that computes neighbours in one pass, where we have an op for them:

    - :class:`ReflectionPad2d`, then a convolution without padding of its own;
    - :class:`InstanceNorm2d`, :class:`BatchNorm1d` or :class:`BatchNorm2d`, then ``nn.ReLU`` or ``nn.LeakyReLU``;
    - :class:`ConvTranspose2d`, then ``nn.ReLU``;
    - a convolution, :class:`InstanceNorm2d` and its activation, by :func:`fastgan.functional.conv_norm_act`: the norm
      writes the reflected border, too, where the layer behind it pads by reflection.

    Each layer stays what it is: one that is called by itself, as in a loop over the layers, gives its own result. What
    stands between two neighbours is not computed, so they run one after the other wherever somebody looks there: with
    hooks on one of them (or hooks of all modules), with a forward of its own or a ``compile()`` of its own, and in
    a graph that torch.fx traces, in which every layer is one call.

    Arguments, state dict, results and errors as for ``nn.Sequential``.
    """

    def forward(self, input):  # not annotated, as in torch: torch.fx writes annotations into what it traces
        if isinstance(input, fx.Proxy) or _has_any_global_hook():
            return super().forward(input)
        return in_order(list(self._modules.values()), Bordered(input)).image


class Bordered(NamedTuple):
    """An image between two layers, and the same with the reflected border that the second one pads with, if there."""

    image: Any
    border: Tensor | None = None


def in_order(layers: list[nn.Module], given: Bordered, halo: int = 0, residual: Tensor | None = None) -> Bordered:
    """What :class:`Sequential` makes of an image, and ``residual`` added to it; with a border of width ``halo`` where
    the layers end with a unit that writes one."""
    position = 0
    while position < len(layers):
        layer = layers[position]
        if type(layer) is nn.Identity and not observed(layer):
            position += 1
            continue
        image, border = given
        images = isinstance(image, Tensor) and image.dim() == 4 and image.is_floating_point()
        if images and (unit := _unit(layers, position)) is not None:
            arguments, count = unit
            position += count
            last = position == len(layers)
            wanted = halo if last else _border_before(layers, position)
            if border is not None:
                image, arguments["padding"] = border, 0
            if last:
                residual, arguments["residual"] = None, residual
            y, interior = compute_unit(image, **arguments, halo=wanted, with_interior=wanted > 0)
            given = Bordered(y) if interior is None else Bordered(interior, y)
        elif images and isinstance(layer, Bordering) and not observed(layer):
            position += 1
            given = layer.through(given, halo if position == len(layers) else _border_before(layers, position))
        elif border is not None and (convolution := _convolution(layers, position)) is not None:
            arguments, count = convolution
            position += count
            names = ("weight", "bias", "stride", "dilation", "groups")
            given = Bordered(F.conv2d(border, **{name: arguments[name] for name in names}))
        else:
            pair = layers[position : position + 2]
            if in_one_pass(*pair) and not getattr(image, "is_quantized", False):
                given = Bordered(cast(Any, layer)._compute(image, pair[1]))
            else:
                given = Bordered(layer(image))
                del pair[1:]
            position += len(pair)
    return given if residual is None else Bordered(given.image + residual)


class Bordering(nn.Module):
    """A layer that reads and writes reflected borders, for :class:`Sequential`."""

    def border(self) -> int:
        """The width of the border that it pads its input with; 0 where it takes none."""
        raise NotImplementedError

    def through(self, given: Bordered, halo: int) -> Bordered:
        """The forward pass, of an image with its border, to one with a border of width ``halo``, where it can."""
        raise NotImplementedError


def _convolution(layers: list[nn.Module], position: int) -> tuple[dict[str, Any], int] | None:
    """A convolution, which a reflected padding may go before, as arguments of conv_norm_act, and how many layers it is;
    None where something else follows."""
    layer = layers[position]
    if type(layer) is ReflectionPad2d and in_one_pass(*layers[position : position + 2]):
        left, _, top, _ = layer.padding
        arguments = _arguments_of(layers[position + 1])
        return arguments | {"padding": (top, left), "padding_mode": "reflect"}, 2
    if not isinstance(layer, UnitConvolution) or not layer.is_plain() or observed(layer):
        return None
    return layer.conv_arguments(), 1


def _arguments_of(convolution: nn.Module, **others: Any) -> dict[str, Any]:
    names = ("weight", "bias", "stride", "padding", "dilation", "groups")
    return {name: getattr(convolution, name) for name in names} | others


def _unit(layers: list[nn.Module], position: int) -> tuple[dict[str, Any], int] | None:
    """A convolution with its instance norm and activation, likewise."""
    block = _block(layers[position])
    if block is not None:
        return block._arguments(), 1
    found = _convolution(layers, position)
    if found is None:
        return None
    arguments, count = found
    norm = layers[position + count] if position + count < len(layers) else None
    if not isinstance(norm, InstanceNorm2d) or not norm.is_plain() or observed(norm):
        return None
    channels = (
        arguments["weight"].shape[1] * arguments["groups"] if "transposed" in arguments else len(arguments["weight"])
    )
    if channels != norm.num_features:  # of which the layer itself tells
        return None
    arguments |= norm._norm_arguments()
    count += 1
    follower = layers[position + count] if position + count < len(layers) else None
    if follower is not None and _is_activation(follower) and in_one_pass(norm, follower):
        arguments["activation"], arguments["negative_slope"] = _activation_of(follower)
        count += 1
    return arguments, count


def _block(layer: nn.Module) -> ConvNormAct2d | None:
    """The layer, if it is a block whose inside no hook reads."""
    if isinstance(layer, ConvNormAct2d) and layer.is_plain() and not any(map(observed, layer.modules())):
        return layer
    return None


def _border_before(layers: list[nn.Module], position: int) -> int:
    """The width of the reflected border that the next layer pads with; 0 where it pads otherwise."""
    while position < len(layers) and type(layers[position]) is nn.Identity and not observed(layers[position]):
        position += 1
    if position == len(layers):
        return 0
    layer = layers[position]
    if isinstance(layer, Bordering):
        return 0 if observed(layer) else layer.border()
    block = _block(layer)
    found = (block.conv.conv_arguments(), 1) if block is not None else _convolution(layers, position)
    if found is None or found[0].get("padding_mode") != "reflect":
        return 0
    arguments, _ = found
    height, width = arguments["padding"]
    return height if height == width else 0


def in_one_pass(first: nn.Module, second: nn.Module | None = None) -> bool:
    """Whether :class:`Sequential` computes two neighbours in one pass."""
    computes = getattr(type(first), "_computes", None)
    return (
        second is not None
        and computes is not None
        and computes(first, second)
        and not observed(first)
        and not observed(second)
    )


def observed(layer: nn.Module) -> bool:
    """Whether a call of a layer does more than its class says, such as to show somebody what comes in and goes out."""
    return bool(
        layer._forward_hooks
        or layer._forward_pre_hooks
        or layer._backward_hooks
        or layer._backward_pre_hooks
        or layer._compiled_call_impl is not None
        or "forward" in layer.__dict__
    )
