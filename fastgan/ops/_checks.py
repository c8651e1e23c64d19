"""Argument checks that the ops share. Every error is a ValueError that names the values."""

from __future__ import annotations

import operator
from collections.abc import Sequence
from typing import Literal, overload

import torch
from torch import Tensor

from ._norm import ACTIVATIONS


@overload
def whole(name: str, value: int | Sequence[int], count: Literal[1]) -> tuple[int]: ...
@overload
def whole(name: str, value: int | Sequence[int], count: Literal[2]) -> tuple[int, int]: ...
@overload
def whole(name: str, value: int | Sequence[int], count: Literal[4]) -> tuple[int, int, int, int]: ...
def whole(name: str, value: int | Sequence[int], count: int) -> tuple[int, ...]:
    """``count`` whole numbers, of one that stands for all of them or of so many. ValueError for anything else."""
    if type(value) is int or isinstance(value, (int, torch.SymInt)):
        return (value,) * count
    if type(value) is tuple and len(value) == count and all([type(each) is int for each in value]):
        return value
    values = tuple(value) if isinstance(value, (tuple, list)) else (value,)
    if not all(isinstance(each, (int, torch.SymInt)) for each in values):
        try:
            values = tuple(map(operator.index, values))  # numpy's integers
        except TypeError:
            values = ()
    if len(values) not in (1, count):
        numbers = "a whole number" if count == 1 else f"a whole number or {count} of them"
        raise ValueError(f"{name} must be {numbers}, got {value!r}")
    return values * count if len(values) == 1 else values


def check_devices(input: Tensor, **others: Tensor | None) -> None:
    for name, other in others.items():
        if other is not None and other.device != input.device:
            raise ValueError(f"{name} is on {other.device} and input on {input.device}: they must be on one device")


def batched(op: str, input: Tensor) -> Tensor:
    if input.dim() not in (3, 4):
        raise ValueError(f"{op} needs an input of shape (N, C, H, W) or (C, H, W), got {tuple(input.shape)}")
    return input if input.dim() == 4 else input.unsqueeze(0)


def check_reflection(op: str, x: Tensor, left: int, right: int, top: int, bottom: int) -> None:
    h, w = x.shape[2:]
    if min(left, right, top, bottom) < 0:
        raise ValueError(
            f"{op} needs a padding of at least 0, got left {left}, right {right}, top {top}, bottom {bottom}"
        )
    if (left, right, top, bottom) != (0, 0, 0, 0) and (max(left, right) >= w or max(top, bottom) >= h):
        raise ValueError(
            f"{op} reflects without repeating the edge, so its padding must be smaller than the image, {h} x {w}; "
            f"got left {left}, right {right}, top {top}, bottom {bottom}"
        )


def check_activation(activation: str) -> None:
    if activation not in ACTIVATIONS:
        raise ValueError(f"unknown activation {activation!r}: choose from {', '.join(ACTIVATIONS)}")


def check_per_channel(channels: int, **parameters: Tensor | None) -> None:
    for name, parameter in parameters.items():
        if parameter is not None and parameter.shape != (channels,):
            raise ValueError(f"{name} must have shape ({channels},), one value a channel, got {tuple(parameter.shape)}")
