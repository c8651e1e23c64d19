"""Instance norm's kernels for NCHW; the launchers are in instance_norm.py.

A tile is ROWS vectors of COLS neighbouring pixels; COLS divides the image width, so that a vector lies in one image
row, its row index costs one division, and loads are as wide as the vector. `width` counts vectors; `magic` and `shift`
divide by it.
"""

import triton
import triton.language as tl

from ._common import divide, mirror, reflect
from ._norm import activate, activation_gradient, affine, parameter, rstd_of, welford


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
        y = activate(affine((x - mean) * rstd, weight, bias, HAS_WEIGHT, HAS_BIAS), slope, ACTIVATION)
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
    y = activate(affine((x - mean) * rstd, weight, bias, HAS_WEIGHT, HAS_BIAS), slope, ACTIVATION)
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
        mean, square, lanes = welford(x, mask, t, mean, square, lanes)
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
    rstd = rstd_of(square, count, eps, DTYPE)
    if split == 0:
        tl.store(mean_ptr + plane, mean)
        tl.store(rstd_ptr + plane, rstd)
        if HAS_VARIANCE:
            tl.store(variance_ptr + plane, square / (count - 1))

    weight = parameter(weight_ptr, c, None, HAS_WEIGHT, DTYPE)
    bias = parameter(bias_ptr, c, None, HAS_BIAS, DTYPE)
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
    dy_interior_ptr,
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
    HAS_INTERIOR: tl.constexpr,
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
    if HAS_INTERIOR:
        gradient += tl.load(dy_interior_ptr + place, mask=mask, other=0.0).to(mean.dtype)
    if HAS_RESIDUAL:
        tl.store(dresidual_ptr + place, gradient, mask=mask)
    n = (x - mean) * rstd
    z = affine(n, weight, bias, HAS_WEIGHT, HAS_BIAS)
    return activation_gradient(gradient, z, slope, ACTIVATION), n, place, mask


@triton.jit(do_not_specialize=["first_plane", "magic", "shift", "splits", "tiles"])
def _nchw_backward_sums(
    dy_ptr,
    dy_interior_ptr,
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
    HAS_INTERIOR: tl.constexpr,
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
    dy_interior_ptr += plane * (height * width * COLS)
    dy_ptr += plane * (height + 2 * HALO) * (width * COLS + 2 * HALO)
    mean = tl.load(mean_ptr + plane)
    rstd = tl.load(rstd_ptr + plane)
    weight = parameter(weight_ptr, c, None, HAS_WEIGHT, DTYPE)
    bias = parameter(bias_ptr, c, None, HAS_BIAS, DTYPE)
    total = tl.zeros((ROWS, COLS), DTYPE)
    dot = tl.zeros((ROWS, COLS), DTYPE)
    for t in range(0, tiles):
        gradient, n, _, _ = _nchw_gradient(
            split * tiles + t,
            dy_ptr,
            dy_interior_ptr,
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
            HAS_INTERIOR,
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
    first_plane,
    channels,
    height,
    width,
    magic,
    shift,
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
    dy_interior_ptr += plane * count
    dx_ptr += plane * count
    dresidual_ptr += plane * count
    dy_ptr += plane * (height + 2 * HALO) * (width * COLS + 2 * HALO)
    mean = tl.load(mean_ptr + plane)
    rstd = tl.load(rstd_ptr + plane)
    weight = parameter(weight_ptr, c, None, HAS_WEIGHT, DTYPE)
    bias = parameter(bias_ptr, c, None, HAS_BIAS, DTYPE)
    if SPLITS == 0:
        gradient, n, place, mask = _nchw_gradient(
            0,
            dy_ptr,
            dy_interior_ptr,
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
            HAS_INTERIOR,
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
    scale = affine(rstd, weight, bias, HAS_WEIGHT, False)
    if SPLITS == 0:
        tl.store(dx_ptr + place, (gradient - total / count - n * (dot / count)) * scale, mask=mask)
    else:
        for t in range(0, tiles):
            gradient, n, place, mask = _nchw_gradient(
                split * tiles + t,
                dy_ptr,
                dy_interior_ptr,
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
                HAS_INTERIOR,
                HAS_WEIGHT,
                HAS_BIAS,
                HAS_RESIDUAL,
                ACTIVATION,
                HALO,
                ROWS,
                COLS,
            )
            tl.store(dx_ptr + place, (gradient - total / count - n * (dot / count)) * scale, mask=mask)
