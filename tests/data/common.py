"""Image files for the tests of fastgan.data."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

REAL_DATA = Path(__file__).resolve().parents[3] / "shared" / "data"

needs_facades = pytest.mark.skipif(not (REAL_DATA / "facades_unaligned").is_dir(),
                                   reason="no shared/data/facades_unaligned beside the repository")


def picture(size: tuple[int, int] = (24, 20), seed: int = 0) -> Image.Image:
    """A smooth RGB image of (width, height) that differs from seed to seed and from pixel to pixel."""
    width, height = size
    x, y = np.meshgrid(np.linspace(0, 1, width), np.linspace(0, 1, height))
    channels = [x, y, np.full_like(x, (37 * seed % 256) / 255)]
    return Image.fromarray(np.rint(255 * np.stack(channels, axis=2)).astype(np.uint8))


def write_images(folder: Path, count: int, size: tuple[int, int] = (24, 20)) -> Path:
    """``count`` PNG files 0.png, 1.png, ..., whose blue value tells the number (37 * number mod 256)."""
    folder.mkdir(parents=True)
    for number in range(count):
        picture(size, number).save(folder / f"{number}.png")
    return folder


def truncated_jpeg(path: Path, size: tuple[int, int] = (24, 20)) -> None:
    picture(size).save(path, quality=95)
    content = path.read_bytes()
    path.write_bytes(content[:len(content) * 2 // 3])
