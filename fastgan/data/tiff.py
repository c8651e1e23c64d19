"""TIFF files that Pillow has no mode for, or gets wrong: more than four channels, more than 8 bits in several, and
numbers that are signed, or have 32 bits or more.

Tags and their meaning are those of TIFF 6.0 (Adobe, 1992).
"""

from __future__ import annotations

import math
import mmap
import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL.TiffImagePlugin import ImageFileDirectory_v2

from . import orientation
from .bounds import check_size
from .extra import library

_WIDTH, _HEIGHT, _BITS, _COMPRESSION, _COLOURS, _CHANNELS = 256, 257, 258, 259, 262, 277
_PLANAR, _TILE_WIDTH, _TILE_HEIGHT, _FORMAT = 284, 322, 323, 339
_KINDS = {1: "u", 2: "i", 3: "f"}
_BEGINNINGS = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
_UNCOMPRESSED = 1
_PACKED = (_UNCOMPRESSED, 5, 8, 32946, 32773, 34925, 50000)  # LZW, deflate, PackBits, LZMA, Zstandard
_PLAIN_COLOURS = (0, 1, 2)  # grey and RGB
_OF_PILLOW = ("int8", "int16", "int32", "uint32", "float32")  # of one channel


@dataclass(frozen=True)
class Tiff:
    """What a TIFF file says of its image, before it is turned upright.

    Attributes:
        numbers: a numpy type; None for one that numpy has not.
        negative: 0 is white.
        several: other images come after it.
        own: :func:`read` reads it; the others are left to Pillow.
    """

    width: int
    height: int
    channels: int
    numbers: np.dtype | None
    orientation: int
    negative: bool
    several: bool
    own: bool


def header(path: str | Path, start: bytes) -> Tiff | None:
    """What a TIFF file says of its image; None for other files.

    Args:
        start: how the file begins, four bytes or more.

    Raises:
        OSError: it says nothing that makes sense, or has tiles that are too large.
    """
    if start[:4] not in _BEGINNINGS:
        return None
    if start[:4] == b"MM\0+":
        raise OSError("a big-endian BigTIFF, which is not read")
    with open(path, "rb") as file:
        start = file.read(8)
        tags = ImageFileDirectory_v2(start if start[2:4] in (b"*\0", b"\0*") else start + file.read(8))
        file.seek(tags.next)
        tags.load(file)
    width, height, channels = (_count(tags, tag) for tag in (_WIDTH, _HEIGHT, _CHANNELS))
    bits, kinds = _all(tags, _BITS), _all(tags, _FORMAT)
    numbers = None
    if bits in ({8}, {16}, {32}, {64}) and len(kinds) == 1 and kinds <= set(_KINDS) and (bits, kinds) != ({8}, {3}):
        numbers = np.dtype(f"{_KINDS[min(kinds)]}{min(bits) // 8}")
    check_size(_count(tags, _TILE_WIDTH), _count(tags, _TILE_HEIGHT), channels, -(-max(bits) // 8))
    if channels > 1:
        own = channels > 4 or max(bits) > 8 or kinds != {1}
    elif max(bits) <= 16 and kinds == {1}:
        own = False
    else:
        swapped = tags.prefix == b"MM" and (tags.get(_COMPRESSION, 1) != _UNCOMPRESSED or numbers == np.uint32)
        own = numbers is not None and (swapped or numbers.name not in _OF_PILLOW)
    turned = orientation.valid(tags.get(orientation.TAG))
    return Tiff(width, height, channels, numbers, turned, tags.get(_COLOURS) == 0, tags.next != 0, own)


def read(path: str | Path, found: Tiff) -> np.ndarray:
    """(H, W, C) of a TIFF file that is to be read here. It is not turned.

    Args:
        found: what :func:`header` gave.

    Raises:
        OSError: truncated, damaged, or of a kind that is not read, or the library that reads it is not installed.
    """
    what = f"a TIFF of {found.channels} channel{'s' if found.channels > 1 else ''}"
    if found.numbers is None:
        raise OSError(f"{what} is read with 8, 16, 32 or 64 bits in each, whole numbers or floating-point")
    what += f" of {found.numbers.name} numbers"
    tifffile = library("tifffile", what)
    library("imagecodecs", what)
    with (
        open(path, "rb") as file,
        mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content,
        tifffile.TiffFile(content, name=os.fspath(path)) as opened,
    ):
        page = opened.pages.first
        if page.compression not in _PACKED:
            raise OSError(f"{what} is read uncompressed, or packed by LZW, deflate, PackBits, LZMA or Zstandard")
        if found.channels <= 4 and page.photometric not in _PLAIN_COLOURS:
            raise OSError(f"{what} is grey or RGB, not {page.photometric.name}")
        apart = page.planarconfig == 2 and found.channels > 1
        shape = (found.height, found.width, found.channels)
        stored = (shape[2], *shape[:2]) if apart else shape
        if page.dtype != found.numbers or math.prod(page.shape) != math.prod(shape) or page.is_subsampled:
            raise OSError("damaged")
        ends = (offset + count for offset, count in zip(page.dataoffsets, page.databytecounts))
        if max(ends, default=0) > len(content):
            raise OSError("truncated")
        try:
            pixels = page.asarray(maxworkers=1).reshape(stored)
        except (ValueError, RuntimeError, NotImplementedError) as error:
            raise OSError(f"damaged: {error}") from None
    return np.ascontiguousarray(pixels.transpose(1, 2, 0)) if apart else pixels


def _count(tags: ImageFileDirectory_v2, tag: int) -> int:
    count = tags.get(tag, 0 if tag in (_WIDTH, _HEIGHT) else 1)
    if not isinstance(count, int) or count < 1:
        raise OSError("damaged: a TIFF without a size")
    return count


def _all(tags: ImageFileDirectory_v2, tag: int) -> set[int]:
    values = tags.get(tag, (1,))
    if not isinstance(values, tuple) or not values or not all(isinstance(value, int) for value in values):
        raise OSError("damaged: a TIFF without numbers")
    return set(values)
