"""Whether a value that was read from a file has the form that it must have before anything is done with it."""

import math
import sys
import textwrap
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

_BEYOND_INTEGERS = 2**64  # no counter, size or seed gets there


class FormError(ValueError):
    """A value is of another kind, shape or dtype, or lacks a part."""


def check_form(value: Any, like: Any, name: str) -> None:
    """Raises ValueError, whose message begins with `name`, unless `value` has the form of `like`.

    It is a FormError for another kind of value, and a plain one for a number that is not finite.

    Args:
        value: what was read.
        like: a value of the right form, or its type where any value of that type will do. Tensors agree in shape and
            dtype, mappings in their keys, lists and tuples in their length, and what they hold in its form. Numbers
            are finite; they may be infinite where the one in `like` is.
        name: what the value is, such as "the checkpoint's networks.G_A"; its parts are named after it, with dots.
    """
    if isinstance(like, Tensor):
        _check_tensor(value, like, name)
    elif isinstance(like, Mapping):
        _check_kind(value, dict, name)
        for key, its in like.items():
            if key not in value:
                raise FormError(f"{name} has no {key!r}")
            check_form(value[key], its, f"{name}.{key}")
        for key in value:
            if key not in like:
                raise FormError(f"{name} has {short(key)}, which nothing here knows")
    elif isinstance(like, (list, tuple)):
        if type(value) is not type(like) or len(value) != len(like):
            raise FormError(f"{name} is {_describe(value)}, where {_describe(like)} belongs")
        for index, (each, its) in enumerate(zip(value, like)):
            check_form(each, its, f"{name}.{index}")
    else:
        _check_kind(value, like if isinstance(like, type) else type(like), name)
        nan = isinstance(value, float) and math.isnan(value)
        if nan or not _is_finite(value) and (isinstance(like, type) or _is_finite(like)):
            raise ValueError(f"{name} is {short(value)}, where a finite number belongs")


def _check_tensor(value: Any, like: Tensor, name: str) -> None:
    plain = isinstance(value, Tensor) and value.layout is torch.strided and not value.is_quantized
    if not plain or value.shape != like.shape or value.dtype != like.dtype or value.device.type == "meta":
        raise FormError(f"{name} is {_describe(value)}, where {_describe(like)} belongs")
    if (value.is_floating_point() or value.is_complex()) and not torch.isfinite(value).all():
        raise ValueError(f"{name} holds NaN or infinite values")


def _check_kind(value: Any, kind: type, name: str) -> None:
    kinds: dict[type, type | tuple[type, ...]] = {float: (int, float), dict: Mapping}
    right = isinstance(value, kinds.get(kind, kind))
    if not right or (isinstance(value, bool) and kind is not bool):
        article = "an" if kind.__name__[0] in "aeiou" else "a"
        raise FormError(f"{name} is {_describe(value)}, where {article} {kind.__name__} belongs")


def _is_finite(value: Any) -> bool:
    if isinstance(value, float):
        return abs(value) <= sys.float_info.max  # false for NaN, too
    return not isinstance(value, int) or abs(value) < _BEYOND_INTEGERS


def _describe(value: Any) -> str:
    if isinstance(value, Tensor):
        return f"a {str(value.dtype).removeprefix('torch.')} tensor of shape {tuple(value.shape)}"
    if isinstance(value, Mapping):
        return "a dict"
    if isinstance(value, (list, tuple)):
        return f"a {type(value).__name__} of {len(value)}"
    return short(value)


def short(value: Any) -> str:
    """The value as Python writes it, on one line and cut off where it is long."""
    return textwrap.shorten(repr(value), 60, placeholder=" ...")


__all__ = ["FormError", "check_form", "short"]
