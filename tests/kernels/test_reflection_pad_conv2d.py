"""The convolution launchers, every kind and direction, against fp64 convolutions of an index-list padding."""

import itertools
import math

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from fastgan.kernels import reflection_pad_conv2d as kernels
from fastgan.kernels._common import shape_of_moments

from . import oracle

DIRECTIONS = kernels.DIRECTIONS


def operands(shape, outputs, kernel, how, layout, dtype, device, offset=0.0):
    """x, weight, bias, dy in their dtype, dense in `layout`."""
    generator = torch.Generator().manual_seed(0)
    stride, padding, dilation = how
    size = kernels.geometry(shape, (outputs, shape[1], *kernel), stride, padding, dilation).size

    def draw(*sizes, scale=1.0):
        return (offset + torch.randn(sizes, generator=generator) * scale).to(device=device, dtype=dtype)

    x, dy = (
        draw(*sizes).contiguous(memory_format=oracle.FORMATS[layout]) for sizes in (shape, (shape[0], outputs, *size))
    )
    return x, draw(outputs, shape[1], *kernel), draw(outputs), dy


def expected(x, weight, bias, dy, how):
    """(y, dx, dweight) in fp64, and for each the size of its largest sum of absolute terms."""
    stride, (top, left), dilation = how

    def products(x, weight, bias, dy):
        x, weight = x.detach().requires_grad_(), weight.detach().requires_grad_()
        y = F.conv2d(oracle.reflect_pad(x, left, left, top, top), weight, bias, stride, 0, dilation)
        return (y.detach(), *torch.autograd.grad(y, (x, weight), dy))

    wide = [t.double() for t in (x, weight, bias, dy)]
    return products(*wide), [t.abs().max().item() for t in products(*(t.abs() for t in wide))]


def small(direction, kind, g):
    """Tiles small enough that a small image has several of them; three parts of a weight gradient's sum."""
    source, target = (g.outputs, g.channels) if direction == "input_gradient" else (g.channels, g.outputs)
    taps = g.kernel[1] * {"thin_input": source, "thin_output": target}.get(kind, 0)
    if direction == "weight_gradient":
        return kernels.Config(kind, 16, kernels._power(taps, 16), 32, 1, 1, 3)
    if kind == "thin_input":
        return kernels.Config(kind, 32, 16, kernels._power(taps, 16), 1, 1)
    if kind == "thin_output":
        columns = kernels._power(kernels._power(g.kernel[1]) * kernels._power(target), 16)
        return kernels.Config(kind, 64, columns, 16, 1, 1)
    return kernels.Config(kind, 32, 16, 16, 1, 1)


def compute(direction, x, weight, bias, dy, how, config, channels_last=False, precision="ieee"):
    layout = "nchw" if x.is_contiguous() else "nhwc"
    if direction == "forward":
        return kernels.forward(x, weight, bias, *how, precision, config)
    if direction == "input_gradient":
        return kernels.input_gradient(dy, weight, x.shape[2:], *how, precision, layout == "nhwc", config)
    return kernels.weight_gradient(dy, x, weight.shape[2:], *how, precision, channels_last, config)


def check(shape, outputs, kernel, how, layout, dtype, device, which=None, offset=0.0):
    """Every direction by every kind (or by the kind that `which` picks) meets fp64, in the layout of its input."""
    tensors = operands(shape, outputs, kernel, how, layout, dtype, device, offset)
    answers, sizes = expected(*tensors, how)
    g = kernels.geometry(shape, (outputs, shape[1], *kernel), *how)
    rounding = oracle.epsilon(dtype) + 8 * math.sqrt(shape[1] * outputs) * oracle.epsilon(oracle.accumulator(dtype))
    for direction, answer, size in zip(DIRECTIONS, answers, sizes):
        kinds = kernels.kinds(direction, g)
        for kind in kinds if which is None else kinds[which % len(kinds) :][:1]:
            result = compute(direction, *tensors, how, small(direction, kind, g))
            what = f"{direction} by {kind}, {shape} to {outputs}, kernel {kernel}, {how}"
            assert result.dtype == dtype, what
            if direction != "weight_gradient":
                assert result.is_contiguous(memory_format=oracle.FORMATS[layout]), what
            oracle.assert_within(result, answer, rounding * size, what)


@st.composite
def problems(draw):
    batch, channels = draw(st.integers(1, 3)), draw(st.sampled_from((1, 2, 3, 9, 17)))
    outputs = draw(st.sampled_from((1, 3, 5, 17)))
    size = draw(st.integers(1, 6)), draw(st.integers(1, 7))
    padding = tuple(draw(st.integers(0, side - 1)) for side in size)
    dilation = draw(st.sampled_from(((1, 1), (1, 2), (2, 1))))
    most = [(side + 2 * pad - 1) // far + 1 for side, pad, far in zip(size, padding, dilation)]
    kernel = tuple(draw(st.integers(1, min(4, limit))) for limit in most)
    stride = draw(st.sampled_from(((1, 1), (1, 1), (2, 1), (3, 2))))
    which = draw(st.integers(0, 1))
    return (batch, channels, *size), outputs, kernel, (stride, padding, dilation), which


@pytest.mark.parametrize("dtype", oracle.DTYPES, ids=str)
@pytest.mark.parametrize("layout", ("nchw", "nhwc"))
def test_matches_fp64(layout, dtype, device):
    @settings(max_examples=5 if dtype == torch.float32 else 2, phases=oracle.PHASES)
    @given(problems())
    def check_problem(problem):
        shape, outputs, kernel, how, which = problem
        check(shape, outputs, kernel, how, layout, dtype, device, which)

    check_problem()


# Small layers like a generator's trunk, first and last one; a padding of dim - 1; a single row; sizes of one.
NAMED = {
    "trunk": ((2, 18, 4, 5), 17, (3, 3), ((1, 1), (1, 1), (1, 1))),
    "first": ((2, 3, 4, 8), 17, (2, 7), ((1, 1), (1, 3), (1, 1))),
    "last": ((2, 17, 4, 8), 3, (2, 7), ((1, 1), (1, 3), (1, 1))),
    "all mirrored": ((1, 9, 3, 4), 2, (2, 3), ((1, 1), (2, 3), (1, 1))),
    "row": ((2, 3, 1, 9), 4, (1, 5), ((1, 2), (0, 4), (1, 2))),
    "one": ((1, 1, 1, 1), 1, (1, 1), ((1, 1), (0, 0), (1, 1))),
}


@pytest.mark.parametrize("layout", ("nchw", "nhwc"))
@pytest.mark.parametrize("name", NAMED)
def test_every_kind(name, layout, device):
    which = 0 if name in ("first", "last") else None  # their thin kinds; the other layers run as tiles, too
    check(*NAMED[name], layout, torch.float32, device, which)


@pytest.mark.parametrize("name", ("trunk", "first", "last"))
def test_tensor_cores(name, device):
    """Tiles as they are chosen, on a GPU for layers that fill them; tf32 keeps ten bits, the interpreter all."""
    shape, outputs, kernel, how = NAMED[name]
    layouts, units = ("nhwc",), {torch.float32: 2**-10}
    if device.type == "cuda":
        shape, outputs = (2, 64 if shape[1] > 8 else 3, 40, 36), 64 if outputs > 8 else 3
        layouts, units = ("nchw", "nhwc"), {torch.float32: 2**-10, torch.bfloat16: 2**-8, torch.float16: 2**-10}
    for layout, (dtype, unit) in itertools.product(layouts, units.items()):
        tensors = operands(shape, outputs, kernel, how, layout, dtype, device)
        answers, sizes = expected(*tensors, how)
        for direction, answer, size in zip(DIRECTIONS, answers, sizes):
            result = compute(direction, *tensors, how, None, precision="tf32")
            oracle.assert_within(result, answer, 2 * unit * size, f"{direction} of {dtype}, {layout}")


def test_far_from_zero(device):
    check(*NAMED["last"], "nhwc", torch.bfloat16, device, which=0, offset=-2.3)


@pytest.mark.filterwarnings("ignore:invalid value encountered:RuntimeWarning")  # numpy's, in the interpreter
@pytest.mark.parametrize("name", ("trunk", "last"))
def test_nan_reaches_what_sees_it_and_nothing_else(name, device):
    """Taps that fill up a power of two, channels that fill up a block: no factor of theirs may meet a NaN."""
    shape, _outputs, _kernel, how = NAMED[name]
    x, weight, bias, dy = operands(*NAMED[name], "nhwc", torch.float32, device)
    x[0, 1, 2, 1] = float("nan")
    dy[0, 0, 1, 2] = float("inf")
    (y, dx, dweight), _ = expected(x, weight, bias, dy, how)
    g = kernels.geometry(shape, weight.shape, *how)
    for direction, answer in zip(DIRECTIONS, (y, dx, dweight)):
        kind = kernels.kinds(direction, g)[0]
        result = compute(direction, x, weight, bias, dy, how, small(direction, kind, g))
        if (direction, kind) == ("weight_gradient", "thin_output"):  # the taps of a kernel row share their columns
            assert not (answer.isnan() & ~result.isnan()).any()
        else:
            assert torch.equal(result.isnan(), answer.isnan()), direction


@pytest.mark.parametrize("channels_last", (False, True))
def test_layouts_of_weights(channels_last, device):
    """Any strides in, the layout that is asked for out."""
    how = NAMED["trunk"][3]
    x, weight, bias, dy = operands(*NAMED["trunk"], "nhwc", torch.float32, device)
    y = kernels.forward(x, weight, bias, *how, "ieee")
    strided = torch.stack((weight, weight), -1)[..., 0].transpose(2, 3).contiguous().transpose(2, 3)
    assert torch.equal(kernels.forward(x, strided, bias, *how, "ieee"), y)
    dw = compute("weight_gradient", x, weight, bias, dy, how, None, channels_last)
    assert dw.is_contiguous(memory_format=torch.channels_last if channels_last else torch.contiguous_format)
    assert torch.equal(dw, compute("weight_gradient", x, weight, bias, dy, how, None))


@pytest.mark.parametrize("shape", [(0, 3, 4, 5), (2, 0, 4, 5)])
def test_nothing_to_do(shape, device):
    x = torch.zeros(shape, device=device)
    weight, bias = torch.ones((2, shape[1], 3, 3), device=device), torch.ones(2, device=device)
    how = ((1, 1), (1, 1), (1, 1), "ieee")
    y = kernels.forward(x, weight, bias, *how)
    assert y.shape == (shape[0], 2, 4, 5) and torch.equal(y, torch.ones_like(y))
    assert kernels.input_gradient(y, weight, (4, 5), *how, False).shape == shape
    dweight = kernels.weight_gradient(y, x, (3, 3), *how, False)
    assert dweight.shape == weight.shape and not dweight.any()


def moments_like(y, parts, layout):
    shape = shape_of_moments(layout, y.shape[0], parts, y.shape[1])
    return torch.full(shape, float("nan"), dtype=oracle.accumulator(y.dtype), device=y.device)


def moments_of(y, parts, layout):
    """Means and sums of squared deviations of runs of pixels, of what was stored, in fp64."""
    split = y.double().flatten(2).unflatten(2, (parts, -1))
    mean = split.mean(3)
    square = (split - mean[..., None]).square().sum(3)
    return torch.stack([t if layout == "nchw" else t.transpose(1, 2) for t in (mean, square)])


MOMENTS = [  # shape, outputs, kernel, how, block_m: one part, five, four to an image; no block is full
    ((2, 18, 8, 8), 17, (3, 3), ((1, 1), (1, 1), (1, 1)), 64),
    ((3, 9, 6, 16), 5, (2, 3), ((1, 1), (0, 3), (2, 1)), 16),
    ((1, 9, 16, 10), 18, (1, 3), ((2, 1), (0, 0), (1, 1)), 16),
]


@pytest.mark.parametrize("offset", (0.0, 1e4), ids=("", "far"))
@pytest.mark.parametrize("dtype", oracle.DTYPES, ids=str)
@pytest.mark.parametrize("layout", ("nchw", "nhwc"))
def test_moments(layout, dtype, offset, device):
    """Of the output as it is rounded, beside the same output; a bias far from zero loses no digit of the squares."""
    for shape, outputs, kernel, how, block_m in MOMENTS if dtype == torch.float32 and not offset else MOMENTS[-1:]:
        x, weight, bias, _ = operands(shape, outputs, kernel, how, layout, dtype, device)
        bias = bias + offset
        g = kernels.geometry(shape, weight.shape, *how)
        config = kernels.Config("tile", block_m, 16, 16, 1, 1)
        assert kernels.part_of_moments(layout, g, x.element_size(), "ieee", config) == block_m
        y = kernels.forward(x, weight, bias, *how, "ieee", config)
        parts = y.shape[2] * y.shape[3] // block_m
        moments = moments_like(y, parts, layout)
        assert torch.equal(kernels.forward(x, weight, bias, *how, "ieee", config, moments), y)
        mean, square = moments_of(y, parts, layout)
        unit, largest = oracle.epsilon(moments.dtype), y.abs().max().item()
        oracle.assert_within(moments[0], mean, unit * largest, "mean")
        # A mean that is off by its own rounding adds the square of that, for each pixel.
        oracle.assert_within(
            moments[1], square, 8 * unit * square.max().item() + block_m * (unit * largest) ** 2, "sum of squares"
        )


@pytest.mark.filterwarnings("ignore:invalid value encountered:RuntimeWarning")  # numpy's, in the interpreter
def test_nan_stays_in_its_part_of_the_moments(device):
    shape, outputs, kernel, how, block_m = MOMENTS[1]
    x, weight, bias, _ = operands(shape, outputs, kernel, how, "nhwc", torch.float32, device)
    x[1, 0, 5, 0] = float("nan")
    config = kernels.Config("tile", block_m, 16, 16, 1, 1)
    y = kernels.forward(x, weight, bias, *how, "ieee", config)
    parts = y.shape[2] * y.shape[3] // block_m
    moments = moments_like(y, parts, "nhwc")
    kernels.forward(x, weight, bias, *how, "ieee", config, moments)
    expected = moments_of(y, parts, "nhwc").isnan()
    assert torch.equal(moments.isnan(), expected) and expected.any() and not expected.all()


def test_where_there_are_moments():
    """Of a generator's trunk in parts that fill tiles; not of edge layers, ragged parts, or too many of them."""
    how = ((1, 1), (1, 1), (1, 1))
    for layout, itemsize in itertools.product(("nchw", "nhwc"), (2, 4)):
        for batch, side, outputs, expected in (
            (16, 64, 256, (128,)),
            (1, 64, 256, (64, 128)),
            (1, 32, 256, (64,)),
            (1, 128, 256, (0,)),
            (1, 31, 256, (0,)),
            (1, 64, 3, (0,)),
            (1, 64, 1, (0,)),
        ):
            g = kernels.geometry((batch, 256, side, side), (outputs, 256, 3, 3), *how)
            assert kernels.part_of_moments(layout, g, itemsize) in expected, (layout, itemsize, batch, side, outputs)
    first = kernels.geometry((1, 3, 64, 64), (64, 3, 7, 7), (1, 1), (3, 3), (1, 1))
    assert kernels.part_of_moments("nhwc", first, 2) == 0


@settings(max_examples=200)
@given(
    st.sampled_from(DIRECTIONS),
    st.sampled_from(("nchw", "nhwc")),
    st.tuples(*[st.integers(1, size) for size in (64, 512, 512, 512, 512)]),
    st.tuples(st.integers(1, 9), st.integers(1, 9)),
    st.sampled_from((2, 4, 8)),
    st.sampled_from(("tf32", "ieee")),
)
def test_config(direction, layout, sizes, kernel, itemsize, precision):
    """A kind that can compute the shape, tiles that tl.dot takes, and among the candidates."""
    batch, channels, height, width, outputs = sizes
    padding = tuple(min(k // 2, side - 1) for k, side in zip(kernel, (height, width)))
    kernel = tuple(min(k, side + 2 * pad) for k, side, pad in zip(kernel, (height, width), padding))
    g = kernels.geometry((batch, channels, height, width), (outputs, channels, *kernel), (1, 1), padding, (1, 1))
    found = kernels.candidates(direction, layout, g, itemsize, precision)
    assert found[0] == kernels.default_config(direction, layout, g, itemsize, precision)
    for config in found:
        assert config.kind in kernels.kinds(direction, g)
        assert all(block >= 16 and block & (block - 1) == 0 for block in config[1:4])
        assert (config.splits >= 1) == (direction == "weight_gradient")
        if config.kind == "thin_output" and direction != "weight_gradient":
            assert config.block_m > kernel[1] - 1


X, WEIGHT = torch.ones(1, 2, 4, 5), torch.ones(3, 2, 3, 3)


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"padding": (4, 0)}, ValueError, "padding \\(4, 0\\) must be at least 0 and less than the sides of the 4x5"),
        ({"dilation": (3, 1)}, ValueError, "a 3x3 kernel with dilation \\(3, 1\\) does not fit the padded 4x5 image"),
        ({"stride": (0, 1)}, ValueError, "stride \\(0, 1\\) and dilation \\(1, 1\\) must be at least 1"),
        ({"weight": torch.ones(3, 4, 3, 3)}, ValueError, "needs 4 input channels, not the 2 of"),
        ({"weight": WEIGHT.double()}, TypeError, "weight must be torch.float32 as input is, not torch.float64"),
        ({"bias": torch.ones(2)}, ValueError, "bias must have shape \\(3,\\)"),
        ({"precision": "tf33"}, ValueError, "precision must be 'tf32' or 'ieee', not 'tf33'"),
    ],
)
def test_refusals(change, error, message):
    arguments = dict(weight=WEIGHT, bias=None, stride=(1, 1), padding=(0, 0), dilation=(1, 1), precision="ieee")
    arguments |= change
    with pytest.raises(error, match=message):
        kernels.forward(X, **arguments)


def test_moments_of_another_shape_are_refused():
    how = ((1, 1), (1, 1), (1, 1), "ieee")
    tile = kernels.Config("tile", 16, 16, 16, 1, 1)
    x = torch.ones(1, 2, 4, 8)
    with pytest.raises(ValueError, match=r"moments must be a dense tensor of shape \(2, 1, 3, 2\), not \(2, 1, 2, 3\)"):
        kernels.forward(x, WEIGHT, None, *how, tile, torch.empty(2, 1, 2, 3))
    with pytest.raises(ValueError, match="this convolution leaves no moments"):
        kernels.forward(X, WEIGHT, None, *how, tile, torch.empty(2, 1, 3, 1))


def test_gradients_of_another_shape_are_refused():
    how = ((1, 1), (1, 1), (1, 1), "ieee")
    with pytest.raises(ValueError, match="the gradient must be a dense NCHW tensor of shape \\(1, 3, 4, 5\\)"):
        kernels.input_gradient(torch.ones(1, 3, 4, 4), WEIGHT, (4, 5), *how, False)
    with pytest.raises(ValueError, match="the gradient must be a dense NCHW tensor of shape \\(1, 3, 4, 5\\)"):
        kernels.weight_gradient(torch.ones(1, 3, 5, 4).transpose(2, 3), X, (3, 3), *how, False)
