"""Winograd's convolution and its gradients: within their own error bound of float64, at every instruction set.

The bound follows the algorithm in absolute values. Each term of a result has passed through at most depth + 40
roundings of a unit 2^-24 (depth sums of the products, a few in each of the six passes of transforms, the constants'
own), so the error is at most (depth + 40) 2^-24 times the transforms with |B|, |G|, |A| of the absolute operands
(Higham, 2002, "Accuracy and stability of numerical algorithms", section 3.1). Images of bfloat16 add the rounding of
the result alone, 2^-8 of it: the arithmetic is the same.
"""

import functools

import hypothesis
import hypothesis.strategies as st
import pytest
import torch
import torch.nn.functional as F

from .common import FORMATS, laid_out

POINTS = (0.0, 0.625, -0.625, 1.5, -1.5)
IMAGES = pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)


def _matrices():
    """|B|^T, |G|, |A|^T of F(4, 3) at POINTS and infinity, by Lagrange's interpolation."""
    b, g, a = (torch.zeros(size, dtype=torch.float64) for size in ((6, 6), (6, 3), (4, 6)))

    def product(points):
        coefficients = torch.ones(1, dtype=torch.float64)
        for p in points:  # multiply by (x - p), lowest power first
            coefficients = F.pad(coefficients, (1, 0)) - p * F.pad(coefficients, (0, 1))
        return coefficients

    for i, p in enumerate(POINTS):
        others = [q for q in POINTS if q != p]
        distance = torch.tensor([p - q for q in others], dtype=torch.float64).prod()
        b[i, :5] = product(others)
        g[i] = torch.tensor([p**k for k in range(3)], dtype=torch.float64) / distance
        a[:, i] = torch.tensor([p**k for k in range(4)], dtype=torch.float64)
    b[5], g[5, 2], a[3, 5] = product(POINTS), 1.0, 1.0
    return b.abs(), g.abs(), a.abs()


B, G, A = _matrices()


def both(matrix, square):
    return matrix @ square @ matrix.T


def tiles(image, size):
    """(N, C, rows, columns, size, size): the squares at every fourth pixel, over zeros beyond the border."""
    n_rows, n_columns = (-(-(side - size + 4) // 4) for side in image.shape[2:])
    wanted = [4 * (n - 1) + size for n in (n_rows, n_columns)]
    image = F.pad(image, (0, max(0, wanted[1] - image.shape[3]), 0, max(0, wanted[0] - image.shape[2])))
    return image.unfold(2, size, 4)[:, :, :n_rows].unfold(3, size, 4)[:, :, :, :n_columns]


def padded(x, padding):
    return F.pad(x, (padding[1], padding[1], padding[0], padding[0]), mode="reflect") if any(padding) else x


def convolution_bound(image, weight):
    """For an unpadded image, float64."""
    h, w = image.shape[2] - 2, image.shape[3] - 2
    sums = torch.einsum("nchwij,ocij->nohwij", both(B, tiles(image.abs(), 6)), both(G, weight.abs()))
    result = both(A, sums).permute(0, 1, 2, 4, 3, 5)
    n, o, rows, _, columns, _ = result.shape
    return (image.shape[1] + 40) * 2.0**-24 * result.reshape(n, o, 4 * rows, 4 * columns)[:, :, :h, :w]


def bounds(x, weight, bias, dy, padding, dtype):
    """The largest errors of y, dx and dweight, before y and dx are rounded to dtype."""
    image = padded(x, padding)
    y = convolution_bound(image, weight) + bias.abs().view(1, -1, 1, 1) * 2.0**-22
    flipped = weight.flip(2, 3).transpose(0, 1)
    dx = convolution_bound(F.pad(dy, (2, 2, 2, 2)), flipped)
    if any(padding):  # folded: at most nine terms
        leaf = torch.zeros_like(x, requires_grad=True)
        magnitude = F.conv2d(F.pad(dy.abs(), (2, 2, 2, 2)), flipped.abs())
        terms = 2.0**-20 if dtype == torch.float32 else 2.0**-8  # rounded one by one
        (dx,) = torch.autograd.grad(padded(leaf, padding), leaf, dx + terms * (magnitude + dx))
    sums = torch.einsum("nohwij,nchwij->ocij", both(A.T, tiles(dy.abs(), 4)), both(B, tiles(image.abs(), 6)))
    count = dy.shape[0] * -(-dy.shape[2] // 4) * -(-dy.shape[3] // 4)
    return y, dx, (count + 40) * 2.0**-24 * both(G.T, sums)


def direct(x, weight, bias, dy, padding):
    """y, dx, dweight by torch, in the operands' dtype."""
    x, weight = (t.contiguous().clone().requires_grad_() for t in (x, weight))
    y = F.conv2d(padded(x, padding), weight, bias)
    return (y.detach(), *torch.autograd.grad(y, (x, weight), dy))


def winograd(ops, x, weight, bias, dy, padding):
    nhwc = not x.is_contiguous()
    return (
        ops.reflection_pad_conv2d(x, weight, bias, padding),
        ops.reflection_pad_conv2d_input_gradient(dy, weight, x.shape[2:], padding, nhwc),
        ops.reflection_pad_conv2d_weight_gradient(dy, x, padding, not weight.is_contiguous()),
    )


def operands(shape, outputs, padding, x_layout="nhwc", weight_layout="nhwc", centre=0.0, dtype=torch.float32):
    generator = torch.Generator().manual_seed(0)
    draw = functools.partial(torch.randn, generator=generator)
    x = laid_out(draw(shape) + centre, x_layout).to(dtype)
    weight = laid_out(draw((outputs, shape[1], 3, 3)) / (9 * shape[1]) ** 0.5, weight_layout)
    dy = draw((shape[0], outputs, shape[2] + 2 * padding[0] - 2, shape[3] + 2 * padding[1] - 2))
    return x, weight, draw((outputs,)), laid_out(dy, x_layout).to(dtype)


def assert_within_bounds(ops, tensors, padding):
    wide, dtype = tuple(t.double().contiguous() for t in tensors), tensors[0].dtype
    results = zip(("y", "dx", "dweight"), winograd(ops, *tensors, padding), direct(*wide, padding),
                  bounds(*wide, padding, dtype), (dtype, dtype, torch.float32), strict=True)  # fmt: skip
    for name, result, exact, bound, expected_dtype in results:
        assert (result.shape, result.dtype) == (exact.shape, expected_dtype), name
        rounding = (exact.abs() + bound) * 2.0**-8 if expected_dtype == torch.bfloat16 else 0
        excess = ((result.double() - exact).abs() - bound - rounding).max().item()
        assert excess <= 0, f"{name}: {excess:.3g} beyond the bound"


@hypothesis.settings(max_examples=25, suppress_health_check=[hypothesis.HealthCheck.function_scoped_fixture])
@hypothesis.given(
    n=st.integers(1, 3),
    channels=st.sampled_from((1, 3, 16, 33)),
    outputs=st.sampled_from((1, 5, 32, 40)),
    size=st.tuples(st.integers(1, 11), st.integers(1, 11)),
    padding=st.tuples(st.integers(0, 3), st.integers(0, 3)),
    layouts=st.tuples(st.sampled_from(tuple(FORMATS)), st.sampled_from(tuple(FORMATS))),
    centre=st.sampled_from((0.0, -2.3, 1e4)),
    dtype=st.sampled_from((torch.float32, torch.bfloat16)),
)
def test_any_shape_within_its_bound(ops, level, n, channels, outputs, size, padding, layouts, centre, dtype):
    padding = tuple(min(p, side - 1) for p, side in zip(padding, size))
    hypothesis.assume(all(side + 2 * p >= 3 for side, p in zip(size, padding)))
    tensors = operands((n, channels, *size), outputs, padding, *layouts, centre, dtype)
    assert_within_bounds(ops, tensors, padding)


@IMAGES
def test_many_tiles_within_their_bound(ops, level, dtype):
    """More tiles than are in work at once, on all sides of the image's border."""
    assert_within_bounds(ops, operands((2, 18, 70, 69), 34, (1, 1), dtype=dtype), (1, 1))


def test_the_trunk_is_far_more_exact_than_the_bound(ops, level):
    """256 channels behind a ReLU: the root mean square error is 50 units at most, that of torch's direct sums 12."""
    x, weight, bias, dy = operands((1, 256, 18, 18), 256, (0, 0))
    tensors = (x.relu(), weight, bias, dy)
    exact = direct(*(t.double() for t in tensors), (0, 0))
    for results, units in ((winograd(ops, *tensors, (0, 0)), 50), (direct(*tensors, (0, 0)), 12)):
        for name, result, expected in zip(("y", "dx", "dweight"), results, exact, strict=True):
            error = (result.double() - expected).square().mean().sqrt() / expected.std()
            assert error <= units * 2.0**-24, f"{name}: {error * 2**24:.1f} units, not {units}"


def test_bfloat16_is_no_less_exact_than_direct_sums(ops):
    """The errors of y and dx are the rounding of the results, as torch's are; dweight is float32."""
    tensors = operands((1, 256, 18, 18), 256, (0, 0), dtype=torch.bfloat16)
    tensors = (tensors[0].relu(), *tensors[1:])
    low = direct(*(t.bfloat16() for t in tensors), (0, 0))
    tensors = tuple(t.bfloat16().float() for t in tensors)
    exact = direct(*(t.double() for t in tensors), (0, 0))
    x, weight, bias, dy = tensors
    ours = winograd(ops, x.bfloat16(), weight, bias, dy.bfloat16(), (0, 0))
    for name, result, stock, expected in zip(("y", "dx", "dweight"), ours, low, exact, strict=True):
        error, allowed = ((t.double() - expected).square().mean().sqrt() for t in (result, stock))
        assert error <= 1.01 * allowed, f"{name}: {error:.3g}, torch {allowed:.3g}"


def test_parameters_of_bfloat16(ops):
    """They are read as the float32 numbers that they are."""
    x, weight, bias, dy = operands((1, 4, 9, 7), 5, (0, 1), dtype=torch.bfloat16)
    weight, bias = weight.bfloat16(), bias.bfloat16()
    same = winograd(ops, x, weight, bias, dy, (0, 1)), winograd(ops, x, weight.float(), bias.float(), dy, (0, 1))
    assert all(torch.equal(a, b) for a, b in zip(*same, strict=True))


@IMAGES
@pytest.mark.parametrize("size", [1e2, 1e4, 1e6])
@pytest.mark.parametrize("position", [(0, 0), (4, 5), (6, 8), (11, 3)])
def test_a_large_pixel_reaches_the_outputs_of_its_tiles_within_a_bound(ops, level, position, size, dtype):
    """What fastgan.ops.reflection_pad_conv2d promises of outputs that do not see it: 94 (C + 40) 2^-24 |pixel| |w|."""
    amplification = torch.einsum("ij,jt,jk->ik", A, G, B).max().item() ** 2
    assert amplification < 94
    tensors = x, weight, _bias, dy = operands((1, 32, 14, 13), 32, (0, 0), dtype=dtype)
    x[0, 5][position] = size
    dy[0, 7][tuple(p - 1 if p else 0 for p in position)] = size
    assert_within_bounds(ops, tensors, (0, 0))
    wide = tuple(t.double().contiguous() for t in tensors)
    promised = 94 * (32 + 40) * 2.0**-24 * size * weight.abs().max().item()
    without = tuple(t.masked_fill(t.abs() == t.abs().max(), 0) if i in (0, 3) else t for i, t in enumerate(wide))
    rest, rounding = bounds(*without, (0, 0), dtype), 2.0**-8 if dtype == torch.bfloat16 else 0
    for result, exact, other in list(zip(winograd(ops, *tensors, (0, 0)), direct(*wide, (0, 0)), rest))[:2]:
        error = (result.double() - exact).abs()
        assert (error <= promised + other + rounding * (exact.abs() + promised + other)).all()


@IMAGES
@pytest.mark.parametrize("value", [float("inf"), float("nan")])
def test_what_is_not_finite_stays_visible(ops, level, value, dtype):
    x, weight, bias, dy = operands((1, 20, 13, 14), 36, (1, 1), dtype=dtype)
    for index, positions in enumerate(((0, 3, 6, 9), (5, 7, 1, 2), None, (0, 30, 12, 13))):
        if positions is None:
            continue
        tensors = [t.clone() for t in (x, weight, bias, dy)]
        tensors[index][positions] = value
        wide = (t.float() for t in tensors)
        for result, exact in zip(winograd(ops, *tensors, (1, 1)), direct(*wide, (1, 1)), strict=True):
            assert not result[~exact.isfinite()].isfinite().any()


@IMAGES
@pytest.mark.parametrize("layout", FORMATS)
def test_no_bit_depends_on_the_threads(ops, threads, layout, dtype):
    tensors = operands((2, 40, 50, 49), 70, (1, 0), layout, layout, dtype=dtype)
    results = []
    for count in (1, 2, 3, 2):
        threads(count)
        results.append(winograd(ops, *tensors, (1, 0)))
    for other in results[1:]:
        for a, b in zip(results[0], other, strict=True):
            assert torch.equal(a, b)


def test_layouts_and_empty_batches(ops):
    for layout in FORMATS:
        for weight_layout in FORMATS:
            y, dx, dweight = winograd(ops, *operands((2, 4, 5, 6), 3, (1, 1), layout, weight_layout), (1, 1))
            assert all(t.is_contiguous(memory_format=FORMATS[layout]) for t in (y, dx))
            assert dweight.is_contiguous(memory_format=FORMATS[weight_layout])
    y, dx, dweight = winograd(ops, *operands((0, 4, 5, 6), 3, (0, 1)), (0, 1))
    assert y.shape == (0, 3, 3, 6) and dx.shape == (0, 4, 5, 6) and not dweight.any()


def test_bad_arguments(ops):
    x, weight, bias, dy = operands((1, 4, 5, 6), 3, (0, 0))
    forward, size = ops.reflection_pad_conv2d, x.shape[2:]
    for error, message, call in (
        (TypeError, "take float32 and bfloat16 tensors, got Double",
         lambda: forward(x.double(), weight, bias, (0, 0))),
        (TypeError, "weight must be Float or have the input's dtype Float, got BFloat16",
         lambda: forward(x, weight.bfloat16(), bias, (0, 0))),
        (TypeError, "bias must be Float or have the input's dtype BFloat16, got Double",
         lambda: forward(x.bfloat16(), weight, bias.double(), (0, 0))),
        (TypeError, "dy must have the input's dtype Float, got BFloat16",
         lambda: ops.reflection_pad_conv2d_weight_gradient(dy.bfloat16(), x, (0, 0), True)),
        (ValueError, r"weight must have the shape \(O, C, 3, 3\)", lambda: forward(x, weight[..., :2], bias, (0, 0))),
        (ValueError, "takes 4 channels, the input has shape", lambda: forward(x[:, :3].clone(), weight, bias, (0, 0))),
        (ValueError, "less than the image's height, got 5", lambda: forward(x, weight, bias, (5, 0))),
        (ValueError, "width of 2 padded by 0 is smaller", lambda: forward(x[..., :2].clone(), weight, bias, (0, 0))),
        (ValueError, r"bias must have shape \[3\]", lambda: forward(x, weight, bias[:2], (0, 0))),
        (ValueError, r"dy must have shape \[1, 3, 5, 4\]",
         lambda: ops.reflection_pad_conv2d_input_gradient(dy, weight, size, (1, 0), True)),
        (ValueError, r"dy must have shape \[1, O, 3, 6\]",
         lambda: ops.reflection_pad_conv2d_weight_gradient(dy, x, (0, 1), True)),
    ):  # fmt: skip
        with pytest.raises(error, match=message):
            call()
