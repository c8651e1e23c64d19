"""Opening the data of a recipe by its kind."""

from __future__ import annotations

from collections.abc import Callable

from .dataset import AlignedDataset, LabelledDataset, PairDataset, UnalignedDataset
from .labelled import open_labelled, open_semi_labelled
from .notices import notice
from .options import DataOptions
from .pairs import names_match, open_aligned, open_aligned_test, open_matching_folders, open_unaligned

KINDS: dict[str, Callable[[DataOptions, str, int], UnalignedDataset | AlignedDataset | LabelledDataset]] = {
    "unaligned": open_unaligned,
    "aligned": open_aligned,
    "labelled": open_labelled,
    "semi_labelled": open_semi_labelled,
}


def open_dataset(
    kind: str, options: DataOptions, split: str = "train", seed: int = 0
) -> UnalignedDataset | AlignedDataset | LabelledDataset:
    """The data under ``options.dataroot``, or the built-in set of that kind without it.

    Items by kind, images float32 in [-1, 1]:

    - "unaligned": {"A", "B"} (C, H, W), of folders trainA and trainB (testA, testB), and the paths.
    - "aligned": the same with B the truth for A, of folders train and test of images with A and B side by side.
    - "labelled": {"image" (C, H, W), "label" 0-d int64}, of IDX files or a folder for each class.
    - "semi_labelled": the same and {"labelled_image", "labelled_label"}, drawn from ``options.n_labels`` images,
      equally many of each class; ``label`` is there for measurements. A "test" set is as for "labelled".

    With direction BtoA, what comes as "A" is domain B. A "test" set is not shuffled, mirrored or cropped at random, and
    ``max_dataset_size`` does not shorten it. What is random in an item depends on (seed, epoch, index) alone.

    Raises:
        ValueError: an unknown kind or split, data that is missing or cannot be read, or that contradicts the options.
    """
    if kind not in KINDS:
        raise ValueError(f"there is no kind of data {kind!r}: choose from {', '.join(KINDS)}")
    if split not in ("train", "test"):
        raise ValueError(f"there is no split {split!r}: choose train or test")
    return KINDS[kind](options, split, seed)


def open_pairs(options: DataOptions, kind: str = "unaligned", *, by_name: bool = True) -> PairDataset | None:
    """The test set as true pairs: item i shows the same thing in both domains. None where there are no such pairs.

    The built-in set has them (64), and so have aligned images with a folder test. Unaligned folders count as pairs when
    testA and testB hold files of the same names, suffixes aside. A pair of which one image is broken is left out.

    Args:
        by_name: whether equal names in unaligned folders mean pairs. Files that are numbered have them by chance: where
            this is False, a line says that they could be compared.

    Raises:
        ValueError: there are pairs, and no readable one, or a crop is larger than an image.
    """
    if options.dataroot is None:
        pairs = open_dataset(kind, options, "test")
        assert isinstance(pairs, PairDataset)
        return pairs
    if kind != "unaligned":
        return open_aligned_test(options)
    if by_name:
        return open_matching_folders(options)
    if names_match(options):
        notice(
            f"testA and testB in {options.dataroot} hold files of the same names: if they show the same things, "
            "--eval-pairs 64 compares translations with them"
        )
    return None
