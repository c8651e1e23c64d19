"""What a random call is made of: values that hurt, and the ways a tensor can lie in memory."""

import math
import random
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

VALUES = ("normal", "normal", "normal", "off-centre", "far", "constant", "ties", "tiny", "large", "zeros")
MILD = ("normal", "normal", "off-centre", "ties", "constant", "zeros")  # what float16 holds, sums of it included
LAYOUTS = (
    "plain", "channels last", "image as H, W, C", "permuted", "window", "window of channels last", "every second",
    "offset", "expanded",
)  # fmt: skip
DENSE = ("plain", "channels last")


class Draws:
    """All random choices of one case, from its number: the same on every machine."""

    def __init__(self, op: str, number: int):
        self.random = random.Random(f"{op} {number}")
        self.generator = torch.Generator().manual_seed(self.random.getrandbits(63))

    def chance(self, probability: float) -> bool:
        return self.random.random() < probability

    def one(self, choices: Sequence) -> Any:
        return self.random.choice(choices)

    def whole(self, least: int, most: int) -> int:
        return self.random.randint(least, most)

    def values(self, shape: Sequence[int], kind: str, dtype: torch.dtype) -> Tensor:
        """A contiguous tensor, rounded to ``dtype``."""
        x = torch.randn(tuple(shape), generator=self.generator, dtype=torch.float64)
        if kind == "off-centre":
            x = -2.3 + 0.5 * x
        elif kind == "far":
            x = 1e4 + x
        elif kind == "constant":
            x = torch.full_like(x, 0.3)
        elif kind == "half":
            x = torch.full_like(x, 0.5)
        elif kind == "ties":
            x = (1.5 * x).round()
        elif kind == "tiny":
            x = 1e-12 * x
        elif kind == "large":
            x = 1e8 * x
        elif kind == "zeros":
            x = x * (torch.rand(x.shape, generator=self.generator) < 0.2)
        return x.to(dtype)

    def layout(self, x: Tensor) -> str:
        return self.one(LAYOUTS) if x.dim() > 1 else self.one(("plain", "every second", "offset", "window", "expanded"))

    def lay(self, x: Tensor, layout: str) -> Tensor:
        """The values of ``x`` in another layout ("expanded" repeats some of them); what lies between them is NaN."""
        y = self._lay(x.contiguous(), layout)
        if 1 in y.shape and self.chance(0.3):  # a dimension of size 1 may have any stride
            strides = [self.one((0, 1, 3, x.numel(), s)) if n == 1 else s for n, s in zip(y.shape, y.stride())]
            y = y.as_strided(y.shape, strides, y.storage_offset())
        return y

    def _lay(self, x: Tensor, layout: str) -> Tensor:
        dims = list(range(x.dim()))
        last = [0, *dims[2:], 1] if x.dim() > 3 else [*dims[1:], 0]
        if layout == "channels last" and x.dim() > 2:
            if x.dim() == 4:
                return x.contiguous(memory_format=torch.channels_last)
            return _in_order(x, last)
        if layout == "image as H, W, C" and x.dim() == 4 and x.shape[0] == 1:
            return x[0].permute(1, 2, 0).contiguous().permute(2, 0, 1).unsqueeze(0)
        if layout == "permuted":
            self.random.shuffle(dims)
            return _in_order(x, dims)
        if layout in ("window", "window of channels last"):
            before, after = ([self.whole(0, 2) for _ in dims] for _ in range(2))
            shape = [n + a + b for n, a, b in zip(x.shape, before, after)]
            wide = torch.full(shape, math.nan, dtype=x.dtype)
            if layout == "window of channels last" and x.dim() > 2:
                wide = _in_order(wide, last)
            for dim in dims:
                wide = wide.narrow(dim, before[dim], x.shape[dim])
            return wide.copy_(x)
        if layout == "every second" and dims:
            steps = [self.one((1, 2, 3)) for _ in dims]
            steps[self.one(dims)] = 2
            wide = torch.full([n * step for n, step in zip(x.shape, steps)], math.nan, dtype=x.dtype)
            return wide[tuple(slice(None, None, step) for step in steps)].copy_(x)
        if layout == "offset":
            first = self.whole(1, 5)
            flat = torch.full((x.numel() + first,), math.nan, dtype=x.dtype)
            return flat[first:].view(x.shape).copy_(x)
        if layout == "expanded" and x.numel() > 0:
            shape = x.shape
            for dim in self.random.sample(dims, self.whole(1, len(dims)) if dims else 0):
                x = x.narrow(dim, 0, 1)
            return x.contiguous().expand(shape)
        return x


def _in_order(x: Tensor, dims: list[int]) -> Tensor:
    """``x``, its memory in the order of ``dims``."""
    return x.permute(dims).contiguous().permute([dims.index(i) for i in range(len(dims))])
