"""Image files: to pixels of 8 or 16 bits and any number of channels, and back.

Pillow reads what it can without loss. PNG and TIFF files of more bits or channels, and arrays (.npy, channels last),
are read and written here.
"""

from __future__ import annotations

import threading
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageOps, UnidentifiedImageError
from torch import Tensor

from . import png16, tiff
from .convert import CHANNELS, convert
from .images import MOST_CHANNELS, to_image, to_pixels

SUFFIXES = (".bmp", ".gif", ".jpeg", ".jpg", ".npy", ".pbm", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp")
_ORIENTATION, _ON_ITS_SIDE = 0x0112, 5  # the EXIF tag, and the first of its values that swap width and height
_DEEP_GREY = ("I;16", "I;16L", "I;16B", "I;16N", "I")
_PLAIN = {"L": 1, "LA": 2, "RGB": 3, "RGBA": 4}
_INTO_PLAIN = {"1": "L", "La": "LA", "RGBa": "RGBA", "PA": "RGBA"}
_GREY = ("1", "L", *_DEEP_GREY)


class ImageError(ValueError):
    """A file that cannot be read as an image. The message names it and the reason."""


@dataclass(frozen=True)
class Header:
    """What a file says of its image: upright size in pixels, channels, and whether it has 16 bits in each."""

    width: int
    height: int
    channels: int
    deep: bool


def read_header(path: str | Path) -> Header:
    """The header of an image file; its pixels are not decoded.

    Raises:
        ImageError: the file is not an image, or cannot be opened.
    """
    with _named(path):
        if _suffix(path) == ".npy":
            array = _array(path)
            return Header(array.shape[1], array.shape[0], array.shape[2], array.dtype != np.uint8)
        if (own := _own(path)) is not None:
            _, width, height, channels, deep = own
            return Header(width, height, channels, deep)
        with Image.open(path) as image:
            width, height = image.size
            if image.getexif().get(_ORIENTATION, 1) >= _ON_ITS_SIDE:
                width, height = height, width
            clear = "transparency" in image.info
            channels = _PLAIN.get(_INTO_PLAIN.get(image.mode, image.mode), 1 if image.mode in _GREY else 3)
            channels += clear and channels in (1, 3)
            return Header(width, height, channels, image.mode in _DEEP_GREY)


def read_pixels(path: str | Path, channels: int = 3) -> tuple[Tensor, str | None]:
    """Decode an image file, turned upright, to ``channels`` channels: 1 is grey, 3 RGB, 2 and 4 have transparency.

    Grey becomes RGB and the other way round; transparency is put on white where the channels leave no place for it, and
    opaque where the file has none. Palettes become colours. An image of another number of channels is an error. Arrays
    (.npy) are (H, W) or (H, W, C), of uint8, uint16, or floats in [0, 1], which become 16 bits.

    Returns:
        (uint8, or uint16 where the file has 16 bits, (H, W, channels); what kind of image the file held, such as
        "palette", if it was converted; None for RGB made grey, which ``channels`` asks for).

    Raises:
        ImageError: the file is truncated, not an image, cannot be opened, holds floating-point pixels of unknown range,
            or has channels that cannot become those wanted.
    """
    with _named(path):
        pixels, kind = _decode(path)
        there = pixels.shape[2]
        if there != channels:
            if kind is None and there in CHANNELS:
                kind = None if there == 3 and channels == 1 else CHANNELS[there]
                if kind is not None and pixels.dtype == np.uint16:
                    kind = f"16-bit {kind}"
            pixels = convert(pixels, channels)
    return torch.from_numpy(np.ascontiguousarray(pixels)), kind


def save_image(tensor: Tensor, path: str | Path, *, deep: bool = False) -> None:
    """Write (C, H, W) in [-1, 1]: as an array (H, W, C) where the path ends in .npy, else as a PNG file, C up to 4.

    Args:
        deep: 16 bits a channel instead of 8.
    """
    if _suffix(path) == ".npy":
        np.save(path, to_pixels(tensor, deep=deep).numpy())
    elif deep:
        png16.write(to_pixels(tensor, deep=True).numpy(), path)
    else:
        to_image(tensor).save(path, format="PNG")


def suffix_for(channels: int) -> str:
    """The kind of file that holds an image of so many channels: ".png" or ".npy"."""
    return ".png" if channels <= MOST_CHANNELS else ".npy"


def _suffix(path: str | Path) -> str:
    return Path(path).suffix.lower()


def _own(path: str | Path) -> tuple | None:
    """(reader, width, height, channels, deep) for a PNG or TIFF file that is read here; None for one left to Pillow."""
    with open(path, "rb") as file:
        start = file.read(29)
    if (found := png16.header(start)) is not None:
        return png16.read, *found, True
    if (found := tiff.header(path, start)) is not None:
        width, height, channels, bits = found
        return tiff.read, width, height, channels, bits == 16
    return None


def _decode(path: str | Path) -> tuple[np.ndarray, str | None]:
    """(pixels with the file's own channels, the kind of image if it had to be converted even for that)."""
    if _suffix(path) == ".npy":
        array = _array(path)
        if array.dtype in (np.uint8, np.uint16):
            return np.array(array), None
        if array.size and not (0 <= array.min() and array.max() <= 1):  # false for NaN, too
            raise OSError("floating-point pixels of an array lie in [0, 1]")
        return np.rint(array.astype(np.float64) * 65535).astype(np.uint16), "floating-point"
    if (own := _own(path)) is not None:
        return own[0](path), None
    with Image.open(path) as file:
        file.load()
        if file.mode == "F":
            raise OSError("pixels are floating-point numbers, whose range is unknown")
        image, mode = ImageOps.exif_transpose(file), file.mode
    if mode in _DEEP_GREY:
        return np.asarray(image).clip(0, 65535).astype(np.uint16)[:, :, None], None
    clear = "transparency" in image.info
    plain = mode if mode in _PLAIN else _INTO_PLAIN.get(mode, "RGB")
    if clear and plain in ("L", "RGB"):
        plain += "A"
    kind = {"1": "black and white", "P": "palette", "PA": "palette"}.get(mode)
    if kind is None and mode not in _PLAIN and mode not in _INTO_PLAIN:
        kind = mode
    if image.mode != plain:
        image = image.convert(plain)
    pixels = np.array(image, dtype=np.uint8)
    return pixels[:, :, None] if pixels.ndim == 2 else pixels, kind


# numpy parses the header with ast.literal_eval, which in Python 3.11 fails now and then when two threads do it at once
# (SystemError: AST constructor recursion depth mismatch).
_PARSING = threading.Lock()


def _array(path: str | Path) -> np.ndarray:
    try:
        with _PARSING:
            array = np.load(path, mmap_mode="r", allow_pickle=False)
    except ValueError as error:
        text = str(error)
        raise OSError("truncated" if "mmap length" in text else "an array of python objects" if "in dtype" in text
                      else "not an array of numpy") from None
    if not isinstance(array, np.ndarray) or array.ndim not in (2, 3) or 0 in array.shape:
        raise OSError(f"an array of shape {getattr(array, 'shape', None)}: an image is (height, width) or (height, "
                      "width, channels)")
    if array.dtype not in (np.uint8, np.uint16) and array.dtype.kind != "f":
        raise OSError(f"an array of {array.dtype}: images are uint8, uint16, or floats in [0, 1]")
    return array if array.ndim == 3 else array[:, :, None]


class _named:
    """A context in which whatever a decoder raises becomes an :class:`ImageError` that names the file."""

    def __init__(self, path: str | Path):
        self.path = path

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: type | None, error: BaseException | None, traceback: object) -> None:
        # Pillow's decoders raise OSError, SyntaxError, ValueError, struct.error and others.
        if isinstance(error, Exception) and not isinstance(error, MemoryError):
            raise ImageError(f"{self.path}: {_reason(error)}") from error


def _reason(error: Exception) -> str:
    if isinstance(error, UnidentifiedImageError):
        return "not an image"
    if isinstance(error, Image.DecompressionBombError):
        return "too large an image"
    text = getattr(error, "strerror", None) or str(error) or type(error).__name__
    return "truncated" if "truncated" in text.lower() else text.splitlines()[0]
