"""A case is timed only if what it computes is right."""

import json

import pytest
import torch
import torch.nn.functional as F

from bench.cases import NHWC, OpCase, Served, away_from_ties, deviation, providers
from fastgan import functional as fg
from fastgan.ops import _dispatch


def case(ours, direction="forward", eager=F.relu, dtype=torch.float32):
    shape = (2, 3, 8, 8)
    return OpCase(
        "instance_norm",
        "relu",
        shape,
        dtype,
        direction,
        torch.device("cpu"),
        make=lambda: (torch.randn(shape, dtype=dtype),),
        providers=providers(eager, ours),
        bytes_moved=768,
    )


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("direction", ["forward", "backward", "both"])
def test_a_right_result_passes(direction, dtype):
    good = case(lambda x: torch.where(x > 0, x, 0), direction, dtype=dtype)
    good.check()
    assert set(good.errors) == {"eager nchw", "eager channels_last", "ours nchw", "ours channels_last"}


@pytest.mark.parametrize(
    "wrong",
    [
        lambda x: F.relu(x) * 1.001,
        lambda x: F.relu(x) + 1e-3,
        lambda x: F.relu(x)[..., 1:],
        lambda x: F.relu(x) * torch.nan,
    ],
    ids=["scaled", "shifted", "cropped", "nan"],
)
def test_a_wrong_forward_is_refused(wrong):
    refused = case(wrong)
    with pytest.raises(AssertionError, match="not timed, because the forward result is wrong"):
        refused.check()
    json.dumps(refused.describe(), allow_nan=False)


def test_a_wrong_backward_behind_a_right_forward_is_refused():
    class Wrong(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            return F.relu(x)

        @staticmethod
        def backward(ctx, dy):
            return dy

    case(Wrong.apply).check()
    with pytest.raises(AssertionError, match="not timed, because the backward result is wrong"):
        case(Wrong.apply, "backward").check()


@pytest.mark.parametrize("direction, tensors", [("forward", 1), ("backward", 1), ("both", 1)])
def test_runners_run_the_direction_in_the_layout_of_their_name(direction, tensors):
    seen = []

    def ours(x):
        seen.append(x.is_contiguous(memory_format=NHWC) and not x.is_contiguous())
        return F.relu(x)

    runners = case(ours, direction).runners()
    seen.clear()
    for _name, runner in runners.items():
        result = runner(0)
        result = result if isinstance(result, tuple) else (result,)
        assert len(result) == tensors and result[0].shape == (2, 3, 8, 8)
    assert seen == ([] if direction == "backward" else [False, True])
    first, second = runners["ours nchw"](0), runners["ours nchw"](1)
    assert not torch.equal(*(r[0] if isinstance(r, tuple) else r for r in (first, second))), "inputs are not rotated"


def test_backward_runs_again_and_again_on_its_prepared_graph():
    runner = case(F.relu, "backward").runners()["ours nchw"]
    assert torch.equal(runner(0)[0], runner(0)[0])


def test_no_element_is_left_near_its_planes_mean():
    x = away_from_ties(torch.randn(2, 4, 64, 64))
    assert (x - x.mean((2, 3), keepdim=True)).abs().min() > 1e-3


def test_deviation_is_relative_and_forgives_one_in_a_hundred_thousand():
    exact = torch.linspace(-2, 2, 200_001, dtype=torch.double)
    assert deviation(exact + 0.02, exact) == pytest.approx(0.01)
    flipped = exact.clone()
    flipped[7] = 9.0
    assert deviation(flipped, exact) == 0
    assert deviation(exact[1:], exact) == float("inf")


def convolution(channels, direction):
    shape = (1, channels, 24, 24)
    return OpCase(
        "reflection_pad_conv2d",
        "3x3",
        shape,
        torch.float32,
        direction,
        torch.device("cpu"),
        make=lambda: (torch.randn(shape), torch.randn(channels, channels, 3, 3) / channels, torch.randn(channels)),
        providers=providers(
            lambda x, w, b: F.conv2d(F.pad(x, (1,) * 4, mode="reflect"), w, b),
            lambda x, w, b: fg.reflection_pad_conv2d(x, w, b, padding=1),
        ),
        bytes_moved=1,
        leaves=3,
        times_eager=8,
    )


@pytest.mark.skipif(not _dispatch.EXTENSION_LOADED, reason="the choice is between kernels of the extension")
@pytest.mark.parametrize("direction", ["forward", "backward"])
def test_the_backend_is_the_one_that_served_these_shapes(direction):
    """At 24x24 Winograd is taken from 64 channels on; below, our padding and torch's convolution."""
    wide, narrow = convolution(64, direction), convolution(16, direction)
    for each in (wide, narrow):
        each.check()
    assert wide.describe()["backend"]["name"] == "winograd"
    assert "reflection_pad2d by cpp" in narrow.describe()["backend"]["name"]
    assert "winograd" not in narrow.describe()["backend"]["name"]


def test_what_stock_torch_computes_is_the_references():
    good = case(lambda x: F.relu(x))
    good.check()
    assert good.describe()["backend"]["name"] == "reference"


def test_the_backward_of_an_op_is_told_apart_from_its_forward():
    x = torch.randn(1, 2, 4, 4, requires_grad=True)
    with Served() as served:
        fg.instance_norm(x).sum().backward()
    backend = _dispatch.serving("instance_norm", "cpu", torch.float32)
    expected = {} if backend == "reference" else {"instance_norm": [backend], "instance_norm_backward": [backend]}
    assert served.backends == expected
