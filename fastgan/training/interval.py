"""When something is due in a run: after so many steps or so much time, whichever comes first."""

from __future__ import annotations

import math
import re
import time
from dataclasses import dataclass

from fastgan._errors import UserError

SHARE = 0.05  # of the time of a run that what is due by the clock may take
_UNITS = {"s": 1.0, "m": 60.0, "h": 3600.0}


@dataclass(frozen=True)
class Interval:
    """Steps and seconds from one time to the next.

    Attributes:
        steps: 0 where no number of steps makes it due.
        seconds: infinite where no time does.
    """

    steps: int
    seconds: float

    @property
    def never(self) -> bool:
        return self.steps == 0 and self.seconds == math.inf


def read_interval(text: str, flag: str) -> Interval:
    """The interval that ``text`` gives: "1000" (steps), "10m" (or s, or h), "1000,10m" or "1000|10m"; "0" is never.

    Raises:
        UserError: it is none; the message names ``flag``.
    """
    parts = re.split("[,|]", text.replace(" ", ""))
    steps = [part for part in parts if re.fullmatch("[0-9]{1,18}", part)]
    times = [match for part in parts if (match := re.fullmatch(r"([0-9]{1,9}(?:\.[0-9]{1,9})?)([smh])", part))]
    seconds = [float(match[1]) * _UNITS[match[2]] for match in times]
    if len(steps) > 1 or len(times) > 1 or len(steps) + len(times) < len(parts) or 0.0 in seconds:
        raise UserError(f"{flag} is {text!r}: give steps, a time, or both, such as 1000, 10m (s, m, h) or 1000,10m")
    return Interval(int(steps[0]) if steps else 0, seconds[0] if seconds else math.inf)


class Due:
    """Whether something is due after a step: after the first one of a run, at every multiple of the interval's steps,
    and when its time has passed since the last time.

    A run of fewer steps than the interval has is divided into quarters. What is due by the clock waits until it takes
    no more than ``SHARE`` of the time.

    Args:
        total: the steps of the whole run, where that is known.
    """

    def __init__(self, interval: Interval, total: int | None):
        self._interval, self._steps = interval, interval.steps
        if total is not None and total <= interval.steps:
            self._steps = max(1, math.ceil(total / 4))
        self._ended, self._cost, self._began = time.monotonic(), 0.0, 0.0

    def after(self, step: int) -> bool:
        """Whether it is due; if so, its own time begins."""
        if self._interval.never:
            return False
        self._began = time.monotonic()
        by_steps = step == 1 or (self._steps > 0 and step % self._steps == 0)
        return by_steps or self._began - self._ended >= max(self._interval.seconds, self._cost * (1 / SHARE - 1))

    def done(self) -> None:
        """It has been done, or was tried."""
        self._ended = time.monotonic()
        self._cost = self._ended - self._began
