"""Instance norm's kernels for NHWC; the launchers are in instance_norm.py.

A tile is ROWS pixels by COLS channels; pixel arithmetic is done once per row of the tile, in 64 bits where it addresses
memory (height * width * channels may pass 2^31). Output and folded gradients are gathered.
"""

import triton
import triton.language as tl

from ._common import mirror, reflect
from ._norm import activate, activation_gradient, affine, parameter, rstd_of, welford


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
        mean, square, lanes = welford(x, mask, (p0 - begin) // ROWS, mean, square, lanes)
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
        y = affine((x - mean[None, :]) * rstd[None, :], weight, bias, HAS_WEIGHT, HAS_BIAS)
        y = activate(y, slope, ACTIVATION)
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
    rstd = rstd_of(square, count, eps, DTYPE)
    if split == 0:
        tl.store(mean_ptr + n * channels + c, mean, mask=live)
        tl.store(rstd_ptr + n * channels + c, rstd, mask=live)
        if HAS_VARIANCE:
            tl.store(variance_ptr + n * channels + c, square / (count - 1), mask=live)

    weight = parameter(weight_ptr, c, live, HAS_WEIGHT, DTYPE)
    bias = parameter(bias_ptr, c, live, HAS_BIAS, DTYPE)
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
    dy_interior_ptr,
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
    HAS_INTERIOR: tl.constexpr,
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
        if HAS_INTERIOR:
            inside = (i >= 0) & (i < height) & (j >= 0) & (j < width)
            gradient += tl.load(dy_interior_ptr + place, mask=mask & inside, other=0.0).to(mean.dtype)
        x = tl.load(x_ptr + place, mask=mask, other=0.0).to(mean.dtype)
        n = (x - mean[None, :]) * rstd[None, :]
        gradient = activation_gradient(gradient, affine(n, weight, bias, HAS_WEIGHT, HAS_BIAS), slope, ACTIVATION)
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
    dy_interior_ptr,
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
    HAS_INTERIOR: tl.constexpr,
    HAS_WEIGHT: tl.constexpr,
    HAS_BIAS: tl.constexpr,
    HAS_RESIDUAL: tl.constexpr,
    ACTIVATION: tl.constexpr,
    HALO: tl.constexpr,
    ROWS: tl.constexpr,
):
    """Writes dx (and dresidual) for input pixels begin..end; mirrored rows are read only by tiles that have them."""
    scale = affine(rstd, weight, bias, HAS_WEIGHT, False)
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
        if HAS_INTERIOR:
            gradient += tl.load(dy_interior_ptr + inner, mask=mask, other=0.0).to(mean.dtype)
        if HAS_RESIDUAL:
            tl.store(dresidual_ptr + inner, gradient, mask=mask)
        n = (tl.load(x_ptr + inner, mask=mask, other=0.0).to(mean.dtype) - mean[None, :]) * rstd[None, :]
        gradient = activation_gradient(gradient, affine(n, weight, bias, HAS_WEIGHT, HAS_BIAS), slope, ACTIVATION)
        dx = (gradient - mean_gradient[None, :] - n * mean_dot[None, :]) * scale[None, :]
        tl.store(dx_ptr + inner, dx, mask=mask)


@triton.jit(do_not_specialize=["first_sample", "splits", "tiles"])
def _nhwc_backward_sums(
    dy_ptr,
    dy_interior_ptr,
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
    HAS_INTERIOR: tl.constexpr,
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
    weight = parameter(weight_ptr, c, live, HAS_WEIGHT, DTYPE)
    bias = parameter(bias_ptr, c, live, HAS_BIAS, DTYPE)
    part = tl.cdiv(out_count, splits * ROWS) * ROWS
    begin = split * part
    total, dot = _nhwc_gradient_sums(
        begin,
        tl.minimum(begin + part, out_count),
        dy_ptr + n * out_count * channels,
        dy_interior_ptr + n * height * width * channels,
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
        HAS_INTERIOR,
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
    dy_interior_ptr,
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
    HAS_INTERIOR: tl.constexpr,
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
    weight = parameter(weight_ptr, c, live, HAS_WEIGHT, DTYPE)
    bias = parameter(bias_ptr, c, live, HAS_BIAS, DTYPE)
    x_ptr += n * count * channels
    dy_interior_ptr += n * count * channels
    dy_ptr += n * out_count * channels
    if SPLITS == 0:
        total, dot = _nhwc_gradient_sums(
            0,
            out_count,
            dy_ptr,
            dy_interior_ptr,
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
            HAS_INTERIOR,
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
        dy_interior_ptr,
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
        HAS_INTERIOR,
        HAS_WEIGHT,
        HAS_BIAS,
        HAS_RESIDUAL,
        ACTIVATION,
        HALO,
        ROWS,
    )
