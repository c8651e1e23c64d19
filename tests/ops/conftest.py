"""Registers tests/ops/plain.py as the backend "plain" while the tests of the ops run; counts torch's samples."""

import pytest
import torch

from fastgan.ops import _dispatch

from . import plain


class Plain(_dispatch.Backend):
    name = "plain"

    def refuses(self, call):
        served = call.asked == "plain" and call.device == "cpu"
        return "" if served else "plain torch launchers for tests on the CPU"


@pytest.fixture(autouse=True, scope="module")
def plain_backend():
    launchers = {
        "batch_norm": lambda: plain.batch_norm,
        "instance_norm": lambda: plain.instance_norm,
        "reflection_pad2d": lambda: plain.reflection_pad,
        "reflection_pad_conv2d": lambda: plain.reflection_pad_conv2d,
        "conv_transpose2d": lambda: _dispatch.OPS["conv_transpose2d"]["reference"].launchers,
        **dict.fromkeys(("l1_loss", "mse_loss", "bce_with_logits"), lambda: plain.losses),
    }
    with pytest.MonkeyPatch.context() as patch:
        for name, load in launchers.items():
            op = _dispatch.OPS[name]
            patch.setattr(op, "backends", (*op.backends[:-1], Plain(load), op.backends[-1]))
        yield


@pytest.fixture(autouse=True, scope="module")
def full_precision():
    """Convolutions of float32 in float32 on a GPU: theirs and ours then round alike, whichever uses tensor cores."""
    # The context manager: torch's own test material forbids to assign the flag.
    with torch.backends.cudnn.flags(enabled=torch.backends.cudnn.enabled, allow_tf32=False):
        yield


@pytest.fixture
def torch_samples(request):
    """A function that adds to the table of torch's samples that the run prints (tests/conftest.py)."""

    def add(suite, name, device, compared, left):
        request.node.user_properties.append(("torch's samples", (suite, name, device, compared, left)))

    return add
