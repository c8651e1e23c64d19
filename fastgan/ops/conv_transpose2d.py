"""conv_transpose2d by phases: stride^2 small convolutions that interleave, with no zero insertion.

Output pixel o of a transposed convolution (stride s, padding p, dilation d, taps k = 0..K-1) is

    y[o] = sum over k with (o + p - k d) divisible by s of  w[k] x[(o + p - k d) / s],

so the pixels of one residue of o modulo s, a phase, see a fixed subset of the taps: an ordinary stride-1 convolution of
x. (Dumoulin and Visin, 2016, describe the operation as a convolution of the zero-inserted input; the phases are its
nonzero part.)
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from . import _backend
from ._autocast import autocast_dtype
from ._layout import dense, empty, is_channels_last, like
from ._library import define, run, with_signature

Pair = tuple[int, int]


class Geometry(NamedTuple):
    """Everything about a transposed convolution but its tensors; pairs are (height, width)."""

    stride: Pair
    padding: Pair
    output_padding: Pair
    groups: int
    dilation: Pair

    def output_size(self, size: Pair, kernel: Pair) -> Pair:
        """(H-1) stride - 2 padding + dilation (k-1) + output_padding + 1, for both axes."""
        h, w = (
            (size[i] - 1) * self.stride[i]
            - 2 * self.padding[i]
            + self.dilation[i] * (kernel[i] - 1)
            + self.output_padding[i]
            + 1
            for i in (0, 1)
        )
        return h, w


def reference(x: Tensor, weight: Tensor, bias: Tensor | None, geometry: Geometry) -> Tensor:
    """The definition, in stock torch: (N, C, H, W), (C, O / groups, kH, kW), (O,) -> (N, O, H', W')."""
    g = geometry
    return F.conv_transpose2d(x, weight, bias, g.stride, g.padding, g.output_padding, g.groups, g.dilation)


class Phase(NamedTuple):
    """One residue of the output along one axis: which taps it sees, and where in the input."""

    taps: tuple[int, ...]  # in the order of a convolution, leftmost input first
    offset: int  # input index of the leftmost tap, for the first output of the phase
    dilation: int  # distance of the taps in the input
    outputs: int  # how many outputs the phase has


def phases(stride: int, padding: int, dilation: int, kernel: int, outputs: int) -> list[Phase]:
    """The ``stride`` phases along one axis, for outputs o = phase, phase + stride, ... < ``outputs``."""
    found = []
    for o in range(min(stride, outputs)):
        taps = tuple(k for k in reversed(range(kernel)) if (o + padding - k * dilation) % stride == 0)
        offset = (o + padding - taps[0] * dilation) // stride if taps else 0
        found.append(Phase(taps, offset, dilation // math.gcd(stride, dilation), len(range(o, outputs, stride))))
    return found


def _by_phases(x: Tensor, weight: Tensor, bias: Tensor | None, geometry: Geometry) -> Tensor:
    """The transposed convolution as one torch convolution a phase; the layout of x is kept."""
    g = geometry
    n, c, h, w = x.shape
    per_group, kh, kw = weight.shape[1:]
    out_h, out_w = g.output_size((h, w), (kh, kw))
    y = empty(x, (n, g.groups * per_group, out_h, out_w))
    # (C, O/groups, kH, kW) -> (O, C/groups, kH, kW): the convolution that shares these weights
    kernel = weight.view(g.groups, c // g.groups, per_group, kh, kw).transpose(1, 2).reshape(-1, c // g.groups, kh, kw)
    columns = phases(g.stride[1], g.padding[1], g.dilation[1], kw, out_w)
    for top, row in enumerate(phases(g.stride[0], g.padding[0], g.dilation[0], kh, out_h)):
        for left, column in enumerate(columns):
            target = y[:, :, top :: g.stride[0], left :: g.stride[1]]
            if not row.taps or not column.taps:
                target.copy_(bias.view(1, -1, 1, 1).expand_as(target)) if bias is not None else target.zero_()
                continue
            window = _window(x, row, column)
            taps = kernel[:, :, list(row.taps)][:, :, :, list(column.taps)]
            if is_channels_last(x):
                taps = taps.contiguous(memory_format=torch.channels_last)
            target.copy_(F.conv2d(window, taps, bias, 1, 0, (row.dilation, column.dilation), g.groups))
    return y


def _window(x: Tensor, row: Phase, column: Phase) -> Tensor:
    """The part of x that the phase reads, with zeros where it reaches over the border."""
    edges = []
    for phase, size in ((column, x.shape[3]), (row, x.shape[2])):
        last = phase.offset + (phase.outputs - 1) + (len(phase.taps) - 1) * phase.dilation
        edges += [-phase.offset, last - (size - 1)]
    return F.pad(x, edges) if any(edges) else x


def _forward(x, weight, bias, stride, padding, output_padding, groups, dilation, backend):
    geometry = Geometry(tuple(stride), tuple(padding), tuple(output_padding), groups, tuple(dilation))
    return _by_phases(x, weight, bias, geometry)


def _forward_fake(x, weight, bias, stride, padding, output_padding, groups, dilation, backend):
    geometry = Geometry(tuple(stride), tuple(padding), tuple(output_padding), groups, tuple(dilation))
    out_h, out_w = geometry.output_size((x.shape[2], x.shape[3]), (weight.shape[2], weight.shape[3]))
    return empty(x, (x.shape[0], groups * weight.shape[1], out_h, out_w))


define(
    "conv_transpose2d(Tensor x, Tensor weight, Tensor? bias, SymInt[2] stride, SymInt[2] padding, "
    "SymInt[2] output_padding, SymInt groups, SymInt[2] dilation, str backend) -> Tensor",
    _forward,
    _forward_fake,
)


@with_signature
class ConvTranspose2d(torch.autograd.Function):
    """The op; its gradients are a convolution and a convolution's weight gradient, torch's own differentiable ops."""

    @staticmethod
    def forward(x, weight, bias, geometry, backend):
        return torch.ops.fastgan.conv_transpose2d(x, weight, bias, *geometry, backend)

    @staticmethod
    def setup_context(ctx, inputs, output):
        x, weight, bias, ctx.geometry, ctx.backend = inputs
        ctx.save_for_backward(x, weight)
        ctx.has_bias = bias is not None

    @staticmethod
    def backward(ctx, dy):
        # Read backwards, the op is the convolution of dy that gives dx: same weights, same geometry. Where
        # output_padding reaches a whole stride (dilation allows it), that convolution sees further inputs: zeros.
        x, weight = ctx.saved_tensors
        stride, padding, output_padding, groups, dilation = ctx.geometry
        h, w = x.shape[2:]
        further = (output_padding[0] // stride[0], output_padding[1] // stride[1])
        dx = dweight = dbias = None
        if ctx.needs_input_grad[0]:
            with torch.autocast(x.device.type, enabled=False):  # in the precision of the forward pass
                dx = F.conv2d(like(dy, x), weight, None, stride, padding, dilation, groups)
            dx = like(dx[:, :, :h, :w], x)
        if ctx.needs_input_grad[1]:
            seen = F.pad(x, (0, further[1], 0, further[0])) if any(further) else x
            dweight = torch.ops.aten.convolution_backward(
                seen, dy, weight, None, stride, padding, dilation, False, (0, 0), groups, (False, True, False)
            )[1]
        if ctx.has_bias and ctx.needs_input_grad[2]:
            dbias = dy.sum((0, 2, 3))
        return dx, dweight, dbias, None, None


def _phases_serve(device: str, dtype: torch.dtype, asked: bool) -> str:
    if asked:
        return ""
    if device == "cpu":
        return "measured slower than torch's transposed convolution on the CPU at every shape tried"
    return "not yet measured against torch's transposed convolution on this device"


_backend.register("conv_transpose2d", phases=_phases_serve)


def conv_transpose2d(x: Tensor, weight: Tensor, bias: Tensor | None, geometry: Geometry) -> Tensor:
    """The op by the chosen backend; arguments already checked."""
    dtype = autocast_dtype(x)
    if dtype is not None:
        x, weight, bias = x.to(dtype), weight.to(dtype), bias.to(dtype) if bias is not None else None
    if _backend.select("conv_transpose2d", x.device.type, x.dtype) == "reference":
        return reference(x, weight, bias, geometry)
    return run(ConvTranspose2d, dense(x), weight, bias, geometry, "phases")
