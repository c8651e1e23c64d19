"""What the innermost ``with fastgan.backend(...)`` block forces, here and now.

A block is in force in the thread, and in the asyncio task, that entered it: it is kept in a context variable. torch.compile
cannot follow those, but it can guard the attribute of a module, which it looks up anew in the thread that runs the code:
``_scope.here``. For blocks inside the code that it compiles, it follows a list.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from contextvars import ContextVar

import torch

_here: ContextVar[dict[str, str] | None] = ContextVar("fastgan_backend", default=None)
compiled: list[dict[str, str]] = []  # blocks inside the code that is being compiled; empty at any other time
get = _here.get


def __getattr__(name: str) -> dict[str, str] | None:
    if name == "here":
        return _here.get()
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


@contextlib.contextmanager
def block(forced: dict[str, str]) -> Iterator[None]:
    """A block that forces the backend of each op in ``forced``, and of no other."""
    if torch.compiler.is_dynamo_compiling():
        compiled.append(forced)
        try:
            yield
        finally:
            compiled.pop()
    else:
        token = _here.set(forced)
        try:
            yield
        finally:
            _here.reset(token)


def replace(forced: dict[str, str]) -> bool:
    """Let the block that is in force, if any, force something else up to its end; returns whether there is one."""
    if torch.compiler.is_dynamo_compiling():
        if compiled:
            compiled[-1] = forced
        return bool(compiled)
    if _here.get() is None:
        return False
    _here.set(forced)
    return True
