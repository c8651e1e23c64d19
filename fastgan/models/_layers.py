"""What stands between two convolutions of these networks, for every choice of `norm`.

With instance norm the published networks give each convolution a bias that the norm's mean subtraction cancels exactly:
it changes no output and its true gradient is zero. The layers here keep such a bias as a parameter (state dicts and
parameter counts stay the published ones), freeze it (`requires_grad` is False) and skip both the add and the gradient.
A bias that someone unfreezes is added like any other: what asks for a gradient gets one, which DistributedDataParallel
and others count on.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Literal

from torch import Tensor, nn

from fastgan import functional
from fastgan import nn as fnn

NORMS = ("instance", "batch", "none", "syncbatch")
FUSED_NORMS = ("instance", "batch")  # norm and activation run in one pass


def check_norm(norm: str) -> str:
    """`norm` itself, or a ValueError naming the choices."""
    if norm not in NORMS:
        raise ValueError(f"unknown norm {norm!r}; choose one of {', '.join(NORMS)}")
    return norm


class NormedConv2d(fnn.UnitConvolution, nn.Conv2d):
    """A convolution whose output goes straight into an instance norm: bias kept, frozen, and not added while it is.

    Parameters and state dict are nn.Conv2d's. padding_mode is "zeros" or "reflect".
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int,
        stride: int = 1,
        padding: int = 0,
        padding_mode: Literal["zeros", "reflect"] = "zeros",
    ):
        super().__init__(in_channels, out_channels, kernel_size, stride, padding, padding_mode=padding_mode)
        _freeze_bias(self)

    padding: tuple[int, ...]

    def forward(self, input: Tensor) -> Tensor:
        bias = _unfrozen_bias(self)
        # Without padding there is nothing to reflect, and the op's faster kernels serve.
        if self.padding_mode == "reflect" or self.padding == (0, 0):
            return functional.reflection_pad_conv2d(input, self.weight, bias, self.stride, self.padding)
        return functional.conv2d(input, self.weight, bias, self.stride, self.padding)

    def is_plain(self) -> bool:
        return type(self).forward is NormedConv2d.forward

    def conv_arguments(self) -> dict[str, Any]:
        mode = "reflect" if self.padding == (0, 0) else self.padding_mode
        return {
            "weight": self.weight,
            "bias": _unfrozen_bias(self),
            "stride": self.stride,
            "padding": self.padding,
            "dilation": self.dilation,
            "groups": self.groups,
            "padding_mode": mode,
        }


class NormedConvTranspose2d(fnn.UnitConvolution, nn.ConvTranspose2d):
    """A transposed convolution whose output goes straight into an instance norm: bias kept, frozen, and not added while
    it is."""

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int,
        stride: int = 1,
        padding: int = 0,
        output_padding: int = 0,
    ):
        super().__init__(in_channels, out_channels, kernel_size, stride, padding, output_padding)
        _freeze_bias(self)

    padding: tuple[int, ...]

    def forward(self, input: Tensor) -> Tensor:  # type: ignore[override]  # no output_size: the networks give none
        return functional.conv_transpose2d(
            input, self.weight, _unfrozen_bias(self), self.stride, self.padding, self.output_padding
        )

    def is_plain(self) -> bool:
        return type(self).forward is NormedConvTranspose2d.forward

    def conv_arguments(self) -> dict[str, Any]:
        return {
            "weight": self.weight,
            "bias": _unfrozen_bias(self),
            "stride": self.stride,
            "padding": self.padding,
            "dilation": self.dilation,
            "groups": self.groups,
            "transposed": True,
            "output_padding": self.output_padding,
        }


def _freeze_bias(layer: nn.Conv2d | nn.ConvTranspose2d) -> None:
    assert layer.bias is not None
    layer.bias.requires_grad_(False)


def _unfrozen_bias(layer: nn.Conv2d | nn.ConvTranspose2d) -> Tensor | None:
    # Of the parameter itself, where torch.fx traces; DataParallel's replicas keep theirs as attributes.
    bias = layer._parameters["bias"] if "bias" in layer._parameters else layer.bias  # noqa: SIM401
    return layer.bias if bias is not None and bias.requires_grad else None


class BatchNorm2d(fnn.BatchNorm2d):
    """fastgan.nn.BatchNorm2d that can normalise each image by itself in evaluation (`statistics_of_each_image`)."""

    of_each_image = False

    def forward(self, input: Tensor) -> Tensor:
        if self.training or not self.of_each_image or input.shape[-2:].numel() == 1:  # one pixel has no variance
            return super().forward(input)
        return functional.instance_norm(
            input,
            None,
            None,
            self.weight,
            self.bias,
            eps=self.eps,
            activation=self.activation,
            negative_slope=self.negative_slope,
        )


@contextmanager
def statistics_of_each_image(network: nn.Module) -> Iterator[None]:
    """While it lasts, batch norms of `network` in evaluation mode normalise every image by its own mean and variance.

    So translators with batch norm are meant to be run (Isola et al. 2017, section 3.3: statistics of the test batch,
    which is one image); their running statistics mix images that were normalised one by one in training. A result does
    not depend on what else is in the batch. Not for nn.SyncBatchNorm.
    """
    layers = [module for module in network.modules() if isinstance(module, BatchNorm2d)]
    before = [layer.of_each_image for layer in layers]
    try:
        for layer in layers:
            layer.of_each_image = True
        yield
    finally:
        for layer, value in zip(layers, before):
            layer.of_each_image = value


def conv_before_norm(
    norm: str,
    in_channels: int,
    out_channels: int,
    kernel_size: int,
    stride: int = 1,
    padding: int = 0,
    reflect: bool = False,
) -> nn.Module:
    """A convolution followed by `norm`. As published, it owns a bias exactly when the norm is instance norm."""
    if norm == "instance":
        return NormedConv2d(in_channels, out_channels, kernel_size, stride, padding, "reflect" if reflect else "zeros")
    layer = fnn.ReflectionPadConv2d if reflect else fnn.Conv2d
    return layer(in_channels, out_channels, kernel_size, stride=stride, padding=padding, bias=False)


def upsampling_before_norm(norm: str, in_channels: int, out_channels: int, kernel_size: int = 3) -> nn.Module:
    """The transposed convolution, 3x3 or 4x4, that doubles height and width, followed by `norm`."""
    output_padding = kernel_size % 2
    if norm == "instance":
        return NormedConvTranspose2d(in_channels, out_channels, kernel_size, 2, 1, output_padding)
    return fnn.ConvTranspose2d(in_channels, out_channels, kernel_size, 2, 1, output_padding, bias=False)


def norm_and_activation(
    norm: str, channels: int, activation: str = "relu", negative_slope: float = 0.2
) -> list[nn.Module]:
    """The two modules after a convolution: norm, then activation ("none", "relu" or "leaky_relu").

    With instance and batch norm the first one does both; the second is an Identity that keeps the published index.
    """
    if norm == "instance":
        return [fnn.InstanceNorm2d(channels, activation=activation, negative_slope=negative_slope), nn.Identity()]
    if norm == "batch":
        return [BatchNorm2d(channels, activation=activation, negative_slope=negative_slope), nn.Identity()]
    act = {"none": nn.Identity(), "relu": nn.ReLU(), "leaky_relu": nn.LeakyReLU(negative_slope)}[activation]
    return [nn.SyncBatchNorm(channels) if norm == "syncbatch" else nn.Identity(), act]


__all__ = [
    "FUSED_NORMS",
    "NORMS",
    "NormedConv2d",
    "NormedConvTranspose2d",
    "check_norm",
    "conv_before_norm",
    "norm_and_activation",
    "statistics_of_each_image",
    "upsampling_before_norm",
]
