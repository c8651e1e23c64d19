"""Signals that end a run: the first asks the loop to stop after the step it is in, a second one leaves at once."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import threading
from types import FrameType
from typing import Any

_MESSAGE = "\n{name}: finishing this step, then saving{more}\n"
_MORE = "; once more leaves at once, without saving"


class Interrupt:
    """A context manager; inside it ``requested`` turns True at the first SIGINT, SIGTERM or SIGHUP.

    A second SIGINT or SIGTERM raises KeyboardInterrupt. SIGHUP, of a terminal that closes, is sent twice by many shells
    and before SIGTERM at the end of a session, and so only ever asks; where it is ignored (nohup), it stays so. Outside
    the main thread, where python allows no handlers, nothing is done.
    """

    def __init__(self) -> None:
        self.requested = False
        self._insisted = False
        self._before: dict[int, Any] = {}  # handlers, as signal gives them

    def __enter__(self) -> Interrupt:
        if threading.current_thread() is threading.main_thread():
            for name in ("SIGINT", "SIGTERM", "SIGHUP"):
                number = getattr(signal, name, None)  # Windows has no SIGHUP
                if number is None or (name == "SIGHUP" and signal.getsignal(number) is signal.SIG_IGN):
                    continue
                self._before[number] = signal.signal(number, self._handle)
        return self

    def __exit__(self, *exception: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
        self._before.clear()

    def _handle(self, number: int, frame: FrameType | None) -> None:
        name = signal.Signals(number).name
        if name != "SIGHUP":
            if self._insisted:
                raise KeyboardInterrupt
            self._insisted = True
        if not self.requested:
            self.requested = True
            _tell(_MESSAGE.format(name=name, more="" if name == "SIGHUP" else _MORE))


def _tell(text: str) -> None:
    """Write to stderr, if it is open. print() may be in the middle of a write when a signal comes; this is not."""
    if sys.__stderr__ is not None:
        with contextlib.suppress(OSError):
            os.write(2, text.encode())
