"""The C++ transposed convolution and its gradients, against stock torch in float64."""

import pytest
import torch
import torch.nn.functional as F

from .common import FLOATS, FORMATS, activate, laid_out

# x, (channels out of a group, kernel), (stride, padding, output_padding, groups, dilation)
CASES = {
    "cyclegan": ((1, 40, 9, 20), (33, (3, 3)), ((2, 2), (1, 1), (1, 1), 1, (1, 1))),
    "decoder": ((5, 32, 7, 7), (16, (4, 4)), ((2, 2), (1, 1), (0, 0), 1, (1, 1))),
    "one output channel": ((3, 17, 14, 15), (1, (4, 4)), ((2, 2), (1, 1), (0, 0), 1, (1, 1))),
    "three output channels": ((2, 24, 9, 20), (3, (4, 4)), ((2, 2), (1, 1), (0, 0), 1, (1, 1))),
    "few output channels in blocks": ((1, 6, 41, 40), (5, (3, 5)), ((2, 3), (1, 4), (1, 0), 1, (2, 1))),
    "two output channels apart": ((1, 4, 6, 5), (2, (2, 3)), ((5, 4), (1, 0), (3, 2), 1, (1, 1))),
    "one input channel": ((2, 1, 5, 17), (50, (3, 2)), ((1, 2), (0, 1), (0, 1), 1, (1, 1))),
    "groups": ((2, 9, 4, 31), (5, (3, 3)), ((2, 1), (1, 1), (1, 0), 3, (1, 1))),
    "dilated": ((1, 7, 6, 5), (19, (3, 4)), ((2, 3), (2, 0), (1, 2), 1, (2, 3))),
    "dilation shares a factor with the stride": ((1, 6, 5, 6), (4, (3, 3)), ((4, 2), (3, 1), (3, 1), 2, (2, 4))),
    "stride beyond the kernel": ((2, 3, 3, 4), (3, (1, 2)), ((3, 4), (0, 0), (2, 3), 1, (1, 1))),
    "more padding than kernel": ((1, 4, 8, 9), (4, (2, 2)), ((2, 2), (3, 4), (1, 0), 1, (1, 1))),
    "one pixel": ((2, 5, 1, 1), (6, (5, 5)), ((2, 3), (1, 2), (0, 0), 1, (1, 1))),
    "a pitch of pages": ((1, 512, 2, 3), (3, (3, 3)), ((2, 2), (1, 1), (1, 1), 1, (1, 1))),
    "several chunks": ((3, 130, 33, 33), (70, (3, 3)), ((2, 2), (1, 1), (1, 1), 1, (1, 1))),
}
# Of the largest value; float32 sums of up to a few thousand terms.
TOLERANCE = {torch.float32: 2e-5, torch.bfloat16: 8e-3, torch.float64: 1e-12}


def operands(case, dtype, layout):
    shape, (out, kernel), geometry = CASES[case]
    generator = torch.Generator().manual_seed(0)
    x = laid_out(torch.randn(shape, generator=generator).to(dtype), layout)
    weight = laid_out(torch.randn((shape[1], out, *kernel), generator=generator).to(dtype), layout)
    bias = torch.randn(out * geometry[3], generator=generator).to(dtype)
    return x, weight, bias, geometry


def stock(x, weight, bias, geometry):
    stride, padding, output_padding, groups, dilation = geometry
    return F.conv_transpose2d(x, weight, bias, stride, padding, output_padding, groups, dilation)


def assert_near(actual, expected, dtype):
    assert actual.dtype == dtype and actual.shape == expected.shape
    error = (actual.double() - expected).abs().max().item()
    assert error <= TOLERANCE[dtype] * max(1.0, expected.abs().max().item()), error


@pytest.mark.parametrize("layout", FORMATS)
@pytest.mark.parametrize("dtype", FLOATS, ids=str)
@pytest.mark.parametrize("case", CASES)
def test_forward_and_gradients(ops, product_level, case, dtype, layout):
    x, weight, bias, geometry = operands(case, dtype, layout)
    layout = "nchw" if x.is_contiguous() else layout
    wide_x, wide_weight = (t.double().contiguous().requires_grad_() for t in (x, weight))
    z = stock(wide_x, wide_weight, bias.double(), geometry)
    for activation in ("none", "relu", "leaky_relu"):
        y = ops.conv_transpose2d(x, weight, bias, *geometry, activation, 0.2)
        assert y.is_contiguous(memory_format=FORMATS[layout])
        assert_near(y, activate(z, activation, 0.2), dtype)
    assert_near(ops.conv_transpose2d(x, weight, None, *geometry, "none", 0.0), z - bias.view(1, -1, 1, 1), dtype)

    dy = laid_out(torch.randn(z.shape, generator=torch.Generator().manual_seed(1)).to(dtype), layout)
    expected = torch.autograd.grad(z, (wide_x, wide_weight), dy.double())
    if dy.is_contiguous() == x.is_contiguous():
        dx = ops.conv_transpose2d_input_gradient(dy, weight, *geometry)
        assert dx.is_contiguous(memory_format=FORMATS[layout])
        assert_near(dx, expected[0], dtype)
    for last in (False, True):
        dweight = ops.conv_transpose2d_weight_gradient(dy, x, weight.shape[2:], last, *geometry)
        assert dweight.is_contiguous(memory_format=torch.channels_last if last else torch.contiguous_format)
        assert_near(dweight, expected[1], dtype)


@pytest.mark.parametrize("layout", FORMATS)
@pytest.mark.parametrize("dtype", FLOATS, ids=str)
@pytest.mark.parametrize("case", ["cyclegan", "decoder", "few output channels in blocks", "several chunks"])
def test_no_bit_depends_on_the_threads(ops, threads, case, dtype, layout):
    x, weight, bias, geometry = operands(case, dtype, layout)
    results = []
    for count in (1, 2, 3, 2):
        threads(count)
        y = ops.conv_transpose2d(x, weight, bias, *geometry, "relu", 0.0)
        dx = ops.conv_transpose2d_input_gradient(y, weight, *geometry)
        results.append((y, dx, ops.conv_transpose2d_weight_gradient(y, x, weight.shape[2:], False, *geometry)))
    for other in results[1:]:
        assert all(torch.equal(a, b) for a, b in zip(results[0], other, strict=True))


@pytest.mark.parametrize("case", ["cyclegan", "one output channel"])
def test_a_weight_of_any_strides(ops, case):
    x, weight, bias, geometry = operands(case, torch.float32, "nchw")
    turned = weight.permute(2, 0, 3, 1).contiguous().permute(1, 3, 0, 2)
    assert not turned.is_contiguous() and not turned.is_contiguous(memory_format=torch.channels_last)
    y = ops.conv_transpose2d(x, weight, bias, *geometry, "none", 0.0)
    assert torch.equal(ops.conv_transpose2d(x, turned, bias, *geometry, "none", 0.0), y)
    dx = ops.conv_transpose2d_input_gradient(y, weight, *geometry)
    assert torch.equal(ops.conv_transpose2d_input_gradient(y, turned, *geometry), dx)


@pytest.mark.parametrize("dtype", FLOATS, ids=str)
def test_nan_stays_where_it_belongs(ops, product_level, dtype):
    """Pixels and channels that are there for alignment only take no part, even beside NaN."""
    x, weight, bias, geometry = operands("decoder", dtype, "nhwc")
    x, weight = x[:, :31].contiguous(), weight[:31].contiguous()
    x[1, 30, 6, 6] = torch.nan
    y = ops.conv_transpose2d(x, weight, bias, *geometry, "none", 0.0)
    assert torch.equal(y.isnan(), stock(x.float(), weight.float(), bias.float(), geometry).isnan())
    dy = torch.ones_like(y)
    dy[0, 3, 13, 13] = torch.nan
    x = torch.ones_like(x)
    dx = ops.conv_transpose2d_input_gradient(dy, weight, *geometry)
    dweight = ops.conv_transpose2d_weight_gradient(dy, x, weight.shape[2:], False, *geometry)
    leaf_x, leaf_weight = x.double().requires_grad_(), weight.double().requires_grad_()
    expected = torch.autograd.grad(stock(leaf_x, leaf_weight, None, geometry), (leaf_x, leaf_weight), dy.double())
    assert torch.equal(dx.isnan(), expected[0].isnan())
    assert torch.equal(dweight.isnan(), expected[1].isnan())


def test_empty_batch(ops):
    x, weight, bias, geometry = operands("decoder", torch.float32, "nchw")
    y = ops.conv_transpose2d(x[:0], weight, bias, *geometry, "none", 0.0)
    assert y.shape == (0, 16, 14, 14)
    assert ops.conv_transpose2d_input_gradient(y, weight, *geometry).shape == (0, 32, 7, 7)
    dweight = ops.conv_transpose2d_weight_gradient(y, x[:0], (4, 4), False, *geometry)
    assert dweight.shape == weight.shape and not dweight.any()


X, WEIGHT, DY = torch.zeros(2, 3, 4, 5), torch.zeros(3, 2, 3, 3), torch.zeros(2, 2, 8, 10)
GOOD = {
    "stride": (2, 2), "padding": (1, 1), "output_padding": (1, 1), "groups": 1, "dilation": (1, 1),
}  # fmt: skip


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"stride": (0, 1)}, ValueError, r"stride must be at least 1, got \[0, 1\]"),
        ({"stride": (2,)}, ValueError, r"stride must have two values \(height, width\), got \[2\]"),
        ({"dilation": (1, 0)}, ValueError, r"dilation must be at least 1, got \[1, 0\]"),
        ({"padding": (-1, 0)}, ValueError, r"padding must be at least 0, got \[-1, 0\]"),
        ({"output_padding": (1, 2)}, ValueError, "output_padding must be .* got 2 for the width with stride 2"),
        ({"groups": 0}, ValueError, "groups must be at least 1, got 0"),
        ({"groups": 2}, ValueError, "3 input channels and 2 output channels of a group do not make 2 groups"),
        ({"padding": (6, 1)}, ValueError, "a height of 4 gives an output height of -2"),
        ({"x": X[0]}, ValueError, r"input must have the four dimensions \(N, C, H, W\), got shape \[3, 4, 5\]"),
        ({"x": X.half()}, TypeError, "take float32, bfloat16 and float64 tensors, got Half"),
        ({"x": X.transpose(2, 3)}, ValueError, "input must be dense, contiguous or channels_last, got strides"),
        ({"weight": WEIGHT.double()}, TypeError, "weight must have the input's dtype Float, got Double"),
        ({"weight": WEIGHT[:2]}, ValueError, r"one row for each of the 3 channels .* got shape \[2, 2, 3, 3\]"),
        ({"weight": WEIGHT[0]}, ValueError, r"weight must have the four dimensions .* got shape \[2, 3, 3\]"),
        ({"bias": torch.zeros(3)}, ValueError, r"bias must be contiguous with shape \[2\].* got shape \[3\]"),
        ({"activation": "elu"}, ValueError, "activation must be none, relu or leaky_relu, got 'elu'"),
        ({"negative_slope": -0.1}, ValueError, "slope of a fused leaky_relu must be at least 0, got -0.1"),
    ],
)  # fmt: skip
def test_wrong_arguments_of_the_op(ops, change, error, message):
    arguments = {"x": X, "weight": WEIGHT, "bias": None, **GOOD, "activation": "leaky_relu", "negative_slope": 0.2}
    with pytest.raises(error, match=message):
        ops.conv_transpose2d(*(arguments | change).values())


@pytest.mark.parametrize(
    ("op", "change", "message"),
    [
        (
            "input",
            {"dy": DY[:, :1].contiguous()},
            r"must have the 2 output channels of weight .* shape \[2, 1, 8, 10\]",
        ),
        ("input", {"dy": DY[:, :, :7].contiguous()}, "no input gives an output height of 7 with kernel 3, stride 2"),
        ("weight", {"dy": DY[:, :, :7].contiguous()}, r"dy must have shape \[2, 2, 8, 10\], got \[2, 2, 7, 10\]"),
        ("weight", {"dy": DY.contiguous(memory_format=torch.channels_last)}, "dy must be contiguous, as the input is"),
        ("weight", {"kernel": (3, 0)}, r"kernel must have two values .* of at least 1, got \[3, 0\]"),
        ("weight", {"groups": 2}, "3 input channels and 2 output channels do not make 2 groups"),
    ],
)
def test_wrong_arguments_of_the_gradients(ops, op, change, message):
    if op == "input":
        function, arguments = ops.conv_transpose2d_input_gradient, {"dy": DY, "weight": WEIGHT, **GOOD}
    else:
        function = ops.conv_transpose2d_weight_gradient
        arguments = {"dy": DY, "x": X, "kernel": (3, 3), "channels_last": False, **GOOD}
    with pytest.raises(ValueError, match=message):
        function(*(arguments | change).values())
