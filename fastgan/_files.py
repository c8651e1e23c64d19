"""How a file is written so that a reader finds the old one or the new one, never half of one."""

from __future__ import annotations

import contextlib
import errno
import os
from collections.abc import Callable
from pathlib import Path

# What fsync says where data did not reach the disk. Whatever else it says means that it is not offered here.
_LOST = (errno.EIO, errno.ENOSPC, errno.EDQUOT)


def write_atomically(path: Path, write: Callable[[Path], object], previous: Path | None = None) -> None:
    """Let ``write`` fill a temporary file beside ``path``, bring it to the disk, then put it in the place of ``path``.

    Whatever ``path`` held before stays there until the new content is complete, and for good if ``write`` fails; then
    it goes, or to ``previous`` in the same folder where that is given.
    """
    temporary = _temporary(path)
    try:
        write(temporary)
        with open(temporary, "rb+") as file:
            _sync(file.fileno())
        if previous is not None and path.exists():
            _keep(path, previous)
        os.replace(temporary, path)
        _sync_folder(path.parent)
    except OSError as error:
        if error.errno is not None and str(error.filename) in ("None", str(temporary)):
            error.filename = str(path)  # what a full disk says names no file, and nobody knows the temporary one
        raise
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink()


def unfinished(path: Path) -> list[Path]:
    """The temporary files beside ``path`` that :func:`write_atomically` fills, or left when its process was killed."""
    prefix = f".{path.name}."
    return [
        file
        for file in path.parent.iterdir()
        if file.name.startswith(prefix) and file.name.removeprefix(prefix).isdecimal()
    ]


def _temporary(path: Path) -> Path:
    return path.with_name(f".{path.name}.{os.getpid()}")


def _keep(path: Path, previous: Path) -> None:
    """Let ``previous`` hold what ``path`` holds. It stays at ``path`` too, where the file system has hard links."""
    link = _temporary(previous)
    try:
        os.link(path, link)
        os.replace(link, previous)
    except OSError:
        os.replace(path, previous)
    finally:
        with contextlib.suppress(OSError):
            link.unlink()  # it is still there where both were links to one file, which os.replace leaves alone


def _sync(descriptor: int) -> None:
    """Bring a file or a folder to the disk, where the file system offers that: some on networks and in FUSE do not."""
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno in _LOST:
            raise


def _sync_folder(folder: Path) -> None:
    """Bring a rename to the disk; some systems (Windows) open no folders and need no such call."""
    try:
        descriptor = os.open(folder, os.O_RDONLY)
    except OSError:
        return
    try:
        _sync(descriptor)
    finally:
        os.close(descriptor)
