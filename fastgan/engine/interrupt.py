"""Ctrl-C and SIGTERM: the first asks the loop to stop after the step it is in, the second leaves at once."""

from __future__ import annotations

import os
import signal
import threading
from types import FrameType

_MESSAGE = "\n{name}: finishing this step, then saving; once more leaves at once, without saving\n"


class Interrupt:
    """A context manager; inside it ``requested`` turns True at the first SIGINT or SIGTERM, the second raises
    KeyboardInterrupt. Outside the main thread, where python allows no handlers, it does nothing."""

    def __init__(self) -> None:
        self.requested = False
        self._before: dict[int, object] = {}

    def __enter__(self) -> Interrupt:
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                self._before[number] = signal.signal(number, self._handle)
        return self

    def __exit__(self, *exception: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
        self._before.clear()

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if self.requested:
            raise KeyboardInterrupt
        self.requested = True
        # print() may be in the middle of a write when the signal comes; a plain write cannot be.
        os.write(2, _MESSAGE.format(name=signal.Signals(number).name).encode())
