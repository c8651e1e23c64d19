"""reflection_pad2d: every backend against stock torch, the adjoint, all orders."""

import functools

import hypothesis
import hypothesis.strategies as st
import pytest
import torch
import torch.nn.functional as F

import fastgan
from fastgan.functional import reflection_pad2d

from .common import (
    BACKENDS,
    DTYPES,
    KERNELS,
    LAYOUTS,
    assert_accurate,
    assert_same,
    dense_layout,
    draw,
    gradients,
    images,
    slow,
    using,
)

using = functools.partial(using, "reflection_pad2d")


def stock_pad(x, padding):
    return F.pad(x, padding, mode="reflect")


def check_pad(x, padding):
    """Values are exact copies; gradients are sums of up to nine values."""
    y, (dx,) = gradients(lambda x: reflection_pad2d(x, padding), (x,), dy := draw_like_padded(x, padding))
    same, (same_dx,) = gradients(lambda x: stock_pad(x, padding), (x,), dy)
    exact_dx = gradients(lambda x: stock_pad(x, padding), (x.double(),), dy.double())[1][0]
    assert torch.equal(y, same) and y.dtype == same.dtype
    assert_accurate(dx, same_dx, exact_dx, "dx")


def draw_like_padded(x, padding):
    left, right, top, bottom = padding
    shape = (*x.shape[:2], x.shape[2] + top + bottom, x.shape[3] + left + right)
    return draw(shape, dtype=x.dtype, device=x.device, seed=3)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("layout", ["nchw", "nhwc"])
def test_pad(backend, dtype, layout):
    with using(backend, dtype) as device:
        x = draw((2, 2, 4, 5) if slow(backend) else (2, 5, 33, 40), layout, "off-centre", dtype, device)
        for padding in ((3, 3, 3, 3), (1, 0, 2, 3), (4, 4, 3, 3), (0, 0, 0, 0)):
            check_pad(x, padding)


any_input = hypothesis.given(
    shape=images(),
    layout=st.sampled_from(LAYOUTS),
    padding=st.tuples(*[st.integers(0, 8)] * 4),
    dtype=st.sampled_from(DTYPES),
)


def check_any_input(backend, shape, layout, padding, dtype):
    if slow(backend):
        shape = tuple(min(size, 4) for size in shape)
    padding = tuple(min(p, shape[3 if side < 2 else 2] - 1) for side, p in enumerate(padding))
    with using(backend, dtype) as device:
        check_pad(draw(shape, layout, dtype=dtype, device=device), padding)


@pytest.mark.parametrize("backend", ["reference", "plain", "cpp"])
@any_input
def test_any_input(backend, **drawn):
    check_any_input(backend, **drawn)


@hypothesis.settings(max_examples=10)
@any_input
def test_any_input_of_triton(**drawn):
    check_any_input("triton", **drawn)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("layout", ["nchw", "nhwc"])
def test_layout_is_kept(backend, layout):
    with using(backend) as device:
        x = draw((2, 3, 4, 5), layout, dtype=torch.float32, device=device)
        for dy_layout in ("nchw", "nhwc", "expanded", "interior"):
            dy = draw((2, 3, 6, 7), dy_layout, dtype=torch.float32, device=device)
            y, (dx,) = gradients(lambda x: reflection_pad2d(x, 1), (x,), dy)
            assert dense_layout(y) == dense_layout(dx) == layout
            torch.testing.assert_close(dx, gradients(lambda x: stock_pad(x, (1,) * 4), (x,), dy)[1][0])


@pytest.mark.parametrize("backend", KERNELS)
def test_the_fold_is_the_adjoint(backend):
    """<pad(x), y> = <x, fold(y)>, for paddings up to dim - 1 on every side."""
    with using(backend, torch.float64) as device:
        for padding in ((4, 4, 3, 3), (4, 0, 0, 3), (1, 2, 3, 0)):
            left, right, top, bottom = padding
            x = draw((1, 2, 4, 5), "nhwc", device=device)
            y = draw((1, 2, 4 + top + bottom, 5 + left + right), device=device, seed=1)
            forward = torch.ops.fastgan.reflection_pad2d(x, *padding, backend)
            backward = torch.ops.fastgan.reflection_pad2d_backward(y, *padding, backend)
            torch.testing.assert_close((forward * y).sum(), (x * backward).sum())


@pytest.mark.parametrize("backend", BACKENDS)
def test_gradcheck(backend):
    with using(backend, torch.float64) as device:
        x = draw((1, 2, 3, 4), "nhwc", device=device).requires_grad_()
        f = lambda x: reflection_pad2d(x, (3, 1, 0, 2))  # noqa: E731
        assert torch.autograd.gradcheck(f, (x,), fast_mode=slow(backend))
        assert torch.autograd.gradgradcheck(f, (x,), fast_mode=slow(backend))


@pytest.mark.parametrize("backend", BACKENDS)
def test_empty(backend):
    with using(backend) as device:
        for shape in ((0, 3, 4, 5), (2, 0, 4, 5)):
            x = draw(shape, dtype=torch.float32, device=device)
            y, (dx,) = gradients(lambda x: reflection_pad2d(x, (1, 2, 3, 0)), (x,))
            assert y.shape == (*shape[:2], 7, 8) and dx.shape == shape


@pytest.mark.parametrize("backend", KERNELS)
def test_nan_goes_where_its_pixel_is_shown(backend):
    with using(backend) as device:
        x = draw((1, 2, 4, 5), dtype=torch.float32, device=device)
        x[0, 1, 1, 1] = float("nan")
        assert torch.equal(reflection_pad2d(x, 2).isnan(), stock_pad(x, (2,) * 4).isnan())


@pytest.mark.parametrize("backend", KERNELS)
def test_repeatable_and_retained(backend):
    with using(backend) as device:
        x = draw((2, 3, 5, 6), "nhwc", dtype=torch.float32, device=device).requires_grad_()
        y = reflection_pad2d(x, (5, 3, 4, 1))
        dy = draw(y.shape, dtype=torch.float32, device=device, seed=2)
        assert_same(torch.autograd.grad(y, x, dy, retain_graph=True), torch.autograd.grad(y, x, dy))
        with torch.inference_mode():
            assert torch.equal(reflection_pad2d(x, (5, 3, 4, 1)), y)


def test_unbatched():
    x = draw((3, 4, 5), dtype=torch.float32)
    assert torch.equal(reflection_pad2d(x, (1, 2, 3, 0)), stock_pad(x, (1, 2, 3, 0)))


@pytest.mark.parametrize("backend", ["auto", "reference"])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_few_and_many_elements_alike(backend, dtype):
    """Small images go to torch itself: same values and layouts; views, and dimensions of size 1 at any strides."""
    with fastgan.backend(reflection_pad2d=backend):
        for shape in ((1, 3, 4, 5), (2, 1, 6, 3), (1, 8, 60, 50)):
            for x in (
                draw(shape, dtype=dtype), draw(shape, "nhwc", dtype=dtype), draw(shape, "interior", dtype=dtype),
                draw(shape, dtype=dtype).as_strided(shape, (7, *draw(shape).stride()[1:])) if shape[0] == 1 else
                draw(shape, dtype=dtype).as_strided(shape, (18, 5, 3, 1)),
            ):  # fmt: skip
                y, (dx,) = gradients(lambda x: reflection_pad2d(x, (1, 2, 2, 0)), (x,))
                z, (dz,) = gradients(lambda x: stock_pad(x, (1, 2, 2, 0)), (x.contiguous().clone(),))
                assert torch.equal(y, z)
                assert_accurate(dx, dz, gradients(lambda x: stock_pad(x, (1, 2, 2, 0)), (x.double(),))[1][0], "dx")
                if dense_layout(x) in ("nchw", "nhwc"):
                    assert dense_layout(y) == dense_layout(x)
            for padding in (-1, shape[3], (1, 1), 1.5, (0, 0, shape[2], 0)):
                with pytest.raises(ValueError):
                    reflection_pad2d(x, padding)
