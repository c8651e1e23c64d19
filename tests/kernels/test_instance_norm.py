"""The instance_norm launchers against fp64, over every kernel, layout and dtype."""

import itertools

import pytest
import torch
import triton
import triton.language as tl
from hypothesis import given, settings
from hypothesis import strategies as st

from fastgan.kernels import instance_norm as kernels
from fastgan.kernels import instance_norm_nchw, instance_norm_nhwc

from . import oracle

PATHS = ("one program", "split")


@st.composite
def problems(draw, layout, path):
    """A small problem and a Config that sends it down the given path, with several tiles where tiles can be several."""
    batch = draw(st.integers(1, 2))
    channels = draw(st.integers(1, 3) if layout == "nchw" else st.sampled_from((2, 3, 8, 9)))
    height, width = draw(st.integers(1, 7)), draw(st.sampled_from((1, 2, 3, 4, 5, 8)))
    halo = draw(st.sampled_from(sorted({0, min(1, min(height, width) - 1), min(height, width) - 1})))
    rows = draw(st.sampled_from((4, 8)))
    splits = draw(st.integers(1, 3)) if path == "split" else 0
    if layout == "nchw":
        cols = draw(st.sampled_from([size for size in (1, 2, 4) if width % size == 0]))
        if not splits:
            while rows * cols < height * width:
                rows *= 2
    else:
        cols = draw(st.sampled_from((4, 8)))
    config = kernels.Config(rows, cols, 1, splits, 4 if splits else 0, draw(st.integers(1, batch)))
    return dict(
        shape=(batch, channels, height, width),
        halo=halo,
        activation=draw(st.sampled_from(("none", "relu", "leaky_relu"))),
        affine=draw(st.sampled_from(("none", "weight", "bias", "both"))),
        residual=draw(st.sampled_from(("none", "dense", "view"))),
        data=draw(st.sampled_from(("normal", "off-centre", "constant", "ties", "outlier"))),
        inner=draw(st.booleans()),
        config=config,
        seed=draw(st.integers(0, 99)),
    )


def make_input(kind, shape, generator):
    x = torch.randn(shape, generator=generator, dtype=torch.float64)
    if kind == "off-centre":
        return x * 0.5 - 40.0
    if kind == "constant":
        return torch.full(shape, 2.5, dtype=torch.float64)
    if kind == "ties":
        return x.round()
    if kind == "outlier":
        x[:, :, 0, 0] = 300.0
    return x


def place(tensor, dtype, layout, device):
    return tensor.to(device=device, dtype=dtype).contiguous(memory_format=oracle.FORMATS[layout])


def make_residual(kind, shape, dtype, layout, device, generator):
    if kind == "none":
        return None
    batch, channels, height, width = shape
    if kind == "dense":
        return place(torch.randn(shape, generator=generator), dtype, layout, device)
    wide = place(torch.randn((batch, channels, height + 4, width + 4), generator=generator), dtype, layout, device)
    return wide[:, :, 2:-2, 2:-2]


def run_and_compare(problem, layout, dtype, device):
    generator = torch.Generator().manual_seed(problem["seed"])
    shape, halo, activation = problem["shape"], problem["halo"], problem["activation"]
    batch, channels, height, width = shape
    x = place(make_input(problem["data"], shape, generator), dtype, layout, device)
    if oracle.FORMATS[layout] == torch.channels_last and x.is_contiguous():
        problem["config"] = None  # one layout or the other: the launcher calls it NCHW
    residual = make_residual(problem["residual"], shape, dtype, layout, device, generator)
    weight = bias = None
    if problem["affine"] in ("weight", "both"):
        weight = torch.randn(channels, generator=generator).to(device=device, dtype=dtype)
    if problem["affine"] in ("bias", "both"):
        bias = torch.randn(channels, generator=generator).to(device=device)
    eps, slope = 1e-5, 0.2
    arguments = (activation, slope, halo)

    y, mean, rstd = kernels.forward(x, weight, bias, residual, eps, *arguments, problem["config"])
    expected_y, expected_mean, expected_rstd = oracle.norm_forward(x, weight, bias, residual, eps, *arguments)
    assert y.is_contiguous(memory_format=oracle.FORMATS[layout]) and y.dtype == dtype
    unit = oracle.epsilon(oracle.accumulator(dtype))
    centre = x.abs().max().item() + 1
    # x - mean is exact to `unit` of the largest x; what that does to n grows with rstd.
    blur = 8 * unit * centre * max(1.0, expected_rstd.max().item())
    largest = 1.0 if weight is None else 1 + weight.abs().max().item()
    oracle.assert_within(mean, expected_mean, 4 * unit * centre, "mean")
    oracle.assert_within(rstd / expected_rstd, torch.ones_like(expected_rstd), 32 * unit, "rstd")
    bound = blur * largest + 2 * oracle.epsilon(dtype) * (1 + expected_y.abs().max().item())
    oracle.assert_within(y, expected_y, bound, "y")

    dy = place(torch.randn(y.shape, generator=generator), dtype, layout, device)
    dy_interior = None
    if halo and problem["inner"]:
        dy_interior = place(torch.randn(shape, generator=generator), dtype, layout, device)
    dx, dweight, dbias, dresidual = kernels.backward(
        dy, x, mean, rstd, weight, bias, *arguments, True, problem["config"], dy_interior
    )
    expected = oracle.norm_backward(dy, x, mean, rstd, weight, bias, *arguments, dy_interior)
    assert dx.is_contiguous(memory_format=oracle.FORMATS[layout]) and dx.dtype == dtype
    scale = expected[3].abs().max().item() * largest * expected_rstd.max().item() + 1
    n_largest = ((x.double() - mean.double()[..., None, None]) * rstd.double()[..., None, None]).abs().max().item() + 1
    bound = 32 * unit * scale * n_largest**2 + 2 * oracle.epsilon(dtype) * (1 + expected[0].abs().max().item())
    oracle.assert_within(dx, expected[0], bound, "dx")
    # dweight and dbias are rounded to the dtypes of weight and bias; their sums grow with the root of the length.
    length = (batch * height * width) ** 0.5 * expected[3].abs().max().item() * n_largest
    parameters = (("dweight", dweight, expected[1], weight), ("dbias", dbias, expected[2], bias))
    for name, actual, want, parameter in parameters:
        if parameter is None:
            assert actual.shape == (0,) and actual.dtype == torch.float32
        else:
            assert actual.dtype == parameter.dtype
            bound = 32 * unit * (1 + length) + oracle.epsilon(parameter.dtype) * (1 + want.abs().max().item())
            oracle.assert_within(actual, want, bound, name)
    if halo:
        bound = 8 * unit * (1 + expected[3].abs().max().item()) + oracle.epsilon(dtype) * expected[3].abs().max().item()
        oracle.assert_within(dresidual, expected[3], bound, "dresidual")
    else:
        assert dresidual.numel() == 0


@pytest.mark.parametrize("dtype", oracle.DTYPES, ids=str)
@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("layout", ("nchw", "nhwc"))
def test_matches_fp64(layout, path, dtype, device):
    @settings(max_examples=10 if dtype == torch.float32 else 4, phases=oracle.PHASES)
    @given(problems(layout, path))
    def check(problem):
        run_and_compare(problem, layout, dtype, device)

    check()


@pytest.mark.parametrize("layout", ("nchw", "nhwc"))
@pytest.mark.parametrize("shape, halo", [((2, 3, 33, 31), 1), ((1, 20, 1, 40), 0), ((1, 16, 40, 8), 3)])
def test_the_chosen_configuration(shape, halo, layout, device):
    problem = dict(shape=shape, halo=halo, activation="relu", affine="both", residual="view", data="normal")
    problem.update(config=None, seed=0, inner=True)
    run_and_compare(problem, layout, torch.float32, device)


@pytest.mark.parametrize("layout", ("nchw", "nhwc"))
def test_gradients_are_those_of_autograd(layout, device):
    generator = torch.Generator().manual_seed(0)
    x, residual, weight, bias = (
        torch.randn(size, generator=generator, dtype=torch.float64) for size in ((2, 3, 5, 4), (2, 3, 5, 4), (3,), (3,))
    )
    x, residual = place(x, x.dtype, layout, device), place(residual, x.dtype, layout, device)
    weight, bias = weight.to(device), bias.to(device)
    leaves = [tensor.clone().requires_grad_() for tensor in (x, weight, bias, residual)]
    expected, _, _ = oracle.norm_forward(*leaves, 1e-5, "leaky_relu", 0.2, 2)
    y, mean, rstd = kernels.forward(x, weight, bias, residual, 1e-5, "leaky_relu", 0.2, 2)
    dy = place(torch.randn(y.shape, generator=generator), x.dtype, layout, device)
    wanted = torch.autograd.grad(expected, leaves, dy)
    gradients = kernels.backward(dy, x, mean, rstd, weight, bias, "leaky_relu", 0.2, 2, True)
    for name, actual, want in zip(("dx", "dweight", "dbias", "dresidual"), gradients, wanted):
        oracle.assert_within(actual, want, 1e-12, name)


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("layout", ("nchw", "nhwc"))
def test_statistics_far_from_zero(layout, path, device):
    """Mean over deviation 1e4: sums of squares would leave no correct digit of the variance."""
    x = torch.randn((1, 2, 16, 16), generator=torch.Generator().manual_seed(0)) + 1e4
    x = place(x, torch.float32, layout, device)
    splits = 3 if path == "split" else 0
    config = kernels.Config(64 if splits else 256, 1 if layout == "nchw" else 2, 1, splits, 4 if splits else 0, 1)
    _, mean, rstd = kernels.forward(x, None, None, None, 1e-5, "none", 0.0, 0, config)
    _, expected_mean, expected_rstd = oracle.norm_forward(x, None, None, None, 1e-5, "none", 0.0, 0)
    oracle.assert_within(mean, expected_mean, 1e-3, "mean")  # half a unit in the last place of 1e4 is 4.9e-4
    oracle.assert_within(rstd, expected_rstd, 2e-6, "rstd")


def moments_of(x, parts, layout):
    """Of x in equal parts, as a convolution leaves them."""
    split = x.double().flatten(2).unflatten(2, (parts, -1))
    mean = split.mean(3)
    both = torch.stack((mean, (split - mean[..., None]).square().sum(3)))
    return (both if layout == "nchw" else both.transpose(2, 3)).to(oracle.accumulator(x.dtype)).contiguous()


@pytest.mark.parametrize("dtype", oracle.DTYPES, ids=str)
@pytest.mark.parametrize("layout", ("nchw", "nhwc"))
def test_moments_stand_in_for_the_first_launch(layout, dtype, device):
    """The parts are not those of the programs; x is far from zero; one program for a plane needs no moments."""
    generator = torch.Generator().manual_seed(0)
    x = place(torch.randn((3, 5, 6, 4), generator=generator) * 2 - 40, dtype, layout, device)
    residual = make_residual("view", x.shape, dtype, layout, device, generator)
    unit = oracle.epsilon(oracle.accumulator(dtype))
    for halo, parts, split in ((0, 6, 3), (1, 1, 1), (2, 3, 4), (1, 24, 2)):
        config = kernels.Config(4, 2, 1, split, 4, 1)
        how = ("leaky_relu", 0.2, halo)
        y, mean, rstd = kernels.forward(x, None, None, residual, 1e-5, *how, config, None, moments_of(x, parts, layout))
        expected_y, expected_mean, expected_rstd = oracle.norm_forward(x, None, None, residual, 1e-5, *how)
        oracle.assert_within(mean, expected_mean, 4 * unit * 50, "mean")
        oracle.assert_within(rstd / expected_rstd, torch.ones_like(expected_rstd), 32 * unit, "rstd")
        bound = 64 * unit * 50 + 2 * oracle.epsilon(dtype) * (1 + expected_y.abs().max().item())
        oracle.assert_within(y, expected_y, bound, "y")
    other = moments_of(3 * x, 6, layout)
    _, mean, _ = kernels.forward(x, None, None, None, 1e-5, "none", 0.0, 0, config, None, other)
    oracle.assert_within(mean, 3 * expected_mean, 12 * unit * 50 + 24 * oracle.epsilon(dtype) * 50, "the moments given")
    whole = kernels.Config(16 if layout == "nchw" else 4, 2, 1, 0, 0, 1)
    _, mean, _ = kernels.forward(x, None, None, None, 1e-5, "none", 0.0, 0, whole, None, other)
    oracle.assert_within(mean, expected_mean, 4 * unit * 50, "the plane's own mean")


@triton.jit
def _merge_kernel(offset_ptr, square_ptr, merged_ptr, splits, part, count, NCHW: tl.constexpr, SPLITS: tl.constexpr):
    c = tl.arange(0, 2)
    if NCHW:
        offset, square = instance_norm_nchw._nchw_merged_parts(offset_ptr, square_ptr, 0, splits, part, count, SPLITS)
        tl.store(merged_ptr + c, tl.where(c == 0, offset, square))
    else:
        offset, square = instance_norm_nhwc._nhwc_merged_parts(
            offset_ptr, square_ptr, 0, 2, splits, part, count, c, c < 2, SPLITS
        )
        tl.store(merged_ptr + 2 * c, offset)
        tl.store(merged_ptr + 2 * c + 1, square)


@pytest.mark.parametrize("layout", ("nchw", "nhwc"))
def test_merging_the_parts_of_a_large_image(layout, device):
    """Parts beyond the last would begin at pixels that 32 bits do not hold: they count nothing."""
    splits, count, channels = 17, 10**9, 1 if layout == "nchw" else 2
    part = -(-count // splits)
    means, squares = torch.rand((2, splits, channels), generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    merged = torch.empty((channels, 2), dtype=torch.float64, device=device)
    parts = (means.to(device), squares.to(device))
    _merge_kernel[(1,)](*parts, merged, splits, part, count, NCHW=layout == "nchw", SPLITS=64)
    sizes = torch.full((splits, 1), part, dtype=torch.float64)
    sizes[-1] = count - (splits - 1) * part
    mean = (sizes * means).sum(0) / count
    square = (squares + sizes * (means - mean) ** 2).sum(0)
    torch.testing.assert_close(merged.cpu(), torch.stack((mean, square), 1), rtol=1e-12, atol=0)


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("layout", ("nchw", "nhwc"))
def test_nan_stays_in_its_plane(layout, path, device):
    x = torch.randn((2, 3, 4, 4), generator=torch.Generator().manual_seed(0))
    x[1, 2, 3, 1] = float("nan")
    x = place(x, torch.float32, layout, device)
    splits = 2 if path == "split" else 0
    config = kernels.Config(8 if splits else 16, 1 if layout == "nchw" else 4, 1, splits, 2 if splits else 0, 2)
    y, mean, rstd = kernels.forward(x, None, None, None, 1e-5, "relu", 0.0, 1, config)
    assert y[1, 2].isnan().all() and mean[1, 2].isnan() and rstd[1, 2].isnan()
    assert y.isnan().sum() == y[1, 2].numel()
    dx, _, _, _ = kernels.backward(torch.ones_like(y), x, mean, rstd, None, None, "relu", 0.0, 1, False, config)
    assert dx[1, 2].isnan().all() and dx.isnan().sum() == dx[1, 2].numel()


@pytest.mark.parametrize("layout", ("nchw", "nhwc"))
def test_bits_do_not_depend_on_the_rest_of_the_batch(layout, device):
    x = place(torch.randn((3, 2, 6, 6), generator=torch.Generator().manual_seed(0)), torch.float32, layout, device)
    configs = [kernels.Config(8, 2, 1, 2, 2, samples) for samples in (1, 2, 3)]
    results = [kernels.forward(x, None, None, None, 1e-5, "relu", 0.0, 1, config) for config in (*configs, configs[0])]
    gradients = [
        kernels.backward(y, x, mean, rstd, None, None, "relu", 0.0, 1, False, config)[0]
        for config, (y, mean, rstd) in zip((*configs, configs[0]), results)
    ]
    alone = kernels.forward(x[1:2], None, None, None, 1e-5, "relu", 0.0, 1, configs[0])
    for one, other in itertools.pairwise(results):
        assert all(torch.equal(a, b) for a, b in zip(one, other))
    assert all(torch.equal(gradients[0], gradient) for gradient in gradients)
    assert torch.equal(alone[0], results[0][0][1:2])


@pytest.mark.parametrize("shape", [(0, 3, 4, 4), (2, 0, 4, 4), (2, 3, 0, 4)])
def test_nothing_to_do(shape, device):
    x = torch.zeros(shape, device=device)
    weight = torch.ones(shape[1], device=device)
    y, mean, rstd = kernels.forward(x, weight, weight, None, 1e-5, "relu", 0.0, 0)
    assert y.shape == shape and mean.shape == shape[:2] and mean.isnan().all()
    dx, dweight, dbias, _ = kernels.backward(y, x, mean, rstd, weight, weight, "relu", 0.0, 0, True)
    assert dx.shape == shape and torch.equal(dweight, torch.zeros_like(weight)) and torch.equal(dbias, dweight)


@settings(max_examples=300)
@given(
    st.sampled_from(("forward", "backward")),
    st.sampled_from(("nchw", "nhwc")),
    st.tuples(st.integers(1, 64), st.integers(1, 2048), st.integers(1, 3000), st.integers(1, 3000)),
    st.sampled_from((2, 4, 8)),
)
def test_config(direction, layout, shape, itemsize):
    config = kernels.default_config(direction, layout, shape, itemsize)
    batch, _channels, height, width = shape
    listed = kernels.configurations(direction, layout, itemsize)
    assert config._replace(splits=config.split_block, samples=1) in listed
    assert 1 <= config.samples <= batch
    if layout == "nchw":
        assert width % config.cols == 0
        assert config.splits or config.rows * config.cols >= height * width
    if config.splits:
        splits, tiles = kernels._share(height * width, layout, config)
        pixels = config.rows * (config.cols if layout == "nchw" else 1)
        assert splits == config.splits <= config.split_block
        assert (splits - 1) * tiles * pixels < height * width <= splits * tiles * pixels


def test_training_shapes_fill_the_card():
    """The generator's and discriminator's layers at batch 1: one launch or two, at least 64 programs each."""
    for direction in ("forward", "backward"):
        for layout in ("nchw", "nhwc"):
            for channels, side in ((64, 256), (128, 128), (256, 64)):
                config = kernels.default_config(direction, layout, (1, channels, side, side), 2)
                blocks = channels if layout == "nchw" else -(-channels // config.cols)
                assert blocks * max(1, config.splits) >= 64, (direction, layout, channels, side, config)


@pytest.mark.parametrize(
    "change, words",
    [
        (dict(halo=4), "halo must be 0 or less than both sides of the 4x5 image, not 4"),
        (dict(activation="tanh"), "activation must be .* not 'tanh'"),
        (dict(weight=torch.ones(2)), r"weight must have shape \(3,\)"),
        (dict(residual=torch.ones(2, 3, 4, 4)), "residual must have the input's shape"),
        (dict(residual=torch.ones(2, 3, 5, 4).transpose(2, 3)), "rows of residual"),
        (dict(x=torch.ones(2, 3, 5, 4).transpose(2, 3)), "contiguous or channels_last"),
        (dict(x=torch.ones(2, 3, 4, 5, dtype=torch.int32)), "not torch.int32"),
        (dict(moments=torch.ones(2, 2, 4, 3)), r"moments of shape \(2, 2, 4, 3\) are not those of the parts of an"),
        (dict(moments=torch.ones(2, 2, 3, 7)), r"moments of shape \(2, 2, 3, 7\) are not those"),
        (dict(moments=torch.ones(2, 2, 3, 4, dtype=torch.float64)), "moments must be torch.float32, not torch.float64"),
    ],
)
def test_refusals(change, words):
    arguments = dict(
        x=torch.ones(2, 3, 4, 5),
        weight=None,
        bias=None,
        residual=None,
        eps=1e-5,
        activation="relu",
        negative_slope=0.0,
        halo=0,
    )
    with pytest.raises((ValueError, TypeError), match=words):
        kernels.forward(**{**arguments, **change})


def test_refused_gradients_of_the_inside():
    x, mean = torch.ones(1, 2, 3, 4), torch.zeros(1, 2)
    arguments = (x, mean, mean, None, None, "relu", 0.0)
    with pytest.raises(ValueError, match="dy_interior is for a halo, got a halo of 0: add it to dy"):
        kernels.backward(x, *arguments, 0, False, dy_interior=x)
    wide = torch.ones(1, 2, 5, 6)
    for dy_interior in (wide, x.double(), x.contiguous(memory_format=torch.channels_last)):
        with pytest.raises(ValueError, match="dy_interior must lie as the input does and be torch.float32 of shape"):
            kernels.backward(wide, *arguments, 1, False, dy_interior=dy_interior)
