"""Tensors of more than 2^31 elements, forward and backward, by the kernels of a GPU that has the memory.

What is computed on such a tensor is compared, at its two ends, with the same op on a piece of it. The checks themselves
are proven on small tensors, on every machine.
"""

import gc

import pytest
import torch
import torch.nn.functional as F

import fastgan
from fastgan import functional as ours
from fastgan.ops import _dispatch

from .common import instance_norm

FORMATS = {"nchw": torch.contiguous_format, "nhwc": torch.channels_last}
LIMIT = 2**31
ROWS = 12  # of an image's end, taken as a piece; what lies within EDGE rows of the cut is not compared
EDGE = 6

# Side of a square image with 64 (256, ...) channels that holds more than LIMIT elements.
HUGE = {3: 26800, 32: 8200, 64: 5800, 256: 2900}
SMALL = {3: 20, 32: 40, 64: 20, 256: 20}


def draw(shape, layout, device, dtype):
    generator = torch.Generator(device).manual_seed(0)
    x = torch.empty(shape, device=device, dtype=dtype, memory_format=FORMATS[layout])
    return x.normal_(generator=generator)


def gradients(function, tensors, dy):
    """(output, gradients), nothing else kept."""
    leaves = [t.detach().requires_grad_() for t in tensors]
    y = function(*leaves)
    grads = torch.autograd.grad(y, leaves, dy if dy is not None else torch.ones_like(y))
    return y.detach(), *grads


def close(actual, expected):
    assert actual.numel() and actual.isfinite().all()
    expected = expected.double()
    largest = expected.abs().max().item()
    torch.testing.assert_close(actual.double(), expected, rtol=0, atol=0.02 * largest)


def norm(side, layout, device, dtype):
    """Planes are normalised one by one: the first and the last channels alone give the same."""
    shape = (1, 256, side[256], side[256])
    x = draw(shape, layout, device, dtype)
    dy = draw((*shape[:2], shape[2] + 2, shape[3] + 2), layout, device, dtype)
    function = lambda x: instance_norm(x, activation="relu", halo=1)  # noqa: E731
    y, dx = gradients(function, (x,), dy)
    for channels in (slice(0, 2), slice(254, 256)):
        piece, seed = x[:, channels].contiguous().double(), dy[:, channels].contiguous().double()
        with fastgan.backend("reference"):
            expected = gradients(function, (piece,), seed)
        close(y[:, channels], expected[0])
        close(dx[:, channels], expected[1])
    return x, y


def ends(function, x, dy, results, top, scale=1, tail=()):
    """Compares (y, dx) of `results` at the first and the last rows with those of a piece, cut where x is cut.

    `top`: rows that y has more than x above and below, `scale`: rows of y to a row of x.
    """
    y, dx = results
    rows = x.shape[2]
    for first in (True, False):
        piece = x[:, :, :ROWS] if first else x[:, :, rows - ROWS :]
        size = (ROWS - top) * scale if first else min(y.shape[2], (ROWS - top) * scale)
        seed = torch.zeros((*y.shape[:2], function(piece, *tail).shape[2], y.shape[3]), device=x.device, dtype=x.dtype)
        kept = min(size, EDGE * scale)
        if first:
            seed[:, :, :kept] = dy[:, :, :kept]
        else:
            seed[:, :, -kept:] = dy[:, :, -kept:]
        with fastgan.backend("reference"):
            expected, expected_dx = gradients(lambda x: function(x, *tail), (piece.double(),), seed.double())
        far = EDGE - 2 * max(1, top)  # rows of dx that only the kept rows of dy reach
        if first:
            close(y[:, :, :kept], expected[:, :, :kept])
            close(dx[:, :, : max(1, far)], expected_dx[:, :, : max(1, far)])
        else:
            close(y[:, :, -kept:], expected[:, :, -kept:])
            close(dx[:, :, -max(1, far) :], expected_dx[:, :, -max(1, far) :])


def pad(side, layout, device, dtype):
    x = draw((1, 64, side[64], side[64]), layout, device, dtype)
    dy = draw((1, 64, side[64] + 2, side[64] + 2), layout, device, dtype)
    function = lambda x: ours.reflection_pad2d(x, 1)  # noqa: E731
    y, dx = gradients(function, (x,), dy)
    ends(function, x, dy, (y, dx), 1)
    return x, y


def convolution(channels, outputs, kernel):
    """Output, input gradient, and the weight gradient of the last rows of dy."""

    def check(side, layout, device, dtype):
        size = side[max(channels, outputs)]
        reach = kernel // 2
        x = draw((1, channels, size, size), layout, device, dtype)
        weight = draw((outputs, channels, kernel, kernel), layout, device, torch.float64) / channels**0.5 / kernel
        weight = weight.to(dtype)
        dy = draw((1, outputs, size, size), layout, device, dtype)
        function = lambda x, w: ours.reflection_pad_conv2d(x, w.to(x.dtype), padding=reach)  # noqa: E731
        y, dx, dweight = gradients(function, (x, weight), dy)
        ends(function, x, dy, (y, dx), reach, tail=(weight,))
        del y, dx
        dy[:, :, : size - EDGE] = 0
        _, _, dweight = gradients(function, (x, weight), dy)
        with fastgan.backend("reference"):
            piece, seed = x[:, :, size - ROWS :].double(), dy[:, :, size - ROWS :].double()
            _, _, expected = gradients(function, (piece, weight.double()), seed)
        close(dweight, expected)
        return x, dy

    return check


def transposed(side, layout, device, dtype):
    x = draw((1, 64, side[32] // 2, side[32] // 2), layout, device, dtype)
    weight = (draw((64, 32, 3, 3), "nchw", device, torch.float64) / 16).to(dtype)
    dy = draw((1, 32, 2 * x.shape[2], 2 * x.shape[3]), layout, device, dtype)
    function = lambda x: ours.conv_transpose2d(x, weight.to(x.dtype), None, 2, 1, 1)  # noqa: E731
    y, dx = gradients(function, (x,), dy)
    ends(function, x, dy, (y, dx), 1, scale=2)
    return y, dy


def loss(side, layout, device, dtype):
    """A tile that repeats: the mean is the tile's, and so is the gradient at both ends."""
    tile = draw((1, 64, 8, side[64]), "nchw", device, dtype).flatten()
    repeats = -(-(64 * side[64] ** 2) // tile.numel())
    x = tile.repeat(repeats)
    for mine, stock in (
        (ours.l1_loss, F.l1_loss),
        (ours.mse_loss, F.mse_loss),
        (ours.bce_with_logits, F.binary_cross_entropy_with_logits),
    ):
        value, dx = gradients(lambda x, mine=mine: mine(x, 0.9), (x,), None)
        wide = tile.double()
        expected, slope = gradients(lambda x, stock=stock: stock(x, torch.full_like(x, 0.9)), (wide,), None)
        torch.testing.assert_close(value.double(), expected, rtol=0.01, atol=0)
        total, total_slope = gradients(lambda x, mine=mine: mine(x, 0.9, reduction="sum"), (x,), None)
        torch.testing.assert_close(total.double(), expected * x.numel(), rtol=0.01, atol=0)
        for end in (slice(0, tile.numel()), slice(x.numel() - tile.numel(), None)):
            close(total_slope[end], slope * tile.numel())
        del dx, total_slope
    return x, x


CHECKS = {
    "instance_norm": norm,
    "reflection_pad2d": pad,
    "trunk": convolution(64, 64, 3),
    "first": convolution(3, 64, 3),
    "last": convolution(64, 3, 3),
    "conv_transpose2d": transposed,
    "losses": loss,
}
LAYOUTS = pytest.mark.parametrize("layout", ["nchw", "nhwc"])


@LAYOUTS
@pytest.mark.parametrize("name", CHECKS)
def test_the_checks_on_small_tensors(name, layout):
    CHECKS[name](SMALL, layout, "cpu", torch.float32)


@pytest.mark.huge
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@LAYOUTS
@pytest.mark.parametrize("name", CHECKS)
def test_more_than_2_31_elements(name, layout):
    gc.collect()
    torch.cuda.empty_cache()
    free = torch.cuda.mem_get_info()[0]
    needed = 10 * 2 * LIMIT  # ten bf16 tensors of this size at once
    if free < needed:
        pytest.skip(f"needs {needed >> 30} GiB of free device memory, and {free >> 30} are free")
    poisoned = torch.utils.deterministic.fill_uninitialized_memory
    built = not _dispatch.refusal("conv_transpose2d", "cuda", "cuda", torch.bfloat16)
    with fastgan.backend("triton", conv_transpose2d="cuda" if built else "reference"):
        tensors = CHECKS[name](HUGE, layout, "cuda", torch.bfloat16)
    assert max(t.numel() for t in tensors) > LIMIT and poisoned
