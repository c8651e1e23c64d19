"""Latent codes and classes: paths between two, nearest neighbours, and how a command line names classes."""

from __future__ import annotations

from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import Tensor

from fastgan._errors import UserError
from fastgan.recipes import Generates, LatentRecipe, Recipe

AT_ONCE = 256  # codes that are decoded together


def path(start: Tensor, end: Tensor, steps: int) -> Tensor:
    """(steps + 1, D): start + k (end - start) / steps, k = 0, ..., steps; both ends (D,) exactly. ``steps`` from 1."""
    k = torch.arange(steps + 1, device=start.device)[:, None]
    return torch.where(k == steps, end, start + k * (end - start) / steps)


def mixtures(start: int, end: int, classes: int, steps: int) -> Tensor:
    """Classes for :meth:`LatentRecipe.decode` on the way from one class to another.

    (steps + 1,) int64 where both are the same, else the straight path (steps + 1, classes) between one-hot vectors.
    """
    if start == end:
        return torch.full((steps + 1,), start)
    one, other = F.one_hot(torch.tensor([start, end]), classes).float()
    return path(one, other, steps)


def decode(recipe: Generates, codes: Tensor, labels: Tensor | None = None) -> Iterator[Tensor]:
    """The images (C, S, S) of codes (N, D) one by one, on the CPU; no more than ``AT_ONCE`` are there at a time.

    ``labels`` as for :meth:`LatentRecipe.decode`.

    Raises:
        UserError: an image has pixels that are NaN or infinite.
    """
    for start in range(0, len(codes), AT_ONCE):
        part = slice(start, start + AT_ONCE)
        images = recipe.decode(codes[part], None if labels is None else labels[part]).cpu()
        if not torch.isfinite(images).all():
            raise UserError("the networks make NaN or infinite pixels: their training went wrong")
        yield from images


def nearest(query: Tensor, gallery: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """Distances and indices, both (count,), of the codes of ``gallery`` (N, D) nearest to ``query`` (D,), in order.

    The distance is Euclidean, in float64; of equally near ones the first comes first.
    """
    distances = (gallery.double() - query.double()).square().sum(1).sqrt()
    order = distances.argsort(stable=True)[:count]
    return distances[order], order


def parse_classes(text: str, classes: int) -> list[int]:
    """Classes from "3", "0,2,4" or "0-4,7", each once, in the order given.

    Raises:
        UserError: something else, or a class that is not there.
    """
    found: list[int] = []
    for part in text.split(","):
        first, dash, last = part.strip().partition("-")
        if not first.isdecimal() or (dash and not last.isdecimal()) or (dash and int(last) < int(first)):
            raise UserError(f"{text!r} names no classes: write them as 3, as 0,2,4 or as 0-4")
        low, high = (check_class(int(number), classes) for number in (first, last if dash else first))
        found += range(low, high + 1)
    return list(dict.fromkeys(found))


def check_class(label: int, classes: int) -> int:
    """The class itself; UserError where there is none of that number."""
    if not 0 <= label < classes:
        raise UserError(f"there is no class {label}: classes run from 0 to {classes - 1}")
    return label


def check_latent(recipe: Recipe, command: str) -> LatentRecipe:
    """The recipe itself. Raises UserError for one that has no latent space."""
    if not isinstance(recipe, LatentRecipe):
        raise UserError(
            f"{recipe.name} has no latent codes for {command}: it translates images, which "
            "python -m fastgan.translate does"
        )
    return recipe
