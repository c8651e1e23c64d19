"""``fastgan.unfuse``: the layers of a model become those of ``torch.nn`` again, in place."""

from __future__ import annotations

from itertools import pairwise
from typing import TypeVar

from torch import nn

from . import nn as fnn
from ._fuse import OURS, _joining
from .models import _layers
from .models.resnet import ResnetBlock, ResnetGenerator

__all__ = ["unfuse"]

Model = TypeVar("Model", bound=nn.Module)

_STOCK: dict[type[nn.Module], type[nn.Module]] = {
    **{ours: stock for stock, ours in OURS.items()},
    fnn.ReflectionPadConv2d: nn.Conv2d,
    _layers.NormedConv2d: nn.Conv2d,
    _layers.NormedConvTranspose2d: nn.ConvTranspose2d,
    _layers.BatchNorm2d: nn.BatchNorm2d,
}
_OPTIONS = ("activation", "negative_slope")  # what our layers have beyond the stock ones


def unfuse(model: Model) -> Model:
    """Give a model the layers of ``torch.nn`` back: the inverse of :func:`fastgan.fuse`, which also takes models built
    with ``fastgan.nn`` and the networks of ``fastgan.models``.

    The model is changed in place and computes what it computed, but for rounding. Parameters and buffers stay the same
    objects under the same keys. An activation that one of our layers brings becomes a layer of its own: in the place
    of the ``nn.Identity`` that follows in the ``nn.Sequential``, or inserted there under a new name. A ResNet generator
    gets its padding layers back. Biases before an instance norm are added again, as in the published networks, and
    stay frozen. Batch norms of ``fastgan.models`` go by running statistics in evaluation.

    A :class:`fastgan.nn.ConvNormAct2d` becomes an ``nn.Sequential`` of its parts, which takes no residual. Subclasses
    of our layers are left alone.

    Args:
        model: any module.

    Returns:
        The model itself.

    Raises:
        ValueError: something that is not a module; a layer with an activation that stands in no Sequential. The model
            is then as it was.
    """
    if not isinstance(model, nn.Module):
        raise ValueError(
            f"unfuse takes a model, a torch.nn.Module, got {type(model).__name__}: give it the model itself"
        )
    modules = dict(model.named_modules())
    generators = [module for module in modules.values() if type(module) is ResnetGenerator]
    sequentials = [module for module in modules.values() if isinstance(module, nn.Sequential)]
    _check(modules, sequentials)
    for generator in generators:
        _put_padding_back(generator)
    for sequential in sequentials:
        _put_activations_back(sequential)
    for module in modules.values():
        if type(module) is fnn.ConvNormAct2d:
            _take_apart(module)
    for module in modules.values():
        stock = _STOCK.get(type(module))
        if type(module) is fnn.Sequential:
            module.__class__ = nn.Sequential  # type: ignore[assignment]
        elif isinstance(module, fnn.Sequential):
            kind = type(module).__bases__[-1]
            if type(module) is _joining(kind):  # which fuse made of a subclass of nn.Sequential
                module.__class__ = kind
        elif stock is not None:
            module.__class__ = stock
            for option in _OPTIONS:
                module.__dict__.pop(option, None)
    return model


def _check(modules: dict[str, nn.Module], sequentials: list[nn.Sequential]) -> None:
    in_sequence = {layer for sequential in sequentials for layer in sequential}
    for path, layer in modules.items():
        if type(layer) not in _STOCK:
            continue
        place = path or "the model"
        if _activation(layer) is not None and layer not in in_sequence:
            raise ValueError(
                f"{place} brings its {layer.activation}, for which there is no place outside an nn.Sequential: build "
                "it with activation='none', and let the activation follow"
            )


def _put_padding_back(generator: ResnetGenerator) -> None:
    """Let each convolution that pads by reflection have its padding layer."""
    blocks = [module for module in generator.modules() if isinstance(module, ResnetBlock)]
    for sequential in (generator.model, *(block.conv_block for block in blocks)):
        for (name, place), (_, follower) in pairwise(list(sequential.named_children())):
            if (
                isinstance(place, nn.Identity)
                and isinstance(follower, nn.Conv2d)
                and follower.padding_mode == "reflect"
            ):
                setattr(sequential, name, nn.ReflectionPad2d(follower.kernel_size[0] // 2).train(place.training))
                follower.padding, follower.padding_mode = (0, 0), "zeros"
    for block in blocks:
        block.reads_border = False


def _take_apart(layer: fnn.ConvNormAct2d) -> None:
    activation = _activation(layer)
    if activation is not None:
        layer.add_module("act", activation.train(layer.training))
    for option in _OPTIONS:
        del layer.__dict__[option]
    layer.__class__ = nn.Sequential  # type: ignore[assignment]


def _put_activations_back(sequential: nn.Sequential) -> None:
    """Let the activation that a layer brings be the next layer, with all keys of the state dict as they are."""
    children = list(sequential.named_children())
    layers: dict[str, nn.Module] = {}
    for index, (name, layer) in enumerate(children):
        if name in layers:  # an Identity whose place was taken
            continue
        layers[name] = layer
        activation = _activation(layer) if type(layer) in _STOCK else None
        if activation is None:
            continue
        follower = children[index + 1] if index + 1 < len(children) else None
        place = follower[0] if follower and type(follower[1]) is nn.Identity else f"{name}_{layer.activation}"
        layers[place] = activation.train(layer.training)
    sequential._modules.clear()
    sequential._modules.update(layers)


def _activation(layer: nn.Module) -> nn.Module | None:
    """The activation that a layer of ours brings, as a layer."""
    name = getattr(layer, "activation", "none")
    if name == "none":
        return None
    return nn.ReLU() if name == "relu" else nn.LeakyReLU(vars(layer)["negative_slope"])
