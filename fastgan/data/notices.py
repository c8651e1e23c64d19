"""What the data has to tell a person, without stopping: one line each, on the logger ``fastgan.data``.

With no logging configured, Python prints such lines on stderr as they are.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence

from fastgan._printable import printable

_LOGGER = logging.getLogger("fastgan.data")
NAMED = 3  # files that a line names; the rest is counted


def notice(line: str) -> None:
    """Tell it."""
    _LOGGER.warning(printable(line))


def some(names: Sequence[str]) -> str:
    """The first few of ``names``, and how many more there are."""
    rest = len(names) - NAMED
    return ", ".join(names[:NAMED]) + (f" and {rest} more" if rest > 0 else "")
