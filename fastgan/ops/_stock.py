"""Which calls go straight to torch's own CPU kernels: on small tensors the choice costs more than the kernel."""

from __future__ import annotations

import torch
from torch import Tensor

from . import _dispatch
from ._library import transformed

_MOST = 1 << 16  # elements; beyond, what a call costs besides its arithmetic is lost in it


def plain(op: str, x: Tensor) -> bool:
    """Whether ``x`` is a small contiguous float32 or float64 tensor on the CPU, where torch's kernel and the automatic
    choice differ in nothing but time, and nothing else is asked for: a backend, the compiler, a transform."""
    return (
        not torch.compiler.is_compiling()  # first: the sizes that torch.export leaves open are not to be asked for
        and type(x) is Tensor
        and x.is_cpu
        and (x.dtype is torch.float32 or x.dtype is torch.float64)
        and x.is_contiguous()
        and 0 < x.numel() <= _MOST
        and _dispatch.forced(op) is None
        and not transformed()
    )
