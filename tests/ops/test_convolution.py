"""What is handed to torch's convolutions: any strides, kernels that meet no pixel, small calls, against float64."""

import itertools
import subprocess
import sys

import hypothesis
import hypothesis.strategies as st
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

import fastgan
from fastgan import functional as ours

from .common import draw

LAST = torch.channels_last
STRIDES = ("nchw", "nhwc", "hwc", "interior", "sliced", "expanded", "transposed", "offset", "odd", "tagged")


def reflected(x, weight, bias, stride, padding, dilation, groups):
    padded = F.pad(x, (padding[1], padding[1], padding[0], padding[0]), mode="reflect")
    return F.conv2d(padded, weight, bias, stride, 0, dilation, groups)


OPS = {
    "conv2d": (ours.conv2d, F.conv2d),
    "conv_transpose2d": (ours.conv_transpose2d, F.conv_transpose2d),
    "reflection_pad_conv2d": (ours.reflection_pad_conv2d, reflected),
}
OP = pytest.mark.parametrize("op", OPS)
PADS_ZEROS = pytest.mark.parametrize("op", ["conv2d", "conv_transpose2d"])
BACKENDS = pytest.mark.parametrize("backend", ["auto", "reference"])


def laid_out(shape, strides: str, dtype: torch.dtype, seed: int) -> Tensor:
    """A random tensor with strides as views have them; dimensions of size 1 may have any."""
    if strides == "hwc":
        return draw(shape, dtype=dtype, seed=seed).permute(0, 2, 3, 1).contiguous().permute(0, 3, 1, 2)
    if strides == "offset":
        return torch.cat([torch.full((3,), float("nan"), dtype=dtype), draw(shape, dtype=dtype, seed=seed).flatten()])[
            3:
        ].view(shape)
    if strides in ("odd", "tagged"):
        x = draw(shape, ("nchw", "nhwc")[seed % 2], dtype=dtype, seed=seed)
        if strides == "tagged":
            return x.to(memory_format=LAST)
        return x.as_strided(shape, [s if size > 1 else 7 for size, s in zip(x.shape, x.stride())])
    return draw(shape, strides, dtype=dtype, seed=seed)


def both_orders(function, tensors, how, absolute=False) -> list[Tensor]:
    """y, its gradients, and the gradients of products of those with further tensors."""
    x, weight, bias, dy = (t.detach().requires_grad_() for t in tensors)
    y = function(x, weight, bias, *how)
    first = torch.autograd.grad(y, (x, weight, bias), dy, create_graph=True)
    directions = [draw(g.shape, dtype=g.dtype, seed=9) for g in first[:2]]
    directions = [u.abs() for u in directions] if absolute else directions
    second = torch.autograd.grad(first[:2], (x, weight, dy), directions, allow_unused=True)
    return [y, *first, *(g if g is not None else torch.zeros_like(t) for g, t in zip(second, (x, weight, dy)))]


NAMES = ("y", "dx", "dweight", "dbias", "second dx", "second dweight", "second ddy")


def check(op, tensors, how) -> None:
    """Every result within 16 roundings of the sum of the sizes of its terms (2 where sums are taken in float32)."""
    mine, stock = OPS[op]
    wide = [t.double().contiguous() for t in tensors]
    exact = both_orders(stock, wide, how)
    sizes = both_orders(stock, [t.abs() for t in wide], how, absolute=True)
    dtype = tensors[0].dtype
    for name, a, b, size in zip(NAMES, both_orders(mine, tensors, how), exact, sizes, strict=True):
        assert a.shape == b.shape and a.dtype == dtype, name
        roundings = 2 if dtype in (torch.bfloat16, torch.float16) else 16
        bound = roundings * torch.finfo(dtype).eps * size.max().item()
        assert (a.double() - b).abs().max() <= bound, f"{name}: {(a.double() - b).abs().max():.3g} against {bound:.3g}"


def output_size(op, size, kernel, stride, padding, dilation):
    if op == "conv_transpose2d":
        return [(size[i] - 1) * stride[i] - 2 * padding[i] + dilation[i] * (kernel[i] - 1) + 1 for i in (0, 1)]
    return [(size[i] + 2 * padding[i] - dilation[i] * (kernel[i] - 1) - 1) // stride[i] + 1 for i in (0, 1)]


pairs = lambda *values: st.tuples(st.sampled_from(values), st.sampled_from(values))  # noqa: E731


@OP
@BACKENDS
@hypothesis.given(
    size=pairs(1, 1, 2, 3, 5, 8),
    channels=st.sampled_from(((1, 1), (3, 2), (2, 4), (16, 8), (32, 1), (34, 4))),
    kernel=pairs(1, 2, 3, 4, 7),
    stride=pairs(1, 1, 2, 3, 4),
    padding=pairs(0, 1, 2, 3),
    dilation=pairs(1, 1, 2),
    groups=st.sampled_from((1, 1, 2)),
    strides=st.tuples(*[st.sampled_from(STRIDES)] * 3),
    dtype=st.sampled_from((torch.float32, torch.bfloat16, torch.float16, torch.float64)),
)
def test_any_strides(op, backend, size, channels, kernel, stride, padding, dilation, groups, strides, dtype):
    c, o = (each * groups for each in channels)
    if op == "reflection_pad_conv2d":
        padding = tuple(min(p, s - 1) for p, s in zip(padding, size))
    out = output_size(op, size, kernel, stride, padding, dilation)
    hypothesis.assume(min(out) >= 1)
    rows = (c, o // groups) if op == "conv_transpose2d" else (o, c // groups)
    shapes = ((2, c, *size), (*rows, *kernel), (2, o, *out))
    x, weight, dy = (laid_out(shape, s, dtype, seed) for seed, (shape, s) in enumerate(zip(shapes, strides)))
    bias = draw((2 * o,), dtype=dtype, seed=4)[::2]
    how = (stride, padding, dilation, groups)
    if op == "conv_transpose2d":
        how = (stride, padding, (0, 0), groups, dilation)
    with fastgan.backend(**{op: backend}):
        check(op, (x, weight, bias, dy), how)


THIN = (  # of the image of a convolution: size, kernel, stride, padding, where a tap or all of them meet no pixel ...
    ((2, 1), 3, 2, 1), ((1, 1), 5, 2, 2), ((4, 1), 3, (4, 2), (0, 1)), ((1, 1), 3, 1, 1), ((3, 2), (7, 5), (2, 4), 3),
    ((4, 3), (3, 2), (1, 4), 1), ((2, 2), 4, 2, 1), ((5, 1), 1, (1, 4), (0, 3)),
    # ... and where a stride leads to an output of width 1
    ((2, 2), 2, (1, 3), 0), ((5, 3), (5, 3), (1, 4), (2, 0)), ((4, 4), (2, 4), (1, 3), 0),
)  # fmt: skip


def fill_freed_memory(dtype):
    """What is allocated next finds numbers that no sum hides."""
    kept = [torch.full((2**i,), 1e4, dtype=dtype) for i in range(4, 15) for _ in range(3)]
    del kept


@PADS_ZEROS
@BACKENDS
@pytest.mark.parametrize("layout", ["nchw", "nhwc"])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32], ids=str)
def test_kernels_that_meet_no_pixel(op, backend, layout, dtype):
    """The gradient of such taps is 0, and not what the memory held."""
    for (size, kernel, stride, padding), channels in itertools.product(THIN, ((32, 2), (8, 64), (4, 1), (1, 4))):
        kernel, stride, padding = ((v, v) if isinstance(v, int) else v for v in (kernel, stride, padding))
        out = output_size("conv2d", size, kernel, stride, padding, (1, 1))
        rest = tuple((size[i] + 2 * padding[i] - kernel[i]) % stride[i] for i in (0, 1))
        if op == "conv_transpose2d":
            size, out, how = out, size, (stride, padding, rest)
        else:
            how = (stride, padding)
        rows = channels if op == "conv_transpose2d" else channels[::-1]
        x = draw((2, channels[0], *size), layout, dtype=dtype)
        weight = draw((*rows, *kernel), layout, dtype=dtype, seed=1)
        bias, dy = draw((channels[1],), dtype=dtype, seed=2), draw((2, channels[1], *out), layout, dtype=dtype, seed=3)
        tensors = x, weight, bias, dy
        for _ in range(3):
            fill_freed_memory(dtype)
            with fastgan.backend(**{op: backend}):
                check(op, tensors, how)


def test_no_geometry_ends_the_process():
    """All columns of the kernel beside the image, with and without transposed kernels: in a process of its own."""
    code = """
import itertools, torch, fastgan.functional as F
LAST = torch.channels_last
for (kernel, stride, padding, dilation), dtype, seed in itertools.product(
    (((3, 1), (1, 4), (3, 2), (2, 3)), ((1, 1), (1, 4), (0, 3), (3, 2)), ((1, 1), (4, 4), (2, 3), (3, 3)),
     ((3, 1), (1, 2), (1, 1), (1, 1))), (torch.float32, torch.bfloat16), range(3)):
    x = torch.randn(3, 16, 7, 1, dtype=dtype).contiguous(memory_format=LAST).requires_grad_()
    weight = torch.randn(4, 16, *kernel[::-1], dtype=dtype).transpose(2, 3).requires_grad_()
    for w in (weight, weight.detach().contiguous(memory_format=LAST).requires_grad_()):
        y = F.conv2d(x, w, None, stride, padding, dilation)
        y.sum().backward()
        assert not y.any() and not x.grad.any() and not w.grad.any()
print("ended")
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout == "ended\n", (done.returncode, done.stderr)


@BACKENDS
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_weight_gradients_of_dilated_kernels(dtype, backend):
    """In channels_last, of odd numbers of channels and columns among others: every element is written."""
    for op, kernel, dilation, channels, outputs, size in itertools.product(
        ("conv2d", "reflection_pad_conv2d", "conv_transpose2d"),
        ((2, 2), (1, 3)),
        ((2, 2), (2, 1)),
        (33, 5),
        (2, 16),
        ((10, 31), (9, 12)),
    ):
        shape = (channels, outputs) if op == "conv_transpose2d" else (outputs, channels)
        x, weight = (
            draw((1, channels, *size), "nhwc", dtype=dtype),
            draw((*shape, *kernel), "nhwc", dtype=dtype, seed=1),
        )
        how = dict(output_padding=0, groups=1) if op == "conv_transpose2d" else {}
        gradients = []
        for function, kind in ((getattr(ours, op), dtype), (STOCK[op], torch.float64)):
            w = weight.to(kind).requires_grad_()
            with fastgan.backend(**({op: backend} if function is not STOCK[op] else {})):
                y = function(x.to(kind), w, None, 1, 0, dilation=dilation, **how)
                v = draw(tuple(y.shape), dtype=dtype, seed=2).to(kind)
                gradients.append(torch.autograd.grad(y, w, v)[0])
        error = (gradients[0].double() - gradients[1]).abs().max()
        assert error < 4 * torch.finfo(dtype).eps * gradients[1].abs().max(), (op, kernel, dilation, channels, outputs)


STOCK = {"conv2d": F.conv2d, "reflection_pad_conv2d": F.conv2d, "conv_transpose2d": F.conv_transpose2d}


@OP
@BACKENDS
@pytest.mark.parametrize("size", [7, 40])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64], ids=str)
def test_the_image_has_the_layout(op, backend, size, dtype):
    """Not the weight, and for few and many elements alike."""
    with fastgan.backend(**{op: backend}):
        for image, weights in itertools.product(("nchw", "nhwc"), ("nchw", "nhwc")):
            x, weight = draw((2, 4, size, size), image, dtype=dtype), draw((4, 4, 3, 3), weights, dtype=dtype)
            y = OPS[op][0](x, weight, None, 1, 1)
            assert y.is_contiguous(memory_format=LAST if image == "nhwc" else torch.contiguous_format)


@OP
def test_few_and_many_elements_are_refused_alike(op):
    """The same arguments, by the same kind of error."""

    def errors(size):
        x, weight = draw((1, 4, size, size), dtype=torch.float32), draw((4, 4, 3, 3), dtype=torch.float32)
        bias = torch.ones(4)
        for arguments in (
            (x[:, :3], weight), (x, weight[..., 0]), (x, weight, bias[:3]), (x, weight.double()), (x, weight, None, 0),
            (x, weight, None, -1), (x, weight, None, 1, -1), (x, weight, None, 1.5), (x, weight, None, (1, 1, 1)),
            (x[0, 0], weight), (x.to("meta"), weight), (x, weight, bias.to("meta")), (x.int(), weight),
        ):  # fmt: skip
            with pytest.raises((RuntimeError, ValueError)) as caught:
                OPS[op][0](*arguments)
            yield caught.type

    assert list(errors(7)) == list(errors(70))


@PADS_ZEROS
def test_the_third_order_of_a_small_call(op):
    """Small calls go to torch itself: as far as ours are differentiable, so are they."""
    mine, stock = OPS[op]

    def third(function, dtype):
        leaves = [draw(shape, dtype=dtype).requires_grad_() for shape in ((1, 2, 5, 6), (2, 2, 3, 3))]
        y = function(*leaves, None, 2, 1)
        first = torch.autograd.grad(y.pow(3).sum(), leaves, create_graph=True)
        second = torch.autograd.grad(sum(g.pow(2).sum() for g in first), leaves, create_graph=True)
        return torch.autograd.grad(sum(g.sum() for g in second), leaves)

    for a, b in zip(third(mine, torch.float32), third(stock, torch.float64)):
        assert (a.double() - b).norm() <= 1e-4 * b.norm()
