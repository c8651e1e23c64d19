"""One training step of each system: our recipe against its reference model in stock torch.

``-m compile`` adds torch.compile.
"""

from __future__ import annotations

import pytest
import torch

from .steps import StepCase
from .systems import COMPILED, COMPILED_ON_CUDA, EAGER, OURS, OURS_ON_CUDA, SYSTEMS, Variant

# System, side of the images, images in a batch: as the recipes have them, and CycleGAN by resolution and batch.
CASES = [
    ("cyclegan", 128, 1),
    ("pix2pix", 128, 1),
    ("dcgan", 28, 128),
    ("wgan_gp", 28, 64),
    ("vae", 28, 128),
]
LARGE = [("cyclegan", 256, 1)]
FULL_ON_CPU = [
    ("cyclegan", 64, 1), ("cyclegan", 128, 4), ("cyclegan", 128, 16), ("cyclegan", 256, 4), ("pix2pix", 256, 1),
]  # fmt: skip
CUDA = [("cyclegan", 256, 16), ("cyclegan", 512, 1), ("pix2pix", 256, 16)]
FULL, ON_CUDA = (pytest.mark.full("cpu"),), (pytest.mark.cuda,)


def parameters(*groups: tuple[list[tuple[str, int, int]], tuple[pytest.MarkDecorator, ...]]) -> list:
    return [
        pytest.param(system, size, count, id=f"{system}-{size}x{size}-batch{count}", marks=marks)
        for cases, marks in groups
        for system, size, count in cases
    ]


def ours(device: torch.device) -> tuple[Variant, ...]:
    return OURS + (OURS_ON_CUDA if device.type == "cuda" else ())


@pytest.mark.parametrize(
    "system, size, count",
    parameters((CASES, ()), (LARGE + FULL_ON_CPU, FULL), (CUDA, ON_CUDA)),
)
def test_step(compare, chosen, device, system, size, count):
    compare(StepCase(SYSTEMS[system], size, count, chosen(EAGER + ours(device)), device))


@pytest.mark.compile
@pytest.mark.parametrize(
    "system, size, count",
    parameters((CASES + LARGE, ()), (FULL_ON_CPU, FULL), (CUDA, ON_CUDA)),
)
def test_step_beside_compile(compare, chosen, device, system, size, count):
    compiled = COMPILED + (COMPILED_ON_CUDA if device.type == "cuda" else ())
    compare(StepCase(SYSTEMS[system], size, count, chosen(EAGER + compiled + ours(device)), device))
