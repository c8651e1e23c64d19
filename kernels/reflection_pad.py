"""Reflection padding of images and its adjoint, in both memory layouts.

Every output element is gathered: the padded image from the pixel it mirrors, the gradient from the up to nine places
where its pixel shows up, added in a fixed order.
"""

from typing import NamedTuple

import torch
import triton
import triton.language as tl

from ._common import (
    MOST_PIXELS,
    accumulator_dtype,
    check_dtype,
    dense_layout,
    launch_options,
    memory_format,
    mirror,
    on_device,
    position,
    reflect,
)

# NCHW. The output is a matrix of lines (one image row of one plane each); a tile is ROWS lines by COLS pixels.
# NHWC. It is a matrix of pixels (of all samples) by channels; a tile is ROWS pixels by COLS channels.
# The number of a tile's first line or pixel (64 bits if WIDE) is split into image and position by scalar arithmetic.


@triton.jit
def _position(tile, period, ROWS: tl.constexpr, WIDE: tl.constexpr):
    """(number, image, position in the image) of the items of a tile, `period` to an image."""
    first = tile * ROWS
    if WIDE:
        first = tile.to(tl.int64) * ROWS
    return position(first, period, ROWS)


@triton.jit
def _nchw_pad(
    x_ptr,
    y_ptr,
    lines,
    height,
    width,
    left,
    right,
    top,
    bottom,
    ROWS: tl.constexpr,
    COLS: tl.constexpr,
    WIDE: tl.constexpr,
):
    """y: `lines` = N C (top + H + bottom) lines of left + W + right pixels."""
    wide = width + left + right
    blocks = tl.cdiv(wide, COLS)
    line, plane, row = _position(tl.program_id(0) // blocks, height + top + bottom, ROWS, WIDE)
    col = (tl.program_id(0) % blocks) * COLS + tl.arange(0, COLS)
    mask = (line < lines)[:, None] & (col < wide)[None, :]
    source = (plane * height + reflect(row - top, height)) * width
    x = tl.load(x_ptr + source[:, None] + reflect(col - left, width)[None, :], mask=mask)
    tl.store(y_ptr + (line * wide)[:, None] + col[None, :], x, mask=mask)


@triton.jit
def _nchw_fold(
    dy_ptr,
    dx_ptr,
    lines,
    height,
    width,
    left,
    right,
    top,
    bottom,
    DTYPE: tl.constexpr,
    ROWS: tl.constexpr,
    COLS: tl.constexpr,
    WIDE: tl.constexpr,
):
    """dx: `lines` = N C H lines of W pixels."""
    blocks = tl.cdiv(width, COLS)
    line, plane, i = _position(tl.program_id(0) // blocks, height, ROWS, WIDE)
    j = (tl.program_id(0) % blocks) * COLS + tl.arange(0, COLS)
    mask = (line < lines)[:, None] & (j < width)[None, :]
    total = tl.zeros((ROWS, COLS), DTYPE)
    for vertical in tl.static_range(3):
        row, row_valid = mirror(i, height, top, bottom, vertical)
        source = (plane * (height + top + bottom) + row) * (width + left + right)
        for horizontal in tl.static_range(3):
            col, col_valid = mirror(j, width, left, right, horizontal)
            valid = mask & row_valid[:, None] & col_valid[None, :]
            total += tl.load(dy_ptr + source[:, None] + col[None, :], mask=valid, other=0.0).to(DTYPE)
    tl.store(dx_ptr + (line * width)[:, None] + j[None, :], total, mask=mask)


@triton.jit
def _nhwc_pad(
    x_ptr,
    y_ptr,
    pixels,
    channels,
    height,
    width,
    left,
    right,
    top,
    bottom,
    ROWS: tl.constexpr,
    COLS: tl.constexpr,
    WIDE: tl.constexpr,
):
    """y: `pixels` = N (top + H + bottom) (left + W + right) pixels of C channels."""
    wide = width + left + right
    blocks = tl.cdiv(channels, COLS)
    pixel, sample, o = _position(tl.program_id(0) // blocks, (height + top + bottom) * wide, ROWS, WIDE)
    c = (tl.program_id(0) % blocks) * COLS + tl.arange(0, COLS)
    mask = (pixel < pixels)[:, None] & (c < channels)[None, :]
    row = o // wide
    source = (sample * height + reflect(row - top, height)) * width + reflect(o - row * wide - left, width)
    x = tl.load(x_ptr + (source * channels)[:, None] + c[None, :], mask=mask)
    tl.store(y_ptr + (pixel * channels)[:, None] + c[None, :], x, mask=mask)


@triton.jit
def _nhwc_fold(
    dy_ptr,
    dx_ptr,
    pixels,
    channels,
    height,
    width,
    left,
    right,
    top,
    bottom,
    DTYPE: tl.constexpr,
    ROWS: tl.constexpr,
    COLS: tl.constexpr,
    WIDE: tl.constexpr,
):
    """dx: `pixels` = N H W pixels of C channels."""
    blocks = tl.cdiv(channels, COLS)
    pixel, sample, p = _position(tl.program_id(0) // blocks, height * width, ROWS, WIDE)
    c = (tl.program_id(0) % blocks) * COLS + tl.arange(0, COLS)
    mask = (pixel < pixels)[:, None] & (c < channels)[None, :]
    i = p // width
    j = p - i * width
    total = tl.zeros((ROWS, COLS), DTYPE)
    for vertical in tl.static_range(3):
        row, row_valid = mirror(i, height, top, bottom, vertical)
        for horizontal in tl.static_range(3):
            col, col_valid = mirror(j, width, left, right, horizontal)
            source = (sample * (height + top + bottom) + row) * (width + left + right) + col
            valid = mask & (row_valid & col_valid)[:, None]
            total += tl.load(dy_ptr + (source * channels)[:, None] + c[None, :], mask=valid, other=0.0).to(DTYPE)
    tl.store(dx_ptr + (pixel * channels)[:, None] + c[None, :], total, mask=mask)


class Config(NamedTuple):
    """Tile: NCHW `rows` lines by `cols` pixels, NHWC `rows` pixels by `cols` channels."""

    rows: int
    cols: int
    warps: int


_ELEMENTS = {"forward": 1024, "backward": 512}  # of a tile of 4 warps; the backward keeps nine addresses for each


def default_config(direction: str, layout: str, inner: int) -> Config:
    """The tile for rows of `inner` elements (NCHW: width of the output, NHWC: channels); a plain function of these."""
    if layout == "nchw":
        # The widest of the tiles that waste the fewest lanes on the ragged end of a line.
        cols = min((256, 128, 64, 32), key=lambda size: triton.cdiv(inner, size) * size)
    else:
        cols = max(4, min(64, triton.next_power_of_2(inner)))
    return Config(_ELEMENTS[direction] // cols, cols, 4)


def configurations(direction: str, layout: str) -> list[Config]:
    """Every tile that `default_config` can return."""
    widths = (32, 64, 128, 256) if layout == "nchw" else (4, 8, 16, 32, 64)
    return [Config(_ELEMENTS[direction] // cols, cols, 4) for cols in widths]


def _check(tensor: torch.Tensor, name: str, shape, left: int, right: int, top: int, bottom: int) -> str:
    check_dtype(tensor, name)
    layout = dense_layout(tensor, name)
    height, width = shape[2:]
    padded = any((left, right, top, bottom))
    if min(left, right, top, bottom) < 0 or padded and (max(left, right) >= width or max(top, bottom) >= height):
        raise ValueError(
            f"padding (left {left}, right {right}, top {top}, bottom {bottom}) must be at least 0 and less than "
            f"the side that it extends of the {height}x{width} image"
        )
    if (height + top + bottom) * (width + left + right) >= MOST_PIXELS:
        raise ValueError(f"a padded image of {height}x{width} has 2^30 pixels or more: cut it into tiles")
    return layout


def _launch(kernel, tensors: dict, output, direction: str, layout: str, sizes: dict, config, **constants) -> None:
    """Runs a kernel over the dense `output`; sizes: of the image without padding, and the padding."""
    batch, channels, height, width = output.shape
    if layout == "nchw":
        rows, inner, counts = batch * channels * height, width, dict(lines=batch * channels * height)
    else:
        rows, inner, counts = batch * height * width, channels, dict(pixels=batch * height * width, channels=channels)
    config = config or default_config(direction, layout, inner)
    with on_device(output):
        kernel[(triton.cdiv(rows, config.rows) * triton.cdiv(inner, config.cols),)](
            **tensors,
            **counts,
            **sizes,
            ROWS=config.rows,
            COLS=config.cols,
            WIDE=rows + config.rows >= 2**31,
            **constants,
            **launch_options(config.warps),
        )


def forward(
    x: torch.Tensor, left: int, right: int, top: int, bottom: int, config: Config | None = None
) -> torch.Tensor:
    """x padded by reflection: dense (N, C, H, W) to (N, C, top + H + bottom, left + W + right), dtype and layout kept.

    0 <= left, right < W and 0 <= top, bottom < H. config: None for the choice of `default_config`.
    """
    layout = _check(x, "input", x.shape, left, right, top, bottom)
    batch, channels, height, width = x.shape
    shape = (batch, channels, height + top + bottom, width + left + right)
    y = torch.empty(shape, dtype=x.dtype, device=x.device, memory_format=memory_format(layout))
    if y.numel() > 0:
        kernel = _nchw_pad if layout == "nchw" else _nhwc_pad
        sizes = dict(height=height, width=width, left=left, right=right, top=top, bottom=bottom)
        _launch(kernel, dict(x_ptr=x, y_ptr=y), y, "forward", layout, sizes, config)
    return y


def backward(
    dy: torch.Tensor,
    left: int,
    right: int,
    top: int,
    bottom: int,
    config: Config | None = None,
    dtype: torch.dtype | None = None,
) -> torch.Tensor:
    """The adjoint of `forward`: dense (N, C, top + H + bottom, left + W + right) folded to (N, C, H, W).

    Sums are fp32 (fp64 for fp64); the result has `dtype`, that of dy by default; the layout is kept. config: None for
    the choice of `default_config`.
    """
    batch, channels, tall, wide = dy.shape
    shape = (batch, channels, tall - top - bottom, wide - left - right)
    layout = _check(dy, "the gradient", shape, left, right, top, bottom)
    dx = torch.empty(shape, dtype=dtype or dy.dtype, device=dy.device, memory_format=memory_format(layout))
    if dx.numel() > 0:
        kernel = _nchw_fold if layout == "nchw" else _nhwc_fold
        sums = tl.float64 if accumulator_dtype(dy.dtype) == torch.float64 else tl.float32
        sizes = dict(height=shape[2], width=shape[3], left=left, right=right, top=top, bottom=bottom)
        _launch(kernel, dict(dy_ptr=dy, dx_ptr=dx), dx, "backward", layout, sizes, config, DTYPE=sums)
    return dx
