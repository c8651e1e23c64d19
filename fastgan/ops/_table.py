"""Measured choices: which backend and which kernel configuration serve a shape on a GPU.

``fastgan/tables`` holds one JSON file a GPU model, written by ``python -m fastgan.tune``:

    {"device": "NVIDIA H200", "environment": {...}, "entries": [
        {"op": ..., "dtype": "bfloat16", "layout": "nhwc", "shape": ..., "backend": "triton",
         "configurations": {"forward": {...}, ...}, "seconds": {...}}, ...]}

A shape without an entry gets the default of its op. Nothing is measured outside the tuner.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ._layout import is_channels_last

FOLDER = Path(__file__).resolve().parent.parent / "tables"

KINDS = ("cuda",)  # of devices that have tables
Entry = dict[str, Any]
KEY = ("op", "dtype", "layout", "shape")


def file_name(device: str) -> str:
    """The table's name for a device: ``NVIDIA H200`` gives ``nvidia-h200.json``."""
    return "-".join("".join(c if c.isalnum() else " " for c in device.lower()).split()) + ".json"


@functools.cache
def entries(device: str) -> dict[tuple[str, ...], Entry]:
    """What was measured on a device, by (op, dtype, layout, shape); empty where nothing was.

    Raises:
        ValueError: the table cannot be read; the message names the file and the remedy.
    """
    path = FOLDER / file_name(device)
    if not path.is_file():
        return {}
    try:
        return {tuple(entry[name] for name in KEY): entry for entry in json.loads(path.read_text())["entries"]}
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(
            f"the table {path} cannot be read ({type(error).__name__}: {error}): "
            "write it again with python -m fastgan.tune, or delete it"
        ) from None


@functools.cache
def device_name(kind: str, index: int | None) -> str | None:
    """The name under which a device has its table; None for one that has none."""
    return torch.cuda.get_device_name(index) if kind in KINDS else None


def layout(x: Tensor) -> str:
    return "nhwc" if is_channels_last(x) else "nchw"


def _entry(kind: str, index: int | None, op: str, dtype: str, layout: str, shape: str) -> Entry | None:
    device = device_name(kind, index)
    return entries(device).get((op, dtype, layout, shape)) if device is not None else None


def _backend(kind: str, index: int | None, op: str, dtype: str, layout: str, shape: str) -> str | None:
    entry = _entry(kind, index, op, dtype, layout, shape)
    return entry["backend"] if entry is not None else None


# What torch.compiler.assume_constant_result sets; the decorator itself imports the whole compiler.
_backend._dynamo_marked_constant = True  # type: ignore[attr-defined]


def backend(op: str, x: Tensor, shape: str) -> str | None:
    """The backend that was measured fastest for a call on the device of ``x``; None where the shape was not measured.

    torch.compile asks once for each compiled shape; a shape that it leaves open has no entry.
    """
    return _backend(x.device.type, x.device.index, op, dtype_name(x.dtype), layout(x), shape)


def configuration(op: str, direction: str, x: Tensor, shape: str) -> dict[str, Any] | None:
    """The measured kernel configuration for one direction of a call, as the fields of its kernel's ``Config``."""
    entry = _entry(x.device.type, x.device.index, op, dtype_name(x.dtype), layout(x), shape)
    return entry["configurations"].get(direction) if entry is not None else None


def dtype_name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def write(path: Path, device: str, environment: dict[str, str], measured: Iterable[Entry]) -> None:
    """Write a table, replacing entries of the same key in a table of that device and keeping its others."""
    kept: dict[tuple[str, ...], Entry] = {}
    if path.is_file():
        before = json.loads(path.read_text())
        if before["device"] != device:
            raise ValueError(f"{path} is the table of {before['device']}, not of {device}: choose another --output")
        kept = {tuple(entry[name] for name in KEY): entry for entry in before["entries"]}
    kept |= {tuple(entry[name] for name in KEY): entry for entry in measured}
    content = {"device": device, "environment": environment, "entries": [kept[k] for k in sorted(kept)]}
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content, indent=1) + "\n")
    entries.cache_clear()
