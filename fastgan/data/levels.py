"""Numbers of any kind to the 8 or 16 bits that pixels have here, and what to tell of it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np

from .bounds import by_rows

MOST = 65535


class Span(NamedTuple):
    """The lowest and the highest number of an image, and their kind, such as "uint16"."""

    kind: str
    low: int
    high: int


def to_levels(numbers: np.ndarray, range: Sequence[float] | None) -> tuple[np.ndarray, Span | None]:
    """(uint8 or uint16 of the same shape, the span of numbers of which a part of the range may be empty).

    uint8 stays as it is. Of other numbers a ``range`` (low, high) becomes 0 to 65535; what lies outside becomes the
    nearer end, NaN 0. Without one, uint16 stays as it is, and int8 and int16 keep all their values: the lowest number
    of the type becomes 0.

    Raises:
        OSError: other numbers, and no range.
    """
    kind = numbers.dtype.name
    if kind == "uint8":
        return numbers, None
    if range is not None:
        low, high = range
        return by_rows(lambda rows: _stretch(rows, low, high), numbers), None
    if kind not in ("int8", "int16", "uint16"):
        raise OSError(
            f"{_what(numbers)}, and no range (--range LOW HIGH of train and translate) says which of them "
            "are black and white"
        )
    span = Span(kind, int(numbers.min()), int(numbers.max()))
    if kind != "uint16":
        unsigned = np.dtype(f"u{kind}")
        numbers = numbers.view(unsigned) ^ unsigned.type(1 << (8 * unsigned.itemsize - 1))
    return numbers, span


def tell_spans(spans: Iterable[Span | None], where: str) -> list[str]:
    """A line for each kind of numbers of which there is something to tell: signed ones, and 16 bits of which less than
    half are used. ``where`` says what they are of, such as "the images in photos"."""
    found: dict[str, tuple[int, int]] = {}
    for span in spans:
        if span is not None:
            low, high = found.get(span.kind, (span.low, span.high))
            found[span.kind] = min(low, span.low), max(high, span.high)
    lines = []
    for kind, (low, high) in sorted(found.items()):
        limits = np.iinfo(kind)
        share = (high - low + 1) / (int(limits.max) - int(limits.min) + 1)
        if kind != "uint16" or share < 0.5:
            remedy = f"; --range {low} {max(high, low + 1)} would use all of it" if share < 1 else ""
            lines.append(
                f"{where} hold {kind} numbers from {low} to {high}, {100 * share:.1f} % of the range from "
                f"black ({limits.min}) to white ({limits.max}){remedy}"
            )
    return lines


def _stretch(numbers: np.ndarray, low: float, high: float) -> np.ndarray:
    levels = (numbers.astype(np.float64) - low) * (MOST / (high - low))
    return np.rint(np.nan_to_num(levels, nan=0.0).clip(0, MOST)).astype(np.uint16)


def _what(numbers: np.ndarray) -> str:
    kind = "floating-point" if numbers.dtype.kind == "f" else numbers.dtype.name
    finite = numbers[np.isfinite(numbers)]
    return f"{kind} numbers from {finite.min():g} to {finite.max():g}" if finite.size else f"{kind} numbers, all NaN"
