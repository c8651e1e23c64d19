"""conv_transpose2d: zero insertion, the gradient of a convolution, and ours agree, and share nothing."""

import functools

import hypothesis
import hypothesis.strategies as st
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

import fastgan
from fastgan.functional import conv_transpose2d
from fastgan.ops import _dispatch
from fastgan.ops._norm import ACTIVATIONS, activate
from fastgan.ops.conv_transpose2d import OP

from .common import DTYPES, LAYOUTS, VALUES, assert_accurate, assert_same, dense_layout, draw, gradients, using

using = functools.partial(using, "conv_transpose2d")
BACKENDS = ("reference", "plain", "cpp", "cuda")
OURS = ("plain", "cpp", "cuda")
NAMES = ("dx", "dweight", "dbias")

geometries = st.fixed_dictionaries(
    {
        "stride": st.tuples(st.integers(1, 4), st.integers(1, 4)),
        "padding": st.tuples(st.integers(0, 3), st.integers(0, 3)),
        "output_padding": st.tuples(st.integers(0, 3), st.integers(0, 3)),
        "groups": st.sampled_from((1, 2)),
        "dilation": st.tuples(st.integers(1, 3), st.integers(1, 3)),
    }
)
kernels = st.tuples(st.integers(1, 5), st.integers(1, 5))
sizes = st.tuples(st.integers(1, 6), st.integers(1, 6))


def fitting(geometry, kernel, size):
    """The geometry with an output_padding that it may have; discards what would have no output."""
    limits = [max(s, d) - 1 for s, d in zip(geometry["stride"], geometry["dilation"])]
    geometry = geometry | {"output_padding": tuple(min(o, most) for o, most in zip(geometry["output_padding"], limits))}
    for i in (0, 1):
        s, p, d, o = (geometry[name][i] for name in ("stride", "padding", "dilation", "output_padding"))
        hypothesis.assume((size[i] - 1) * s - 2 * p + d * (kernel[i] - 1) + o + 1 >= 1)
    return geometry


def zero_insertion(x, weight, bias, stride, padding, output_padding, groups, dilation) -> Tensor:
    """The textbook definition: stride - 1 zeros between pixels, padding, the kernel turned by 180 degrees."""
    n, c, h, w = x.shape
    spread = x.new_zeros(n, c, (h - 1) * stride[0] + 1, (w - 1) * stride[1] + 1)
    spread[:, :, :: stride[0], :: stride[1]] = x
    turned = torch.cat([part.flip(2, 3).transpose(0, 1) for part in weight.chunk(groups)])
    edge = [dilation[i] * (weight.shape[2 + i] - 1) - padding[i] for i in (0, 1)]
    spread = F.pad(spread, (edge[1], edge[1] + output_padding[1], edge[0], edge[0] + output_padding[0]))
    return F.conv2d(spread, turned, bias, 1, 0, dilation, groups)


def gradient_of_convolution(x, weight, bias, stride, padding, output_padding, groups, dilation) -> Tensor:
    """The vector-Jacobian product of the convolution that maps the output's size to the input's, by autograd."""
    reach = [dilation[i] * (weight.shape[2 + i] - 1) + output_padding[i] + 1 for i in (0, 1)]
    size = [(x.shape[2 + i] - 1) * stride[i] - 2 * padding[i] + reach[i] for i in (0, 1)]
    image = x.new_zeros(x.shape[0], weight.shape[1] * groups, *size, requires_grad=True)
    seen = F.conv2d(image, weight, None, stride, padding, dilation, groups)[:, :, : x.shape[2], : x.shape[3]]
    (y,) = torch.autograd.grad(seen, image, x)
    return y if bias is None else y + bias[:, None, None]


def operands(size, kernel, groups, layout="nchw", dtype=torch.float64, device="cpu", values="normal"):
    x = draw((2, 4, *size), layout, values, dtype=dtype, device=device)
    strides = "transposed" if layout == "transposed" else "nchw"
    weight = draw((4, 3, *kernel), strides, dtype=dtype, device=device, seed=1)
    return x, weight, draw((3 * groups,), dtype=dtype, device=device, seed=2)


@pytest.mark.parametrize("backend", BACKENDS)
@hypothesis.given(
    geometry=geometries, kernel=kernels, size=sizes, layout=st.sampled_from(LAYOUTS), with_bias=st.booleans()
)
def test_three_definitions_agree(backend, geometry, kernel, size, layout, with_bias):
    geometry = fitting(geometry, kernel, size)
    with using(backend, torch.float64) as device:
        x, weight, bias = operands(size, kernel, geometry["groups"], layout, device=device)
        bias = bias if with_bias else None
        y = conv_transpose2d(x, weight, bias, **geometry)
        torch.testing.assert_close(y, zero_insertion(x, weight, bias, **geometry))
        torch.testing.assert_close(y, gradient_of_convolution(x, weight, bias, **geometry))


@pytest.mark.parametrize("backend", OURS)
@hypothesis.given(
    geometry=geometries,
    kernel=kernels,
    size=sizes,
    layout=st.sampled_from(LAYOUTS),
    values=st.sampled_from(VALUES),
    activation=st.sampled_from(ACTIVATIONS),
)
def test_gradients(backend, geometry, kernel, size, layout, values, activation):
    geometry = fitting(geometry, kernel, size)
    with using(backend, torch.float64) as device:
        tensors = operands(size, kernel, geometry["groups"], layout, device=device, values=values)
        ours = functools.partial(conv_transpose2d, activation=activation, **geometry)
        stock = lambda *t: activate(F.conv_transpose2d(*t, **geometry), activation, 0.2)  # noqa: E731
        dy = draw(stock(*tensors).shape, dtype=torch.float64, device=device, seed=3)
        y, grads = gradients(ours, tensors, dy)
        z, expected = gradients(stock, tensors, dy)
        torch.testing.assert_close(y, z)
        for name, grad, other in zip(NAMES, grads, expected):
            torch.testing.assert_close(grad, other, msg=lambda text: f"{name}: {text}")


@pytest.mark.parametrize("backend", OURS)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("layout", ["nchw", "nhwc"])
def test_accuracy(backend, dtype, layout):
    with using(backend, dtype) as device:
        x = draw((2, 24, 9, 7), layout, "off-centre", dtype, device)
        weight = draw((24, 16, 3, 3), dtype=dtype, device=device, seed=1)
        bias = draw((16,), dtype=dtype, device=device, seed=2)
        arguments = {"stride": 2, "padding": 1, "output_padding": 1}
        ours = functools.partial(conv_transpose2d, **arguments)
        stock = functools.partial(F.conv_transpose2d, **arguments)
        dy = draw((2, 16, 18, 14), dtype=dtype, device=device, seed=3)
        y, grads = gradients(ours, (x, weight, bias), dy)
        same, same_grads = gradients(stock, (x, weight, bias), dy)
        exact, exact_grads = gradients(stock, tuple(t.double() for t in (x, weight, bias)), dy.double())
        assert_accurate(y, same, exact, "y")
        for name, *results in zip(NAMES, grads, same_grads, exact_grads):
            assert_accurate(*results, name)


@pytest.mark.parametrize("backend", OURS)
@pytest.mark.parametrize("layout", ["nchw", "nhwc"])
def test_layout_is_kept(backend, layout):
    with using(backend) as device:
        x, weight, bias = operands((4, 5), (3, 3), 1, layout, torch.float32, device)
        last = weight.contiguous(memory_format=torch.channels_last)
        for weight, bias in ((weight, bias), (last, bias), (weight[:, :1], bias[:1])):  # noqa: B020
            for dy_layout in ("nchw", "nhwc", "expanded"):
                for stride, dilation, output_padding in ((2, 1, 1), (1, 3, 2)):
                    arguments = (weight, bias, stride, 1, output_padding, 1, dilation)
                    ours = lambda x: conv_transpose2d(x, *arguments)  # noqa: E731
                    y, _ = gradients(ours, (x,))
                    dy = draw(y.shape, dy_layout, dtype=torch.float32, device=device)
                    y, (dx,) = gradients(ours, (x,), dy)
                    assert dense_layout(dx) == layout and dense_layout(y) in (layout, "both")


@pytest.mark.parametrize("layout", ["nchw", "nhwc"])
@pytest.mark.parametrize("outputs", [1, 3, 64])
def test_the_automatic_choice(layout, outputs):
    """Whoever computes which pass: values, gradients, second derivatives and layouts are those of one op."""
    for shape in ((1, 4, 5, 6), (2, 4, 24, 25), (1, 4, 32, 33), (33, 4, 45, 46)):
        x = draw(shape, layout, dtype=torch.float32)
        weight = draw((4, outputs, 3, 3), dtype=torch.float32, seed=1)
        tensors = (x, weight, draw((outputs,), dtype=torch.float32, seed=2))
        results = []
        for function in (conv_transpose2d, F.conv_transpose2d):
            function = functools.partial(function, stride=2, padding=1, output_padding=1)
            y, grads = gradients(function, tensors)
            leaves = [t.detach().requires_grad_() for t in tensors]
            first = torch.autograd.grad(function(*leaves).square().sum(), leaves, create_graph=True)
            second = torch.autograd.grad(sum(g.square().sum() for g in first), leaves)
            results.append((y, *grads, *second))
        assert dense_layout(results[0][0]) in (layout, "both") and dense_layout(results[0][1]) == layout
        for ours, stock in zip(*results, strict=True):
            scale = stock.abs().max().item()
            torch.testing.assert_close(ours, stock, rtol=1e-4, atol=1e-5 * scale)


@pytest.mark.parametrize("backend", OURS)
@pytest.mark.parametrize(
    "geometry",
    [
        {"stride": 2, "padding": 1, "output_padding": 1},
        {"stride": (1, 3), "padding": (0, 1), "output_padding": (0, 2), "groups": 2},
        {"stride": (2, 1), "dilation": 3, "output_padding": 2, "activation": "relu"},
        {"stride": 4, "activation": "leaky_relu"},
        {"stride": 2, "activation": "leaky_relu", "negative_slope": -0.5},
    ],
    ids=str,
)
def test_gradcheck(backend, geometry):
    with using(backend, torch.float64) as device:
        x = draw((1, 2, 2, 3), device=device)
        groups = geometry.get("groups", 1)
        weight, bias = draw((2, 2, 3, 2), device=device, seed=1), draw((2 * groups,), device=device, seed=2)
        tensors = tuple(t.requires_grad_() for t in (x, weight, bias))
        f = functools.partial(conv_transpose2d, **geometry)
        assert torch.autograd.gradcheck(f, tensors, fast_mode=True)
        assert torch.autograd.gradgradcheck(f, tensors, fast_mode=True)


@pytest.mark.parametrize("backend", OURS)
def test_gradients_of_some_arguments(backend):
    with using(backend) as device:
        tensors = operands((3, 4), (3, 3), 1, dtype=torch.float32, device=device)
        for i in range(3):
            leaves = [t.clone() for t in tensors]
            leaves[i].requires_grad_()
            (grad,) = torch.autograd.grad(conv_transpose2d(*leaves, 2).square().sum(), leaves[i])
            (other,) = torch.autograd.grad(F.conv_transpose2d(*leaves, 2).square().sum(), leaves[i])
            torch.testing.assert_close(grad, other)


@pytest.mark.parametrize("backend", BACKENDS)
def test_empty_batch(backend):
    with using(backend) as device:
        x, weight, bias = operands((3, 4), (3, 3), 1, dtype=torch.float32, device=device)
        y, (dx, dweight, dbias) = gradients(functools.partial(conv_transpose2d, stride=2), (x[:0], weight, bias))
        assert y.shape == (0, 3, 7, 9) and dx.shape == (0, 4, 3, 4)
        assert dweight.shape == weight.shape and not dweight.any() and not dbias.any()


@pytest.mark.parametrize("backend", BACKENDS)
def test_nan_spreads_as_in_stock(backend):
    with using(backend) as device:
        x, weight, bias = operands((3, 4), (3, 3), 1, dtype=torch.float32, device=device)
        x[0, 1, 1, 2] = float("nan")
        ours, stock = conv_transpose2d(x, weight, bias, 2, 1, 1), F.conv_transpose2d(x, weight, bias, 2, 1, 1)
        assert torch.equal(ours.isnan(), stock.isnan())


@pytest.mark.parametrize("backend", BACKENDS)
def test_output_size(backend):
    """k3 s2 p1 on 6x6 reaches 11 to 12; k2 s3 p1 reaches 15 to 17 on 6x6, and 12 is refused."""
    with using(backend) as device:
        x = draw((1, 2, 6, 6), dtype=torch.float32, device=device)
        weight = draw((2, 3, 3, 3), dtype=torch.float32, device=device)
        stock = torch.nn.ConvTranspose2d(2, 3, 3, 2, 1, bias=False).to(device)
        stock.weight.data.copy_(weight)
        for size in ((11, 11), (12, 12), (11, 12), [12, 11], (1, 3, 12, 12)):
            y = conv_transpose2d(x, weight, None, 2, 1, output_size=size)
            torch.testing.assert_close(y, stock(x, output_size=list(size)))
        assert conv_transpose2d(x[0], weight, None, 2, 1, output_size=(3, 12, 12)).shape == (3, 12, 12)
        weight = draw((2, 3, 2, 2), dtype=torch.float32, device=device)
        for size in (15, 16, 17):
            assert conv_transpose2d(x, weight, None, 3, 1, output_size=(size, size)).shape == (1, 3, size, size)
        for size in (14, 18, 12):
            message = rf"output_size \({size}, {size}\).*6 x 6.*heights 15 to 17 and widths 15 to 17"
            with pytest.raises(ValueError, match=message):
                conv_transpose2d(x, weight, None, 3, 1, output_size=(size, size))


@pytest.mark.parametrize("backend", OURS)
def test_repeatable_and_retained(backend):
    with using(backend) as device:
        x, weight, bias = operands((5, 4), (4, 4), 1, dtype=torch.float32, device=device)
        leaves = [t.requires_grad_() for t in (x, weight, bias)]
        y = conv_transpose2d(*leaves, 2, 1)
        first = torch.autograd.grad(y.sum(), leaves, retain_graph=True)
        assert_same(first, torch.autograd.grad(y.sum(), leaves))
        with torch.inference_mode():
            assert torch.equal(conv_transpose2d(*leaves, 2, 1), y)


@pytest.mark.parametrize("backend", OURS)
def test_backward_under_autocast_keeps_the_forward_precision(backend):
    """A gradient taken inside an autocast region (as a gradient penalty is) does not fall to bfloat16."""
    with using(backend) as device:
        x, weight, bias = operands((5, 4), (3, 3), 1, dtype=torch.float32, device=device)
        x.requires_grad_()
        y = conv_transpose2d(x, weight, bias, 2)
        (expected,) = torch.autograd.grad(y.sum(), x, retain_graph=True)
        with torch.autocast(device, dtype=torch.bfloat16):
            (dx,) = torch.autograd.grad(y.sum(), x)
        assert_same((dx,), (expected,))


@pytest.mark.parametrize("backend", OURS)
def test_third_order(backend):
    """The gradients of T, D and W are T, D and W: every order is right, also through the activation. (Stock torch
    refuses the third order where there is an output_padding.)"""
    with using(backend, torch.float64) as device:
        tensors = operands((2, 3), (3, 3), 1, device=device)

        def third(function):
            leaves = [t.clone().requires_grad_() for t in tensors[:2]]
            y = function(*leaves, tensors[2])
            first = torch.autograd.grad(y.pow(3).sum(), leaves, create_graph=True)
            second = torch.autograd.grad(sum(g.pow(2).sum() for g in first), leaves, create_graph=True)
            return torch.autograd.grad(sum(g.sum() for g in second), leaves)

        arguments = {"stride": (2, 2), "padding": (1, 1), "output_padding": (1, 1), "groups": 1, "dilation": (1, 1)}
        ours = third(functools.partial(conv_transpose2d, activation="leaky_relu", **arguments))
        stock = third(lambda *t: F.leaky_relu(zero_insertion(*t, **arguments), 0.2))
        for a, b in zip(ours, stock, strict=True):
            torch.testing.assert_close(a, b)


def test_a_forced_backend_computes_every_pass():
    """Measurement chooses who computes which pass, but never against a forced backend, and not for float64."""
    for x, expected in (
        (torch.empty(1, 64, 32, 32), ("cpp", "cpp", "cpp")),
        (torch.empty(1, 64, 32, 32).to(memory_format=torch.channels_last), ("reference", "reference", "cpp")),
        (torch.empty(1, 64, 7, 7), ("reference", "reference", "reference")),
        (torch.empty(32, 64, 7, 7), ("cpp", "reference", "reference")),
        (torch.empty(32, 64, 7, 7, dtype=torch.bfloat16), ("cpp", "cpp", "cpp")),
        (torch.empty(128, 64, 7, 7), ("cpp", "reference", "reference")),
        (torch.empty(1, 64, 7, 7, dtype=torch.float64), ("cpp", "cpp", "cpp")),
    ):
        weight = torch.empty(64, 64, 3, 3, dtype=x.dtype)
        for name, passes in (("auto", expected), ("cpp", ("cpp", "cpp", "cpp"))):
            with fastgan.backend(conv_transpose2d=name):
                asked = _dispatch.forced("conv_transpose2d")
                assert OP["cpp"].passes(_dispatch.Call("cpu", x.dtype, asked, x, weight)) == passes


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_activations(backend, activation):
    with using(backend) as device:
        x, weight, bias = operands((5, 4), (3, 3), 1, "nhwc", torch.float32, device)
        x[0, 1, 1, 2] = float("nan")
        y = conv_transpose2d(x, weight, bias, 2, activation=activation, negative_slope=0.3)
        expected = activate(F.conv_transpose2d(x, weight, bias, 2), activation, 0.3)
        torch.testing.assert_close(y, expected, equal_nan=True)


@pytest.mark.parametrize("backend", OURS)
def test_mixed_dtypes_are_refused_as_in_stock(backend):
    x, weight, bias = operands((3, 4), (3, 3), 1, dtype=torch.float32)
    with using(backend), pytest.raises(RuntimeError, match="cannot serve this call: weight is torch.float64"):
        conv_transpose2d(x, weight.double(), bias)
    with pytest.raises(RuntimeError, match="type"):
        conv_transpose2d(x, weight.double(), bias)


@pytest.mark.parametrize("backend", OURS)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("layout", ["nchw", "nhwc"])
def test_nothing_beside_an_image_is_read(backend, dtype, layout):
    """Whole pairs of bfloat16 channels are multiplied at once: a group of an odd number of them ends within a pair, and
    what lies there, of the next group or behind the tensor, may not be a number."""
    with using(backend, dtype) as device:
        for channels, groups, kernel in (
            (1, 2, (3, 2)), (1, 2, (1, 1)), (3, 1, (3, 3)), (3, 3, (2, 3)), (5, 2, (1, 3)),
        ):  # fmt: skip
            geometry = {"stride": 2, "padding": 1, "output_padding": 1, "groups": groups}
            shape, weight_shape = (1, channels * groups, 5, 3), (channels * groups, channels, *kernel)
            weight = draw(weight_shape, dtype=dtype, device=device, seed=1)
            x = beside_nothing(draw(shape, layout, dtype=dtype, device=device))
            size = F.conv_transpose2d(x, weight, None, **geometry).shape
            dy = beside_nothing(draw(size, layout, dtype=dtype, device=device))
            y, grads = gradients(lambda *t: conv_transpose2d(*t, **geometry), (x, weight), dy)
            exact, exact_grads = gradients(
                lambda *t: F.conv_transpose2d(*t, **geometry), (x.double(), weight.double()), dy.double()
            )
            for name, ours, right in zip(("y", *NAMES), (y, *grads), (exact, *exact_grads)):
                assert_accurate(ours, right.to(dtype), right, name, scale=8 * right.abs().max().item())
            x[:, :channels] = float("nan")  # the other groups do not see the first
            if groups > 1 and backend != "plain":  # torch's, which multiplies them in pairs of bfloat16
                assert not conv_transpose2d(x, weight, **geometry)[:, channels:].isnan().any()


def beside_nothing(x: Tensor) -> Tensor:
    """A copy between two numbers that are none, in the layout of x."""
    edge = torch.full((1,), float("nan"), dtype=x.dtype, device=x.device)
    last = dense_layout(x) == "nhwc"
    flat = (x.permute(0, 2, 3, 1) if last else x).flatten()
    whole = torch.cat([edge, flat, edge])[1:-1]
    n, c, h, w = x.shape
    return whole.view(n, h, w, c).permute(0, 3, 1, 2) if last else whole.view(n, c, h, w)
