"""Which backend computes an op, and why the others do not."""

from __future__ import annotations

import contextlib
import importlib.util
import os
from collections.abc import Callable

import torch

from . import _extension, _scope

# A verifier says why its backend cannot serve (device type, dtype); the empty string means that it can.
# `asked` is True when the backend was forced: some backends serve only then.
Verifier = Callable[[str, torch.dtype, bool], str]

_verifiers: dict[str, dict[str, Verifier]] = {}
_remarks: dict[tuple[str, str], str] = {}
_forced: dict[str, str] = {}  # of the whole process; a block of `backend` goes before it
_notes: dict[tuple[str, str], str] = {}
_MISTAKEN = "FASTGAN_BACKEND"  # what is forced for every op while that variable holds a mistake
_mistake = ""  # which one

_is_dynamo_compiling = torch.compiler.is_dynamo_compiling  # looked up once: every call of an op asks

EXTENSION_LOADED, EXTENSION_STATUS = _extension.load()
TRITON_FOUND = importlib.util.find_spec("triton") is not None
TRITON_INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"


def register(op: str, **verifiers: Verifier) -> None:
    """Declare the backends of ``op`` in order of preference; ``reference`` always comes last."""
    _verifiers[op] = verifiers


def remark(op: str, backend_name: str, text: str) -> None:
    """Say which calls the automatic choice keeps from a backend that serves the op otherwise, for fastgan.info."""
    _remarks[op, backend_name] = text


def remarks(op: str, backend_name: str) -> str:
    """The remark on a backend of ``op``, or the empty string."""
    return _remarks.get((op, backend_name), "")


def ops() -> dict[str, tuple[str, ...]]:
    """Every op with the names of its backends, in order of preference."""
    return {op: (*verifiers, "reference") for op, verifiers in _verifiers.items()}


def cpp_serves(*dtypes: torch.dtype) -> Verifier:
    """The verifier of an op whose C++ kernels take CPU tensors of ``dtypes``."""

    def verify(device: str, dtype: torch.dtype, asked: bool) -> str:
        if device != "cpu":
            return "the C++ kernels take CPU tensors"
        if not EXTENSION_LOADED:
            return EXTENSION_STATUS
        return _dtype_reason(dtype, dtypes)

    return verify


def triton_serves(*dtypes: torch.dtype) -> Verifier:
    """The verifier of an op whose Triton kernels take CUDA tensors of ``dtypes`` (CPU ones in the interpreter)."""

    def verify(device: str, dtype: torch.dtype, asked: bool) -> str:
        if not TRITON_FOUND:
            return "triton is not installed (pip install 'triton>=3.6')"
        if device == "cpu":
            if not TRITON_INTERPRETED:
                return "Triton kernels need a CUDA device"
            if not asked:
                return "Triton's interpreter on the CPU is for tests: it serves only when asked for"
        elif device != "cuda":
            return "Triton kernels need a CUDA device"
        return _dtype_reason(dtype, dtypes)

    return verify


def _dtype_reason(dtype: torch.dtype, dtypes: tuple[torch.dtype, ...]) -> str:
    if dtype in dtypes:
        return ""
    return f"its kernels take {', '.join(str(d).removeprefix('torch.') for d in dtypes)}"


def refusals(op: str, device: str, dtype: torch.dtype) -> dict[str, str]:
    """For each backend of ``op``, why the automatic choice passes it over (empty: it can serve)."""
    return {name: verify(device, dtype, False) for name, verify in _verifiers[op].items()} | {"reference": ""}


def refusal(op: str, device: str, dtype: torch.dtype) -> str:
    """Why the forced backend of ``op`` cannot serve; empty where it can, and where none is forced.

    Raises:
        ValueError: FASTGAN_BACKEND names what is not there.
    """
    name = _asked(op)
    return "" if name in (None, "reference") else _verifiers[op][name](device, dtype, True)


def _asked(op: str) -> str | None:
    name = forced(op)
    if name == _MISTAKEN:
        raise ValueError(_mistake)
    return name


def select(op: str, device: str, dtype: torch.dtype, measured: str | None = None) -> str:
    """The backend that computes ``op``: the forced one, else the measured one, else the first that can serve."""
    verifiers = _verifiers[op]
    if forced(op) is not None:
        asked, reason = _asked(op), refusal(op, device, dtype)
        if reason:
            raise RuntimeError(
                f"{op}: the backend {asked!r} was asked for but cannot serve {dtype} on {device}: {reason}"
            )
        return asked
    if measured is not None and (measured == "reference" or not verifiers[measured](device, dtype, True)):
        return measured
    for name, verify in verifiers.items():
        if not verify(device, dtype, False):
            return name
    return "reference"


def forced(op: str) -> str | None:
    """The backend of ``op`` that was asked for by name: then nothing else is chosen for any call."""
    if _is_dynamo_compiling():
        block = _scope.compiled[-1] if _scope.compiled else _scope.here
    else:
        block = None if _scope.entered() is None else _scope.get()
    return (_forced if block is None else block).get(op)


def holds(condition: bool | torch.SymBool) -> bool:
    """Whether a condition on sizes holds, for a choice that both answers allow.

    To torch.export only what holds for all sizes does: asking fixes none of those that may vary.
    """
    if torch.compiler.is_exporting():
        from torch.fx.experimental.symbolic_shapes import statically_known_true

        return statically_known_true(condition)
    return bool(condition)


def note(op: str, device: str, text: str) -> None:
    """Keep for ``fastgan.info`` what the choice for ``op`` on ``device`` depends on besides the dtype."""
    _notes[op, device] = text


def noted(op: str, device: str) -> str:
    """What :func:`note` keeps, or the empty string."""
    return _notes.get((op, device), "")


def unserved(op: str, reason: str) -> None:
    """Raise if a backend other than ``reference`` was forced for ``op``; ``reason`` says what no kernel takes."""
    asked = _asked(op)
    if asked is not None and asked != "reference":
        raise RuntimeError(f"{op}: the backend {asked!r} was asked for but cannot serve this call: {reason}")


def _parse(name: str | None, per_op: dict[str, str]) -> dict[str, str]:
    known = ops()
    names = dict.fromkeys(backend for backends in known.values() for backend in backends)
    forced: dict[str, str] = {}
    if name is not None and name != "auto":
        if name not in names:
            raise ValueError(f"unknown backend {name!r}: choose auto, {', '.join(sorted(names))}")
        forced = {op: name for op, backends in known.items() if name in backends}
    for op, backend_name in per_op.items():
        if op not in known:
            raise ValueError(f"unknown op {op!r}: choose from {', '.join(known)}")
        if backend_name == "auto":
            forced.pop(op, None)
        elif backend_name not in known[op]:
            raise ValueError(f"{op} has no backend {backend_name!r}: choose auto, {', '.join(known[op])}")
        else:
            forced[op] = backend_name
    return forced


def set_backend(name: str | None = None, /, **per_op: str) -> None:
    """Force a backend for the whole process, all its threads, until the next call.

    ``name`` binds every op that has a backend of that name; keyword arguments bind single ops and win.
    ``set_backend("auto")`` returns to the automatic choice. Called inside a block of :func:`backend`, it holds there,
    to the end of the block. Arguments and errors as for :func:`backend`.
    """
    _force(_parse(name, per_op))


def _force(forced: dict[str, str]) -> None:
    global _forced
    if not _scope.replace(forced):
        _forced = forced


def backend(name: str | None = None, /, **per_op: str) -> contextlib.AbstractContextManager[None]:
    """Force a backend inside a ``with`` block.

    ``backend("triton")`` binds every op that has Triton kernels and leaves the others to the automatic choice;
    ``backend("reference")`` binds them all; ``backend(instance_norm="cpp", l1_loss="reference")`` binds single ops. The
    innermost block alone counts; it goes before :func:`set_backend` and ``FASTGAN_BACKEND``.

    A backward pass uses what its forward pass used. A block binds the thread (and the asyncio task) that entered it, as
    ``torch.autocast`` does, and blocks of other threads do not disturb it. It ends where it is left, in whatever order
    blocks of several generators are, and by whichever thread; for tasks that were created inside it, too. Threads
    started inside it are not bound: those of ``nn.DataParallel``, or those that run a backward pass on a GPU, which
    matters where it calls the forward pass once more (``torch.utils.checkpoint``; give the block by its
    ``context_fn``). For all threads there is
    :func:`set_backend`, and the environment variable ``FASTGAN_BACKEND`` (``triton``, or
    ``instance_norm=cpp,l1_loss=reference``), which sets the initial state of the process.

    Raises:
        ValueError: an unknown backend or op name.
        RuntimeError: (from the op) the forced backend cannot serve the call; the message gives the reason.
    """
    return _scope.block(_parse(name, per_op))


def read_environment() -> None:
    """Apply ``FASTGAN_BACKEND``; called once all ops are registered.

    A mistake in it is an error of the first op that is called, so that an import, or ``--help``, works all the same.
    """
    global _mistake
    text = os.environ.get("FASTGAN_BACKEND", "")
    parts = [part.strip() for part in text.split(",") if part.strip()]
    bare = [part for part in parts if "=" not in part]
    per_op = dict(part.split("=", 1) for part in parts if "=" in part)
    if len(bare) > 1:
        _mistake = f"FASTGAN_BACKEND={text!r} names {len(bare)} backends for all ops: give one, or op=backend pairs"
    else:
        try:
            return set_backend(bare[0] if bare else None, **per_op)
        except ValueError as error:
            _mistake = f"FASTGAN_BACKEND={text!r}: {error}"
    _force(dict.fromkeys(ops(), _MISTAKEN))
