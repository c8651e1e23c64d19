"""Where decoded pixels are kept: in memory, or in a file of this process's own that vanishes with it."""

from __future__ import annotations

import os
import shutil
import tempfile

import numpy as np
import torch
from torch import Tensor

CACHES = ("auto", "memory", "file", "none")
MEMORY_BYTES = 2**30  # of one folder's pixels, kept in memory by "auto": 4,300 images of 286x286
_SPARE_BYTES = 2**30  # that a file leaves free on its disk


def choose(size: int, asked: str, memory_bytes: int = MEMORY_BYTES) -> str:
    """ "memory", "file" or "none" for so many bytes of pixels: what was asked for; "auto" takes a file beyond
    ``memory_bytes``, and nothing where the disk has no room for one."""
    if asked != "auto":
        return asked
    if size <= memory_bytes:
        return "memory"
    return "file" if size + _SPARE_BYTES <= shutil.disk_usage(folder()).free else "none"


def folder() -> str:
    """Where files lie: the folder for temporary files, which the environment variable TMPDIR names."""
    return tempfile.gettempdir()


def buffer(elements: int, dtype: torch.dtype, where: str) -> Tensor:
    """So many elements of uint8 or uint16, in memory or in a file. Processes that are forked share it.

    OSError where there is no room for the file.
    """
    if where == "memory" or elements == 0:
        return torch.empty(elements, dtype=dtype)
    kind = np.dtype(np.uint8 if dtype == torch.uint8 else np.uint16)
    with tempfile.TemporaryFile(prefix="fastgan-") as file:
        _reserve(file.fileno(), elements * kind.itemsize)
        return torch.from_numpy(np.memmap(file, kind, "r+", shape=(elements,)))


def _reserve(file: int, size: int) -> None:
    """Give a file its size on the disk: to write where there is no room would end the process without a word."""
    try:
        if hasattr(os, "posix_fallocate"):
            os.posix_fallocate(file, 0, size)
        else:
            os.ftruncate(file, size)
    except OSError as error:
        raise OSError(
            error.errno,
            f"{error.strerror}, for a file of {size / 2**30:.1f} GiB; --cache none does "
            "without, TMPDIR names another folder",
            folder(),
        ) from None
