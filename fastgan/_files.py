"""How a file is written so that a reader finds the old one or the new one, never half of one."""

from __future__ import annotations

import contextlib
import errno
import os
import re
from collections.abc import Callable, Collection
from pathlib import Path

# What fsync says where data did not reach the disk. Whatever else it says means that it is not offered here.
_LOST = (errno.EIO, errno.ENOSPC, errno.EDQUOT)

_TEMPORARY = re.compile(r"\.[0-9]+\.(.+)", re.DOTALL)
_TAIL = 50  # characters of a name that its temporary file has: 200 bytes at most, where 255 are allowed


def write_atomically(path: Path, write: Callable[[Path], object], previous: Path | None = None) -> None:
    """Let ``write`` fill a temporary file beside ``path``, bring it to the disk, then put it in the place of ``path``.

    Whatever ``path`` held before stays there until the new content is complete, and for good if ``write`` fails; then
    it goes, or to ``previous`` in the same folder where that is given. The temporary file has the suffix of ``path``.
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


def unfinished(folder: Path, names: Collection[str] | None = None) -> list[Path]:
    """The temporary files in ``folder`` that :func:`write_atomically` fills, or left there when its process was killed:
    of files of these names, or of any."""
    tails = None if names is None else {name[-_TAIL:] for name in names}
    if not folder.is_dir():
        return []
    return [
        file
        for file in folder.iterdir()
        if (match := _TEMPORARY.fullmatch(file.name)) and (tails is None or match[1] in tails)
    ]


def _temporary(path: Path) -> Path:
    return path.with_name(f".{os.getpid()}.{path.name[-_TAIL:]}")


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
