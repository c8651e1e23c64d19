"""torch's convolutions, kept from the calls that its CPU kernels get wrong.

What a random search of torch 2.13 against float64 found, and what is done here instead:

- Weights and images whose dimensions of size 1 have odd strides (an image that lies as H, W, C, a transposed 3 x 1
  kernel) are read by those strides: wrong results, or an error in the backward pass. All operands get the strides of
  new tensors.
- In bfloat16 the gradient of kernel taps that meet no pixel (padding beside a thin image) is uninitialised memory, and
  so are parts of other results of such calls, and of strided ones to a width of 1. They are computed in float32.
- In channels_last the gradient of a transposed convolution of images one pixel wide, to one channel and with a stride
  along the width, is wrong in float32. Such calls are computed in NCHW.
- In channels_last a convolution all of whose taps, along one axis, meet no pixel ends the process, and one of a 1 x 1
  kernel with a stride writes beyond its memory in bfloat16 (weight gradient, two threads); so are parts of the weight
  gradient of a dilated kernel in bfloat16, where channels and width are odd, left as they were. They are computed in
  NCHW.

A result keeps the layout of its image, whatever the layout of the weight.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from ._autocast import without_autocast
from ._layout import dense, holds, like, vmapped

Pair = tuple[int, int]


def conv2d(
    x: Tensor, weight: Tensor, bias: Tensor | None, stride: Pair, padding: Pair, dilation: Pair, groups: int
) -> Tensor:
    """``torch.nn.functional.conv2d`` of x (N, C, H, W), in plain torch ops."""
    if not _fit(x, weight, bias, stride):
        return F.conv2d(x, weight, bias, stride, padding, dilation, groups)
    kernel = weight.shape[2:]
    seen = [(x.shape[2 + i] + 2 * padding[i] - dilation[i] * (kernel[i] - 1) - 1) // stride[i] + 1 for i in (0, 1)]
    detour = _detour(x, x.shape[1:], seen, kernel, stride, padding, dilation)
    return _run(F.conv2d, x, weight, bias, detour, stride, padding, dilation, groups)


def conv_transpose2d(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    stride: Pair,
    padding: Pair,
    output_padding: Pair,
    groups: int,
    dilation: Pair,
) -> Tensor:
    """``torch.nn.functional.conv_transpose2d`` of x (N, C, H, W), in plain torch ops."""
    if not _fit(x, weight, bias, stride):
        return F.conv_transpose2d(x, weight, bias, stride, padding, output_padding, groups, dilation)
    kernel = weight.shape[2:]
    size = [
        (x.shape[2 + i] - 1) * stride[i] - 2 * padding[i] + dilation[i] * (kernel[i] - 1) + output_padding[i] + 1
        for i in (0, 1)
    ]
    image = (weight.shape[1] * groups, *size)
    detour = _detour(x, image, x.shape[2:], kernel, stride, padding, dilation)
    return _run(F.conv_transpose2d, x, weight, bias, detour, stride, padding, output_padding, groups, dilation)


def gradients(
    dy: Tensor,
    x: Tensor,
    weight: Tensor,
    stride: Pair,
    padding: Pair,
    dilation: Pair,
    transposed: bool,
    output_padding: Pair,
    groups: int,
    wanted: tuple[bool, bool, bool],
) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
    """(dx, dweight, dbias) of either, None where not wanted; dx and dweight lie as x and weight do, which are dense."""
    image, seen = (dy, x) if transposed else (x, dy)
    detour = _detour(x, image.shape[1:], seen.shape[2:], weight.shape[2:], stride, padding, dilation)
    dx, dweight, dbias = torch.ops.aten.convolution_backward(
        *(_operand(t, detour) for t in (like(dy, x), x, weight)), [dy.shape[1]], stride, padding, dilation, transposed,
        output_padding, groups, wanted,
    )  # fmt: skip
    return (
        like(dx.to(x.dtype), x) if wanted[0] else None,
        like(dweight.to(x.dtype), weight) if wanted[1] else None,
        dbias.to(x.dtype) if wanted[2] else None,
    )


def plain(x: Tensor) -> bool:
    """Whether x (N, C, H, W) is float32, on the CPU and in NCHW with the strides of a new tensor: in no convolution of
    two such tensors was torch found wrong."""
    if x.dtype is not torch.float32 or x.dim() != 4 or not x.is_cpu:
        return False
    _, c, h, w = x.shape
    return x.stride() == (c * h * w, h * w, w, 1)


def plain_channels_last(x: Tensor) -> bool:
    """The same in channels_last: torch was found wrong only where, along one axis, no tap meets a pixel."""
    if x.dtype is not torch.float32 or x.dim() != 4 or not x.is_cpu or x.is_contiguous():
        return False
    _, c, h, w = x.shape
    return x.stride() == (c * h * w, 1, w * c, c)


def _fit(x: Tensor, weight: Tensor, bias: Tensor | None, stride: Pair) -> bool:
    """Whether the operands may be changed on their way: torch's error for others speaks of what the caller gave."""
    if vmapped(x) or vmapped(weight):  # and torch's kernels see other tensors, whose layout cannot be asked for
        return False
    if x.dim() != 4 or weight.dim() != 4 or min(stride) < 1 or not x.is_floating_point():
        return False
    return weight.dtype == x.dtype and (bias is None or bias.dtype == x.dtype)


# How the operands of a convolution go to torch: as they lie, in NCHW, or in NCHW and float32.
_NONE, _NCHW, _FLOAT32 = range(3)


def _detour(x: Tensor, image, seen, kernel, stride: Pair, padding: Pair, dilation: Pair) -> int:
    """``image`` is (C, H, W) of the one that the taps step over, ``seen`` the size of the other."""
    if x.device.type != "cpu":
        return _NONE
    channels, *size = image
    axes = [(size[i], seen[i], kernel[i], stride[i], padding[i], dilation[i]) for i in (0, 1)]
    beside = any([_may_miss(*axis) for axis in axes])
    to_one_column = stride[1] > 1 and holds(seen[1] == 1)
    if x.dtype in (torch.bfloat16, torch.float16):
        if beside or to_one_column:
            return _FLOAT32
        return _NCHW if max(dilation) > 1 or (max(stride) > 1 and tuple(kernel) == (1, 1)) else _NONE
    if to_one_column and channels == 1:
        return _NCHW
    return _NCHW if beside and any([_misses(*axis) for axis in axes]) else _NONE


def _may_miss(size, seen, kernel, stride, padding, dilation) -> bool:
    """Whether some tap may meet no pixel along an axis: quick, and true a little too often."""
    reach = dilation * (kernel - 1) - padding
    return holds(size < stride) or holds(reach >= size) or holds((seen - 1) * stride < padding)


def _misses(size, seen, kernel, stride, padding, dilation) -> bool:
    """Whether no tap meets a pixel along an axis."""
    return not any(0 <= o * stride - padding + k * dilation < size for o in range(seen) for k in range(kernel))


def _operand(t: Tensor, detour: int) -> Tensor:
    return dense(t) if detour == _NONE else dense((t.float() if detour == _FLOAT32 else t).contiguous())


def _run(function, x: Tensor, weight: Tensor, bias: Tensor | None, detour: int, *geometry) -> Tensor:
    bias = bias.contiguous() if bias is not None else None
    x = dense(x)
    if detour == _NONE:
        # Torch's result is channels_last if one of the two is.
        nchw = x.is_contiguous() and not x.is_contiguous(memory_format=torch.channels_last)
        return function(x, like(weight, x) if nchw else dense(weight), bias, *geometry)
    with without_autocast(x):
        bias = bias.float() if bias is not None and detour == _FLOAT32 else bias
        return like(function(_operand(x, detour), _operand(weight, detour), bias, *geometry).to(x.dtype), x)
