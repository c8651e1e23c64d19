"""How good a translation is, where the true one is known: L1 to the truth, beside two baselines that learn no shapes.

All figures are mean absolute errors on the [0, 1] scale of image values, over all pixels and channels of all pairs. The
identity leaves an image as it is. The colour map is, for each channel, an affine map a x + b of that channel, clamped
to [0, 1], fitted on the very truth it is compared with.
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

SCALE = "mean absolute error, image values in [0, 1]"
LEVELS = 256
STEEPEST = LEVELS - 1.0  # from one level to the next all the way from black to white
_GOLDEN = (5**0.5 - 1) / 2


def evaluate(
    translate: Callable[[Tensor, str], Tensor],
    pairs: Sequence[Mapping[str, Any]],
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
        {"scale": what the figures mean, "pairs": their number, direction: {"translation", "identity", "affine",
        "affine_fit" ("least squares" or "least absolute deviations", whichever came out lower)}}. Where the domains
        differ in their channels, identity and affine are None.
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
            **_best_colour_map(fit, pairs, chosen, source, target),
        }
    return result


def report(result: Mapping[str, Any]) -> str:
    """The result as a small table."""
    directions = [name for name, value in result.items() if isinstance(value, dict)]
    rows = [("", "translation", "identity", "best colour map")]
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
    """Per-channel affine maps from pairs of images, fitted on the joint histogram of their values at 256 levels."""

    def __init__(self) -> None:
        self.counts: Tensor | None = None  # (C, LEVELS of the input, LEVELS of the truth), float64

    def add(self, image: Tensor, truth: Tensor) -> None:
        """Count a pair of images (C, H, W) in [0, 1]."""
        channels = image.shape[0]
        x, y = (torch.round(value.flatten(1).double().clamp(0, 1) * (LEVELS - 1)).long() for value in (image, truth))
        bins = (torch.arange(channels)[:, None] * LEVELS + x) * LEVELS + y
        counts = torch.bincount(bins.flatten(), minlength=channels * LEVELS**2).double()
        counts = counts.reshape(channels, LEVELS, LEVELS)
        self.counts = counts if self.counts is None else self.counts + counts

    def least_squares(self) -> Tensor:
        """(C, 2): slope and offset of each channel that minimise the mean squared error."""
        return torch.stack([_weighted_line(*_points(counts)) for counts in self.counts])

    def least_absolute_deviations(self) -> Tensor:
        """(C, 2): slope and offset of each channel that minimise the mean absolute error before clamping."""
        return torch.stack([_least_absolute_line(*_points(counts)) for counts in self.counts])


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


def _best_colour_map(
    fit: ColourFit, pairs: Sequence[Mapping[str, Any]], chosen: Sequence[int], source: str, target: str
) -> dict[str, Any]:
    if fit.counts is None:
        return {"affine": None, "affine_fit": None}
    candidates = {"least squares": fit.least_squares(), "least absolute deviations": fit.least_absolute_deviations()}
    errors = {name: _Mean() for name in candidates}
    for index in chosen:
        pair = pairs[index]
        image, truth = _unit(pair[source]), _unit(pair[target])
        for name, line in candidates.items():
            mapped = image * line[:, 0, None, None] + line[:, 1, None, None]
            errors[name].add(mapped.clamp(0, 1) - truth)
    best = min(errors, key=lambda name: errors[name].value())
    return {"affine": errors[best].value(), "affine_fit": best}


def _points(counts: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """(x, y, weight) of the occupied bins of one channel."""
    x, y = counts.nonzero(as_tuple=True)
    return x.double() / (LEVELS - 1), y.double() / (LEVELS - 1), counts[x, y]


def _weighted_line(x: Tensor, y: Tensor, weight: Tensor) -> Tensor:
    total = weight.sum()
    mean_x, mean_y = (weight * x).sum() / total, (weight * y).sum() / total
    variance = (weight * (x - mean_x) ** 2).sum()
    slope = (weight * (x - mean_x) * (y - mean_y)).sum() / variance if variance > 1e-12 * total else 0 * total
    return torch.stack([slope, mean_y - slope * mean_x])


def _least_absolute_line(x: Tensor, y: Tensor, weight: Tensor) -> Tensor:
    """The error, minimised over the offset (a weighted median), is convex in the slope: golden section finds it."""

    def at(slope: float) -> tuple[float, Tensor]:
        offset = _weighted_median(y - slope * x, weight)
        return (weight * (slope * x + offset - y).abs()).sum().item(), offset

    low, high = -STEEPEST, STEEPEST
    left, right = high - _GOLDEN * (high - low), low + _GOLDEN * (high - low)
    at_left, at_right = at(left)[0], at(right)[0]
    while high - low > 1e-8:
        if at_left <= at_right:
            high, right, at_right = right, left, at_left
            left = high - _GOLDEN * (high - low)
            at_left = at(left)[0]
        else:
            low, left, at_left = left, right, at_right
            right = low + _GOLDEN * (high - low)
            at_right = at(right)[0]
    slope = (low + high) / 2
    return torch.stack([torch.tensor(slope, dtype=x.dtype), at(slope)[1]])


def _weighted_median(values: Tensor, weight: Tensor) -> Tensor:
    order = values.argsort()
    cumulated = weight[order].cumsum(0)
    return values[order][torch.searchsorted(cumulated, cumulated[-1] / 2)]


def _unit(image: Tensor) -> Tensor:
    return (image.double() + 1) / 2


def _figure(value: float | None) -> str:
    return "-" if value is None else f"{value:.4f}"
