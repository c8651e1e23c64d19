"""The pointwise loss launcher against fp64."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fastgan.kernels import losses as kernels

from . import oracle

KINDS = ("l1", "mse", "bce")


@st.composite
def problems(draw):
    numel = draw(st.sampled_from((1, 2, 15, 16, 17, 63, 64, 100, 130)))
    reduction = draw(st.sampled_from(("none", "sum", "mean")))
    tiles = -(-numel // 16)
    each = 1 if reduction == "none" else draw(st.sampled_from((1, 3, tiles)))
    return dict(
        numel=numel,
        reduction=reduction,
        label=draw(st.sampled_from((None, 0.0, 1.0, 0.9))),
        want_grad=draw(st.booleans()),
        scale=draw(st.sampled_from((1.0, 30.0, 1e4))),
        config=kernels.Config(16, 1, each, -(-tiles // each)),
        seed=draw(st.integers(0, 99)),
    )


@pytest.mark.parametrize("dtype", oracle.DTYPES, ids=str)
@pytest.mark.parametrize("kind", KINDS)
def test_matches_fp64(kind, dtype, device):
    @settings(max_examples=12, phases=oracle.PHASES)
    @given(problems())
    def check(problem):
        generator = torch.Generator().manual_seed(problem["seed"])
        scale = problem["scale"] if kind == "bce" else 4.0
        x = (torch.randn(problem["numel"], generator=generator) * scale).to(device=device, dtype=dtype)
        label, target = problem["label"], None
        if label is None:
            target = torch.rand(problem["numel"], generator=generator).to(device=device, dtype=dtype)
            target[::3] = x[::3] if kind != "bce" else 1.0  # ties
        value, grad = kernels.forward(
            x, target, label or 0.0, kind, problem["reduction"], problem["want_grad"], problem["config"]
        )
        expected, expected_grad = oracle.loss(x, (label or 0.0) if target is None else target, kind)
        unit = oracle.epsilon(oracle.accumulator(dtype))
        largest = expected.abs().max().item() + 1 + (x.abs().max().item() if kind == "bce" else 0.0)
        bound = 8 * unit * largest
        if problem["reduction"] == "none":
            assert value.dtype == dtype
            oracle.assert_within(value, expected, bound + oracle.epsilon(dtype) * largest, "value")
        else:
            total = expected.sum() if problem["reduction"] == "sum" else expected.mean()
            assert value.dtype == oracle.accumulator(dtype)
            share = 1.0 if problem["reduction"] == "sum" else 1 / problem["numel"]
            oracle.assert_within(value, total, bound * problem["numel"] * share, "value")
        if problem["want_grad"]:
            bound = 4 * unit + oracle.epsilon(dtype) * expected_grad.abs().max().item()
            oracle.assert_within(grad, expected_grad, bound, "grad")
        else:
            assert grad.shape == (0,)

    check()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("numel", (900, 20000))
def test_the_chosen_configuration(kind, numel, device):
    x = torch.randn(numel, generator=torch.Generator().manual_seed(0)).to(device)
    value, grad = kernels.forward(x, None, 1.0, kind, "mean", True)
    expected, expected_grad = oracle.loss(x, 1.0, kind)
    oracle.assert_within(value, expected.mean(), 1e-6, "value")
    oracle.assert_within(grad, expected_grad, 1e-6, "grad")


@pytest.mark.parametrize("kind", KINDS)
def test_nan_and_any_dense_strides(kind, device):
    x = torch.randn((2, 3, 4, 5), generator=torch.Generator().manual_seed(0)).to(device).permute(3, 0, 2, 1)
    target = torch.zeros_like(x)
    x[1, 1, 1, 1] = float("nan")
    value, grad = kernels.forward(x, target, 0.0, kind, "none", True)
    expected, expected_grad = oracle.loss(x, target, kind)
    assert value.stride() == grad.stride() == x.stride()
    oracle.assert_within(value, expected, 1e-5, "value")
    # sign and sigmoid of NaN: NaN as well
    oracle.assert_within(grad, torch.where(x.isnan(), x.double(), expected_grad), 1e-5, "grad")
    assert kernels.forward(x, target, 0.0, kind, "mean", False)[0].isnan()


def test_a_tie_has_no_slope(device):
    x = torch.tensor([1.0, -0.0, 2.0], device=device)
    _, grad = kernels.forward(x, x.clone(), 0.0, "l1", "sum", True)
    assert torch.equal(grad, torch.zeros_like(x))


def test_a_saturated_answer_keeps_its_gradient(device):
    """sigmoid(30) - 1 is -9.4e-14: fp32 arithmetic on the sigmoid itself would give 0."""
    x = torch.tensor([30.0, -30.0], device=device)
    for label, sign in ((1.0, -1), (0.0, 1)):
        _, grad = kernels.forward(x, None, label, "bce", "sum", True)
        right = grad[0 if label else 1].item()
        assert abs(right / (sign * 9.357622968839299e-14) - 1) < 1e-5


def test_a_label_keeps_its_precision_in_fp64(device):
    x = torch.zeros(3, dtype=torch.float64, device=device)
    value, _ = kernels.forward(x, None, 0.1, "l1", "mean", False)
    assert value.item() == pytest.approx(0.1, rel=1e-15)


def test_of_nothing(device):
    x = torch.empty((0, 3), device=device)
    assert kernels.forward(x, None, 1.0, "l1", "sum", True)[0].item() == 0
    assert kernels.forward(x, None, 1.0, "l1", "mean", True)[0].isnan()
    assert kernels.forward(x, None, 1.0, "l1", "none", True)[0].shape == (0, 3)


@given(st.integers(1, 2**40), st.sampled_from((2, 4, 8)), st.sampled_from(("none", "sum")))
def test_config(numel, itemsize, reduction):
    config = kernels.default_config(numel, itemsize, reduction)
    share = config.block * config.tiles
    assert (config.programs - 1) * share < numel <= config.programs * share
    assert config.programs < 2**31
    assert reduction == "none" or config.programs <= kernels._MAX_PROGRAMS <= kernels._PARTIAL_BLOCK


@pytest.mark.parametrize(
    "change, words",
    [
        (dict(kind="hinge"), "not 'hinge'"),
        (dict(reduction="max"), "not 'max'"),
        (dict(input=torch.ones(4, 4)[:, ::2]), "dense in memory"),
        (dict(target=torch.ones(4, 2)), "target must have the input's shape"),
        (dict(target=torch.ones(4, 4).t()), "target must have the input's shape, dtype and strides"),
    ],
)
def test_refusals(change, words):
    arguments = dict(input=torch.ones(4, 4), target=None, label=1.0, kind="l1", reduction="mean", want_grad=False)
    with pytest.raises(ValueError, match=words):
        kernels.forward(**{**arguments, **change})
