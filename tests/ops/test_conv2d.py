"""conv2d: both detours against stock torch, layouts, all orders of differentiation, the choice."""

import functools

import hypothesis
import hypothesis.strategies as st
import pytest
import torch
import torch.nn.functional as F

import fastgan
from fastgan.functional import conv2d
from fastgan.ops import _table, reflection_pad_conv2d
from fastgan.ops import conv2d as module

from .common import LAYOUTS, assert_accurate, assert_same, dense_layout, draw, gradients, using

using = functools.partial(using, "conv2d")
DTYPES = (torch.float32, torch.bfloat16, torch.float64)
BACKENDS = pytest.mark.parametrize("backend", ["cpp", "columns"])


def operands(shape, outputs, kernel, layout="nhwc", dtype=torch.float64, weights="nhwc"):
    weight = draw((outputs, shape[1], *kernel), weights, dtype=dtype, seed=1)
    return draw(shape, layout, dtype=dtype), weight, draw((outputs,), dtype=dtype, seed=2)


def spied(monkeypatch):
    calls = []
    ours = module._weight_gradient
    monkeypatch.setattr(module, "_weight_gradient", lambda *args: calls.append(args[0].dtype) or ours(*args))
    return calls


@BACKENDS
@hypothesis.given(
    shape=st.tuples(st.integers(1, 2), st.sampled_from((1, 2, 9, 40)), st.integers(1, 9), st.integers(1, 9)),
    outputs=st.sampled_from((1, 3, 33)),
    kernel=st.tuples(st.integers(1, 4), st.integers(1, 4)),
    layout=st.sampled_from(LAYOUTS),
    weights=st.sampled_from(("nchw", "nhwc", "sliced", "transposed")),
    stride=st.tuples(st.integers(1, 3), st.integers(1, 3)),
    padding=st.tuples(st.integers(0, 3), st.integers(0, 3)),
    dilation=st.tuples(st.integers(1, 2), st.integers(1, 2)),
    dtype=st.sampled_from(DTYPES),
)
def test_any_input(backend, shape, outputs, kernel, layout, weights, stride, padding, dilation, dtype):
    """y and its gradients are as near to fp64 as stock torch's in the same dtype."""
    if backend == "columns":
        stride = dilation = (1, 1)
    reach = [(side + 2 * pad - 1) // far + 1 for side, pad, far in zip(shape[2:], padding, dilation)]
    kernel = tuple(min(k, most) for k, most in zip(kernel, reach))
    with using(backend, dtype):
        tensors = operands(shape, outputs, kernel, layout, dtype, weights)
        how = (stride, padding, dilation)
        y, grads = gradients(lambda *t: conv2d(*t, *how), tensors)
        same, same_grads = gradients(lambda *t: F.conv2d(*t, *how), tensors)
        exact, exact_grads = gradients(lambda *t: F.conv2d(*t, *how), tuple(t.double() for t in tensors))
        assert_accurate(y, same, exact, "y")
        for name, *results in zip(("dx", "dweight", "dbias"), grads, same_grads, exact_grads):
            assert_accurate(*results, name)


@BACKENDS
def test_gradcheck(backend):
    with using(backend, torch.float64):
        tensors = [t.requires_grad_() for t in operands((1, 2, 5, 4), 3, (3, 2))]
        how = ((2, 1), (1, 0), (1, 2)) if backend == "cpp" else (1, (1, 2))
        conv = lambda x, w, b: conv2d(x, w, b, *how)  # noqa: E731
        assert torch.autograd.gradcheck(conv, tensors, fast_mode=True)
        assert torch.autograd.gradgradcheck(conv, tensors, fast_mode=True)


@BACKENDS
def test_a_penalty_to_the_third_order(backend):
    with using(backend, torch.float64):
        tensors = operands((1, 2, 5, 6), 2, (3, 3))

        def orders(function):
            x, weight, bias = (t.detach().clone().requires_grad_() for t in tensors)
            y = function(x, weight, bias, 2 if backend == "cpp" else 1, 1)
            (dx,) = torch.autograd.grad(y.square().sum(), x, create_graph=True)
            second = torch.autograd.grad(dx.square().sum(), (x, weight, bias), create_graph=True)
            third = torch.autograd.grad(sum(g.pow(3).sum() for g in second), (x, weight, bias))
            return [*second, *third]

        for ours, stock in zip(orders(conv2d), orders(F.conv2d)):
            torch.testing.assert_close(ours, stock, rtol=1e-8, atol=1e-8 * stock.abs().max().item())


@BACKENDS
@pytest.mark.parametrize("layout", ["nchw", "nhwc"])
def test_layouts_are_kept_and_bits_repeat(layout, backend):
    with using(backend):
        tensors = operands((2, 3, 8, 7), 5, (4, 4), layout, torch.float32, layout)
        stride = 2 if backend == "cpp" else 1
        first, second = (gradients(lambda *t: conv2d(*t, stride, 1), tensors) for _ in range(2))
        assert dense_layout(first[0]) == dense_layout(first[1][0]) == layout
        assert_same((first[0], *first[1]), (second[0], *second[1]))


def test_only_the_gradients_asked_for(monkeypatch):
    calls = spied(monkeypatch)
    with using("cpp"):
        x, weight, bias = operands((1, 2, 6, 5), 3, (3, 3), dtype=torch.float32)
        conv2d(x.clone().requires_grad_(), weight, bias, 2).sum().backward()
        assert not calls
        conv2d(x, weight.clone().requires_grad_(), bias, 2).sum().backward()
        assert calls == [torch.float32]


def test_the_choice(monkeypatch):
    """Strided, channels_last, of 32 channels or more: by ours; everything else is stock torch's."""
    calls = spied(monkeypatch)
    with using("cpp"), fastgan.backend("auto"):
        for channels, layout, kernel, stride, dtype, ours in (
            (32, "nhwc", 3, 2, torch.float32, True),
            (32, "nhwc", 4, 2, torch.float32, True),
            (32, "nhwc", 3, 2, torch.bfloat16, True),
            (32, "nhwc", 4, 2, torch.bfloat16, False),
            (32, "nhwc", 3, 2, torch.float64, False),
            (31, "nhwc", 3, 2, torch.float32, False),
            (32, "nchw", 3, 2, torch.float32, False),
            (32, "nhwc", 3, 1, torch.float32, False),
        ):
            x, weight, bias = operands((1, channels, 6, 6), 4, (kernel, kernel), layout, dtype)
            conv2d(x, weight.requires_grad_(), bias, stride).sum().backward()
            assert calls == [dtype] * ours, (channels, layout, kernel, stride, dtype)
            calls.clear()
        x, weight, bias = operands((1, 32, 6, 6), 4, (3, 3), dtype=torch.float32)
        weight.requires_grad_()
        with torch.autocast("cpu", torch.bfloat16):
            y = conv2d(x, weight, bias, 2, 1)
        y.float().sum().backward()
        assert calls == [y.dtype] == [torch.bfloat16] and weight.grad.dtype == torch.float32


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_columns_are_chosen(dtype, monkeypatch):
    calls = []
    ours = module._by_columns
    monkeypatch.setattr(module, "_by_columns", lambda *args: calls.append(1) or ours(*args))
    with fastgan.backend("auto"):
        for channels, outputs, kernel, stride, chosen in (
            (32, 3, (7, 7), 1, True), (32, 4, (1, 5), 1, True), (31, 3, (7, 7), 1, False),
            (32, 5, (7, 7), 1, False), (32, 3, (7, 4), 1, False), (32, 3, (7, 7), 2, False),
        ):  # fmt: skip
            tensors = operands((1, channels, 9, 10), outputs, kernel, "nhwc", dtype)
            y, same = conv2d(*tensors, stride), F.conv2d(*tensors, stride)
            assert calls == [1] * chosen, (channels, outputs, kernel, stride)
            assert_accurate(y, same, F.conv2d(*(t.double() for t in tensors), stride))
            calls.clear()


def test_without_padding_the_table_of_reflected_convolutions_decides(monkeypatch):
    """Where it says Triton, conv2d is that op; forced, or padded with zeros, it is not."""
    asked, called = [], []
    monkeypatch.setattr(_table, "KINDS", ("cpu",))
    monkeypatch.setattr(_table, "backend", lambda op, x, shape: asked.append((op, shape)) or "triton")
    reflected = reflection_pad_conv2d.compute
    with fastgan.backend(reflection_pad_conv2d="halo"):
        monkeypatch.setattr(reflection_pad_conv2d, "compute", lambda *args: called.append(args[4]) or reflected(*args))
        tensors = operands((1, 4, 6, 5), 4, (3, 3), dtype=torch.float32)
        torch.testing.assert_close(conv2d(*tensors), F.conv2d(*tensors))
        assert called == [(0, 0)]
        assert set(asked) == {("reflection_pad_conv2d", "1x4x6x5 to 4x3x3 stride 1x1 padding 0x0 dilation 1x1")}
        conv2d(*tensors, padding=1)
    with fastgan.backend(conv2d="reference"):
        conv2d(*tensors)
    assert len(called) == 1


def test_what_the_kernel_does_not_take():
    x, weight, bias = operands((1, 4, 6, 5), 4, (3, 3), dtype=torch.float32)
    weight = weight[:, :2].clone().requires_grad_()
    with using("cpp"), pytest.raises(RuntimeError, match="'cpp' was asked for but cannot serve this call: groups is 2"):
        conv2d(x, weight, bias, groups=2)
    with using("columns"), pytest.raises(RuntimeError, match="'columns' was asked for but .*stride is .2, 2."):
        conv2d(x, operands((1, 4, 6, 5), 4, (3, 3), dtype=torch.float32)[1], bias, 2)
    assert conv2d(x, weight, bias, groups=2).shape == (1, 4, 4, 3)
    assert conv2d(x[0], weight, bias, groups=2).shape == (4, 4, 3)
    with pytest.raises(RuntimeError, match="expected input"):
        conv2d(x[:, :3], weight, bias, groups=2)


@BACKENDS
def test_compiled(backend):
    stride = 2 if backend == "cpp" else 1
    with using(backend):
        tensors = operands((1, 3, 8, 6), 4, (3, 3), dtype=torch.float32)
        torch._dynamo.reset()
        compiled = torch.compile(lambda *t: conv2d(*t, stride, 1), fullgraph=True, backend="aot_eager")
        ours, plain = gradients(compiled, tensors), gradients(lambda *t: F.conv2d(*t, stride, 1), tensors)
        torch._dynamo.reset()
        torch.testing.assert_close(ours, plain, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("backend", ["auto", "cpp"])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("layout", ["nchw", "nhwc"])
def test_outputs_and_images_that_lie_in_both_layouts(layout, dtype, backend):
    """One channel or one pixel: heads of discriminators, the innermost layers of a U-Net."""
    for shape, outputs, kernel, how in (
        ((2, 64, 16, 16), 1, (4, 4), (2, 1)), ((2, 64, 4, 4), 128, (4, 4), (2, 0)), ((1, 64, 2, 2), 64, (4, 4), (2, 1)),
        ((4, 32, 9, 9), 1, (3, 3), (2, 1)), ((2, 1, 9, 8), 3, (3, 3), (2, 1)), ((1, 32, 1, 1), 4, (1, 1), (2, 0)),
        ((2, 40, 1, 9), 2, (1, 3), (2, 0)), ((2, 40, 9, 1), 1, (3, 1), (2, 0)),
    ):  # fmt: skip
        tensors = operands(shape, outputs, kernel, layout, dtype, layout)
        with using(backend, dtype) if backend == "cpp" else fastgan.backend("auto"):
            y, grads = gradients(lambda *t: conv2d(*t, *how), tensors)
        same, _same_grads = gradients(lambda *t: F.conv2d(*t, *how), tensors)
        exact, exact_grads = gradients(lambda *t: F.conv2d(*t, *how), tuple(t.double() for t in tensors))
        assert_accurate(y, same, exact, "y")
        for name, ours, exact_one in zip(("dx", "dweight", "dbias"), grads, exact_grads):
            assert_accurate(ours, exact_one.to(dtype), exact_one, name, scale=4 * exact_one.abs().max().item())


@pytest.mark.parametrize("kernel", [5, 7, 8])
def test_columns_that_cancel_are_rounded_once(kernel):
    """Zero-sum filters on off-centre images in bfloat16: the error of the result's own rounding."""
    x = draw((1, 64, 24, 1)).expand(1, 64, 24, 24) + 0.05 * draw((1, 64, 24, 24), seed=1)
    weight = draw((3, 64, kernel, kernel), seed=2) / 64
    even = kernel // 2 * 2
    weight[..., 1:even:2] = -weight[..., 0:even:2]
    weight[..., even:] = 0
    x, weight = x.bfloat16(), weight.bfloat16()
    exact = F.conv2d(x.double(), weight.double())
    with using("columns", torch.bfloat16):
        error = (conv2d(x, weight).double() - exact).abs()
    sums = F.conv2d(x.double().abs(), weight.double().abs()).max()
    assert (error <= 2**-8 * exact.abs() + 64 * torch.finfo(torch.float32).eps * sums).all()


@pytest.mark.parametrize("backend", ["auto", "reference"])
def test_paddings_by_name(backend):
    with fastgan.backend(conv2d=backend):
        for layout, kernel, dilation, channels in (
            ("nchw", (3, 3), 1, 4), ("nhwc", (4, 2), 1, 4), ("nhwc", (7, 8), 1, 40), ("nchw", (4, 3), (3, 2), 4),
        ):  # fmt: skip
            tensors = operands((2, channels, 11, 10), 3, kernel, layout)
            for padding in ("same", "valid"):
                y, grads = gradients(lambda *t: conv2d(*t, padding=padding, dilation=dilation), tensors)
                same, same_grads = gradients(lambda *t: F.conv2d(*t, padding=padding, dilation=dilation), tensors)
                torch.testing.assert_close((y, *grads), (same, *same_grads))
                one = conv2d(tensors[0][0], *tensors[1:], padding=padding, dilation=dilation)
                torch.testing.assert_close(one, y[0])
        for padding, stride, message in (
            ("full", 1, "'same' or 'valid', got 'full'"), ("same", 2, "a stride of 1, got .2"),
        ):  # fmt: skip
            with pytest.raises(ValueError, match=message):
                conv2d(*tensors, stride, padding)


def test_what_columns_cannot_be_made_of_is_refused_by_name():
    """As torch refuses it, of the tensors that were given, or in our own sentence."""
    x, weight, bias = operands((1, 32, 9, 10), 3, (7, 7), dtype=torch.float32)
    for arguments in (
        (x[:, :31], weight), (x, weight, bias[:2]), (x, weight[..., 0]), (x, weight, None, 1, -1), (x[..., :5], weight),
        (x[0, 0], weight), (x, weight.double()), (x, weight, None, 0), (x, weight, None, 1, 0, 0),
        (x, weight, None, 1, 0, 1, 3), (x, weight[:, :0]), (x, weight[:, :, :0]),
    ):  # fmt: skip
        with pytest.raises((RuntimeError, ValueError)) as stock:
            F.conv2d(*arguments)
        with pytest.raises((RuntimeError, ValueError)) as ours:
            conv2d(*arguments)
        assert str(ours.value) == str(stock.value)


@pytest.mark.parametrize("mode", ["zeros", "reflect", "replicate", "circular"])
def test_the_layer_pads_as_torchs(mode):
    for padding in (1, (2, 1), "same", "valid"):
        torch.manual_seed(0)
        stock = torch.nn.Conv2d(3, 4, (3, 4), padding=padding, padding_mode=mode)
        layer = fastgan.nn.Conv2d(3, 4, (3, 4), padding=padding, padding_mode=mode)
        layer.load_state_dict(stock.state_dict())
        for x in (draw((2, 3, 7, 6), dtype=torch.float32), draw((1, 3, 7, 6), "nhwc", dtype=torch.float32)):
            torch.testing.assert_close(layer(x), stock(x))
