"""Which backend computes an op, and why the others do not."""

from __future__ import annotations

import contextlib
import importlib.util
import os
from typing import Callable, Iterator

import torch

from . import _extension

# A verifier says why its backend cannot serve (device type, dtype); the empty string means that it can.
# `asked` is True when the backend was forced: some backends serve only then.
Verifier = Callable[[str, torch.dtype, bool], str]

_verifiers: dict[str, dict[str, Verifier]] = {}
_remarks: dict[tuple[str, str], str] = {}
_forced: dict[str, str] = {}
_notes: dict[tuple[str, str], str] = {}
_mistake = ""  # what is wrong with FASTGAN_BACKEND, as long as it is in force

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
    if _mistake:
        raise ValueError(_mistake)
    forced = _forced.get(op)
    return "" if forced in (None, "reference") else _verifiers[op][forced](device, dtype, True)


def select(op: str, device: str, dtype: torch.dtype, measured: str | None = None) -> str:
    """The backend that computes ``op``: the forced one, else the measured one, else the first that can serve."""
    verifiers = _verifiers[op]
    reason = refusal(op, device, dtype)
    forced = _forced.get(op)
    if forced is not None:
        if reason:
            raise RuntimeError(
                f"{op}: the backend {forced!r} was asked for but cannot serve {dtype} on {device}: {reason}"
            )
        return forced
    if measured is not None and (measured == "reference" or not verifiers[measured](device, dtype, True)):
        return measured
    for name, verify in verifiers.items():
        if not verify(device, dtype, False):
            return name
    return "reference"


def forced(op: str) -> str | None:
    """The backend of ``op`` that was asked for by name: then nothing else is chosen for any call."""
    return _forced.get(op)


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
    forced = _forced.get(op)
    if forced is not None and forced != "reference":
        raise RuntimeError(f"{op}: the backend {forced!r} was asked for but cannot serve this call: {reason}")


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
    """Force a backend for the whole process, until the next call.

    ``name`` binds every op that has a backend of that name; keyword arguments bind single ops and win.
    ``set_backend("auto")`` returns to the automatic choice. Arguments and errors as for :func:`backend`.
    """
    _force(_parse(name, per_op), "")


def _force(forced: dict[str, str], mistake: str) -> None:
    global _mistake
    _forced.clear()
    _forced.update(forced)
    _mistake = mistake


@contextlib.contextmanager
def backend(name: str | None = None, /, **per_op: str) -> Iterator[None]:
    """Force a backend inside a ``with`` block.

    ``backend("triton")`` binds every op that has Triton kernels and leaves the others to the automatic choice;
    ``backend("reference")`` binds them all; ``backend(instance_norm="cpp", l1_loss="reference")`` binds single ops.
    A backward pass uses what its forward pass used. The choice is process-wide, not per thread. The environment
    variable ``FASTGAN_BACKEND`` (``triton``, or ``instance_norm=cpp,l1_loss=reference``) sets the initial state.

    Raises:
        ValueError: an unknown backend or op name.
        RuntimeError: (from the op) the forced backend cannot serve the call; the message gives the reason.
    """
    before = dict(_forced), _mistake
    set_backend(name, **per_op)
    try:
        yield
    finally:
        _force(*before)


def read_environment() -> None:
    """Apply ``FASTGAN_BACKEND``; called once all ops are registered.

    A mistake in it is an error of the first op that is called, so that an import, or ``--help``, works all the same.
    """
    text = os.environ.get("FASTGAN_BACKEND", "")
    parts = [part.strip() for part in text.split(",") if part.strip()]
    bare = [part for part in parts if "=" not in part]
    per_op = dict(part.split("=", 1) for part in parts if "=" in part)
    if len(bare) > 1:
        _force({}, f"FASTGAN_BACKEND={text!r} names {len(bare)} backends for all ops: give one, or op=backend pairs")
        return
    try:
        set_backend(bare[0] if bare else None, **per_op)
    except ValueError as error:
        _force({}, f"FASTGAN_BACKEND={text!r}: {error}")
