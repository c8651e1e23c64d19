"""PNG files of 16 bits a channel with colour or transparency, which Pillow reads and writes with 8.

Chunks, filters and their numbers are those of the PNG specification (W3C, second edition, sections 5 and 9).
"""

from __future__ import annotations

import struct
import zlib
from pathlib import Path

import numpy as np

_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_METADATA = (b"eXIf", b"zTXt", b"tEXt", b"iTXt")
_CHANNELS = {0: 1, 4: 2, 2: 3, 6: 4}  # colour type -> channels
_COLOUR_TYPES = {channels: kind for kind, channels in _CHANNELS.items()}


def header(start: bytes) -> tuple[int, int, int] | None:
    """(width, height, channels) of the PNG file that begins with these bytes; None unless it is one to read here."""
    if start[:8] != _SIGNATURE or start[12:16] != b"IHDR" or len(start) < 29:
        return None
    width, height, depth, kind, _, _, interlaced = struct.unpack(">IIBBBBB", start[16:29])
    return (width, height, _CHANNELS[kind]) if depth == 16 and kind in _CHANNELS and not interlaced else None


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
    """uint16 (H, W, C) of a PNG file for which :func:`header` gives something.

    Raises:
        OSError: it is truncated or damaged.
    """
    content = Path(path).read_bytes()
    width, height, channels = header(content)
    data, position, kind = [], 8, b""
    while kind != b"IEND":
        length, kind = struct.unpack(">I4s", content[position : position + 8].ljust(8, b"\0"))
        body = content[position + 8 : position + 8 + length]
        check = content[position + 8 + length : position + 12 + length]
        if len(check) < 4:
            raise OSError("truncated")
        if struct.unpack(">I", check)[0] != zlib.crc32(kind + body):
            raise OSError("damaged: a checksum is wrong")
        if kind == b"IDAT":
            data.append(body)
        position += 12 + length
    wanted = height * (1 + 2 * channels * width)
    try:  # one byte more than there may be: no file unpacks to more than its header says
        content = zlib.decompressobj().decompress(b"".join(data), wanted + 1)
        rows = np.frombuffer(content, np.uint8).reshape(height, 1 + 2 * channels * width)
    except (zlib.error, ValueError):
        raise OSError("damaged: its pixels cannot be unpacked") from None
    if rows[:, 0].max() > 4:
        raise OSError(f"damaged: it names a filter {rows[:, 0].max()}")
    pixels = _unfilter(rows[:, 0], rows[:, 1:].reshape(height, width, 2 * channels))
    return pixels.reshape(height, width, 2 * channels).view(">u2").astype(np.uint16)


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


def _unfilter(filters: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """Undo the filter of each row, uint8 (H, W, bytes of a pixel).

    A pixel needs its left, upper and upper left neighbour: all pixels of an anti-diagonal can be had at once.
    """
    height, width, size = rows.shape
    done = np.zeros((height + 1, width + 1, size), np.int16)  # with a border of zeros above and on the left
    filters = filters[:, None]
    for diagonal in range(height + width - 1):
        y = np.arange(max(0, diagonal - width + 1), min(height, diagonal + 1))
        x = diagonal - y
        left, above, corner = done[y + 1, x], done[y, x + 1], done[y, x]
        estimate = left + above - corner
        to_left, to_above, to_corner = abs(estimate - left), abs(estimate - above), abs(estimate - corner)
        nearest = np.where(
            (to_left <= to_above) & (to_left <= to_corner), left, np.where(to_above <= to_corner, above, corner)
        )
        predicted = np.select(
            [filters[y] == kind for kind in (1, 2, 3, 4)], [left, above, (left + above) // 2, nearest], 0
        )
        done[y + 1, x + 1] = (rows[y, x] + predicted) & 0xFF
    return done[1:, 1:].astype(np.uint8)
