"""How a picture is to be turned before it is shown, as its file says: the orientation tag of EXIF, TIFF and XMP."""

from __future__ import annotations

import numpy as np
from PIL import Image

TAG = 0x0112
ON_ITS_SIDE = (5, 6, 7, 8)  # values that swap width and height


def orientation_of(image: Image.Image, late: bool = False) -> int:
    """1 to 8 of an image that Pillow has opened; 1, upright, where the file says nothing that makes sense.

    Args:
        late: what says so may come after the pixels, which are decoded to find it.
    """
    if late:
        image.load()
    try:
        # Of a PNG file without the tag, its own getexif would decode the pixels, to look behind them.
        return valid(Image.Image.getexif(image).get(TAG))
    except Exception:  # of damaged metadata Pillow raises SyntaxError, struct.error, ValueError and others
        return 1


def valid(value: object) -> int:
    """A value of the tag; 1 for one that has no meaning."""
    return value if isinstance(value, int) and 1 <= value <= 8 else 1


def upright(pixels: np.ndarray, orientation: int) -> np.ndarray:
    """Pixels (H, W, C) turned upright; a view."""
    if orientation in ON_ITS_SIDE:
        pixels = pixels.transpose(1, 0, 2)
    return pixels[:: -1 if orientation in (3, 4, 7, 8) else 1, :: -1 if orientation in (2, 3, 6, 7) else 1]
