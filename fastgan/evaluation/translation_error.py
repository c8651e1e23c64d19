"""How good a translation is, where the true one is known: L1 to the truth, beside two baselines that learn no shapes.

All figures are mean absolute errors on the [0, 1] scale of image values, over all pixels and channels of all pairs. The
identity leaves an image as it is. The colour map is, for each channel, an affine map a x + b of that channel, clamped
to [0, 1], fitted by least squares on the very truth it is compared with.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from fastgan._files import write_atomically
from fastgan.training.data_order import Indexed

SCALE = "mean absolute error, image values in [0, 1]"


def evaluate(
    translate: Callable[[Tensor, str], Tensor],
    pairs: Indexed,
    *,
    directions: Sequence[str] = ("AtoB", "BtoA"),
    limit: int | None = None,
) -> dict[str, Any]:
    """Measure both directions on true pairs.

    Args:
        translate: (images (1, C, H, W) in [-1, 1], direction) -> their translations, same form, on any device.
        pairs: items with "A" and "B", (C, H, W) in [-1, 1]: the same thing in both domains. Read twice.
        limit: look only at so many of them, evenly spaced.

    Returns:
        {"scale": what the figures mean, "pairs": their number, direction: {"translation", "identity",
        "affine"}}. Where the domains differ in their channels, identity and affine are None.
    """
    if len(pairs) == 0:
        raise ValueError("an evaluation needs at least one pair of images")
    count = len(pairs) if limit is None else min(limit, len(pairs))
    chosen = [index * len(pairs) // count for index in range(count)]
    result: dict[str, Any] = {"scale": SCALE, "pairs": count}
    for direction in directions:
        source, target = direction.split("to")
        error, identity, fit = _Mean(), _Mean(), ColourFit()
        for index in chosen:
            pair = pairs[index]
            image, truth = pair[source], pair[target]
            error.add(_unit(translate(image[None], direction)[0].float().cpu()) - _unit(truth))
            if image.shape == truth.shape:
                identity.add(_unit(image) - _unit(truth))
                fit.add(_unit(image), _unit(truth))
        result[direction] = {
            "translation": error.value(),
            "identity": identity.value(),
            "affine": _error_of_colour_map(fit, pairs, chosen, source, target),
        }
    return result


def report(result: Mapping[str, Any]) -> str:
    """The result as a small table."""
    directions = [name for name, value in result.items() if isinstance(value, dict)]
    rows: list[tuple[str, ...]] = [("", "translation", "identity", "colour map")]
    for name in directions:
        figures = result[name]
        rows.append((name, *(_figure(figures[key]) for key in ("translation", "identity", "affine"))))
    widths = [max(len(row[column]) for row in rows) for column in range(4)]
    table = "\n".join("  " + "  ".join(cell.rjust(width) for cell, width in zip(row, widths)) for row in rows)
    return f"distance to the truth over {result['pairs']} held-out pairs ({result['scale']}):\n{table}"


def write_metrics(path: Path, result: Mapping[str, Any]) -> None:
    """Write the result as JSON, atomically."""
    text = json.dumps(result, indent=2) + "\n"
    write_atomically(path, lambda temporary: temporary.write_text(text, encoding="utf-8"))


class ColourFit:
    """The affine map of each channel that minimises the mean squared error over all pixels of the pairs added."""

    def __init__(self) -> None:
        self.sums: Tensor | None = None  # (5, C) float64: of 1, x, y, x x and x y

    def add(self, image: Tensor, truth: Tensor) -> None:
        """Count a pair of images (C, H, W) in [0, 1]."""
        x, y = image.flatten(1).double(), truth.flatten(1).double()
        sums = torch.stack([each.sum(1) for each in (torch.ones_like(x), x, y, x * x, x * y)])
        self.sums = sums if self.sums is None else self.sums + sums

    def lines(self) -> Tensor:
        """(C, 2): slope and offset of each channel; slope 0 where the images are constant."""
        if self.sums is None:
            raise ValueError("a colour map is fitted to at least one pair of images")
        count, x, y, xx, xy = self.sums
        variance, covariance = xx / count - (x / count) ** 2, xy / count - x * y / count**2
        slope = torch.where(variance > 1e-12, covariance / variance, 0.0)
        return torch.stack([slope, (y - slope * x) / count], 1)


@dataclass
class _Mean:
    """The mean absolute value of all elements added."""

    total: float = 0.0
    count: int = 0

    def add(self, difference: Tensor) -> None:
        self.total += difference.double().abs().sum().item()
        self.count += difference.numel()

    def value(self) -> float | None:
        return self.total / self.count if self.count else None


def _error_of_colour_map(
    fit: ColourFit, pairs: Indexed, chosen: Sequence[int], source: str, target: str
) -> float | None:
    if fit.sums is None:
        return None
    slope, offset = fit.lines()[:, :, None, None].unbind(1)
    error = _Mean()
    for index in chosen:
        image, truth = _unit(pairs[index][source]), _unit(pairs[index][target])
        error.add((slope * image + offset).clamp(0, 1) - truth)
    return error.value()


def _unit(image: Tensor) -> Tensor:
    return (image.double() + 1) / 2


def _figure(value: float | None) -> str:
    return "-" if value is None else f"{value:.4f}"
