"""Image files: to pixels of 8 or 16 bits and any number of channels, and back.

Pillow reads what it can without loss; the libraries of the extra ``images16`` read PNG and TIFF files of more bits or
channels, and numpy reads arrays (.npy, channels last). No file takes more memory than :mod:`fastgan.data.bounds` says.
"""

from __future__ import annotations

import io
import os
import re
import struct
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from PIL import Image, UnidentifiedImageError
from torch import Tensor

from fastgan._printable import printable

from . import png16, tiff
from .bounds import Room, check_ends, check_size
from .convert import CHANNELS, convert
from .images import MOST_CHANNELS, to_image, to_pixels
from .levels import Span, to_levels
from .orientation import ON_ITS_SIDE, orientation_of, upright

# Formats of Pillow's that are passed over: EPS has Ghostscript run the file's program; of FITS it takes signed numbers
# for unsigned; the others it knows by name, and cannot decode.
_PASSED_OVER = {"BUFR", "EPS", "FITS", "GRIB", "HDF5", "MPEG", "WMF"}
_OF_SYSTEMS = ("__MACOSX", "@eaDir", "#recycle", "$RECYCLE.BIN", "System Volume Information", "lost+found")
_DEEP_GREY = ("I;16", "I;16L", "I;16B", "I;16N", "I")
_PLAIN = {"L": 1, "LA": 2, "RGB": 3, "RGBA": 4}
_INTO_PLAIN = {"1": "L", "La": "LA", "RGBa": "RGBA", "PA": "RGBA"}
_GREY = ("1", "L", "F", *_DEEP_GREY)
_HUNGRY = {"AVIF": 2, "JPEG2000": 2, "WEBP": 2}  # formats whose decoders take more memory, so many times as much
_BAND = 2**22  # pixels that Pillow hands over at once


class ImageError(ValueError):
    """A file that cannot be read as an image. The message names it and the reason, which ``reason`` has alone."""

    reason = ""

    @classmethod
    def of(cls, path: str | Path, reason: str) -> ImageError:
        error = cls(f"{printable(str(path))}: {reason}")
        error.reason = reason
        return error


@dataclass(frozen=True)
class Header:
    """What a file says of its image: upright size in pixels, channels, whether it has 16 bits in each, and whether
    other images come after it, which are not read (an animation, the pages of a document)."""

    width: int
    height: int
    channels: int
    deep: bool
    several: bool = False


class Decoded(NamedTuple):
    """An image: uint8 or uint16 (H, W, C), what kind of image the file held if it was converted, and the span of its
    numbers where it is worth a word (see :func:`fastgan.data.levels.to_levels`)."""

    pixels: Tensor
    kind: str | None
    span: Span | None


def suffixes() -> tuple[str, ...]:
    """How the names of image files end, in small letters: those that Pillow reads here, and .npy."""
    return (".npy", *(suffix for suffix, kind in Image.registered_extensions().items() if kind in _formats()))


def is_hidden(name: str) -> bool:
    """Whether files and folders of this name hold nothing of the user's: hidden ones, and those in which macOS,
    Synology and Windows keep things of their own, such as small copies of images, beside them."""
    return name.startswith(".") or name in _OF_SYSTEMS


def read_header(path: str | Path) -> Header:
    """The header of an image file; its pixels are not decoded.

    Raises:
        ImageError: the file is not an image, or cannot be opened, or is too large an image.
    """
    with _named(path):
        if _suffix(path) == ".npy":
            array = _array(path)
            height, width, channels = array.shape
            check_size(width, height, channels, array.itemsize)
            return Header(width, height, channels, array.itemsize > 1)
        start = _start(path)
        found = tiff.header(path, start)
        if found is not None and found.own:
            _check_pixels(found.width, found.height)
            width, height, channels, orientation = found.width, found.height, found.channels, found.orientation
            deep, several = found.numbers is None or found.numbers.itemsize > 1, found.several
        else:
            with _open(path) as image:
                # Pillow gives the size of some formats turned upright, and not of others, from version to version.
                width, height = image.size if found is None else (found.width, found.height)
                channels, deep = _channels(image, start), _is_deep(image, start)
                several = _is_several(image) if found is None else found.several
                orientation = orientation_of(image, png16.metadata_is_late(path))
        if orientation in ON_ITS_SIDE:
            width, height = height, width
        check_size(width, height, channels, 1 + deep)
        return Header(width, height, channels, deep, several)


def read_pixels(path: str | Path, channels: int = 3, range: Sequence[float] | None = None) -> tuple[Tensor, str | None]:
    """Decode an image file, turned upright, to ``channels`` channels: 1 is grey, 3 RGB, 2 and 4 have transparency.

    Grey becomes RGB and the other way round; transparency is put on white where the channels leave no place for it, and
    opaque where the file has none. Palettes become colours. An image of another number of channels is an error. Arrays
    (.npy) are (H, W) or (H, W, C).

    Args:
        range: (low, high), the numbers that become black and white, of images of other numbers than unsigned bytes:
            low becomes 0 and high 65535. Without it uint16 stays as it is, int8 and int16 keep all their values, of
            which the lowest becomes 0, and floats of arrays (.npy) lie in [0, 1], which becomes 0 to 65535.

    Returns:
        (uint8, or uint16 where the file has 16 bits or a range makes it so, (H, W, channels); what kind of image the
        file held, such as "palette", if it was converted; None for RGB made grey, which ``channels`` asks for).

    Raises:
        ImageError: the file is truncated, not an image, too large an image, cannot be opened, holds int32, uint32 or
            floating-point pixels while there is no range, or has channels that cannot become those wanted.
    """
    return decode(path, channels, range)[:2]


def decode(path: str | Path, channels: int = 3, range: Sequence[float] | None = None) -> Decoded:
    """As :func:`read_pixels`, with the span of its numbers."""
    with _named(path), Room(channels) as room:
        pixels, kind, span = _decode(path, range, room)
        there = pixels.shape[2]
        if there != channels:
            if kind is None and there in CHANNELS:
                kind = None if there == 3 and channels == 1 else CHANNELS[there]
                if kind is not None and pixels.dtype == np.uint16:
                    kind = f"16-bit {kind}"
            pixels = convert(pixels, channels)
        return Decoded(torch.from_numpy(np.ascontiguousarray(pixels)), kind, span)


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


def _start(path: str | Path) -> bytes:
    with open(path, "rb") as file:
        return file.read(26)


def _formats() -> list[str]:
    Image.init()
    return [kind for kind in Image.OPEN if kind not in _PASSED_OVER]


@contextmanager
def _open(path: str | Path) -> Iterator[Image.Image]:
    # Of a file that it opens by name Pillow maps uncompressed pixels, and those of a TIFF file that lies on its side in
    # rows of the wrong length.
    with _File(path) as file, Image.open(file, formats=_formats()) as image:
        yield image


class _File(io.BufferedReader):
    """A file that is asked for no more than there is of it: Python makes room for all that is asked for."""

    def __init__(self, path: str | Path):
        super().__init__(io.FileIO(path))
        self._size = os.fstat(self.fileno()).st_size

    def read(self, size: int | None = -1, /) -> bytes:
        if size is not None and size > io.DEFAULT_BUFFER_SIZE:
            size = min(size, max(0, self._size - self.tell()))
        return super().read(size)


def _is_deep(image: Image.Image, start: bytes) -> bool:
    return image.mode in (*_DEEP_GREY, "F") or png16.channels_of(start) is not None


def _channels(image: Image.Image, start: bytes) -> int:
    channels = png16.channels_of(start) or _PLAIN.get(
        _INTO_PLAIN.get(image.mode, image.mode), 1 if image.mode in _GREY else 3
    )
    return channels + ("transparency" in image.info and channels in (1, 3))


def _is_several(image: Image.Image) -> bool:
    if image.format == "PSD":  # its first image shows all layers
        return False
    try:
        return bool(getattr(image, "is_animated", False))
    except Exception:  # of what comes after the image, which is not needed
        return True


def _decode(path: str | Path, range: Sequence[float] | None, room: Room) -> tuple[np.ndarray, str | None, Span | None]:
    """(pixels with the file's own channels, the kind of image if it had to be converted even for that, the span of its
    numbers)."""
    kind = None
    if _suffix(path) == ".npy":
        array = _array(path)
        room.take(array.shape[1], array.shape[0], array.shape[2], array.itemsize)
        numbers, orientation = np.array(array), 1
        if numbers.dtype.kind == "f" and range is None:
            range, kind = (0.0, 1.0), "floating-point"
            if not (numbers.min() >= 0 and numbers.max() <= 1):  # true for NaN, too
                raise OSError(
                    "floating-point pixels of an array lie in [0, 1], or in a range that is given "
                    "(--range LOW HIGH of train and translate)"
                )
    else:
        numbers, orientation, kind = _numbers(path, room)
    levels, span = to_levels(numbers, range)
    return upright(levels, orientation), kind, span


def _numbers(path: str | Path, room: Room) -> tuple[np.ndarray, int, str | None]:
    """(what a file that is no array holds, (H, W, C), the orientation that its picture still has, the kind)."""
    start = _start(path)
    found = tiff.header(path, start)
    if found is not None and found.own:
        _check_pixels(found.width, found.height)
        room.take(found.width, found.height, found.channels, found.numbers.itemsize if found.numbers else 1)
        numbers = tiff.read(path, found)
        return _positive(numbers) if found.negative else numbers, found.orientation, None
    with _open(path) as image:
        deep = png16.channels_of(start) is not None
        itemsize = {"F": 4, "I": 4}.get(image.mode, 1 + _is_deep(image, start))
        room.take(*image.size, _channels(image, start), itemsize, share=_HUNGRY.get(image.format or "", 1))
        if deep:
            return png16.read(path), orientation_of(image, png16.metadata_is_late(path)), None
        image.load()
        orientation = orientation_of(image)
        mode, clear = image.mode, "transparency" in image.info
        if mode in _DEEP_GREY or mode == "F" or found is not None and mode == "L":
            numbers = _pixels(image)
            numbers = numbers.astype(numbers.dtype.newbyteorder("="), copy=False)
            if found is not None and found.numbers is not None:  # Pillow's modes have no other whole numbers than these
                same = numbers.itemsize == found.numbers.itemsize
                numbers = numbers.view(found.numbers) if same else numbers.astype(found.numbers)
                if found.negative and mode in _DEEP_GREY:  # of 8 bits Pillow turns them
                    numbers = _positive(numbers)
            elif mode != "F" and mode != "L" and numbers.min() >= 0 and numbers.max() <= 65535:
                numbers = numbers.astype(np.uint16)
            return numbers, orientation, None
        plain = mode if mode in _PLAIN else _INTO_PLAIN.get(mode, "RGB")
        if clear and plain in ("L", "RGB"):
            plain += "A"
        kind = {"1": "black and white", "P": "palette", "PA": "palette"}.get(mode)
        if kind is None and mode not in _PLAIN and mode not in _INTO_PLAIN:
            kind = mode
        return _pixels(image, plain), orientation, kind


def _pixels(image: Image.Image, mode: str | None = None) -> np.ndarray:
    """(H, W, C) of an image that is loaded, in a mode of Pillow's or its own: in bands, of each of which it makes two
    copies on the way."""
    rows = max(1, _BAND // image.width)
    pixels = None
    for top in range(0, image.height, rows):
        whole = rows >= image.height
        band = image if whole else image.crop((0, top, image.width, min(image.height, top + rows)))
        part = np.array(band if mode is None or band.mode == mode else band.convert(mode))
        if pixels is None:
            pixels = part if whole else np.empty((image.height, *part.shape[1:]), part.dtype)
        pixels[top : top + rows] = part
    assert pixels is not None
    return pixels[:, :, None] if pixels.ndim == 2 else pixels


def _positive(numbers: np.ndarray) -> np.ndarray:
    """Unsigned numbers of which 0 is white, turned so that 0 is black; others as they are."""
    return np.iinfo(numbers.dtype).max - numbers if numbers.dtype.kind == "u" else numbers


# numpy parses the header with ast.literal_eval, which in Python 3.11 fails now and then when two threads do it at once
# (SystemError: AST constructor recursion depth mismatch).
_PARSING = threading.Lock()


def _array(path: str | Path) -> np.ndarray:
    try:
        with _PARSING:
            array = np.load(path, mmap_mode="r", allow_pickle=False)
    except (ValueError, EOFError) as error:
        text = str(error)
        raise OSError(
            "truncated"
            if "mmap length" in text
            else "an array of python objects"
            if "in dtype" in text
            else "not an array of numpy"
        ) from None
    if not isinstance(array, np.ndarray) or array.ndim not in (2, 3) or 0 in array.shape:
        raise OSError(
            f"an array of shape {getattr(array, 'shape', None)}: an image is (height, width) or (height, "
            "width, channels)"
        )
    if array.dtype.kind not in "uif":
        raise OSError(f"an array of {array.dtype}: images are whole numbers, or floating-point")
    return array if array.ndim == 3 else array[:, :, None]


@contextmanager
def _named(path: str | Path) -> Iterator[None]:
    """Whatever a decoder raises becomes an :class:`ImageError` that names the file."""
    try:
        check_ends(path)
        yield
    except MemoryError:
        raise
    except Exception as error:  # Pillow's decoders raise OSError, SyntaxError, ValueError, struct.error and others
        raise ImageError.of(path, _reason(error)) from error


def _check_pixels(width: int, height: int) -> None:
    """Raise for an image that Pillow would not open either. Pillow's limit is twice the number from which it warns."""
    if Image.MAX_IMAGE_PIXELS is not None and width * height > 2 * Image.MAX_IMAGE_PIXELS:
        raise Image.DecompressionBombError(f"{width * height} pixels")


def _reason(error: Exception) -> str:
    if isinstance(error, UnidentifiedImageError):
        return "not an image"
    if isinstance(error, Image.DecompressionBombError):
        pixels, most = int(re.findall("[0-9]+", str(error))[0]), 2 * (Image.MAX_IMAGE_PIXELS or 0)
        return f"{pixels:,} pixels, and at most {most:,} are read: make it smaller, or cut it into pieces"
    if isinstance(error, (struct.error, KeyError, IndexError, TypeError, AttributeError, ArithmeticError)):
        return "damaged"
    text = getattr(error, "strerror", None) or str(error) or type(error).__name__
    return "truncated" if "truncated" in text.lower() else text.splitlines()[0]
