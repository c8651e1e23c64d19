"""The options of image data: where it is, and what is done to an image before a network sees it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from fastgan._options import check_options, option

from .cache import CACHES
from .links import ANYWHERE

PREPROCESS = ("resize_and_crop", "crop", "scale_width", "scale_width_and_crop", "none")
DIRECTIONS = ("AtoB", "BtoA")
RGB = 3


@dataclass(frozen=True)
class DataOptions:
    """Names and defaults are those of the published CycleGAN code. Sizes are in pixels.

    Raises:
        ValueError: a value is out of range, or two values contradict each other.
    """

    dataroot: str | None = option(
        None,
        "folder of the data: trainA and trainB (and testA, testB); train (and test) "
        "of images A|B side by side; IDX files; or a sub-folder of images for each "
        "class (default: the built-in set)",
        resume=True,
    )
    load_size: int = option(286, "width (and height, for resize_and_crop) that an image is first resized to", least=1)
    crop_size: int = option(256, "side of the square that is then cut out", least=1)
    preprocess: str = option("resize_and_crop", "what is done to an image that is loaded", choices=PREPROCESS)
    flip: bool = option(True, "mirror every other training pair, left to right, at random; never labelled images")
    direction: str = option("AtoB", "BtoA swaps the roles of the two domains", choices=DIRECTIONS)
    batch_size: int = option(1, "images (of each domain) in one step", least=1)
    serial_batches: bool = option(False, "take the images in the order of their names, pairing A and B by it")
    max_dataset_size: int | None = option(None, "use only so many training images (of each domain)", least=1)
    num_threads: int = option(
        0, "worker processes that load images; 0: the training process does it", least=0, most=256, resume=True
    )
    cache: str = option(
        "auto",
        "where the decoded images of a folder are kept: memory, file (a temporary one), none, "
        "or auto: in memory up to 1 GiB, else in a file where there is room",
        choices=CACHES,
        resume=True,
    )
    input_nc: int | None = option(
        None,
        "channels of domain A, or of labelled images: 1 (grey), 3 (RGB), 4 (RGB with "
        "transparency) or any other number (default: 3; what labelled images have)",
        least=1,
    )
    output_nc: int | None = option(None, "channels of domain B (default: 3)", least=1)
    range: Sequence[float] | None = option(
        None,
        "numbers that become black and white, of images of other numbers than 8 "
        "bits, such as CT or depth (default: all that 16 bits hold)",
    )
    follow_links: bool = option(False, "read folders outside of the data folder that links in it lead to", resume=True)
    image_size: int | None = option(None, "side that labelled images are resized to (default: as they are)", least=1)
    n_labels: int = option(100, "labelled images for semi-supervised training, equally many of each class", least=1)

    def __post_init__(self) -> None:
        check_options(self)
        if self.range is not None:
            numbers = [float(value) for value in self.range]
            object.__setattr__(self, "range", numbers)
            if len(numbers) != 2 or not -math.inf < numbers[0] < numbers[1] < math.inf:
                raise ValueError(
                    f"--range is {' '.join(f'{value:g}' for value in numbers)}: give the numbers that "
                    "become black and white, the lower one first"
                )
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
    """The folder. Raises ValueError, with what it should hold, where there is none."""
    root = Path(dataroot)
    if not root.is_dir():
        state = "not a folder" if root.exists() else "missing"
        raise ValueError(f"--dataroot {root} is {state}: it should hold {wanted}")
    return root
