"""Which backend computes an op, and why the others do not: one list an op, and one place that chooses from it.

An op file makes its :class:`Op` of backends in order of preference; the reference comes last. ``fastgan.backend``,
``FASTGAN_BACKEND``, ``python -m fastgan.info``, the tuner and the errors read that list, so that one more backend is
one more object in it.
"""

from __future__ import annotations

import contextlib
import functools
import importlib
import importlib.util
import os
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any, NamedTuple

import torch
from torch import Tensor

from . import _extension, _scope, _table

EXTENSION_LOADED, EXTENSION_STATUS = _extension.load()
TRITON_FOUND = importlib.util.find_spec("triton") is not None
TRITON_INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"

_is_dynamo_compiling = torch.compiler.is_dynamo_compiling  # looked up once: every call of an op asks

Pair = tuple[int, int]


class Call(NamedTuple):
    """What a choice depends on. Without tensors it stands for any call on such a device in such a dtype."""

    device: str  # its type
    dtype: torch.dtype
    asked: str | None = None  # the backend that was forced by name
    x: Tensor | None = None
    weight: Tensor | None = None
    stride: Pair = (1, 1)
    padding: Pair = (0, 0)
    dilation: Pair = (1, 1)


class Backends(NamedTuple):
    """Who computes an op with three passes, and its gradients."""

    forward: str
    input_gradient: str
    weight_gradient: str


class Backend:
    """One way to compute an op.

    Args:
        load: gives what runs, the ``launchers``: an object with a function for each pass. Called at the first use.
            None for one that runs ops of torch or of other backends.
        remark: for ``fastgan.info``, which calls the automatic choice leaves to other backends.
    """

    name: str
    takes_any = False  # also the calls that no kernel of the op takes

    def __init__(self, load: Callable[[], Any] | None = None, remark: str = "") -> None:
        self._load = load
        self.remark = remark

    def refuses(self, call: Call) -> str:
        """Why it cannot serve a call, or is kept for calls that ask for it by name; the empty string where it can.

        What takes long to put into words may be said only to calls that ask by name, where :meth:`pays` says no.
        """
        return ""

    def pays(self, call: Call) -> bool:
        """Whether the automatic choice takes it for a call that it can serve."""
        return True

    def passes(self, call: Call) -> Backends:
        """Who computes which pass of a call that it was chosen for."""
        return Backends(self.name, self.name, self.name)

    @functools.cached_property
    def launchers(self) -> Any:
        assert self._load is not None, f"{self.name} has no launchers"
        return self._load()


class Reference(Backend):
    """Plain torch: takes every call."""

    name = "reference"
    takes_any = True


class Cpp(Backend):
    """The C++ kernels of the extension: CPU tensors of some dtypes."""

    name = "cpp"

    def __init__(
        self,
        load: Callable[[], Any] | None = None,
        remark: str = "",
        dtypes: tuple[torch.dtype, ...] = (torch.float32, torch.bfloat16, torch.float64),
    ) -> None:
        super().__init__(load, remark)
        self.dtypes = dtypes

    def refuses(self, call: Call) -> str:
        if call.device != "cpu":
            return "the C++ kernels take CPU tensors"
        if not EXTENSION_LOADED:
            return EXTENSION_STATUS
        return "" if call.dtype in self.dtypes else _dtype_reason(self.dtypes)


class Triton(Backend):
    """The Triton kernels of ``fastgan.kernels.<module>``: CUDA tensors (in the interpreter, CPU ones)."""

    name = "triton"
    dtypes = (torch.float32, torch.bfloat16, torch.float16, torch.float64)

    def __init__(self, module: str) -> None:
        super().__init__(lambda: importlib.import_module(f"fastgan.kernels.{module}"))

    def refuses(self, call: Call) -> str:
        if not TRITON_FOUND:
            return "triton is not installed (pip install 'triton>=3.6')"
        if call.device == "cpu":
            if not TRITON_INTERPRETED:
                return "Triton kernels need a CUDA device"
            if call.asked != "triton":
                return "Triton's interpreter on the CPU is for tests: it serves only when asked for"
        elif call.device != "cuda":
            return "Triton kernels need a CUDA device"
        return "" if call.dtype in self.dtypes else _dtype_reason(self.dtypes)


def _dtype_reason(dtypes: tuple[torch.dtype, ...]) -> str:
    return f"its kernels take {', '.join(_table.dtype_name(d) for d in dtypes)}"


def extension_ops(**names: str) -> Callable[[], Any]:
    """Loads ops of the extension as launchers, by the pass that each computes."""
    return lambda: SimpleNamespace(**{each: getattr(torch.ops.fastgan_csrc, name) for each, name in names.items()})


class Op:
    """An op and its backends.

    Args:
        backends: in order of preference, without the reference.
        reference: the last one, where it is more than :class:`Reference`.
        shape_key: a call's shape as the measured table writes it, for an op that is tuned.
        measured: the backend that the table names for a call, for an op of which the table chooses the backend.
    """

    def __init__(
        self,
        name: str,
        *backends: Backend,
        reference: Backend | None = None,
        shape_key: Callable[..., str] | None = None,
        measured: Callable[[Call], str | None] | None = None,
    ) -> None:
        self.name = name
        self.backends: tuple[Backend, ...] = (*backends, reference or Reference())
        self.shape_key = shape_key
        self.measured = measured
        OPS[name] = self

    def __getitem__(self, name: str) -> Backend:
        for backend in self.backends:
            if backend.name == name:
                return backend
        raise ValueError(f"{self.name} has no backend {name!r}: choose {', '.join(self.names())}")

    def names(self) -> tuple[str, ...]:
        return tuple(backend.name for backend in self.backends)

    def config(self, direction: str, x: Tensor, *shape: Any) -> Any:
        """The kernel configuration that was measured best for one direction of a call; None leaves it to the kernels.

        ``shape`` is what ``shape_key`` takes.
        """
        if x.device.type not in _table.KINDS:
            return None
        assert self.shape_key is not None, f"{self.name} is not tuned"
        fields = _table.configuration(self.name, direction, x, self.shape_key(*shape))
        if fields is None:
            return None
        return importlib.import_module(f"fastgan.kernels.{self.name}").Config(**fields)


OPS: dict[str, Op] = {}


def choose(op: Op, call: Call, unsupported_reason: str = "") -> Backend:
    """The backend of ``op`` that computes a call: the forced one, else the one that was measured fastest, else the
    first that can serve and pays.

    Args:
        unsupported_reason: why no kernel of the op takes the call; the reference and its like do.

    Raises:
        RuntimeError: the forced backend cannot serve the call.
        ValueError: FASTGAN_BACKEND names what is not there.
    """
    if call.asked is not None:
        return _forced_backend(op, call.asked, call, unsupported_reason)
    if op.measured is not None and not unsupported_reason:
        measured = op.measured(call)
        if measured is not None and not op[measured].refuses(call._replace(asked=measured)):
            return op[measured]
    for backend in op.backends:
        if (not unsupported_reason or backend.takes_any) and not backend.refuses(call) and backend.pays(call):
            return backend
    return op.backends[-1]


def _forced_backend(op: Op, asked: str, call: Call, unsupported_reason: str) -> Backend:
    backend = _named(op, asked)
    reason, what = "" if backend.takes_any else unsupported_reason, "this call"
    if not reason:
        reason = backend.refuses(call)
        if reason and backend.refuses(Call(call.device, call.dtype, asked)):
            what = f"{call.dtype} on {call.device}"
    if reason:
        raise RuntimeError(f"{op.name}: the backend {asked!r} was asked for but cannot serve {what}: {reason}")
    return backend


def _named(op: Op, name: str) -> Backend:
    """The backend that was asked for by name, which FASTGAN_BACKEND may have got wrong."""
    if name == _MISTAKEN:
        raise ValueError(_mistake)
    return op[name]


def serving(op: str, device: str, dtype: torch.dtype) -> str:
    """The backend of ``op`` that serves on a device in a dtype, where nothing of a call's shape is known.

    Raises:
        RuntimeError, ValueError: as :func:`choose`.
    """
    return choose(OPS[op], Call(device, dtype, forced(op))).name


def refusal(op: str, backend: str, device: str, dtype: torch.dtype) -> str:
    """Why a backend of ``op`` that is asked for by name serves no call on a device in a dtype; empty where it does."""
    return OPS[op][backend].refuses(Call(device, dtype, backend))


def refusals(op: str, device: str, dtype: torch.dtype) -> dict[str, str]:
    """The same for each backend that the choice is made from: the forced one, or all, which nobody asked for.

    Raises:
        ValueError: FASTGAN_BACKEND names what is not there.
    """
    asked = forced(op)
    backends = OPS[op].backends if asked is None else (_named(OPS[op], asked),)
    return {backend.name: backend.refuses(Call(device, dtype, asked)) for backend in backends}


def forced(op: str) -> str | None:
    """The backend of ``op`` that was asked for by name: then nothing else is chosen for any call."""
    if _is_dynamo_compiling():
        block = _scope.compiled[-1] if _scope.compiled else _scope.here
    else:
        block = None if _scope.entered() is None else _scope.get()
    return (_forced if block is None else block).get(op)


_forced: dict[str, str] = {}  # of the whole process; a block of `backend` goes before it
_MISTAKEN = "FASTGAN_BACKEND"  # what is forced for every op while that variable holds a mistake
_mistake = ""  # which one


def _parse(name: str | None, per_op: dict[str, str]) -> dict[str, str]:
    known = {op.name: op.names() for op in OPS.values()}
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
    _force(dict.fromkeys(OPS, _MISTAKEN))
