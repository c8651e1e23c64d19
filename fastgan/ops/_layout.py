"""Memory layouts that the kernels take: dense NCHW, or dense channels_last.

The stride of a dimension of size 1 says nothing about the memory, and views leave it at anything: an image that lies as
(H, W, C), turned by ``permute(2, 0, 1).unsqueeze(0)``, has 1 x H x W x C dense elements and a batch stride of C. Stock
kernels read the layout of some tensors from such strides, and take wrong elements. So what :func:`dense` and
:func:`like` give has the strides of a new tensor.
"""

from __future__ import annotations

import torch
from torch import Tensor


def holds(condition: bool | torch.SymBool) -> bool:
    """Whether a condition on sizes holds, for a choice that both answers allow.

    To torch.export only what holds for all sizes does: asking fixes none of those that may vary.
    """
    if torch.compiler.is_exporting():
        from torch.fx.experimental.symbolic_shapes import statically_known_true

        return statically_known_true(condition)
    return bool(condition)


def vmapped(x: Tensor) -> bool:
    """Whether vmap runs over ``x``, for all transforms under way: torch then takes no question about channels_last."""
    if torch.compiler.is_compiling() or not torch._C._are_functorch_transforms_active():
        return False
    while torch._C._functorch.is_functorch_wrapped_tensor(x):
        if torch._C._functorch.is_batchedtensor(x):
            return True
        x = torch._C._functorch.get_unwrapped(x)
    return False


def is_channels_last(x: Tensor) -> bool:
    """True for a dense 4-d tensor that is channels_last and not also NCHW-contiguous; False under vmap."""
    return not x.is_contiguous() and not vmapped(x) and x.is_contiguous(memory_format=torch.channels_last)


def memory_format(x: Tensor) -> torch.memory_format:
    """The dense layout nearest to that of a 4-d tensor: channels_last where its channels are innermost."""
    if not x.is_contiguous() and x.shape[1] > 1 and x.stride(1) == 1:
        return torch.channels_last
    return torch.contiguous_format


def _canonical(x: Tensor) -> Tensor:
    """A dense 4-d tensor, or the view of it that has the strides of a new tensor of its layout."""
    if not (any(holds(size == 1) for size in x.shape) if torch.compiler.is_compiling() else 1 in x.shape):
        return x
    n, c, h, w = x.shape
    nchw = x.is_contiguous()
    if x.stride() == ((c * h * w, h * w, w, 1) if nchw else (c * h * w, 1, w * c, c)):
        return x
    # Without the dimensions of size 1 no stride is left that could be odd.
    flat = x if nchw else x.permute(0, 2, 3, 1)
    flat = flat.squeeze([d for d, size in enumerate(flat.shape) if holds(size == 1)])
    return flat.view(n, c, h, w) if nchw else flat.view(n, h, w, c).permute(0, 3, 1, 2)


def dense(x: Tensor) -> Tensor:
    """``x``, or a view of it, where a kernel can take it as it lies, else a copy in the nearest dense layout (4-d)."""
    if not (x.is_contiguous() or is_channels_last(x)):
        if vmapped(x):
            return x  # torch's kernels see another tensor
        x = x.contiguous(memory_format=memory_format(x))
    return _canonical(x)


def like(x: Tensor, pattern: Tensor) -> Tensor:
    """``x`` in the dense layout of ``pattern`` (both 4-d); a copy only where it is in another one."""
    format = torch.contiguous_format if pattern.is_contiguous() else torch.channels_last
    return _canonical(x.contiguous(memory_format=format))


def empty(pattern: Tensor, shape: tuple[int, ...]) -> Tensor:
    """An uninitialised 4-d tensor of ``shape`` in the dense layout of ``pattern``, same dtype and device."""
    format = torch.channels_last if is_channels_last(pattern) else torch.contiguous_format
    return torch.empty(shape, dtype=pattern.dtype, device=pattern.device, memory_format=format)


def accumulate_dtype(dtype: torch.dtype) -> torch.dtype:
    """The dtype of sums and statistics: float64 for float64, float32 otherwise."""
    return torch.float64 if dtype == torch.float64 else torch.float32
