"""Memory layouts that the kernels take: dense NCHW, or dense channels_last."""

from __future__ import annotations

import torch
from torch import Tensor


def is_channels_last(x: Tensor) -> bool:
    """True for a dense 4-d tensor that is channels_last and not also NCHW-contiguous."""
    return not x.is_contiguous() and x.is_contiguous(memory_format=torch.channels_last)


def memory_format(x: Tensor) -> torch.memory_format:
    """The dense layout nearest to that of a 4-d tensor: channels_last where its channels are innermost."""
    if not x.is_contiguous() and x.shape[1] > 1 and x.stride(1) == 1:
        return torch.channels_last
    return torch.contiguous_format


def dense(x: Tensor) -> Tensor:
    """``x`` itself when a kernel can take it as it is, else a copy in the nearest dense layout (4-d)."""
    if x.is_contiguous() or x.is_contiguous(memory_format=torch.channels_last):
        return x
    return x.contiguous(memory_format=memory_format(x))


def like(x: Tensor, pattern: Tensor) -> Tensor:
    """``x`` in the dense layout of ``pattern`` (both 4-d); a copy only where it is in another one."""
    if pattern.is_contiguous():
        return x.contiguous()
    return x.contiguous(memory_format=torch.channels_last)


def empty(pattern: Tensor, shape: tuple[int, ...]) -> Tensor:
    """An uninitialised 4-d tensor of ``shape`` in the dense layout of ``pattern``, same dtype and device."""
    format = torch.channels_last if is_channels_last(pattern) else torch.contiguous_format
    return torch.empty(shape, dtype=pattern.dtype, device=pattern.device, memory_format=format)


def accumulate_dtype(dtype: torch.dtype) -> torch.dtype:
    """The dtype of sums and statistics: float64 for float64, float32 otherwise."""
    return torch.float64 if dtype == torch.float64 else torch.float32
