"""batch_norm with its activation, against torch's layers one after the other."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F

from fastgan import functional as fg

from .cases import DIRECTIONS, DTYPES, OpCase, away_from_ties, dtype_name, parameters, providers


def running(x):
    """Running statistics (mean, variance) to update or to use, as a layer has them: float32 beside low precision."""
    dtype = torch.promote_types(x.dtype, torch.float32)
    return torch.zeros(x.shape[1], dtype=dtype, device=x.device), torch.ones(x.shape[1], dtype=dtype, device=x.device)


def variant(training: bool, activation: str, slope: float = 0.2) -> list:
    def norm(x, w, b):
        return F.batch_norm(x, *running(x), w, b, training)

    def eager(x, w, b):
        return F.relu(norm(x, w, b)) if activation == "relu" else F.leaky_relu(norm(x, w, b), slope)

    def in_place(x, w, b):
        y = norm(x, w, b)
        return F.relu(y, inplace=True) if activation == "relu" else F.leaky_relu(y, slope, inplace=True)

    def ours(x, w, b):
        return fg.batch_norm(x, *running(x), w, b, training, activation=activation, negative_slope=slope)

    return providers(eager=eager, in_place=in_place, ours=ours)


VARIANTS = {
    "relu": variant(True, "relu"),
    "leaky_relu": variant(True, "leaky_relu"),
    "relu, evaluation": variant(False, "relu"),
}
# The discriminator of DCGAN on digits (convolutions, then a linear layer), the encoder of the VAE, PatchGAN and U-Net
# at batch 1. Small ones are torch's own, see fastgan.ops.batch_norm.
CASES = [
    ("relu", (128, 64, 26, 26)),
    ("relu", (128, 1024, 1, 1)),
    ("leaky_relu", (128, 16, 14, 14)),
    ("leaky_relu", (1, 128, 64, 64)),
    ("leaky_relu", (1, 512, 16, 16)),
]
FULL = [
    ("relu", (128, 128, 11, 11)),
    ("leaky_relu", (128, 32, 7, 7)),
    ("relu", (1, 64, 128, 128)),
    ("leaky_relu", (1, 256, 32, 32)),
    ("leaky_relu", (1, 512, 8, 8)),
    ("relu, evaluation", (128, 64, 26, 26)),
    ("relu, evaluation", (1, 128, 64, 64)),
]
BATCH_16 = [("leaky_relu", (16, 128, 64, 64))]


@pytest.mark.parametrize("direction", DIRECTIONS)
@pytest.mark.parametrize("dtype", DTYPES, ids=dtype_name)
@pytest.mark.parametrize("name, shape", parameters(CASES, full=FULL, cuda=BATCH_16))
def test_batch_norm(compare, device, name, shape, dtype, direction):
    def make():
        x = away_from_ties(torch.randn(shape, device=device, dtype=dtype), over=(0, 2, 3))
        weight = torch.ones(shape[1], device=device)
        return x, weight, torch.zeros_like(weight)

    # Forward reads x and writes y; backward reads x and dy and writes dx.
    passes = 2 if direction == "forward" else 3
    compare(
        OpCase(
            "batch_norm", name, shape, dtype, direction, device, make, VARIANTS[name],
            bytes_moved=passes * math.prod(shape) * dtype.itemsize, leaves=3,
        )
    )  # fmt: skip
