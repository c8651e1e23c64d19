"""Instance norm, activation, residual and reflected halo in one pass, forward and backward.

    y = reflect_pad(act(n * weight + bias) + residual, halo),   n = (x - mean) * rstd

with the mean and the biased variance taken over each plane (one sample, one channel), rstd = 1 / sqrt(var + eps)
(Ulyanov, Vedaldi, Lempitsky 2016, eq. 4).

A plane is handled in one of two ways, chosen by `default_config` from the shape alone:

* by one program (splits == 0). NCHW keeps the plane in registers; NHWC walks a block of channels twice.
* by `splits` programs in two launches: the first writes partial sums, the second merges them, each program for itself
  and in a fixed order, and writes its part of the output. Its programs start from the end, where the cache is warm.
  Where the convolution before took the moments of its output along, the forward pass needs no first launch.

`_forward` and `_backward` kernels are that second launch, and with SPLITS == 0 the whole of the first way. They are in
instance_norm_nchw.py and instance_norm_nhwc.py; the choice of the configuration and the launchers are here.

Statistics are sums of deviations from the plane's first element: exact for data far from zero. Within a lane they are
merged by Welford's recurrence, across lanes and programs by Chan's formula. Nothing is atomic: results repeat bitwise.
"""

from typing import NamedTuple

import torch
import triton

from ._common import (
    MOST_PARTS,
    MOST_PIXELS,
    accumulator_dtype,
    check_dtype,
    dense_layout,
    division_magic,
    launch_options,
    memory_format,
    on_device,
    shape_of_moments,
)
from .instance_norm_nchw import _nchw_backward, _nchw_backward_sums, _nchw_forward, _nchw_statistics
from .instance_norm_nhwc import _nhwc_backward, _nhwc_backward_sums, _nhwc_forward, _nhwc_statistics


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


def default_config(direction: str, layout: str, shape: tuple[int, int, int, int], itemsize: int) -> Config:
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
    """Every tile that `default_config` can return for an item size, with splits = split_block and samples = 1."""
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
    best = default_config(direction, layout, shape, itemsize)
    found = [best]
    for config in configurations(direction, layout, itemsize):
        if not config.splits:
            if layout == "nhwc" or count <= config.rows * config.cols < 4 * count:
                found.append(config._replace(samples=batch))
        else:
            found += [
                config._replace(splits=splits, samples=samples)
                for splits in (4, 16, 64)
                if splits <= config.split_block
                for samples in sorted({best.samples, batch})
            ]
    return [config for config in dict.fromkeys(found) if layout == "nhwc" or width % config.cols == 0]


def _share(count: int, layout: str, config: Config) -> tuple[int, int]:
    """(splits, tiles): at most config.splits programs, at least one, of `tiles` tiles each, none without a pixel."""
    tiles = triton.cdiv(count, config.rows * config.cols if layout == "nchw" else config.rows)
    each = triton.cdiv(tiles, max(1, config.splits))
    return triton.cdiv(tiles, each), each


def _launches(layout: str, shape: tuple[int, int, int, int], config: Config):
    """(grid, sizes) of each pair of launches over (N, C, H, W); sizes are what all kernels of a layout get."""
    batch, channels, height, width = shape
    splits, tiles = _share(height * width, layout, config)
    sizes = dict(channels=channels, height=height, width=width, splits=splits, tiles=tiles)
    if layout == "nchw":
        blocks, first_image, images = channels, "first_plane", channels
        sizes["width"] = width // config.cols
        sizes["magic"], sizes["shift"] = division_magic(sizes["width"])
    else:
        blocks, first_image, images = triton.cdiv(channels, config.cols), "first_sample", 1
    for first in range(0, batch, config.samples):
        grid = (min(config.samples, batch - first) * blocks * splits,)
        yield grid, {first_image: first * images, **sizes}


def _partial_sums(like: torch.Tensor, config: Config) -> tuple[torch.Tensor, torch.Tensor]:
    """Two buffers for what the first launch hands to the second; `like`, of (N, C), stands in where there is none."""
    if not config.splits:
        return like, like
    return like.new_empty((*like.shape, config.splits)), like.new_empty((*like.shape, config.splits))


def _tile_constants(layout: str, channels: int, config: Config) -> dict:
    """What every kernel of a layout is compiled for."""
    even = {} if layout == "nchw" else {"EVEN": channels % config.cols == 0}
    registers = _REGISTERS.get(config.warps) if layout == "nchw" and not config.splits else None
    return dict(ROWS=config.rows, COLS=config.cols, **even, **launch_options(config.warps, registers))


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
    config: Config | None = None,
    variance: torch.Tensor | None = None,
    moments: torch.Tensor | None = None,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """y (N, C, H + 2 halo, W + 2 halo), and mean and rstd (N, C) in fp32 (fp64 for fp64 input).

    x: dense (N, C, H, W), fp32, bf16, fp16 or fp64, contiguous or channels_last; y keeps dtype and layout.
    weight, bias: (C,) or None. residual: None or shaped as x, its rows dense, its other strides free (a view inside a
    padded tensor will do). config: None for the choice of `default_config`. variance: shaped as mean, of its dtype and
    dense, is filled with the unbiased variances; x must not be empty. moments: of x, as `reflection_pad_conv2d.forward`
    gives them; where the plane is read by one program anyway, they are not needed.
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
    config = config or default_config("forward", layout, (batch, channels, height, width), x.element_size())
    given = moments if config.splits else None
    if given is not None:  # no second reading that the cache could serve
        config = config._replace(split_block=_split_block(layout, parts), samples=batch)

    constants = _tile_constants(layout, channels, config)
    offset, square = _partial_sums(mean, config) if given is None else given
    splits, tiles = _share(height * width, layout, config)
    pixels = config.rows * (config.cols if layout == "nchw" else 1)
    arguments = dict(
        x_ptr=x,
        weight_ptr=x if weight is None else weight.contiguous(),
        bias_ptr=x if bias is None else bias.contiguous(),
        residual_ptr=x if residual is None else residual,
        y_ptr=y,
        mean_ptr=mean,
        rstd_ptr=rstd,
        variance_ptr=mean if variance is None else variance,
        offset_ptr=offset,
        square_ptr=square,
        parts=splits if given is None else parts,
        part=tiles * pixels if given is None else height * width // parts,
        residual_n=strides[0],
        residual_h=strides[2],
        eps=float(eps),
        slope=float(negative_slope),
        HAS_WEIGHT=weight is not None,
        HAS_BIAS=bias is not None,
        HAS_RESIDUAL=residual is not None,
        HAS_VARIANCE=variance is not None,
        ACTIVATION=activation,
        HALO=halo,
        SPLITS=config.split_block,
        MOMENTS=given is not None,
        **constants,
    )
    if layout == "nchw":
        statistics_kernel, kernel = _nchw_statistics, _nchw_forward
        arguments |= dict(residual_c=strides[1], BORDER=32 * config.warps)
    else:
        statistics_kernel, kernel = _nhwc_statistics, _nhwc_forward
        if x.dtype == torch.float64:
            arguments |= launch_options(config.warps, 168)
    with on_device(x):
        for grid, sizes in _launches(layout, (batch, channels, height, width), config):
            if config.splits and given is None:
                statistics_kernel[grid](x_ptr=x, offset_ptr=offset, square_ptr=square, **sizes, **constants)
            kernel[grid](**arguments, **sizes)
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
    config: Config | None = None,
    dy_interior: torch.Tensor | None = None,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """(dx, dweight, dbias, dresidual) from dy (N, C, H + 2 halo, W + 2 halo), in the dtype and layout of x.

    mean, rstd: as `forward` returned them. dx: as x. dweight, dbias: (C,) in the dtype of weight and bias, an empty
    fp32 tensor where that is None. dresidual: dy folded back onto the image, as x, if asked for and halo > 0, else
    empty. config: None for the choice of `default_config`. dy_interior: a further gradient of the pixels without their
    halo, as x, for halo > 0; it is added to the folded one.
    """
    layout = _check(x, weight, bias, activation, halo)
    batch, channels, height, width = x.shape
    padded = (batch, channels, height + 2 * halo, width + 2 * halo)
    if dy.shape != padded or dy.dtype != x.dtype or not dy.is_contiguous(memory_format=memory_format(layout)):
        raise ValueError(
            f"the gradient must be a dense {layout.upper()} tensor of shape {padded} and dtype {x.dtype}, "
            f"not {tuple(dy.shape)}, {dy.dtype} with strides {dy.stride()}"
        )
    if dy_interior is not None:
        if halo == 0:
            raise ValueError("dy_interior is for a halo, got a halo of 0: add it to dy")
        if (
            dy_interior.shape != x.shape
            or dy_interior.dtype != x.dtype
            or dense_layout(dy_interior, "dy_interior") != layout
        ):
            raise ValueError(
                f"dy_interior must lie as the input does and be {x.dtype} of shape {tuple(x.shape)}, "
                f"not {tuple(dy_interior.shape)}, {dy_interior.dtype} with strides {dy_interior.stride()}"
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
        config = config or default_config("backward", layout, (batch, channels, height, width), x.element_size())
        sums, dots = _partial_sums(total, config)
        arguments = dict(
            dy_ptr=dy,
            dy_interior_ptr=x if dy_interior is None else dy_interior,
            x_ptr=x,
            mean_ptr=mean,
            rstd_ptr=rstd,
            weight_ptr=x if weight is None else weight.contiguous(),
            bias_ptr=x if bias is None else bias.contiguous(),
            sums_ptr=sums,
            dots_ptr=dots,
            slope=float(negative_slope),
            HAS_INTERIOR=dy_interior is not None,
            HAS_WEIGHT=weight is not None,
            HAS_BIAS=bias is not None,
            ACTIVATION=activation,
            HALO=halo,
            **_tile_constants(layout, channels, config),
        )
        outputs = dict(
            dx_ptr=dx,
            dresidual_ptr=dresidual if write_residual else dx,
            sum_ptr=total,
            dot_ptr=dot,
            HAS_RESIDUAL=write_residual,
            SPLITS=config.split_block,
        )
        nchw = layout == "nchw"
        sums_kernel, kernel = (_nchw_backward_sums, _nchw_backward) if nchw else (_nhwc_backward_sums, _nhwc_backward)
        with on_device(x):
            for grid, sizes in _launches(layout, (batch, channels, height, width), config):
                if config.splits:
                    sums_kernel[grid](**arguments, **sizes)
                kernel[grid](**arguments, **outputs, **sizes)

    none = torch.empty(0, dtype=torch.float32, device=x.device)
    dweight = none if weight is None else dot.sum(0).to(weight.dtype)
    dbias = none if bias is None else total.sum(0).to(bias.dtype)
    return dx, dweight, dbias, dresidual
