"""What is done to an image between the file and the network: resize, crop, flip.

The resize depends on the image alone, so its result can be kept; crop and flip are drawn anew at every use.
"""

from __future__ import annotations

from dataclasses import dataclass
from random import Random
from typing import ClassVar, NamedTuple

import numpy as np
from torch import Tensor

from .convert import resize
from .images import to_tensor
from .options import DataOptions

MULTIPLE = 4  # sizes that preprocess "none" rounds to, as the published code does: both ResNets halve twice


class Cut(NamedTuple):
    """A part of an image, in pixels, and whether it is turned left to right."""

    left: int
    top: int
    width: int
    height: int
    mirrored: bool


@dataclass(frozen=True)
class Transform:
    """Resize, crop and flip as the published code does (bicubic).

    ``resize_and_crop`` resizes to load_size x load_size, ``scale_width*`` to the width load_size and a height in
    proportion, but of crop_size at least; ``none`` rounds both sides to multiples of 4. The crop is crop_size square.

    Attributes:
        random: crops where the generator says, and flips; otherwise the crop is in the middle and nothing is flipped.
    """

    wanted: ClassVar[str] = "the images of one domain"  # in a folder to which it is applied

    preprocess: str
    load_size: int
    crop_size: int
    flip: bool
    random: bool

    @classmethod
    def of(cls, options: DataOptions, split: str) -> Transform:
        """For "train" as the options have it; for "test" whole images are resized to crop_size, as published."""
        if split == "train":
            return cls(options.preprocess, options.load_size, options.crop_size, options.flip, True)
        shrinks = options.preprocess in ("resize_and_crop", "scale_width_and_crop")
        load_size = options.crop_size if shrinks else options.load_size
        return cls(options.preprocess, load_size, options.crop_size, False, False)

    @property
    def crops(self) -> bool:
        return self.preprocess.endswith("crop")

    def resized(self, width: int, height: int) -> tuple[int, int]:
        """(width, height) that :meth:`resize` makes of an image of this size."""
        if self.preprocess == "resize_and_crop":
            return self.load_size, self.load_size
        if self.preprocess.startswith("scale_width"):
            if width == self.load_size and height >= self.crop_size:
                return width, height
            return self.load_size, int(max(self.load_size * height / width, self.crop_size))
        if self.preprocess == "none":
            return _rounded(width), _rounded(height)
        return width, height

    def result(self, width: int, height: int) -> tuple[int, int]:
        """(width, height) that a network sees of an image of this size."""
        return (self.crop_size, self.crop_size) if self.crops else self.resized(width, height)

    def check(self, width: int, height: int, name: str) -> None:
        """Raise ValueError where the crop is larger than the (resized) image."""
        largest = min(self.resized(width, height))
        if self.crops and largest < self.crop_size:
            raise ValueError(
                f"{name} is {width}x{height}, smaller than the crop of {self.crop_size}x{self.crop_size}: "
                f"give --crop-size {largest} or less, or --preprocess resize_and_crop"
            )

    def resize(self, pixels: np.ndarray) -> np.ndarray:
        """The part that depends on nothing but the image: uint8 or uint16 (H, W, C)."""
        height, width, _ = pixels.shape
        return resize(pixels, self.resized(width, height))

    def place(self, width: int, height: int, generator: Random) -> Cut:
        """What a network sees of a resized image of this size. Always draws three numbers.

        ValueError where the crop is larger than the image.
        """
        x, y, mirror = generator.random(), generator.random(), generator.random()
        mirrored = self.random and self.flip and mirror < 0.5
        if not self.crops:
            return Cut(0, 0, width, height, mirrored)
        self.check(width, height, "an image")
        left, top = width - self.crop_size, height - self.crop_size
        left, top = (int(x * (left + 1)), int(y * (top + 1))) if self.random else (left // 2, top // 2)
        return Cut(left, top, self.crop_size, self.crop_size, mirrored)

    def __call__(self, pixels: Tensor, generator: Random) -> Tensor:
        """uint8 or uint16 (H, W, C), resized, to float32 (C, h, w) in [-1, 1]. Always draws three numbers."""
        height, width, _ = pixels.shape
        cut = self.place(width, height, generator)
        tensor = to_tensor(pixels[cut.top : cut.top + cut.height, cut.left : cut.left + cut.width])
        return tensor.flip(-1) if cut.mirrored else tensor


def _rounded(side: int) -> int:
    return max(MULTIPLE, round(side / MULTIPLE) * MULTIPLE)
