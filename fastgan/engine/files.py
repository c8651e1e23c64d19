"""How a file is written so that a reader finds the old one or the new one, never half of one."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable
from pathlib import Path


def write_atomically(path: Path, write: Callable[[Path], object]) -> None:
    """Let ``write`` fill a temporary file beside ``path``, bring it to the disk, then put it in the place of ``path``.

    Whatever ``path`` held before stays there until the new content is complete, and for good if ``write`` fails.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        write(temporary)
        with open(temporary, "rb+") as file:
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except OSError as error:
        if error.errno is not None and str(error.filename) in ("None", str(temporary)):
            error.filename = str(path)  # what a full disk says names no file, and nobody knows the temporary one
        raise
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink()
    _sync_folder(path.parent)


def unfinished(path: Path) -> list[Path]:
    """The temporary files beside ``path`` that :func:`write_atomically` fills, or left when its process was killed."""
    prefix = f".{path.name}."
    return [file for file in path.parent.iterdir() if file.name.startswith(prefix) and
            file.name.removeprefix(prefix).isdecimal()]


def _sync_folder(folder: Path) -> None:
    """Bring a rename to the disk; some systems (Windows) open no folders and need no such call."""
    try:
        descriptor = os.open(folder, os.O_RDONLY)
    except OSError:
        return
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
