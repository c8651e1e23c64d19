"""Opening two domains with no pairing between them, as training data; and their pairs, where a test set has such."""

from __future__ import annotations

from pathlib import Path

from . import synthetic
from .dataset import Source, UnalignedDataset
from .folders import ImageFolder, find_images
from .options import DataOptions
from .transforms import Transform


def open_unaligned(options: DataOptions, split: str = "train", seed: int = 0) -> UnalignedDataset:
    """The folders trainA and trainB (testA and testB) under ``options.dataroot``, or the built-in set without it.

    With direction BtoA, what comes as "A" is from the folder B. A "test" set is not shuffled, flipped or cropped at
    random, and ``max_dataset_size`` does not shorten it.

    Raises:
        ValueError: a folder is missing or empty or holds no readable image, a crop is larger than an image, or images
            of different sizes would have to share a batch.
    """
    if split not in ("train", "test"):
        raise ValueError(f"there is no split {split!r}: choose train or test")
    transform = Transform.of(options, split)
    limit = options.max_dataset_size if split == "train" else None
    A, B = (_source(options, split, domain, channels, transform, limit)
            for domain, channels in zip(_domains(options), (options.input_nc, options.output_nc)))
    if split == "train" and options.batch_size > 1:
        _check_equal_sizes(options, transform, A, B)
    return UnalignedDataset(A, B, transform, seed=seed, serial=options.serial_batches or split == "test")


def open_pairs(options: DataOptions) -> UnalignedDataset | None:
    """The test set as true pairs: item i shows the same thing in both domains. None where there are no such pairs.

    The built-in set has them (64). Folders count as pairs when testA and testB hold files of the same names, suffixes
    aside. A pair of which one image is broken is left out.

    Raises:
        ValueError: there are pairs, and no readable one, or a crop is larger than an image.
    """
    if options.dataroot is None:
        return open_unaligned(options, "test")
    folders = [Path(options.dataroot) / f"test{domain}" for domain in "AB"]
    if not all(folder.is_dir() for folder in folders):
        return None
    try:
        names = [_stems(find_images(folder)) for folder in folders]
    except ValueError:  # an empty test folder holds no pairs, and is no reason to stop
        return None
    if names[0] != names[1]:
        return None
    pairs = open_unaligned(options, "test")
    _leave_out_halves(pairs.A, pairs.B)
    return pairs


def _domains(options: DataOptions) -> str:
    return "AB" if options.direction == "AtoB" else "BA"


def _source(options: DataOptions, split: str, domain: str, channels: int, transform: Transform,
            limit: int | None) -> Source:
    if options.dataroot is None:
        count = synthetic.TRAIN_SCENES if split == "train" else synthetic.TEST_SCENES
        size = synthetic.size_for(transform)
        source = synthetic.Scenes(domain, split, count=min(count, limit or count), size=size, channels=channels)
        transform.check(size, size, "the built-in set")
        return source
    root = Path(options.dataroot)
    if not root.is_dir():
        state = "not a folder" if root.exists() else "missing"
        raise ValueError(f"--dataroot {root} is {state}: it should hold the folders trainA and trainB")
    return ImageFolder(root / f"{split}{domain}", transform, channels=channels, limit=limit,
                       substitute=split == "train")


def _check_equal_sizes(options: DataOptions, transform: Transform, *sources: Source) -> None:
    for source in sources:
        seen = {transform.result(*size): index for index, size in reversed(list(enumerate(source.sizes)))}
        if len(seen) > 1:
            (one, at_one), (other, at_other) = list(seen.items())[-2:]
            raise ValueError(f"--batch-size {options.batch_size} needs images of one size, but {source.path(at_one)} "
                             f"comes out as {one[0]}x{one[1]} and {source.path(at_other)} as {other[0]}x{other[1]}: "
                             "give --batch-size 1, or a --preprocess that crops")


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
