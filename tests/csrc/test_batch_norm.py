"""The C++ batch norm: values, gradients, accuracy, layouts, determinism, argument errors."""

import pytest
import torch

from .common import FLOATS, FORMATS, ROUNDING, activate, close, laid_out, wide

ACTIVATIONS = ("none", "relu", "leaky_relu")
# Ragged in every vector width; planes shorter than a vector; single pixels; one channel; several pieces to a channel
# and to a plane; channels past one tile.
CASES = [(2, 3, 5, 7), (4, 40, 3, 9), (64, 5, 1, 1), (7, 1, 4, 4), (3, 70, 4, 4), (33, 9, 11, 11), (2, 3, 131, 140)]


def case(shape, dtype, layout, seed=0):
    generator = torch.Generator().manual_seed(seed)

    def normal(*size):
        return torch.randn(size, generator=generator, dtype=torch.float64).to(dtype)

    x, dy = laid_out(normal(*shape) * 2 + 0.7, layout), laid_out(normal(*shape), layout)
    return x, normal(shape[1]), normal(shape[1]), dy


def variance_of(flat):
    """Of each row, unbiased, in two passes: torch's own var is good to 1e-14 only."""
    centred = flat - flat.mean(1, keepdim=True)
    return centred.square().sum(1) / (flat.shape[1] - 1)


def normalised(x, weight, bias, eps=1e-5):
    """The definition, in the dtype of x: torch's own op takes its float64 variance from torch's var."""
    centred = x - x.mean((0, 2, 3), keepdim=True)
    n = centred * torch.rsqrt(centred.square().mean((0, 2, 3), keepdim=True) + eps)
    return n * weight.view(1, -1, 1, 1) + bias.view(1, -1, 1, 1)


def channels(t):
    return t.double().view(1, -1, 1, 1)


@pytest.mark.parametrize("training", [True, False], ids=["training", "evaluation"])
@pytest.mark.parametrize("shape", CASES)
@pytest.mark.parametrize("layout", FORMATS)
@pytest.mark.parametrize("dtype", FLOATS)
def test_forward_and_backward(ops, level, dtype, layout, shape, training):
    length = (torch.Size(shape).numel() / shape[1]) ** 0.5
    statistics_dtype = torch.float64 if dtype == torch.float64 else torch.float32
    for activation in ACTIVATIONS:
        x, weight, bias, dy = case(shape, dtype, layout)
        y, mean, rstd, variance = ops.batch_norm(x, weight, bias, 1e-5, activation, 0.2)
        leaves = [wide(t) for t in (x, weight, bias)]
        if training:
            z = normalised(*leaves)
            flat = x.double().transpose(0, 1).flatten(1)
            assert mean.dtype == rstd.dtype == variance.dtype == statistics_dtype
            close(mean, flat.mean(1), ROUNDING[statistics_dtype])
            close(variance, variance_of(flat), 4 * ROUNDING[statistics_dtype])
        else:
            mean, rstd = mean + 0.3, rstd * 1.1
            z = (leaves[0] - channels(mean)) * channels(rstd) * channels(leaves[1]) + channels(leaves[2])
            y = ops.batch_norm_apply(x, mean, rstd, weight, bias, activation, 0.2)
        expected = activate(z, activation, 0.2)
        assert y.dtype == dtype and y.stride() == x.stride()
        close(y, expected, ROUNDING[dtype])

        if activation != "none":  # near the kink rounding decides on the side
            dy = laid_out(dy * (z.abs() > 1e-3), layout)
        dx, dweight, dbias = ops.batch_norm_backward(dy, x, mean, rstd, weight, bias, activation, 0.2, training)
        grads = torch.autograd.grad(expected, leaves, dy.double().contiguous())
        assert dx.dtype == dtype and dx.stride() == x.stride() and dweight.dtype == dbias.dtype == dtype
        close(dx, grads[0], 2 * ROUNDING[dtype])
        close(dweight, grads[1], 4 * ROUNDING[dtype] * length)
        close(dbias, grads[2], 4 * ROUNDING[dtype] * length)
        without = ops.batch_norm_backward(dy, x, mean, rstd, None, None, activation, 0.2, training)
        assert without[1].shape == without[2].shape == (0,) and without[1].dtype == torch.float32


@pytest.mark.parametrize("product_level", ["avx512_bf16"], indirect=True)
@pytest.mark.parametrize("layout", FORMATS)
def test_bfloat16_is_rounded_by_instruction_as_by_integers(ops, product_level, layout):
    x, weight, bias, dy = case((3, 70, 9, 11), torch.bfloat16, layout)
    x[0, 3, 2, 2], x[1, 4, 0, 0], dy[0, 5, 1, 1] = float("nan"), float("inf"), float("-inf")

    def results():
        y, mean, rstd, _ = ops.batch_norm(x, weight, bias, 1e-5, "relu", 0.0)
        plain = ops.batch_norm_apply(x, mean, rstd, weight, bias, "leaky_relu", 0.2)
        gradients = [
            ops.batch_norm_backward(dy, x, mean, rstd, weight, bias, "relu", 0.0, training)[0]
            for training in (True, False)
        ]
        return [t.nan_to_num(nan=7.5, posinf=8.5, neginf=9.5) for t in (y, plain, *gradients)]

    by_instruction = results()
    ops.limit_cpu_capability("avx512")
    for rounded, by_integers in zip(by_instruction, results()):
        assert torch.equal(rounded, by_integers)


@pytest.mark.parametrize("layout", FORMATS)
@pytest.mark.parametrize("side", [3, 31])
@pytest.mark.parametrize(
    "centre, spread", [(1e4, 1.0), (-2.3, 0.5), (0.0, 1e-6), (1e3, 1e-2), (3e18, 1e16), (0.0, 1e30)]
)
def test_statistics_are_those_of_the_data(ops, level, layout, centre, spread, side):
    """Also where the sample that the first guess of the mean comes from lies far from the rest."""
    x = torch.randn(9, 24, side, side, generator=torch.Generator().manual_seed(1)) * spread + centre
    for outlier in (0.0, 100.0):
        x[0] += outlier * spread
        flat = x.double().transpose(0, 1).flatten(1)
        _, mean, rstd, variance = ops.batch_norm(laid_out(x, layout), None, None, 1e-5, "none", 0.0)
        assert ((mean - flat.mean(1)).abs() <= 1e-6 * flat.abs().max()).all()
        expected = variance_of(flat)
        if spread < 1e18:  # within the range of float
            assert ((variance - expected).abs() <= 2e-5 * expected + 1e-13 * flat.abs().max() ** 2).all()
        else:
            assert rstd.isfinite().all()


@pytest.mark.parametrize("layout", FORMATS)
def test_results_do_not_depend_on_the_number_of_threads(ops, level, layout, threads):
    # The second and third have too few channels for the threads, so that channels are split.
    for shape in ((16, 48, 13, 11), (40, 2, 33, 31), (2, 3, 200, 170), (3000, 5, 1, 1)):
        x, weight, bias, dy = case(shape, torch.float32, layout)
        results = []
        for count in (1, 2, 3, 8):
            threads(count)
            y, mean, rstd, variance = ops.batch_norm(x, weight, bias, 1e-5, "relu", 0.0)
            grads = [
                ops.batch_norm_backward(dy, x, mean, rstd, weight, bias, "relu", 0.0, training)
                for training in (True, False)
            ]
            fixed = ops.batch_norm_apply(x, mean, rstd, weight, bias, "relu", 0.0)
            results.append((y, mean, rstd, variance, fixed, *grads[0], *grads[1]))
        for other in results[1:]:
            assert all(torch.equal(a, b) for a, b in zip(results[0], other, strict=True))
        assert torch.equal(results[0][0], results[0][4])


@pytest.mark.parametrize("layout", FORMATS)
@pytest.mark.parametrize("shape", [(4, 64, 128, 104), (8, 24, 119, 150)])
def test_results_larger_than_the_caches(ops, level, layout, shape):
    # Such results are stored past the caches, where planes share no cache line.
    x, weight, bias, dy = case(shape, torch.float32, layout)
    y, mean, rstd, _ = ops.batch_norm(x, weight, bias, 1e-5, "none", 0.0)
    leaves = [wide(t) for t in (x, weight, bias)]
    expected = normalised(*leaves)
    torch.testing.assert_close(y.double(), expected, atol=1e-5, rtol=1e-5)
    dx = ops.batch_norm_backward(dy, x, mean, rstd, weight, bias, "none", 0.0, True)[0]
    (grad,) = torch.autograd.grad(expected, leaves[:1], dy.double())
    torch.testing.assert_close(dx.double(), grad, atol=1e-5, rtol=1e-5)
    dx = ops.batch_norm_backward(dy, x, mean, rstd, weight, bias, "none", 0.0, False)[0]
    torch.testing.assert_close(dx, dy * (rstd * weight).view(1, -1, 1, 1), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("layout", FORMATS)
@pytest.mark.parametrize("dtype", FLOATS)
def test_nan_and_infinity_stay_in_their_channel(ops, level, dtype, layout):
    for poison in (float("nan"), float("inf")):
        x = laid_out(torch.randn(3, 20, 5, 6, generator=torch.Generator().manual_seed(0)).to(dtype), layout)
        x[1, 3, 2, 2] = poison
        others = torch.arange(20) != 3
        for activation in ACTIVATIONS:
            y, mean, rstd, variance = ops.batch_norm(x, None, None, 1e-5, activation, 0.2)
            assert y[:, 3].isnan().all() and variance[3].isnan() and y[:, others].isfinite().all()
            dx = ops.batch_norm_backward(torch.ones_like(y), x, mean, rstd, None, None, activation, 0.2, True)[0]
            assert dx[:, 3].isnan().all() and dx[:, others].isfinite().all()
            fixed = torch.zeros_like(mean), torch.ones_like(mean)
            dx = ops.batch_norm_backward(torch.ones_like(y), x, *fixed, None, None, activation, 0.2, False)[0]
            assert dx.isfinite().all()


def test_ties_of_relu_have_no_gradient(ops, level):
    x = torch.tensor([-1.0, 0.0, 0.0, 1.0]).view(2, 1, 2, 1)
    y, mean, rstd, _ = ops.batch_norm(x, None, None, 1e-5, "relu", 0.0)
    for training in (True, False):
        dbias = ops.batch_norm_backward(torch.ones_like(x), x, mean, rstd, None, torch.zeros(1), "relu", 0.0, training)[
            2
        ]
        assert y.flatten()[1] == 0 and dbias.item() == 1


@pytest.mark.parametrize("shape", [(0, 3, 4, 4), (2, 0, 4, 4), (2, 3, 0, 4)])
def test_empty_inputs(ops, level, shape):
    x, weight = torch.empty(shape), torch.ones(shape[1])
    y, mean, rstd, variance = ops.batch_norm(x, weight, weight, 1e-5, "relu", 0.0)
    assert y.shape == x.shape and mean.shape == rstd.shape == variance.shape == shape[1:2]
    assert ops.batch_norm_apply(x, mean, rstd, weight, weight, "relu", 0.0).shape == shape
    for training in (True, False):
        dx, dweight, dbias = ops.batch_norm_backward(x, x, mean, rstd, weight, weight, "relu", 0.0, training)
        assert dx.shape == x.shape and dweight.tolist() == dbias.tolist() == [0.0] * shape[1]


def test_bad_arguments_are_errors(ops):
    x = torch.randn(2, 3, 8, 8)
    mean = torch.zeros(3)

    def refused(error, words, op, *arguments):
        with pytest.raises(error, match=words) as caught:
            op(*arguments)
        assert "\n" not in str(caught.value).split("Exception raised from")[0].strip()

    def forward(x=x, weight=None, activation="relu"):
        return ops.batch_norm(x, weight, None, 1e-5, activation, 0.2)

    refused(ValueError, r"four dimensions .* got shape \[3, 8, 8\]", forward, x[0])
    refused(ValueError, r"must be dense.*input\.contiguous\(\)", forward, x[:, :, ::2])
    refused(TypeError, "float32, bfloat16 and float64 tensors, got Half", forward, x.half())
    refused(ValueError, "none, relu or leaky_relu, got 'gelu'", forward, x, None, "gelu")
    refused(ValueError, r"weight must have shape \[3\].*got \[4\]", forward, x, torch.ones(4))

    def apply(mean=mean):
        return ops.batch_norm_apply(x, mean, torch.ones(3), None, None, "none", 0.0)

    refused(ValueError, r"mean must be contiguous with shape \[3\], got \[4\]", apply, torch.zeros(4))
    refused(TypeError, "mean must be Float for an input of Float, got Double", apply, mean.double())

    def backward(dy):
        return ops.batch_norm_backward(dy, x, mean, mean, None, None, "none", 0.0, True)

    refused(ValueError, r"dy must have shape \[2, 3, 8, 8\], got \[2, 3, 8, 7\]", backward, x[..., 1:])
    refused(ValueError, "dy must be contiguous, as the input is", backward, laid_out(x, "nhwc"))
    refused(TypeError, "dy must have the input's dtype Float, got Double", backward, x.double())
