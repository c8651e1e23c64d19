"""The options of image data: where it is, and what is done to an image before a network sees it."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

PREPROCESS = ("resize_and_crop", "crop", "scale_width", "scale_width_and_crop", "none")
DIRECTIONS = ("AtoB", "BtoA")


def _option(default, help: str, choices: tuple[str, ...] | None = None):
    metadata = {"help": help}
    if choices is not None:
        metadata["choices"] = choices
    return dataclasses.field(default=default, metadata=metadata)


@dataclass(frozen=True)
class DataOptions:
    """Names and defaults are those of the published CycleGAN code. Sizes are in pixels.

    Raises:
        ValueError: a value is out of range, or two values contradict each other.
    """

    dataroot: str | None = _option(None, "folder that holds trainA and trainB, and testA and testB if there are any "
                                         "(default: the built-in set)")
    load_size: int = _option(286, "width (and height, for resize_and_crop) that an image is first resized to")
    crop_size: int = _option(256, "side of the square that is then cut out")
    preprocess: str = _option("resize_and_crop", "what is done to an image that is loaded", PREPROCESS)
    flip: bool = _option(True, "mirror every other training image, left to right, at random")
    direction: str = _option("AtoB", "BtoA swaps the roles of the two domains", DIRECTIONS)
    batch_size: int = _option(1, "images of each domain in one step")
    serial_batches: bool = _option(False, "take the images in the order of their names, pairing A and B by it")
    max_dataset_size: int | None = _option(None, "use only the first so many training images of each domain")
    num_threads: int = _option(0, "worker processes that load images; 0: the training process does it")
    input_nc: int = _option(3, "channels of domain A: 3 (RGB) or 1 (grey)")
    output_nc: int = _option(3, "channels of domain B: 3 (RGB) or 1 (grey)")

    def __post_init__(self) -> None:
        for name, choices in (("preprocess", PREPROCESS), ("direction", DIRECTIONS)):
            if getattr(self, name) not in choices:
                raise ValueError(f"{_flag(name)} is {getattr(self, name)!r}: choose from {', '.join(choices)}")
        for name, least in (("load_size", 1), ("crop_size", 1), ("batch_size", 1), ("num_threads", 0)):
            if getattr(self, name) < least:
                raise ValueError(f"{_flag(name)} is {getattr(self, name)}: it must be {least} or more")
        if self.max_dataset_size is not None and self.max_dataset_size < 1:
            raise ValueError(f"--max-dataset-size is {self.max_dataset_size}: it must be 1 or more, or none for all")
        for name in ("input_nc", "output_nc"):
            if getattr(self, name) not in (1, 3):
                raise ValueError(f"{_flag(name)} is {getattr(self, name)}: images are read with 3 channels (RGB) "
                                 "or 1 (grey)")
        if self.preprocess in ("resize_and_crop", "scale_width_and_crop") and self.crop_size > self.load_size:
            raise ValueError(f"--crop-size {self.crop_size} is larger than --load-size {self.load_size}, which images "
                             "are resized to before the crop: give a --load-size at least as large")


def _flag(name: str) -> str:
    return "--" + name.replace("_", "-")
