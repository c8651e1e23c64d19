"""Sample grids: the same images of the data, at every stage of a run, as a picture."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from PIL.Image import Image
from torch import Tensor
from torch.utils.data import default_collate

from fastgan._files import write_atomically
from fastgan.recipes import Batch, Recipe
from fastgan.training.data_order import Indexed


def fixed_batch(dataset: Indexed, count: int) -> dict[str, Any]:
    """A batch of ``count`` items spread over the data set, the same at every call. Items of another size than the first
    cannot be batched with it and are left out."""
    count = min(count, len(dataset))
    items = [dataset[index * len(dataset) // count] for index in range(count)]
    return default_collate([item for item in items if _shapes(item) == _shapes(items[0])])


def _shapes(item: Mapping[str, Any]) -> dict[str, tuple[int, ...]]:
    return {name: tuple(value.shape) for name, value in item.items() if isinstance(value, Tensor)}


class SampleGrids:
    """Writes ``samples/step_000500.png``: a row per item, a column per image that the recipe makes of it.

    Args:
        recipe: its ``sample`` gives the columns, by name.
        batch: on the recipe's device already.
        draw: (rows of images (C, H, W) in [-1, 1], columns=their names) -> a picture.
    """

    def __init__(self, recipe: Recipe, batch: Batch, folder: Path, draw: Callable[..., Image]):
        self._recipe, self._batch, self._folder, self._draw = recipe, batch, folder, draw

    def path(self, step: int) -> Path:
        return self._folder / f"step_{step:06}.png"

    def write(self, step: int) -> None:
        """Write the grid of this moment, into a folder that is made where it is missing."""
        columns = self._recipe.sample(self._batch)
        picture = self._draw(list(zip(*columns.values())), columns=list(columns))
        self._folder.mkdir(parents=True, exist_ok=True)
        write_atomically(self.path(step), lambda temporary: picture.save(temporary, format="PNG"))
