"""Image files for the tests of fastgan.data."""

from __future__ import annotations

import gzip
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

REAL_DATA = Path(__file__).resolve().parents[3] / "shared" / "data"

needs_mnist = pytest.mark.skipif(
    not (REAL_DATA / "mnist").is_dir(), reason="no shared/data/mnist beside the repository"
)
_FACADES = [REAL_DATA / "facades_unaligned", REAL_DATA / "facades_aligned"]
needs_facades = pytest.mark.skipif(
    not all(folder.is_dir() for folder in _FACADES), reason="no shared/data/facades_* beside the repository"
)


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
    path.write_bytes(content[: len(content) * 2 // 3])


def idx_bytes(array: np.ndarray) -> bytes:
    """What an IDX file of unsigned bytes with this content holds."""
    return bytes((0, 0, 8, array.ndim)) + np.asarray(array.shape, dtype=">u4").tobytes() + array.tobytes()


def write_idx(
    folder: Path,
    count: int,
    part: str = "train",
    *,
    size: tuple[int, ...] = (6, 6),
    classes: int = 3,
    gzipped: bool = False,
) -> Path:
    """Images whose first pixel tells their number, labelled number % classes."""
    folder.mkdir(parents=True, exist_ok=True)
    images = np.zeros((count, *size), dtype=np.uint8)
    images[(slice(None), *(0 for _ in size))] = np.arange(count)
    for name, array in (
        (f"{part}-images-idx{images.ndim}-ubyte", images),
        (f"{part}-labels-idx1-ubyte", (np.arange(count) % classes).astype(np.uint8)),
    ):
        content = idx_bytes(array)
        if gzipped:
            (folder / f"{name}.gz").write_bytes(gzip.compress(content))
        else:
            (folder / name).write_bytes(content)
    return folder
