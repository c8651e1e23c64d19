"""Where decoded pixels are kept: in memory, or in a file of this process's own that vanishes with it."""

from __future__ import annotations

import shutil
import tempfile

import numpy as np
import torch
from torch import Tensor

CACHES = ("auto", "memory", "file", "none")
MEMORY_BYTES = 2 ** 30  # of one folder's pixels, kept in memory by "auto": 4,300 images of 286x286
_SPARE_BYTES = 2 ** 30  # that a file leaves free on its disk


def choose(size: int, asked: str, memory_bytes: int = MEMORY_BYTES) -> str:
    """"memory", "file" or "none" for so many bytes of pixels: what was asked for; "auto" takes a file beyond
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
    """So many elements, in memory or in a file. Processes that are forked share it.

    OSError where there is no room for the file.
    """
    if where == "memory" or elements == 0:
        return torch.empty(elements, dtype=dtype)
    kind = {torch.uint8: np.uint8, torch.uint16: np.uint16}[dtype]
    with tempfile.TemporaryFile(prefix="fastgan-") as file:
        return torch.from_numpy(np.memmap(file, kind, "w+", shape=(elements,)))
