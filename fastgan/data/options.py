"""The options of image data: where it is, and what is done to an image before a network sees it."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from pathlib import Path

from .cache import CACHES
from .links import ANYWHERE

PREPROCESS = ("resize_and_crop", "crop", "scale_width", "scale_width_and_crop", "none")
DIRECTIONS = ("AtoB", "BtoA")
RGB = 3


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

    dataroot: str | None = _option(
        None,
        "folder of the data: trainA and trainB (and testA, testB); train (and test) "
        "of images A|B side by side; IDX files; or a sub-folder of images for each "
        "class (default: the built-in set)",
    )
    load_size: int = _option(286, "width (and height, for resize_and_crop) that an image is first resized to")
    crop_size: int = _option(256, "side of the square that is then cut out")
    preprocess: str = _option("resize_and_crop", "what is done to an image that is loaded", PREPROCESS)
    flip: bool = _option(True, "mirror every other training pair, left to right, at random; never labelled images")
    direction: str = _option("AtoB", "BtoA swaps the roles of the two domains", DIRECTIONS)
    batch_size: int = _option(1, "images (of each domain) in one step")
    serial_batches: bool = _option(False, "take the images in the order of their names, pairing A and B by it")
    max_dataset_size: int | None = _option(None, "use only so many training images (of each domain)")
    num_threads: int = _option(0, "worker processes that load images; 0: the training process does it")
    cache: str = _option(
        "auto",
        "where the decoded images of a folder are kept: memory, file (a temporary one), none, "
        "or auto: in memory up to 1 GiB, else in a file where there is room",
        CACHES,
    )
    input_nc: int | None = _option(
        None,
        "channels of domain A, or of labelled images: 1 (grey), 3 (RGB), 4 (RGB with "
        "transparency) or any other number (default: 3; what labelled images have)",
    )
    output_nc: int | None = _option(None, "channels of domain B (default: 3)")
    range: list[float] | None = _option(  # noqa: RUF009
        None,
        "numbers that become black and white, of images of other numbers than 8 "
        "bits, such as CT or depth (default: all that 16 bits hold)",
    )
    follow_links: bool = _option(False, "read folders outside of the data folder that links in it lead to")
    image_size: int | None = _option(None, "side that labelled images are resized to (default: as they are)")
    n_labels: int = _option(100, "labelled images for semi-supervised training, equally many of each class")

    def __post_init__(self) -> None:
        for name, choices in (("preprocess", PREPROCESS), ("direction", DIRECTIONS), ("cache", CACHES)):
            if getattr(self, name) not in choices:
                raise ValueError(f"{_flag(name)} is {getattr(self, name)!r}: choose from {', '.join(choices)}")
        for name, least in (("load_size", 1), ("crop_size", 1), ("batch_size", 1), ("num_threads", 0)):
            if getattr(self, name) < least:
                raise ValueError(f"{_flag(name)} is {getattr(self, name)}: it must be {least} or more")
        if self.max_dataset_size is not None and self.max_dataset_size < 1:
            raise ValueError(f"--max-dataset-size is {self.max_dataset_size}: it must be 1 or more, or none for all")
        if self.range is not None:
            object.__setattr__(self, "range", [float(value) for value in self.range])
            if len(self.range) != 2 or not -math.inf < self.range[0] < self.range[1] < math.inf:
                raise ValueError(
                    f"--range is {' '.join(f'{value:g}' for value in self.range)}: give the numbers that "
                    "become black and white, the lower one first"
                )
        for name in ("input_nc", "output_nc", "image_size", "n_labels"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"{_flag(name)} is {value}: it must be 1 or more")
        if self.preprocess in ("resize_and_crop", "scale_width_and_crop") and self.crop_size > self.load_size:
            raise ValueError(
                f"--crop-size {self.crop_size} is larger than --load-size {self.load_size}, which images "
                "are resized to before the crop: give a --load-size at least as large"
            )

    @property
    def inside(self) -> Path | None:
        """The folder that links to folders do not lead out of; None for the built-in sets."""
        if self.follow_links:
            return ANYWHERE
        return None if self.dataroot is None else Path(self.dataroot)

    @property
    def pair_channels(self) -> tuple[int, int]:
        """The channels of the images "A" and "B" of pairs."""
        return self.input_nc or RGB, self.output_nc or RGB


def check_dataroot(dataroot: str, wanted: str) -> Path:
    """The folder; ValueError, with what it should hold, where there is none."""
    root = Path(dataroot)
    if not root.is_dir():
        state = "not a folder" if root.exists() else "missing"
        raise ValueError(f"--dataroot {root} is {state}: it should hold {wanted}")
    return root


def _flag(name: str) -> str:
    return "--" + name.replace("_", "-")
