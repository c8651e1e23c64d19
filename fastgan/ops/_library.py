"""The torch.library namespace `fastgan::`: how an op file defines its low-level ops, and calls them.

A low-level op has a derivative of its own: a program that was exported or traced consists of low-level ops, and may be
trained. In eager mode and under torch.compile, the autograd Functions stand above the ops, choose who computes the
gradients, and call the ops below autograd.
"""

from __future__ import annotations

import contextlib
import inspect
from collections.abc import Callable, Iterator

import torch
from torch import Tensor
from torch._functorch.utils import enable_single_level_autograd_function
from torch.autograd import forward_ad

from ._flops import tell_counters

_library = torch.library.Library("fastgan", "DEF")


def _any_requires_grad(*args) -> bool:
    return any(isinstance(a, Tensor) and a.requires_grad for a in args)


_any_requires_grad = getattr(torch._C, "_any_requires_grad", _any_requires_grad)  # the same in C++
# Looked up once: these stand in the way of every call.
_is_compiling, _is_tracing, _modes = (
    torch.compiler.is_compiling,
    torch._C._is_tracing,
    torch._C._len_torch_dispatch_stack,
)
_transforms, _grad_enabled = torch._C._are_functorch_transforms_active, torch.is_grad_enabled
_BelowAutograd = torch._C._AutoDispatchBelowAutograd


def define(schema: str, implementation: Callable, fake: Callable) -> None:
    """Define ``fastgan::<schema>``: one Python implementation for every device, and its shape rule.

    The implementation gets real tensors and hands them to the backend named by the op's last argument. It is opaque to
    torch.compile, torch.export and FakeTensor, which see ``fake`` instead. :func:`differentiate` gives the derivative;
    without one, a call that needs it is an error.
    """
    name = schema.split("(", 1)[0]
    _library.define(schema, tags=(torch.Tag.needs_fixed_stride_order,))
    _library.impl(name, implementation, "CompositeExplicitAutograd")
    torch.library.register_fake(f"fastgan::{name}", fake, lib=_library)
    _library.impl(name, _with_derivative(name), "Autograd", with_keyset=True)


_derivatives: dict[str, Callable] = {}


def differentiate(name: str, derivative: Callable) -> None:
    """Give ``fastgan::<name>`` its derivative: the same result, from the same arguments, by :func:`apply`.

    Outputs that are no function of the inputs to autograd (statistics) are marked so by the Function.
    """
    _derivatives[name] = derivative


def _with_derivative(name: str) -> Callable:
    op = getattr(torch.ops.fastgan, name).default

    def call(keyset, *args):
        tell_counters()
        if _needs_derivative(args):
            if name not in _derivatives:
                raise NotImplementedError(f"fastgan::{name} has no derivative: call it under torch.no_grad()")
            return _derivatives[name](*args)
        with _BelowAutograd():
            return op.redispatch(keyset & torch._C._after_autograd_keyset, *args)

    return call


def _needs_derivative(args) -> bool:
    if _grad_enabled() and _any_requires_grad(*args):
        return True
    if forward_ad._current_level < 0 or not torch._C._is_fwd_grad_enabled():
        return False
    return any(isinstance(a, Tensor) and forward_ad.unpack_dual(a).tangent is not None for a in args)


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
    """``function``, whose ``apply`` takes all arguments by position, and whose ``forward`` calls ops below autograd.

    torch inspects the signature of ``forward`` and binds to it at every call (50 us), for defaults that there are none.
    What ``forward`` was is its ``operate``.
    """
    operate = function.forward

    def forward(*args):
        if torch.compiler.is_dynamo_compiling():
            return operate(*args)
        if _transforms():  # the levels of torch.func below this one differentiate, too
            with torch.enable_grad(), _BelowAutograd():
                return operate(*args)
        with _BelowAutograd():  # where the derivatives of the low-level ops cost nothing
            return operate(*args)

    signature = _Positional(list(inspect.signature(operate).parameters.values()))
    forward.__signature__ = signature  # type: ignore[attr-defined]
    function.forward = staticmethod(forward)  # type: ignore[method-assign]
    function.operate = staticmethod(operate)  # type: ignore[attr-defined]
    return function


without_derivatives = _BelowAutograd  # a context in which low-level ops are called for their values alone


def transformed() -> bool:
    """Whether forward-mode differentiation or a functorch transform is under way: a Function refuses or follows it."""
    return forward_ad._current_level >= 0 or _transforms()


def run(function: type[torch.autograd.Function], *args):
    """``function.apply(*args)``, or its forward alone (20 us less) where no derivative can be asked for.

    A program that is exported or traced gets the ops of the forward, which have derivatives of their own.
    """
    if _is_compiling():
        if not torch.compiler.is_exporting():
            return function.apply(*args)
        return function.operate(*args)  # type: ignore[attr-defined]
    if _is_tracing():
        return function.operate(*args)  # type: ignore[attr-defined]
    if _modes():
        tell_counters()
    if transformed():
        with _rules_told(function):  # which refuses the transform, or follows it
            return function.apply(*args)
    if _grad_enabled() and _any_requires_grad(*args):
        return function.apply(*args)
    with _BelowAutograd():
        return function.operate(*args)  # type: ignore[attr-defined]


def recording() -> bool:
    """Whether a graph is recorded that may be differentiated: by export, torch.jit.trace or make_fx, not a compiler."""
    if _is_compiling():
        return torch.compiler.is_exporting()
    return _is_tracing() or _modes() > 0


_RULES = {"the jvp ": "forward-mode differentiation (jvp)", "the vmap ": "vmap"}


@contextlib.contextmanager
def _rules_told(function: type[torch.autograd.Function]) -> Iterator[None]:
    """torch's error for want of a rule advises the author of a Function; ours advises the user."""
    try:
        yield
    except RuntimeError as error:  # NotImplementedError is one
        missing = [rule for words, rule in _RULES.items() if words in str(error)]
        if not missing:
            raise
        raise NotImplementedError(
            f"fastgan's {function.__name__} has no rule for {missing[0]}: inside \"with fastgan.backend('reference'):\" "  # noqa: E501
            "it is plain torch, which has one"
        ) from error


def apply(function: type[torch.autograd.Function], *args):
    """``function.apply(*args)`` for the derivative of a low-level op, at the level of torch.func that asks for it."""
    with _rules_told(function), enable_single_level_autograd_function():
        return super(torch.autograd.Function, function).apply(*args)  # type: ignore[misc]
