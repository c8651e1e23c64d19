"""Activations that are computed again in the backward pass, in place of being kept for it.

For its backward pass a norm keeps its input, and the convolution that reads the norm's output keeps that output: two
tensors of one size, the second of which follows from the first in one pass. So the output of a norm is remembered with
the :class:`Recomputation` of it (:func:`remember`), and a convolution that reads it keeps that (:func:`keep`). The
values that come back are bitwise those of the forward pass.

What is remembered belongs to one tensor object, unchanged: nothing is known of what somebody changes in place, detaches
or computes from it. Wherever the graph is not autograd's own (torch.compile, export, tracing, torch.func), and inside
the saved-tensor hooks of somebody else, such as those of ``torch.utils.checkpoint``, all is kept as usual. So is the
sum of a norm and a residual, which would take a third tensor to be computed again.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.graph import Node
from torch.utils.weak import WeakTensorKeyDictionary

from ._library import transformed, without_derivatives

_LEAST = 1 << 16  # elements; to compute fewer again costs more time than their memory is worth
_DEPTH = 8  # nodes between what a convolution gives and what it reads: casts, layouts, the sum over columns
# The dispatch modes of make_fx and its like, whose tensors hold no values.
_RECORDERS = [
    getattr(torch._C._TorchDispatchModeKey, name)
    for name in ("PROXY", "FAKE", "FUNCTIONAL")
    if hasattr(torch._C._TorchDispatchModeKey, name)
]


class Recomputation:
    """A call that can be made again: ``function(*args)`` of the same tensors gives the same bits."""

    def __init__(self, function: Callable[..., Tensor], *args: Any) -> None:
        self._function = function
        self._args = [each.detach() if isinstance(each, Tensor) else each for each in args]
        self._versions = [each._version if isinstance(each, Tensor) else None for each in args]

    def again(self) -> Tensor:
        """The result.

        Raises:
            RuntimeError: what it is computed from was changed since.
        """
        for each, version in zip(self._args, self._versions, strict=True):
            if version is not None and each._version != version:
                raise RuntimeError(
                    "one of the variables needed for gradient computation has been modified by an inplace operation: "
                    f"[{each.type()} {list(each.shape)}] is at version {each._version}; expected version {version} "
                    "instead"
                )
        with torch.no_grad(), without_derivatives():
            return self._function(*self._args)


class _Remembered(NamedTuple):
    recomputation: Recomputation
    version: int


_remembered = WeakTensorKeyDictionary()


def _by_autograd() -> bool:
    """Whether the graph is autograd's own, and nobody else decides what becomes of saved tensors."""
    return not (
        torch.compiler.is_compiling()
        or torch._C._is_tracing()
        or (torch._C._len_torch_dispatch_stack() > 0 and any(map(torch._C._get_dispatch_mode, _RECORDERS)))
        or transformed()
        or torch._C._autograd._top_saved_tensors_default_hooks(True) is not None
    )


def remember(y: Tensor, function: Callable[..., Tensor], *args: Any) -> None:
    """Remember that ``y`` is ``function(*args)``, where that is of use: for a large tensor with a graph behind it."""
    if y.requires_grad and _by_autograd() and y.numel() >= _LEAST:
        _remembered[y] = _Remembered(Recomputation(function, *args), y._version)


def keep(out: Tensor, x: Tensor, weight: Tensor) -> None:
    """Let the graph of ``out``, a convolution of ``x`` with ``weight``, keep how x was made in place of x."""
    found = _remembered.get(x) if out.requires_grad and _by_autograd() else None
    if found is None or found.version != x._version:
        return
    recomputation = found.recomputation
    size, stride, dtype, device = x.size(), x.stride(), x.dtype, x.device
    read = weight.requires_grad  # by the gradient of the weight alone

    def unpack(_: None) -> Tensor:
        if read or torch.is_grad_enabled():
            return recomputation.again()
        return torch.empty_strided(size, stride, dtype=dtype, device=device)

    for saved in _saved(out, x, weight):
        saved.register_hooks(_nothing, unpack)


def _nothing(_: Tensor) -> None:
    return None


def _saved(out: Tensor, x: Tensor, weight: Tensor) -> Iterator[Any]:
    """The places in the graph between ``x`` and ``out`` that hold x."""
    seen: set[Node | None] = {None, x.grad_fn, weight.grad_fn}
    ahead: list[tuple[Any, int]] = [(out.grad_fn, 0)]
    while ahead:
        node, depth = ahead.pop()
        if node in seen or depth > _DEPTH:
            continue
        seen.add(node)
        if hasattr(node, "_raw_saved_input"):
            pairs = [(node._raw_saved_input, node._saved_input)]
        elif hasattr(node, "_raw_saved_tensors"):
            pairs = list(zip(node._raw_saved_tensors, node.saved_tensors, strict=True))
        else:
            pairs = []
        yield from (raw for raw, tensor in pairs if _is(tensor, x))
        ahead += [(before, depth + 1) for before, _ in node.next_functions]


def _is(tensor: Tensor | None, x: Tensor) -> bool:
    return (
        tensor is not None
        and tensor.data_ptr() == x.data_ptr()
        and (tensor.shape, tensor.stride(), tensor.dtype) == (x.shape, x.stride(), x.dtype)
    )
