"""Items of a data set, by a key that fixes all that is random in them.

A key is an index, or (epoch, index); an index alone means epoch 0. All that is random in an item is drawn from a
generator seeded by (seed, epoch, index): an item is the same in every process and at every time.

Every data set says what it is made of: ``classes`` (0: no labels), ``channels``, ``image_size`` (the side of its square
images in pixels, None where they differ) and, in a few words, ``describe()``.
"""

from __future__ import annotations

import functools
import operator
import random
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.utils.data import Dataset

from .fingerprint import fingerprint
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


@dataclass(frozen=True)
class Pick:
    """An image of an item: which one of a source, and the generator that says what is done to it; None for nothing."""

    source: Source
    index: int
    generator: random.Random | None = None


class ImageDataset(Dataset, ABC):
    """Items of images that are picked, cut out and turned (``picks``), and of what there is to say about them.

    ``transform`` does to an image what its pick's generator says; ``sources`` are all that images are picked from.
    """

    transform: Transform | None = None
    sources: tuple[Source, ...]

    @functools.cached_property
    def fingerprint(self) -> str:
        """What tells this data from other data, see :func:`fastgan.data.fingerprint.fingerprint`."""
        return fingerprint(self)

    def sizes(self) -> Iterator[tuple[str, int, int]]:
        """(path, width, height) of every image, upright, before anything is done to it; nothing is decoded.

        A file that holds A and B side by side comes twice, as an image of A and as one of B.
        """
        for source in self.sources:
            for index, size in enumerate(source.sizes):
                yield source.path(index), *size

    @abstractmethod
    def __len__(self) -> int: ...

    @abstractmethod
    def picks(self, key: Key) -> dict[str, Pick]:
        """The images of an item, by name. Their generators are to be used in this order, and once."""

    @abstractmethod
    def about(self, picks: dict[str, Pick]) -> dict[str, Any]:
        """What an item holds beside its images."""

    def __getitem__(self, key: Key) -> dict[str, Any]:
        picks = self.picks(key)
        return {name: self._image(pick) for name, pick in picks.items()} | self.about(picks)

    def _image(self, pick: Pick) -> Tensor:
        pixels = pick.source.load(pick.index)
        if self.transform is None or pick.generator is None:
            return to_tensor(pixels)
        return self.transform(pixels, pick.generator)


class PairDataset(ImageDataset):
    """Items {"A": (C, H, W) float32 in [-1, 1], "B": likewise, "A_path": str, "B_path": str}.

    ``channels`` is a pair: those of A and of B.
    """

    classes = 0

    def __init__(self, A: Source, B: Source, transform: Transform, *, seed: int = 0):
        self.A, self.B, self.transform, self.seed = A, B, transform, seed
        self.sources, self.channels = (A, B), (A.channels, B.channels)
        sides = {side for source in (A, B) for size in source.sizes for side in transform.result(*size)}
        self.image_size = sides.pop() if len(sides) == 1 else None

    def about(self, picks: dict[str, Pick]) -> dict[str, Any]:
        return {f"{name}_path": pick.source.path(pick.index) for name, pick in picks.items()}


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

    def picks(self, key: Key) -> dict[str, Pick]:
        epoch, index = _split(key, len(self))
        generator = random.Random(f"{self.seed} {epoch} {index}")
        partner = int(generator.random() * len(self.B))
        a, b = index % len(self.A), index % len(self.B) if self.serial else partner
        return {"A": Pick(self.A, a, generator), "B": Pick(self.B, b, generator)}

    def describe(self) -> str:
        return f"{len(self.A)} + {len(self.B)} images"


class AlignedDataset(PairDataset):
    """A :class:`PairDataset` whose images A and B show the same thing, and are cropped and mirrored alike."""

    def __len__(self) -> int:
        return len(self.A)

    def picks(self, key: Key) -> dict[str, Pick]:
        epoch, index = _split(key, len(self))
        return {
            name: Pick(source, index, random.Random(f"{self.seed} {epoch} {index}"))
            for name, source in (("A", self.A), ("B", self.B))
        }

    def describe(self) -> str:
        return f"{len(self)} pairs"


class LabelledDataset(ImageDataset):
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
        self.source, self.sources, self.labels, self.names = source, (source,), labels, tuple(names)
        self.classes, self.channels = len(self.names), source.channels
        height, width, _ = source.load(0).shape
        self.image_size = height if height == width else None

    def __len__(self) -> int:
        return len(self.labels)

    def picks(self, key: Key) -> dict[str, Pick]:
        return {"image": Pick(self.source, _split(key, len(self))[1])}

    def about(self, picks: dict[str, Pick]) -> dict[str, Any]:
        return {name.replace("image", "label"): self.labels[pick.index] for name, pick in picks.items()}

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

    def picks(self, key: Key) -> dict[str, Pick]:
        epoch, index = _split(key, len(self))
        drawn = random.Random(f"{self.seed} {epoch} {index}").random()
        labelled = self.labelled[int(drawn * len(self.labelled))]
        return {**super().picks(key), "labelled_image": Pick(self.source, labelled)}

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
        raise ValueError(
            "semi-supervised training needs images with labels, and these have none: "
            "give IDX files with labels, or a folder with a sub-folder for each class"
        )
    there = [label for label in range(len(names)) if (labels == label).any()]
    if n_labels < len(there):
        raise ValueError(f"--n-labels is {n_labels}: with {len(there)} classes it must be {len(there)} or more")
    generator = random.Random(f"{seed} labels")
    chosen = []
    for place, label in enumerate(there):
        wanted = n_labels // len(there) + (place < n_labels % len(there))
        items = (labels == label).nonzero().flatten().tolist()
        if len(items) < wanted:
            raise ValueError(
                f"--n-labels is {n_labels}, {wanted} of each class, but class {names[label]} has {len(items)} images"
            )
        chosen += sorted(items, key=lambda item: generator.random())[:wanted]
    return sorted(chosen)
