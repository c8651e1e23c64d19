"""Changes of a value of dicts, lists, tensors and plain values, such as ``torch.load`` gives."""

from __future__ import annotations

import random
from collections.abc import Iterator
from typing import Any

import torch

GONE = object()  # in place of a value: there is none
_NUMBERS = (0, 1, -1, 2, 7, 1000, 10**6, 2**31, 2**40, 2**63, 2**64, -(2**70), 1e-300, 1e300, 0.5, -0.5)


def nodes(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Where everything lies in a value; of long lists and of many weights only the beginning."""
    if path:
        yield path
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, (list, tuple)) else ()
    for number, (key, each) in enumerate(items):
        if number < (4 if isinstance(key, int) or "networks" in path else 20):
            yield from nodes(each, (*path, key))


def changed(value: Any, path: tuple[Any, ...], new: Any) -> Any:
    """The value with another one at a place."""
    if not path:
        return new
    items = dict(value.items() if isinstance(value, dict) else enumerate(value))
    if len(path) == 1 and new is GONE:
        del items[path[0]]
    else:
        items[path[0]] = changed(items[path[0]], path[1:], new)
    return items if isinstance(value, dict) else type(value)(items.values())


def at(value: Any, path: tuple[Any, ...]) -> Any:
    """What lies at a place."""
    for key in path:
        value = value[key]
    return value


def wrong(value: Any, generator: random.Random) -> Any:
    """Something that does not belong where the value lies."""
    if isinstance(value, torch.Tensor):
        choices = [
            value[None],
            value.double() if value.dtype != torch.float64 else value.float(),
            value.tolist(),
            torch.zeros(100),
            value.to_sparse() if value.dim() else 1.0,
            None,
        ]
        if value.is_floating_point():
            choices += [torch.full_like(value, number) for number in (float("nan"), float("inf"))]
    else:
        choices = [None, "text", (), (1, 2, 3), [0], {"other": 1}, torch.zeros(3), b"bytes", 0.5, GONE]
        choices = [each for each in choices if type(each) is not type(value)]
        if isinstance(value, (int, float)):
            choices += [float("nan") if isinstance(value, float) else -(2**80)]
    return generator.choice(choices)


def unusual(value: Any, generator: random.Random) -> Any:
    """Something of the same kind that may belong there, or not."""
    if isinstance(value, torch.Tensor):
        if not value.is_floating_point():
            return value.roll(1) if value.dim() else value + 1
        return generator.choice(
            [torch.zeros_like(value), -value, value * 1e30, value.flip(0) if value.dim() else value]
        )
    if isinstance(value, bool):
        return not value
    if isinstance(value, (int, float)):
        return type(value)(generator.choice([number for number in _NUMBERS if type(number) is type(value)]))
    if isinstance(value, str):
        return generator.choice(["", "x" * 1000, "../..", "\0", "auto", value[:-1], value + "\n"])
    if isinstance(value, (list, tuple)):
        return generator.choice([value[:-1], value + value, type(value)()])
    if isinstance(value, dict):
        kept = list(value.items())
        return generator.choice([{}, dict(kept[:-1]), dict(kept[::-1]), {**value, "other": 1}])
    return wrong(value, generator)
