"""The batch_norm launchers against fp64, over every kernel, layout and dtype."""

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from fastgan.kernels import batch_norm as kernels
from fastgan.kernels import instance_norm
from fastgan.kernels._common import MOST_PARTS

from . import oracle


@st.composite
def problems(draw, layout):
    """A small problem, with a configuration of several programs and tiles, or the one that is chosen for it."""
    batch, height = draw(st.integers(1, 4)), draw(st.integers(1, 4))
    channels = draw(st.integers(1, 3) if layout == "nchw" else st.sampled_from((2, 3, 8, 9)))
    width = draw(st.sampled_from((1, 2, 3, 4, 5, 8)))
    if batch * height * width == 1:
        batch = 2
    rows, splits = draw(st.sampled_from((4, 8))), draw(st.integers(1, 3))
    cols = draw(st.sampled_from([size for size in (1, 2, 4) if height * width % size == 0]))
    if layout == "nhwc":
        cols = draw(st.sampled_from((4, 8)))
    return dict(
        shape=(batch, channels, height, width),
        activation=draw(st.sampled_from(("none", "relu", "leaky_relu"))),
        affine=draw(st.sampled_from(("none", "weight", "bias", "both"))),
        off_centre=draw(st.booleans()),
        config=draw(st.sampled_from((None, kernels.Config(rows, cols, 1, splits, 4, 1)))),
        seed=draw(st.integers(0, 99)),
    )


def place(tensor, dtype, layout, device):
    return tensor.to(device=device, dtype=dtype).contiguous(memory_format=oracle.FORMATS[layout])


def variance_of(flat):
    """Biased variances of rows, in two passes: torch's own var is good to 1e-14 only."""
    return (flat - flat.mean(1, keepdim=True)).square().mean(1)


def run_and_compare(problem, layout, dtype, device):
    generator = torch.Generator().manual_seed(problem["seed"])
    shape, activation, config = problem["shape"], problem["activation"], problem["config"]
    x = torch.randn(shape, generator=generator, dtype=torch.float64)
    x = place(x * 0.5 - 40.0 if problem["off_centre"] else x, dtype, layout, device)
    if (x.is_contiguous() and shape[2] * shape[3] > 1) != (layout == "nchw"):
        config = None  # one layout or the other: the launcher decides
    weight = bias = None
    if problem["affine"] in ("weight", "both"):
        weight = torch.randn(shape[1], generator=generator).to(device=device, dtype=dtype)
    if problem["affine"] in ("bias", "both"):
        bias = torch.randn(shape[1], generator=generator).to(device=device)
    unit = oracle.epsilon(oracle.accumulator(dtype))
    wide = x.double().transpose(0, 1).flatten(1)

    y, mean, rstd, variance = kernels.forward(x, weight, bias, 1e-5, activation, 0.2, config)
    centre = x.abs().max().item() + 1
    oracle.assert_within(mean, wide.mean(1), 4 * unit * centre, "mean")
    exact = (variance_of(wide) + 1e-5).rsqrt()
    oracle.assert_within(rstd / exact, torch.ones_like(exact), 32 * unit, "rstd")
    unbiased = variance_of(wide) * (wide.shape[1] / (wide.shape[1] - 1))
    oracle.assert_within(variance, unbiased, 32 * unit * (1 + unbiased.max().item()), "variance")
    dy = place(torch.randn(shape, generator=generator), dtype, layout, device)
    for training in (True, False):
        if not training:
            mean, rstd = mean + 0.5, rstd * 0.75
            y = kernels.apply(x, mean, rstd, weight, bias, activation, 0.2, config)
        leaves = [None if t is None else t.double().requires_grad_() for t in (x, weight, bias)]
        n = (leaves[0] - oracle.per_channel(mean, 0)) * oracle.per_channel(rstd, 1)
        if training:  # the value from the statistics that were returned, the gradient of true ones
            true = F.batch_norm(leaves[0], None, None, None, None, True, 0.0, 1e-5)
            n = n.detach() + true - true.detach()
        z = n * (1.0 if weight is None else leaves[1].view(1, -1, 1, 1))
        z = z + (0.0 if bias is None else leaves[2].view(1, -1, 1, 1))
        expected = oracle.activate(z, activation, 0.2)
        largest = (1.0 if weight is None else 1 + weight.abs().max().item()) * max(1.0, rstd.max().item())
        blur = 32 * unit * centre * largest
        assert y.stride() == x.stride() and y.dtype == dtype
        bound = blur + 2 * oracle.epsilon(dtype) * (1 + expected.abs().max().item())
        oracle.assert_within(y, expected.detach(), bound, "y")
        clear = (z.abs() > 2 * blur) | (activation == "none")
        seed = torch.where(clear, dy, torch.zeros_like(dy)).contiguous(memory_format=oracle.FORMATS[layout])
        results = kernels.backward(seed, x, mean, rstd, weight, bias, activation, 0.2, training, config)
        wanted = torch.autograd.grad(expected, [t for t in leaves if t is not None], seed.double())
        grads = iter(wanted)
        steep = blur * seed.abs().max().item() * (1 + n.abs().max().item()) ** 2
        for name, actual, leaf in zip(("dx", "dweight", "dbias"), results, (x, weight, bias)):
            if leaf is None:
                assert actual.shape == (0,) and actual.dtype == torch.float32
                continue
            want = next(grads)
            assert actual.dtype == leaf.dtype
            length = 1.0 if name == "dx" else wide.shape[1] ** 0.5
            bound = 4 * steep * length + 2 * oracle.epsilon(leaf.dtype) * (1 + want.abs().max().item())
            oracle.assert_within(actual, want, bound, f"{name}, training {training}")
        assert results[0].stride() == x.stride()


@pytest.mark.parametrize("dtype", oracle.DTYPES, ids=str)
@pytest.mark.parametrize("layout", ("nchw", "nhwc"))
def test_matches_fp64(layout, dtype, device):
    @settings(max_examples=12 if dtype == torch.float32 else 5, phases=oracle.PHASES)
    @given(problems(layout))
    def check(problem):
        run_and_compare(problem, layout, dtype, device)

    check()


@pytest.mark.parametrize("layout", ("nchw", "nhwc"))
@pytest.mark.parametrize("shape", [(3, 5, 31, 33), (70, 20, 1, 1), (2, 1, 40, 41)])
def test_the_chosen_configuration(shape, layout, device):
    problem = dict(shape=shape, activation="relu", affine="both", off_centre=False, config=None, seed=0)
    run_and_compare(problem, layout, torch.float32, device)


@pytest.mark.parametrize("layout", ("nchw", "nhwc"))
def test_statistics_far_from_zero(layout, device):
    """Mean over deviation 1e4: sums of squares would leave no correct digit of the variance."""
    x = torch.randn((4, 2, 8, 8), generator=torch.Generator().manual_seed(0)) + 1e4
    x = place(x, torch.float32, layout, device)
    wide = x.double().transpose(0, 1).flatten(1)
    config = kernels.Config(32, 1 if layout == "nchw" else 2, 1, 3, 4, 1)
    _, mean, rstd, variance = kernels.forward(x, None, None, 1e-5, "none", 0.0, config)
    oracle.assert_within(mean, wide.mean(1), 1e-3, "mean")  # half a unit in the last place of 1e4 is 4.9e-4
    oracle.assert_within(rstd, (wide.var(1, correction=0) + 1e-5).rsqrt(), 2e-6, "rstd")
    oracle.assert_within(variance, wide.var(1), 4e-6, "variance")


@pytest.mark.parametrize("shape", [(0, 3, 4, 4), (2, 0, 4, 4), (2, 3, 0, 4)])
def test_nothing_to_do(shape, device):
    x = torch.zeros(shape, device=device)
    weight = torch.ones(shape[1], device=device)
    y, mean, rstd, variance = kernels.forward(x, weight, weight, 1e-5, "relu", 0.0)
    assert y.shape == shape and mean.shape == shape[1:2] and variance.isnan().all()
    assert kernels.apply(x, mean, rstd, weight, weight, "relu", 0.0).shape == shape
    for training in (True, False):
        dx, dweight, dbias = kernels.backward(y, x, mean, rstd, weight, weight, "relu", 0.0, training)
        assert dx.shape == shape and not dweight.any() and not dbias.any()


@settings(max_examples=300)
@given(
    st.sampled_from(("forward", "backward")),
    st.sampled_from(("nchw", "nhwc")),
    st.tuples(st.integers(1, 256), st.integers(1, 2048), st.integers(1, 1000), st.integers(1, 1000)),
    st.sampled_from((2, 4, 8)),
    st.booleans(),
)
def test_config(direction, layout, shape, itemsize, fixed):
    batch, _channels, height, width = shape
    config = kernels.default_config(direction, layout, shape, itemsize, fixed)
    most = MOST_PARTS
    assert config._replace(splits=most) in kernels.configurations(direction, layout, itemsize)
    assert config.splits >= 1 and (fixed or config.splits <= config.split_block == most)
    count = batch * height * width
    splits, tiles = instance_norm._share(count, layout, config)
    elements = config.rows * (config.cols if layout == "nchw" else 1)
    assert splits == config.splits and (splits - 1) * tiles * elements < count <= splits * tiles * elements
    if layout == "nchw":
        assert height * width % config.cols == 0


@pytest.mark.parametrize(
    "change, words",
    [
        (dict(activation="tanh"), "activation must be .* not 'tanh'"),
        (dict(weight=torch.ones(2)), r"weight must have shape \(3,\)"),
        (dict(x=torch.ones(2, 3, 5, 4).transpose(2, 3)), "contiguous or channels_last"),
        (dict(x=torch.ones(2, 3, 4, 5, dtype=torch.int32)), "not torch.int32"),
        (dict(mean=torch.ones(4)), r"mean must be a dense \(3,\) tensor of torch.float32, not \(4,\)"),
        (dict(rstd=torch.ones(3).double()), "rstd must be .* torch.float64"),
        (dict(x=torch.empty(1 << 19, 3, 64, 32, device="meta")), "2\\^30 elements a channel or more"),
    ],
)
def test_refusals(change, words):
    arguments = dict(
        x=torch.ones(2, 3, 4, 5),
        mean=torch.zeros(3),
        rstd=torch.ones(3),
        weight=None,
        bias=None,
        activation="relu",
        negative_slope=0.0,
    )
    with pytest.raises((ValueError, TypeError), match=words):
        kernels.apply(**{**arguments, **change})
