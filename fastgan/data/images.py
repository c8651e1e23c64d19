"""Pixels to the [-1, 1] that networks speak, and back; pictures of many images."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

MOST_CHANNELS = 4
MOST_PIXELS = 89_478_485  # of a picture: of more, Pillow warns when it opens one


def to_tensor(pixels: Tensor) -> Tensor:
    """uint8 or uint16 (H, W, C) to float32 (C, H, W) in [-1, 1], contiguous; (N, H, W, C) to (N, C, H, W),
    channels_last."""
    middle = 127.5 if pixels.dtype == torch.uint8 else 32767.5
    layout = torch.contiguous_format if pixels.ndim == 3 else torch.channels_last
    return pixels.movedim(-1, -3).to(torch.float32, memory_format=layout).div_(middle).sub_(1)


def to_pixels(tensor: Tensor, *, deep: bool = False) -> Tensor:
    """(C, H, W) in [-1, 1], any float dtype and device, to (x + 1) / 2 as uint8, or uint16, (H, W, C), rounded.

    Values outside are clamped; NaN becomes black.
    """
    unit = (tensor.detach().float().cpu() + 1) / 2
    levels = (unit.nan_to_num(0.0).clamp(0, 1) * (65535 if deep else 255)).round()
    return levels.to(torch.int32).to(torch.uint16 if deep else torch.uint8).permute(1, 2, 0).contiguous()


def to_image(tensor: Tensor) -> Image.Image:
    """(C, H, W) in [-1, 1] to an image of 8 bits: 1 grey, 3 RGB, 2 and 4 with transparency. See :func:`to_pixels`.

    Raises:
        ValueError: another shape.
    """
    if tensor.ndim != 3 or not 1 <= tensor.shape[0] <= MOST_CHANNELS:
        raise ValueError(f"an image has the shape (1 to 4, height, width), not {tuple(tensor.shape)}")
    pixels = to_pixels(tensor).numpy()
    return Image.fromarray(pixels[:, :, 0] if pixels.shape[2] == 1 else pixels)


def make_grid(
    rows: Sequence[Sequence[Tensor]],
    *,
    columns: Sequence[str] = (),
    labels: Sequence[str] = (),
    captions: Sequence[Sequence[str]] = (),
    gap: int = 4,
    least: int = 128,
) -> Image.Image:
    """A picture of images in rows, with a caption over every column, a label before every row and a line under every
    image.

    Args:
        rows: images (C, H, W) in [-1, 1]; of more than 4 channels the first three are shown. Rows may differ in length
            and images in size; every cell is as large as the largest image.
        columns: captions from left to right; none leaves the caption line out.
        labels: labels from top to bottom; none leaves their column out.
        captions: lines under the images, by rows; none leaves their room out.
        gap: pixels between cells and around all.
        least: smaller images are enlarged by a whole factor until a cell is so wide.

    Raises:
        ValueError: there is no image.
    """
    images = [[to_image(tensor if len(tensor) <= MOST_CHANNELS else tensor[:3]) for tensor in row] for row in rows]
    if not any(images):
        raise ValueError("a grid needs at least one image")
    width = max(image.width for row in images for image in row)
    height = max(image.height for row in images for image in row)
    factor = max(1, -(-least // width))
    width, height = width * factor, height * factor

    font = _font(max(12, min(20, width // 8)))
    line = _text_size("Ag", font)[1] + 2 * gap if columns else 0
    margin = max(_text_size(label, font)[0] for label in labels) + 2 * gap if labels else 0
    under = _text_size("Ag", font)[1] + gap if captions else 0
    count = max(len(row) for row in images)
    size = (margin + gap + count * (width + gap), line + gap + len(images) * (height + under + gap))
    picture = Image.new("RGB", size, "white")
    draw = ImageDraw.Draw(picture)
    for column, caption in enumerate(columns[:count]):
        _centred(draw, margin + gap + column * (width + gap) + width // 2, gap, caption, font)
    for number, row in enumerate(images):
        top = line + gap + number * (height + under + gap)
        if number < len(labels):
            draw.text(
                (gap, top + (height - _text_size(labels[number], font)[1]) // 2),
                labels[number],
                fill="black",
                font=font,
            )
        for column, image in enumerate(row):
            enlarged = image.resize((image.width * factor, image.height * factor), Image.Resampling.NEAREST)
            picture.paste(enlarged.convert("RGB"), (margin + gap + column * (width + gap), top))
        for column, caption in enumerate(captions[number][:count] if number < len(captions) else ()):
            _centred(draw, margin + gap + column * (width + gap) + width // 2, top + height, caption, font)
    return picture


def grid_holds(side: int, *, gap: int = 4, least: int = 128) -> int:
    """How many images of side x side make a picture of about ``MOST_PIXELS`` by :func:`make_grid`."""
    cell = side * max(1, -(-least // side)) + gap
    return MOST_PIXELS // cell**2


def _centred(
    draw: ImageDraw.ImageDraw, centre: int, top: int, text: str, font: ImageFont.ImageFont | ImageFont.FreeTypeFont
) -> None:
    draw.text((centre - _text_size(text, font)[0] // 2, top), text, fill="black", font=font)


def _font(size: int) -> ImageFont.ImageFont | ImageFont.FreeTypeFont:
    try:
        return ImageFont.load_default(size)
    except (TypeError, ImportError):  # a Pillow before 10.1, or one without FreeType: its bitmap font has one size
        return ImageFont.load_default()


def _text_size(text: str, font: ImageFont.ImageFont | ImageFont.FreeTypeFont) -> tuple[int, int]:
    _, _, right, bottom = font.getbbox(text)
    return int(right), int(bottom)
