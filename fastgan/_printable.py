"""Text of others' making, such as names of files, made fit for a console."""

from __future__ import annotations

import re

_CONTROLS = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069]")


def printable(text: str) -> str:
    """``text`` with escapes for what moves a console's cursor, breaks a line, or turns the direction of writing."""
    return _CONTROLS.sub(lambda found: found[0].encode("unicode_escape").decode(), text)
