"""batch_norm: every backend against stock torch in float64, its gradients of all orders, running statistics, hostile
inputs."""

import contextlib
import functools

import hypothesis
import hypothesis.strategies as st
import pytest
import torch
import torch.nn.functional as F

import fastgan
from fastgan.functional import batch_norm
from fastgan.ops import _dispatch
from fastgan.ops._layout import accumulate_dtype, is_channels_last
from fastgan.ops._layout import dense as dense_of
from fastgan.ops._norm import ACTIVATIONS, activate

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
    slow,
    using,
    views,
    watch,
)

SLOPE, MOMENTUM = 0.2, 0.3
using = functools.partial(using, "batch_norm")


def stock(x, weight=None, bias=None, running=(None, None), training=True, activation="none", eps=1e-5):
    return activate(F.batch_norm(x, *running, weight, bias, training, MOMENTUM, eps), activation, SLOPE)


def ours(x, weight=None, bias=None, running=(None, None), training=True, activation="none", eps=1e-5):
    return batch_norm(x, *running, weight, bias, training, MOMENTUM, eps, activation=activation, negative_slope=SLOPE)


def parameters(channels, dtype, device):
    weight = 1.0 + 0.3 * draw((channels,), dtype=dtype, device=device, seed=5)
    return weight, 0.5 * draw((channels,), dtype=dtype, device=device, seed=6)


def statistics(x, dtype=None):
    """Running statistics that are near those of x, which evaluation is for."""
    wide = x.detach().double().transpose(0, 1).flatten(1)
    mean, var = wide.mean(1) + 0.1, wide.var(1, correction=0) * 1.2 + 0.1
    dtype = dtype or accumulate_dtype(x.dtype)
    return mean.to(dtype), var.to(dtype)


def check(x, weight, bias, activation, training):
    """Output, gradients and running statistics of our op against stock torch in x's dtype and in float64."""
    over = [d for d in range(x.dim()) if d != 1]
    tensors = (x, weight, bias)
    wide = tuple(t.double() if t is not None else None for t in tensors)
    kept = next((t.dtype for t in (weight, bias) if t is not None), x.dtype)  # as stock torch wants them
    running = statistics(x, kept)
    center, spread = (wide[0].mean(over), wide[0].var(over, correction=0)) if training else running
    deviation = (spread.double() + 1e-5).sqrt()
    # Rounding of x, or of its mean, shows in n by the size of x over the deviation.
    largest = wide[0].abs().amax(over).clamp_min(center.double().abs())
    conditioning = max(1.0, (largest / deviation).max().item())
    margin = {torch.float64: 1e-9, torch.float32: 1e-5 * conditioning}.get(x.dtype, 0.1)
    dy = draw(x.shape, dtype=x.dtype, device=x.device, seed=9)
    if activation != "none":
        z = stock(*wide, tuple(t.double().clone() for t in running), training)
        dy = dy * (z.abs() > margin).to(dy)
    results, updated = [], []
    for function, leaves in ((ours, tensors), (stock, tensors), (stock, wide)):
        own = [t.double() if leaves is wide else t.clone() for t in running]
        call = functools.partial(function, running=own, training=training, activation=activation)
        results.append(gradients(call, leaves, dy))
        updated.append(own)
    (y, dours), (same, dsame), (truth, dtruth) = results
    assert_accurate(y, same, truth, "y", conditioning)
    terms = dy.abs().max().item() * conditioning
    steepest = (1.0 if weight is None else weight.abs().max().item()) / deviation.min().item()
    scales = {"dx": terms * steepest, "dweight": terms * (x.numel() / x.shape[1]) ** 0.5}
    names = [name for name, t in zip(("dx", "dweight", "dbias"), tensors) if t is not None]
    for name, *each in zip(names, dours, dsame, dtruth, strict=True):
        assert_accurate(*each, name, scales.get(name, scales["dweight"] / conditioning))
    for each in zip(*updated, strict=True):
        assert_accurate(*each, "running statistics")
    return y, dict(zip(names, dours))


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("layout", ["nchw", "nhwc"])
def test_accuracy(backend, dtype, layout):
    with using(backend, dtype) as device:
        shape = (2, 3, 4, 5) if slow(backend) else (5, 10, 33, 21)
        x = draw(shape, layout, "off-centre", dtype, device)
        weight, bias = parameters(shape[1], dtype, device)
        for training in (True, False):
            check(x, weight, bias, "leaky_relu", training)
            if slow(backend):
                continue
            for activation in ACTIVATIONS:
                check(x, None, bias, activation, training)
                check(x, weight, None, activation, training)


@pytest.mark.parametrize("backend", KERNELS)
def test_float32_parameters_beside_a_low_precision_input(backend):
    with using(backend, torch.bfloat16) as device:
        x = draw((2, 3, 6, 5), "nhwc", "off-centre", torch.bfloat16, device)
        y, d = check(x, *parameters(3, torch.float32, device), "leaky_relu", True)
        assert (y.dtype, d["dx"].dtype, d["dweight"].dtype) == (torch.bfloat16, torch.bfloat16, torch.float32)


any_input = hypothesis.given(
    shape=st.tuples(st.integers(1, 9), st.integers(1, 5), st.integers(1, 9), st.integers(1, 9)),
    layout=st.sampled_from(LAYOUTS),
    values=st.sampled_from(VALUES),
    activation=st.sampled_from(ACTIVATIONS),
    affine=st.booleans(),
    training=st.booleans(),
    dtype=st.sampled_from((torch.float32, torch.float64)),
)


def check_any_input(backend, shape, layout, values, activation, affine, training, dtype):
    if slow(backend):
        shape = tuple(min(size, most) for size, most in zip(shape, (3, 2, 3, 4)))
    hypothesis.assume(shape[0] * shape[2] * shape[3] > 1)
    with using(backend, dtype) as device:
        x = draw(shape, layout, values, dtype, device)
        check(x, *(parameters(shape[1], dtype, device) if affine else (None, None)), activation, training)


@pytest.mark.parametrize("backend", ["plain", "cpp"])
@any_input
def test_any_input(backend, **drawn):
    check_any_input(backend, **drawn)


@hypothesis.settings(max_examples=8)
@any_input
def test_any_input_of_triton(**drawn):
    check_any_input("triton", **drawn)


@pytest.mark.parametrize("backend", KERNELS)
@pytest.mark.parametrize("shape", [(7, 3), (4, 3, 5), (2, 3, 2, 3, 2), (6, 1), (2, 1, 3, 4), (5, 4, 1, 1)])
def test_other_ranks_and_single_pixels(backend, shape):
    with using(backend) as device:
        x = draw(shape, dtype=torch.float32, device=device)
        for training in (True,) if slow(backend) else (True, False):
            y, d = check(x, *parameters(shape[1], torch.float32, device), "relu", training)
            assert y.shape == x.shape and y.stride() == d["dx"].stride() == x.stride()
        if len(shape) == 3:  # channels innermost
            y, d = check(x.transpose(1, 2).contiguous().transpose(1, 2), None, None, "relu", True)
            assert y.stride() == d["dx"].stride() == (15, 1, 3)


@pytest.mark.parametrize("backend", KERNELS)
@pytest.mark.parametrize("mean", [-2.3, 1e3, 1e4])
def test_statistics_of_off_centre_data(backend, mean):
    """They are those of the data, not those of the rounding of E[x^2] - E[x]^2; samples differ by more than pixels."""
    with using(backend) as device:
        shape = (3, 2, 5, 4) if slow(backend) else (7, 3, 33, 30)
        for layout in ("nchw", "nhwc"):
            x = draw(shape, layout, device=device) + 3 * draw((shape[0], 1, 1, 1), device=device, seed=2)
            x = (mean + x).float()
            _, m, rstd, variance = torch.ops.fastgan.batch_norm(x, None, None, 1e-5, "none", 0.2, backend)
            wide = x.double()
            exact = wide.var((0, 2, 3), correction=0)
            assert ((m - wide.mean((0, 2, 3))).abs() <= 1e-6 * abs(mean)).all()
            assert ((rstd / (exact + 1e-5).rsqrt() - 1).abs() <= 2e-5).all()
            assert ((variance / wide.var((0, 2, 3)) - 1).abs() <= 4e-5).all()


@pytest.mark.parametrize("backend", KERNELS)
@pytest.mark.parametrize("layout", ["nchw", "nhwc"])
@pytest.mark.parametrize("poison", [float("nan"), float("inf")])
def test_nan_and_inf_stay_in_their_channel(backend, layout, poison):
    with using(backend) as device:
        x = draw((2, 3, 4, 5), device=device).float()
        x[1, 2].view(-1)[7] = poison
        x = x.contiguous(memory_format=torch.channels_last if layout == "nhwc" else torch.contiguous_format)
        for activation in ("relu",) if slow(backend) else ACTIVATIONS:
            y, (dx,) = gradients(functools.partial(ours, activation=activation), (x,))
            for t in (y, dx):
                assert t[:, 2].isnan().all() and t[:, :2].isfinite().all()
            running = (torch.zeros(3, device=device), torch.ones(3, device=device))
            y, (dx,) = gradients(functools.partial(ours, running=running, training=False, activation=activation), (x,))
            expected, (dexpected,) = gradients(
                functools.partial(stock, running=running, training=False, activation=activation), (x,)
            )
            torch.testing.assert_close(y, expected, equal_nan=True)
            known = ~x.isnan()  # the activation's slope at NaN is nobody's promise
            torch.testing.assert_close(dx[known], dexpected[known], equal_nan=True)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("shape", [(0, 3, 4, 5), (2, 0, 4, 5), (2, 3, 0, 5), (0, 3)])
def test_empty(backend, shape):
    """Empty results and zero gradients; running statistics stay."""
    with using(backend) as device:
        weight, bias = parameters(shape[1], torch.float32, device)
        running = [torch.zeros_like(weight), torch.ones_like(weight)]
        for training in (True, False):
            x = torch.empty(shape, device=device)
            call = functools.partial(ours, running=running, training=training, activation="relu")
            y, (dx, dweight, dbias) = gradients(call, (x, weight, bias))
            assert y.shape == dx.shape == shape
            assert not dweight.any() and not dbias.any()
            assert not running[0].any() and (running[1] == 1).all()


@pytest.mark.parametrize("backend", KERNELS)
@pytest.mark.parametrize("layout", LAYOUTS)
def test_layout_is_kept(backend, layout):
    with using(backend) as device:
        x = draw((2, 3, 4, 5), layout, dtype=torch.float32, device=device)
        y, (dx,) = gradients(functools.partial(ours, activation="relu"), (x,))
        kept = "nhwc" if layout == "nhwc" else "nchw"
        assert dense_layout(y) == kept and dense_layout(dx) == kept


@pytest.mark.parametrize("backend", KERNELS)
@pytest.mark.parametrize("momentum", [0.0, 0.1, 1.0, "cumulative"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_running_statistics_follow_those_of_torch(backend, momentum, dtype):
    """Several steps, statistics in the input's dtype; the cumulative mean by a tensor, as layers give it."""
    with using(backend, dtype) as device:
        mine, theirs = ([torch.zeros(3, dtype=dtype), torch.ones(3, dtype=dtype)] for _ in range(2))
        mine, theirs = ([t.to(device) for t in pair] for pair in (mine, theirs))
        for step in range(3):
            x = draw((2, 3, 4, 3), "nhwc", "off-centre", dtype, device, seed=step)
            weight = 1 / (step + 1) if momentum == "cumulative" else momentum
            given = torch.tensor(weight, dtype=torch.float64) if momentum == "cumulative" else weight
            batch_norm(x, *mine, training=True, momentum=given)
            F.batch_norm(x, *theirs, training=True, momentum=weight)
            for a, b in zip(mine, theirs, strict=True):
                torch.testing.assert_close(a, b)


def gradcheck_inputs(shape, layout, device):
    x = draw(shape, layout, device=device)
    return [t.requires_grad_() for t in (x, *parameters(shape[1], torch.float64, device))]


@pytest.mark.parametrize("backend", KERNELS)
@pytest.mark.parametrize("training", [True, False], ids=["training", "evaluation"])
@pytest.mark.parametrize(("layout", "activation"), [("nchw", "none"), ("nhwc", "relu"), ("nchw", "leaky_relu")])
def test_gradcheck(backend, layout, activation, training):
    with using(backend, torch.float64) as device:
        tensors = gradcheck_inputs((2, 2, 2, 3), layout, device)
        running = statistics(tensors[0])
        # eps is large so that the derivative of rstd through eps shows
        f = functools.partial(
            ours, running=(None, None) if training else running, training=training, activation=activation, eps=0.1
        )
        fast = backend != "plain"
        assert torch.autograd.gradcheck(f, tensors, fast_mode=fast)
        if activation == "relu" or not slow(backend):
            assert torch.autograd.gradgradcheck(f, tensors, fast_mode=fast)


@pytest.mark.parametrize("backend", ["plain", "cpp"])
@pytest.mark.parametrize("absent", ["weight", "bias", "both"])
def test_gradcheck_without_some_arguments(backend, absent):
    with using(backend, torch.float64) as device:
        x, *others = gradcheck_inputs((3, 2, 1, 2), "nchw", device)
        kept = {name: t for name, t in zip(("weight", "bias"), others) if absent not in (name, "both")}
        for training in (True, False):
            running = (None, None) if training else statistics(x)

            def f(x, *tensors, training=training, running=running):
                return ours(x, **dict(zip(kept, tensors)), running=running, training=training, activation="leaky_relu")

            assert torch.autograd.gradgradcheck(f, (x, *kept.values()), fast_mode=True)


@pytest.mark.parametrize("backend", ["plain", "cpp"])
@pytest.mark.parametrize("training", [True, False], ids=["training", "evaluation"])
def test_third_order(backend, training):
    with using(backend, torch.float64) as device:
        tensors = gradcheck_inputs((2, 2, 1, 3), "nchw", device)
        running = (None, None) if training else statistics(tensors[0])

        def first_order(x, weight, bias):
            y = ours(x, weight, bias, running, training, "leaky_relu", eps=0.1)
            return torch.autograd.grad(y.square().sum(), (x, weight, bias), create_graph=True)

        assert torch.autograd.gradgradcheck(first_order, tensors, fast_mode=True)


@pytest.mark.parametrize("backend", KERNELS)
def test_parameters_alone(backend):
    """Frozen input, trained affine parameters; and the reverse."""
    with using(backend) as device:
        x = draw((2, 3, 4, 5), dtype=torch.float32, device=device)
        tensors = (x, *parameters(3, torch.float32, device))
        dy = draw(x.shape, dtype=torch.float32, device=device, seed=3)
        for chosen in ((0,), (2,)) if slow(backend) else ((0,), (1,), (2,), (1, 2)):
            for running, training in (((None, None), True), (statistics(x), False)):
                own = [t.clone() for t in tensors]
                leaves = [own[i].requires_grad_() for i in chosen]
                results = [torch.autograd.grad(f(*own, running, training, "relu"), leaves, dy) for f in (ours, stock)]
                for a, b in zip(*results, strict=True):
                    torch.testing.assert_close(a, b, rtol=2e-5, atol=2e-5)


@pytest.mark.parametrize("backend", KERNELS)
def test_repeatable_and_retained(backend):
    """Two runs, and two backward passes through one graph, give the same bits."""
    with using(backend) as device:
        shape = (2, 3, 5, 4) if slow(backend) else (9, 7, 37, 29)
        x = draw(shape, "nhwc", dtype=torch.float32, device=device).requires_grad_()
        weight, bias = (t.requires_grad_() for t in parameters(shape[1], torch.float32, device))
        runs = []
        for _ in range(2):
            y = ours(x, weight, bias, activation="relu")
            dy = draw(y.shape, dtype=torch.float32, device=device, seed=4)
            runs.append((y.detach(), *torch.autograd.grad(y, (x, weight, bias), dy, retain_graph=True)))
            assert_same(runs[-1][1:], torch.autograd.grad(y, (x, weight, bias), dy))
        assert_same(*runs)


@pytest.mark.parametrize("backend", KERNELS)
def test_without_grad_and_what_is_saved(backend):
    """Same bits without a graph; with one, a single activation-sized tensor is kept for backward."""
    with using(backend) as device:
        x = draw((2, 3, 4, 5), dtype=torch.float32, device=device).requires_grad_()
        for running, training in (((None, None), True), (statistics(x), False)):
            saved = []
            with torch.autograd.graph.saved_tensors_hooks(lambda t: saved.append(t) or t, lambda t: t):
                expected = ours(x, running=running, training=training, activation="relu")
            assert sum(t.numel() for t in saved) == x.numel() + 2 * 3
            with torch.no_grad():
                y = ours(x, running=running, training=training, activation="relu")
            with torch.inference_mode():
                z = ours(x, running=running, training=training, activation="relu")
            assert expected.requires_grad and not y.requires_grad and not z.requires_grad
            assert_same((expected.detach(), expected.detach()), (y, z))


@pytest.mark.parametrize("backend", KERNELS)
def test_gradient_penalty(backend):
    """WGAN-GP (Gulrajani et al., 2017, eq. 3) through conv -> norm + leaky ReLU -> conv, in training and evaluation:
    the penalty's gradient with respect to every parameter is stock torch's."""
    with using(backend, torch.float64) as device:
        x = draw((2, 3, 5, 5), device=device).requires_grad_()
        tensors = [
            draw((4, 3, 3, 3), device=device, seed=1),
            *parameters(4, torch.float64, device),
            draw((1, 4, 3, 3), device=device, seed=2),
        ]

        def penalty(norm, training):
            leaves = [t.clone().requires_grad_() for t in tensors]
            hidden = F.conv2d(x, leaves[0], padding=1)
            running = (torch.zeros(4).to(x), torch.ones(4).to(x))
            score = F.conv2d(norm(hidden, leaves[1], leaves[2], running, training, "leaky_relu"), leaves[3])
            (slope,) = torch.autograd.grad(score.sum(), x, create_graph=True)
            value = (slope.flatten(1).norm(dim=1) - 1).square().mean()
            return value, torch.autograd.grad(value, leaves, allow_unused=True)

        for training in (True, False):
            value, grads = penalty(ours, training)
            expected, expected_grads = penalty(stock, training)
            torch.testing.assert_close(value, expected)
            for name, grad, other in zip(("conv 1", "weight", "bias", "conv 2"), grads, expected_grads):
                if name == "bias":  # it only moves the kink
                    assert other is None or not other.any()
                    assert grad is None or not grad.any()
                    continue
                assert other.abs().max() > 1e-3
                torch.testing.assert_close(grad, other)


@pytest.mark.parametrize("shape", [(16, 4, 33, 20), (4, 3, 150, 140), (300, 40)])
@pytest.mark.parametrize("layout", ["nchw", "nhwc"])
def test_cpp_does_not_depend_on_threads(layout, shape):
    before = torch.get_num_threads()
    with using("cpp"):
        x = draw(shape, layout if len(shape) == 4 else "nchw", "off-centre", torch.float32)
        weight, bias = parameters(shape[1], torch.float32, "cpu")
        dy = draw(shape, dtype=torch.float32, seed=4)
        runs = []
        try:
            for threads in (1, 2, 3):
                torch.set_num_threads(threads)
                own = statistics(x)
                y, grads = gradients(functools.partial(ours, running=own, activation="relu"), (x, weight, bias), dy)
                z, more = gradients(
                    functools.partial(ours, running=own, training=False, activation="relu"), (x, weight, bias), dy
                )
                runs.append((y.detach(), *grads, *own, z.detach(), *more))
        finally:
            torch.set_num_threads(before)
    assert_same(runs[0], runs[1])
    assert_same(runs[0], runs[2])


def test_small_inputs_go_to_stock_torch_unless_forced(monkeypatch):
    seen = []
    watch(monkeypatch, "batch_norm", lambda name, _direction, launch, *args: seen.append(name) or launch(*args))
    with using("cpp"):
        batch_norm(torch.zeros(2, 3, 4, 4), None, None, training=True)
    assert seen == ["cpp"]
    cases = {
        (2, 3, 256, 255): (torch.contiguous_format, torch.float32, 0),
        (2, 3, 256, 256): (torch.contiguous_format, torch.float32, 1),
        (2, 3, 256, 257): (torch.channels_last, torch.float32, 0),
        (2, 3, 8, 9): (torch.contiguous_format, torch.bfloat16, 1),
        (3, 8, 256, 256): (torch.channels_last, torch.bfloat16, 1),
        (0, 4, 4, 4): (torch.contiguous_format, torch.float32, 1),
    }
    for shape, (layout, dtype, calls) in cases.items():
        seen.clear()
        batch_norm(torch.zeros(shape, dtype=dtype).contiguous(memory_format=layout), None, None, training=True)
        assert len(seen) == calls, shape


def test_parameters_of_another_dtype_are_for_stock_torch():
    x, weight = torch.zeros(2, 3, 4, 4), torch.ones(3, dtype=torch.float64)
    with using("cpp"), pytest.raises(RuntimeError, match="weight is torch.float64 beside an input of torch.float32"):
        batch_norm(x, None, None, weight, training=True)
    assert _dispatch._forced.get("batch_norm") is None
    with fastgan.backend("reference"), pytest.raises(RuntimeError):
        batch_norm(x, None, None, weight, training=True)


def chosen(backend):
    """A forced backend, or the automatic choice, which hands small inputs to torch's own op."""
    return contextlib.nullcontext("cpu") if backend == "auto" else using(backend)


DELEGATED = ("auto", "reference", "cpp")
SIZES_OF_ONE = ((1, 3, 4, 5), (2, 3, 1, 4), (2, 3, 4, 1), (4, 3, 1, 1), (1, 3, 1, 7), (1, 4, 5, 1), (3, 1, 2, 2))


@pytest.mark.parametrize("backend", DELEGATED)
@pytest.mark.parametrize("training", [True, False], ids=["training", "evaluation"])
@pytest.mark.parametrize("shape", SIZES_OF_ONE, ids=str)
def test_any_strides_of_input_gradient_and_parameters(backend, training, shape):
    """torch 2.13's own op gives wrong gradients, silently, for many of these."""
    channels = shape[1]
    x, dy = draw(shape, dtype=torch.float32), draw(shape, dtype=torch.float32, seed=1)
    dense = parameters(channels, torch.float32, "cpu")
    gaps = [torch.stack((t, torch.full_like(t, torch.nan)), 1)[:, 0] for t in dense]
    running = statistics(draw((4, *shape[1:]), dtype=torch.float32, seed=2))
    wide = [t.double() for t in running]
    call = functools.partial(ours, activation="leaky_relu", training=training)
    exact = functools.partial(stock, activation="leaky_relu", training=training, running=wide)
    with chosen(backend):
        for i, x_view in enumerate(views(x)):
            for j, dy_view in enumerate(views(dy)):
                affine = gaps if (i + j) % 2 else dense
                own = functools.partial(call, running=[t.clone() for t in running])
                y, grads = gradients(own, (x_view, *affine), dy_view)
                truth, dtruth = gradients(exact, [t.double().contiguous() for t in (x, *affine)], dy.double())
                assert dense_layout(y) in ("both", "nhwc" if is_channels_last(dense_of(x_view)) else "nchw")
                for name, a, b in zip(("y", "dx", "dweight", "dbias"), (y, *grads), (truth, *dtruth), strict=True):
                    error = (a - b).abs().max()
                    assert error <= 1e-5 * (1 + b.abs().max()), (name, x_view.stride(), dy_view.stride(), error)


@pytest.mark.parametrize("backend", DELEGATED)
def test_volumes_with_channels_innermost(backend):
    x, dy = (draw((1, 3, 2, 3, 4), dtype=torch.float32, seed=seed) for seed in (0, 1))
    affine = parameters(3, torch.float32, "cpu")
    last = [t[0].permute(1, 2, 3, 0).contiguous().permute(3, 0, 1, 2).unsqueeze(0) for t in (x, dy)]
    truth = gradients(stock, [t.double() for t in (x, *affine)], dy.double())
    with chosen(backend):
        for x_view, dy_view in ((x, last[1]), (last[0], dy), (last[0], last[1])):
            y, grads = gradients(ours, (x_view, *affine), dy_view)
            for a, b in zip((y, *grads), (truth[0], *truth[1]), strict=True):
                assert (a - b).abs().max() <= 1e-5 * (1 + b.abs().max())


@pytest.mark.parametrize("backend", DELEGATED)
@pytest.mark.parametrize("absent", ["weight", "bias", "both", "none"])
@pytest.mark.parametrize("shape", [(1, 2, 2, 3), (3, 2), (2, 2, 3)], ids=str)
def test_second_derivatives_do_not_depend_on_the_kernel(backend, absent, shape):
    """torch's own op has none for a bias without a weight; one image is given as it lies in (H, W, C)."""
    x, *others = (t.detach() for t in gradcheck_inputs(shape, "nchw", "cpu"))
    if len(shape) == 4:
        x = x[0].permute(1, 2, 0).contiguous().permute(2, 0, 1).unsqueeze(0)
    kept = {name: t for name, t in zip(("weight", "bias"), others) if absent not in (name, "both")}
    leaves = [t.requires_grad_() for t in (x, *kept.values())]
    for training in (True, False):
        running = (None, None) if training else statistics(x)

        def f(x, *tensors, training=training, running=running):
            return ours(x, **dict(zip(kept, tensors)), running=running, training=training, eps=0.1)

        with chosen(backend):
            assert torch.autograd.gradgradcheck(f, leaves, fast_mode=True)


@pytest.mark.parametrize("backend", DELEGATED)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64], ids=str)
@pytest.mark.parametrize("stats_dtype", [torch.float32, torch.float64, torch.bfloat16], ids=str)
def test_dtypes_of_parameters_do_not_depend_on_the_kernel(backend, dtype, stats_dtype):
    """float32 or the input's for weight and bias, each for itself; any for running statistics, also with gaps."""
    if backend != "auto" and _dispatch.refusal("batch_norm", backend, "cpu", dtype):
        pytest.skip("no kernel for this dtype")
    x = draw((2, 3, 4, 5), "nhwc", "off-centre", dtype)
    for kinds in ((dtype, torch.float32), (torch.float32, dtype)):
        affine = [t.to(kind) for t, kind in zip(parameters(3, torch.float64, "cpu"), kinds)]
        for training in (True, False):
            running = [torch.stack((t, t), 1)[:, 0] for t in statistics(x, stats_dtype)]
            wide = [t.double().contiguous() for t in running]
            with chosen(backend):
                y, grads = gradients(functools.partial(ours, running=running, training=training), (x, *affine))
            truth = stock(*(t.double() for t in (x, *affine)), running=wide, training=training)
            assert y.dtype == dtype and [g.dtype for g in grads[1:]] == list(kinds)
            bound = 2e-5 if torch.bfloat16 not in (dtype, stats_dtype) else 0.03
            torch.testing.assert_close(y.double(), truth, rtol=bound, atol=bound)
            for a, b in zip(running, wide, strict=True):
                torch.testing.assert_close(a.double(), b, rtol=bound, atol=bound)


def test_no_zeros_are_made_for_the_gradients_of_the_statistics():
    with using("cpp"):
        x = draw((2, 3, 4, 5), dtype=torch.float32).requires_grad_()
        affine = [t.requires_grad_() for t in parameters(3, torch.float32, "cpu")]
        y = ours(x, *affine, activation="relu")
        dy = torch.ones_like(y)
        with Kernels() as seen:
            y.backward(dy)
        assert seen and not any("aten::zeros" in name or "new_zeros" in name for name in seen), seen


@pytest.mark.parametrize("backend", DELEGATED)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_gradients_of_float32_parameters_are_summed_in_float32(backend, dtype):
    """2,048 ones in bfloat16 give 256 in torch's own op, where the gradient that comes in has gaps."""
    if backend == "cpp" and dtype == torch.float16:
        pytest.skip("no kernel for this dtype")
    x = draw((4, 2, 16, 32), dtype=dtype)
    dy = torch.stack((torch.ones_like(x), torch.full_like(x, torch.nan)), -1)[..., 0]
    dy[0, 0, 0, 0] = 1 + 2**-7  # a sum that neither dtype holds
    with chosen(backend):
        _, (_, _, dbias) = gradients(ours, (x, *parameters(2, torch.float32, "cpu")), dy)
    assert dbias.tolist() == [2048 + 2**-7, 2048]
