"""The readers that files from strangers go through: good files of each, and what may come of a bad one.

To add a reader, add it to ``READERS``.
"""

from __future__ import annotations

import gzip
import io
import random
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import imagecodecs
import numpy as np
import tifffile
from PIL import Image

from fastgan.data.files import read_header, read_pixels
from fastgan.data.idx import read_idx

from . import checkpoints
from .mutate import mutated


@dataclass(frozen=True)
class Reader:
    """
    Attributes:
        seeds: gives (ending of the name, content) of good files.
        read: reads one. What a bad file raises is one of ``refuses``, and its message one line that names the file.
        change: makes the content of a bad file of that of a good one.
        sample: cases that ``make test`` runs.
    """

    seeds: Callable[[], list[tuple[str, bytes]]]
    read: Callable[[Path], object]
    refuses: tuple[type[Exception], ...] = (ValueError,)
    change: Callable[[bytes, random.Random], bytes] = mutated
    sample: int = 300


def _picture(size: tuple[int, int] = (23, 19), mode: str = "RGB") -> Image.Image:
    x, y = np.meshgrid(*(np.linspace(0, 255, side) for side in size))
    return Image.fromarray(np.stack([x, y, 255 - x], axis=2).astype(np.uint8)).convert(mode)


def _encoded(mode: str, kind: str, **options: object) -> bytes:
    content = io.BytesIO()
    _picture(mode=mode).save(content, format=kind, **options)
    return content.getvalue()


def _tiff(dtype: str, channels: int, **options: object) -> bytes:
    content = io.BytesIO()
    pixels = np.arange(19 * 23 * channels).reshape(19, 23, channels).astype(dtype)
    tifffile.imwrite(content, pixels if channels > 1 else pixels[..., 0], planarconfig="contig", **options)
    return content.getvalue()


def _deep_png(channels: int) -> bytes:
    pixels = np.arange(19 * 23 * channels, dtype=np.uint16).reshape(19, 23, channels) * 37
    return imagecodecs.png_encode(pixels)


def _images() -> list[tuple[str, bytes]]:
    more = {"save_all": True, "append_images": [_picture()]}
    exif = Image.Exif()
    exif[0x0112] = 6
    found = [
        (".png", _encoded("RGB", "PNG")),
        (".png", _encoded("P", "PNG", exif=exif)),
        (".png", _encoded("1", "PNG")),
        (".png", _encoded("RGB", "PNG", **more)),
        (".jpg", _encoded("RGB", "JPEG", exif=exif)),
        (".jpg", _encoded("CMYK", "JPEG")),
        (".gif", _encoded("P", "GIF", **more)),
        (".webp", _encoded("RGBA", "WEBP")),
        (".bmp", _encoded("RGB", "BMP")),
        (".tga", _encoded("RGBA", "TGA")),
        (".ppm", _encoded("RGB", "PPM")),
        (".ico", _encoded("RGBA", "ICO", sizes=[(16, 16)])),
        (".pcx", _encoded("L", "PCX")),
        (".tif", _encoded("RGB", "TIFF", compression="jpeg")),
        (".tif", _encoded("1", "TIFF", compression="group4")),
        (".tif", _tiff("uint8", 3, photometric="rgb", compression="lzw", predictor=True)),
        (".tif", _tiff("uint16", 1, byteorder=">", compression="deflate")),
        (".tif", _tiff("uint16", 3, photometric="rgb", byteorder=">", compression="lzw")),
        (".tif", _tiff("uint16", 3, photometric="rgb", tile=(16, 16), compression="deflate", predictor=True)),
        (".tif", _tiff("uint8", 6, photometric="minisblack", compression="zstd")),
        (".tif", _tiff("uint16", 1, rowsperstrip=3)),
        (".tif", _tiff("int8", 3, photometric="rgb", rowsperstrip=3)),
        (".tif", _tiff("int16", 1, byteorder="<", compression="packbits", bigtiff=True)),
        (".tif", _tiff("uint16", 2, photometric="minisblack", compression="lzma")),
    ]
    for kind, suffix in (("JPEG2000", ".jp2"), ("AVIF", ".avif")):
        if kind in Image.SAVE:
            found.append((suffix, _encoded("RGB", kind)))
    found += [(".png", _deep_png(channels)) for channels in (2, 3, 4)]
    for pixels in (np.arange(437, dtype=np.float32).reshape(19, 23) / 437, np.zeros((19, 23, 5), np.uint16)):
        content = io.BytesIO()
        np.save(content, pixels)
        found.append((".npy", content.getvalue()))
    return found


def _read_image(path: Path) -> None:
    header = read_header(path)
    read_pixels(path, header.channels)
    read_pixels(path, 3 if header.channels <= 4 else header.channels, (0, 1000))


def _idx() -> list[tuple[str, bytes]]:
    found = []
    for shape in ((5, 7, 6), (40,), (3, 5, 4, 3), (0, 7, 6)):
        content = bytes((0, 0, 8, len(shape))) + np.asarray(shape, ">u4").tobytes() + bytes(int(np.prod(shape)))
        found += [("", content), (".gz", gzip.compress(content, mtime=0))]
    return found


READERS = {
    "images": Reader(_images, _read_image),
    "idx": Reader(_idx, read_idx),
    "networks": Reader(checkpoints.networks, checkpoints.read_networks, change=checkpoints.change),
    "resume": Reader(checkpoints.runs, checkpoints.resume, change=checkpoints.change_values, sample=25),
}
