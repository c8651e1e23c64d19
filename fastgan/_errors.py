"""Errors that a user can put right, and the one line that a command says of an error."""

from __future__ import annotations

import re

# What bad input, a bad file or a machine that cannot serve raises. Anything else is a bug and keeps its traceback.
EXPECTED = (ValueError, OSError, RuntimeError, ImportError, MemoryError)

_HINT = "FASTGAN_DEBUG=1 shows where"


class UserError(ValueError):
    """An error that the user can correct. The message names the value and the remedy."""


def sentence(error: BaseException) -> str:
    """One line that says what ``error`` says."""
    if isinstance(error, OSError) and error.strerror:
        return f"{error.filename}: {error.strerror}" if error.filename is not None else error.strerror
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    if not lines:
        return f"{type(error).__name__} ({_HINT})"
    if "in DataLoader worker process" in lines[0]:
        # The worker's own exception comes last, as "ValueError: what happened".
        return re.sub(r"^[\w.]*(Error|Exception): ", "", lines[-1])
    if "Expected more than 1 value per channel" in lines[0]:
        return f"batch norm needs two images or more in a batch: give a larger --batch-size ({_HINT})"
    if (asked := re.search("can't allocate memory: you tried to allocate ([0-9]+) bytes", lines[0])) is not None:
        return (
            f"out of memory: {int(asked[1]) / 2**30:,.1f} GiB were asked for at once; a smaller --batch-size, "
            f"--crop-size or network needs less ({_HINT})"
        )
    if "out of memory" in lines[0]:
        return f"{lines[0].split('. ')[0]}: a smaller --batch-size or --crop-size needs less ({_HINT})"
    return lines[0] if len(lines) == 1 else f"{lines[0]} ({_HINT})"
