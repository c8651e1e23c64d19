"""Batches of a data set: loaded when they are asked for, or ahead of that in other processes; and how those end.

The processes share nothing with each other. Each has a pipe of its own, and works out by itself which batches are its:
so one that is killed, at whatever moment, keeps neither the others nor the training waiting.
"""

from __future__ import annotations

import atexit
import contextlib
import itertools
import os
import signal
import threading
import time
import traceback
import weakref
from collections.abc import Iterable, Iterator
from multiprocessing.connection import Connection
from multiprocessing.reduction import ForkingPickler
from typing import Any

import torch
from torch import Tensor, multiprocessing
from torch.utils.data import default_collate

from fastgan._errors import UserError
from fastgan.training.data_order import Items, Key

AHEAD = 2  # batches that each process loads before they are asked for
# They reach the whole process group, and are for the training process alone. Windows has no SIGHUP.
_SIGNALS = [getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)]
_PARENT_SECONDS = 0.5  # between two looks at whether the training process is still there


class LostWorker(UserError):
    """A process that loads batches ended before its time."""


def loader(dataset: Items, keys: Iterable[list[Key]], workers: int, pin_memory: bool = False) -> Loader:
    """The collated batches of ``dataset`` at ``keys``, in this order, as an iterator to be closed.

    Nothing is drawn from a random generator.

    Args:
        keys: lists of keys, one for each batch; the same at every iteration.
        workers: processes that load; with 0 it is done here.
        pin_memory: whether the tensors are put where a GPU copies from without anybody waiting.
    """
    return Loader(dataset, keys, workers, pin_memory)


class Loader(Iterator[dict[str, Any]]):
    """See :func:`loader`. An error of the data set's in a process is raised here, with its own type.

    Raises:
        LostWorker: (from ``next``) a process was killed.
    """

    def __init__(self, dataset: Items, keys: Iterable[list[Key]], workers: int, pin_memory: bool):
        self._pin_memory = pin_memory
        self._here = (_load(dataset, batch) for batch in keys) if workers == 0 else iter(())
        self._turn = 0
        self._workers: list[_Worker] = []
        # Ignoring SIGTERM, the processes would outlast what multiprocessing does at exit: ours comes before that.
        self._end = weakref.finalize(self, _kill, self._workers)
        atexit.register(self._end)
        for number in range(workers):
            self._workers.append(_Worker(dataset, keys, number, workers))

    def __next__(self) -> dict[str, Any]:
        try:
            if self._workers:
                batch = self._workers[self._turn].receive()
                self._turn = (self._turn + 1) % len(self._workers)
            else:
                batch = next(self._here)
        except BaseException:  # after the end, or an error, nothing more is to come
            self.close()
            raise
        if not self._pin_memory:
            return batch
        return {name: value.pin_memory() if isinstance(value, Tensor) else value for name, value in batch.items()}

    def close(self) -> None:
        """End the processes, at once."""
        self._end()
        atexit.unregister(self._end)
        self._here = iter(())


class _Worker:
    """One process, as the training process sees it."""

    def __init__(self, dataset: Items, keys: Iterable[list[Key]], number: int, workers: int):
        self._connection, theirs = multiprocessing.Pipe()
        self._process = multiprocessing.Process(
            target=_work, args=(dataset, keys, number, workers, theirs), daemon=True
        )
        with _held_back():
            self._process.start()
        theirs.close()  # so that the end of the process is the end of what can be received
        for _ in range(AHEAD):
            self._ask()

    def receive(self) -> dict[str, Any]:
        try:
            kind, content = self._connection.recv()
        except (EOFError, OSError) as error:
            self._process.join(1)
            if self._process.exitcode is None:
                raise
            raise LostWorker(_how_it_ended(self._process.exitcode)) from error
        if kind == "batch":
            self._ask()
            return content
        if kind == "error":
            told, where = content
            raise told from RuntimeError(f"in a process that loads images:\n{where}")
        raise StopIteration

    def kill(self) -> None:
        self._process.kill()
        self._process.join()
        self._connection.close()

    def _ask(self) -> None:
        try:  # noqa: SIM105
            self._connection.send_bytes(b"1")
        except OSError:
            pass  # it has ended, which the next receive() will tell after what it had sent


@contextlib.contextmanager
def _held_back() -> Iterator[None]:
    """Signals wait: a process that starts here inherits it, and ignores them before it lets them come (_work)."""
    if not hasattr(signal, "pthread_sigmask"):
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _kill(workers: list[_Worker]) -> None:
    while workers:
        workers.pop().kill()


def _how_it_ended(code: int) -> str:
    if code >= 0:
        return f"a process that loads images ended by itself (exit code {code})"
    name = signal.Signals(-code).name
    causes = {"SIGKILL": "as the system does where memory runs out", "SIGBUS": "as where shared memory runs out"}
    why = f", {causes[name]}: a smaller --num-threads, or 0, needs less" if name in causes else ""
    return f"a process that loads images was killed by {name}{why}"


def _load(dataset: Items, keys: list[Key]) -> dict[str, Any]:
    return default_collate([dataset[key] for key in keys])


def _work(dataset: Items, keys: Iterable[list[Key]], number: int, workers: int, connection: Connection) -> None:
    """What the process ``number`` of so many does: every batch whose turn is its own, when it is asked for."""
    for each in _SIGNALS:
        signal.signal(each, signal.SIG_IGN)
    if hasattr(signal, "pthread_sigmask"):
        signal.pthread_sigmask(signal.SIG_UNBLOCK, _SIGNALS)
    threading.Thread(target=_end_with_parent, args=(os.getppid(),), daemon=True).start()
    torch.set_num_threads(1)
    try:
        for batch in itertools.islice(keys, number, None, workers):
            connection.recv_bytes()
            try:
                message = ForkingPickler.dumps(("batch", _load(dataset, batch)))
            except Exception as error:
                message = ForkingPickler.dumps(("error", (_portable(error), traceback.format_exc())))
            connection.send_bytes(message)
        connection.send(("end", None))
        while True:  # the tensors that were sent are fetched from this process
            connection.recv_bytes()
    except (EOFError, OSError):  # the training process has ended
        os._exit(0)


def _portable(error: Exception) -> Exception:
    """The error itself, if it comes through a pipe; else another that says the same."""
    try:
        copy = ForkingPickler.loads(ForkingPickler.dumps(error))
        if type(copy) is type(error) and str(copy) == str(error):
            return error
    except Exception:
        pass
    return RuntimeError(f"{type(error).__name__}: {error}")


def _end_with_parent(parent: int) -> None:
    """End this process when the one that started it has ended, whatever this one is doing."""
    while os.getppid() == parent:
        time.sleep(_PARENT_SECONDS)
    os._exit(1)
