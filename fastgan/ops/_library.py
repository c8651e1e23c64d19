"""The torch.library namespace `fastgan::`: how an op file defines its low-level ops."""

from __future__ import annotations

import inspect
from typing import Callable

import torch

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


def with_signature(function: type[torch.autograd.Function]) -> type[torch.autograd.Function]:
    """``function``, with the signature of its ``forward`` kept: torch inspects it anew at every call otherwise (40 us)."""
    function.forward.__signature__ = inspect.signature(function.forward)
    return function
