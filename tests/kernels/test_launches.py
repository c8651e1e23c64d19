"""The launchers as launches: repeatable to the bit, on the current stream and device, fit for a CUDA graph."""

import pytest
import torch

from fastgan.kernels import batch_norm, instance_norm, losses, reflection_pad, reflection_pad_conv2d
from fastgan.kernels._common import shape_of_moments

from . import oracle

LAYOUTS = pytest.mark.parametrize("layout", ("nchw", "nhwc"))
HOW = ((1, 1), (1, 1), (1, 1), "tf32")


def operands(layout, dtype, device, seed=0):
    """x, dy, weight, a value per channel, mean and rstd per plane and per channel; small ones for the interpreter."""
    channels, side = (64, 64) if device.type == "cuda" else (5, 4)
    generator = torch.Generator().manual_seed(seed)

    def draw(*shape):
        tensor = torch.randn(shape, generator=generator).to(device, dtype)
        return tensor.contiguous(memory_format=oracle.FORMATS[layout]) if len(shape) == 4 else tensor

    x, dy, weight = draw(2, channels, side, side), draw(2, channels, side, side), draw(channels, channels, 3, 3)
    statistics = [t.contiguous() for t in torch.randn((4, 2, channels), generator=generator).abs().to(device)]
    return [x, dy, weight, draw(channels), statistics[0], statistics[1], statistics[2][0], statistics[3][0]]


def norm_forward(x, dy, weight, each, *_):
    return instance_norm.forward(x, each, each, dy, 1e-5, "relu", 0.0, 1)


def norm_backward(x, dy, weight, each, mean, rstd, *_):
    return instance_norm.backward(dy, x, mean, rstd, each, each, "leaky_relu", 0.2, 0, False)[:3]


def residual_backward(x, dy, weight, each, mean, rstd, *_):
    """Gradients of a halo'd output and of its inside."""
    wide = reflection_pad.forward(dy, 1, 1, 1, 1)
    return instance_norm.backward(wide, x, mean, rstd, each, each, "none", 0.2, 1, True, dy_interior=dy)


def batch_forward(x, dy, weight, each, *_):
    return batch_norm.forward(x, each, each, 1e-5, "relu", 0.0)


def batch_apply(x, dy, weight, each, _mean, _rstd, mean, rstd):
    return (batch_norm.apply(x, mean, rstd, each, each, "relu", 0.0),)


def batch_backward(x, dy, weight, each, _mean, _rstd, mean, rstd):
    return [
        t
        for training in (True, False)
        for t in batch_norm.backward(dy, x, mean, rstd, each, each, "relu", 0.0, training)
    ]


def padding(x, dy, *_):
    return reflection_pad.forward(x, 1, 2, 3, 0), reflection_pad.backward(dy, 1, 1, 1, 0)


def convolution(x, dy, weight, each, *_):
    nhwc = weight.is_contiguous(memory_format=torch.channels_last)
    return (
        reflection_pad_conv2d.forward(x, weight, each, *HOW),
        reflection_pad_conv2d.input_gradient(dy, weight, x.shape[2:], *HOW, nhwc),
        reflection_pad_conv2d.weight_gradient(dy, x, weight.shape[2:], *HOW, nhwc),
    )


def convolution_and_norm(x, dy, weight, each, *_):
    """The norm takes the convolution's moments; with tiles of 16 pixels, which the interpreter's small image has."""
    batch, channels, height, width = x.shape
    layout = "nchw" if x.is_contiguous() else "nhwc"
    config = None
    if x.device.type == "cpu":
        config = reflection_pad_conv2d.Config("tile", 16, 16, 16, 1, 1)
    g = reflection_pad_conv2d.geometry(x.shape, weight.shape, *HOW[:3])
    part = reflection_pad_conv2d.part_of_moments(layout, g, x.element_size(), HOW[3], config)
    shape = shape_of_moments(layout, batch, height * width // part, channels)
    moments = torch.empty(shape, dtype=torch.float32, device=x.device)
    y = reflection_pad_conv2d.forward(x, weight, each, *HOW, config, moments)
    return y, moments, *instance_norm.forward(y, each, each, None, 1e-5, "relu", 0.0, 1, moments=moments)


def last_convolution(x, dy, weight, each, *_):
    """To three channels."""
    format = oracle.FORMATS["nchw" if x.is_contiguous() else "nhwc"]
    dy, weight = dy[:, :3].contiguous(memory_format=format), weight[:3].contiguous(memory_format=format)
    return convolution(x, dy, weight, each[:3])


def pointwise_losses(x, dy, *_):
    kinds = ("l1", "mse", "bce")
    return [t for kind in kinds for t in losses.forward(x, dy if kind == "l1" else None, 0.9, kind, "mean", True)]


CALLS = (norm_forward, norm_backward, residual_backward, batch_forward, batch_apply, batch_backward, padding,
         convolution, convolution_and_norm, last_convolution, pointwise_losses)  # fmt: skip
CALL = pytest.mark.parametrize("call", CALLS, ids=lambda call: call.__name__)


def equal(results, expected):
    return len(results) == len(expected) and all(torch.equal(a, b) for a, b in zip(results, expected))


@LAYOUTS
@CALL
def test_repeats_bitwise(call, layout, device):
    tensors = operands(layout, torch.float32, device)
    first = [t.clone() for t in call(*tensors)]
    for _ in range(4 if device.type == "cuda" else 1):
        assert equal(call(*tensors), first)


@pytest.fixture
def cuda(device):
    if device.type != "cuda":
        pytest.skip("needs a GPU")
    return device


@LAYOUTS
@CALL
def test_is_captured_in_a_graph(call, layout, cuda):
    """No launcher waits for the device, allocates outside torch or decides by values: replays follow their inputs."""
    static = operands(layout, torch.bfloat16, cuda)
    call(*static)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        captured = call(*static)
    for seed in (1, 2):
        fresh = operands(layout, torch.bfloat16, cuda, seed)
        for target, source in zip(static, fresh):
            target.copy_(source)
        graph.replay()
        assert equal(captured, call(*fresh))


@CALL
def test_runs_on_the_current_stream(call, cuda):
    """The inputs are ready late on a side stream: kernels of another stream would read them too early."""
    tensors = operands("nhwc", torch.bfloat16, cuda)
    expected = call(*tensors)
    late = [torch.zeros_like(t) for t in tensors]
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        torch.cuda._sleep(50_000_000)
        for target, source in zip(late, tensors):
            target.copy_(source)
        actual = call(*late)
    torch.cuda.current_stream().wait_stream(stream)
    assert equal(actual, expected)


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two CUDA devices")
@CALL
def test_runs_on_the_device_of_its_input(call):
    expected = call(*operands("nhwc", torch.bfloat16, torch.device("cuda", 0)))
    with torch.cuda.device(0):
        actual = call(*operands("nhwc", torch.bfloat16, torch.device("cuda", 1)))
        assert torch.cuda.current_device() == 0
    assert all(t.device.index == 1 for t in actual) and equal([t.cpu() for t in actual], [t.cpu() for t in expected])
