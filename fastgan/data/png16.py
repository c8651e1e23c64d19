"""PNG files of 16 bits a channel with colour or transparency, which Pillow reads and writes with 8.

Chunks and their numbers are those of the PNG specification (W3C, second edition, section 5).
"""

from __future__ import annotations

import struct
import zlib
from pathlib import Path

import numpy as np

from .extra import library

_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_METADATA = (b"eXIf", b"zTXt", b"tEXt", b"iTXt")
_COLOUR_TYPES = {1: 0, 2: 4, 3: 2, 4: 6}  # by the number of channels
_CHANNELS = {kind: channels for channels, kind in _COLOUR_TYPES.items() if channels > 1}


def channels_of(start: bytes) -> int | None:
    """The channels of the PNG file that begins with these bytes, 26 at least; None unless it is one to read here."""
    deep = len(start) >= 26 and start[:8] == _SIGNATURE and start[12:16] == b"IHDR" and start[24] == 16
    return _CHANNELS.get(start[25]) if deep else None


def metadata_is_late(path: str | Path) -> bool:
    """Whether a file is a PNG file with metadata after its pixels, of any depth. No chunk is read but its header."""
    with open(path, "rb") as file:
        kind, pixels = file.read(8), False
        if kind != _SIGNATURE:
            return False
        while len(start := file.read(8)) == 8:
            length, kind = struct.unpack(">I4s", start)
            pixels |= kind == b"IDAT"
            if pixels and kind in _METADATA:
                return True
            file.seek(length + 4, 1)
    return False


def read(path: str | Path) -> np.ndarray:
    """uint16 (H, W, C) of a PNG file for which :func:`channels_of` gives something.

    A colour that the file says is transparent makes one channel more.

    Raises:
        OSError: it is truncated or damaged, or the library that reads it is not installed.
    """
    imagecodecs = library("imagecodecs", "a PNG of 16 bits in colour or with transparency")
    try:
        return imagecodecs.png_decode(Path(path).read_bytes())
    except imagecodecs.PngError as error:
        raise OSError("truncated" if "too small" in str(error) else f"damaged: {error}") from None
    except (ValueError, RuntimeError):  # what the library says of some files cannot be decoded either
        raise OSError("damaged") from None


def write(pixels: np.ndarray, path: str | Path) -> None:
    """Write uint16 (H, W, C), C from 1 to 4: grey, grey and transparency, RGB, RGB and transparency."""
    height, width, channels = pixels.shape
    rows = np.ascontiguousarray(pixels.astype(">u2")).view(np.uint8).reshape(height, width, 2 * channels)
    # Filter 1: the difference to the pixel on the left, byte by byte.
    left = np.concatenate([np.zeros_like(rows[:, :1]), rows[:, :-1]], axis=1)
    filtered = np.concatenate([np.ones((height, 1), np.uint8), (rows - left).reshape(height, -1)], axis=1)
    chunks = (
        (b"IHDR", struct.pack(">IIBBBBB", width, height, 16, _COLOUR_TYPES[channels], 0, 0, 0)),
        (b"IDAT", zlib.compress(filtered.tobytes())),
        (b"IEND", b""),
    )
    with open(path, "wb") as file:
        file.write(_SIGNATURE)
        for kind, body in chunks:
            file.write(struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body)))
