"""bf16 training stays where bf16 training of plain torch is: 200 steps of small networks on the built-in data.

Rounding alone parts two trainings of a GAN, so that a loss is compared through its means over 20 steps, and against
what the seed changes: eager bf16 runs from three seeds, which decide weights, data order and noise, part from each
other by the spread; ours must part from the eager run of the same seed by less, from every seed and in every loss.
"""

from __future__ import annotations

import itertools

import pytest
import torch
from torch import Tensor

from fastgan import recipes
from fastgan.data import DataOptions, open_dataset
from fastgan.training.data_order import BatchKeys
from fastgan.training.workers import loader

from .systems import SYSTEMS, Step, System, Variant, cyclegan_system, pix2pix_system

STEPS, WINDOW, SEEDS = 200, 20, (0, 1, 2)
EAGER, OURS = Variant("eager", "bf16", "nchw"), Variant("ours", "bf16", "channels_last")
# System, side of the images, images in a batch.
CASES = {
    "cyclegan": (cyclegan_system(6, ngf=8, ndf=8), 32, 1),
    "pix2pix": (pix2pix_system(ngf=8, ndf=8), 128, 1),
    "wgan_gp": (SYSTEMS["wgan_gp"], 12, 8),
    "vae": (SYSTEMS["vae"], 12, 32),
}


def means(
    system: System, size: int, count: int, variant: Variant, seed: int, device: torch.device
) -> dict[str, Tensor]:
    """Each loss of a training, averaged over every ``WINDOW`` steps (those that have it)."""
    step = Step(system, size, count, variant, device, seed)
    options = DataOptions(
        load_size=size + size // 8, crop_size=size, image_size=size, batch_size=count, max_dataset_size=400
    )
    dataset = open_dataset(recipes.get(system.name).data_kind, options, seed=seed)
    batches = loader(dataset, BatchKeys(len(dataset), count, seed, drop_last=True), 0)
    torch.manual_seed(seed)
    sums: list[dict[str, list[float]]] = []
    for number in range(STEPS):
        if number % WINDOW == 0:
            sums.append({})
        for name, loss in step.on(step.moved(next(batches))).items():
            sums[-1].setdefault(name, []).append(loss.item())
    return {name: torch.tensor([sum(window[name]) / len(window[name]) for window in sums]) for name in sums[-1]}


def apart(one: dict[str, Tensor], other: dict[str, Tensor]) -> dict[str, float]:
    return {name: (one[name] - other[name]).abs().mean().item() for name in one}


@pytest.mark.full("cpu")
@pytest.mark.parametrize("name", CASES)
def test_bf16_training(keep, benchmark, device, name):
    system, size, count = CASES[name]

    def train() -> tuple[list[dict[str, Tensor]], list[dict[str, Tensor]]]:
        return tuple([means(system, size, count, variant, seed, device) for seed in SEEDS] for variant in (EAGER, OURS))

    eager, ours = benchmark.pedantic(train, rounds=1)
    between = [apart(*pair) for pair in itertools.combinations(eager, 2)]
    of_ours = [apart(*pair) for pair in zip(eager, ours)]
    losses = {
        loss: {"spread": max(found[loss] for found in between), "apart": max(found[loss] for found in of_ours)}
        for loss in eager[0]
    }
    channels = 3 if system.paired else 1
    keep({
        "op": name, "variant": f"{STEPS} steps in bf16", "shape": f"{count}x{channels}x{size}x{size}",
        "dtype": "bfloat16", "direction": "training", "bytes": 0, "flops": 0, "deviation": {},
        "backend": {"name": "", "passed_over": {}}, "providers": {}, "speedup": {}, "losses": losses,
    })  # fmt: skip
    outside = {loss: found for loss, found in losses.items() if not found["apart"] <= found["spread"]}
    assert not outside, f"further from eager than three seeds from each other: {outside}"
