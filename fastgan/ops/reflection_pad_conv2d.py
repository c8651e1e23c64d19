"""reflection_pad_conv2d: reflected padding by our kernels, then torch's convolution without padding."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from . import reflection_pad
from ._autocast import autocast_dtype

Pair = tuple[int, int]


def reference(
    x: Tensor, weight: Tensor, bias: Tensor | None, stride: Pair, padding: Pair, dilation: Pair, groups: int
) -> Tensor:
    """The definition, in stock torch: pad height by padding[0] and width by padding[1] on both sides, convolve."""
    padded = reflection_pad.reference(x, (padding[1], padding[1], padding[0], padding[0]))
    return F.conv2d(padded, weight, bias, stride, 0, dilation, groups)


def reflection_pad_conv2d(
    x: Tensor, weight: Tensor, bias: Tensor | None, stride: Pair, padding: Pair, dilation: Pair, groups: int
) -> Tensor:
    """The op by the chosen backend; arguments already checked."""
    dtype = autocast_dtype(x)
    if dtype is not None:
        x = x.to(dtype)  # before the copy, which then moves half the bytes
    if any(padding):
        x = reflection_pad.reflection_pad2d(x, (padding[1], padding[1], padding[0], padding[0]))
    return F.conv2d(x, weight, bias, stride, 0, dilation, groups)
