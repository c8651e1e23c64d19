"""The C++ losses: values, derivatives, sums, accuracy, infinities, argument errors."""

import pytest
import torch
import torch.nn.functional as F

from .common import FLOATS, ROUNDING

KINDS = ("l1", "mse", "bce")


def loss_reference(x, t, kind):
    if kind == "l1":
        return (x - t).abs(), torch.sign(x - t)
    if kind == "mse":
        return (x - t) ** 2, 2 * (x - t)
    return x.clamp(min=0) - x * t + torch.log1p(torch.exp(-x.abs())), torch.sigmoid(x) - t


def inputs(size, dtype, kind):
    generator = torch.Generator().manual_seed(0)
    x = (torch.randn(size, generator=generator, dtype=torch.float64) * 3).to(dtype)
    t = torch.rand(size, generator=generator, dtype=torch.float64).to(dtype)
    if kind == "l1":
        t = torch.where(t < 0.2, x, t)  # ties
    return x, t


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dtype", FLOATS)
def test_values_and_derivatives(ops, level, dtype, kind):
    for size in (1, 3, 64, 2049, 70001):
        for label in (None, 0.9):
            x, t = inputs(size, dtype, kind)
            target = t if label is None else None
            wide = t.double() if label is None else torch.full_like(x, label, dtype=torch.float64)
            expected, slope = loss_reference(x.double(), wide, kind)
            value, grad = ops.pointwise_loss(x, target, label or 0.0, kind, "none", True)
            assert value.dtype == grad.dtype == dtype
            torch.testing.assert_close(value.double(), expected, atol=ROUNDING[dtype], rtol=ROUNDING[dtype])
            torch.testing.assert_close(grad.double(), slope, atol=ROUNDING[dtype], rtol=ROUNDING[dtype])
            for reduction in ("sum", "mean"):
                value, none = ops.pointwise_loss(x, target, label or 0.0, kind, reduction, False)
                assert value.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
                assert none.shape == (0,)
                rounding = 1e-14 if dtype == torch.float64 else 3e-7
                torch.testing.assert_close(value.double(), getattr(expected, reduction)(), atol=0, rtol=rounding)


def test_logistic_loss_is_accurate_over_the_whole_range(ops, level):
    x = torch.cat([torch.linspace(-110, 110, 200001), torch.logspace(-40, 4, 20001), -torch.logspace(-40, 4, 20001)])
    for target in (0.0, 1.0):
        expected, slope = loss_reference(x.double(), torch.full_like(x, target, dtype=torch.float64), "bce")
        value, grad = ops.pointwise_loss(x, None, target, "bce", "none", True)
        # Four units in the last place, or four of the smallest numbers that float has.
        torch.testing.assert_close(value.double(), expected, rtol=2.5e-7, atol=6e-45)
        if target == 0:
            torch.testing.assert_close(grad.double(), slope, rtol=2.5e-7, atol=6e-45)


@pytest.mark.parametrize("kind", KINDS)
def test_infinities_and_nan_as_in_torch(ops, level, kind):
    inf, nan = float("inf"), float("nan")
    x = torch.tensor([inf, -inf, nan, 1.0, 1e4, -1e4, 0.0, inf])
    t = torch.tensor([0.0, 1.0, 0.0, nan, 0.5, 0.5, 0.0, 1.0])
    torchs = {"l1": F.l1_loss, "mse": F.mse_loss, "bce": F.binary_cross_entropy_with_logits}[kind]
    expected = torchs(x, t, reduction="none")
    if kind == "bce":
        expected[1] = inf  # the true limit; torch's formula subtracts infinities
    value, grad = ops.pointwise_loss(x, t, 0.0, kind, "none", True)
    torch.testing.assert_close(value, expected, equal_nan=True)
    assert grad[2].isnan() and grad[3].isnan()
    if kind == "bce":
        torch.testing.assert_close(grad[:2], torch.tensor([1.0, -1.0]))
    assert ops.pointwise_loss(x, t, 0.0, kind, "sum", False)[0].isnan()


def test_sign_of_a_tie_is_zero(ops, level):
    x = torch.tensor([1.0, 2.0, -0.0, 0.0])
    grad = ops.pointwise_loss(x, torch.tensor([1.0, 1.0, 0.0, -0.0]), 0.0, "l1", "none", True)[1]
    assert grad.tolist() == [0, 1, 0, 0]


def test_long_sums_stay_accurate(ops, level):
    x = torch.rand(3_000_000, generator=torch.Generator().manual_seed(0))
    value = ops.pointwise_loss(x, None, 0.0, "l1", "mean", False)[0]
    assert abs(value.item() - x.double().mean().item()) < 1e-7


@pytest.mark.parametrize("kind", KINDS)
def test_results_do_not_depend_on_the_number_of_threads(ops, level, kind, threads):
    x, t = inputs(300_001, torch.float32, kind)
    results = []
    for count in (1, 2, 3):
        threads(count)
        results.append(ops.pointwise_loss(x, t, 0.0, kind, "sum", True))
    assert all(torch.equal(a, b) for other in results[1:] for a, b in zip(results[0], other, strict=True))


def test_empty_inputs(ops):
    x = torch.empty(0, 3)
    assert ops.pointwise_loss(x, None, 1.0, "mse", "sum", False)[0] == 0
    assert ops.pointwise_loss(x, None, 1.0, "mse", "mean", False)[0].isnan()
    value, grad = ops.pointwise_loss(x, x, 0.0, "bce", "none", True)
    assert value.shape == grad.shape == (0, 3)


def test_any_dense_order_of_dimensions(ops, level):
    x = torch.randn(3, 5, 4, 7, generator=torch.Generator().manual_seed(0)).permute(2, 0, 3, 1)
    t = torch.randn_like(x)
    value, grad = ops.pointwise_loss(x, t, 0.0, "mse", "none", True)
    assert value.stride() == grad.stride() == x.stride()
    torch.testing.assert_close(value, (x - t) ** 2)


def test_bad_arguments_are_errors(ops):
    x = torch.randn(4, 6)

    def loss(x=x, t=None, kind="l1", reduction="mean"):
        return ops.pointwise_loss(x, t, 0.0, kind, reduction, False)

    for error, words, arguments in (
        (ValueError, "kind must be l1, mse or bce, got 'huber'", {"kind": "huber"}),
        (ValueError, "reduction must be none, mean or sum, got 'max'", {"reduction": "max"}),
        (TypeError, "got Half", {"x": x.half()}),
        (TypeError, "target must have the input's dtype Float, got Double", {"t": x.double()}),
        (ValueError, r"target must have the input's shape \[4, 6\], got \[4\]", {"t": x[:, 0]}),
        (ValueError, "target must have the input's strides", {"t": torch.randn(6, 4).t()}),
        (ValueError, r"without gaps.*input\.contiguous\(\)", {"x": x[:, ::2]}),
    ):
        with pytest.raises(error, match=words):
            loss(**arguments)
