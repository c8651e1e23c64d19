"""``fastgan.fuse``: the layers of a finished model become ours, in place, and neighbours that we compute in one pass
are computed so."""

from __future__ import annotations

import copyreg
import functools
import inspect
from collections.abc import Callable
from itertools import pairwise
from typing import Any, TypeVar

from torch import nn
from torch.nn.utils import parametrize

from . import nn as fnn

__all__ = ["fuse"]

Model = TypeVar("Model", bound=nn.Module)

OURS = {getattr(nn, name): getattr(fnn, name) for name in fnn.__all__ if hasattr(nn, name) and name != "Sequential"}
_FINISHED = (*OURS.values(), fnn.ReflectionPadConv2d)
_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.InstanceNorm2d)
_HOOKS = (
    "_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks", "_state_dict_hooks",
    "_state_dict_pre_hooks", "_load_state_dict_pre_hooks", "_load_state_dict_post_hooks",
)  # fmt: skip


def fuse(model: Model, *, report: Callable[[str], object] | None = None) -> Model:
    """Let the layers of a model be computed by fastgan, without a change to the model's code.

    The layers that ``fastgan.nn`` has under the same name (norms, convolutions, padding, losses) become ours, and every
    ``nn.Sequential`` computes two neighbours in one pass, as :class:`fastgan.nn.Sequential` does:

    - ``ReflectionPad2d``, ``Conv2d``: by :func:`fastgan.functional.reflection_pad_conv2d`;
    - ``InstanceNorm2d``, ``BatchNorm1d`` or ``BatchNorm2d``, then ``ReLU`` or ``LeakyReLU``: by our norms;
    - ``ConvTranspose2d``, ``ReLU``: by :func:`fastgan.functional.conv_transpose2d`.

    The model computes what it computed, but for rounding. It is changed in place: each layer and each Sequential stays
    the object that it is, with its parameters, buffers and place, and gets another class. Optimizers, shared layers,
    indices, keys of state dicts and references from elsewhere therefore stay valid, and modes, dtypes, devices and
    memory formats are what they were. A second call finds nothing more to do. ``fuse(copy.deepcopy(model))`` leaves the
    model as it is.

    Two neighbours run in one pass only where no hook or caller reads what lies between them. A layer that is called
    by itself, as in a loop that gathers features, gives its own result, and hooks on one of two neighbours, whenever
    they come, see what they would see without fuse: the two run one after the other while there are any. So does a
    model in which torch puts another layer in the place of one of ours: ``nn.SyncBatchNorm.convert_sync_batchnorm`` and
    ``torch.nn.utils.fuse_conv_bn_eval`` may be called before or after.

    Left alone are layers with hooks (which the older ``spectral_norm`` and ``weight_norm`` are made of),
    parametrizations, a forward of their own or their own ``compile()``; subclasses; arguments that our layers leave to
    torch; and, for the joining of neighbours, unequal padding on opposite sides, a convolution that pads, too, and a
    Sequential with a forward of its own.

    Other tools of torch:

    - ``torch.compile``, ``torch.export``, ``DataParallel``, pickle and deepcopy take fused models.
    - A graph that ``torch.fx`` traces has our layers as single calls, one after the other.
    - Eager quantization (``torch.ao.quantization.prepare`` and ``convert``) does not know our layers, which therefore
      stay in floating point and refuse quantized tensors: quantize the model first. What is quantized, or prepared for
      it, is left alone by fuse.
    - Counters of operations: torch's ``FlopCounterMode`` and thop count a fused model as the model. Others that go by
      the class of a layer do not know ours.
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
    paths = {module: path or "the model" for path, module in model.named_modules()}
    names = {module: type(module).__name__ for module in paths}
    outcomes = {layer: outcome for layer in paths if (outcome := _convert(layer))}
    said = []
    for sequential in [module for module in paths if _runs_in_order(module)]:
        was_joining = isinstance(sequential, fnn.Sequential)
        for first, second in pairwise(list(sequential._modules.values())):
            op = _op(first, second)
            if op is None:
                continue
            what = f"{paths[first]}, {paths[second]}: {names[first]}, {names[second]}"
            if not fnn.in_one_pass(first, second):
                said.append(f"{what} not joined: {_reason(first, second, paths)}")
                continue
            _join(sequential)
            converted = [outcomes.pop(layer) for layer in (first, second) if layer in outcomes]
            if not was_joining or converted:
                said.append(f"{what} -> fastgan.functional.{op}")
    said += [f"{paths[layer]}: {names[layer]} {outcome}" for layer, outcome in outcomes.items()]
    for sentence in said:
        if report is not None:
            report(sentence)
    return model


def _convert(layer: nn.Module) -> str:
    """Make a layer one of ours where we have it, and say what became of it; the empty string for any other."""
    stock = next((stock for stock in OURS if isinstance(layer, stock)), None)
    if stock is None or isinstance(layer, _FINISHED):
        return ""
    reason = _obstacle(layer) or _unsupported(layer, stock)
    if reason:
        return f"left alone: {reason}"
    reflects = stock is nn.Conv2d and layer.padding_mode == "reflect" and layer.padding != (0, 0)
    ours = fnn.ReflectionPadConv2d if reflects else OURS[stock]
    # In fastgan.nn these are the keyword-only arguments.
    options = inspect.signature(ours).parameters.values()
    vars(layer).update({each.name: each.default for each in options if each.kind is each.KEYWORD_ONLY})
    layer.__class__ = ours
    return f"-> fastgan.nn.{ours.__name__}"


def _runs_in_order(module: nn.Module) -> bool:
    """Whether a module is a Sequential, or a subclass of it, that does nothing but run its modules in order.

    Those of torch's own that quantization puts together are known to it by their class, and stay.
    """
    return (
        isinstance(module, nn.Sequential)
        and type(module).forward in (nn.Sequential.forward, fnn.Sequential.forward)
        and "forward" not in vars(module)
        and (type(module) is nn.Sequential or not type(module).__module__.startswith("torch."))
    )


def _op(first: nn.Module, second: nn.Module) -> str | None:
    """The function that computes two neighbours in one pass, where nothing is against it; None where we have none."""
    kind, next_kind = _kind(first), _kind(second)
    if kind is nn.ReflectionPad2d and next_kind is nn.Conv2d:
        return "reflection_pad_conv2d"
    if getattr(first, "activation", "none") != "none":
        return None
    if kind in _NORMS and next_kind in (nn.ReLU, nn.LeakyReLU):
        return "instance_norm" if kind is nn.InstanceNorm2d else "batch_norm"
    return "conv_transpose2d" if kind is nn.ConvTranspose2d and next_kind is nn.ReLU else None


def _kind(layer: nn.Module | None) -> type:
    """The stock layer that a layer is, by torch or by us; the class itself of any other."""
    return next((stock for stock, ours in OURS.items() if type(layer) in (stock, ours)), type(layer))


def _reason(first: nn.Module, second: nn.Module, paths: dict[nn.Module, str]) -> str:
    """Why two neighbours that we have an op for are not computed in one pass."""
    for layer in (second, first):
        if obstacle := _obstacle(layer):
            return f"of {paths[layer]}, {obstacle}"
    if isinstance(first, nn.ReflectionPad2d):
        left, right, top, bottom = first.padding
        if (left, top) != (right, bottom) or min(first.padding) < 0:
            return f"the padding {tuple(first.padding)} is not one width on both sides"
        return f"the convolution pads, too: padding={second.padding!r}"
    return _unsupported(first, _kind(first))


def _join(sequential: nn.Sequential) -> None:
    """Let a Sequential compute neighbours in one pass, as fastgan.nn.Sequential does."""
    if not isinstance(sequential, fnn.Sequential):
        kind = type(sequential)
        sequential.__class__ = fnn.Sequential if kind is nn.Sequential else _joining(kind)  # type: ignore[arg-type]


@functools.cache
def _joining(kind: type[nn.Sequential]) -> type[nn.Sequential]:
    """The subclass of a class of Sequentials that computes neighbours in one pass. It goes by the same name; as no
    module holds it, pickle makes it anew."""

    def __reduce_ex__(self, protocol):
        make, arguments, *state = super(ours, self).__reduce_ex__(protocol)
        if make is copyreg.__newobj__:
            make, arguments = _new, (kind, *arguments[1:])
        return make, arguments, *state

    ours = type(kind.__name__, (fnn.Sequential, kind), {
        "__module__": kind.__module__, "__qualname__": kind.__qualname__, "__doc__": kind.__doc__,
        "__reduce_ex__": __reduce_ex__,
    })  # fmt: skip
    return ours


def _new(kind: type[nn.Sequential], *arguments: Any) -> nn.Sequential:
    return copyreg.__newobj__(_joining(kind), *arguments)  # type: ignore[arg-type, attr-defined]


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
    if isinstance(layer, _NORMS) and not layer.eps >= 0:
        return f"eps={layer.eps} is below 0"
    if isinstance(layer, nn.ReflectionPad2d) and min(layer.padding) < 0:
        return f"the padding {tuple(layer.padding)} crops"
    if isinstance(layer, nn.Conv2d):
        if isinstance(layer.padding, str):
            return f"padding={layer.padding!r} is left to torch"
        if layer.padding_mode not in ("zeros", "reflect"):
            return f"padding_mode={layer.padding_mode!r} is left to torch"
        if layer.groups > 1 and layer.padding_mode == "zeros":
            return f"groups={layer.groups} is left to torch"
    if isinstance(layer, nn.BCEWithLogitsLoss) and (layer.weight is not None or layer.pos_weight is not None):
        return "weight and pos_weight are left to torch"
    return ""
