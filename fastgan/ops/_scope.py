"""What the innermost ``with fastgan.backend(...)`` block forces, here and now.

A block is in force in the thread, and in the asyncio task, that entered it: it is kept in a context variable. It ends
when it is left, wherever that happens: generators may be closed in any order, and by any thread, so a block that was
left is passed over, whichever blocks were entered after it. torch.compile cannot follow context variables, but it can
guard the attribute of a module, which it looks up anew in the thread that runs the code: ``_scope.here``. For blocks
inside the code that it compiles, it follows a list.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from contextvars import ContextVar
from typing import NamedTuple

import torch


class _Span:
    """The time from the entrance of a block to its end."""

    over = False


class _Block(NamedTuple):
    """What is forced in a block, and the one around it."""

    forced: dict[str, str]
    span: _Span
    outer: _Block | None


_innermost: ContextVar[_Block | None] = ContextVar("fastgan_backend", default=None)
compiled: list[dict[str, str]] = []  # blocks inside the code that is being compiled; empty at any other time
entered = _innermost.get  # None where no block is in force; another answer leaves it to `get`


def _block_in_force() -> _Block | None:
    block = _innermost.get()
    while block is not None and block.span.over:
        block = block.outer
    return block


def get() -> dict[str, str] | None:
    """What the innermost block forces, of those that are not over; None outside of all."""
    block = _block_in_force()
    return None if block is None else block.forced


def __getattr__(name: str) -> dict[str, str] | None:
    if name == "here":
        return get()
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
        span = _Span()
        _innermost.set(_Block(forced, span, _block_in_force()))
        try:
            yield
        finally:
            span.over = True
            _innermost.set(_block_in_force())


def replace(forced: dict[str, str]) -> bool:
    """Let the block that is in force, if any, force something else up to its end; returns whether there is one."""
    if torch.compiler.is_dynamo_compiling():
        if compiled:
            compiled[-1] = forced
        return bool(compiled)
    block = _block_in_force()
    if block is None:
        return False
    _innermost.set(block._replace(forced=forced))
    return True
