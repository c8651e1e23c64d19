"""The torch.library namespace `fastgan::`: how an op file defines its low-level ops."""

from __future__ import annotations

import inspect
from typing import Callable

import torch
from torch import Tensor
from torch.autograd import forward_ad

_library = torch.library.Library("fastgan", "DEF")


def define(schema: str, implementation: Callable, fake: Callable) -> None:
    """Define ``fastgan::<schema>``: one Python implementation for every device, and its shape rule.

    The implementation gets real tensors and hands them to the backend named by the op's last argument. It is opaque to
    torch.compile, torch.export and FakeTensor, which see ``fake`` instead. Low-level ops know nothing of autograd: the
    autograd Functions of the op files call them.
    """
    name = schema.split("(", 1)[0]
    _library.define(schema, tags=(torch.Tag.needs_fixed_stride_order,))
    _library.impl(name, implementation, "CompositeExplicitAutograd")
    torch.library.register_fake(f"fastgan::{name}", fake, lib=_library)


class _Positional(inspect.Signature):
    """A signature whose arguments are all given, by position: binding them changes nothing."""

    __slots__ = ()

    def bind(self, *args, **kwargs):
        return _Bound(args, kwargs)


class _Bound:
    def __init__(self, args, kwargs):
        self.args, self.kwargs = args, kwargs

    def apply_defaults(self) -> None:
        pass


def with_signature(function: type[torch.autograd.Function]) -> type[torch.autograd.Function]:
    """``function``, whose ``apply`` takes all arguments by position.

    torch inspects the signature of ``forward`` and binds to it at every call (50 us), for defaults that there are none.
    """
    function.forward.__signature__ = _Positional(inspect.signature(function.forward).parameters.values())
    return function


def run(function: type[torch.autograd.Function], *args):
    """``function.apply(*args)``, or its forward alone (20 us less) where no derivative can be asked for."""
    if torch.compiler.is_compiling():
        return function.apply(*args)
    if _transformed():
        return _apply_transformed(function, *args)
    if torch.is_grad_enabled() and any(map(_has_grad, args)):
        return function.apply(*args)
    return function.forward(*args)


_RULES = {"the jvp ": "forward-mode differentiation (jvp)", "the vmap ": "vmap"}


def _apply_transformed(function: type[torch.autograd.Function], *args):
    """``function.apply(*args)``; torch's error for want of a rule advises the author, ours the user."""
    try:
        return function.apply(*args)
    except RuntimeError as error:  # NotImplementedError is one
        missing = [rule for words, rule in _RULES.items() if words in str(error)]
        if not missing:
            raise
        raise NotImplementedError(
            f"fastgan's {function.__name__} has no rule for {missing[0]}: inside \"with fastgan.backend('reference'):\" "
            "it is plain torch, which has one"
        ) from error


def _has_grad(argument) -> bool:
    return isinstance(argument, Tensor) and argument.requires_grad


def _transformed() -> bool:
    """Whether forward-mode differentiation or a functorch transform is under way: the Function refuses or follows it."""
    return forward_ad._current_level >= 0 or torch._C._are_functorch_transforms_active()
