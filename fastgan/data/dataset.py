"""Items of a data set, by a key that fixes all that is random in them.

A key is an index, or (epoch, index); an index alone means epoch 0. All that is random in an item is drawn from a
generator seeded by (seed, epoch, index): an item is the same in every process and at every time.

Every data set says what it is made of: ``classes`` (0: no labels), ``channels``, ``image_size`` (the side of its square
images in pixels, None where they differ) and, in a few words, ``describe()``.
"""

from __future__ import annotations

import operator
import random
from collections.abc import Sequence
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.utils.data import Dataset

from .images import to_tensor
from .transforms import Transform

Key = int | tuple[int, int]


class Source(Protocol):
    """The images of one domain: ``sizes`` are (width, height) before the transform's resize, ``load`` gives its
    (H, W, C) pixels after it, uint8 or uint16."""

    sizes: list[tuple[int, int]]
    channels: int

    def __len__(self) -> int: ...
    def path(self, index: int) -> str: ...
    def load(self, index: int) -> Tensor: ...


class PairDataset(Dataset):
    """Items {"A": (C, H, W) float32 in [-1, 1], "B": likewise, "A_path": str, "B_path": str}.

    ``channels`` is a pair: those of A and of B.
    """

    classes = 0

    def __init__(self, A: Source, B: Source, transform: Transform, *, seed: int = 0):
        self.A, self.B, self.transform, self.seed = A, B, transform, seed
        self.channels = (A.channels, B.channels)
        sides = {side for source in (A, B) for size in source.sizes for side in transform.result(*size)}
        self.image_size = sides.pop() if len(sides) == 1 else None


class UnalignedDataset(PairDataset):
    """A :class:`PairDataset` of images that have nothing to do with each other.

    The length is that of the larger domain; the smaller one is gone through again.

    Args:
        serial: B's image has A's index (modulo its number) instead of a random one.
    """

    def __init__(self, A: Source, B: Source, transform: Transform, *, seed: int = 0, serial: bool = False):
        super().__init__(A, B, transform, seed=seed)
        self.serial = serial

    def __len__(self) -> int:
        return max(len(self.A), len(self.B))

    def __getitem__(self, key: Key) -> dict[str, Any]:
        epoch, index = _split(key, len(self))
        generator = random.Random(f"{self.seed} {epoch} {index}")
        partner = int(generator.random() * len(self.B))
        a, b = index % len(self.A), index % len(self.B) if self.serial else partner
        return {"A": self.transform(self.A.load(a), generator), "B": self.transform(self.B.load(b), generator),
                "A_path": self.A.path(a), "B_path": self.B.path(b)}

    def describe(self) -> str:
        return f"{len(self.A)} + {len(self.B)} images"


class AlignedDataset(PairDataset):
    """A :class:`PairDataset` whose images A and B show the same thing, and are cropped and mirrored alike."""

    def __len__(self) -> int:
        return len(self.A)

    def __getitem__(self, key: Key) -> dict[str, Any]:
        epoch, index = _split(key, len(self))
        A, B = (self.transform(source.load(index), random.Random(f"{self.seed} {epoch} {index}"))
                for source in (self.A, self.B))
        return {"A": A, "B": B, "A_path": self.A.path(index), "B_path": self.B.path(index)}

    def describe(self) -> str:
        return f"{len(self)} pairs"


class LabelledDataset(Dataset):
    """Items {"image": (C, H, W) float32 in [-1, 1], "label": 0-d int64}. Nothing in them is random.

    Args:
        source: images of one size.
        labels: int64 (N,).
        names: of the classes.

    Attributes:
        labels: as given.
        names: what the labels 0, 1, ... stand for; empty where there are no labels, which are then all 0.
    """

    def __init__(self, source: Source, labels: Tensor, names: Sequence[str]):
        self.source, self.labels, self.names = source, labels, tuple(names)
        self.classes, self.channels = len(self.names), source.channels
        height, width, _ = source.load(0).shape
        self.image_size = height if height == width else None

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, key: Key) -> dict[str, Any]:
        return self._item(*_split(key, len(self)))

    def _item(self, epoch: int, index: int) -> dict[str, Any]:
        return {"image": to_tensor(self.source.load(index)), "label": self.labels[index]}

    def images(self, start: int = 0, stop: int | None = None) -> Tensor:
        """The images from ``start`` to ``stop`` as one (N, C, H, W) float32 tensor in [-1, 1]."""
        return torch.stack([to_tensor(self.source.load(index)) for index in range(len(self))[start:stop]])

    def describe(self) -> str:
        height, width, _ = self.source.load(0).shape
        kinds = f" of {self.classes} classes" if self.classes else ""
        plural = "s" if self.channels > 1 else ""
        return f"{len(self)} images{kinds}, {width}x{height}, {self.channels} channel{plural}"


class SemiLabelledDataset(LabelledDataset):
    """A :class:`LabelledDataset` with a labelled image beside each item: {..., "labelled_image", "labelled_label"}.

    The labelled images come from a subset of ``n_labels`` items, equally many of each class (one more of the first
    classes where it does not divide), that depends on the seed alone. ``label``, which the subset's owner would not
    know, is there for measurements.

    Attributes:
        labelled: the indices of the subset, ascending.

    Raises:
        ValueError: there are no classes, fewer labels than classes, or a class with too few items.
    """

    def __init__(self, source: Source, labels: Tensor, names: Sequence[str], *, n_labels: int, seed: int = 0):
        super().__init__(source, labels, names)
        self.seed, self.labelled = seed, _balanced(labels, self.names, n_labels, seed)

    def _item(self, epoch: int, index: int) -> dict[str, Any]:
        labelled = self.labelled[int(random.Random(f"{self.seed} {epoch} {index}").random() * len(self.labelled))]
        known = super()._item(epoch, labelled)
        return {**super()._item(epoch, index), "labelled_image": known["image"], "labelled_label": known["label"]}

    def describe(self) -> str:
        return f"{super().describe()}, {len(self.labelled)} of them labelled"


def _split(key: Key, length: int) -> tuple[int, int]:
    """(epoch, index) of a key."""
    epoch, index = (operator.index(part) for part in (key if isinstance(key, tuple) else (0, key)))
    if not 0 <= index < length:
        raise IndexError(f"index {index} of a set of {length} items")
    return epoch, index


def _balanced(labels: Tensor, names: Sequence[str], n_labels: int, seed: int) -> list[int]:
    if not names:
        raise ValueError("semi-supervised training needs images with labels, and these have none: "
                         "give IDX files with labels, or a folder with a sub-folder for each class")
    if n_labels < len(names):
        raise ValueError(f"--n-labels is {n_labels}: with {len(names)} classes it must be {len(names)} or more")
    generator = random.Random(f"{seed} labels")
    chosen = []
    for label, name in enumerate(names):
        wanted = n_labels // len(names) + (label < n_labels % len(names))
        items = (labels == label).nonzero().flatten().tolist()
        if len(items) < wanted:
            raise ValueError(f"--n-labels is {n_labels}, {wanted} of each class, but class {name} has {len(items)} "
                             "images")
        chosen += sorted(items, key=lambda item: generator.random())[:wanted]
    return sorted(chosen)
