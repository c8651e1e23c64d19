"""Convolution of a reflected image with the reflection in the load: forward, input gradient, weight gradient.

    y[n, o, t, s] = bias[o] + sum over c, kh, kw of
        weight[o, c, kh, kw] x[n, c, reflect(t stride + kh dilation - padding),
                                     reflect(s stride + kw dilation - padding)]

An implicit matrix product: pixels by source channels, times source channels by target channels, added up over the taps;
no padded copy of the image is made. Kinds, chosen by `default_config` from the shape alone:

* tile: one tap and one block of source channels at a time.
* thin_input: few source channels (the first layer of a generator). One kernel row at a time: KW taps times the
  channels, neighbours in memory in NHWC, are one block of the product.
* thin_output: few target channels (its last layer). The KW taps of a row are columns of the product beside the target
  channels, and are then shifted against each other and added.

The input gradient is the same product over the gradient, gathered. A pixel that the padding does not mirror has one
place in the padded image; the pixels that it mirrors, a few rows and columns, go into a launch of their own that visits
up to nine places. So every pixel is written once, after one rounding, and hardly a product is computed in vain; folding
a padded gradient instead would move all of it through memory twice more. Only a thin_output gradient, which is small,
is made in fp32 with its padding, and folded.

The output of kind tile is in registers before it is stored: there its moments (mean and sum of squared deviations of a
tile's pixels, per channel) cost no reading. An instance norm that follows merges them, and saves a pass of its own.

The weight gradient sums over the pixels in `splits` parts, which a second launch adds up in order. Nothing is atomic:
results repeat bitwise. Tiles are pixels by channels in NHWC and channels by pixels in NCHW, so that neighbouring lanes
read neighbouring elements.
"""

from typing import NamedTuple

import torch
import triton
import triton.language as tl

from . import reflection_pad
from ._common import (
    MOST_PARTS,
    MOST_PIXELS,
    accumulator_dtype,
    check_dtype,
    dense_layout,
    divide,
    division_magic,
    launch_options,
    memory_format,
    on_device,
    position,
    reflect,
    shape_of_moments,
)

# Which pixels of the target a launch writes.
ALL, PLAIN, MIRRORED = "all", "plain", "mirrored"


@triton.jit
def _down(v, NCHW: tl.constexpr):
    """`v` along the first axis of a tile; in NCHW, where tiles are transposed, along the last."""
    return v[None, :] if NCHW else v[:, None]


@triton.jit
def _across(v, NCHW: tl.constexpr):
    return v[:, None] if NCHW else v[None, :]


@triton.jit
def _dot(a, b, total, PRECISION: tl.constexpr, WIDEN: tl.constexpr):
    """total + a @ b. WIDEN: operands go to the dtype of the sum, for an interpreter that cannot multiply bf16."""
    if WIDEN:
        a = a.to(total.dtype)
        b = b.to(total.dtype)
    return tl.dot(a, b, total, input_precision=PRECISION, out_dtype=total.dtype)


@triton.jit
def _product(x, w, total, NCHW: tl.constexpr, PRECISION: tl.constexpr, WIDEN: tl.constexpr):
    """total + x @ w, all of them transposed in NCHW."""
    if NCHW:
        total = _dot(w, x, total, PRECISION, WIDEN)
    else:
        total = _dot(x, w, total, PRECISION, WIDEN)
    return total


@triton.jit
def _pixel(sample, i, j, channels, height, width, NCHW: tl.constexpr):
    """Offset of channel 0 of pixel (i, j) of a sample (64 bits)."""
    if NCHW:
        place = sample * channels * (height * width) + (i * width + j)
    else:
        place = (sample * (height * width) + (i * width + j)) * channels
    return place


@triton.jit
def _channel(c, height, width, NCHW: tl.constexpr):
    """Offset of channel c from channel 0."""
    if NCHW:
        c = c.to(tl.int64) * (height * width)
    return c


@triton.jit
def _tap(at, tap, size, pad, stride, dilation, GRADIENT: tl.constexpr):
    """Where in the source one tap of a target finds its factor along one axis, and whether it does.

    Forward: `at` is a row of the output, the source the image. Gradient: a row of the padded image, and the output.
    """
    if GRADIENT:
        reach = at - tap * dilation
        index = reach // stride
        found = (reach >= 0) & (index * stride == reach) & (index < size)
    else:
        index = reflect(at * stride + tap * dilation - pad, size)
        found = index >= 0
    return index, found


@triton.jit
def _shown(index, size, pad, side):
    """Where row `index` shows up in the padded image, and whether: itself (side 0), mirrored above (1), below (2)."""
    place = tl.where(side == 0, index + pad, tl.where(side == 1, pad - index, 2 * size - 2 + pad - index))
    low = tl.where(side == 0, 0, tl.where(side == 1, 1, size - 1 - pad))
    high = tl.where(side == 0, size - 1, tl.where(side == 1, pad, size - 2))
    return place, (index >= low) & (index <= high)


@triton.jit
def _plain(rank, size, pad, count):
    """The rank-th of the `count` rows that have no mirror image: 0, then pad + 1 to size - 2 - pad, then size - 1."""
    return tl.where(rank == 0, 0, tl.where(rank == count - 1, size - 1, rank + pad))


@triton.jit
def _mirrored(rank, size, pad):
    """The rank-th of the rows that have one: 1 to pad and size - 1 - pad to size - 2, which may overlap."""
    first = tl.where(pad == size - 1, 0, 1)
    return first + rank + tl.where(rank >= pad, tl.maximum(size - 2 - 2 * pad, 0), 0)


@triton.jit
def _targets(
    tile,
    batch,
    tall,
    wide,
    pad_h,
    pad_w,
    plain_h,
    plain_w,
    NCHW: tl.constexpr,
    PIXELS: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """Sample (64 bits), row, column and liveness of the pixels of a tile; dead ones stand on a pixel that exists.

    Mirrored pixels of a kind stay together, across the batch: a tile then skips the places that none of them has.
    """
    first = tile.to(tl.int64) * BLOCK
    if PIXELS == "mirrored":
        _, rank, sample = position(first, batch, BLOCK)
        live = rank < tall * wide - plain_h * plain_w
        rank = tl.where(live, rank, 0).to(tl.int32)
        mirrored_h = tall - plain_h
        mirrored_w = wide - plain_w
        rows = mirrored_h * plain_w
        columns = mirrored_w * plain_h
        in_rows = rank < rows
        in_columns = (rank >= rows) & (rank < rows + columns)
        in_corners = rank >= rows + columns
        by_row = rank // tl.maximum(plain_w, 1)
        by_column = tl.where(in_columns, rank - rows, 0) // tl.maximum(plain_h, 1)
        corner = tl.where(in_corners, rank - rows - columns, 0)
        by_corner = corner // tl.maximum(mirrored_w, 1)
        row = tl.where(in_rows, by_row, by_corner)
        row = tl.where(
            in_columns, _plain(rank - rows - by_column * plain_h, tall, pad_h, plain_h), _mirrored(row, tall, pad_h)
        )
        column = tl.where(in_columns, by_column, corner - by_corner * mirrored_w)
        column = tl.where(
            in_rows, _plain(rank - by_row * plain_w, wide, pad_w, plain_w), _mirrored(column, wide, pad_w)
        )
        sample = sample.to(tl.int64)
    else:
        across = plain_w if PIXELS == "plain" else wide
        _, sample, rank = position(first, (plain_h if PIXELS == "plain" else tall) * across, BLOCK)
        live = sample < batch
        sample = tl.where(live, sample, 0)
        row = rank // across
        column = rank - row * across
        if PIXELS == "plain":
            row = _plain(row, tall, pad_h, plain_h)
            column = _plain(column, wide, pad_w, plain_w)
    return sample, row, column, live


@triton.jit
def _finish(total, bias_ptr, y_ptr, n, outputs, place, live, HAS_BIAS: tl.constexpr, step, NCHW: tl.constexpr):
    """Adds the bias of target channels n, stores a tile and returns it; `step`: offset of channel n from channel 0."""
    if HAS_BIAS:
        bias = tl.load(bias_ptr + n, mask=n < outputs, other=0.0).to(total.dtype)
        total += _across(bias, NCHW)
    mask = _down(live, NCHW) & _across(n < outputs, NCHW)
    tl.store(y_ptr + _down(place, NCHW) + _across(step, NCHW), total, mask=mask)
    return total


@triton.jit
def _store_moments(total, y_ptr, moments_ptr, tile, tiles, parts, n, outputs, NCHW: tl.constexpr, COUNT: tl.constexpr):
    """Mean and sum of squared deviations of a tile's COUNT pixels as they were stored, (parts, outputs) to a sample."""
    axis: tl.constexpr = 1 if NCHW else 0
    stored = total.to(y_ptr.dtype.element_ty).to(total.dtype)
    mean = tl.sum(stored, axis=axis) / COUNT
    mean += tl.sum(stored - _across(mean, NCHW), axis=axis) / COUNT  # what the sum's rounding took
    deviation = stored - _across(mean, NCHW)
    square = tl.sum(deviation * deviation, axis=axis)
    tile = tile.to(tl.int64)
    if NCHW:
        place = (tile // parts * outputs + n) * parts + tile % parts
    else:
        place = tile * outputs + n
    tl.store(moments_ptr + place, mean, mask=n < outputs)
    tl.store(moments_ptr + tiles * outputs + place, square, mask=n < outputs)


@triton.jit(do_not_specialize=["batch", "plain_h", "plain_w"])
def _conv_tile(
    x_ptr,
    weight_ptr,
    bias_ptr,
    y_ptr,
    moments_ptr,
    batch,
    channels,
    height,
    width,
    outputs,
    tall,
    wide,
    plain_h,
    plain_w,
    pad_h,
    pad_w,
    stride_h,
    stride_w,
    dilation_h,
    dilation_w,
    KH: tl.constexpr,
    KW: tl.constexpr,
    GRADIENT: tl.constexpr,
    PIXELS: tl.constexpr,
    NCHW: tl.constexpr,
    HAS_BIAS: tl.constexpr,
    EVEN: tl.constexpr,
    MOMENTS: tl.constexpr,
    DTYPE: tl.constexpr,
    PRECISION: tl.constexpr,
    WIDEN: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_K: tl.constexpr,
):
    """BLOCK_M pixels by BLOCK_N channels of the target (batch, outputs, tall, wide) from the source (.., channels,
    height, width) and the weight (outputs, KH, KW, channels). EVEN: BLOCK_K divides the source channels. MOMENTS:
    BLOCK_M divides tall * wide.
    """
    columns = tl.cdiv(outputs, BLOCK_N)
    sample, row, column, live = _targets(
        tl.program_id(0) // columns, batch, tall, wide, pad_h, pad_w, plain_h, plain_w, NCHW, PIXELS, BLOCK_M
    )
    n = (tl.program_id(0) % columns) * BLOCK_N + tl.arange(0, BLOCK_N)
    weights = weight_ptr + _across(tl.minimum(n, outputs - 1) * (KH * KW * channels), NCHW)
    total = tl.zeros((BLOCK_N, BLOCK_M) if NCHW else (BLOCK_M, BLOCK_N), DTYPE)
    blocks = tl.cdiv(channels, BLOCK_K)
    for side in range(0, 9 if PIXELS == "mirrored" else 1):
        steps = KH * KW * blocks
        shown = live
        if GRADIENT:
            p, in_row = _shown(row, tall, pad_h, side // 3)
            q, in_column = _shown(column, wide, pad_w, side % 3)
            shown = live & in_row & in_column
            if PIXELS == "mirrored":
                steps = tl.where(tl.max(shown.to(tl.int32), axis=0) > 0, steps, 0)
        else:
            p = row
            q = column
        for step in range(0, steps):
            tap = step // blocks
            c = (step - tap * blocks) * BLOCK_K + tl.arange(0, BLOCK_K)
            kh = tap // KW
            i, in_row = _tap(p, kh, height, pad_h, stride_h, dilation_h, GRADIENT)
            j, in_column = _tap(q, tap - kh * KW, width, pad_w, stride_w, dilation_w, GRADIENT)
            place = _down(_pixel(sample, i, j, channels, height, width, NCHW), NCHW)
            sources = x_ptr + place + _across(_channel(c, height, width, NCHW), NCHW)
            factors = weights + _down(tap * channels + c, NCHW)
            if EVEN:
                w = tl.load(factors)
            else:
                w = tl.load(factors, mask=_down(c < channels, NCHW), other=0.0)
            if EVEN and not GRADIENT:
                x = tl.load(sources)
            else:
                found = _down(shown & in_row & in_column, NCHW) & _across(c < channels, NCHW)
                x = tl.load(sources, mask=found, other=0.0)
            total = _product(x, w, total, NCHW, PRECISION, WIDEN)
    place = _pixel(sample, row, column, outputs, tall, wide, NCHW)
    total = _finish(total, bias_ptr, y_ptr, n, outputs, place, live, HAS_BIAS, _channel(n, tall, wide, NCHW), NCHW)
    if MOMENTS:
        parts = tall * wide // BLOCK_M
        tile = tl.program_id(0) // columns
        tiles = batch.to(tl.int64) * parts
        _store_moments(total, y_ptr, moments_ptr, tile, tiles, parts, n, outputs, NCHW, BLOCK_M)


@triton.jit(do_not_specialize=["batch", "plain_h", "plain_w"])
def _conv_thin_input(
    x_ptr,
    weight_ptr,
    bias_ptr,
    y_ptr,
    batch,
    height,
    width,
    outputs,
    tall,
    wide,
    plain_h,
    plain_w,
    pad_h,
    pad_w,
    stride_h,
    stride_w,
    dilation_h,
    dilation_w,
    KH: tl.constexpr,
    KW: tl.constexpr,
    CHANNELS: tl.constexpr,
    GRADIENT: tl.constexpr,
    PIXELS: tl.constexpr,
    NCHW: tl.constexpr,
    HAS_BIAS: tl.constexpr,
    DTYPE: tl.constexpr,
    PRECISION: tl.constexpr,
    WIDEN: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_K: tl.constexpr,
):
    """As `_conv_tile`, with KW * CHANNELS <= BLOCK_K: where a kernel row's factors lie in the source's row is worked
    out once, for all kernel rows.
    """
    columns = tl.cdiv(outputs, BLOCK_N)
    sample, row, column, live = _targets(
        tl.program_id(0) // columns, batch, tall, wide, pad_h, pad_w, plain_h, plain_w, NCHW, PIXELS, BLOCK_M
    )
    n = (tl.program_id(0) % columns) * BLOCK_N + tl.arange(0, BLOCK_N)
    k = tl.arange(0, BLOCK_K)
    used = k < KW * CHANNELS
    weights = weight_ptr + _across(tl.minimum(n, outputs - 1) * (KH * KW * CHANNELS), NCHW) + _down(k, NCHW)
    c = _across(_channel(k % CHANNELS, height, width, NCHW), NCHW)
    total = tl.zeros((BLOCK_N, BLOCK_M) if NCHW else (BLOCK_M, BLOCK_N), DTYPE)
    for side in range(0, 9 if PIXELS == "mirrored" else 1):
        rows = KH
        shown = live
        if GRADIENT:
            p, in_row = _shown(row, tall, pad_h, side // 3)
            q, in_column = _shown(column, wide, pad_w, side % 3)
            shown = live & in_row & in_column
            if PIXELS == "mirrored":
                rows = tl.where(tl.max(shown.to(tl.int32), axis=0) > 0, KH, 0)
        else:
            p = row
            q = column
        j, in_column = _tap(_down(q, NCHW), _across(k // CHANNELS, NCHW), width, pad_w, stride_w, dilation_w, GRADIENT)
        found = in_column & _across(used, NCHW) & _down(shown, NCHW)
        offsets = (j if NCHW else j * CHANNELS) + c
        for kh in range(0, rows):
            i, in_row = _tap(p, kh, height, pad_h, stride_h, dilation_h, GRADIENT)
            line = _down(_pixel(sample, i, 0, CHANNELS, height, width, NCHW), NCHW)
            x = tl.load(x_ptr + line + offsets, mask=found & _down(in_row, NCHW), other=0.0)
            w = tl.load(weights + kh * (KW * CHANNELS), mask=_down(used, NCHW), other=0.0)
            total = _product(x, w, total, NCHW, PRECISION, WIDEN)
    place = _pixel(sample, row, column, outputs, tall, wide, NCHW)
    _finish(total, bias_ptr, y_ptr, n, outputs, place, live, HAS_BIAS, _channel(n, tall, wide, NCHW), NCHW)


@triton.jit(do_not_specialize=["batch"])
def _conv_thin_output(
    x_ptr,
    weight_ptr,
    bias_ptr,
    y_ptr,
    batch,
    channels,
    height,
    width,
    outputs,
    tall,
    wide,
    edge_h,
    edge_w,
    dilation_h,
    dilation_w,
    KH: tl.constexpr,
    KW: tl.constexpr,
    GRADIENT: tl.constexpr,
    NCHW: tl.constexpr,
    HAS_BIAS: tl.constexpr,
    DTYPE: tl.constexpr,
    PRECISION: tl.constexpr,
    WIDEN: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_K: tl.constexpr,
    TAPS: tl.constexpr,
    OUTPUTS: tl.constexpr,
):
    """Stride 1. TAPS >= KW taps by OUTPUTS >= outputs channels (powers of two) are the columns of the product; its rows
    are BLOCK_M neighbours of the source, extended by edge_h and edge_w on every side: reflected, or in the gradient,
    whose target is the padded image and whose kernel is turned round, zero.
    """
    reach = (KW - 1) * dilation_w
    across = wide + reach
    first = tl.program_id(0).to(tl.int64) * (BLOCK_M - reach)
    _, sample, rank = position(first, tall * across, BLOCK_M)
    live = sample < batch
    sample = tl.where(live, sample, 0)
    row = rank // across
    column = rank - row * across
    m = tl.arange(0, BLOCK_M)
    taps = tl.arange(0, TAPS * OUTPUTS) // OUTPUTS
    o = tl.arange(0, TAPS * OUTPUTS) % OUTPUTS
    present = (taps < KW) & (o < outputs)
    weights = weight_ptr + (o * KH * KW + (KW - 1 - taps if GRADIENT else taps)) * channels
    total = tl.zeros((BLOCK_M, TAPS * OUTPUTS), DTYPE)
    j = column - edge_w
    in_column = live
    if GRADIENT:
        in_column = live & (j >= 0) & (j < width)
    else:
        j = reflect(j, width)
    blocks = tl.cdiv(channels, BLOCK_K)
    for step in range(0, KH * blocks):
        kh = step // blocks
        c = (step - kh * blocks) * BLOCK_K + tl.arange(0, BLOCK_K)
        i = row + kh * dilation_h - edge_h
        found = in_column
        if GRADIENT:
            found = in_column & (i >= 0) & (i < height)
        else:
            i = reflect(i, height)
        place = _down(_pixel(sample, i, j, channels, height, width, NCHW), NCHW)
        mask = _down(found, NCHW) & _across(c < channels, NCHW)
        x = tl.load(x_ptr + place + _across(_channel(c, height, width, NCHW), NCHW), mask=mask, other=0.0)
        if NCHW:
            x = tl.trans(x)
        kernel_row = (KH - 1 - kh if GRADIENT else kh) * (KW * channels)
        mask = (c < channels)[:, None] & present[None, :]
        w = tl.load(weights[None, :] + (kernel_row + c)[:, None], mask=mask, other=0.0)
        total = _dot(x, w, total, PRECISION, WIDEN)
    shifted = tl.minimum(m[:, None] + (taps * dilation_w)[None, :], BLOCK_M - 1)
    total = tl.where(present[None, :], tl.gather(total, shifted, axis=0), 0.0)
    total = tl.sum(tl.reshape(total, (BLOCK_M, TAPS, OUTPUTS)), axis=1)
    n = tl.arange(0, OUTPUTS)
    live = live & (m < BLOCK_M - reach) & (column < wide)
    place = _pixel(sample, row, column, outputs, tall, wide, NCHW)
    _finish(total, bias_ptr, y_ptr, n, outputs, place, live, HAS_BIAS, _channel(n, tall, wide, NCHW), False)


@triton.jit
def _part(split, span, pixels, period):
    """First sample and first pixel in it of one part of the pixels, and how many pixels (below 2^30) the part has."""
    first = split.to(tl.int64) * span
    sample = first // period
    rest = tl.minimum(pixels - first, span).to(tl.int32)
    return sample, (first - sample * period).to(tl.int32), rest


@triton.jit(do_not_specialize=["pixels", "span", "period_magic", "period_shift", "across_magic", "across_shift"])
def _weight_gradient_tile(
    dy_ptr,
    x_ptr,
    parts_ptr,
    pixels,
    span,
    channels,
    height,
    width,
    outputs,
    tall,
    wide,
    period_magic,
    period_shift,
    across_magic,
    across_shift,
    pad_h,
    pad_w,
    stride_h,
    stride_w,
    dilation_h,
    dilation_w,
    KH: tl.constexpr,
    KW: tl.constexpr,
    NCHW: tl.constexpr,
    DTYPE: tl.constexpr,
    PRECISION: tl.constexpr,
    WIDEN: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_K: tl.constexpr,
):
    """One tap, BLOCK_M output by BLOCK_N input channels, summed over `span` of the `pixels` of the gradient."""
    rows = tl.cdiv(outputs, BLOCK_M)
    columns = tl.cdiv(channels, BLOCK_N)
    pid = tl.program_id(0)
    o = (pid % rows) * BLOCK_M + tl.arange(0, BLOCK_M)
    c = (pid // rows % columns) * BLOCK_N + tl.arange(0, BLOCK_N)
    tap = pid // rows // columns % (KH * KW)
    split = pid // rows // columns // (KH * KW)
    kh = tap // KW
    period = tall * wide
    sample0, start, rest = _part(split, span, pixels, period)
    o_step = _across(_channel(o, tall, wide, NCHW), NCHW)
    c_step = _across(_channel(c, height, width, NCHW), NCHW)
    total = tl.zeros((BLOCK_M, BLOCK_N), DTYPE)
    for k in range(0, rest, BLOCK_K):
        local = start + k + tl.arange(0, BLOCK_K)
        live = k + tl.arange(0, BLOCK_K) < rest
        ahead = divide(local, period_magic, period_shift)
        rank = local - ahead * period
        row = divide(rank, across_magic, across_shift)
        column = rank - row * wide
        sample = tl.where(live, sample0 + ahead, 0)
        place = _pixel(sample, row, column, outputs, tall, wide, NCHW)
        mask = _down(live, NCHW) & _across(o < outputs, NCHW)
        dy = tl.load(dy_ptr + _down(place, NCHW) + o_step, mask=mask, other=0.0)
        i, _ = _tap(row, kh, height, pad_h, stride_h, dilation_h, False)
        j, _ = _tap(column, tap - kh * KW, width, pad_w, stride_w, dilation_w, False)
        place = _pixel(sample, i, j, channels, height, width, NCHW)
        mask = _down(live, NCHW) & _across(c < channels, NCHW)
        x = tl.load(x_ptr + _down(place, NCHW) + c_step, mask=mask, other=0.0)
        if NCHW:
            x = tl.trans(x)
        else:
            dy = tl.trans(dy)
        total = _dot(dy, x, total, PRECISION, WIDEN)
    weights = KH * KW * channels
    place = o[:, None] * weights + (tap * channels + c)[None, :]
    mask = (o < outputs)[:, None] & (c < channels)[None, :]
    tl.store(parts_ptr + split.to(tl.int64) * (outputs * weights) + place, total, mask=mask)


@triton.jit(do_not_specialize=["pixels", "span", "period_magic", "period_shift", "across_magic", "across_shift"])
def _weight_gradient_thin(
    dy_ptr,
    x_ptr,
    parts_ptr,
    pixels,
    span,
    channels,
    height,
    width,
    outputs,
    tall,
    wide,
    across,
    period_magic,
    period_shift,
    across_magic,
    across_shift,
    pad_h,
    pad_w,
    stride_h,
    stride_w,
    dilation_h,
    dilation_w,
    KH: tl.constexpr,
    KW: tl.constexpr,
    THIN_INPUT: tl.constexpr,
    NCHW: tl.constexpr,
    DTYPE: tl.constexpr,
    PRECISION: tl.constexpr,
    WIDEN: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_K: tl.constexpr,
):
    """One kernel row: BLOCK_M channels of the wide side by all taps and channels, at most BLOCK_N, of the thin side.

    THIN_INPUT: the wide side is the gradient, and positions are its pixels (across = wide). Otherwise it is the image,
    positions are the columns of the padded image (across = wide + (KW - 1) dilation_w), and the stride is 1; a NaN in a
    column then reaches all taps of the kernel row, those that never see it, too.
    """
    thick = outputs if THIN_INPUT else channels
    thin = channels if THIN_INPUT else outputs
    blocks = tl.cdiv(thick, BLOCK_M)
    pid = tl.program_id(0)
    b = (pid % blocks) * BLOCK_M + tl.arange(0, BLOCK_M)
    kh = pid // blocks % KH
    split = pid // blocks // KH
    r = tl.arange(0, BLOCK_N)
    kw = r // thin
    t = r - kw * thin
    period = tall * across
    sample0, start, rest = _part(split, span, pixels, period)
    total = tl.zeros((BLOCK_M, BLOCK_N), DTYPE)
    for k in range(0, rest, BLOCK_K):
        local = start + k + tl.arange(0, BLOCK_K)
        live = k + tl.arange(0, BLOCK_K) < rest
        ahead = divide(local, period_magic, period_shift)
        rank = local - ahead * period
        row = divide(rank, across_magic, across_shift)
        column = rank - row * across
        sample = tl.where(live, sample0 + ahead, 0)
        i, _ = _tap(row, kh, height, pad_h, stride_h, dilation_h, False)
        if THIN_INPUT:
            place = _pixel(sample, row, column, outputs, tall, wide, NCHW)
            step = _channel(b, tall, wide, NCHW)
            thick_ptr = dy_ptr
            j, _ = _tap(_down(column, NCHW), _across(kw, NCHW), width, pad_w, stride_w, dilation_w, False)
            line = _pixel(sample, i, 0, channels, height, width, NCHW)
            thin_step = _channel(t, height, width, NCHW)
            thin_ptr = x_ptr
            found = j >= 0
        else:
            j, _ = _tap(column, 0, width, pad_w, 1, 1, False)
            place = _pixel(sample, i, j, channels, height, width, NCHW)
            step = _channel(b, height, width, NCHW)
            thick_ptr = x_ptr
            j = _down(column, NCHW) - _across(kw * dilation_w, NCHW)
            line = _pixel(sample, row, 0, outputs, tall, wide, NCHW)
            thin_step = _channel(t, tall, wide, NCHW)
            thin_ptr = dy_ptr
            found = (j >= 0) & (j < wide)
        mask = _down(live, NCHW) & _across(b < thick, NCHW)
        left = tl.load(thick_ptr + _down(place, NCHW) + _across(step, NCHW), mask=mask, other=0.0)
        offsets = (j if NCHW else j * thin) + _across(thin_step, NCHW)
        mask = found & _across(kw < KW, NCHW) & _down(live, NCHW)
        right = tl.load(thin_ptr + _down(line, NCHW) + offsets, mask=mask, other=0.0)
        if NCHW:
            right = tl.trans(right)
        else:
            left = tl.trans(left)
        total = _dot(left, right, total, PRECISION, WIDEN)
    weights = KH * KW * channels
    if THIN_INPUT:
        place = b[:, None] * weights + (kh * KW * channels + r)[None, :]
    else:
        place = (t * weights + (kh * KW + kw) * channels)[None, :] + b[:, None]
    mask = (b < thick)[:, None] & (kw < KW)[None, :]
    tl.store(parts_ptr + split.to(tl.int64) * (outputs * weights) + place, total, mask=mask)


@triton.jit(do_not_specialize=["splits"])
def _sum_parts(parts_ptr, dw_ptr, count, splits, channels, taps, NCHW: tl.constexpr, BLOCK: tl.constexpr):
    """dw (outputs, taps, channels), in NCHW (outputs, channels, taps): `splits` parts of `count` elements in order."""
    index = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    mask = index < count
    total = tl.zeros((BLOCK,), parts_ptr.dtype.element_ty)
    for _ in range(0, splits):
        total += tl.load(parts_ptr + index, mask=mask, other=0.0)
        parts_ptr += count
    place = index
    if NCHW:
        line = index // channels
        o = line // taps
        place = (o * channels + (index - line * channels)) * taps + (line - o * taps)
    tl.store(dw_ptr + place, total, mask=mask)


class Geometry(NamedTuple):
    """Shape of a reflected convolution; pairs are (height, width)."""

    batch: int
    channels: int
    height: int
    width: int
    outputs: int
    kernel: tuple[int, int]
    stride: tuple[int, int]
    padding: tuple[int, int]
    dilation: tuple[int, int]

    @property
    def size(self) -> tuple[int, int]:
        """(H', W') of the output."""
        h, w = (
            (side + 2 * self.padding[axis] - self.dilation[axis] * (self.kernel[axis] - 1) - 1) // self.stride[axis] + 1
            for axis, side in ((0, self.height), (1, self.width))
        )
        return h, w


class Config(NamedTuple):
    """How a product is cut up. Rows m: pixels; of the weight gradient, output channels (kind tile), or the channels of
    the side that is not thin. Columns n: target channels; input channels; taps times channels of the thin side. k: what
    is summed over.
    """

    kind: str  # tile, thin_input, thin_output
    block_m: int
    block_n: int
    block_k: int
    warps: int
    stages: int
    splits: int = 0  # parts of the weight gradient's sum


DIRECTIONS = ("forward", "input_gradient", "weight_gradient")
_PROGRAMS = 264  # 2 on each of 132 multiprocessors; a constant, so that results do not depend on the card
_THIN = 8  # channels
_THIN_BLOCK = 64  # taps of a kernel row times channels, both rounded up to powers of two
_REACH = 32  # pixels between the first and the last tap of a kernel row of kind thin_output


def _power(number: int, least: int = 1, most: int = 1 << 30) -> int:
    return max(least, min(most, triton.next_power_of_2(max(1, number))))


def _ends(direction: str, g: Geometry) -> tuple[int, int]:
    """(source, target) channels."""
    return (g.outputs, g.channels) if direction == "input_gradient" else (g.channels, g.outputs)


def kinds(direction: str, g: Geometry) -> list[str]:
    """The kinds that can compute a direction of a shape, the preferred one first."""
    source, target = _ends(direction, g)
    taps = _power(g.kernel[1])
    found = ["tile"]
    if target <= _THIN < source and g.stride == (1, 1) and taps * _power(target) <= _THIN_BLOCK:
        if (g.kernel[1] - 1) * g.dilation[1] <= _REACH:
            found.insert(0, "thin_output")
    if 0 < source <= _THIN and g.kernel[1] * source <= _THIN_BLOCK:
        found.insert(0, "thin_input")
    return found


def _columns(direction: str, kind: str, layout: str, g: Geometry, most: int) -> int:
    """block_n of a kind: 64 at least in transposed tiles, whose columns are the rows of the tensor core's product."""
    source, target = _ends(direction, g)
    if direction == "weight_gradient":
        thin = {"thin_input": source, "thin_output": target}.get(kind)
        return _power(g.channels, 16, most) if thin is None else _power(g.kernel[1] * thin, 16)
    if kind == "thin_output":
        return _power(_power(g.kernel[1]) * _power(target), 16)
    return _power(target, 64 if layout == "nchw" and most > 32 else 16, most)


def default_config(direction: str, layout: str, g: Geometry, itemsize: int, precision: str = "tf32") -> Config:
    """The configuration for a direction, layout ("nchw", "nhwc"), shape, item size and precision of fp32: a plain
    function of these.
    """
    kind = kinds(direction, g)[0]
    source, target = _ends(direction, g)
    weights = direction == "weight_gradient"
    vectors = all(channels % (16 // itemsize) == 0 for channels in ((source, target) if weights else (source,)))
    # Columns and depth of a tile. Without tensor cores (fp64 has few) operands fill the registers, as do addresses of
    # single elements, where no vector of them lies in one pixel.
    most, depth = {2: (128, 64), 4: (128, 32), 8: (32, 16)}[itemsize]
    exact = itemsize == 4 and precision == "ieee"
    if exact:
        most, depth = 64, 16
    elif not vectors or layout == "nchw" and weights:
        depth = min(depth, 32)
    rows = min(128, 2 * most)
    # Transposed tiles with a mask beside every address spill with triton 3.6, if larger or of fewer warps.
    masked = layout == "nchw" and direction == "input_gradient" and kind == "tile" and itemsize < 8
    if masked:
        rows, most = 64, min(most, 64)
    small = 8192 if itemsize == 2 else 4096  # elements of a tile for 4 warps
    block_n = _columns(direction, kind, layout, g, most)
    if kind == "thin_output" and not weights:
        if layout == "nchw":  # addresses of single elements again
            depth = min(depth, 32)
        config = Config(kind, rows, block_n, depth, 8 if layout == "nchw" or exact else 4, 3)
    elif kind == "thin_input" and not weights:
        # The gradient keeps a mask beside every address; without tensor cores all factors are in registers, too.
        rows = 32 if exact else rows if direction == "forward" else rows // 2
        config = Config(kind, rows, min(block_n, 32 if exact else 64), _power(g.kernel[1] * source, 16), 8, 2)
    elif weights:
        if layout == "nchw" and itemsize == 4:
            block_n = min(block_n, 64)
        block_m = _power(target, rows // 2, rows) if kind == "tile" and not exact else rows // 2
        config = Config(kind, block_m, block_n, depth, 8 if block_m * block_n > small or not vectors or exact else 4, 3)
        programs, pixels = _programs(g, config)
        config = config._replace(splits=max(1, min(_PROGRAMS // programs, pixels // (8 * config.block_k), 64)))
    else:
        config = Config(kind, rows, block_n, _power(source, 16, depth), 8, 3)
        pixels = g.batch * (g.height * g.width if direction == "input_gradient" else g.size[0] * g.size[1])
        while triton.cdiv(pixels, config.block_m) * triton.cdiv(target, config.block_n) < _PROGRAMS // 2:
            if config.block_m <= 64 and config.block_n <= 64:
                break
            config = config._replace(block_m=64) if config.block_m > 64 else config._replace(block_n=64)
        if config.block_m * config.block_n <= small and vectors and itemsize < 8 and not masked:
            config = config._replace(warps=4)
    return config


def _programs(g: Geometry, config: Config) -> tuple[int, int]:
    """Programs of one part of a weight gradient, and the positions that the parts share."""
    tall, wide = g.size
    if config.kind == "tile":
        tiles = (
            triton.cdiv(g.outputs, config.block_m) * triton.cdiv(g.channels, config.block_n) * g.kernel[0] * g.kernel[1]
        )
    else:
        tiles = triton.cdiv(g.outputs if config.kind == "thin_input" else g.channels, config.block_m) * g.kernel[0]
    across = wide + (g.kernel[1] - 1) * g.dilation[1] if config.kind == "thin_output" else wide
    return tiles, g.batch * tall * across


def candidates(direction: str, layout: str, g: Geometry, itemsize: int, precision: str = "tf32") -> list[Config]:
    """The configurations worth measuring for a shape; that of `default_config` comes first."""
    best = default_config(direction, layout, g, itemsize, precision)
    found = [best]
    if best.kind == "thin_input" and direction != "weight_gradient":
        found += [best._replace(block_m=64, warps=warps) for warps in ((4, 8) if direction == "forward" else (8,))]
    elif best.kind != "tile":
        found += [best._replace(stages=stages) for stages in (2, 4)]
        if direction != "weight_gradient" and layout == "nhwc":
            found.append(best._replace(block_m=256, warps=8))
    elif itemsize == 2 or itemsize == 4 and precision == "tf32":
        for block_m in (64, 128):
            for block_n in {64: (64,), 128: (64, 128)}.get(_power(best.block_n, 1, 128), (best.block_n,)):
                small = 8192 if itemsize == 2 and direction != "input_gradient" else 4096
                warps = 8 if block_m * block_n > small else 4
                found += [
                    best._replace(block_m=block_m, block_n=block_n, warps=warps, stages=stages) for stages in (3, 4)
                ]
        wide = layout == "nhwc" and direction != "weight_gradient" and _ends(direction, g)[1] >= 256
        if itemsize == 2 and wide:
            found.append(best._replace(block_m=128, block_n=256, warps=8, stages=3))
    if direction == "weight_gradient":
        shares = (best.splits, max(1, best.splits // 2), 2 * best.splits)
        found = [config._replace(splits=splits) for config in found for splits in shares]
    return list(dict.fromkeys(found))


def geometry(x_shape, weight_shape, stride, padding, dilation) -> Geometry:
    """The shape of a call; ValueError for one that no kernel can take."""
    batch, channels, height, width = x_shape
    outputs, expected, kh, kw = weight_shape
    if expected != channels:
        raise ValueError(
            f"weight {tuple(weight_shape)} needs {expected} input channels, not the {channels} of {tuple(x_shape)}"
        )
    g = Geometry(batch, channels, height, width, outputs, (kh, kw), tuple(stride), tuple(padding), tuple(dilation))
    for side, pad in ((height, g.padding[0]), (width, g.padding[1])):
        if pad < 0 or pad and pad >= side:
            raise ValueError(
                f"padding {g.padding} must be at least 0 and less than the sides of the {height}x{width} image"
            )
    if min(*g.kernel, *g.stride, *g.dilation) < 1:
        raise ValueError(f"kernel {g.kernel}, stride {g.stride} and dilation {g.dilation} must be at least 1")
    if min(g.size) < 1:
        raise ValueError(
            f"a {kh}x{kw} kernel with dilation {g.dilation} does not fit the padded {height}x{width} image"
        )
    if (height + 2 * g.padding[0]) * (width + 2 * g.padding[1]) >= MOST_PIXELS:
        raise ValueError(f"a padded image of {height}x{width} has 2^30 pixels or more: cut it into tiles")
    if outputs * channels * kh * kw >= 2**31:
        raise ValueError(f"a weight of shape {tuple(weight_shape)} has 2^31 elements or more: cut the channels")
    return g


def _check(source: torch.Tensor, other: torch.Tensor, names: tuple[str, str], precision: str) -> str:
    check_dtype(source, names[0])
    if other.dtype != source.dtype:
        raise TypeError(f"{names[1]} must be {source.dtype} as {names[0]} is, not {other.dtype}")
    if precision not in ("tf32", "ieee"):
        raise ValueError(f"precision must be 'tf32' or 'ieee', not {precision!r}")
    return dense_layout(source, names[0])


def _check_gradient(dy: torch.Tensor, g: Geometry, layout: str) -> None:
    if tuple(dy.shape) != (g.batch, g.outputs, *g.size) or not dy.is_contiguous(memory_format=memory_format(layout)):
        raise ValueError(
            f"the gradient must be a dense {layout.upper()} tensor of shape {(g.batch, g.outputs, *g.size)}, "
            f"not {tuple(dy.shape)} with strides {dy.stride()}"
        )


def _constants(source: torch.Tensor, layout: str, g: Geometry, precision: str, config: Config) -> dict:
    """What every product is compiled for."""
    return dict(
        KH=g.kernel[0],
        KW=g.kernel[1],
        NCHW=layout == "nchw",
        DTYPE=tl.float64 if source.dtype == torch.float64 else tl.float32,
        PRECISION=precision if source.dtype == torch.float32 else "ieee",
        WIDEN=source.dtype == torch.bfloat16 and source.device.type == "cpu",
        BLOCK_K=config.block_k,
        num_stages=config.stages,
        **launch_options(config.warps, _registers(source, precision, config, ALL)),
    )


def _operands(source, weight, bias, target) -> dict:
    return dict(
        x_ptr=source,
        weight_ptr=weight,
        bias_ptr=source if bias is None else bias,
        y_ptr=target,
        HAS_BIAS=bias is not None,
    )


def _sizes(source: torch.Tensor, target: torch.Tensor) -> dict:
    _, channels, height, width = source.shape
    batch, outputs, tall, wide = target.shape
    return dict(batch=batch, channels=channels, height=height, width=width, outputs=outputs, tall=tall, wide=wide)


def _geometry_arguments(g: Geometry) -> dict:
    (pad_h, pad_w), (stride_h, stride_w), (dilation_h, dilation_w) = g.padding, g.stride, g.dilation
    return dict(
        pad_h=pad_h, pad_w=pad_w, stride_h=stride_h, stride_w=stride_w, dilation_h=dilation_h, dilation_w=dilation_w
    )


def _registers(source: torch.Tensor, precision: str, config: Config, pixels: str) -> int | None:
    """A bound for the registers of a thread, where the compiler spills without one; see `launch_options`."""
    if source.element_size() == 4 and not _tensor_cores(source, precision):
        programs = (
            2 if config.kind == "tile" and not config.splits else 1
        )  # a multiprocessor; factors are in registers, too
        return min(255, 2048 // config.warps // programs)
    return 255 if pixels == MIRRORED or pixels == PLAIN and config.kind == "tile" and config.warps == 4 else None


def _tensor_cores(source: torch.Tensor, precision: str) -> bool:
    return source.element_size() == 2 or source.dtype == torch.float32 and precision == "tf32"


def _plain_count(side: int, pad: int) -> int:
    """How many rows of an image have no mirror image in its padding."""
    if pad == 0:
        return side
    return 0 if pad == side - 1 else 2 + max(0, side - 2 - 2 * pad)


def _launch(
    source,
    weight,
    bias,
    target,
    g: Geometry,
    layout: str,
    gradient: bool,
    precision: str,
    config: Config,
    moments=None,
) -> None:
    """Runs kind tile or thin_input over the target; weight: (target channels, KH, KW, source channels) in memory.

    moments, for kind tile: what `part_of_moments` describes, to be filled.
    """
    batch, outputs, tall, wide = target.shape
    plain_h, plain_w = _plain_count(tall, g.padding[0]), _plain_count(wide, g.padding[1])
    counts = {ALL: tall * wide}
    if gradient:
        counts = {PLAIN: plain_h * plain_w, MIRRORED: tall * wide - plain_h * plain_w}
    arguments = dict(
        _sizes(source, target),
        **_operands(source, weight, bias, target),
        **_geometry_arguments(g),
        plain_h=plain_h,
        plain_w=plain_w,
        GRADIENT=gradient,
        BLOCK_N=config.block_n,
        **_constants(source, layout, g, precision, config),
    )
    if config.kind == "tile":
        kernel = _conv_tile
        arguments |= dict(
            moments_ptr=target if moments is None else moments,
            EVEN=arguments["channels"] % config.block_k == 0,
            MOMENTS=moments is not None,
        )
    else:
        kernel = _conv_thin_input
        arguments["CHANNELS"] = arguments.pop("channels")
    # Few pixels, many addresses, in NCHW of single elements; without tensor cores the operands, too, are in registers.
    few = 64 if layout == "nhwc" and _tensor_cores(source, precision) else 32
    most = {ALL: config.block_m, PLAIN: config.block_m, MIRRORED: few}
    with on_device(source):
        for pixels, count in counts.items():
            if count == 0:
                continue
            block_m = min(config.block_m, most[pixels])
            arguments |= dict(PIXELS=pixels, BLOCK_M=block_m)
            arguments |= launch_options(config.warps, _registers(source, precision, config, pixels))
            kernel[(triton.cdiv(batch * count, block_m) * triton.cdiv(outputs, config.block_n),)](**arguments)


def _launch_thin_output(
    source,
    weight,
    bias,
    target,
    g: Geometry,
    edge: tuple[int, int],
    layout: str,
    gradient: bool,
    precision: str,
    config: Config,
) -> None:
    batch, outputs, tall, wide = target.shape
    reach = (g.kernel[1] - 1) * g.dilation[1]
    with on_device(source):
        _conv_thin_output[(triton.cdiv(batch * tall * (wide + reach), config.block_m - reach),)](
            **_operands(source, weight, bias, target),
            **_sizes(source, target),
            edge_h=edge[0],
            edge_w=edge[1],
            dilation_h=g.dilation[0],
            dilation_w=g.dilation[1],
            GRADIENT=gradient,
            BLOCK_M=config.block_m,
            TAPS=config.block_n // _power(outputs),
            OUTPUTS=_power(outputs),
            **_constants(source, layout, g, precision, config),
        )


def part_of_moments(
    layout: str, g: Geometry, itemsize: int, precision: str = "tf32", config: Config | None = None
) -> int:
    """Pixels, H' W' / parts, of whose output `forward` can give the moments, in this layout; 0 where it gives none.

    Moments are a tensor in fp32 (fp64 for fp64), shaped by `shape_of_moments`: the mean over a part's pixels of each
    channel, then the sum of their squared deviations from it.
    """
    config = config or default_config("forward", layout, g, itemsize, precision)
    count = g.size[0] * g.size[1]
    fits = config.kind == "tile" and count % config.block_m == 0 and count // config.block_m <= MOST_PARTS
    fits = fits and g.outputs > 1  # the layout of a single channel is both
    fits = fits and config.block_n <= 128  # of wider tiles no second copy fits the registers
    return config.block_m if fits else 0


def forward(
    x: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor | None,
    stride: tuple[int, int],
    padding: tuple[int, int],
    dilation: tuple[int, int],
    precision: str,
    config: Config | None = None,
    moments: torch.Tensor | None = None,
) -> torch.Tensor:
    """(N, O, H', W') from x (N, C, H, W), weight (O, C, KH, KW) and bias (O,) or None; pairs are (height, width).

    x: dense, fp32, bf16, fp16 or fp64, contiguous or channels_last; y keeps dtype and layout. weight: any strides, the
    dtype of x; one that is not channels_last is packed so. precision: of fp32 products, "tf32" or "ieee".
    0 <= padding < (H, W). config: None for the choice of `default_config`. moments: filled as `part_of_moments` says.
    """
    layout = _check(x, weight, ("input", "weight"), precision)
    g = geometry(x.shape, weight.shape, stride, padding, dilation)
    if bias is not None and bias.shape != (g.outputs,):
        raise ValueError(f"bias must have shape ({g.outputs},), a value per output channel, not {tuple(bias.shape)}")
    shape = (g.batch, g.outputs, *g.size)
    y = torch.empty(shape, dtype=x.dtype, device=x.device, memory_format=memory_format(layout))
    config = config or default_config("forward", layout, g, x.element_size(), precision)
    if moments is not None:
        part = part_of_moments(layout, g, x.element_size(), precision, config)
        if not part:
            raise ValueError(f"this convolution leaves no moments: {g}, {config}")
        expected = shape_of_moments(layout, g.batch, g.size[0] * g.size[1] // part, g.outputs)
        if moments.shape != expected or not moments.is_contiguous():
            raise ValueError(f"moments must be a dense tensor of shape {expected}, not {tuple(moments.shape)}")
    if y.numel() == 0:
        return y
    weight = weight.contiguous(memory_format=torch.channels_last)
    bias = None if bias is None else bias.contiguous()
    if config.kind == "thin_output":
        _launch_thin_output(x, weight, bias, y, g, g.padding, layout, False, precision, config)
    else:
        _launch(x, weight, bias, y, g, layout, False, precision, config, moments)
    return y


def input_gradient(
    dy: torch.Tensor,
    weight: torch.Tensor,
    size: tuple[int, int],
    stride: tuple[int, int],
    padding: tuple[int, int],
    dilation: tuple[int, int],
    precision: str,
    channels_last: bool,
    config: Config | None = None,
) -> torch.Tensor:
    """dx (N, C, H, W) of the image `size` = (H, W) from dy (N, O, H', W') and weight, in the dtype of dy.

    `channels_last`: memory layout of dy and dx. Arguments otherwise as for `forward`.
    """
    _check(dy, weight, ("the gradient", "weight"), precision)
    layout = "nhwc" if channels_last else "nchw"
    g = geometry((dy.shape[0], weight.shape[1], *size), weight.shape, stride, padding, dilation)
    _check_gradient(dy, g, layout)
    shape = (g.batch, g.channels, g.height, g.width)
    dx = torch.empty(shape, dtype=dy.dtype, device=dy.device, memory_format=memory_format(layout))
    if dx.numel() == 0:
        return dx
    config = config or default_config("input_gradient", layout, g, dy.element_size(), precision)
    turned = weight.transpose(0, 1).contiguous(memory_format=torch.channels_last)
    if config.kind != "thin_output":
        _launch(dy, turned, None, dx, g, layout, True, precision, config)
        return dx
    top, left = g.padding
    edge = (g.dilation[0] * (g.kernel[0] - 1), g.dilation[1] * (g.kernel[1] - 1))
    padded = torch.empty(
        (g.batch, g.channels, g.height + 2 * top, g.width + 2 * left),
        dtype=accumulator_dtype(dy.dtype),
        device=dy.device,
        memory_format=memory_format(layout),
    )
    _launch_thin_output(dy, turned, None, padded, g, edge, layout, True, precision, config)
    return reflection_pad.backward(padded, left, left, top, top, dtype=dy.dtype)


def weight_gradient(
    dy: torch.Tensor,
    x: torch.Tensor,
    kernel: tuple[int, int],
    stride: tuple[int, int],
    padding: tuple[int, int],
    dilation: tuple[int, int],
    precision: str,
    channels_last: bool,
    config: Config | None = None,
) -> torch.Tensor:
    """dweight (O, C, KH, KW) from dy (N, O, H', W') and x (N, C, H, W), which have one dtype and one layout.

    `channels_last`: memory layout of the result. Arguments otherwise as for `forward`.
    """
    layout = _check(x, dy, ("input", "the gradient"), precision)
    g = geometry(x.shape, (dy.shape[1], x.shape[1], *kernel), stride, padding, dilation)
    _check_gradient(dy, g, layout)
    dw = torch.empty(
        (g.outputs, g.channels, *g.kernel),
        dtype=x.dtype,
        device=x.device,
        memory_format=torch.channels_last if channels_last else torch.contiguous_format,
    )
    if dw.numel() == 0 or dy.numel() == 0:
        return dw.zero_()
    config = config or default_config("weight_gradient", layout, g, x.element_size(), precision)
    tall, wide = g.size
    programs, pixels = _programs(g, config)
    splits = max(1, config.splits, triton.cdiv(pixels, 2**29))
    span = triton.cdiv(triton.cdiv(pixels, splits), config.block_k) * config.block_k
    splits = triton.cdiv(pixels, span)
    parts = torch.empty((splits, dw.numel()), dtype=accumulator_dtype(x.dtype), device=x.device)
    across = pixels // (g.batch * tall)
    period, row = division_magic(tall * across), division_magic(across)
    arguments = dict(
        dy_ptr=dy,
        x_ptr=x,
        parts_ptr=parts,
        pixels=pixels,
        span=span,
        period_magic=period[0],
        period_shift=period[1],
        across_magic=row[0],
        across_shift=row[1],
        channels=g.channels,
        height=g.height,
        width=g.width,
        outputs=g.outputs,
        tall=tall,
        wide=wide,
        BLOCK_M=config.block_m,
        BLOCK_N=config.block_n,
        **_geometry_arguments(g),
        **_constants(x, layout, g, precision, config),
    )
    grid = (programs * splits,)
    with on_device(x):
        if config.kind == "tile":
            _weight_gradient_tile[grid](**arguments)
        else:
            _weight_gradient_thin[grid](**arguments, across=across, THIN_INPUT=config.kind == "thin_input")
        _sum_parts[(triton.cdiv(dw.numel(), 512),)](
            parts,
            dw,
            dw.numel(),
            splits,
            g.channels,
            g.kernel[0] * g.kernel[1],
            NCHW=not channels_last,
            BLOCK=512,
            **launch_options(4),
        )
    return dw
