"""instance_norm: every backend against stock torch in float64, its gradients of all orders, hostile inputs."""

import functools

import hypothesis
import hypothesis.strategies as st
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

import fastgan
from fastgan.ops._layout import accumulate_dtype, dense, is_channels_last
from fastgan.ops._norm import ACTIVATIONS, activate
from fastgan.ops.instance_norm import reference

from .common import (
    BACKENDS,
    DTYPES,
    KERNELS,
    LAYOUTS,
    VALUES,
    Kernels,
    assert_accurate,
    assert_same,
    dense_layout,
    draw,
    gradients,
    images,
    instance_norm,
    slow,
    using,
    views,
    watch,
)

SLOPE = 0.2
using = functools.partial(using, "instance_norm")


def exact(x, weight=None, bias=None, residual=None, activation="none", halo=0, eps=1e-5):
    return reference(x, weight, bias, residual, eps, activation, SLOPE, halo)


def stock(x, weight=None, bias=None, residual=None, activation="none", halo=0):
    y = activate(F.instance_norm(x, weight=weight, bias=bias), activation, SLOPE)
    y = y if residual is None else y + residual
    return F.pad(y, (halo,) * 4, mode="reflect") if halo else y


def ours(x, weight=None, bias=None, residual=None, activation="none", halo=0, eps=1e-5, **more):
    return instance_norm(
        x, weight=weight, bias=bias, residual=residual, activation=activation, negative_slope=SLOPE, halo=halo,
        eps=eps, **more,
    )  # fmt: skip


def away_from_kink(x: Tensor, weight: Tensor | None, bias: Tensor | None, halo: int, margin: float) -> Tensor:
    """1 where the activation's argument is not near its kink, 0 elsewhere: there dtypes may fall on either side."""
    wide = [t.double() if t is not None else None for t in (x, weight, bias)]
    z = exact(*wide, halo=halo)
    return (z.abs() > margin).double()


def check(x, weight, bias, residual, activation, halo):
    """Forward and backward of our op against stock torch in x's dtype and in float64."""
    tensors = (x, weight, bias, residual)
    wide = tuple(t.double() if t is not None else None for t in tensors)
    # Rounding of the mean of x shows in n by |mean| / deviation.
    deviation = (wide[0].var((2, 3), correction=0) + 1e-5).sqrt()
    conditioning = max(1.0, (wide[0].abs().amax((2, 3)) / deviation).max().item())
    margin = {torch.float64: 1e-9, torch.float32: 1e-5 * conditioning}.get(x.dtype, 0.1)
    options = {"activation": activation, "halo": halo}
    dy = draw((*x.shape[:2], x.shape[2] + 2 * halo, x.shape[3] + 2 * halo), dtype=x.dtype, device=x.device, seed=9)
    if activation != "none":
        dy = dy * away_from_kink(x, weight, bias, halo, margin).to(dy)
    y, dtensors = gradients(functools.partial(ours, **options), tensors, dy)
    same, dsame = gradients(functools.partial(stock, **options), tensors, dy)
    truth, dtruth = gradients(functools.partial(exact, **options), wide, dy.double())
    assert_accurate(y, same, truth, "y", conditioning)
    terms = (4 if halo else 1) * dy.abs().max().item()
    steepest = (1.0 if weight is None else weight.abs().max().item()) / deviation.min().item()
    scales = {"dx": terms * conditioning * steepest, "dweight": terms * conditioning * (x.numel() / x.shape[1]) ** 0.5}
    names = [name for name, t in zip(("dx", "dweight", "dbias", "dresidual"), tensors) if t is not None]
    for name, *results in zip(names, dtensors, dsame, dtruth):
        assert_accurate(*results, name, scales.get(name, scales["dweight"] / conditioning))
    return y, dict(zip(names, dtensors))


def test_the_definition_is_that_of_stock_torch():
    for shape, activation, halo in (((2, 3, 4, 5), "leaky_relu", 2), ((1, 2, 5, 4), "none", 0)):
        x, residual = draw(shape, values="off-centre"), draw(shape, seed=1)
        tensors = (x, *parameters(shape[1], torch.float64, "cpu"), residual)
        y, grads = gradients(functools.partial(exact, activation=activation, halo=halo), tensors)
        same, same_grads = gradients(functools.partial(stock, activation=activation, halo=halo), tensors)
        for a, b in zip((y, *grads), (same, *same_grads), strict=True):
            torch.testing.assert_close(a, b)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("layout", ["nchw", "nhwc"])
def test_one_image_and_a_gradient_in_channels_last(backend, layout):
    """Where torch 2.13's own instance_norm gives a wrong input gradient on the CPU: no answer of ours comes from it."""
    with using(backend) as device:
        x = draw((1, 3, 4, 5), layout, dtype=torch.float32, device=device)
        dy = draw(x.shape, "nhwc", dtype=torch.float32, device=device, seed=1)
        wide, dy_wide = x.double().contiguous(), dy.double().contiguous()
        centred = wide - wide.mean((2, 3), keepdim=True)
        rstd = (centred.square().mean((2, 3), keepdim=True) + 1e-5).rsqrt()
        n = centred * rstd
        along = (dy_wide * n).mean((2, 3), keepdim=True)
        expected = rstd * (dy_wide - dy_wide.mean((2, 3), keepdim=True) - n * along)
        _, (dx,) = gradients(ours, (x,), dy)
        torch.testing.assert_close(dx.double(), expected, rtol=1e-5, atol=1e-5)


def parameters(channels: int, dtype, device):
    return (
        1.0 + 0.3 * draw((channels,), dtype=dtype, device=device, seed=5),
        0.5 * draw((channels,), dtype=dtype, device=device, seed=6),
    )


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("layout", ["nchw", "nhwc"])
def test_accuracy(backend, dtype, layout):
    with using(backend, dtype) as device:
        shape = (2, 2, 4, 5) if slow(backend) else (2, 10, 33, 21)
        x = draw(shape, layout, "off-centre", dtype, device)
        weight, bias = parameters(shape[1], dtype, device)
        residual = draw(shape, layout, "normal", dtype, device, seed=1)
        check(x, weight, bias, residual, "leaky_relu", 2)
        check(x, None, None, None, "relu", 0)
        if slow(backend):
            return
        for activation in ACTIVATIONS:
            check(x, None, bias, residual, activation, 0)
            check(x, weight, None, None, activation, 1)


@pytest.mark.parametrize("backend", KERNELS)
def test_float32_parameters_beside_a_low_precision_input(backend):
    with using(backend, torch.bfloat16) as device:
        x = draw((2, 3, 6, 5), "nhwc", "off-centre", torch.bfloat16, device)
        weight, bias = parameters(3, torch.float32, device)
        y, d = check(x, weight, bias, None, "leaky_relu", 1)
        assert (y.dtype, d["dx"].dtype, d["dweight"].dtype) == (torch.bfloat16, torch.bfloat16, torch.float32)


any_input = hypothesis.given(
    shape=images(),
    layout=st.sampled_from(LAYOUTS),
    values=st.sampled_from(VALUES),
    residual=st.sampled_from((None, *LAYOUTS)),
    activation=st.sampled_from(ACTIVATIONS),
    affine=st.booleans(),
    halo=st.integers(0, 8),
    dtype=st.sampled_from((torch.float32, torch.float64)),
)


def check_any_input(backend, shape, layout, values, residual, activation, affine, halo, dtype):
    if slow(backend):
        shape = tuple(min(size, most) for size, most in zip(shape, (2, 2, 4, 5)))
    hypothesis.assume(shape[2] * shape[3] > 1)
    halo = min(halo, min(shape[2:]) - 1)
    with using(backend, dtype) as device:
        x = draw(shape, layout, values, dtype, device)
        weight, bias = parameters(shape[1], dtype, device) if affine else (None, None)
        added = draw(shape, residual, "normal", dtype, device, seed=1) if residual else None
        check(x, weight, bias, added, activation, halo)


@pytest.mark.parametrize("backend", ["plain", "cpp"])
@any_input
def test_any_input(backend, **drawn):
    check_any_input(backend, **drawn)


@hypothesis.settings(max_examples=8)
@any_input
def test_any_input_of_triton(**drawn):
    check_any_input("triton", **drawn)


@pytest.mark.parametrize("backend", KERNELS)
@pytest.mark.parametrize("mean", [-2.3, 1e3, 1e4])
def test_statistics_of_off_centre_data(backend, mean):
    """The saved statistics are those of the data, not those of the rounding of E[x^2] - E[x]^2."""
    with using(backend) as device:
        shape = (1, 2, 6, 7) if slow(backend) else (2, 3, 65, 70)
        for layout in ("nchw", "nhwc"):
            x = (mean + draw(shape, layout, device=device)).float()
            _, m, rstd = torch.ops.fastgan.instance_norm(x, None, None, None, None, 1e-5, "none", 0.2, 0, backend)
            wide = x.double()
            exact_rstd = (wide.var((2, 3), correction=0) + 1e-5).rsqrt()
            assert ((m - wide.mean((2, 3))).abs() <= 1e-6 * abs(mean)).all()
            assert ((rstd / exact_rstd - 1).abs() <= 2e-5).all()


@pytest.mark.parametrize("backend", KERNELS)
@pytest.mark.parametrize("layout", ["nchw", "nhwc"])
@pytest.mark.parametrize("poison", [float("nan"), float("inf"), -float("inf")])
def test_nan_and_inf_stay_in_their_plane(backend, layout, poison):
    with using(backend) as device:
        for place in (7,) if slow(backend) else (0, 7, -1):
            x = draw((2, 3, 4, 5), device=device).float()
            x[1, 2].view(-1)[place] = poison
            x = x.contiguous(memory_format=torch.channels_last if layout == "nhwc" else torch.contiguous_format)
            for activation in ("relu",) if slow(backend) else ACTIVATIONS:
                y, (dx,) = gradients(functools.partial(ours, activation=activation, halo=1), (x,))
                for t in (y, dx):
                    assert t[1, 2].isnan().all()
                    t = t.detach().clone()
                    t[1, 2] = 0
                    assert t.isfinite().all()


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("shape", [(0, 3, 4, 5), (2, 0, 4, 5), (0, 0, 4, 5), (2, 3, 0, 5)])
def test_empty(backend, shape):
    with using(backend) as device:
        x = draw(shape, dtype=torch.float32, device=device)
        weight, bias = parameters(shape[1], torch.float32, device)
        y, (dx, dweight, dbias) = gradients(ours, (x, weight, bias))
        assert y.shape == dx.shape == x.shape
        assert not dweight.any() and not dbias.any()
        if shape[2]:
            assert ours(x, residual=x, activation="relu", halo=3).shape == (*shape[:2], 10, 11)


@pytest.mark.parametrize("backend", KERNELS)
@pytest.mark.parametrize("shape", [(1, 1, 1, 12), (2, 3, 12, 1), (1, 4, 2, 2), (2, 1, 5, 6)])
def test_thin_images_and_single_channels(backend, shape):
    with using(backend) as device:
        for layout in ("nchw", "nhwc"):
            x = draw(shape, layout, dtype=torch.float32, device=device)
            check(x, *parameters(shape[1], torch.float32, device), x, "leaky_relu", min(shape[2:]) - 1)


@pytest.mark.parametrize("backend", KERNELS)
@pytest.mark.parametrize("layout", ["nchw", "nhwc"])
def test_layout_is_kept(backend, layout):
    with using(backend) as device:
        x = draw((2, 3, 4, 5), layout, dtype=torch.float32, device=device)
        weight, bias = parameters(3, torch.float32, device)
        for halo in (1,) if slow(backend) else (0, 1):
            for dy_layout in ("nchw", "nhwc", "expanded", *(() if slow(backend) else ("interior",))):
                dy = draw((2, 3, 4 + 2 * halo, 5 + 2 * halo), dy_layout, dtype=torch.float32, device=device)
                y, (dx, *_) = gradients(functools.partial(ours, halo=halo), (x, weight, bias), dy)
                assert dense_layout(y) == dense_layout(dx) == layout
                assert dense_layout(ours(x, residual=dy[:, :, : x.shape[2], : x.shape[3]], halo=halo)) == layout


@pytest.mark.parametrize("backend", KERNELS)
@pytest.mark.parametrize("layout", ["nchw", "nhwc"])
def test_interior_of_a_padded_residual_is_read_in_place(backend, layout, monkeypatch):
    """A residual that is the inside of a halo'd tensor reaches the launcher as the view that it is."""
    seen = []
    watch(
        monkeypatch,
        "instance_norm",
        lambda _name, _direction, launch, *args, **further: (seen.append(args[3]), launch(*args, **further))[1],
    )
    with using(backend) as device:
        wide = draw((2, 3, 6, 7), layout, dtype=torch.float32, device=device)
        x = draw((2, 3, 4, 5), layout, dtype=torch.float32, device=device, seed=1)
        residual = wide[:, :, 1:-1, 1:-1]
        y = ours(x, residual=residual, halo=1)
        assert seen[0].data_ptr() == residual.data_ptr() and seen[0].stride() == residual.stride()
        assert_accurate(y, stock(x, residual=residual, halo=1), exact(x.double(), residual=residual.double(), halo=1))


def with_interior(x, weight=None, bias=None, residual=None, halo=1, **options):
    return ours(x, weight, bias, residual, halo=halo, interior=True, **options)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("layout", ["nchw", "nhwc"])
@pytest.mark.parametrize("inner_layout", ["nchw", "nhwc", "expanded"])
@pytest.mark.parametrize("halo", [0, 2])
def test_the_inside_of_the_result_beside_it(backend, layout, inner_layout, halo):
    """The view, and the gradients of both, met in one backward pass; either alone, too."""
    with using(backend) as device:
        x = draw((2, 3, 4, 5), layout, dtype=torch.float32, device=device).requires_grad_()
        residual = draw((2, 3, 4, 5), layout, dtype=torch.float32, device=device, seed=1).requires_grad_()
        weight, bias = (t.requires_grad_() for t in parameters(3, torch.float32, device))
        leaves = (x, weight, bias, residual)
        options = dict(halo=halo, activation="leaky_relu")
        y, inner = with_interior(*leaves, **options)
        assert inner.data_ptr() == y[:, :, halo:, halo:].data_ptr() and inner.shape == x.shape
        assert torch.equal(y, ours(*leaves, **options))
        assert torch.equal(inner, y[:, :, halo : halo + 4, halo : halo + 5])
        dy = draw(y.shape, layout, dtype=torch.float32, device=device, seed=2)
        dy_interior = draw(x.shape, inner_layout, dtype=torch.float32, device=device, seed=3)
        expected = exact(*(t.double() for t in leaves), **options)
        outputs = {"both": [(y, dy), (inner, dy_interior)], "whole": [(y, dy)], "inside": [(inner, dy_interior)]}
        for name, pairs in outputs.items():
            grads = torch.autograd.grad([t for t, _ in pairs], leaves, [d for _, d in pairs], retain_graph=True)
            whole = torch.zeros_like(expected) if name == "inside" else dy.double()
            if name != "whole":
                whole = whole + torch.nn.functional.pad(dy_interior.double(), (halo,) * 4)
            plain = torch.autograd.grad(expected, leaves, whole, retain_graph=True)
            for a, b in zip(grads, plain, strict=True):
                assert (a - b).abs().max() <= 1e-5 * b.abs().max(), name


@pytest.mark.parametrize("backend", KERNELS)
@pytest.mark.parametrize("layout", ["nchw", "nhwc"])
def test_derivatives_of_the_inside(backend, layout):
    with using(backend, torch.float64) as device:
        leaves = gradcheck_inputs((1, 2, 3, 4), layout, device)
        function = functools.partial(with_interior, activation="leaky_relu", eps=0.1)
        fast = backend != "plain"
        assert torch.autograd.gradcheck(function, leaves, fast_mode=fast)
        if layout == "nchw" or not slow(backend):
            assert torch.autograd.gradgradcheck(function, leaves, fast_mode=fast)


def test_the_inside_under_compile():
    def both(x):
        y, inner = with_interior(x, activation="relu")
        return y.square().sum() + (inner * 3).sin().sum()

    x = torch.randn(2, 3, 6, 7, requires_grad=True)
    with using("cpp"):
        compiled = torch.compile(both, fullgraph=True, backend="aot_eager")(x)
        torch.testing.assert_close(torch.autograd.grad(compiled, x), torch.autograd.grad(both(x), x))


def gradcheck_inputs(shape, layout, device):
    """float64 leaves whose activation arguments stay 0.02 away from the kink."""
    for seed in range(200):
        x = draw(shape, layout, device=device, seed=seed)
        weight, bias = parameters(shape[1], torch.float64, device)
        if exact(x, weight, bias).abs().min() > 0.02:
            residual = draw(shape, layout, device=device, seed=seed + 1000)
            return tuple(t.requires_grad_() for t in (x, weight, bias, residual))
    raise AssertionError("no seed keeps away from the kink")


@pytest.mark.parametrize("backend", KERNELS)
@pytest.mark.parametrize(
    ("layout", "activation", "halo"), [("nchw", "none", 0), ("nhwc", "relu", 1), ("nchw", "leaky_relu", 2)]
)
def test_gradcheck(backend, layout, activation, halo):
    with using(backend, torch.float64) as device:
        tensors = gradcheck_inputs((1, 2, 3, 4), layout, device)
        # eps is large so that the derivative of rstd through eps shows
        f = functools.partial(ours, activation=activation, halo=halo, eps=0.1)
        fast = backend != "plain"
        assert torch.autograd.gradcheck(f, tensors, fast_mode=fast)
        if activation == "relu" or not slow(backend):
            assert torch.autograd.gradgradcheck(f, tensors, fast_mode=fast)


@pytest.mark.parametrize("backend", ["plain", "cpp"])
@pytest.mark.parametrize("absent", ["weight", "bias", "residual", "all"])
def test_gradcheck_without_some_arguments(backend, absent):
    with using(backend, torch.float64) as device:
        x, *others = gradcheck_inputs((2, 1, 2, 3), "nchw", device)
        names = ("weight", "bias", "residual")
        kept = {name: t for name, t in zip(names, others) if absent not in (name, "all")}

        def f(x, *tensors):
            return ours(x, **dict(zip(kept, tensors)), activation="leaky_relu", halo=1)

        assert torch.autograd.gradgradcheck(f, (x, *kept.values()), fast_mode=True)


@pytest.mark.parametrize("backend", ["plain", "cpp"])
def test_third_order(backend):
    with using(backend, torch.float64) as device:
        x, weight, bias, residual = gradcheck_inputs((1, 2, 2, 3), "nchw", device)

        def first_order(x, weight, bias, residual):
            y = ours(x, weight, bias, residual, "leaky_relu", 1, eps=0.1)
            return torch.autograd.grad(y.square().sum(), (x, weight, bias, residual), create_graph=True)

        assert torch.autograd.gradgradcheck(first_order, (x, weight, bias, residual), fast_mode=True)


@pytest.mark.parametrize("backend", KERNELS)
def test_parameters_alone(backend):
    """Frozen input, trained affine parameters; and the reverse."""
    with using(backend) as device:
        x = draw((2, 3, 4, 5), dtype=torch.float32, device=device)
        weight, bias = parameters(3, torch.float32, device)
        dy = draw((2, 3, 6, 7), dtype=torch.float32, device=device, seed=3)
        for chosen in ((2,), (3,)) if slow(backend) else ((1,), (2,), (1, 2), (0,), (3,)):
            tensors = [x.clone(), weight.clone(), bias.clone(), x.clone()]
            leaves = [tensors[i].requires_grad_() for i in chosen]
            results = torch.autograd.grad(ours(*tensors, "relu", 1), leaves, dy)
            expected = torch.autograd.grad(exact(*tensors, "relu", 1), leaves, dy)
            for a, b in zip(results, expected):
                torch.testing.assert_close(a, b, rtol=2e-5, atol=2e-5)


@pytest.mark.parametrize("backend", KERNELS)
def test_repeatable_and_retained(backend):
    """Two runs, and two backward passes through one graph, give the same bits."""
    with using(backend) as device:
        shape = (2, 3, 5, 4) if slow(backend) else (2, 7, 37, 29)
        x = draw(shape, "nhwc", dtype=torch.float32, device=device).requires_grad_()
        weight, bias = (t.requires_grad_() for t in parameters(shape[1], torch.float32, device))
        runs = []
        for _ in range(2):
            y = ours(x, weight, bias, x, "relu", 1)
            dy = draw(y.shape, dtype=torch.float32, device=device, seed=4)
            runs.append((y.detach(), *torch.autograd.grad(y, (x, weight, bias), dy, retain_graph=True)))
            assert_same(runs[-1][1:], torch.autograd.grad(y, (x, weight, bias), dy))
        assert_same(*runs)


@pytest.mark.parametrize("layout", ["nchw", "nhwc"])
@pytest.mark.parametrize("shape", [(2, 7, 37, 29), (1, 16, 64, 64), (1, 2, 300, 200)])
def test_cpp_does_not_depend_on_threads(layout, shape):
    before = torch.get_num_threads()
    with using("cpp"):
        x = draw(shape, layout, "off-centre", torch.float32)
        weight, bias = parameters(shape[1], torch.float32, "cpu")
        dy = draw((*shape[:2], shape[2] + 2, shape[3] + 2), dtype=torch.float32, seed=4)
        runs = []
        try:
            for threads in (1, 2, 3):
                torch.set_num_threads(threads)
                y, grads = gradients(functools.partial(ours, activation="relu", halo=1), (x, weight, bias, x), dy)
                runs.append((y.detach(), *grads))
        finally:
            torch.set_num_threads(before)
    assert_same(runs[0], runs[1])
    assert_same(runs[0], runs[2])


@pytest.mark.parametrize("backend", KERNELS)
def test_without_grad(backend):
    with using(backend) as device:
        x = draw((1, 2, 4, 5), dtype=torch.float32, device=device).requires_grad_()
        expected = ours(x, activation="relu", halo=1)
        with torch.no_grad():
            y = ours(x, activation="relu", halo=1)
        with torch.inference_mode():
            z = ours(x, activation="relu", halo=1)
        assert expected.requires_grad and not y.requires_grad and not z.requires_grad
        assert_same((expected.detach(), expected.detach()), (y, z))


@pytest.mark.parametrize("backend", KERNELS)
def test_saves_its_input_and_statistics_only(backend):
    """One activation-sized tensor for backward; stock torch keeps one for each of norm, activation and padding."""
    with using(backend) as device:
        x = draw((2, 3, 6, 5), dtype=torch.float32, device=device).requires_grad_()
        residual = draw((2, 3, 6, 5), dtype=torch.float32, device=device, seed=1).requires_grad_()
        saved = []
        with torch.autograd.graph.saved_tensors_hooks(lambda t: saved.append(t) or t, lambda t: t):
            ours(x, residual=residual, activation="relu", halo=1)
        assert sum(t.numel() for t in saved) == x.numel() + 2 * 2 * 3


@pytest.mark.parametrize("backend", KERNELS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64], ids=str)
def test_launchers_keep_their_contract(backend, dtype):
    """Dtypes and emptiness of everything that the low-level ops return."""
    with using(backend, dtype) as device:
        x = draw((2, 3, 4, 5), "nhwc", dtype=dtype, device=device)
        y, mean, rstd = torch.ops.fastgan.instance_norm(x, None, None, None, None, 1e-5, "relu", 0.0, 2, backend)
        assert y.shape == (2, 3, 8, 9) and dense_layout(y) == "nhwc" and y.dtype == dtype
        assert mean.shape == rstd.shape == (2, 3) and mean.dtype == rstd.dtype == accumulate_dtype(dtype)
        for need in (False, True):
            dx, dweight, dbias, dresidual = torch.ops.fastgan.instance_norm_backward(
                y, None, x, mean, rstd, None, None, 1e-5, "relu", 0.0, 2, need, backend
            )
            assert dense_layout(dx) == "nhwc" and dx.dtype == dtype and dweight.shape == dbias.shape == (0,)
            assert dresidual.shape == (x.shape if need else (0,)) and dresidual.dtype == dtype


@pytest.mark.parametrize("backend", KERNELS)
def test_gradient_penalty(backend):
    """WGAN-GP (Gulrajani et al., 2017, eq. 3) through conv -> norm + leaky ReLU -> conv: the penalty's gradient with
    respect to every parameter is stock torch's."""
    with using(backend, torch.float64) as device:
        x = draw((2, 3, 6, 6), device=device).requires_grad_()
        weight, bias = parameters(4, torch.float64, device)
        tensors = [
            draw((4, 3, 3, 3), device=device, seed=1),
            weight,
            bias,
            draw((1, 4, 3, 3), device=device, seed=2),
        ]

        def penalty(norm):
            leaves = [t.clone().requires_grad_() for t in tensors]
            hidden = torch.nn.functional.conv2d(x, leaves[0], padding=1)
            score = torch.nn.functional.conv2d(norm(hidden, leaves[1], leaves[2], activation="leaky_relu"), leaves[3])
            (slope,) = torch.autograd.grad(score.sum(), x, create_graph=True)
            value = (slope.flatten(1).norm(dim=1) - 1).square().mean()
            return value, torch.autograd.grad(value, leaves, allow_unused=True)

        value, grads = penalty(ours)
        expected, expected_grads = penalty(exact)
        torch.testing.assert_close(value, expected)
        for name, grad, other in zip(("conv 1", "weight", "bias", "conv 2"), grads, expected_grads):
            if name == "bias":  # it only moves the kink
                assert other is None or not other.any()
                assert grad is None or not grad.any()
                continue
            assert other.abs().max() > 1e-3
            torch.testing.assert_close(grad, other)


@pytest.mark.parametrize("use_input_stats", [True, False], ids=["training", "evaluation"])
@pytest.mark.parametrize("backend", ["auto", "reference"])
@pytest.mark.parametrize("shape", [(1, 3, 5, 6), (2, 3, 4, 5), (1, 3, 1, 7), (2, 3, 4, 1), (1, 1, 3, 3)], ids=str)
def test_running_statistics_whatever_the_strides(backend, use_input_stats, shape):
    """Layout, output and gradients; torch 2.13's own op gives wrong ones at batch 1 in channels_last."""
    affine = parameters(shape[1], torch.float32, "cpu")
    running = [draw((shape[1],), dtype=torch.float32, seed=3), 0.5 + torch.rand(shape[1])]
    x, dy, residual = (draw(shape, dtype=torch.float32, seed=seed) for seed in (0, 1, 2))
    tensors = (x, *affine, residual)

    def call(norm, stats, x, weight, bias, residual):
        return norm(x, *(t.clone() for t in stats), weight, bias, use_input_stats)

    def expected(x, weight, bias, residual):
        y = call(F.instance_norm, [t.double() for t in running], x, weight, bias, residual)
        return activate(y, "leaky_relu", SLOPE) + residual

    truth, dtruth = gradients(expected, [t.double() for t in tensors], dy.double())
    norm = functools.partial(instance_norm, residual=residual, activation="leaky_relu", negative_slope=SLOPE)
    with fastgan.backend(backend):
        for x_view in views(x):
            for dy_view in views(dy):
                y, grads = gradients(
                    lambda x, weight, bias, residual: call(
                        functools.partial(norm, residual=residual), running, x, weight, bias, residual
                    ),
                    (x_view, *affine, residual),
                    dy_view,
                )
                assert dense_layout(y) in ("both", "nhwc" if is_channels_last(dense(x_view)) else "nchw")
                for a, b in zip((y, *grads), (truth, *dtruth), strict=True):
                    assert (a - b).abs().max() <= 2e-5 * (1 + b.abs().max()), (x_view.stride(), dy_view.stride())


def test_a_halo_and_the_inside_by_running_statistics():
    x = draw((1, 3, 4, 5), "nhwc", dtype=torch.float32).requires_grad_()
    running = (torch.zeros(3), torch.ones(3))
    y, inner = instance_norm(x, *running, None, None, False, halo=1, interior=True, activation="relu")
    assert dense_layout(y) == "nhwc" and torch.equal(inner, y[:, :, 1:-1, 1:-1])
    truth = F.pad(F.relu(F.batch_norm(x.double(), *(t.double() for t in running))), (1,) * 4, mode="reflect")
    torch.testing.assert_close(y.double(), truth)
    torch.testing.assert_close(*(torch.autograd.grad(t.square().sum(), x)[0] for t in (y, truth)))


@pytest.mark.parametrize("backend", ["auto", "reference", "triton"])
@pytest.mark.parametrize("deviation", [1.0, 1e-3, 1e-6, 1e-12])
def test_running_variance_of_small_deviations(backend, deviation):
    """The variance itself, not what is left of it in 1 / sqrt(var + eps)."""
    x = (deviation * draw((2, 3, 4, 5))).float()
    running = [torch.zeros(3), torch.zeros(3)]
    with fastgan.backend(instance_norm=backend):
        instance_norm(x, *running, momentum=1.0)
    exact = x.double().var((2, 3)).mean(0)
    assert ((running[1].double() / exact - 1).abs() < 1e-5).all()
    assert ((running[0] - x.double().mean((2, 3)).mean(0)).abs() <= 1e-6 * deviation).all()


def test_no_samples_leave_the_running_statistics():
    running = [torch.zeros(3), torch.ones(3)]
    instance_norm(torch.zeros(0, 3, 4, 5), *running)
    assert not running[0].any() and (running[1] == 1).all()


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("layout", ["nchw", "nhwc"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16], ids=str)
def test_a_constant_plane_without_eps_is_zero(backend, layout, dtype):
    """As in torch, and so are its gradients, of every order."""
    values = (0.3, 0.0, -1e4 / 7, 1e-30, 3e30)
    if slow(backend) or backend == "plain":  # whose float64 sums round
        values = (0.0, 0.5)
    with using(backend, dtype) as device:
        for value in values:
            for shape in ((1, 2, 3, 4),) if slow(backend) else ((1, 2, 3, 4), (2, 17, 9, 31)):
                x = draw(shape, layout, dtype=dtype, device=device)
                x[:, 0] = value
                weight, bias = parameters(shape[1], dtype, device)
                leaves = [t.requires_grad_() for t in (x, weight, bias)]
                y = ours(*leaves, eps=0.0)
                assert (y[:, 0] == bias[0]).all() and y.isfinite().all()
                grads = torch.autograd.grad(y.square().sum(), leaves, create_graph=True)
                assert not grads[0][:, 0].any() and all(g.isfinite().all() for g in grads)
                second = torch.autograd.grad(sum(g.square().sum() for g in grads), leaves)
                assert all(g.isfinite().all() for g in second)


@pytest.mark.parametrize("backend", KERNELS)
def test_no_zeros_are_made_for_gradients_that_are_not_there(backend, monkeypatch):
    """Those of the statistics, which have none; and of the whole result, where only its inside is used."""
    seen = []

    def spy(_name, direction, launch, *args, **further):
        if direction == "backward":
            seen.append((args[0].shape, args[8]))
        return launch(*args, **further)

    watch(monkeypatch, "instance_norm", spy)
    with using(backend) as device:
        x = draw((1, 2, 4, 5), dtype=torch.float32, device=device).requires_grad_()
        _y, inner = with_interior(x, residual=x, activation="relu")
        (dx,) = torch.autograd.grad(inner.square().sum(), x)
        assert seen == [(x.shape, 0)]
        wide = x.detach().double().requires_grad_()
        truth = exact(wide, residual=wide, activation="relu")
        torch.testing.assert_close(
            dx.double(), torch.autograd.grad(truth.square().sum(), wide)[0], rtol=1e-4, atol=1e-4
        )


def test_no_zeros_are_made_for_the_gradients_of_the_statistics():
    with using("cpp"):
        x = draw((2, 3, 4, 5), dtype=torch.float32).requires_grad_()
        affine = [t.requires_grad_() for t in parameters(3, torch.float32, "cpu")]
        y = ours(x, *affine, residual=x, activation="relu", halo=1)
        dy = torch.ones_like(y)
        with Kernels() as seen:
            y.backward(dy)
        assert seen and not any("aten::zeros" in name or "new_zeros" in name for name in seen), seen


@pytest.mark.parametrize("use_input_stats", [True, False], ids=["training", "evaluation"])
@pytest.mark.parametrize("backend", ["auto", "reference"])
@pytest.mark.parametrize("interior", [False, True], ids=["", "interior"])
def test_low_precision_is_rounded_once(interior, backend, use_input_stats):
    """The steps of the op in float32: a gradient that folds a halo, or is the sum of two, in bfloat16, would lose each
    plane's sum."""
    x, residual = (draw((2, 3, 16, 16), dtype=torch.bfloat16, seed=seed) for seed in (0, 1))
    affine = parameters(3, torch.float32, "cpu")
    running = [torch.zeros(3), torch.ones(3)]

    def call(x, weight, bias, residual):
        own = [t.to(weight.dtype) for t in running]
        y = instance_norm(
            x, *own, weight, bias, use_input_stats, activation="relu", residual=residual, halo=2, interior=interior
        )
        return torch.cat([each.flatten(2) for each in y], 2) if interior else y.flatten(2)

    dy = draw((2, 3, 400 + 256 * interior), values="off-centre", dtype=torch.bfloat16, seed=2)
    with fastgan.backend(backend):
        y, grads = gradients(call, (x, *affine, residual), dy)
        truth, dtruth = gradients(call, [t.double() for t in (x, *affine, residual)], dy.double())
    assert y.dtype == torch.bfloat16
    assert (y - truth).abs().max() <= 2**-8 * truth.abs().max()
    for a, b in zip(grads[1:3], dtruth[1:3], strict=True):  # float32 sums of exact terms
        assert (a - b).abs().max() <= 1e-5 * dy.abs().sum() / 3
