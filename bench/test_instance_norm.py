"""instance_norm with what it fuses, against torch's layers one after the other."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F

from fastgan import functional as fg
from fastgan.ops import instance_norm

from .cases import DIRECTIONS, DTYPES, OpCase, away_from_ties, dtype_name, parameters, providers

# Blocks of the ResNet generator: downsampling and upsampling use relu; relu+halo and residual+halo are the trunk's two.
TRUNK, WIDE, MIDDLE = (1, 256, 64, 64), (1, 64, 256, 256), (1, 128, 128, 128)


def _pad(y):
    return F.pad(y, (1, 1, 1, 1), mode="reflect")


def with_halo(x, residual, activation):
    """The norm as blocks call it: with the reflected border that the next convolution needs."""
    return instance_norm.compute(x, None, None, residual, 1e-5, activation, 0.2, 1, False)[0]


VARIANTS = {
    "relu": providers(
        eager=lambda x: F.relu(F.instance_norm(x)),
        in_place=lambda x: F.relu(F.instance_norm(x), inplace=True),
        ours=lambda x: fg.instance_norm(x, activation="relu"),
    ),
    "relu+halo": providers(
        eager=lambda x: _pad(F.relu(F.instance_norm(x))),
        in_place=lambda x: _pad(F.relu(F.instance_norm(x), inplace=True)),
        ours=lambda x: with_halo(x, None, "relu"),
    ),
    "residual+halo": providers(
        eager=lambda x, r: _pad(r + F.instance_norm(x)),
        ours=lambda x, r: with_halo(x, r, "none"),
    ),
}
CASES = [("relu", TRUNK), ("relu", WIDE), ("relu+halo", TRUNK), ("residual+halo", TRUNK)]
FULL = [("relu", MIDDLE), ("relu+halo", WIDE)]
BATCH_16 = [(variant, (16, *shape[1:])) for variant, shape in CASES]


@pytest.mark.parametrize("direction", DIRECTIONS)
@pytest.mark.parametrize("dtype", DTYPES, ids=dtype_name)
@pytest.mark.parametrize("variant, shape", parameters(CASES, full=FULL, cuda=BATCH_16))
def test_instance_norm(compare, device, variant, shape, dtype, direction):
    def make():
        x = away_from_ties(torch.randn(shape, device=device, dtype=dtype))
        return (x, torch.randn_like(x)) if variant == "residual+halo" else (x,)

    pixels, halo = math.prod(shape), "halo" in variant
    padded = math.prod((*shape[:2], shape[2] + 2 * halo, shape[3] + 2 * halo))
    # Forward reads x (and the residual) and writes y; backward reads x and dy and writes dx (and, with a halo, the
    # gradient of the residual, which is dy folded).
    elements = padded + (3 if variant == "residual+halo" and direction == "backward" else 2) * pixels
    if direction == "forward" and variant != "residual+halo":
        elements -= pixels
    compare(
        OpCase(
            "instance_norm",
            variant,
            shape,
            dtype,
            direction,
            device,
            make,
            VARIANTS[variant],
            bytes_moved=elements * dtype.itemsize,
            leaves=2 if variant == "residual+halo" else 1,
        )
    )
