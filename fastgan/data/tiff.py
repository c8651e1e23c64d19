"""TIFF files that Pillow has no mode for, or gets wrong: more than four channels, more than 8 bits in several, and
numbers that are signed, or have 32 bits or more.

Tags and their meaning are those of TIFF 6.0 (Adobe, 1992).
"""

from __future__ import annotations

import math
import zlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL.TiffImagePlugin import ImageFileDirectory_v2

from . import orientation

_WIDTH, _HEIGHT, _BITS, _COMPRESSION, _OFFSETS, _CHANNELS, _COUNTS = 256, 257, 258, 259, 273, 277, 279
_PLANAR, _PREDICTOR, _FORMAT = 284, 317, 339
_NONE, _DEFLATE = (1,), (8, 32946)
_KINDS = {1: "u", 2: "i", 3: "f"}
_BEGINNINGS = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")


@dataclass(frozen=True)
class Tiff:
    """What a TIFF file says of its image, before it is turned upright.

    Attributes:
        numbers: a numpy type; None for one that numpy has not.
        own: :func:`read` reads it; the others are left to Pillow.
    """

    width: int
    height: int
    channels: int
    numbers: np.dtype | None
    orientation: int
    own: bool


def header(path: str | Path, start: bytes) -> Tiff | None:
    """What a TIFF file says of its image; None for other files.

    Args:
        start: how the file begins, four bytes or more.
    """
    if start[:4] not in _BEGINNINGS:
        return None
    tags = _tags(path)
    channels, bits = tags.get(_CHANNELS, 1), tags.get(_BITS, (1,))[0]
    numbers = _numbers(tags)
    plain = bits <= 16 and set(tags.get(_FORMAT, (1,))) == {1}
    own = channels > 4 or channels > 1 and bits > 8 or not plain and (_fault(tags) is None or tags.prefix == b"MM")
    return Tiff(tags[_WIDTH], tags[_HEIGHT], channels, numbers, orientation.valid(tags.get(orientation.TAG)), own)


def read(path: str | Path) -> np.ndarray:
    """(H, W, C), of the type that :func:`header` says, of a TIFF file that is to be read here. It is not turned.

    Raises:
        OSError: truncated, damaged, or of a kind that is not read: the message says which.
    """
    tags = _tags(path)
    if (fault := _fault(tags)) is not None:
        raise OSError(fault)
    width, height, channels, numbers = tags[_WIDTH], tags[_HEIGHT], tags.get(_CHANNELS, 1), _numbers(tags)
    wanted = height * width * channels * numbers.itemsize
    content = bytearray()
    with open(path, "rb") as file:
        for offset, count in zip(tags[_OFFSETS], tags[_COUNTS]):
            file.seek(offset)
            part = file.read(min(count, wanted))
            if tags.get(_COMPRESSION, 1) in _DEFLATE:
                part = _inflate(part, wanted - len(content))
            content += part
    if len(content) < wanted:
        raise OSError("truncated")
    apart = tags.get(_PLANAR, 1) == 2
    shape = (channels, height, width) if apart else (height, width, channels)
    order = {b"II": "<", b"MM": ">"}[tags.prefix]
    pixels = np.frombuffer(content, f"{order}u{numbers.itemsize}", math.prod(shape)).reshape(shape)
    pixels = pixels.astype(f"u{numbers.itemsize}")
    if tags.get(_PREDICTOR, 1) == 2:
        pixels = np.cumsum(pixels, axis=2 if apart else 1, dtype=pixels.dtype)
    pixels = pixels.view(numbers)
    return np.ascontiguousarray(pixels.transpose(1, 2, 0)) if apart else pixels


def _tags(path: str | Path) -> ImageFileDirectory_v2:
    with open(path, "rb") as file:
        start = file.read(8)
        tags = ImageFileDirectory_v2(start if start[2:4] in (b"*\0", b"\0*") else start + file.read(8))
        file.seek(tags.next)
        tags.load(file)
    return tags


def _numbers(tags: ImageFileDirectory_v2) -> np.dtype | None:
    bits, kind = set(tags.get(_BITS, (1,))), set(tags.get(_FORMAT, (1,)))
    if len(bits) > 1 or len(kind) > 1 or not bits <= {8, 16, 32, 64} or not kind <= set(_KINDS):
        return None
    name = f"{_KINDS[kind.pop()]}{bits.pop() // 8}"
    return None if name == "f1" else np.dtype(name)


def _fault(tags: ImageFileDirectory_v2) -> str | None:
    """What keeps :func:`read` from reading a file of these tags."""
    channels = tags.get(_CHANNELS, 1)
    what = f"a TIFF of {channels} channel{'s' if channels > 1 else ''}"
    if _numbers(tags) is None:
        bits = sorted(set(tags.get(_BITS, (1,))))
        return (
            f"{what} is read with 8, 16, 32 or 64 bits in each, whole numbers or floating-point, not "
            f"{' and '.join(map(str, bits))} bits of format {tags.get(_FORMAT, (1,))[0]}"
        )
    if (
        tags.get(_COMPRESSION, 1) not in _NONE + _DEFLATE
        or tags.get(_PREDICTOR, 1) not in (1, 2)
        or (_OFFSETS not in tags)
    ):
        return f"{what} of {_numbers(tags).name} numbers is read uncompressed or deflated, in strips"
    return None


def _inflate(part: bytes, most: int) -> bytes:
    """At most so many bytes: no more than the header says may be in the file, whatever it unpacks to."""
    try:
        return zlib.decompressobj().decompress(part, max(most, 1))
    except zlib.error:
        raise OSError("truncated, or damaged") from None
