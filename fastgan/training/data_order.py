"""The order of the data: which items make up which batch, from the first epoch to the last."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Protocol

import torch

Key = tuple[int, int]  # (epoch, index): what a data set needs to draw an item's crop, flip and partner


class Indexed(Protocol):
    """Items by their index."""

    def __len__(self) -> int: ...
    def __getitem__(self, key: int, /) -> Mapping[str, Any]: ...


class Items(Protocol):
    """A data set that a run can be trained on."""

    @property
    def fingerprint(self) -> str | None:
        """What tells this data from other data; None where nothing does."""

    def __len__(self) -> int: ...
    def __getitem__(self, key: Key, /) -> Mapping[str, Any]: ...


def epoch_order(length: int, seed: int, epoch: int, shuffle: bool) -> list[int]:
    """The indices of one epoch: a permutation that depends on (seed, epoch) alone; without ``shuffle`` 0, 1, 2, ..."""
    if not shuffle:
        return list(range(length))
    generator = torch.Generator().manual_seed((seed * 0x9E3779B97F4A7C15 + epoch) % 2**63)
    return torch.randperm(length, generator=generator).tolist()


class BatchKeys:
    """Batches of keys, epoch after epoch, from any position on; no batch crosses the end of an epoch.

    The same batches come at every iteration. One object serves all epochs: workers live on, and load ahead over the
    end of an epoch.

    Args:
        length: items in the data set.
        epoch: the epoch to begin with.
        position: items of that epoch that are already done.
        epochs: how many epochs there are in all; None for no end.
        drop_last: whether an epoch leaves out what does not fill a batch.
    """

    def __init__(
        self,
        length: int,
        batch_size: int,
        seed: int,
        *,
        shuffle: bool = True,
        epoch: int = 0,
        position: int = 0,
        epochs: int | None = None,
        drop_last: bool = False,
    ):
        self.length, self.batch_size, self.seed, self.shuffle = length, batch_size, seed, shuffle
        self.epoch, self.position, self.epochs = epoch, position, epochs
        self.used = length - length % batch_size if drop_last else length

    def __iter__(self) -> Iterator[list[Key]]:
        epoch, position = self.epoch, self.position
        while self.epochs is None or epoch < self.epochs:
            order = epoch_order(self.length, self.seed, epoch, self.shuffle)
            for start in range(position, self.used, self.batch_size):
                yield [(epoch, index) for index in order[start : min(start + self.batch_size, self.used)]]
            epoch, position = epoch + 1, 0
