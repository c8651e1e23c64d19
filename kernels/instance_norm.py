"""Instance norm, activation, residual and reflected halo in one pass, forward and backward.

    y = reflect_pad(act(n * weight + bias) + residual, halo),   n = (x - mean) * rstd

with the mean and the biased variance taken over each plane (one sample, one channel), rstd = 1 / sqrt(var + eps)
(Ulyanov, Vedaldi, Lempitsky 2016, eq. 4).

A plane is handled in one of two ways, chosen by `config` from the shape alone:

* by one program (splits == 0). NCHW keeps the plane in registers; NHWC walks a block of channels twice.
* by `splits` programs in two launches: the first writes partial sums, the second merges them, each program for itself
  and in a fixed order, and writes its part of the output. Its programs start from the end, where the cache is warm.
  Where the convolution before took the moments of its output along, the forward pass needs no first launch.

`_forward` and `_backward` kernels are that second launch, and with SPLITS == 0 the whole of the first way.

Statistics are sums of deviations from the plane's first element: exact for data far from zero. Within a lane they are
merged by Welford's recurrence, across lanes and programs by Chan's formula. Nothing is atomic: results repeat bitwise.
"""

from typing import NamedTuple

import torch
import triton
import triton.language as tl

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
    mirror,
    on_device,
    reflect,
    shape_of_moments,
)


@triton.jit
def _activate(z, slope, ACTIVATION: tl.constexpr):
    if ACTIVATION == "relu":
        z = tl.where(z <= 0, 0.0, z)
    elif ACTIVATION == "leaky_relu":
        z = tl.where(z <= 0, z * tl.full((), slope, z.dtype), z)
    return z


@triton.jit
def _activation_gradient(gradient, z, slope, ACTIVATION: tl.constexpr):
    if ACTIVATION == "relu":
        gradient = tl.where(z > 0, gradient, 0.0)
    elif ACTIVATION == "leaky_relu":
        gradient = tl.where(z > 0, gradient, gradient * tl.full((), slope, gradient.dtype))
    return gradient


@triton.jit
def _affine(n, weight, bias, HAS_WEIGHT: tl.constexpr, HAS_BIAS: tl.constexpr):
    if HAS_WEIGHT:
        n = n * weight
    if HAS_BIAS:
        n = n + bias
    return n


@triton.jit
def _parameter(ptr, c, mask, PRESENT: tl.constexpr, DTYPE: tl.constexpr):
    """weight[c] or bias[c]; 1 stands in for an absent one and is never used in arithmetic."""
    if PRESENT:
        value = tl.load(ptr + c, mask=mask).to(DTYPE)
    else:
        value = tl.full((), 1.0, DTYPE)
    return value


@triton.jit
def _welford(x, mask, t, mean, square, lanes):
    """Adds the t-th tile, counted from 0, to each lane's mean, sum of squared deviations and count."""
    deviation = tl.where(mask, x - mean, 0.0)
    mean += deviation * (tl.full((), 1.0, mean.dtype) / (t + 1))
    square += deviation * tl.where(mask, x - mean, 0.0)
    return mean, square, lanes + tl.where(mask, 1.0, 0.0)


@triton.jit
def _rstd(square, count, eps, DTYPE: tl.constexpr):
    """0 for a constant plane without eps, whose deviations then are 0, too."""
    total = square / count + tl.full((), eps, DTYPE)
    return tl.where(total == 0, 0.0, tl.rsqrt(total)).to(DTYPE)


# NCHW. A tile is ROWS vectors of COLS neighbouring pixels; COLS divides the image width, so that a vector lies in one
# image row, its row index costs one division, and loads are as wide as the vector. `width` counts vectors; `magic` and
# `shift` divide by it.


@triton.jit
def _nchw_tile(tile, height, width, magic, shift, ROWS: tl.constexpr, COLS: tl.constexpr):
    """Image row (ROWS, 1), image column (ROWS, COLS) and mask (ROWS, 1) of the pixels of a tile."""
    v = tile * ROWS + tl.arange(0, ROWS)
    i = divide(v, magic, shift)
    j = ((v - i * width) * COLS)[:, None] + tl.arange(0, COLS)[None, :]
    return i[:, None], j, (v < height * width)[:, None]


@triton.jit
def _nchw_sum(tile):
    return tl.sum(tl.sum(tile, axis=1), axis=0)


@triton.jit
def _nchw_merged_lanes(mean, square, lanes, COLS: tl.constexpr):
    """(mean, sum of squared deviations) of all lanes."""
    offset = _nchw_sum(mean * lanes) / (tl.sum(tl.sum(lanes, axis=1), axis=0) * COLS)
    mean -= offset
    return offset, _nchw_sum(square + lanes * mean * mean)


@triton.jit
def _nchw_merged_parts(offset_ptr, square_ptr, first, parts, part, count, SPLITS: tl.constexpr):
    """The same of `parts` partial results from `first` on, of `part` elements each but the last."""
    s = tl.arange(0, SPLITS)
    live = s < parts
    offsets = tl.load(offset_ptr + first + s, mask=live, other=0.0)
    squares = tl.load(square_ptr + first + s, mask=live, other=0.0)
    counts = tl.where(live, tl.minimum(count - s * part, part), 0).to(offsets.dtype)
    offset = tl.sum(counts * offsets, axis=0) / count
    offsets -= offset
    return offset, tl.sum(squares + counts * offsets * offsets, axis=0)


@triton.jit
def _nchw_border_write(
    start,
    step,
    x_ptr,
    residual_ptr,
    y_ptr,
    mean,
    rstd,
    weight,
    bias,
    residual_h,
    height,
    width,
    slope,
    HAS_WEIGHT: tl.constexpr,
    HAS_BIAS: tl.constexpr,
    HAS_RESIDUAL: tl.constexpr,
    ACTIVATION: tl.constexpr,
    HALO: tl.constexpr,
    COLS: tl.constexpr,
    BORDER: tl.constexpr,
):
    """Writes the halo of one plane: tiles start, start + step, ... of BORDER pixels each."""
    pixels = width * COLS
    wide = pixels + 2 * HALO
    rows_part = 2 * HALO * wide
    count = rows_part + 2 * HALO * height
    for tile in range(start, (count + BORDER - 1) // BORDER, step):
        b = tile * BORDER + tl.arange(0, BORDER)
        in_rows = b < rows_part
        row_in_rows = b // wide
        row_in_sides = (b - rows_part) // (2 * HALO)
        col_in_sides = (b - rows_part) - row_in_sides * (2 * HALO)
        row = tl.where(in_rows, tl.where(row_in_rows < HALO, row_in_rows, row_in_rows + height), row_in_sides + HALO)
        col = tl.where(
            in_rows, b - row_in_rows * wide, tl.where(col_in_sides < HALO, col_in_sides, col_in_sides + pixels)
        )
        i = reflect(row - HALO, height)
        j = reflect(col - HALO, pixels)
        mask = b < count
        x = tl.load(x_ptr + i * pixels + j, mask=mask, other=0.0).to(mean.dtype)
        y = _activate(_affine((x - mean) * rstd, weight, bias, HAS_WEIGHT, HAS_BIAS), slope, ACTIVATION)
        if HAS_RESIDUAL:
            y += tl.load(residual_ptr + i.to(tl.int64) * residual_h + j, mask=mask, other=0.0).to(mean.dtype)
        tl.store(y_ptr + row * wide + col, y, mask=mask)


@triton.jit
def _nchw_interior_write(
    x,
    i,
    j,
    mask,
    residual_ptr,
    y_ptr,
    mean,
    rstd,
    weight,
    bias,
    residual_h,
    width,
    slope,
    HAS_WEIGHT: tl.constexpr,
    HAS_BIAS: tl.constexpr,
    HAS_RESIDUAL: tl.constexpr,
    ACTIVATION: tl.constexpr,
    HALO: tl.constexpr,
    COLS: tl.constexpr,
):
    y = _activate(_affine((x - mean) * rstd, weight, bias, HAS_WEIGHT, HAS_BIAS), slope, ACTIVATION)
    if HAS_RESIDUAL:
        y += tl.load(residual_ptr + i.to(tl.int64) * residual_h + j, mask=mask, other=0.0).to(mean.dtype)
    tl.store(y_ptr + (i + HALO) * (width * COLS + 2 * HALO) + (j + HALO), y, mask=mask)


@triton.jit(do_not_specialize=["first_plane", "magic", "shift", "splits", "tiles"])
def _nchw_statistics(
    x_ptr,
    offset_ptr,
    square_ptr,
    first_plane,
    channels,
    height,
    width,
    magic,
    shift,
    splits,
    tiles,
    ROWS: tl.constexpr,
    COLS: tl.constexpr,
):
    """Mean, relative to the plane's first element, and sum of squared deviations of `tiles` tiles of one plane."""
    DTYPE: tl.constexpr = offset_ptr.dtype.element_ty
    pid = tl.program_id(0)
    plane = (first_plane + pid // splits).to(tl.int64)
    split = pid % splits
    vectors = height * width
    x_ptr += plane * (vectors * COLS)
    origin = tl.load(x_ptr).to(DTYPE)
    mean = tl.zeros((ROWS, COLS), DTYPE)
    square = tl.zeros((ROWS, COLS), DTYPE)
    lanes = tl.zeros((ROWS, 1), DTYPE)
    for t in range(0, tiles):
        v = (split * tiles + t) * ROWS + tl.arange(0, ROWS)[:, None]
        mask = v < vectors
        x = tl.load(x_ptr + v * COLS + tl.arange(0, COLS)[None, :], mask=mask, other=0.0).to(DTYPE) - origin
        mean, square, lanes = _welford(x, mask, t, mean, square, lanes)
    offset, square = _nchw_merged_lanes(mean, square, lanes, COLS)
    tl.store(offset_ptr + plane * splits + split, offset)
    tl.store(square_ptr + plane * splits + split, square)


@triton.jit(do_not_specialize=["first_plane", "magic", "shift", "splits", "tiles", "parts", "part"])
def _nchw_forward(
    x_ptr,
    weight_ptr,
    bias_ptr,
    residual_ptr,
    y_ptr,
    mean_ptr,
    rstd_ptr,
    variance_ptr,
    offset_ptr,
    square_ptr,
    first_plane,
    channels,
    height,
    width,
    magic,
    shift,
    splits,
    tiles,
    parts,
    part,
    residual_n,
    residual_c,
    residual_h,
    eps: tl.float64,
    slope: tl.float64,
    HAS_WEIGHT: tl.constexpr,
    HAS_BIAS: tl.constexpr,
    HAS_RESIDUAL: tl.constexpr,
    HAS_VARIANCE: tl.constexpr,
    ACTIVATION: tl.constexpr,
    HALO: tl.constexpr,
    ROWS: tl.constexpr,
    COLS: tl.constexpr,
    BORDER: tl.constexpr,
    SPLITS: tl.constexpr,
    MOMENTS: tl.constexpr,
):
    """Merges the statistics of a plane's `parts` parts and writes the output for `tiles` tiles of it. SPLITS 0: the
    plane is one tile, whose statistics are taken here. MOMENTS: the means of the parts are relative to zero.
    """
    DTYPE: tl.constexpr = mean_ptr.dtype.element_ty
    pid = tl.num_programs(0) - 1 - tl.program_id(0)
    plane = first_plane + pid // splits
    split = pid % splits
    sample = plane // channels
    c = plane % channels
    plane = plane.to(tl.int64)
    count = height * width * COLS
    x_ptr += plane * count
    y_ptr += plane * (height + 2 * HALO) * (width * COLS + 2 * HALO)
    residual_ptr += sample.to(tl.int64) * residual_n + c.to(tl.int64) * residual_c

    if MOMENTS:
        origin = tl.full((), 0.0, DTYPE)
    else:
        origin = tl.load(x_ptr).to(DTYPE)
    if SPLITS == 0:
        i, j, mask = _nchw_tile(0, height, width, magic, shift, ROWS, COLS)
        x = tl.load(x_ptr + i * (width * COLS) + j, mask=mask, other=0.0).to(DTYPE)
        deviation = tl.where(mask, x - origin, 0.0)
        offset = _nchw_sum(deviation) / count
        deviation = tl.where(mask, deviation - offset, 0.0)
        square = _nchw_sum(deviation * deviation)
    else:
        offset, square = _nchw_merged_parts(offset_ptr, square_ptr, plane * parts, parts, part, count, SPLITS)
    mean = origin + offset
    rstd = _rstd(square, count, eps, DTYPE)
    if split == 0:
        tl.store(mean_ptr + plane, mean)
        tl.store(rstd_ptr + plane, rstd)
        if HAS_VARIANCE:
            tl.store(variance_ptr + plane, square / (count - 1))

    weight = _parameter(weight_ptr, c, None, HAS_WEIGHT, DTYPE)
    bias = _parameter(bias_ptr, c, None, HAS_BIAS, DTYPE)
    if SPLITS == 0:
        _nchw_interior_write(
            x,
            i,
            j,
            mask,
            residual_ptr,
            y_ptr,
            mean,
            rstd,
            weight,
            bias,
            residual_h,
            width,
            slope,
            HAS_WEIGHT,
            HAS_BIAS,
            HAS_RESIDUAL,
            ACTIVATION,
            HALO,
            COLS,
        )
    else:
        for t in range(0, tiles):
            i, j, mask = _nchw_tile(split * tiles + t, height, width, magic, shift, ROWS, COLS)
            x = tl.load(x_ptr + i * (width * COLS) + j, mask=mask, other=0.0).to(DTYPE)
            _nchw_interior_write(
                x,
                i,
                j,
                mask,
                residual_ptr,
                y_ptr,
                mean,
                rstd,
                weight,
                bias,
                residual_h,
                width,
                slope,
                HAS_WEIGHT,
                HAS_BIAS,
                HAS_RESIDUAL,
                ACTIVATION,
                HALO,
                COLS,
            )
    if HALO > 0:
        _nchw_border_write(
            split,
            splits,
            x_ptr,
            residual_ptr,
            y_ptr,
            mean,
            rstd,
            weight,
            bias,
            residual_h,
            height,
            width,
            slope,
            HAS_WEIGHT,
            HAS_BIAS,
            HAS_RESIDUAL,
            ACTIVATION,
            HALO,
            COLS,
            BORDER,
        )


@triton.jit
def _nchw_fold_row(dy_ptr, row, j, mask, pixels, DTYPE: tl.constexpr, HALO: tl.constexpr):
    """Gradient that pixel column j receives from one row of the padded plane."""
    line = dy_ptr + row * (pixels + 2 * HALO)
    gradient = tl.load(line + (j + HALO), mask=mask, other=0.0).to(DTYPE)
    if HALO > 0:
        for side in tl.static_range(1, 3):
            col, valid = mirror(j, pixels, HALO, HALO, side)
            gradient += tl.load(line + col, mask=mask & valid, other=0.0).to(DTYPE)
    return gradient


@triton.jit
def _nchw_fold(
    dy_ptr,
    tile,
    i,
    j,
    mask,
    height,
    width,
    DTYPE: tl.constexpr,
    HALO: tl.constexpr,
    ROWS: tl.constexpr,
    COLS: tl.constexpr,
):
    """The padded gradient folded back onto a tile of pixels; mirrored rows are read only by tiles that have them."""
    pixels = width * COLS
    gradient = _nchw_fold_row(dy_ptr, i + HALO, j, mask, pixels, DTYPE, HALO)
    if HALO > 0:
        first = tile * ROWS // width
        last = tl.minimum(tile * ROWS + ROWS, height * width) - 1
        last = last // width
        if (first <= HALO) & (last >= 1):
            row, valid = mirror(i, height, HALO, HALO, 1)
            gradient += _nchw_fold_row(dy_ptr, row, j, mask & valid, pixels, DTYPE, HALO)
        if (last >= height - 1 - HALO) & (first <= height - 2):
            row, valid = mirror(i, height, HALO, HALO, 2)
            gradient += _nchw_fold_row(dy_ptr, row, j, mask & valid, pixels, DTYPE, HALO)
    return gradient


@triton.jit
def _nchw_gradient(
    tile,
    dy_ptr,
    dinner_ptr,
    x_ptr,
    dresidual_ptr,
    mean,
    rstd,
    weight,
    bias,
    height,
    width,
    magic,
    shift,
    slope,
    HAS_INNER: tl.constexpr,
    HAS_WEIGHT: tl.constexpr,
    HAS_BIAS: tl.constexpr,
    HAS_RESIDUAL: tl.constexpr,
    ACTIVATION: tl.constexpr,
    HALO: tl.constexpr,
    ROWS: tl.constexpr,
    COLS: tl.constexpr,
):
    """(g, n, place in the plane, mask) of a tile's pixels, g behind the activation; writes what the residual gets."""
    i, j, mask = _nchw_tile(tile, height, width, magic, shift, ROWS, COLS)
    place = i * (width * COLS) + j
    x = tl.load(x_ptr + place, mask=mask, other=0.0).to(mean.dtype)
    gradient = _nchw_fold(dy_ptr, tile, i, j, mask, height, width, mean.dtype, HALO, ROWS, COLS)
    if HAS_INNER:
        gradient += tl.load(dinner_ptr + place, mask=mask, other=0.0).to(mean.dtype)
    if HAS_RESIDUAL:
        tl.store(dresidual_ptr + place, gradient, mask=mask)
    n = (x - mean) * rstd
    z = _affine(n, weight, bias, HAS_WEIGHT, HAS_BIAS)
    return _activation_gradient(gradient, z, slope, ACTIVATION), n, place, mask


@triton.jit(do_not_specialize=["first_plane", "magic", "shift", "splits", "tiles"])
def _nchw_backward_sums(
    dy_ptr,
    dinner_ptr,
    x_ptr,
    mean_ptr,
    rstd_ptr,
    weight_ptr,
    bias_ptr,
    sums_ptr,
    dots_ptr,
    first_plane,
    channels,
    height,
    width,
    magic,
    shift,
    splits,
    tiles,
    slope: tl.float64,
    HAS_INNER: tl.constexpr,
    HAS_WEIGHT: tl.constexpr,
    HAS_BIAS: tl.constexpr,
    ACTIVATION: tl.constexpr,
    HALO: tl.constexpr,
    ROWS: tl.constexpr,
    COLS: tl.constexpr,
):
    """Partial sums of g and g * n over `tiles` tiles of one plane."""
    DTYPE: tl.constexpr = mean_ptr.dtype.element_ty
    pid = tl.program_id(0)
    plane = first_plane + pid // splits
    split = pid % splits
    c = plane % channels
    plane = plane.to(tl.int64)
    x_ptr += plane * (height * width * COLS)
    dinner_ptr += plane * (height * width * COLS)
    dy_ptr += plane * (height + 2 * HALO) * (width * COLS + 2 * HALO)
    mean = tl.load(mean_ptr + plane)
    rstd = tl.load(rstd_ptr + plane)
    weight = _parameter(weight_ptr, c, None, HAS_WEIGHT, DTYPE)
    bias = _parameter(bias_ptr, c, None, HAS_BIAS, DTYPE)
    total = tl.zeros((ROWS, COLS), DTYPE)
    dot = tl.zeros((ROWS, COLS), DTYPE)
    for t in range(0, tiles):
        gradient, n, _, _ = _nchw_gradient(
            split * tiles + t,
            dy_ptr,
            dinner_ptr,
            x_ptr,
            x_ptr,
            mean,
            rstd,
            weight,
            bias,
            height,
            width,
            magic,
            shift,
            slope,
            HAS_INNER,
            HAS_WEIGHT,
            HAS_BIAS,
            False,
            ACTIVATION,
            HALO,
            ROWS,
            COLS,
        )
        total += gradient
        dot += gradient * n
    tl.store(sums_ptr + plane * splits + split, _nchw_sum(total))
    tl.store(dots_ptr + plane * splits + split, _nchw_sum(dot))


@triton.jit(do_not_specialize=["first_plane", "magic", "shift", "splits", "tiles"])
def _nchw_backward(
    dy_ptr,
    dinner_ptr,
    x_ptr,
    mean_ptr,
    rstd_ptr,
    weight_ptr,
    bias_ptr,
    dx_ptr,
    dresidual_ptr,
    sum_ptr,
    dot_ptr,
    sums_ptr,
    dots_ptr,
    first_plane,
    channels,
    height,
    width,
    magic,
    shift,
    splits,
    tiles,
    slope: tl.float64,
    HAS_INNER: tl.constexpr,
    HAS_WEIGHT: tl.constexpr,
    HAS_BIAS: tl.constexpr,
    HAS_RESIDUAL: tl.constexpr,
    ACTIVATION: tl.constexpr,
    HALO: tl.constexpr,
    ROWS: tl.constexpr,
    COLS: tl.constexpr,
    SPLITS: tl.constexpr,
):
    """Merges the partial sums of a plane and writes dx for `tiles` tiles of it. SPLITS 0: the plane is one tile, and is
    summed here.
    """
    DTYPE: tl.constexpr = mean_ptr.dtype.element_ty
    pid = tl.num_programs(0) - 1 - tl.program_id(0)
    plane = first_plane + pid // splits
    split = pid % splits
    c = plane % channels
    plane = plane.to(tl.int64)
    count = height * width * COLS
    x_ptr += plane * count
    dinner_ptr += plane * count
    dx_ptr += plane * count
    dresidual_ptr += plane * count
    dy_ptr += plane * (height + 2 * HALO) * (width * COLS + 2 * HALO)
    mean = tl.load(mean_ptr + plane)
    rstd = tl.load(rstd_ptr + plane)
    weight = _parameter(weight_ptr, c, None, HAS_WEIGHT, DTYPE)
    bias = _parameter(bias_ptr, c, None, HAS_BIAS, DTYPE)
    if SPLITS == 0:
        gradient, n, place, mask = _nchw_gradient(
            0,
            dy_ptr,
            dinner_ptr,
            x_ptr,
            dresidual_ptr,
            mean,
            rstd,
            weight,
            bias,
            height,
            width,
            magic,
            shift,
            slope,
            HAS_INNER,
            HAS_WEIGHT,
            HAS_BIAS,
            HAS_RESIDUAL,
            ACTIVATION,
            HALO,
            ROWS,
            COLS,
        )
        total = _nchw_sum(gradient)
        dot = _nchw_sum(gradient * n)
    else:
        s = tl.arange(0, SPLITS)
        total = tl.sum(tl.load(sums_ptr + plane * splits + s, mask=s < splits, other=0.0), axis=0)
        dot = tl.sum(tl.load(dots_ptr + plane * splits + s, mask=s < splits, other=0.0), axis=0)
    if split == 0:
        tl.store(sum_ptr + plane, total)
        tl.store(dot_ptr + plane, dot)
    scale = _affine(rstd, weight, bias, HAS_WEIGHT, False)
    if SPLITS == 0:
        tl.store(dx_ptr + place, (gradient - total / count - n * (dot / count)) * scale, mask=mask)
    else:
        for t in range(0, tiles):
            gradient, n, place, mask = _nchw_gradient(
                split * tiles + t,
                dy_ptr,
                dinner_ptr,
                x_ptr,
                dresidual_ptr,
                mean,
                rstd,
                weight,
                bias,
                height,
                width,
                magic,
                shift,
                slope,
                HAS_INNER,
                HAS_WEIGHT,
                HAS_BIAS,
                HAS_RESIDUAL,
                ACTIVATION,
                HALO,
                ROWS,
                COLS,
            )
            tl.store(dx_ptr + place, (gradient - total / count - n * (dot / count)) * scale, mask=mask)


# NHWC. A tile is ROWS pixels by COLS channels; pixel arithmetic is done once per row of the tile, in 64 bits where it
# addresses memory (height * width * channels may pass 2^31). Output and folded gradients are gathered.


@triton.jit
def _nhwc_channels(block, channels, COLS: tl.constexpr, EVEN: tl.constexpr):
    """Channel indices (COLS,) of a block, and their mask; EVEN: no block is ragged, and the mask vanishes."""
    c = block * COLS + tl.arange(0, COLS)
    live = c < channels
    if EVEN:
        live = tl.full((COLS,), True, tl.int1)
    return c, live


@triton.jit
def _nhwc_mean_square(
    x_ptr, origin, begin, end, c, live, channels, DTYPE: tl.constexpr, ROWS: tl.constexpr, COLS: tl.constexpr
):
    """Mean less origin, and sum of squared deviations, of pixels begin..end, per channel."""
    mean = tl.zeros((ROWS, COLS), DTYPE)
    square = tl.zeros((ROWS, COLS), DTYPE)
    lanes = tl.zeros((ROWS, 1), DTYPE)
    for p0 in range(begin, end, ROWS):
        p = p0 + tl.arange(0, ROWS)[:, None]
        mask = p < end
        x = tl.load(x_ptr + p.to(tl.int64) * channels + c[None, :], mask=mask & live[None, :], other=0.0).to(DTYPE)
        x -= origin[None, :]
        mean, square, lanes = _welford(x, mask, (p0 - begin) // ROWS, mean, square, lanes)
    offset = tl.sum(mean * lanes, axis=0) / (end - begin)
    mean -= offset[None, :]
    return offset, tl.sum(square + lanes * mean * mean, axis=0)


@triton.jit
def _nhwc_write(
    begin,
    end,
    x_ptr,
    residual_ptr,
    y_ptr,
    mean,
    rstd,
    weight,
    bias,
    c,
    live,
    residual_h,
    channels,
    height,
    width,
    slope,
    HAS_WEIGHT: tl.constexpr,
    HAS_BIAS: tl.constexpr,
    HAS_RESIDUAL: tl.constexpr,
    ACTIVATION: tl.constexpr,
    HALO: tl.constexpr,
    ROWS: tl.constexpr,
):
    """Writes output pixels begin..end (of the padded image), gathering each from the input pixel it mirrors."""
    wide = width + 2 * HALO
    for o0 in range(begin, end, ROWS):
        o = o0 + tl.arange(0, ROWS)[:, None]
        mask = (o < end) & live[None, :]
        row = o // wide
        i = reflect(row - HALO, height)
        j = reflect(o - row * wide - HALO, width)
        p = i * width + j
        x = tl.load(x_ptr + p.to(tl.int64) * channels + c[None, :], mask=mask, other=0.0).to(mean.dtype)
        y = _affine((x - mean[None, :]) * rstd[None, :], weight, bias, HAS_WEIGHT, HAS_BIAS)
        y = _activate(y, slope, ACTIVATION)
        if HAS_RESIDUAL:
            place = i.to(tl.int64) * residual_h + j.to(tl.int64) * channels
            y += tl.load(residual_ptr + place + c[None, :], mask=mask, other=0.0).to(mean.dtype)
        tl.store(y_ptr + o.to(tl.int64) * channels + c[None, :], y, mask=mask)


@triton.jit(do_not_specialize=["first_sample", "splits", "tiles"])
def _nhwc_statistics(
    x_ptr,
    offset_ptr,
    square_ptr,
    first_sample,
    channels,
    height,
    width,
    splits,
    tiles,
    ROWS: tl.constexpr,
    COLS: tl.constexpr,
    EVEN: tl.constexpr,
):
    """Mean, relative to the first pixel, and sum of squared deviations of `tiles` tiles of pixels, per channel."""
    DTYPE: tl.constexpr = offset_ptr.dtype.element_ty
    blocks = tl.cdiv(channels, COLS)
    pid = tl.program_id(0)
    c, live = _nhwc_channels(pid % blocks, channels, COLS, EVEN)
    split = (pid // blocks) % splits
    n = first_sample + (pid // blocks // splits).to(tl.int64)
    count = height * width
    x_ptr += n * count * channels
    origin = tl.load(x_ptr + c, mask=live, other=0.0).to(DTYPE)
    begin = split * (tiles * ROWS)
    end = tl.minimum(begin + tiles * ROWS, count)
    offset, square = _nhwc_mean_square(x_ptr, origin, begin, end, c, live, channels, DTYPE, ROWS, COLS)
    tl.store(offset_ptr + (n * splits + split) * channels + c, offset, mask=live)
    tl.store(square_ptr + (n * splits + split) * channels + c, square, mask=live)


@triton.jit
def _nhwc_merged_parts(offset_ptr, square_ptr, first, channels, parts, part, count, c, live, SPLITS: tl.constexpr):
    """Mean less origin, and sum of squared deviations, per channel, of `parts` partial results from row `first` on."""
    s = tl.arange(0, SPLITS)[:, None]
    present = (s < parts) & live[None, :]
    place = (first + s) * channels + c[None, :]
    offsets = tl.load(offset_ptr + place, mask=present, other=0.0)
    squares = tl.load(square_ptr + place, mask=present, other=0.0)
    counts = tl.where(s < parts, tl.minimum(count - s * part, part), 0).to(offsets.dtype)
    offset = tl.sum(counts * offsets, axis=0) / count
    offsets -= offset[None, :]
    return offset, tl.sum(squares + counts * offsets * offsets, axis=0)


@triton.jit(do_not_specialize=["first_sample", "splits", "tiles", "parts", "part"])
def _nhwc_forward(
    x_ptr,
    weight_ptr,
    bias_ptr,
    residual_ptr,
    y_ptr,
    mean_ptr,
    rstd_ptr,
    variance_ptr,
    offset_ptr,
    square_ptr,
    first_sample,
    channels,
    height,
    width,
    splits,
    tiles,
    parts,
    part,
    residual_n,
    residual_h,
    eps: tl.float64,
    slope: tl.float64,
    HAS_WEIGHT: tl.constexpr,
    HAS_BIAS: tl.constexpr,
    HAS_RESIDUAL: tl.constexpr,
    HAS_VARIANCE: tl.constexpr,
    ACTIVATION: tl.constexpr,
    HALO: tl.constexpr,
    ROWS: tl.constexpr,
    COLS: tl.constexpr,
    EVEN: tl.constexpr,
    SPLITS: tl.constexpr,
    MOMENTS: tl.constexpr,
):
    """Merges the statistics of a block of channels, of `parts` parts, and writes one of `splits` parts of the output
    pixels. SPLITS 0: takes the statistics, too; the second reading of x comes from cache. MOMENTS: the means of the
    parts are relative to zero.
    """
    DTYPE: tl.constexpr = mean_ptr.dtype.element_ty
    blocks = tl.cdiv(channels, COLS)
    pid = tl.num_programs(0) - 1 - tl.program_id(0)
    c, live = _nhwc_channels(pid % blocks, channels, COLS, EVEN)
    split = (pid // blocks) % splits
    n = first_sample + (pid // blocks // splits).to(tl.int64)
    count = height * width
    out_count = (height + 2 * HALO) * (width + 2 * HALO)
    x_ptr += n * count * channels

    if MOMENTS:
        origin = tl.zeros((COLS,), DTYPE)
    else:
        origin = tl.load(x_ptr + c, mask=live, other=0.0).to(DTYPE)
    if SPLITS == 0:
        offset, square = _nhwc_mean_square(x_ptr, origin, 0, count, c, live, channels, DTYPE, ROWS, COLS)
    else:
        offset, square = _nhwc_merged_parts(
            offset_ptr, square_ptr, n * parts, channels, parts, part, count, c, live, SPLITS
        )
    mean = origin + offset
    rstd = _rstd(square, count, eps, DTYPE)
    if split == 0:
        tl.store(mean_ptr + n * channels + c, mean, mask=live)
        tl.store(rstd_ptr + n * channels + c, rstd, mask=live)
        if HAS_VARIANCE:
            tl.store(variance_ptr + n * channels + c, square / (count - 1), mask=live)

    weight = _parameter(weight_ptr, c, live, HAS_WEIGHT, DTYPE)
    bias = _parameter(bias_ptr, c, live, HAS_BIAS, DTYPE)
    part = tl.cdiv(out_count, splits * ROWS) * ROWS
    begin = split * part
    _nhwc_write(
        begin,
        tl.minimum(begin + part, out_count),
        x_ptr,
        residual_ptr + n * residual_n,
        y_ptr + n * out_count * channels,
        mean,
        rstd,
        weight,
        bias,
        c,
        live,
        residual_h,
        channels,
        height,
        width,
        slope,
        HAS_WEIGHT,
        HAS_BIAS,
        HAS_RESIDUAL,
        ACTIVATION,
        HALO,
        ROWS,
    )


@triton.jit
def _nhwc_gradient_sums(
    begin,
    end,
    dy_ptr,
    dinner_ptr,
    x_ptr,
    mean,
    rstd,
    weight,
    bias,
    c,
    live,
    channels,
    height,
    width,
    slope,
    HAS_INNER: tl.constexpr,
    HAS_WEIGHT: tl.constexpr,
    HAS_BIAS: tl.constexpr,
    ACTIVATION: tl.constexpr,
    HALO: tl.constexpr,
    ROWS: tl.constexpr,
    COLS: tl.constexpr,
):
    """Sums of g and g * n over output pixels begin..end; as folding is linear, dy is read as it lies."""
    total = tl.zeros((ROWS, COLS), mean.dtype)
    dot = tl.zeros((ROWS, COLS), mean.dtype)
    wide = width + 2 * HALO
    for o0 in range(begin, end, ROWS):
        o = o0 + tl.arange(0, ROWS)[:, None]
        mask = (o < end) & live[None, :]
        row = o // wide
        i = row - HALO
        j = o - row * wide - HALO
        place = (reflect(i, height) * width + reflect(j, width)).to(tl.int64) * channels + c[None, :]
        gradient = tl.load(dy_ptr + o.to(tl.int64) * channels + c[None, :], mask=mask, other=0.0).to(mean.dtype)
        if HAS_INNER:
            inside = (i >= 0) & (i < height) & (j >= 0) & (j < width)
            gradient += tl.load(dinner_ptr + place, mask=mask & inside, other=0.0).to(mean.dtype)
        x = tl.load(x_ptr + place, mask=mask, other=0.0).to(mean.dtype)
        n = (x - mean[None, :]) * rstd[None, :]
        gradient = _activation_gradient(gradient, _affine(n, weight, bias, HAS_WEIGHT, HAS_BIAS), slope, ACTIVATION)
        total += gradient
        dot += gradient * n
    return tl.sum(total, axis=0), tl.sum(dot, axis=0)


@triton.jit
def _nhwc_fold_row(dy_ptr, row, j, c, mask, channels, width, DTYPE: tl.constexpr, HALO: tl.constexpr):
    """Gradient that pixel column j receives from one row of the padded image."""
    line = row * (width + 2 * HALO)
    place = (line + j + HALO).to(tl.int64) * channels + c[None, :]
    gradient = tl.load(dy_ptr + place, mask=mask, other=0.0).to(DTYPE)
    if HALO > 0:
        for side in tl.static_range(1, 3):
            col, valid = mirror(j, width, HALO, HALO, side)
            place = (line + col).to(tl.int64) * channels + c[None, :]
            gradient += tl.load(dy_ptr + place, mask=mask & valid, other=0.0).to(DTYPE)
    return gradient


@triton.jit
def _nhwc_gradient_write(
    begin,
    end,
    dy_ptr,
    dinner_ptr,
    x_ptr,
    dx_ptr,
    dresidual_ptr,
    mean,
    rstd,
    weight,
    bias,
    mean_gradient,
    mean_dot,
    c,
    live,
    channels,
    height,
    width,
    slope,
    HAS_INNER: tl.constexpr,
    HAS_WEIGHT: tl.constexpr,
    HAS_BIAS: tl.constexpr,
    HAS_RESIDUAL: tl.constexpr,
    ACTIVATION: tl.constexpr,
    HALO: tl.constexpr,
    ROWS: tl.constexpr,
):
    """Writes dx (and dresidual) for input pixels begin..end; mirrored rows are read only by tiles that have them."""
    scale = _affine(rstd, weight, bias, HAS_WEIGHT, False)
    for p0 in range(begin, end, ROWS):
        p = p0 + tl.arange(0, ROWS)[:, None]
        mask = (p < end) & live[None, :]
        i = p // width
        j = p - i * width
        gradient = _nhwc_fold_row(dy_ptr, i + HALO, j, c, mask, channels, width, mean.dtype, HALO)
        if HALO > 0:
            first = p0 // width
            last = (tl.minimum(p0 + ROWS, end) - 1) // width
            if (first <= HALO) & (last >= 1):
                row, valid = mirror(i, height, HALO, HALO, 1)
                gradient += _nhwc_fold_row(dy_ptr, row, j, c, mask & valid, channels, width, mean.dtype, HALO)
            if (last >= height - 1 - HALO) & (first <= height - 2):
                row, valid = mirror(i, height, HALO, HALO, 2)
                gradient += _nhwc_fold_row(dy_ptr, row, j, c, mask & valid, channels, width, mean.dtype, HALO)
        inner = p.to(tl.int64) * channels + c[None, :]
        if HAS_INNER:
            gradient += tl.load(dinner_ptr + inner, mask=mask, other=0.0).to(mean.dtype)
        if HAS_RESIDUAL:
            tl.store(dresidual_ptr + inner, gradient, mask=mask)
        n = (tl.load(x_ptr + inner, mask=mask, other=0.0).to(mean.dtype) - mean[None, :]) * rstd[None, :]
        gradient = _activation_gradient(gradient, _affine(n, weight, bias, HAS_WEIGHT, HAS_BIAS), slope, ACTIVATION)
        dx = (gradient - mean_gradient[None, :] - n * mean_dot[None, :]) * scale[None, :]
        tl.store(dx_ptr + inner, dx, mask=mask)


@triton.jit(do_not_specialize=["first_sample", "splits", "tiles"])
def _nhwc_backward_sums(
    dy_ptr,
    dinner_ptr,
    x_ptr,
    mean_ptr,
    rstd_ptr,
    weight_ptr,
    bias_ptr,
    sums_ptr,
    dots_ptr,
    first_sample,
    channels,
    height,
    width,
    splits,
    tiles,
    slope: tl.float64,
    HAS_INNER: tl.constexpr,
    HAS_WEIGHT: tl.constexpr,
    HAS_BIAS: tl.constexpr,
    ACTIVATION: tl.constexpr,
    HALO: tl.constexpr,
    ROWS: tl.constexpr,
    COLS: tl.constexpr,
    EVEN: tl.constexpr,
):
    """Partial sums of g and g * n over one of `splits` parts of the output pixels, per channel."""
    DTYPE: tl.constexpr = mean_ptr.dtype.element_ty
    blocks = tl.cdiv(channels, COLS)
    pid = tl.program_id(0)
    c, live = _nhwc_channels(pid % blocks, channels, COLS, EVEN)
    split = (pid // blocks) % splits
    n = first_sample + (pid // blocks // splits).to(tl.int64)
    out_count = (height + 2 * HALO) * (width + 2 * HALO)
    mean = tl.load(mean_ptr + n * channels + c, mask=live, other=0.0)
    rstd = tl.load(rstd_ptr + n * channels + c, mask=live, other=0.0)
    weight = _parameter(weight_ptr, c, live, HAS_WEIGHT, DTYPE)
    bias = _parameter(bias_ptr, c, live, HAS_BIAS, DTYPE)
    part = tl.cdiv(out_count, splits * ROWS) * ROWS
    begin = split * part
    total, dot = _nhwc_gradient_sums(
        begin,
        tl.minimum(begin + part, out_count),
        dy_ptr + n * out_count * channels,
        dinner_ptr + n * height * width * channels,
        x_ptr + n * height * width * channels,
        mean,
        rstd,
        weight,
        bias,
        c,
        live,
        channels,
        height,
        width,
        slope,
        HAS_INNER,
        HAS_WEIGHT,
        HAS_BIAS,
        ACTIVATION,
        HALO,
        ROWS,
        COLS,
    )
    tl.store(sums_ptr + (n * splits + split) * channels + c, total, mask=live)
    tl.store(dots_ptr + (n * splits + split) * channels + c, dot, mask=live)


@triton.jit(do_not_specialize=["first_sample", "splits", "tiles"])
def _nhwc_backward(
    dy_ptr,
    dinner_ptr,
    x_ptr,
    mean_ptr,
    rstd_ptr,
    weight_ptr,
    bias_ptr,
    dx_ptr,
    dresidual_ptr,
    sum_ptr,
    dot_ptr,
    sums_ptr,
    dots_ptr,
    first_sample,
    channels,
    height,
    width,
    splits,
    tiles,
    slope: tl.float64,
    HAS_INNER: tl.constexpr,
    HAS_WEIGHT: tl.constexpr,
    HAS_BIAS: tl.constexpr,
    HAS_RESIDUAL: tl.constexpr,
    ACTIVATION: tl.constexpr,
    HALO: tl.constexpr,
    ROWS: tl.constexpr,
    COLS: tl.constexpr,
    EVEN: tl.constexpr,
    SPLITS: tl.constexpr,
):
    """Merges the partial sums of a block of channels and writes dx for `tiles` tiles of pixels. SPLITS 0: sums, too;
    the second reading of x and dy comes from cache.
    """
    DTYPE: tl.constexpr = mean_ptr.dtype.element_ty
    blocks = tl.cdiv(channels, COLS)
    pid = tl.num_programs(0) - 1 - tl.program_id(0)
    c, live = _nhwc_channels(pid % blocks, channels, COLS, EVEN)
    split = (pid // blocks) % splits
    n = first_sample + (pid // blocks // splits).to(tl.int64)
    count = height * width
    out_count = (height + 2 * HALO) * (width + 2 * HALO)
    mean = tl.load(mean_ptr + n * channels + c, mask=live, other=0.0)
    rstd = tl.load(rstd_ptr + n * channels + c, mask=live, other=0.0)
    weight = _parameter(weight_ptr, c, live, HAS_WEIGHT, DTYPE)
    bias = _parameter(bias_ptr, c, live, HAS_BIAS, DTYPE)
    x_ptr += n * count * channels
    dinner_ptr += n * count * channels
    dy_ptr += n * out_count * channels
    if SPLITS == 0:
        total, dot = _nhwc_gradient_sums(
            0,
            out_count,
            dy_ptr,
            dinner_ptr,
            x_ptr,
            mean,
            rstd,
            weight,
            bias,
            c,
            live,
            channels,
            height,
            width,
            slope,
            HAS_INNER,
            HAS_WEIGHT,
            HAS_BIAS,
            ACTIVATION,
            HALO,
            ROWS,
            COLS,
        )
    else:
        s = tl.arange(0, SPLITS)[:, None]
        present = (s < splits) & live[None, :]
        partial = (n * splits + s) * channels + c[None, :]
        total = tl.sum(tl.load(sums_ptr + partial, mask=present, other=0.0), axis=0)
        dot = tl.sum(tl.load(dots_ptr + partial, mask=present, other=0.0), axis=0)
    if split == 0:
        tl.store(sum_ptr + n * channels + c, total, mask=live)
        tl.store(dot_ptr + n * channels + c, dot, mask=live)
    begin = split * (tiles * ROWS)
    _nhwc_gradient_write(
        begin,
        tl.minimum(begin + tiles * ROWS, count),
        dy_ptr,
        dinner_ptr,
        x_ptr,
        dx_ptr + n * count * channels,
        dresidual_ptr + n * count * channels,
        mean,
        rstd,
        weight,
        bias,
        total / count,
        dot / count,
        c,
        live,
        channels,
        height,
        width,
        slope,
        HAS_INNER,
        HAS_WEIGHT,
        HAS_BIAS,
        HAS_RESIDUAL,
        ACTIVATION,
        HALO,
        ROWS,
    )


class Config(NamedTuple):
    """How a shape is cut up. Tile: NCHW `rows` vectors of `cols` pixels, NHWC `rows` pixels by `cols` channels."""

    rows: int
    cols: int
    warps: int
    splits: int  # programs per plane (NHWC: per sample and block of channels); 0: one program in a single launch
    split_block: int  # a power of two, at least splits; 0 when splits is 0
    samples: int  # samples per pair of launches, so that the second reading is served by the L2 cache


_PROGRAMS = 1056  # 8 on each of 132 multiprocessors; a constant, so that results do not depend on the card
_FILL = 128  # fewer programs than this leave multiprocessors idle
_CACHE_BYTES = 32 << 20


def _tile(direction: str, layout: str, itemsize: int) -> int:
    """Elements of a tile of 8 warps: 16 per lane for NHWC forward, else 8, for want of registers."""
    return (4096 if (direction, layout) == ("forward", "nhwc") else 2048) // (2 if itemsize == 8 else 1)


def _resident(direction: str, itemsize: int, cols: int) -> list[tuple[int, int]]:
    """(elements, warps) of the tiles that hold a whole NCHW plane in registers; larger ones spill."""
    if itemsize == 8:
        return [(size, size // 128) for size in (1024, 2048) if size <= (2048 if direction == "forward" else 1024)]
    if direction == "forward":
        return [(1024, 2), (2048, 4), (4096, 16), (8192, 32)]
    return [(1024, 4), (2048, 8)] + ([(4096, 16)] if cols > 1 else [])  # with an address for each element


# Registers that a thread may take, by the warps of a program that holds a plane: see `launch_options`.
_REGISTERS = {2: 168, 4: 168, 8: 128}


def config(direction: str, layout: str, shape: tuple[int, int, int, int], itemsize: int) -> Config:
    """The configuration for a direction ("forward", "backward"), layout ("nchw", "nhwc"), (N, C, H, W) and item size.

    A plain function of its arguments: same shape, same configuration, same bits, on every card.
    """
    batch, channels, height, width = shape
    count = height * width
    tile = _tile(direction, layout, itemsize)
    sample_bytes = channels * count * itemsize * (1 if direction == "forward" else 2)
    samples = max(1, min(batch, _CACHE_BYTES // max(1, sample_bytes)))

    if layout == "nchw":
        cols = 1 if width % (16 // itemsize) else 16 // itemsize
        resident = [size for size in _resident(direction, itemsize, cols) if size[0] >= count]
        if resident and (count <= 4096 or batch * channels >= _FILL):
            elements, warps = resident[0]
            return Config(elements // cols, cols, warps, 0, 0, batch)
        limit = MOST_PARTS
        parallel = samples * channels
        pixels = tile
    else:
        divisor = channels & -channels
        cols = min(64, divisor if divisor >= 16 else max(8, triton.next_power_of_2(channels)))
        narrow = min(cols, 16)
        if count <= 256 or (count <= 1024 and batch * triton.cdiv(channels, narrow) >= _FILL):
            return Config(tile // 2 // narrow, narrow, 4, 0, 0, batch)
        # Every program reads all partial sums of its channels: no more of them than its own share of the data.
        limit = min(MOST_PARTS, max(1, int((count * itemsize / 8) ** 0.5)))
        while cols > 16 and samples * triton.cdiv(channels, cols) * limit < 2 * _FILL:
            cols //= 2
        parallel = samples * triton.cdiv(channels, cols)
        pixels = tile // cols

    tiles = triton.cdiv(count, pixels)
    splits = max(1, min(tiles, limit, triton.cdiv(_PROGRAMS, parallel)))
    splits = triton.cdiv(tiles, triton.cdiv(tiles, splits))
    return Config(tile // cols, cols, 8, splits, _split_block(layout, splits), samples)


def _split_block(layout: str, splits: int) -> int:
    return 16 if layout == "nhwc" and splits <= 16 else MOST_PARTS


def configurations(direction: str, layout: str, itemsize: int) -> list[Config]:
    """Every tile that `config` can return for an item size, with splits = split_block and samples = 1."""
    tile = _tile(direction, layout, itemsize)
    found = []
    if layout == "nchw":
        for cols in sorted({1, 16 // itemsize}):
            resident = _resident(direction, itemsize, cols)
            found += [Config(size // cols, cols, warps, 0, 0, 1) for size, warps in resident]
            found.append(Config(tile // cols, cols, 8, MOST_PARTS, MOST_PARTS, 1))
    else:
        found += [Config(tile // 2 // cols, cols, 4, 0, 0, 1) for cols in (8, 16)]
        for cols in (8, 16, 32, 64):
            found += [Config(tile // cols, cols, 8, block, block, 1) for block in (16, MOST_PARTS)]
    return found


def candidates(direction: str, layout: str, shape: tuple[int, int, int, int], itemsize: int) -> list[Config]:
    """The configurations worth measuring for (N, C, H, W); in NCHW their vectors divide the image's width."""
    batch, _channels, height, width = shape
    count = height * width
    best = config(direction, layout, shape, itemsize)
    found = [best]
    for cut in configurations(direction, layout, itemsize):
        if not cut.splits:
            if layout == "nhwc" or count <= cut.rows * cut.cols < 4 * count:
                found.append(cut._replace(samples=batch))
        else:
            found += [
                cut._replace(splits=splits, samples=samples)
                for splits in (4, 16, 64)
                if splits <= cut.split_block
                for samples in sorted({best.samples, batch})
            ]
    return [cut for cut in dict.fromkeys(found) if layout == "nhwc" or width % cut.cols == 0]


def _share(count: int, layout: str, cut: Config) -> tuple[int, int]:
    """(splits, tiles): at most cut.splits programs, at least one, of `tiles` tiles each, none without a pixel."""
    tiles = triton.cdiv(count, cut.rows * cut.cols if layout == "nchw" else cut.rows)
    each = triton.cdiv(tiles, max(1, cut.splits))
    return triton.cdiv(tiles, each), each


def _launches(layout: str, shape: tuple[int, int, int, int], cut: Config):
    """(grid, sizes) of each pair of launches over (N, C, H, W); sizes are what all kernels of a layout get."""
    batch, channels, height, width = shape
    splits, tiles = _share(height * width, layout, cut)
    if layout == "nchw":
        blocks, width = channels, width // cut.cols
        plane = (height, width, *division_magic(width))
    else:
        blocks, plane = triton.cdiv(channels, cut.cols), (height, width)
    for first in range(0, batch, cut.samples):
        number = first * channels if layout == "nchw" else first
        yield (min(cut.samples, batch - first) * blocks * splits,), (number, channels, *plane, splits, tiles)


def _partial_sums(like: torch.Tensor, cut: Config) -> tuple[torch.Tensor, torch.Tensor]:
    """Two buffers for what the first launch hands to the second; `like`, of (N, C), stands in where there is none."""
    if not cut.splits:
        return like, like
    return like.new_empty((*like.shape, cut.splits)), like.new_empty((*like.shape, cut.splits))


def _tile_constants(layout: str, channels: int, cut: Config) -> dict:
    """What every kernel of a layout is compiled for."""
    even = {} if layout == "nchw" else {"EVEN": channels % cut.cols == 0}
    registers = _REGISTERS.get(cut.warps) if layout == "nchw" and not cut.splits else None
    return dict(ROWS=cut.rows, COLS=cut.cols, **even, **launch_options(cut.warps, registers))


def _check(x: torch.Tensor, weight, bias, activation: str, halo: int) -> str:
    check_dtype(x, "input")
    layout = dense_layout(x, "input")
    channels, height, width = x.shape[1:]
    for name, parameter in (("weight", weight), ("bias", bias)):
        if parameter is not None and parameter.shape != (channels,):
            raise ValueError(f"{name} must have shape ({channels},), a value per channel, not {tuple(parameter.shape)}")
    if activation not in ("none", "relu", "leaky_relu"):
        raise ValueError(f"activation must be 'none', 'relu' or 'leaky_relu', not {activation!r}")
    if halo < 0 or (halo > 0 and halo >= min(height, width)):
        raise ValueError(f"halo must be 0 or less than both sides of the {height}x{width} image, not {halo}")
    if x.shape[0] * channels >= 2**31:
        raise ValueError(f"{x.shape[0]} samples of {channels} channels are 2^31 planes or more: cut the batch")
    if (height + 2 * halo) * (width + 2 * halo) >= MOST_PIXELS:
        raise ValueError(f"an image of {height}x{width} with halo {halo} has 2^30 pixels or more: cut it into tiles")
    return layout


def _parts(moments: torch.Tensor, x: torch.Tensor, layout: str) -> int:
    """How many parts of each plane of x the moments are of; ValueError for moments of something else."""
    batch, channels, height, width = x.shape
    parts = moments.shape[3 if layout == "nchw" else 2] if moments.dim() == 4 else 0
    fits = 0 < parts <= MOST_PARTS and height * width % parts == 0 and moments.is_contiguous()
    if not fits or moments.shape != shape_of_moments(layout, batch, parts, channels):
        raise ValueError(
            f"moments of shape {tuple(moments.shape)} are not those of the parts of an {layout.upper()} input of shape "
            f"{tuple(x.shape)}"
        )
    if moments.dtype != accumulator_dtype(x.dtype):
        raise ValueError(f"moments must be {accumulator_dtype(x.dtype)}, not {moments.dtype}")
    return parts


def _residual_strides(residual: torch.Tensor, x: torch.Tensor, layout: str) -> tuple[int, int, int]:
    """(stride_n, stride_c, stride_h) of a residual whose rows lie as those of x; ValueError otherwise."""
    channels, height, width = x.shape[1:]
    if residual.shape != x.shape or residual.dtype != x.dtype:
        raise ValueError(
            f"residual must have the input's shape {tuple(x.shape)} and dtype {x.dtype}, "
            f"not {tuple(residual.shape)} and {residual.dtype}"
        )
    n, c, h, w = residual.stride()
    if layout == "nchw":
        fits = width == 1 or w == 1
    else:
        fits = (channels == 1 or c == 1) and (width == 1 or w == channels)
    if not fits:
        raise ValueError(
            f"the rows of residual (strides {residual.stride()}) must lie in memory as those of the input "
            f"(strides {x.stride()}): convert it with .contiguous(memory_format=...) first"
        )
    row = width if layout == "nchw" else width * channels
    return n, c, row if height == 1 else h


def forward(
    x: torch.Tensor,
    weight: torch.Tensor | None,
    bias: torch.Tensor | None,
    residual: torch.Tensor | None,
    eps: float,
    activation: str,
    negative_slope: float,
    halo: int,
    cut: Config | None = None,
    variance: torch.Tensor | None = None,
    moments: torch.Tensor | None = None,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """y (N, C, H + 2 halo, W + 2 halo), and mean and rstd (N, C) in fp32 (fp64 for fp64 input).

    x: dense (N, C, H, W), fp32, bf16, fp16 or fp64, contiguous or channels_last; y keeps dtype and layout.
    weight, bias: (C,) or None. residual: None or shaped as x, its rows dense, its other strides free (a view inside a
    padded tensor will do). `cut` overrides the choice of `config`. variance: shaped as mean, of its dtype and dense, is
    filled with the unbiased variances; x must not be empty. moments: of x, as `reflection_pad_conv2d.forward` gives
    them; where the plane is read by one program anyway, they are not needed.
    """
    layout = _check(x, weight, bias, activation, halo)
    batch, channels, height, width = x.shape
    statistics = accumulator_dtype(x.dtype)
    if moments is not None:
        parts = _parts(moments, x, layout)
    padded = (batch, channels, height + 2 * halo, width + 2 * halo)
    y = torch.empty(padded, dtype=x.dtype, device=x.device, memory_format=memory_format(layout))
    mean = torch.empty((batch, channels), dtype=statistics, device=x.device)
    rstd = torch.empty((batch, channels), dtype=statistics, device=x.device)
    strides = (0, 0, 0) if residual is None else _residual_strides(residual, x, layout)
    if x.numel() == 0:
        return y, mean.fill_(float("nan")), rstd.fill_(float("nan"))
    if halo == 0 and (residual is None or strides[2] == width * (1 if layout == "nchw" else channels)):
        height, width = 1, height * width
    cut = cut or config("forward", layout, (batch, channels, height, width), x.element_size())
    given = moments is not None and cut.splits > 0
    if given:  # no second reading that the cache could serve
        cut = cut._replace(split_block=_split_block(layout, parts), samples=batch)

    tensors = (
        x,
        x if weight is None else weight.contiguous(),
        x if bias is None else bias.contiguous(),
        x if residual is None else residual,
        y,
        mean,
        rstd,
        mean if variance is None else variance,
    )
    flags = dict(
        HAS_WEIGHT=weight is not None,
        HAS_BIAS=bias is not None,
        HAS_RESIDUAL=residual is not None,
        HAS_VARIANCE=variance is not None,
        ACTIVATION=activation,
        HALO=halo,
        SPLITS=cut.split_block,
        MOMENTS=given,
        **_tile_constants(layout, channels, cut),
    )
    scalars = (float(eps), float(negative_slope))
    if layout == "nchw":
        scalars = (*strides, *scalars)
        flags["BORDER"] = 32 * cut.warps
        statistics_kernel, kernel = _nchw_statistics, _nchw_forward
    else:
        scalars = (strides[0], strides[2], *scalars)
        statistics_kernel, kernel = _nhwc_statistics, _nhwc_forward
        if x.dtype == torch.float64:
            flags |= launch_options(cut.warps, 168)
    offset, square = moments if given else _partial_sums(mean, cut)
    splits, tiles = _share(height * width, layout, cut)
    pixels = cut.rows * (cut.cols if layout == "nchw" else 1)
    shares = (parts, height * width // parts) if given else (splits, tiles * pixels)
    with on_device(x):
        for grid, sizes in _launches(layout, (batch, channels, height, width), cut):
            if cut.splits and not given:
                statistics_kernel[grid](x, offset, square, *sizes, **_tile_constants(layout, channels, cut))
            kernel[grid](*tensors, offset, square, *sizes, *shares, *scalars, **flags)
    return y, mean, rstd


def backward(
    dy: torch.Tensor,
    x: torch.Tensor,
    mean: torch.Tensor,
    rstd: torch.Tensor,
    weight: torch.Tensor | None,
    bias: torch.Tensor | None,
    activation: str,
    negative_slope: float,
    halo: int,
    need_dresidual: bool,
    cut: Config | None = None,
    dinner: torch.Tensor | None = None,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """(dx, dweight, dbias, dresidual) from dy (N, C, H + 2 halo, W + 2 halo), in the dtype and layout of x.

    mean, rstd: as `forward` returned them. dx: as x. dweight, dbias: (C,) in the dtype of weight and bias, an empty
    fp32 tensor where that is None. dresidual: dy folded back onto the image, as x, if asked for and halo > 0, else
    empty. `cut` overrides the choice of `config`. dinner: a further gradient of the pixels without their halo, as x,
    for halo > 0; it is added to the folded one.
    """
    layout = _check(x, weight, bias, activation, halo)
    batch, channels, height, width = x.shape
    padded = (batch, channels, height + 2 * halo, width + 2 * halo)
    if dy.shape != padded or dy.dtype != x.dtype or not dy.is_contiguous(memory_format=memory_format(layout)):
        raise ValueError(
            f"the gradient must be a dense {layout.upper()} tensor of shape {padded} and dtype {x.dtype}, "
            f"not {tuple(dy.shape)}, {dy.dtype} with strides {dy.stride()}"
        )
    if dinner is not None:
        if halo == 0:
            raise ValueError("dinner is for a halo, got a halo of 0: add it to dy")
        if dinner.shape != x.shape or dinner.dtype != x.dtype or dense_layout(dinner, "dinner") != layout:
            raise ValueError(
                f"dinner must lie as the input does and be {x.dtype} of shape {tuple(x.shape)}, "
                f"not {tuple(dinner.shape)}, {dinner.dtype} with strides {dinner.stride()}"
            )
    statistics = accumulator_dtype(x.dtype)
    for name, tensor in (("mean", mean), ("rstd", rstd)):
        if tensor.shape != (batch, channels) or tensor.dtype != statistics or not tensor.is_contiguous():
            raise ValueError(f"{name} must be the ({batch}, {channels}) {statistics} tensor that forward returned")
    write_residual = need_dresidual and halo > 0
    dx = torch.empty(x.shape, dtype=x.dtype, device=x.device, memory_format=memory_format(layout))
    dresidual = torch.empty_like(dx) if write_residual else torch.empty(0, dtype=x.dtype, device=x.device)
    total = torch.empty((batch, channels), dtype=statistics, device=x.device)
    dot = torch.empty((batch, channels), dtype=statistics, device=x.device)

    if x.numel() == 0:
        total.zero_()
        dot.zero_()
    else:
        if halo == 0:
            height, width = 1, height * width
        cut = cut or config("backward", layout, (batch, channels, height, width), x.element_size())
        inputs = (
            dy,
            x if dinner is None else dinner,
            x,
            mean,
            rstd,
            x if weight is None else weight.contiguous(),
            x if bias is None else bias.contiguous(),
        )
        outputs = (dx, dresidual if write_residual else dx, total, dot)
        flags = dict(
            HAS_INNER=dinner is not None,
            HAS_WEIGHT=weight is not None,
            HAS_BIAS=bias is not None,
            ACTIVATION=activation,
            HALO=halo,
            **_tile_constants(layout, channels, cut),
        )
        slope = float(negative_slope)
        nchw = layout == "nchw"
        sums_kernel, kernel = (_nchw_backward_sums, _nchw_backward) if nchw else (_nhwc_backward_sums, _nhwc_backward)
        sums, dots = _partial_sums(total, cut)
        with on_device(x):
            for grid, sizes in _launches(layout, (batch, channels, height, width), cut):
                if cut.splits:
                    sums_kernel[grid](*inputs, sums, dots, *sizes, slope, **flags)
                kernel[grid](
                    *inputs,
                    *outputs,
                    sums,
                    dots,
                    *sizes,
                    slope,
                    HAS_RESIDUAL=write_residual,
                    SPLITS=cut.split_block,
                    **flags,
                )

    none = torch.empty(0, dtype=torch.float32, device=x.device)
    dweight = none if weight is None else dot.sum(0).to(weight.dtype)
    dbias = none if bias is None else total.sum(0).to(bias.dtype)
    return dx, dweight, dbias, dresidual
