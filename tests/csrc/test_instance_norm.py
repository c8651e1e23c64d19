"""The C++ instance norm: values, gradients, accuracy, layouts, determinism, argument errors."""

import itertools

import pytest
import torch
import torch.nn.functional as F

from .common import FLOATS, FORMATS, ROUNDING, close, laid_out, norm_reference, wide

ACTIVATIONS = ("none", "relu", "leaky_relu")
# Ragged in every vector width; one pixel row; halo = dim - 1; several blocks per plane; channels past one tile.
CASES = [
    ((2, 3, 5, 7), 2),
    ((1, 40, 3, 9), 2),
    ((2, 70, 4, 4), 3),
    ((1, 1, 1, 37), 0),
    ((3, 16, 6, 1), 0),
    ((1, 5, 2, 2), 1),
    ((1, 2, 131, 140), 1),
]


def case(shape, dtype, layout, halo, affine, strided, seed=0):
    generator = torch.Generator().manual_seed(seed)

    def normal(*size):
        return torch.randn(size, generator=generator, dtype=torch.float64).to(dtype)

    n, c, h, w = shape
    x = laid_out(normal(*shape) * 2 + 0.7, layout)
    weight, bias = (normal(c), normal(c)) if affine else (None, None)
    padded = laid_out(normal(n, c, h + 2, w + 2), layout)
    residual = padded[:, :, 1:-1, 1:-1] if strided else None
    dy = laid_out(normal(n, c, h + 2 * halo, w + 2 * halo), layout)
    return x, weight, bias, residual, dy


def slope_is_certain(x, weight, bias):
    """False where z is so near zero that rounding decides on which side of the kink it lies."""
    z = norm_reference(*(None if t is None else t.double() for t in (x, weight, bias)))
    return (z.abs() > 1e-4).all()


@pytest.mark.parametrize("shape, halo", CASES)
@pytest.mark.parametrize("layout", FORMATS)
@pytest.mark.parametrize("dtype", FLOATS)
def test_forward_and_backward(ops, level, dtype, layout, shape, halo):
    plain_and_all = ((False, False), (True, True))
    for activation, border, (affine, strided) in itertools.product(ACTIVATIONS, {0, halo}, plain_and_all):
        seed = 0
        x, weight, bias, residual, dy = case(shape, dtype, layout, border, affine, strided)
        while activation != "none" and x.numel() < 5000 and not slope_is_certain(x, weight, bias):
            seed += 1
            x, weight, bias, residual, dy = case(shape, dtype, layout, border, affine, strided, seed)
        y, mean, rstd = ops.instance_norm(x, weight, bias, residual, 1e-5, activation, 0.2, border)
        leaves = [wide(t) for t in (x, weight, bias, residual)]
        expected = norm_reference(*leaves, 1e-5, activation, 0.2, border)
        assert y.dtype == dtype and y.is_contiguous(memory_format=FORMATS[layout])
        close(y, expected, ROUNDING[dtype])
        close(mean, x.double().mean((2, 3)), ROUNDING[torch.float32 if dtype != torch.float64 else dtype])

        dx, dweight, dbias, dresidual = ops.instance_norm_backward(
            dy, x, mean, rstd, weight, bias, activation, 0.2, border, strided
        )
        present = [t for t in leaves if t is not None]
        grads = iter(torch.autograd.grad(expected, present, dy.double().contiguous()))
        assert dx.dtype == dtype and dx.is_contiguous(memory_format=FORMATS[layout])
        if activation == "none" or x.numel() < 5000:
            close(dx, next(grads), 2 * ROUNDING[dtype])
        else:  # Some z of a large input always lies on the kink; its gradient then belongs to the other side.
            wrong = (dx.double() - next(grads)).abs() > 16 * ROUNDING[dtype]
            assert wrong.double().mean() < 1e-3
        if affine and (activation == "none" or x.numel() < 5000):
            length = x.numel() / x.shape[1]
            close(dweight, next(grads), 4 * ROUNDING[dtype] * length**0.5)
            close(dbias, next(grads), 4 * ROUNDING[dtype] * length**0.5)
        if strided and border:
            assert dresidual.is_contiguous(memory_format=FORMATS[layout])
            close(
                dresidual,
                torch.autograd.grad(
                    F.pad(leaves[3], (border,) * 4, mode="reflect"), leaves[3], dy.double().contiguous()
                )[0],
                ROUNDING[dtype],
            )
        else:
            assert dresidual.shape == (0,)
        if not affine:
            assert dweight.shape == dbias.shape == (0,) and dweight.dtype == dbias.dtype == torch.float32


@pytest.mark.parametrize("layout", FORMATS)
@pytest.mark.parametrize("centre, spread", [(1e4, 1.0), (-2.3, 0.5), (0.0, 1e-6), (1e3, 1e-2), (3e18, 1e16)])
def test_off_centre_data_is_as_accurate_as_torch(ops, level, layout, centre, spread):
    generator = torch.Generator().manual_seed(1)
    x = laid_out((torch.randn(2, 24, 33, 31, generator=generator) * spread + centre), layout)
    expected = norm_reference(x.double())
    error = (ops.instance_norm(x, None, None, None, 1e-5, "none", 0.0, 0)[0] - expected).abs().max()
    torchs = (F.instance_norm(x) - expected).abs().max()
    assert error <= 2 * torchs + 1e-6


@pytest.mark.parametrize("layout", FORMATS)
@pytest.mark.parametrize("outliers", [slice(0, 16), slice(0, None, 7), slice(0, None, 17)])
def test_outliers_among_the_first_pixels_cost_no_accuracy(ops, level, layout, outliers):
    # The moments are taken about the mean of a few of the pixels; here those are far from the rest.
    x = torch.randn(1, 32, 48, 40, generator=torch.Generator().manual_seed(2))
    x.flatten(2)[:, :, outliers] += 1e3
    x = laid_out(x, layout)
    expected = norm_reference(x.double())
    error = (ops.instance_norm(x, None, None, None, 1e-5, "none", 0.0, 0)[0] - expected).abs().max()
    assert error <= 2 * (F.instance_norm(x) - expected).abs().max() + 2e-6


@pytest.mark.parametrize("layout", FORMATS)
@pytest.mark.parametrize("dtype", FLOATS)
def test_constant_planes_and_huge_values(ops, level, dtype, layout):
    x = laid_out(torch.full((2, 20, 9, 8), 0.3, dtype=dtype), layout)
    y, _mean, _rstd = ops.instance_norm(x, None, None, None, 1e-5, "none", 0.0, 0)
    torch.testing.assert_close(y, torch.zeros_like(y), atol=1e-4, rtol=0)
    huge = laid_out(torch.randn(1, 20, 9, 8, generator=torch.Generator().manual_seed(0)) * 1e30, layout).to(dtype)
    y = ops.instance_norm(huge, None, None, None, 1e-5, "none", 0.0, 0)[0]
    close(y, norm_reference(huge.double()), ROUNDING[dtype])


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64], ids=str)
@pytest.mark.parametrize("layout", FORMATS)
def test_a_gradient_inside_the_halo(ops, level, layout, dtype):
    for shape, halo in (((2, 5, 7, 9), 1), ((1, 33, 40, 21), 3), ((1, 1, 150, 301), 2)):
        x, weight, bias, _, dy = case(shape, torch.float64, layout, halo, True, True)
        generator = torch.Generator().manual_seed(1)
        inner = laid_out(torch.randn(shape, dtype=torch.float64, generator=generator), layout)
        _, mean, rstd = ops.instance_norm(x, weight, bias, None, 1e-5, "none", 0.0, halo)
        together = dy + torch.nn.functional.pad(inner, (halo,) * 4)
        expected = ops.instance_norm_backward(together, x, mean, rstd, weight, bias, "none", 0.0, halo, True)
        low = [t.to(dtype) for t in (dy, x)]
        wide = torch.float32 if dtype != torch.float64 else dtype
        grads = ops.instance_norm_backward(
            *low, *(t.to(wide) for t in (mean, rstd, weight, bias)), "none", 0.0, halo, True, inner.to(dtype)
        )
        length = x.numel() / x.shape[1]  # dweight and dbias are sums of so many numbers of either sign
        for a, b, terms in zip(grads, expected, (1, length, length, 1), strict=True):
            assert (a.double() - b).abs().max() <= 16 * ROUNDING[dtype] * max(terms**0.5, b.abs().max())
    with pytest.raises(ValueError, match="dy_interior is for a halo, got a halo of 0; add it to dy"):
        ops.instance_norm_backward(inner, inner, mean, rstd, weight, bias, "none", 0.0, 0, False, inner)
    with pytest.raises(ValueError, match="dy_interior"):
        ops.instance_norm_backward(dy, x, mean, rstd, weight, bias, "none", 0.0, halo, False, dy)


@pytest.mark.parametrize("layout", FORMATS)
def test_results_do_not_depend_on_the_number_of_threads(ops, level, layout, threads):
    # The last one has too few planes for four threads, so that planes are split.
    for shape in ((2, 48, 33, 40), (1, 1, 300, 301), (1, 20, 130, 128)):
        for halo in (0, 2):
            results = []
            for count in (1, 2, 3, 8):
                threads(count)
                x, weight, bias, residual, dy = case(shape, torch.float32, layout, halo, True, True)
                y, mean, rstd = ops.instance_norm(x, weight, bias, residual, 1e-5, "relu", 0.0, halo)
                grads = ops.instance_norm_backward(dy, x, mean, rstd, weight, bias, "relu", 0.0, halo, True)
                results.append((y, mean, rstd, *grads))
            for other in results[1:]:
                assert all(torch.equal(a, b) for a, b in zip(results[0], other, strict=True))


@pytest.mark.parametrize("layout", FORMATS)
def test_results_larger_than_the_caches(ops, level, layout):
    # Such results are stored past the caches.
    x = laid_out(torch.randn(1, 64, 256, 200, generator=torch.Generator().manual_seed(0)), layout)
    y, mean, rstd = ops.instance_norm(x, None, None, None, 1e-5, "relu", 0.0, 0)
    torch.testing.assert_close(y, norm_reference(x, activation="relu"), atol=1e-5, rtol=1e-5)
    dx = ops.instance_norm_backward(y, x, mean, rstd, None, None, "none", 0.0, 0, False)[0]
    n = (x - mean[..., None, None]) * rstd[..., None, None]
    plane = (2, 3)
    expected = rstd[..., None, None] * (y - y.mean(plane, keepdim=True) - n * (y * n).mean(plane, keepdim=True))
    torch.testing.assert_close(dx, expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("product_level", ["avx512_bf16"], indirect=True)
@pytest.mark.parametrize("shape", [(2, 20, 9, 7), (2, 64, 256, 200)], ids=["small", "larger than the caches"])
@pytest.mark.parametrize("layout", FORMATS)
def test_bfloat16_is_rounded_by_instruction_as_by_integers(ops, product_level, layout, shape):
    x, weight, bias, residual, dy = case(shape, torch.bfloat16, layout, 0, True, True)
    x[0, 3, 2, 2], x[1, 4, 0, 0], dy[0, 5, 1, 1] = float("nan"), float("inf"), float("-inf")

    def results():
        y, mean, rstd = ops.instance_norm(x, weight, bias, residual, 1e-5, "leaky_relu", 0.2, 0)
        plain = ops.instance_norm(x, weight, bias, None, 1e-5, "relu", 0.0, 0)[0]
        backward = ops.instance_norm_backward(dy, x, mean, rstd, weight, bias, "relu", 0.0, 0, False)
        return [t.nan_to_num(nan=7.5, posinf=8.5, neginf=9.5) for t in (y, plain, backward[0])]

    by_instruction = results()
    ops.limit_cpu_capability("avx512")
    for rounded, by_integers in zip(by_instruction, results()):
        assert torch.equal(rounded, by_integers)


@pytest.mark.parametrize("layout", FORMATS)
@pytest.mark.parametrize("dtype", FLOATS)
def test_nan_stays_in_its_plane(ops, level, dtype, layout):
    for poison in (float("nan"), float("inf")):
        x = laid_out(torch.randn(2, 20, 5, 6, generator=torch.Generator().manual_seed(0)).to(dtype), layout)
        x[1, 3, 2, 2] = poison
        for activation in ACTIVATIONS:
            y, mean, rstd = ops.instance_norm(x, None, None, None, 1e-5, activation, 0.2, 1)
            assert y[1, 3, 1 + 2, 1 + 2].isnan()
            poisoned = torch.zeros(2, 20, dtype=torch.bool)
            poisoned[1, 3] = True
            assert y[~poisoned].isfinite().all()
            dx = ops.instance_norm_backward(torch.ones_like(y), x, mean, rstd, None, None, activation, 0.2, 1, False)[0]
            assert dx[poisoned].isnan().all() and dx[~poisoned].isfinite().all()


def test_ties_of_relu_have_no_gradient(ops, level):
    x = torch.tensor([[[[-1.0, 0.0, 0.0, 1.0]]]])
    y, mean, rstd = ops.instance_norm(x, None, None, None, 1e-5, "relu", 0.0, 0)
    dbias = ops.instance_norm_backward(torch.ones_like(x), x, mean, rstd, None, torch.zeros(1), "relu", 0.0, 0, False)[
        2
    ]
    assert y.flatten()[1] == 0 and dbias.item() == 1


@pytest.mark.parametrize("shape", [(0, 3, 4, 4), (2, 0, 4, 4), (2, 3, 0, 4)])
def test_empty_inputs(ops, level, shape):
    x, weight = torch.empty(shape), torch.ones(shape[1])
    y, mean, rstd = ops.instance_norm(x, weight, weight, None, 1e-5, "relu", 0.0, 0)
    assert y.shape == x.shape and mean.shape == rstd.shape == shape[:2]
    dx, dweight, dbias, _ = ops.instance_norm_backward(x, x, mean, rstd, weight, weight, "relu", 0.0, 0, False)
    assert dx.shape == x.shape and dweight.tolist() == dbias.tolist() == [0.0] * shape[1]


def test_one_pixel(ops, level):
    y, mean, rstd = ops.instance_norm(torch.full((2, 3, 1, 1), 7.0), None, None, None, 1e-5, "none", 0.0, 0)
    assert (y == 0).all() and (mean == 7).all()
    torch.testing.assert_close(rstd, torch.full((2, 3), 1e-5**-0.5))


def test_float_parameters_beside_bfloat16(ops, level):
    x, weight, bias, _, dy = case((2, 20, 6, 5), torch.bfloat16, "nhwc", 0, True, False)
    y, mean, rstd = ops.instance_norm(x, weight.float(), bias.float(), None, 1e-5, "none", 0.0, 0)
    assert torch.equal(y, ops.instance_norm(x, weight, bias, None, 1e-5, "none", 0.0, 0)[0])
    grads = ops.instance_norm_backward(dy, x, mean, rstd, weight.float(), bias, "none", 0.0, 0, False)
    assert (grads[1].dtype, grads[2].dtype) == (torch.float32, torch.bfloat16)


def refused(error, words, call, *args):
    with pytest.raises(error, match=words) as caught:
        call(*args)
    assert "\n" not in str(caught.value).split("Exception raised from")[0].strip()


def test_bad_arguments_are_errors(ops):
    x = torch.randn(2, 3, 8, 8)

    def forward(x=x, weight=None, bias=None, residual=None, activation="relu", halo=0):
        return ops.instance_norm(x, weight, bias, residual, 1e-5, activation, 0.2, halo)

    refused(ValueError, r"four dimensions .* got shape \[3, 8, 8\]", forward, x[0])
    refused(ValueError, r"must be dense.*input\.contiguous\(\)", forward, x[:, :, ::2])
    refused(TypeError, "float32, bfloat16 and float64 tensors, got Int", forward, x.int())
    refused(ValueError, "none, relu or leaky_relu, got 'gelu'", lambda: forward(activation="gelu"))
    refused(ValueError, "got halo 8 for 8 x 8", lambda: forward(halo=8))
    refused(ValueError, "got halo -1", lambda: forward(halo=-1))
    refused(ValueError, r"weight must have shape \[3\].*got \[4\]", lambda: forward(weight=torch.ones(4)))
    refused(TypeError, "bias must be Float or have the input's dtype", lambda: forward(bias=torch.ones(3).half()))
    refused(ValueError, r"residual must have the input's shape", lambda: forward(residual=x[:1]))
    refused(TypeError, "residual must have the input's dtype", lambda: forward(residual=x.double()))
    refused(ValueError, "rows of residual", lambda: forward(residual=x.transpose(2, 3)))

    y, mean, rstd = forward()

    def backward(dy=y, mean=mean, halo=0):
        return ops.instance_norm_backward(dy, x, mean, rstd, None, None, "relu", 0.2, halo, False)

    refused(ValueError, r"dy must have shape \[2, 3, 10, 10\], got \[2, 3, 8, 8\]", lambda: backward(halo=1))
    refused(ValueError, "dy must be contiguous, as the input is", lambda: backward(laid_out(y, "nhwc")))
    refused(ValueError, r"mean must be contiguous with shape \[2, 3\]", lambda: backward(mean=mean[:1]))
    refused(TypeError, "mean must be Float", lambda: backward(mean=mean.double()))
