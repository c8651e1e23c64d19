"""How much a file may take of memory and time, whatever it is: known before it is decoded."""

from __future__ import annotations

import os
import stat
import threading
from collections.abc import Callable
from pathlib import Path
from types import TracebackType

import numpy as np

MOST_BYTES = 2**29  # of an image's decoded pixels; to decode them takes about three times as much
_LARGE = MOST_BYTES // 8  # images of more are decoded one at a time, whatever the number of threads
_ROWS_BYTES = 2**24  # of the rows that are computed at once
_large_image = threading.Lock()


class Room:
    """A context in which an image is decoded: images that take much memory wait for each other in it.

    Args:
        channels: as many will be made of those that the file has.
    """

    def __init__(self, channels: int):
        self._channels, self._waited = channels, False

    def take(self, width: int, height: int, channels: int, itemsize: int = 1, *, share: int = 1) -> None:
        """See :func:`check_size`; to be called once, before anything is decoded."""
        size = check_size(width, height, max(channels, self._channels), itemsize, share=share)
        if size > _LARGE:
            _large_image.acquire()
            self._waited = True

    def __enter__(self) -> Room:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._waited:
            _large_image.release()


def check_size(width: int, height: int, channels: int, itemsize: int = 1, *, share: int = 1) -> int:
    """The bytes of an image's pixels. OSError where they are more than are read.

    Args:
        share: of the bytes that others may take, this image may take one part in so many.
    """
    size = width * height * channels * itemsize
    if size > MOST_BYTES // share:
        raise OSError(
            f"{width}x{height} pixels of {channels * itemsize} bytes are {size / 2**20:,.0f} MiB, and at most "
            f"{MOST_BYTES // share / 2**20:,.0f} MiB are read: make it smaller, or cut it into pieces"
        )
    return size


def is_special(path: str | Path) -> bool:
    """Whether a path is there and no file that ends when it is read: a pipe, a device."""
    try:
        mode = os.stat(path).st_mode
    except OSError:  # reading it tells what is wrong
        return False
    return not (stat.S_ISREG(mode) or stat.S_ISDIR(mode))


def check_ends(path: str | Path) -> None:
    """Raise OSError for what may never end when it is read."""
    if is_special(path):
        raise OSError("a pipe or a device, which may never end: only files are read")


def by_rows(compute: Callable[[np.ndarray], np.ndarray], pixels: np.ndarray) -> np.ndarray:
    """``compute(pixels)``, for (H, ...) pixels of which each row is computed by itself: a few rows at once, so that
    what it needs on the way stays small."""
    rows = max(1, _ROWS_BYTES // max(1, pixels[:1].nbytes))
    if rows >= len(pixels):
        return compute(pixels)
    first = compute(pixels[:rows])
    whole = np.empty((len(pixels), *first.shape[1:]), first.dtype)
    whole[:rows] = first
    for top in range(rows, len(pixels), rows):
        whole[top : top + rows] = compute(pixels[top : top + rows])
    return whole
