"""l1_loss, mse_loss and bce_with_logits (means), against torch's; labels as the GANs use them.

Ours finds value and derivative in one pass, forward; so beside each direction the two together are timed.
"""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F

from fastgan import functional as fg

from .cases import OpCase, dtype_name, parameters, providers

IMAGE, PATCHES = (1, 3, 256, 256), (1, 1, 30, 30)


def _ones_like(x):
    """The label as a tensor without memory of its own, as GAN codes expand it."""
    return torch.ones((), device=x.device, dtype=x.dtype).expand_as(x)


LOSSES = {
    ("l1_loss", "tensor"): (F.l1_loss, fg.l1_loss),
    ("mse_loss", "tensor"): (F.mse_loss, fg.mse_loss),
    ("mse_loss", "label"): (lambda x: F.mse_loss(x, _ones_like(x)), lambda x: fg.mse_loss(x, 1.0)),
    ("bce_with_logits", "tensor"): (F.binary_cross_entropy_with_logits, fg.bce_with_logits),
    ("bce_with_logits", "label"): (
        lambda x: F.binary_cross_entropy_with_logits(x, _ones_like(x)),
        lambda x: fg.bce_with_logits(x, 1.0),
    ),
}
CASES = [
    ("l1_loss", "tensor", IMAGE),
    ("mse_loss", "label", PATCHES),
    ("mse_loss", "tensor", IMAGE),
    ("bce_with_logits", "label", PATCHES),
    ("bce_with_logits", "tensor", IMAGE),
]
BATCH_16 = [(op, target, (16, *shape[1:])) for op, target, shape in CASES]
# Under autocast the losses are computed in float32.
DTYPES = [torch.float32, pytest.param(torch.bfloat16, marks=pytest.mark.full)]


@pytest.mark.parametrize("direction", ["forward", "backward", "both"])
@pytest.mark.parametrize("dtype", DTYPES, ids=dtype_name)
@pytest.mark.parametrize("op, target, shape", parameters(CASES, cuda=BATCH_16))
def test_losses(compare, device, op, target, shape, dtype, direction):
    def make():
        x = torch.randn(shape, device=device, dtype=dtype)
        return (x, torch.rand(shape, device=device, dtype=dtype)) if target == "tensor" else (x,)

    eager, ours = LOSSES[op, target]
    # One pass reads input and target (and writes the input's gradient, if gradients are wanted).
    passes = (2 if target == "tensor" else 1) + (direction != "forward")
    layouts = ("nchw", "channels_last") if shape[1] > 1 else ("nchw",)
    compare(
        OpCase(
            op,
            target,
            shape,
            dtype,
            direction,
            device,
            make,
            providers(eager, ours, layouts=layouts),
            bytes_moved=passes * math.prod(shape) * dtype.itemsize,
        )
    )
