"""Batch norm and activation in one pass, forward and backward, with the statistics of the batch or with constant ones.

    y = act(n * weight + bias),   n = (x - mean) * rstd

per channel, mean and biased variance taken over samples and pixels, rstd = 1 / sqrt(var + eps) (Ioffe and Szegedy 2015,
algorithm 1).

NHWC: a batch is one sample of instance norm with all pixels in a row, and goes to its kernels. NCHW: a channel is an
image whose rows are the samples' planes, far apart; `splits` programs take it in two launches, as those of instance
norm take a plane: partial sums, then their merge in a fixed order, each program for itself. Constant statistics need
one launch, forward and backward. Nothing is atomic: results repeat bitwise.
"""

import torch
import triton
import triton.language as tl

from . import instance_norm
from ._common import (
    MOST_PARTS,
    MOST_PIXELS,
    accumulator_dtype,
    dense_layout,
    division_magic,
    launch_options,
    memory_format,
    on_device,
)
from ._norm import activate, activation_gradient, affine, parameter, rstd_of, welford
from .instance_norm import Config
from .instance_norm_nchw import _nchw_merged_lanes, _nchw_merged_parts, _nchw_sum, _nchw_tile
from .instance_norm_nhwc import _nhwc_channels, _nhwc_write


@triton.jit
def _nchw_place(tile, channels, height, width, magic, shift, ROWS: tl.constexpr, COLS: tl.constexpr):
    """Distance (ROWS, COLS) from a channel's first element of the elements of a tile, and their mask (ROWS, 1)."""
    i, j, mask = _nchw_tile(tile, height, width, magic, shift, ROWS, COLS)
    return i.to(tl.int64) * (channels * (width.to(tl.int64) * COLS)) + j, mask


@triton.jit(do_not_specialize=["height", "width", "magic", "shift", "splits", "tiles"])
def _nchw_batch_statistics(
    x_ptr,
    offset_ptr,
    square_ptr,
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
    """Mean, relative to the channel's first element, and sum of squared deviations of `tiles` tiles of one channel."""
    DTYPE: tl.constexpr = offset_ptr.dtype.element_ty
    pid = tl.program_id(0)
    x_ptr += (pid // splits).to(tl.int64) * width * COLS
    origin = tl.load(x_ptr).to(DTYPE)
    mean = tl.zeros((ROWS, COLS), DTYPE)
    square = tl.zeros((ROWS, COLS), DTYPE)
    lanes = tl.zeros((ROWS, 1), DTYPE)
    for t in range(0, tiles):
        place, mask = _nchw_place((pid % splits) * tiles + t, channels, height, width, magic, shift, ROWS, COLS)
        x = tl.load(x_ptr + place, mask=mask, other=0.0).to(DTYPE) - origin
        mean, square, lanes = welford(x, mask, t, mean, square, lanes)
    offset, square = _nchw_merged_lanes(mean, square, lanes, COLS)
    tl.store(offset_ptr + pid, offset)
    tl.store(square_ptr + pid, square)


@triton.jit(do_not_specialize=["height", "width", "magic", "shift", "splits", "tiles"])
def _nchw_batch_apply(
    x_ptr,
    weight_ptr,
    bias_ptr,
    y_ptr,
    mean_ptr,
    rstd_ptr,
    variance_ptr,
    offset_ptr,
    square_ptr,
    channels,
    height,
    width,
    magic,
    shift,
    splits,
    tiles,
    eps: tl.float64,
    slope: tl.float64,
    HAS_WEIGHT: tl.constexpr,
    HAS_BIAS: tl.constexpr,
    ACTIVATION: tl.constexpr,
    FIXED: tl.constexpr,
    ROWS: tl.constexpr,
    COLS: tl.constexpr,
    SPLITS: tl.constexpr,
):
    """Writes the output for `tiles` tiles of a channel; merges its partial statistics first, unless they are FIXED."""
    DTYPE: tl.constexpr = mean_ptr.dtype.element_ty
    pid = tl.num_programs(0) - 1 - tl.program_id(0)
    c = pid // splits
    split = pid % splits
    plane = c.to(tl.int64) * width * COLS
    if FIXED:
        mean = tl.load(mean_ptr + c)
        rstd = tl.load(rstd_ptr + c)
    else:
        count = height * width * COLS
        part = tiles * ROWS * COLS
        offset, square = _nchw_merged_parts(offset_ptr, square_ptr, c * splits, splits, part, count, SPLITS)
        mean = tl.load(x_ptr + plane).to(DTYPE) + offset
        rstd = rstd_of(square, count, eps, DTYPE)
        if split == 0:
            tl.store(mean_ptr + c, mean)
            tl.store(rstd_ptr + c, rstd)
            tl.store(variance_ptr + c, square / (count - 1))
    weight = parameter(weight_ptr, c, None, HAS_WEIGHT, DTYPE)
    bias = parameter(bias_ptr, c, None, HAS_BIAS, DTYPE)
    for t in range(0, tiles):
        place, mask = _nchw_place(split * tiles + t, channels, height, width, magic, shift, ROWS, COLS)
        x = tl.load(x_ptr + plane + place, mask=mask, other=0.0).to(DTYPE)
        y = activate(affine((x - mean) * rstd, weight, bias, HAS_WEIGHT, HAS_BIAS), slope, ACTIVATION)
        tl.store(y_ptr + plane + place, y, mask=mask)


@triton.jit
def _gradient(
    dy_ptr,
    x_ptr,
    place,
    mask,
    mean,
    rstd,
    weight,
    bias,
    slope,
    HAS_WEIGHT: tl.constexpr,
    HAS_BIAS: tl.constexpr,
    ACTIVATION: tl.constexpr,
):
    """g and n of the elements of a tile."""
    n = (tl.load(x_ptr + place, mask=mask, other=0.0).to(mean.dtype) - mean) * rstd
    gradient = tl.load(dy_ptr + place, mask=mask, other=0.0).to(mean.dtype)
    z = affine(n, weight, bias, HAS_WEIGHT, HAS_BIAS)
    return activation_gradient(gradient, z, slope, ACTIVATION), n


@triton.jit(do_not_specialize=["height", "width", "magic", "shift", "splits", "tiles"])
def _nchw_batch_sums(
    dy_ptr,
    x_ptr,
    mean_ptr,
    rstd_ptr,
    weight_ptr,
    bias_ptr,
    dx_ptr,
    sums_ptr,
    dots_ptr,
    channels,
    height,
    width,
    magic,
    shift,
    splits,
    tiles,
    slope: tl.float64,
    HAS_WEIGHT: tl.constexpr,
    HAS_BIAS: tl.constexpr,
    ACTIVATION: tl.constexpr,
    FIXED: tl.constexpr,
    ROWS: tl.constexpr,
    COLS: tl.constexpr,
):
    """Partial sums of g and g * n over `tiles` tiles of one channel; with FIXED statistics also their dx."""
    DTYPE: tl.constexpr = mean_ptr.dtype.element_ty
    pid = tl.program_id(0)
    c = pid // splits
    plane = c.to(tl.int64) * width * COLS
    mean = tl.load(mean_ptr + c)
    rstd = tl.load(rstd_ptr + c)
    weight = parameter(weight_ptr, c, None, HAS_WEIGHT, DTYPE)
    bias = parameter(bias_ptr, c, None, HAS_BIAS, DTYPE)
    scale = affine(rstd, weight, bias, HAS_WEIGHT, False)
    total = tl.zeros((ROWS, COLS), DTYPE)
    dot = tl.zeros((ROWS, COLS), DTYPE)
    for t in range(0, tiles):
        place, mask = _nchw_place((pid % splits) * tiles + t, channels, height, width, magic, shift, ROWS, COLS)
        gradient, n = _gradient(
            dy_ptr + plane,
            x_ptr + plane,
            place,
            mask,
            mean,
            rstd,
            weight,
            bias,
            slope,
            HAS_WEIGHT,
            HAS_BIAS,
            ACTIVATION,
        )
        if FIXED:
            tl.store(dx_ptr + plane + place, gradient * scale, mask=mask)
        total += gradient
        dot += gradient * n
    tl.store(sums_ptr + pid, _nchw_sum(total))
    tl.store(dots_ptr + pid, _nchw_sum(dot))


@triton.jit(do_not_specialize=["height", "width", "magic", "shift", "splits", "tiles"])
def _nchw_batch_backward(
    dy_ptr,
    x_ptr,
    mean_ptr,
    rstd_ptr,
    weight_ptr,
    bias_ptr,
    dx_ptr,
    sums_ptr,
    dots_ptr,
    sum_ptr,
    dot_ptr,
    channels,
    height,
    width,
    magic,
    shift,
    splits,
    tiles,
    slope: tl.float64,
    HAS_WEIGHT: tl.constexpr,
    HAS_BIAS: tl.constexpr,
    ACTIVATION: tl.constexpr,
    ROWS: tl.constexpr,
    COLS: tl.constexpr,
    SPLITS: tl.constexpr,
):
    """Merges the partial sums of a channel and writes dx for `tiles` tiles of it."""
    DTYPE: tl.constexpr = mean_ptr.dtype.element_ty
    pid = tl.num_programs(0) - 1 - tl.program_id(0)
    c = pid // splits
    split = pid % splits
    plane = c.to(tl.int64) * width * COLS
    mean = tl.load(mean_ptr + c)
    rstd = tl.load(rstd_ptr + c)
    weight = parameter(weight_ptr, c, None, HAS_WEIGHT, DTYPE)
    bias = parameter(bias_ptr, c, None, HAS_BIAS, DTYPE)
    scale = affine(rstd, weight, bias, HAS_WEIGHT, False)
    s = tl.arange(0, SPLITS)
    total = tl.sum(tl.load(sums_ptr + c * splits + s, mask=s < splits, other=0.0), axis=0)
    dot = tl.sum(tl.load(dots_ptr + c * splits + s, mask=s < splits, other=0.0), axis=0)
    if split == 0:
        tl.store(sum_ptr + c, total)
        tl.store(dot_ptr + c, dot)
    count = height * width * COLS
    for t in range(0, tiles):
        place, mask = _nchw_place(split * tiles + t, channels, height, width, magic, shift, ROWS, COLS)
        gradient, n = _gradient(
            dy_ptr + plane,
            x_ptr + plane,
            place,
            mask,
            mean,
            rstd,
            weight,
            bias,
            slope,
            HAS_WEIGHT,
            HAS_BIAS,
            ACTIVATION,
        )
        tl.store(dx_ptr + plane + place, (gradient - total / count - n * (dot / count)) * scale, mask=mask)


@triton.jit(do_not_specialize=["tiles"])
def _nhwc_batch_apply(
    x_ptr,
    weight_ptr,
    bias_ptr,
    y_ptr,
    mean_ptr,
    rstd_ptr,
    channels,
    count,
    tiles,
    slope: tl.float64,
    HAS_WEIGHT: tl.constexpr,
    HAS_BIAS: tl.constexpr,
    ACTIVATION: tl.constexpr,
    ROWS: tl.constexpr,
    COLS: tl.constexpr,
    EVEN: tl.constexpr,
):
    """Writes the output for `tiles` tiles of pixels and a block of channels, from statistics that are constants."""
    DTYPE: tl.constexpr = mean_ptr.dtype.element_ty
    blocks = tl.cdiv(channels, COLS)
    c, live = _nhwc_channels(tl.program_id(0) % blocks, channels, COLS, EVEN)
    mean = tl.load(mean_ptr + c, mask=live, other=0.0)
    rstd = tl.load(rstd_ptr + c, mask=live, other=0.0)
    weight = parameter(weight_ptr, c, live, HAS_WEIGHT, DTYPE)
    bias = parameter(bias_ptr, c, live, HAS_BIAS, DTYPE)
    begin = (tl.program_id(0) // blocks) * (tiles * ROWS)
    _nhwc_write(
        begin,
        tl.minimum(begin + tiles * ROWS, count),
        x_ptr,
        x_ptr,
        y_ptr,
        mean,
        rstd,
        weight,
        bias,
        c,
        live,
        0,
        channels,
        1,
        count,
        slope,
        HAS_WEIGHT,
        HAS_BIAS,
        False,
        ACTIVATION,
        0,
        ROWS,
    )


@triton.jit(do_not_specialize=["tiles"])
def _nhwc_batch_sums(
    dy_ptr,
    x_ptr,
    mean_ptr,
    rstd_ptr,
    weight_ptr,
    bias_ptr,
    dx_ptr,
    sums_ptr,
    dots_ptr,
    channels,
    count,
    tiles,
    slope: tl.float64,
    HAS_WEIGHT: tl.constexpr,
    HAS_BIAS: tl.constexpr,
    ACTIVATION: tl.constexpr,
    ROWS: tl.constexpr,
    COLS: tl.constexpr,
    EVEN: tl.constexpr,
):
    """dx, and partial sums of g and g * n, of `tiles` tiles of pixels, from statistics that are constants."""
    DTYPE: tl.constexpr = mean_ptr.dtype.element_ty
    blocks = tl.cdiv(channels, COLS)
    split = tl.program_id(0) // blocks
    c, live = _nhwc_channels(tl.program_id(0) % blocks, channels, COLS, EVEN)
    mean = tl.load(mean_ptr + c, mask=live, other=0.0)[None, :]
    rstd = tl.load(rstd_ptr + c, mask=live, other=0.0)[None, :]
    weight = parameter(weight_ptr, c, live, HAS_WEIGHT, DTYPE)
    bias = parameter(bias_ptr, c, live, HAS_BIAS, DTYPE)
    scale = affine(rstd, weight, bias, HAS_WEIGHT, False)
    total = tl.zeros((ROWS, COLS), DTYPE)
    dot = tl.zeros((ROWS, COLS), DTYPE)
    begin = split * (tiles * ROWS)
    for p0 in range(begin, tl.minimum(begin + tiles * ROWS, count), ROWS):
        p = p0 + tl.arange(0, ROWS)[:, None]
        place = p.to(tl.int64) * channels + c[None, :]
        mask = (p < count) & live[None, :]
        gradient, n = _gradient(
            dy_ptr, x_ptr, place, mask, mean, rstd, weight, bias, slope, HAS_WEIGHT, HAS_BIAS, ACTIVATION
        )
        tl.store(dx_ptr + place, gradient * scale, mask=mask)
        total += gradient
        dot += gradient * n
    tl.store(sums_ptr + split * channels + c, tl.sum(total, axis=0), mask=live)
    tl.store(dots_ptr + split * channels + c, tl.sum(dot, axis=0), mask=live)


def default_config(direction: str, layout: str, shape: tuple[int, ...], itemsize: int, fixed: bool) -> Config:
    """How a shape (N, C, H, W) is cut up: as instance norm cuts its tiles, here among programs that share a channel.

    NHWC is meant with `fixed` statistics; with others, instance norm's own `default_config` answers.
    """
    batch, channels, height, width = shape
    count = batch * height * width
    if layout == "nchw":
        tile = instance_norm._tile(direction, layout, itemsize)
        cols = 1 if (height * width) % (16 // itemsize) else 16 // itemsize
        config = Config(tile // cols, cols, _warps_of_planes(itemsize), 0, 0, 1)
        tiles, parallel = triton.cdiv(count, tile), channels
    else:
        config = instance_norm.default_config(direction, layout, (1, channels, count, 1), itemsize)
        tiles, parallel = triton.cdiv(count, config.rows), triton.cdiv(channels, config.cols)
    limit = tiles if fixed else MOST_PARTS
    splits = max(1, min(tiles, limit, triton.cdiv(instance_norm._PROGRAMS, parallel)))
    splits = triton.cdiv(tiles, triton.cdiv(tiles, splits))
    return config._replace(splits=splits, split_block=MOST_PARTS, samples=1)


def _warps_of_planes(itemsize: int) -> int:
    return 4 if itemsize == 8 else 8  # of 8 with fp64, triton 3.9's compiler aims at 40 registers and spills


def configurations(direction: str, layout: str, itemsize: int) -> list[Config]:
    """Every tile that `default_config` can return for an item size, with splits = split_block."""
    found = instance_norm.configurations(direction, layout, itemsize)
    if layout == "nchw":
        return [config._replace(warps=_warps_of_planes(itemsize)) for config in found if config.splits]
    most = MOST_PARTS
    return list(dict.fromkeys(config._replace(splits=most, split_block=most) for config in found))


def _check(x: torch.Tensor, weight, bias, activation: str, **statistics: torch.Tensor) -> str:
    """The layout; ValueError for what instance norm refuses, 2^30 elements a channel, or odd statistics."""
    layout = instance_norm._check(x, weight, bias, activation, 0)
    channels = x.shape[1]
    if x.numel() >= MOST_PIXELS * max(1, channels):
        raise ValueError(f"an input of shape {tuple(x.shape)} has 2^30 elements a channel or more: cut the batch")
    dtype = accumulator_dtype(x.dtype)
    for name, tensor in statistics.items():
        if tensor.shape != (channels,) or tensor.dtype != dtype or not tensor.is_contiguous():
            raise ValueError(
                f"{name} must be a dense ({channels},) tensor of {dtype}, not {tuple(tensor.shape)}, {tensor.dtype}"
            )
    return "nhwc" if x.shape[2] * x.shape[3] == 1 else layout


def _one_sample(x: torch.Tensor) -> torch.Tensor:
    """A channels_last batch as one sample, (1, C, N * H * W, 1); a view."""
    return x.permute(0, 2, 3, 1).reshape(1, -1, 1, x.shape[1]).permute(0, 3, 1, 2)


def _empty(x: torch.Tensor, device: torch.device | None = None) -> torch.Tensor:
    """As x, uninitialised."""
    format = memory_format(dense_layout(x, "input"))
    return torch.empty(x.shape, dtype=x.dtype, device=device or x.device, memory_format=format)


def _batch(y: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
    """The inverse of `_one_sample`: y as x, a view."""
    return y.as_strided(x.shape, _empty(x, torch.device("meta")).stride())


def _sizes(shape: torch.Size, layout: str, config: Config) -> tuple[int, dict]:
    """How many programs share a channel (NCHW) or a block of channels, and what their kernels take of a shape."""
    batch, channels, height, width = shape
    count = batch * height * width
    splits, tiles = instance_norm._share(count, layout, config)
    if layout == "nhwc":
        return splits, dict(channels=channels, count=count, tiles=tiles)
    vectors = height * width // config.cols
    magic, shift = division_magic(vectors)
    plane = dict(channels=channels, height=batch, width=vectors, magic=magic, shift=shift)
    return splits, dict(plane, splits=splits, tiles=tiles)


def _parameters(x: torch.Tensor, weight, bias, activation: str, negative_slope: float, config: Config) -> dict:
    """What the kernels take of the affine map and the activation (an absent parameter is never read), and the tile."""
    return dict(
        weight_ptr=x if weight is None else weight.contiguous(),
        bias_ptr=x if bias is None else bias.contiguous(),
        slope=float(negative_slope),
        HAS_WEIGHT=weight is not None,
        HAS_BIAS=bias is not None,
        ACTIVATION=activation,
        ROWS=config.rows,
        COLS=config.cols,
        **launch_options(config.warps),
    )


def forward(
    x: torch.Tensor,
    weight: torch.Tensor | None,
    bias: torch.Tensor | None,
    eps: float,
    activation: str,
    negative_slope: float,
    config: Config | None = None,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """y as x; mean, rstd and unbiased variance of the batch, (C,) in fp32 (fp64 for fp64 input).

    x: dense (N, C, H, W), fp32, bf16, fp16 or fp64, contiguous or channels_last; y keeps dtype and layout.
    weight, bias: (C,) or None. config: None for the choice of `default_config` (of instance norm's for channels_last).
    """
    layout = _check(x, weight, bias, activation)
    channels = x.shape[1]
    mean, rstd, variance = (torch.empty(channels, dtype=accumulator_dtype(x.dtype), device=x.device) for _ in range(3))
    if x.numel() == 0:
        nan = float("nan")
        return _empty(x), mean.fill_(nan), rstd.fill_(nan), variance.fill_(nan)
    if layout == "nhwc":
        y, mean, rstd = instance_norm.forward(
            _one_sample(x), weight, bias, None, eps, activation, negative_slope, 0, config, variance.view(1, -1)
        )
        return _batch(y, x), mean.view(-1), rstd.view(-1), variance
    y = _empty(x)
    config = config or default_config("forward", layout, x.shape, x.element_size(), False)
    splits, sizes = _sizes(x.shape, layout, config)
    offset, square = (torch.empty(channels * splits, dtype=mean.dtype, device=x.device) for _ in range(2))
    grid, tensors = (channels * splits,), dict(x_ptr=x, offset_ptr=offset, square_ptr=square)
    with on_device(x):
        _nchw_batch_statistics[grid](
            **tensors, **sizes, ROWS=config.rows, COLS=config.cols, **launch_options(config.warps, 128)
        )
        _nchw_batch_apply[grid](
            **tensors,
            y_ptr=y,
            mean_ptr=mean,
            rstd_ptr=rstd,
            variance_ptr=variance,
            eps=float(eps),
            FIXED=False,
            SPLITS=config.split_block,
            **sizes,
            **_parameters(x, weight, bias, activation, negative_slope, config),
        )
    return y, mean, rstd, variance


def apply(
    x: torch.Tensor,
    mean: torch.Tensor,
    rstd: torch.Tensor,
    weight: torch.Tensor | None,
    bias: torch.Tensor | None,
    activation: str,
    negative_slope: float,
    config: Config | None = None,
) -> torch.Tensor:
    """y as x, from mean and rstd, (C,) in fp32 (fp64 for fp64 input); the rest as `forward`."""
    layout = _check(x, weight, bias, activation, mean=mean, rstd=rstd)
    y = _empty(x)
    if x.numel() == 0:
        return y
    config = config or default_config("forward", layout, x.shape, x.element_size(), True)
    splits, sizes = _sizes(x.shape, layout, config)
    channels = x.shape[1]
    tensors = dict(x_ptr=x, y_ptr=y, mean_ptr=mean, rstd_ptr=rstd)
    arguments = _parameters(x, weight, bias, activation, negative_slope, config) | tensors | sizes
    with on_device(x):
        if layout == "nchw":
            absent = dict(variance_ptr=mean, offset_ptr=mean, square_ptr=mean, eps=0.0)
            _nchw_batch_apply[(channels * splits,)](**arguments, **absent, FIXED=True, SPLITS=1)
        else:
            grid = (triton.cdiv(channels, config.cols) * splits,)
            _nhwc_batch_apply[grid](**arguments, EVEN=channels % config.cols == 0)
    return y


def backward(
    dy: torch.Tensor,
    x: torch.Tensor,
    mean: torch.Tensor,
    rstd: torch.Tensor,
    weight: torch.Tensor | None,
    bias: torch.Tensor | None,
    activation: str,
    negative_slope: float,
    training: bool,
    config: Config | None = None,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """(dx, dweight, dbias) of `forward` when training, else of `apply`; dy dense, as x.

    dx: as x. dweight, dbias: (C,) in the dtype of weight and bias, an empty fp32 tensor where that is None.
    """
    layout = _check(x, weight, bias, activation, mean=mean, rstd=rstd)
    channels = x.shape[1]
    format = memory_format(dense_layout(x, "input"))
    if dy.shape != x.shape or dy.dtype != x.dtype or not dy.is_contiguous(memory_format=format):
        raise ValueError(
            f"the gradient must be dense as the input, of shape {tuple(x.shape)} and dtype {x.dtype}, "
            f"not {tuple(dy.shape)}, {dy.dtype} with strides {dy.stride()}"
        )
    if layout == "nhwc" and training and x.numel():
        dx, dweight, dbias, _ = instance_norm.backward(
            _one_sample(dy), _one_sample(x), mean.view(1, -1), rstd.view(1, -1), weight, bias,
            activation, negative_slope, 0, False, config,
        )  # fmt: skip
        return _batch(dx, x), dweight, dbias
    dx = _empty(x)
    total, dot = (torch.zeros(channels, dtype=mean.dtype, device=x.device) for _ in range(2))
    if x.numel():
        config = config or default_config("backward", layout, x.shape, x.element_size(), not training)
        splits, sizes = _sizes(x.shape, layout, config)
        sums, dots = (torch.empty(channels * splits, dtype=mean.dtype, device=x.device) for _ in range(2))
        tensors = dict(dy_ptr=dy, x_ptr=x, mean_ptr=mean, rstd_ptr=rstd, dx_ptr=dx, sums_ptr=sums, dots_ptr=dots)
        arguments = _parameters(x, weight, bias, activation, negative_slope, config) | tensors | sizes
        with on_device(x):
            if layout == "nchw":
                grid = (channels * splits,)
                _nchw_batch_sums[grid](**arguments, FIXED=not training)
                if training:
                    _nchw_batch_backward[grid](**arguments, sum_ptr=total, dot_ptr=dot, SPLITS=config.split_block)
                else:
                    total, dot = sums.view(channels, splits).sum(1), dots.view(channels, splits).sum(1)
            else:
                grid = (triton.cdiv(channels, config.cols) * splits,)
                _nhwc_batch_sums[grid](**arguments, EVEN=channels % config.cols == 0)
                total, dot = sums.view(splits, channels).sum(0), dots.view(splits, channels).sum(0)
    none = torch.empty(0, dtype=torch.float32, device=x.device)
    return (
        dx,
        none if weight is None else dot.to(weight.dtype),
        none.clone() if bias is None else total.to(bias.dtype),
    )
