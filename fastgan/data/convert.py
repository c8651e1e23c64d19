"""Pixels (H, W, C) from one number of channels to another, and from one size to another; 8 and 16 bits alike."""

from __future__ import annotations

from functools import partial

import numpy as np
from PIL import Image

from .bounds import by_rows

CHANNELS = {1: "grey", 2: "grey with transparency", 3: "RGB", 4: "RGB with transparency"}

_TO_GREY = (19595, 38470, 7471)  # of 65536: ITU-R 601, rounded as Pillow rounds it


def convert(pixels: np.ndarray, channels: int) -> np.ndarray:
    """uint8 or uint16 (H, W, C) with ``channels`` channels.

    Grey and RGB, each with or without transparency in the last channel, become one another: transparency is put on
    white, or is opaque.

    Raises:
        ValueError: other numbers of channels, which differ.
    """
    there = pixels.shape[2]
    if there == channels:
        return pixels
    if there not in CHANNELS or channels not in CHANNELS:
        raise ValueError(
            f"it has {there} channels, and {channels} are wanted: only 1 (grey), 2 (grey with "
            "transparency), 3 (RGB) and 4 (RGB with transparency) become one another"
        )
    return by_rows(partial(_convert, channels=channels), pixels)


def deepen(pixels: np.ndarray) -> np.ndarray:
    """uint8 as uint16 of the same brightness; uint16 as it is."""
    return pixels.astype(np.uint16) * np.uint16(257) if pixels.dtype == np.uint8 else pixels


def resize(pixels: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """uint8 or uint16 (H, W, C) resized to (width, height), bicubic as Pillow does it, each channel by itself."""
    height, width, channels = pixels.shape
    if size == (width, height):
        return pixels
    if pixels.dtype == np.uint8 and channels == 3:
        return np.array(Image.fromarray(pixels).resize(size, Image.Resampling.BICUBIC))
    deep = pixels.dtype == np.uint16
    resized = np.empty((size[1], size[0], channels), pixels.dtype)
    for band in range(channels):
        levels = np.ascontiguousarray(pixels[..., band], np.float32 if deep else np.uint8)
        levels = np.asarray(Image.fromarray(levels).resize(size, Image.Resampling.BICUBIC))
        resized[..., band] = np.rint(levels.clip(0, 65535)) if deep else levels
    return resized


def _convert(pixels: np.ndarray, channels: int) -> np.ndarray:
    if pixels.shape[2] in (2, 4):
        pixels, opacity = pixels[..., :-1], pixels[..., -1:]
        if channels not in (2, 4):
            pixels = _on_white(pixels, opacity)
    else:
        opacity = np.full_like(pixels[..., :1], np.iinfo(pixels.dtype).max)
    if channels <= 2 < pixels.shape[2]:
        weighted = pixels[..., :3].astype(np.int64) @ np.array(_TO_GREY)
        pixels = ((weighted + 0x8000) >> 16).astype(pixels.dtype)[..., None]
    elif channels > 2 > pixels.shape[2]:
        pixels = np.repeat(pixels, 3, axis=2)
    return np.concatenate([pixels, opacity], axis=2) if channels in (2, 4) else pixels


def _on_white(pixels: np.ndarray, opacity: np.ndarray) -> np.ndarray:
    most = np.iinfo(pixels.dtype).max
    share = opacity.astype(np.float64) / most
    return np.rint(pixels * share + most * (1 - share)).astype(pixels.dtype)
