"""What a finished run is measured by, on data that it was not trained on: it depends on what the recipe can do."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Protocol

import torch
from torch import Tensor

from fastgan.evaluation import translation_error
from fastgan.recipes import Classifies, Recipe, Reconstructs, Translates

BATCH = 250


class Items(Protocol):
    """Test images: pairs, or labelled ones."""

    @property
    def classes(self) -> int:
        """How many there are; 0 without labels."""

    def __len__(self) -> int: ...
    def __getitem__(self, index: int, /) -> Mapping[str, Any]: ...


def measure(recipe: Recipe, test: Items, limit: int) -> tuple[dict[str, Any], str] | None:
    """(figures for metrics.json, the same for a person) of a recipe on its device; None where there is nothing to tell.

    A recipe that translates is compared with the truth of ``test``, which are pairs then, in each of its directions. Of
    a recipe that classifies, the accuracy is measured on labelled images, and of one that encodes, how well the images
    are reconstructed from their mean codes.

    Args:
        test: pairs, or labelled images, as :func:`fastgan.data.open_dataset` gives them.
        limit: look only at so many of them, evenly spaced.
    """
    if isinstance(recipe, Translates) and recipe.directions:
        weight = next(next(iter(recipe.networks.values())).parameters())
        translate = recipe.translate
        result = translation_error.evaluate(
            lambda images, direction: translate(images.to(weight), direction),
            test,
            directions=recipe.directions,
            limit=limit,
        )
        return result, translation_error.report(result)
    figures: dict[str, Any] = {}
    lines = []
    count = min(limit, len(test))
    if isinstance(recipe, Classifies) and test.classes:
        figures["accuracy"] = accuracy(recipe, test, count)
        lines.append(f"accuracy {100 * figures['accuracy']:.2f} % on {count} test images")
    if isinstance(recipe, Reconstructs) and recipe.encodes:
        figures["reconstruction_mse"] = reconstruction_mse(recipe, test, count)
        lines.append(
            f"mean squared error of reconstructions {figures['reconstruction_mse']:.4f} on {count} test "
            "images (from mean codes, image values in [0, 1])"
        )
    return ({"images": count, **figures}, "\n".join(lines)) if figures else None


def accuracy(recipe: Classifies, test: Items, count: int) -> float:
    """The part of ``count`` test images whose class ``recipe.classify`` names."""
    right = sum(
        (recipe.classify(images).argmax(1).cpu() == labels).sum().item() for images, labels in _batches(test, count)
    )
    return right / count


def reconstruction_mse(recipe: Reconstructs, test: Items, count: int) -> float:
    """Mean squared error on the [0, 1] scale between ``count`` test images and what comes back of their mean codes."""
    total, elements = 0.0, 0
    for images, labels in _batches(test, count):
        told = labels if recipe.classes else None
        rebuilt = recipe.decode(recipe.encode(images, told), told).cpu()
        total += ((rebuilt.double() - images) / 2).square().sum().item()
        elements += images.numel()
    return total / elements


def _batches(test: Items, count: int) -> Iterator[tuple[Tensor, Tensor]]:
    chosen = [index * len(test) // count for index in range(count)]
    for start in range(0, count, BATCH):
        items = [test[index] for index in chosen[start : start + BATCH]]
        yield torch.stack([item["image"] for item in items]), torch.stack([item["label"] for item in items])
