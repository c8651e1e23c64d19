"""TIFF files that Pillow has no mode for: more than four channels, or 16 bits in several channels.

Tags and their meaning are those of TIFF 6.0 (Adobe, 1992).
"""

from __future__ import annotations

import zlib
from pathlib import Path

import numpy as np
from PIL.TiffImagePlugin import ImageFileDirectory_v2

_WIDTH, _HEIGHT, _BITS, _COMPRESSION, _OFFSETS, _CHANNELS, _COUNTS = 256, 257, 258, 259, 273, 277, 279
_PLANAR, _PREDICTOR, _FORMAT = 284, 317, 339
_NONE, _DEFLATE = (1,), (8, 32946)
_BEGINNINGS = (b"II*\0", b"MM\0*")


def header(path: str | Path, start: bytes) -> tuple[int, int, int, int] | None:
    """(width, height, channels, bits) of a TIFF file that is to be read here; None for one that Pillow reads.

    Args:
        start: how the file begins, four bytes or more.
    """
    if start[:4] not in _BEGINNINGS:
        return None
    tags = _tags(path)
    channels, bits = tags.get(_CHANNELS, 1), tags.get(_BITS, (1,))[0]
    if channels <= 4 and (bits <= 8 or channels == 1):
        return None
    return tags[_WIDTH], tags[_HEIGHT], channels, bits


def read(path: str | Path) -> np.ndarray:
    """uint8 or uint16 (H, W, C) of a TIFF file for which :func:`header` gives something.

    Raises:
        OSError: truncated, damaged, or of a kind that is not read: the message says which.
    """
    tags = _tags(path)
    width, height, channels, bits = tags[_WIDTH], tags[_HEIGHT], tags[_CHANNELS], tags[_BITS][0]
    compression, predictor = tags.get(_COMPRESSION, 1), tags.get(_PREDICTOR, 1)
    if bits not in (8, 16) or set(tags.get(_FORMAT, (1,))) != {1} or len(set(tags[_BITS])) > 1:
        raise OSError(f"a TIFF of {channels} channels is read with 8 or 16 bits in each, unsigned")
    if compression not in _NONE + _DEFLATE or predictor not in (1, 2) or _OFFSETS not in tags:
        raise OSError(f"a TIFF of {channels} channels is read uncompressed or deflated, in strips")
    order = {b"II": "<", b"MM": ">"}[tags.prefix]
    with open(path, "rb") as file:
        parts = []
        for offset, count in zip(tags[_OFFSETS], tags[_COUNTS]):
            file.seek(offset)
            parts.append(file.read(count))
    try:
        content = b"".join(zlib.decompress(part) if compression in _DEFLATE else part for part in parts)
    except zlib.error:
        raise OSError("truncated, or damaged") from None
    apart = tags.get(_PLANAR, 1) == 2
    shape = (channels, height, width) if apart else (height, width, channels)
    wanted = height * width * channels * bits // 8
    if len(content) < wanted:
        raise OSError("truncated")
    pixels = np.frombuffer(content[:wanted], np.dtype(f"{order}u{bits // 8}")).reshape(shape)
    pixels = pixels.astype(np.uint16 if bits == 16 else np.uint8)
    if predictor == 2:
        pixels = np.cumsum(pixels, axis=2 if apart else 1, dtype=pixels.dtype)
    return np.ascontiguousarray(pixels.transpose(1, 2, 0)) if apart else pixels


def _tags(path: str | Path) -> ImageFileDirectory_v2:
    with open(path, "rb") as file:
        tags = ImageFileDirectory_v2(file.read(8))
        file.seek(tags.next)
        tags.load(file)
    return tags
