"""Opening two domains: with no pairing between them, as pairs side by side, and as pairs by names of files."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from .convert import convert
from .dataset import AlignedDataset, Source, UnalignedDataset
from .folders import ImageFolder, Listing, find_images
from .options import DataOptions, check_dataroot
from .synthetic import shapes
from .transforms import Transform


def open_unaligned(options: DataOptions, split: str = "train", seed: int = 0) -> UnalignedDataset:
    """The folders trainA and trainB (testA and testB) under ``options.dataroot``, or the built-in set without it.

    Raises:
        ValueError: a folder is missing or empty or holds no readable image, a crop is larger than an image, or images
            of different sizes would have to share a batch.
    """
    transform = Transform.of(options, split)
    limit = options.max_dataset_size if split == "train" else None
    A: Source
    B: Source
    if options.dataroot is None:
        A, B = _built_in(options, split, transform, limit, paired=False)
    else:
        root = check_dataroot(options.dataroot, "the folders trainA and trainB")
        A, B = (
            ImageFolder(
                Listing.of(root / f"{split}{domain}", transform.wanted, limit, options.inside),
                transform,
                channels=channels,
                cache=options.cache,
                substitute=split == "train",
                range=options.range,
            )
            for domain, channels in zip(_domains(options), options.pair_channels)
        )
    if split == "train" and options.batch_size > 1:
        _check_equal_sizes(options, transform, A, B)
    return UnalignedDataset(A, B, transform, seed=seed, serial=options.serial_batches or split == "test")


def open_aligned(options: DataOptions, split: str = "train", seed: int = 0) -> AlignedDataset:
    """The images A|B side by side in the folder train (test) under ``options.dataroot``, or the built-in pairs.

    Raises:
        ValueError: the folder is missing or empty or holds no readable image, an image cannot be halved or is smaller
            than the crop, or images of different sizes would have to share a batch.
    """
    transform = Transform.of(options, split)
    limit = options.max_dataset_size if split == "train" else None
    A: Source
    B: Source
    if options.dataroot is None:
        A, B = _built_in(options, split, transform, limit, paired=True)
    else:
        root = check_dataroot(options.dataroot, "the folder train, of images with A and B side by side")
        channels = options.pair_channels
        if channels[0] != channels[1] and set(channels) != {1, 3}:
            raise ValueError(
                f"--input-nc {channels[0]} and --output-nc {channels[1]}: the two halves of an image have "
                "equally many channels, or 1 (grey) and 3 (RGB)"
            )
        whole = ImageFolder(
            Listing.of(root / split, SideBySide.wanted, limit, options.inside),
            SideBySide(transform),
            channels=max(channels),
            cache=options.cache,
            substitute=split == "train",
            range=options.range,
        )
        A, B = (Half(whole, "AB".index(domain), count) for domain, count in zip(_domains(options), channels))
    if split == "train" and options.batch_size > 1:
        _check_equal_sizes(options, transform, A)
    return AlignedDataset(A, B, transform, seed=seed)


def open_aligned_test(options: DataOptions) -> AlignedDataset | None:
    """The test set of aligned folders; None where there is no folder test, or it is empty."""
    if options.dataroot is None:
        return None
    try:
        find_images(Path(options.dataroot) / "test", inside=options.inside)
    except ValueError:
        return None
    return open_aligned(options, "test")


def names_match(options: DataOptions) -> bool:
    """Whether the folders testA and testB hold files of the same names, suffixes aside."""
    if options.dataroot is None:
        return False
    root = Path(options.dataroot)
    try:
        names = [_stems(find_images(root / f"test{domain}", inside=options.inside)) for domain in "AB"]
    except ValueError:  # a missing or empty test folder holds no pairs, and is no reason to stop
        return False
    return names[0] == names[1]


def open_matching_folders(options: DataOptions) -> UnalignedDataset | None:
    """The folders testA and testB as pairs by name; None where they are missing or their names differ.

    Raises:
        ValueError: of every pair one image is broken, or a crop is larger than an image.
    """
    if not names_match(options):
        return None
    pairs = open_unaligned(options, "test")
    assert isinstance(pairs.A, ImageFolder) and isinstance(pairs.B, ImageFolder)
    _leave_out_halves(pairs.A, pairs.B)
    return pairs


class SideBySide:
    """A transform of images that hold A on the left and B on the right: what it does, it does to each half.

    It stands in for a :class:`Transform` where a folder's images are opened; the crop comes later, to the halves.
    """

    wanted = "images with A and B side by side"

    def __init__(self, transform: Transform):
        self.transform, self.preprocess = transform, transform.preprocess

    def resized(self, width: int, height: int) -> tuple[int, int]:
        half, height = self.transform.resized(width // 2, height)
        return 2 * half, height

    def check(self, width: int, height: int, name: str) -> None:
        if width % 2:
            raise ValueError(f"{name} is {width} pixels wide: A and B side by side are equally wide")
        self.transform.check(width // 2, height, f"each half of {name}")

    def resize(self, pixels: np.ndarray) -> np.ndarray:
        return np.concatenate([self.transform.resize(half) for half in np.split(pixels, 2, axis=1)], axis=1)


class Half:
    """A :class:`Source` of the left (0) or right (1) halves of images side by side."""

    def __init__(self, whole: ImageFolder, side: int, channels: int):
        self.whole, self.side, self.channels = whole, side, channels
        self.sizes = [(width // 2, height) for width, height in whole.sizes]

    def __len__(self) -> int:
        return len(self.whole)

    def path(self, index: int) -> str:
        return self.whole.path(index)

    def load(self, index: int) -> Tensor:
        pixels = self.whole.load(index)
        width = pixels.shape[1] // 2
        half = pixels[:, self.side * width : (self.side + 1) * width]
        return half if self.channels == half.shape[2] else torch.from_numpy(convert(half.numpy(), self.channels))


def _domains(options: DataOptions) -> str:
    return "AB" if options.direction == "AtoB" else "BA"


def _built_in(
    options: DataOptions, split: str, transform: Transform, limit: int | None, paired: bool
) -> list[shapes.Scenes]:
    count = shapes.TRAIN_SCENES if split == "train" else shapes.TEST_SCENES
    size = shapes.size_for(transform)
    transform.check(size, size, "the built-in set")
    return [
        shapes.Scenes(domain, split, count=min(count, limit or count), size=size, channels=channels, paired=paired)
        for domain, channels in zip(_domains(options), options.pair_channels)
    ]


def _check_equal_sizes(options: DataOptions, transform: Transform, *sources: Source) -> None:
    for source in sources:
        seen = {transform.result(*size): index for index, size in reversed(list(enumerate(source.sizes)))}
        if len(seen) > 1:
            (one, at_one), (other, at_other) = list(seen.items())[-2:]
            raise ValueError(
                f"--batch-size {options.batch_size} needs images of one size, but {source.path(at_one)} "
                f"comes out as {one[0]}x{one[1]} and {source.path(at_other)} as {other[0]}x{other[1]}: "
                "give --batch-size 1, or a --preprocess that crops"
            )


def _leave_out_halves(A: ImageFolder, B: ImageFolder) -> None:
    """Keep the images whose partner was readable too, so that equal indices are pairs."""
    a, b = _stems(A.names), _stems(B.names)
    whole = set(a) & set(b)
    if not whole:
        raise ValueError(f"{A.folder} and {B.folder} hold pairs by name, but of every pair one image is broken")
    for source, stems in ((A, a), (B, b)):
        source.keep(index for index, stem in enumerate(stems) if stem in whole)


def _stems(names: list[str]) -> list[str]:
    return [str(Path(name).with_suffix("")) for name in names]
