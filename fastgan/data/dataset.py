"""Items made of an image of each of two domains, by a key that fixes all that is random in them."""

from __future__ import annotations

import operator
import random
from typing import Any, Protocol

from torch import Tensor
from torch.utils.data import Dataset

from .transforms import Transform

Key = int | tuple[int, int]


class Source(Protocol):
    """The images of one domain: ``sizes`` are (width, height) before the transform's resize, ``load`` gives uint8
    (H, W, C) after it."""

    sizes: list[tuple[int, int]]

    def __len__(self) -> int: ...
    def path(self, index: int) -> str: ...
    def load(self, index: int) -> Tensor: ...


class UnalignedDataset(Dataset):
    """Items {"A": (C, H, W) float32 in [-1, 1], "B": likewise, "A_path": str, "B_path": str}.

    A key is an index, or (epoch, index). All that is random in an item, which is B's image, crops and flips, is drawn
    from a generator seeded by (seed, epoch, index): an item is the same in every process and at every time. An index
    alone means epoch 0. The length is that of the larger domain; the smaller one is gone through again.

    Args:
        serial: B's image has A's index (modulo its number) instead of a random one.
    """

    def __init__(self, A: Source, B: Source, transform: Transform, *, seed: int = 0, serial: bool = False):
        self.A, self.B, self.transform, self.seed, self.serial = A, B, transform, seed, serial

    def __len__(self) -> int:
        return max(len(self.A), len(self.B))

    def __getitem__(self, key: Key) -> dict[str, Any]:
        epoch, index = (operator.index(part) for part in (key if isinstance(key, tuple) else (0, key)))
        if not 0 <= index < len(self):
            raise IndexError(f"index {index} of a set of {len(self)} items")
        generator = random.Random(f"{self.seed} {epoch} {index}")
        partner = int(generator.random() * len(self.B))
        a, b = index % len(self.A), index % len(self.B) if self.serial else partner
        return {"A": self.transform(self.A.load(a), generator), "B": self.transform(self.B.load(b), generator),
                "A_path": self.A.path(a), "B_path": self.B.path(b)}
