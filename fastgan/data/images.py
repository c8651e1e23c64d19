"""Images: files to pixels, pixels to the [-1, 1] that networks speak, and back; pictures of many images."""

from __future__ import annotations

from pathlib import Path
from typing import Sequence

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont, ImageOps, UnidentifiedImageError
from torch import Tensor

SUFFIXES = (".bmp", ".gif", ".jpeg", ".jpg", ".pbm", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp")

_ORIENTATION, _ON_ITS_SIDE = 0x0112, 5  # the EXIF tag, and the first of its values that swap width and height
_DEEP_GREY = ("I;16", "I;16L", "I;16B", "I;16N", "I")
_KINDS = {"1": "black and white", "L": "grey", "LA": "grey with transparency", "La": "grey with transparency",
          "P": "palette", "PA": "palette", "RGBA": "RGB with transparency", "RGBa": "RGB with transparency"}


class ImageError(ValueError):
    """A file that cannot be read as an image. The message names it and the reason."""


def image_size(path: str | Path) -> tuple[int, int]:
    """(width, height) of an image file, upright; reads its header only.

    Raises:
        ImageError: the file is not an image, or cannot be opened.
    """
    try:
        with Image.open(path) as image:
            width, height = image.size
            on_its_side = image.getexif().get(_ORIENTATION, 1) >= _ON_ITS_SIDE
    except MemoryError:
        raise
    except Exception as error:
        raise ImageError(f"{path}: {_reason(error)}") from error
    return (height, width) if on_its_side else (width, height)


def read_image(path: str | Path, channels: int = 3) -> tuple[Image.Image, str | None]:
    """Decode an image file, turned upright, as RGB (``channels`` 3) or grey (1), 8 bits a channel.

    Transparency is put on white; 16-bit grey is scaled to 8 bits.

    Returns:
        (the image, what kind of image the file held if that was another one, such as "palette").

    Raises:
        ImageError: the file is truncated, not an image, cannot be opened, or holds floating-point pixels.
    """
    mode = {1: "L", 3: "RGB"}[channels]
    try:
        with Image.open(path) as file:
            file.load()
            kind = None if file.mode in (mode, "RGB") else _kind(file)
            image = _to_mode(ImageOps.exif_transpose(file), mode)
    except (MemoryError, ImageError):
        raise
    except Exception as error:  # Pillow's decoders raise OSError, SyntaxError, ValueError, struct.error and others
        raise ImageError(f"{path}: {_reason(error)}") from error
    return image, kind


def channels_of(path: str | Path) -> int:
    """The channels an image file is read with if nothing else is asked for: 1 (grey) or 3 (RGB); reads its header only.

    Raises:
        ImageError: the file is not an image, or cannot be opened.
    """
    try:
        with Image.open(path) as image:
            return 1 if image.mode in ("1", "L", "LA", "La", *_DEEP_GREY) else 3
    except Exception as error:
        raise ImageError(f"{path}: {_reason(error)}") from error


def resize_pixels(pixels: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """uint8 (H, W, C) resized to (width, height), bicubic; each channel by itself."""
    channels = [Image.fromarray(np.ascontiguousarray(pixels[:, :, channel])).resize(size, Image.Resampling.BICUBIC)
                for channel in range(pixels.shape[2])]
    return np.stack([np.asarray(channel) for channel in channels], axis=2)


def to_grey(pixels: Tensor) -> Tensor:
    """RGB pixels (H, W, 3) as grey (H, W, 1), with the weights of ITU-R 601 that Pillow uses."""
    return torch.from_numpy(np.array(Image.fromarray(pixels.contiguous().numpy()).convert("L")))[:, :, None]


def to_pixels(image: Image.Image) -> Tensor:
    """An "L" or "RGB" image as uint8 (H, W, C)."""
    pixels = torch.from_numpy(np.array(image, dtype=np.uint8))
    return pixels[:, :, None] if pixels.ndim == 2 else pixels


def to_tensor(pixels: Tensor) -> Tensor:
    """uint8 (H, W, C) to float32 (C, H, W) in [-1, 1], contiguous."""
    return pixels.permute(2, 0, 1).to(torch.float32, memory_format=torch.contiguous_format).div_(127.5).sub_(1)


def to_image(tensor: Tensor) -> Image.Image:
    """(C, H, W) in [-1, 1], C 1 or 3, any float dtype and device, to an image of (x + 1) / 2, rounded to 8 bits.

    Values outside are clamped; NaN becomes black.

    Raises:
        ValueError: another shape.
    """
    if tensor.ndim != 3 or tensor.shape[0] not in (1, 3):
        raise ValueError(f"an image has the shape (1 or 3, height, width), not {tuple(tensor.shape)}")
    unit = (tensor.detach().float().cpu() + 1) / 2
    pixels = (unit.nan_to_num(0.0).clamp(0, 1) * 255).round().to(torch.uint8).permute(1, 2, 0).contiguous().numpy()
    return Image.fromarray(pixels[:, :, 0] if pixels.shape[2] == 1 else pixels)


def save_png(tensor: Tensor, path: str | Path) -> None:
    """Write (C, H, W) in [-1, 1] as a PNG file."""
    to_image(tensor).save(path, format="PNG")


def make_grid(rows: Sequence[Sequence[Tensor]], *, columns: Sequence[str] = (), labels: Sequence[str] = (),
              gap: int = 4, least: int = 128) -> Image.Image:
    """A picture of images in rows, with a caption over every column and a label before every row.

    Args:
        rows: images (C, H, W) in [-1, 1], C 1 or 3. Rows may differ in length and images in size; every cell is as
            large as the largest image.
        columns: captions from left to right; none leaves the caption line out.
        labels: labels from top to bottom; none leaves their column out.
        gap: pixels between cells and around all.
        least: smaller images are enlarged by a whole factor until a cell is so wide.

    Raises:
        ValueError: there is no image.
    """
    images = [[to_image(tensor) for tensor in row] for row in rows]
    if not any(images):
        raise ValueError("a grid needs at least one image")
    width = max(image.width for row in images for image in row)
    height = max(image.height for row in images for image in row)
    factor = max(1, -(-least // width))
    width, height = width * factor, height * factor

    font = _font(max(12, min(20, width // 8)))
    line = _text_size("Ag", font)[1] + 2 * gap if columns else 0
    margin = max(_text_size(label, font)[0] for label in labels) + 2 * gap if labels else 0
    count = max(len(row) for row in images)
    size = (margin + gap + count * (width + gap), line + gap + len(images) * (height + gap))
    picture = Image.new("RGB", size, "white")
    draw = ImageDraw.Draw(picture)
    for column, caption in enumerate(columns[:count]):
        centre = margin + gap + column * (width + gap) + width // 2
        draw.text((centre - _text_size(caption, font)[0] // 2, gap), caption, fill="black", font=font)
    for number, row in enumerate(images):
        top = line + gap + number * (height + gap)
        if number < len(labels):
            draw.text((gap, top + (height - _text_size(labels[number], font)[1]) // 2), labels[number], fill="black",
                      font=font)
        for column, image in enumerate(row):
            enlarged = image.resize((image.width * factor, image.height * factor), Image.Resampling.NEAREST)
            picture.paste(enlarged.convert("RGB"), (margin + gap + column * (width + gap), top))
    return picture


def _kind(image: Image.Image) -> str:
    return "16-bit grey" if image.mode in _DEEP_GREY else _KINDS.get(image.mode, image.mode)


def _to_mode(image: Image.Image, mode: str) -> Image.Image:
    if image.mode == "F":
        raise OSError("pixels are floating-point numbers, whose range is unknown")
    if image.mode in _DEEP_GREY:
        image = Image.fromarray((np.asarray(image).astype(np.float64) / 257).round().clip(0, 255).astype(np.uint8))
    elif image.mode in ("LA", "La", "PA", "RGBA", "RGBa") or "transparency" in image.info:
        opaque = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", opaque.size, "white"), opaque)
    return image if image.mode == mode else image.convert(mode)


def _reason(error: Exception) -> str:
    if isinstance(error, UnidentifiedImageError):
        return "not an image"
    if isinstance(error, Image.DecompressionBombError):
        return "too large an image"
    text = getattr(error, "strerror", None) or str(error) or type(error).__name__
    return "truncated" if "truncated" in text.lower() else text.splitlines()[0]


def _font(size: int) -> ImageFont.ImageFont | ImageFont.FreeTypeFont:
    try:
        return ImageFont.load_default(size)
    except (TypeError, ImportError):  # a Pillow before 10.1, or one without FreeType: its bitmap font has one size
        return ImageFont.load_default()


def _text_size(text: str, font: ImageFont.ImageFont | ImageFont.FreeTypeFont) -> tuple[int, int]:
    _, _, right, bottom = font.getbbox(text)
    return int(right), int(bottom)
