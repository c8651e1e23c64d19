"""The built-in labelled set: the digits 0 to 9 written by hand, so to say, white on black.

A digit is a few strokes: curves through control points (Catmull-Rom splines), which are linear in the points. What
varies from glyph to glyph is each control point, the slant, width and height, the place, the thickness of the pen, the
brightness of the ink and the noise. A pixel is covered by its exact distance to the strokes, so edges are anti-aliased.

All is drawn from ``numpy.random.RandomState``, whose sequence numpy keeps for good.
"""

from __future__ import annotations

import numpy as np

CLASSES = 10
SIZE = 28
TRAIN_GLYPHS = 10_000
TEST_GLYPHS = 1_000

# Control points in a box of width and height 1, x to the right and y downwards, and the strokes through them. A stroke
# that ends where it begins is closed; a corner is where two strokes meet.
_POINTS = (
    ((0.50, 0.02), (0.80, 0.22), (0.84, 0.62), (0.50, 0.98), (0.17, 0.70), (0.18, 0.28)),
    ((0.28, 0.26), (0.54, 0.02), (0.54, 0.98)),
    ((0.17, 0.28), (0.42, 0.03), (0.80, 0.20), (0.66, 0.55), (0.15, 0.96), (0.87, 0.95)),
    ((0.18, 0.14), (0.52, 0.02), (0.78, 0.22), (0.44, 0.47), (0.84, 0.70), (0.52, 0.98), (0.15, 0.85)),
    ((0.58, 0.03), (0.13, 0.66), (0.90, 0.64), (0.66, 0.36), (0.63, 0.98)),
    ((0.82, 0.04), (0.30, 0.05), (0.24, 0.45), (0.62, 0.39), (0.84, 0.68), (0.52, 0.97), (0.16, 0.86)),
    ((0.72, 0.03), (0.33, 0.32), (0.18, 0.70), (0.48, 0.98), (0.82, 0.72), (0.52, 0.50), (0.20, 0.66)),
    ((0.14, 0.06), (0.86, 0.05), (0.56, 0.50), (0.40, 0.98)),
    ((0.50, 0.47), (0.22, 0.24), (0.50, 0.02), (0.78, 0.24), (0.18, 0.74), (0.50, 0.98), (0.82, 0.74)),
    ((0.80, 0.30), (0.50, 0.02), (0.20, 0.28), (0.48, 0.52), (0.76, 0.62), (0.52, 0.98)),
)
_STROKES = (
    ((0, 1, 2, 3, 4, 5, 0),),
    ((0, 1), (1, 2)),
    ((0, 1, 2, 3, 4), (4, 5)),
    ((0, 1, 2, 3), (3, 4, 5, 6)),
    ((0, 1), (1, 2), (3, 4)),
    ((0, 1), (1, 2), (2, 3, 4, 5, 6)),
    ((0, 1, 2, 3, 4, 5, 6),),
    ((0, 1), (1, 2, 3)),
    ((0, 1, 2, 3, 0, 4, 5, 6, 0),),
    ((0, 1, 2, 3, 0), (0, 4, 5)),
)
_PIECES = 4  # straight pieces of a curve from one control point to the next

# Lengths are fractions of the picture's side.
_WOBBLE = 0.045  # of a control point, in its box
_WIDTH, _HEIGHT = (0.36, 0.58), (0.56, 0.74)
_SLANT = (-0.12, 0.42)  # x that the top gains over the bottom, for a height of 1
_SHIFT = 0.07
_PEN = (0.045, 0.115)
_INK = (0.75, 1.0)
_NOISE = 0.06
_AT_ONCE = 50  # glyphs: what is computed on the way stays in the cache


def glyphs(split: str, count: int, size: int = SIZE) -> tuple[np.ndarray, np.ndarray]:
    """The first ``count`` glyphs of a split: uint8 (count, size, size), and labels int64 (count,).

    A glyph depends on its split, index and size alone. Ten in a row are one of each class, in random order.

    Raises:
        ValueError: an unknown split, or a count or size below 1.
    """
    if split not in ("train", "test"):
        raise ValueError(f"the built-in set has no split {split!r}: choose train or test")
    if count < 1 or size < 1:
        raise ValueError(f"{count} glyphs of {size}x{size} pixels were asked for: both numbers must be 1 or more")
    images = np.empty((count, size, size), dtype=np.uint8)
    tens = -(-count // CLASSES)
    order = np.random.RandomState(_seed(split, 0)).random_sample((tens, CLASSES)).argsort(axis=1, kind="stable")
    labels = order.reshape(-1)[:count]
    for label in range(CLASSES):
        (places,) = np.nonzero(labels == label)
        generator = np.random.RandomState(_seed(split, 1 + label))
        for start in range(0, len(places), _AT_ONCE):
            part = places[start : start + _AT_ONCE]
            drawn = _draw(label, generator, size)  # whole chunks: a longer set begins with a shorter one
            images[part] = drawn[: len(part)]
    return images, labels.astype(np.int64)


def _seed(split: str, stream: int) -> list[int]:
    return [0x676C7970, ("train", "test").index(split), stream]


def _draw(label: int, generator: np.random.RandomState, size: int) -> np.ndarray:
    """uint8 (_AT_ONCE, size, size): the next glyphs of a class."""
    points = np.asarray(_POINTS[label])
    points = points + _WOBBLE * (2 * generator.random_sample((_AT_ONCE, *points.shape)) - 1)
    width, height, slant, pen, ink = (
        low + (high - low) * generator.random_sample((_AT_ONCE, 1))
        for low, high in (_WIDTH, _HEIGHT, _SLANT, _PEN, _INK)
    )
    shift = 0.5 + _SHIFT * (2 * generator.random_sample((_AT_ONCE, 2)) - 1)
    y = (points[..., 1] - 0.5) * height
    x = (points[..., 0] - 0.5) * width - slant * y
    placed = np.stack([x, y], axis=-1) + shift[:, None]

    starts, ends = (
        np.einsum("sk,nkd->snd", matrix, placed).astype(np.float32) * np.float32(size) for matrix in _PIECE_ENDS[label]
    )
    centre = np.arange(size, dtype=np.float32) + np.float32(0.5)
    nearest = np.full((_AT_ONCE, size, size), np.inf, dtype=np.float32)
    for start, end in zip(starts, ends):
        np.minimum(nearest, _squared_distance(start, end, centre), out=nearest)
    covered = np.clip(0.5 + (pen[..., None] * (0.5 * size)).astype(np.float32) - np.sqrt(nearest), 0, 1)
    noise = 2 * generator.random_sample((_AT_ONCE, size, size)) - 1
    return np.rint(255 * np.clip(covered * ink[..., None] + _NOISE * noise, 0, 1)).astype(np.uint8)


def _squared_distance(start: np.ndarray, end: np.ndarray, centre: np.ndarray) -> np.ndarray:
    """(N, H, W): of every pixel to a segment of every glyph. start, end: (N, 2)."""
    edge = end - start
    x, y = centre - start[:, :1], centre - start[:, 1:]
    scale = 1 / np.maximum((edge * edge).sum(axis=1, keepdims=True), 1e-12)
    along = (x * (edge[:, :1] * scale))[:, None, :] + (y * (edge[:, 1:] * scale))[:, :, None]
    np.clip(along, 0, 1, out=along)
    distance = (x[:, None, :] - along * edge[:, 0, None, None]) ** 2
    distance += (y[:, :, None] - along * edge[:, 1, None, None]) ** 2
    return distance


def _piece_ends(label: int) -> tuple[np.ndarray, np.ndarray]:
    """Matrices (pieces, control points) that give the ends of all straight pieces of a glyph from its points."""
    starts, ends = [], []
    for stroke in _STROKES[label]:
        closed = stroke[0] == stroke[-1]
        spans = len(stroke) - 1
        rows = []
        for span in range(spans):
            before = stroke[span - 1] if span > 0 else stroke[-2] if closed else stroke[0]
            after = stroke[span + 2] if span + 2 <= spans else stroke[1] if closed else stroke[-1]
            pieces = _PIECES if spans > 1 else 1
            for t in np.arange(pieces) / pieces:
                rows.append(_catmull_rom(len(_POINTS[label]), (before, stroke[span], stroke[span + 1], after), t))
        rows.append(np.eye(len(_POINTS[label]))[stroke[-1]])
        starts += rows[:-1]
        ends += rows[1:]
    return np.stack(starts), np.stack(ends)


def _catmull_rom(count: int, points: tuple[int, int, int, int], t: float) -> np.ndarray:
    """The weights (count,) of all control points at ``t`` in [0, 1] between the second and the third of four."""
    weights = (-t + 2 * t**2 - t**3, 2 - 5 * t**2 + 3 * t**3, t + 4 * t**2 - 3 * t**3, t**3 - t**2)
    row = np.zeros(count)
    for point, weight in zip(points, weights):
        row[point] += weight / 2
    return row


_PIECE_ENDS = tuple(_piece_ends(label) for label in range(CLASSES))
