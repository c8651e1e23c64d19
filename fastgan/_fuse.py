"""``fastgan.fuse``: the layers of a finished model become ours, in place, and neighbours that we compute in one pass
become one."""

from __future__ import annotations

import inspect
from collections import Counter
from collections.abc import Callable
from itertools import pairwise
from typing import Any, NamedTuple, TypeVar

from torch import nn
from torch.nn.utils import parametrize

from . import nn as fnn

__all__ = ["fuse"]

Model = TypeVar("Model", bound=nn.Module)

OURS = {getattr(nn, name): getattr(fnn, name) for name in fnn.__all__ if hasattr(nn, name)}
_FINISHED = (*OURS.values(), fnn.ReflectionPadConv2d)
_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.InstanceNorm2d)
_HOOKS = (
    "_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks", "_state_dict_hooks",
    "_state_dict_pre_hooks", "_load_state_dict_pre_hooks", "_load_state_dict_post_hooks",
)  # fmt: skip


def fuse(model: Model, *, report: Callable[[str], object] | None = None) -> Model:
    """Let the layers of a model be computed by fastgan, without a change to the model's code.

    Inside every ``nn.Sequential``, neighbours become one layer:

    - ``ReflectionPad2d``, ``Conv2d``: :class:`fastgan.nn.ReflectionPadConv2d`;
    - ``InstanceNorm2d``, ``BatchNorm1d`` or ``BatchNorm2d``, then ``ReLU`` or ``LeakyReLU``: our norm with activation;
    - ``ConvTranspose2d``, ``ReLU``: our transposed convolution with activation.

    ``nn.Identity`` takes the place of the padding or the activation, so that all indices, and with them the keys of the
    state dict, stay. Everywhere, other layers that ``fastgan.nn`` has under the same name (norms, convolutions,
    padding, losses) become ours.

    The model computes what it computed, but for rounding. It is changed in place: every layer stays the object that it
    is, with its parameters and buffers, and gets another class. Optimizers, shared layers and references from elsewhere
    therefore stay valid, and modes, dtypes, devices and memory formats are what they were. A second call finds nothing
    more to do. ``fuse(copy.deepcopy(model))`` leaves the model as it is.

    Left alone are layers with hooks (which the older ``spectral_norm`` and ``weight_norm`` are made of),
    parametrizations, a forward of their own or their own ``compile()``; subclasses; arguments that our layers do not
    take, or leave to torch; and, for the joining of neighbours, a norm or a convolution that the model holds in more
    than one place, unequal padding on opposite sides, and a convolution that pads, too.

    What cannot be seen from the modules is yours to know:

    - A forward that takes results from between two neighbours (a loop over the layers of a Sequential, a slice of it)
      finds padding or activation elsewhere: fuse the other parts alone, as in ``fuse(model.decoder)``.
    - ``nn.SyncBatchNorm.convert_sync_batchnorm`` drops the activation of a norm: call it before.
    - An ``InstanceNorm2d`` without affine parameters refuses images of other than ``num_features`` channels, of which
      torch's only warns.
    - vmap and forward-mode derivatives need ``fastgan.backend("reference")``; TorchScript does not take our layers.

    Args:
        model: any module; one layer, too.
        report: is called with a sentence for each layer or pair, what became of it or why it was left; ``print``, say.

    Returns:
        The model itself.

    Raises:
        ValueError: something that is not a module, or a report that cannot be called.
    """
    if not isinstance(model, nn.Module):
        raise ValueError(f"fuse takes a model, a torch.nn.Module, got {type(model).__name__}: give it the model itself")
    if report is not None and not callable(report):
        raise ValueError(f"report must be a function that takes a sentence, such as print, got {report!r}")
    say = report or (lambda sentence: None)
    paths = {module: path or "the model" for path, module in model.named_modules()}
    places = Counter(child for module in paths for child in module._modules.values())
    for module in paths:
        if isinstance(module, nn.Sequential) and _runs_in_order(module):
            _join_neighbours(module, paths, places, say)
    for layer in list(model.modules()):
        stock = next((stock for stock in OURS if isinstance(layer, stock)), None)
        if stock is None or isinstance(layer, _FINISHED):
            continue
        what = f"{paths[layer]}: {type(layer).__name__}"
        reason = _obstacle(layer) or _unsupported(layer, stock)
        if reason:
            say(f"{what} left alone: {reason}")
            continue
        reflects = stock is nn.Conv2d and layer.padding_mode == "reflect"
        ours = fnn.ReflectionPadConv2d if reflects else OURS[stock]
        _become(layer, ours)
        say(f"{what} -> fastgan.nn.{ours.__name__}")
    return model


def _runs_in_order(sequential: nn.Sequential) -> bool:
    """Whether a Sequential, or a subclass of it, does nothing but run its modules in order."""
    return type(sequential).forward is nn.Sequential.forward and "forward" not in vars(sequential)


class _Pair(NamedTuple):
    """Two neighbours that one layer can compute: the one that stays, the one that goes, and why they may not."""

    keeper: nn.Module
    ours: type[nn.Module]
    attributes: dict[str, Any]
    absorbed: nn.Module
    reason: str = ""


def _join_neighbours(sequential: nn.Sequential, paths: dict, places: Counter, say: Callable[[str], object]) -> None:
    for (name, first), (following, second) in pairwise(list(sequential._modules.items())):
        pair = _pair(first, second)
        if pair is None:
            continue
        what = f"{paths[first]}, {paths[second]}: {type(first).__name__}, {type(second).__name__}"
        reason = pair.reason
        for layer in (first, second):
            obstacle = _obstacle(layer)
            reason = f"of {paths[layer]}, {obstacle}" if obstacle else reason
        if places[pair.keeper] > 1:
            reason = f"{paths[pair.keeper]} is in {places[pair.keeper]} places"
        if reason:
            say(f"{what} not joined: {reason}")
            continue
        _become(pair.keeper, pair.ours, **pair.attributes)
        placeholder = nn.Identity().train(pair.absorbed.training)
        sequential._modules[following if pair.absorbed is second else name] = placeholder
        say(f"{what} -> fastgan.nn.{pair.ours.__name__}")


def _pair(first: nn.Module, second: nn.Module) -> _Pair | None:
    """What becomes of two neighbours; None where we have no layer for both."""
    kind, next_kind = _kind(first), _kind(second)
    if kind is nn.ReflectionPad2d and next_kind is nn.Conv2d:
        left, right, top, bottom = first.padding
        reason = ""
        if (left, top) != (right, bottom) or min(first.padding) < 0:
            reason = f"the padding {tuple(first.padding)} is not one width on both sides"
        elif second.padding not in ("valid", (0, 0)):
            reason = f"the convolution pads, too: padding={second.padding!r}"
        attributes = {
            "padding": (top, left),
            "padding_mode": "reflect",
            "_reversed_padding_repeated_twice": tuple(first.padding),  # as nn.Conv2d keeps it
        }
        return _Pair(second, fnn.ReflectionPadConv2d, attributes, first, reason)
    normed = kind in _NORMS and next_kind in (nn.ReLU, nn.LeakyReLU)
    # A leaky ReLU keeps what it was given, so that its result may be changed in place; our transposed convolution keeps
    # the result of the activation, as ReLU does.
    if normed or (kind is nn.ConvTranspose2d and next_kind is nn.ReLU):
        if isinstance(first, _FINISHED) and (first.activation != "none" or getattr(first, "halo", 0)):
            return None
        attributes = {"activation": "relu"}
        if next_kind is nn.LeakyReLU:
            attributes = {"activation": "leaky_relu", "negative_slope": second.negative_slope}
        return _Pair(first, OURS[kind], attributes, second, _unsupported(first, kind))
    return None


def _kind(layer: nn.Module | None) -> type:
    """The stock layer that a layer is, by torch or by us; the class itself of any other."""
    return next((stock for stock, ours in OURS.items() if type(layer) in (stock, ours)), type(layer))


def _obstacle(layer: nn.Module) -> str:
    """Why a layer must stay as it is, or the empty string."""
    if parametrize.is_parametrized(layer):
        return "it is parametrized"
    if "forward" in vars(layer):
        return "its forward was replaced"
    if getattr(layer, "_compiled_call_impl", None) is not None:
        return "it was compiled on its own"
    if any(getattr(layer, name, None) for name in _HOOKS):
        return "it has hooks"
    return ""


def _unsupported(layer: nn.Module, stock: type[nn.Module]) -> str:
    """Why our layer would not do for this one, or would leave it to torch; or the empty string."""
    if type(layer) not in (stock, OURS[stock]):
        return f"it is a subclass of nn.{stock.__name__}"
    if stock in _NORMS and not layer.eps >= 0:
        return f"eps={layer.eps} is below 0"
    if stock is nn.ReflectionPad2d and min(layer.padding) < 0:
        return f"the padding {tuple(layer.padding)} crops"
    if stock is nn.Conv2d:
        if isinstance(layer.padding, str):
            return f"padding={layer.padding!r} is left to torch"
        if layer.padding_mode not in ("zeros", "reflect"):
            return f"padding_mode={layer.padding_mode!r} is left to torch"
        if layer.groups > 1 and layer.padding_mode == "zeros":
            return f"groups={layer.groups} is left to torch"
    if stock is nn.BCEWithLogitsLoss and (layer.weight is not None or layer.pos_weight is not None):
        return "weight and pos_weight are left to torch"
    return ""


def _become(layer: nn.Module, ours: type[nn.Module], **attributes: Any) -> None:
    """Make a layer one of ours: the class, and the attributes that ours has beyond the stock one's."""
    if type(layer) is not ours:
        # In fastgan.nn these are the keyword-only arguments.
        options = inspect.signature(ours).parameters.values()
        attributes = {each.name: each.default for each in options if each.kind is each.KEYWORD_ONLY} | attributes
        layer.__class__ = ours
    vars(layer).update(attributes)
