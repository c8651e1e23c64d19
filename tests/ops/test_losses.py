"""l1_loss, mse_loss and bce_with_logits: every backend against stock torch in float64, tensor and scalar targets."""

import contextlib

import hypothesis
import hypothesis.strategies as st
import numpy as np
import pytest
import torch
import torch.nn.functional as F

import fastgan
from fastgan.ops.losses import OPS, REDUCTIONS

from .common import (
    BACKENDS,
    DTYPES,
    KERNELS,
    LAYOUTS,
    VALUES,
    Kernels,
    assert_accurate,
    assert_same,
    draw,
    gradients,
    slow,
    using,
)

KINDS = tuple(OPS)
OURS = {kind: getattr(fastgan.functional, op.name) for kind, op in OPS.items()}
STOCK = {"l1": F.l1_loss, "mse": F.mse_loss, "bce": F.binary_cross_entropy_with_logits}


def serving(kind, backend, *dtypes):
    return using(OPS[kind].name, backend, *dtypes)


def labels(x, kind, seed=1):
    """Targets of the shape of x: probabilities for bce, and ties with x for the others."""
    t = draw(x.shape, seed=seed)
    t = torch.sigmoid(t) if kind == "bce" else torch.where(t > 0.5, x.double().cpu(), t)
    return t.to(x)


def check(kind, x, target, reduction):
    scalar = not isinstance(target, torch.Tensor)
    tensors = (x,) if scalar else (x, target)
    dy = draw(x.shape if reduction == "none" else (), dtype=x.dtype, device=x.device, seed=7)

    def ours(x, t=target):
        return OURS[kind](x, t, reduction=reduction)

    def stock(x, t=None):
        return STOCK[kind](x, torch.full_like(x, target) if scalar else t, reduction=reduction)

    y, grads = gradients(ours, tensors, dy)
    same, same_grads = gradients(stock, tensors, dy)
    exact, exact_grads = gradients(stock, tuple(t.double() for t in tensors), dy.double())
    what = f"{kind}, {reduction}"
    assert_accurate(y, same, exact, what)
    for name, *results in zip(("dx", "dtarget"), grads, same_grads, exact_grads):
        # sigmoid(x) - t, x - t: as large as their terms before they cancel
        terms = dy.double().abs().max().item() / (x.numel() if reduction == "mean" else 1)
        assert_accurate(*results, f"{name} of {what}", terms if kind == "bce" else 0.0)
    return y, grads


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("kind", KINDS)
def test_accuracy(kind, backend, dtype):
    with serving(kind, backend, dtype) as device:
        x = draw((2, 3, 5, 6) if slow(backend) else (2, 3, 65, 67), "nhwc", "off-centre", dtype, device)
        for reduction in REDUCTIONS:
            check(kind, x, labels(x, kind), reduction)
            check(kind, x, 0.9, reduction)
        check(kind, x, 1, "mean")


any_input = hypothesis.given(
    kind=st.sampled_from(KINDS),
    shape=st.lists(st.integers(1, 9), max_size=4),
    layout=st.sampled_from(LAYOUTS),
    target_layout=st.sampled_from(LAYOUTS),
    values=st.sampled_from(VALUES),
    reduction=st.sampled_from(REDUCTIONS),
    target=st.sampled_from((None, 0.0, 1.0, 0.9)),
    dtype=st.sampled_from((torch.float32, torch.float64)),
)


def check_any_input(backend, kind, shape, layout, target_layout, values, reduction, target, dtype):
    if len(shape) != 4:
        layout = target_layout = "nchw"
    with serving(kind, backend, dtype) as device:
        x = draw(shape, layout, values, dtype, device)
        if target is None:
            target = torch.empty_like(draw(shape, target_layout, "normal", dtype, device)).copy_(labels(x, kind))
        check(kind, x, target, reduction)


@pytest.mark.parametrize("backend", ["plain", "cpp"])
@any_input
def test_any_input(backend, **drawn):
    check_any_input(backend, **drawn)


@hypothesis.settings(max_examples=8)
@any_input
def test_any_input_of_triton(**drawn):
    check_any_input("triton", **drawn)


@pytest.mark.parametrize("backend", KERNELS)
def test_huge_and_tiny_logits(backend):
    with serving("bce", backend, torch.float32) as device:
        x = torch.tensor([1e4, -1e4, 3e38, -3e38, 100.0, -100.0, 1e-30, -1e-30, 0.0], device=device)
        for target in (0.0, 1.0, 0.3):
            y, (dx,) = check("bce", x, target, "none")
            assert y.isfinite().all() and dx.isfinite().all()
        y = fastgan.functional.bce_with_logits(x[:2], 1.0, reduction="none")
        assert y.tolist() == [0.0, 1e4]


@pytest.mark.parametrize("backend", KERNELS)
def test_l1_at_ties(backend):
    """sign(0) = 0, for either sign of zero."""
    with serving("l1", backend) as device:
        x = torch.tensor([1.0, 0.0, -0.0, -2.0, 3.0], device=device)
        for target in (torch.tensor([1.0, -0.0, 0.0, -2.0, 2.0], device=device), None):
            _y, (dx, *_) = check("l1", x, target if target is not None else 0.0, "sum")
        _, (dx,) = gradients(lambda x: fastgan.functional.l1_loss(x, 1.0, reduction="sum"), (x,))
        assert dx.tolist() == [0, -1, -1, -1, 1]


@pytest.mark.parametrize("backend", KERNELS)
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("poison", [float("nan"), float("inf"), -float("inf")])
def test_nan_and_inf(kind, backend, poison):
    """NaN in, NaN value and slope out (stock torch's l1 forgets the second); infinities give what stock gives."""
    with serving(kind, backend) as device:
        for size in (5,) if slow(backend) else (5, 300):
            x = draw((size,), dtype=torch.float32, device=device)
            x[3] = poison
            for target in (0.0, 1.0, labels(draw((size,), dtype=torch.float32, device=device), kind)):
                y, (dx,) = gradients(lambda x: OURS[kind](x, target, reduction="none"), (x,))
                full = target if isinstance(target, torch.Tensor) else torch.full_like(x, target)
                same, (same_dx,) = gradients(lambda x: STOCK[kind](x, full, reduction="none"), (x,))
                if kind == "bce" and poison == poison:  # inf - inf or inf, by the formula
                    assert not y[3].isfinite() and y[[0, 1, 2, 4]].isfinite().all() and dx.isfinite().all()
                    continue
                if kind == "l1" and poison != poison:
                    same_dx[3] = poison
                torch.testing.assert_close(y, same, equal_nan=True)
                torch.testing.assert_close(dx, same_dx, equal_nan=True)
                for reduction in ("sum", "mean"):
                    y, same = OURS[kind](x, target, reduction=reduction), STOCK[kind](x, full, reduction=reduction)
                    torch.testing.assert_close(y, same, equal_nan=True)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("kind", KINDS)
def test_empty(kind, backend):
    with serving(kind, backend) as device:
        for shape in ((0,), (0, 3, 4, 4)):
            x = torch.empty(shape, device=device, requires_grad=True)
            assert OURS[kind](x, 1.0, reduction="mean").isnan()
            assert OURS[kind](x, 1.0, reduction="sum") == 0
            assert OURS[kind](x, x.detach(), reduction="none").shape == shape
            (dx,) = torch.autograd.grad(OURS[kind](x, 1.0), x)
            assert dx.shape == shape


@pytest.mark.parametrize("backend", KERNELS)
@pytest.mark.parametrize("kind", KINDS)
def test_scalar_tensors(kind, backend):
    with serving(kind, backend) as device:
        x = torch.tensor(0.7, device=device)
        for reduction in REDUCTIONS:
            check(kind, x, 1.0, reduction)
            check(kind, x, torch.tensor(0.2, device=device), reduction)


@pytest.mark.parametrize("backend", KERNELS)
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("layout", ["nchw", "nhwc"])
def test_layout_is_kept(kind, backend, layout):
    with serving(kind, backend) as device:
        x = draw((2, 3, 4, 5), layout, dtype=torch.float32, device=device)
        for target in (1.0, labels(x, kind).contiguous()):
            y, (dx,) = gradients(lambda x: OURS[kind](x, target, reduction="none"), (x,))
            assert y.stride() == dx.stride() == x.stride()
            _, (dx,) = gradients(lambda x: OURS[kind](x, target), (x,))
            assert dx.stride() == x.stride()


def gradcheck_inputs(kind, device, shape=(2, 3)):
    x = draw(shape, device=device)
    t = labels(x, kind) if kind == "bce" else x + torch.where(draw(shape, device=device, seed=2) > 0, 0.5, -0.7)
    return x.requires_grad_(), t.detach().requires_grad_()


@pytest.mark.parametrize("backend", KERNELS)
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("reduction", REDUCTIONS)
def test_gradcheck(kind, backend, reduction):
    with serving(kind, backend, torch.float64) as device:
        x, t = gradcheck_inputs(kind, device)
        both = lambda x, t: OURS[kind](x, t, reduction=reduction)  # noqa: E731
        scalar = lambda x: OURS[kind](x, 3.0 if kind == "l1" else 0.9, reduction=reduction)  # noqa: E731
        for f, tensors in ((both, (x, t)), (scalar, (x,)), (lambda x: both(x, t.detach()), (x,))):
            assert torch.autograd.gradcheck(f, tensors, fast_mode=slow(backend))
            assert torch.autograd.gradgradcheck(f, tensors, fast_mode=slow(backend))
        if reduction == "mean" and not slow(backend):
            square = lambda x, t: torch.autograd.grad(both(x, t).square(), (x, t), create_graph=True)  # noqa: E731
            assert torch.autograd.gradgradcheck(square, (x, t))


@pytest.mark.parametrize("backend", KERNELS)
@pytest.mark.parametrize("kind", KINDS)
def test_gradient_of_the_target_alone(kind, backend):
    with serving(kind, backend) as device:
        x = draw((3, 4), dtype=torch.float32, device=device)
        t = labels(x, kind)
        _, (dt,) = gradients(lambda t: OURS[kind](x, t), (t,))
        _, (expected,) = gradients(lambda t: STOCK[kind](x, t), (t,))
        torch.testing.assert_close(dt, expected)


@pytest.mark.parametrize("backend", KERNELS)
@pytest.mark.parametrize("kind", KINDS)
def test_repeatable_retained_and_without_grad(kind, backend):
    with serving(kind, backend) as device:
        x = draw((7, 33) if slow(backend) else (17, 1237), dtype=torch.float32, device=device).requires_grad_()
        y = OURS[kind](x, 1.0)
        first = torch.autograd.grad(y, x, retain_graph=True)
        assert_same(first, torch.autograd.grad(y, x))
        assert_same((y.detach(),), (OURS[kind](x, 1.0).detach(),))
        with torch.no_grad():
            z = OURS[kind](x, 1.0)
        with torch.inference_mode():
            w = OURS[kind](x, 1.0)
        assert not z.requires_grad and not w.requires_grad
        assert_same((y.detach(), y.detach()), (z, w))


@pytest.mark.parametrize("kind", KINDS)
def test_cpp_does_not_depend_on_threads(kind):
    before = torch.get_num_threads()
    with serving(kind, "cpp"):
        for dtype in (torch.float32, torch.bfloat16, torch.float64):
            x = draw((3, 100_003), dtype=dtype)
            results = []
            try:
                for threads in (1, 2, 3):
                    torch.set_num_threads(threads)
                    y, grads = gradients(lambda x: OURS[kind](x, labels(x, kind)), (x,))
                    results.append((y.detach(), *grads))
            finally:
                torch.set_num_threads(before)
            assert_same(results[0], results[1])
            assert_same(results[0], results[2])


@pytest.mark.parametrize("backend", ["plain", "cpp"])
@pytest.mark.parametrize("kind", KINDS)
def test_sums_of_millions(kind, backend):
    """The staged sum keeps float32 accuracy where a running sum in float32 would lose three digits."""
    with serving(kind, backend):
        x = (1.0 + 0.001 * draw((1 << 20,))).float()
        y = OURS[kind](x, 0.0, reduction="sum").double()
        exact = STOCK[kind](x.double(), torch.zeros_like(x).double(), reduction="sum")
        assert (y / exact - 1).abs() < 3e-7


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("kind", KINDS)
def test_mixed_dtypes_promote(kind, backend):
    with serving(kind, backend, torch.float32, torch.float64) as device:
        single, low, double = torch.float32, torch.bfloat16, torch.float64
        for first, second in ((single, double), (low, single), (single, low)):
            x = draw((3, 4), dtype=first, device=device)
            t = labels(x, kind).to(second)
            for reduction in ("mean", "none"):
                y, grads = gradients(lambda x, t: OURS[kind](x, t, reduction=reduction), (x, t))
                promoted = torch.promote_types(first, second)
                same, same_grads = gradients(
                    lambda x, t: STOCK[kind](x.to(promoted), t.to(promoted), reduction=reduction), (x, t)
                )
                torch.testing.assert_close(y, same, rtol=1e-2, atol=1e-2)
                assert y.dtype == same.dtype and [g.dtype for g in grads] == [first, second]
                for grad, other in zip(grads, same_grads):
                    torch.testing.assert_close(grad, other, rtol=1e-2, atol=1e-2)


def test_broadcast_targets_take_the_reference():
    """As in torch, l1 and mse broadcast (with its warning); no kernel does."""
    x = draw((3, 4), dtype=torch.float32)
    with pytest.warns(UserWarning, match="different to the input size"):
        y = fastgan.functional.mse_loss(x, x[:1])
        torch.testing.assert_close(y, F.mse_loss(x, x[:1]))
    with fastgan.backend(mse_loss="plain"), pytest.raises(RuntimeError, match=r"target's shape \(1, 4\)"):
        fastgan.functional.mse_loss(x, x[:1])


def test_bce_with_weights_is_stock():
    x, t = gradcheck_inputs("bce", "cpu")
    weight, pos_weight = torch.rand(3).double(), 1 + torch.rand(3).double()
    for arguments in ({"weight": weight}, {"pos_weight": pos_weight}, {"weight": weight, "pos_weight": pos_weight}):
        expected = F.binary_cross_entropy_with_logits(x, t, **arguments)
        torch.testing.assert_close(fastgan.functional.bce_with_logits(x, t, **arguments), expected)
        expected = F.binary_cross_entropy_with_logits(x, torch.ones_like(x), **arguments)
        torch.testing.assert_close(fastgan.functional.bce_with_logits(x, 1.0, **arguments), expected)


@pytest.mark.parametrize("backend", ["auto", "reference"])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_small_tensors_are_as_large_ones(kind, backend, dtype):
    """What torch's own op answers for small tensors: values, gradients, layouts, NaN, second derivatives."""
    with fastgan.backend(**{OPS[kind].name: backend}):
        for layout in LAYOUTS:
            x = draw((2, 3, 4, 5), layout, "ties", dtype)
            for reduction in REDUCTIONS:
                for target in (labels(x, kind), 0.9, 1, True):
                    y, (dx, *_) = check(kind, x, target, reduction)
                    if backend == "auto" and reduction == "none" and layout in ("nchw", "nhwc"):
                        assert y.stride() == dx.stride() == x.stride()
        wide, t = gradcheck_inputs(kind, "cpu")
        for reduction in REDUCTIONS:
            f = lambda x, t, reduction=reduction: OURS[kind](x, t, reduction=reduction)  # noqa: E731
            assert torch.autograd.gradgradcheck(f, (wide, t), fast_mode=True)
        if backend == "auto":
            x = torch.tensor([1.0, float("nan")], dtype=dtype, requires_grad=True)
            (dx,) = torch.autograd.grad(OURS[kind](x, 0.0), x)
            assert dx[0].isfinite() and dx[1].isnan()


@pytest.mark.parametrize("kind", KINDS)
def test_labels_of_numpy_are_numbers(kind):
    x = draw((3, 4), dtype=torch.float32).requires_grad_()
    for label in (np.float32(1), np.float64(1), np.float16(1), np.int64(1), np.uint8(1), np.bool_(True), np.array(1.0)):
        y = OURS[kind](x, label)
        assert y.dtype == torch.float32 and torch.equal(y, OURS[kind](x, 1.0))
    weighted = fastgan.functional.bce_with_logits(x, np.float32(1), torch.ones(4))
    torch.testing.assert_close(weighted, fastgan.functional.bce_with_logits(x, 1.0))
    for other in (np.array([1.0, 2.0]), np.str_("real"), "real", None, [1.0], np.complex64(1j)):
        with pytest.raises(ValueError, match="needs a tensor or a number as target, got"):
            OURS[kind](x, other)


NOT_FLOATING = (torch.int64, torch.uint8, torch.bool, torch.complex64, torch.complex128)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dtype", NOT_FLOATING, ids=str)
def test_other_dtypes_are_torchs_own(kind, dtype):
    """The layers and functions give what torch's do, or its error."""
    layers = {"l1": "L1Loss", "mse": "MSELoss", "bce": "BCEWithLogitsLoss"}
    x, t = (draw((3, 4), values="ties", seed=seed).to(dtype) for seed in (0, 1))
    real = draw((3, 4), dtype=torch.float32, seed=2)
    for reduction in REDUCTIONS:
        calls = (
            (OURS[kind], STOCK[kind], {"reduction": reduction}),
            (*(getattr(module, layers[kind])(reduction=reduction) for module in (fastgan.nn, torch.nn)), {}),
        )
        for ours, stock, options in calls:
            for pair in ((x, t), (x, real), (real, x)):
                try:
                    expected = stock(*pair, **options)
                except (RuntimeError, NotImplementedError) as error:
                    with contextlib.suppress(RuntimeError, NotImplementedError):
                        y = ours(*pair, **options)
                        assert y.isfinite().all(), error  # ours may take more, never give nonsense
                    continue
                y = ours(*pair, **options)
                assert y.dtype == expected.dtype
                torch.testing.assert_close(y, expected)


def test_a_number_beside_integers_keeps_its_fraction():
    x = torch.tensor([0, 1, 2])
    assert fastgan.functional.l1_loss(x, 0.5, reduction="none").tolist() == [0.5, 0.5, 1.5]
    z = torch.tensor([3 + 4j], requires_grad=True)
    assert fastgan.functional.l1_loss(z, 0) == 5
    (dz,) = torch.autograd.grad(fastgan.functional.l1_loss(z, 0), z)
    torch.testing.assert_close(dz, torch.tensor([0.6 + 0.8j]))


@pytest.mark.parametrize("kind", KINDS)
def test_no_zeros_are_made_for_the_gradient_of_the_slope(kind):
    with serving(kind, "cpp"):
        x = draw((3, 4), dtype=torch.float32).requires_grad_()
        y = OURS[kind](x, 1.0, reduction="sum")
        with Kernels() as seen:
            y.backward()
        assert seen and not any("zeros" in name for name in seen), seen


@pytest.mark.parametrize("backend", ["auto", "reference"])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("layouts", [("nchw", "nhwc"), ("nhwc", "nchw"), ("nhwc", "expanded")], ids=str)
def test_the_layout_is_that_of_the_input(kind, backend, layouts):
    x, t, weight = (draw((2, 3, 4, 5), each, dtype=torch.float32) for each in (*layouts, layouts[1]))
    with fastgan.backend(**{OPS[kind].name: backend}):
        assert OURS[kind](x, t, reduction="none").stride() == x.stride()
        if kind == "bce":
            for options in ({"weight": weight}, {"pos_weight": weight}, {"weight": weight, "pos_weight": weight}):
                assert OURS[kind](x, t, reduction="none", **options).stride() == x.stride()
