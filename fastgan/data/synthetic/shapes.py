"""The built-in pair of domains: coloured shapes on a dark ground, filled in domain A and outlined in domain B.

The true translation keeps place, form and colour, and empties or fills the inside. No map of colours does that:
one colour has to stay at the edge of a shape and go in its middle. It loses nothing in either direction.
Test images of equal number show the same scene in both domains; unaligned training images show different ones.

A shape is a point, a segment or a regular polygon, grown by a radius: disc, capsule, rounded polygon. Its signed
distance is exact, so edges are anti-aliased at any size and an outline is the band of distances from -STROKE to 0.
Scenes depend on nothing but their name: they are drawn from ``random.Random.random``, whose sequence Python guarantees.
"""

from __future__ import annotations

import math
import random
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from ..convert import CHANNELS, convert
from ..transforms import Transform

TRAIN_SCENES = 1000  # of each domain
TEST_SCENES = 64
DOMAINS = ("A", "B")

GROUND = (24, 26, 44)
COLOURS = ((244, 67, 54), (255, 193, 7), (76, 217, 100), (41, 196, 246), (92, 107, 255), (233, 70, 200))

# All lengths are fractions of the image's side.
STROKE = 0.05
RADII = (0.14, 0.24)  # of the circle around a shape
FEWEST, MOST = 4, 6  # not more than there are colours
BORDER, GAP = 0.02, 0.03
_ATTEMPTS = 60

# corners of the polygon -> part of the shape's radius that is rounding
_FORMS = {1: 1.0, 2: 0.62, 3: 0.35, 4: 0.25, 5: 0.2, 6: 0.2}


@dataclass(frozen=True)
class Shape:
    """Lengths are fractions of the image's side, x to the right and y downwards."""

    x: float
    y: float
    radius: float
    corners: int  # 1 is a disc, 2 a capsule
    angle: float  # radians
    colour: tuple[int, int, int]


def scene(name: str) -> tuple[Shape, ...]:
    """The shapes of a scene, which do not overlap and have different colours."""
    generator = random.Random(name)
    count = _integer(generator, FEWEST, MOST)
    colours = sorted(COLOURS, key=lambda colour: generator.random())
    shapes: list[Shape] = []
    attempts = 0
    while len(shapes) < count:
        if attempts == _ATTEMPTS:  # no room is left: begin again, unless there is enough already
            if len(shapes) >= FEWEST:
                break
            shapes, attempts = [], 0
        attempts += 1
        shape = _shape(generator, colours[len(shapes)])
        if all(_gap(shape, other) > GAP for other in shapes):
            shapes.append(shape)
    return tuple(shapes)


def render(shapes: tuple[Shape, ...], domain: str, size: int) -> np.ndarray:
    """A scene as uint8 (size, size, 3), filled ("A") or outlined ("B")."""
    image = np.empty((size, size, 3), dtype=np.float32)
    image[:] = GROUND
    for shape in shapes:
        left, top = (max(0, int((centre - shape.radius) * size) - 1) for centre in (shape.x, shape.y))
        right, bottom = (min(size, int((centre + shape.radius) * size) + 2) for centre in (shape.x, shape.y))
        x = (np.arange(left, right, dtype=np.float32) + 0.5) / size
        y = (np.arange(top, bottom, dtype=np.float32) + 0.5) / size
        distance = _signed_distance(shape, *np.meshgrid(x, y)) * size
        covered = np.clip(0.5 - distance, 0, 1)
        if domain == "B":
            covered = covered - np.clip(0.5 - (distance + STROKE * size), 0, 1)
        window = image[top:bottom, left:right]
        window += (np.asarray(shape.colour, dtype=np.float32) - window) * covered[:, :, None]
    return np.rint(image).astype(np.uint8)


class Scenes:
    """The images of one domain and split, by index; each is drawn once, when it is first used.

    Args:
        split: "train" or "test".
        size: side in pixels.
        channels: 1 (grey), 3 (RGB), or 2 or 4 (with an opaque one more).
        paired: training images of equal number show the same scene in both domains, as test images always do.
    """

    def __init__(self, domain: str, split: str, *, count: int, size: int, channels: int = 3, paired: bool = False):
        if domain not in DOMAINS:
            raise ValueError(f"the built-in set has no domain {domain!r}: choose from {', '.join(DOMAINS)}")
        if split not in ("train", "test"):
            raise ValueError(f"the built-in set has no split {split!r}: choose train or test")
        if count < 1 or size < 1:
            raise ValueError(f"{count} images of {size}x{size} pixels were asked for: both numbers must be 1 or more")
        if channels not in CHANNELS:
            raise ValueError(
                f"the built-in pair was asked for with {channels} channels: it is drawn with 3 (RGB), "
                "1 (grey), or 2 or 4 (with transparency, opaque)"
            )
        self.domain, self.split, self.size, self.channels, self.paired = domain, split, size, channels, paired
        self.sizes = [(size, size)] * count
        self._drawn: dict[int, Tensor] = {}

    def __len__(self) -> int:
        return len(self.sizes)

    def path(self, index: int) -> str:
        return f"built-in/{self.split}{self.domain}/{index:04}.png"

    def load(self, index: int) -> Tensor:
        """uint8 (size, size, C). Not to be written to."""
        if index not in self._drawn:
            apart = self.split == "train" and not self.paired  # then the domain is part of a scene's name
            name = f"shapes/{self.split}{self.domain if apart else ''}/{index}"
            self._drawn[index] = torch.from_numpy(convert(render(scene(name), self.domain, self.size), self.channels))
        return self._drawn[index]

    def __getstate__(self) -> dict:
        """Worker processes draw their own images."""
        return {**self.__dict__, "_drawn": {}}


def size_for(transform: Transform) -> int:
    """The side at which the built-in images are drawn for a transform, so that none needs a resize."""
    return -(-transform.load_size // 4) * 4 if transform.preprocess == "none" else transform.load_size


def _shape(generator: random.Random, colour: tuple[int, int, int]) -> Shape:
    radius = _between(generator, *RADII)
    x, y = (_between(generator, radius + BORDER, 1 - radius - BORDER) for _ in range(2))
    corners, angle = _integer(generator, 1, len(_FORMS)), _between(generator, 0, 2 * math.pi)
    return Shape(x, y, radius, corners, angle, colour)


def _gap(one: Shape, other: Shape) -> float:
    return math.hypot(one.x - other.x, one.y - other.y) - one.radius - other.radius


def _signed_distance(shape: Shape, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Distance of points to the outline of a shape, negative inside; in fractions of the image's side."""
    rounding = _FORMS[shape.corners] * shape.radius
    reach = shape.radius - rounding
    turns = shape.angle + 2 * math.pi * np.arange(shape.corners) / shape.corners
    corners = [(shape.x + reach * math.cos(turn), shape.y + reach * math.sin(turn)) for turn in turns]
    if shape.corners == 1:
        return np.hypot(x - shape.x, y - shape.y) - shape.radius
    nearest = np.full(x.shape, np.inf, dtype=np.float32)
    inside = np.full(x.shape, shape.corners > 2)
    for (ax, ay), (bx, by) in zip(corners, corners[1:] + corners[:1]):
        ex, ey = bx - ax, by - ay
        along = np.clip(((x - ax) * ex + (y - ay) * ey) / (ex * ex + ey * ey), 0, 1)
        nearest = np.minimum(nearest, np.hypot(x - ax - along * ex, y - ay - along * ey))
        inside &= (x - ax) * ey - (y - ay) * ex <= 0  # the corners run clockwise on the screen, y downwards
    return np.where(inside, -nearest, nearest) - rounding


def _between(generator: random.Random, low: float, high: float) -> float:
    return low + (high - low) * generator.random()


def _integer(generator: random.Random, low: int, high: int) -> int:
    return low + int(generator.random() * (high - low + 1))
