"""What autocast asks of an op that is called on a tensor."""

from __future__ import annotations

import contextlib

import torch
from torch import Tensor


def _available(device: str) -> bool:
    """Whether autocast knows a type of device."""
    if torch.compiler.is_compiling():  # torch 2.11's compiler cannot follow the question
        return device != "meta"
    return torch.amp.is_autocast_available(device)


def autocast_dtype(x: Tensor) -> torch.dtype | None:
    """The lower precision that autocast is set to for ``x``; None where it leaves ``x`` alone (float64 always)."""
    device = x.device.type
    if x.dtype == torch.float64 or not _available(device):
        return None
    return torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else None


def without_autocast(x: Tensor) -> contextlib.AbstractContextManager:
    """A context in which stock ops leave the dtype of ``x`` alone; it costs nothing where autocast is off."""
    device = x.device.type
    if _available(device) and torch.is_autocast_enabled(device):
        return torch.autocast(device, enabled=False)
    return contextlib.nullcontext()
