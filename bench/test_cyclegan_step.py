"""One training step of CycleGAN, ours against the plain-torch twin that the tests compare it with."""

from __future__ import annotations

import contextlib

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from fastgan.recipes.cyclegan import CycleGAN, CycleGANOptions
from tests.twins.cyclegan import CycleGAN as Twin

from .cases import DTYPES, LAYOUTS, chosen_backend, dtype_name, worst
from .measure import Clock, Runner, step_clock
from .record import finite, layout

EAGER = {"eager nchw": False, "eager nchw in-place": True, "eager channels_last": False}
OURS = ("ours nchw", "ours channels_last")
BATCHES = 4
# What a loss of ours may be off by from the float32 twin's, beside twice what the eager twin in the same dtype is.
SLACK = {torch.float32: 1e-4, torch.bfloat16: 1e-2}


class StepCase:
    """A whole update of generators and discriminators, from the same weights on the same images."""

    least_rounds = 3
    warm_up_rounds = 1

    def __init__(self, blocks: int, size: int, batch: int, dtype: torch.dtype, device: torch.device) -> None:
        self.blocks, self.shape, self.dtype, self.device = blocks, (batch, 3, size, size), dtype, device
        self.clock: Clock = step_clock(device)
        self.flops = 0
        self.errors: dict[str, float] = {}
        self.weights = {name: network.state_dict() for name, network in self._twin_on_cpu(True).networks.items()}
        self.batches = [self._batch() for _ in range(BATCHES)]
        self.steps = {name: self._twin(in_place, layout(name), dtype) for name, in_place in EAGER.items()}
        self.steps |= {name: self._recipe(layout(name)) for name in OURS}

    def _twin_on_cpu(self, in_place: bool) -> Twin:
        return Twin([torch.Generator().manual_seed(i) for i in (0, 1)], n_blocks=self.blocks, inplace=in_place)

    def _batch(self) -> tuple[torch.Tensor, torch.Tensor]:
        return tuple(torch.rand(self.shape, device=self.device) * 2 - 1 for _ in "AB")

    def _twin(self, in_place: bool, layout: str, dtype: torch.dtype) -> Runner:
        twin = self._twin_on_cpu(in_place)
        for name, network in twin.networks.items():
            network.load_state_dict(self.weights[name])
            network.to(self.device, memory_format=LAYOUTS[layout])
        batches = self._laid_out(layout)

        def step(number: int) -> dict[str, torch.Tensor]:
            autocast = torch.autocast(self.device.type, dtype) if dtype != torch.float32 else contextlib.nullcontext()
            with autocast:
                return twin.step(*batches[number % BATCHES])

        return step

    def _recipe(self, layout: str) -> Runner:
        options = CycleGANOptions(netG=f"resnet_{self.blocks}blocks")
        recipe = CycleGAN(options, precision="bf16" if self.dtype == torch.bfloat16 else "fp32")
        for name, network in recipe.networks.items():
            network.load_state_dict(self.weights[name])
        recipe.to(self.device, LAYOUTS[layout])
        batches = [dict(zip("AB", pair)) for pair in self._laid_out(layout)]
        return lambda number: recipe.step(batches[number % BATCHES])

    def _laid_out(self, layout: str) -> list[tuple[torch.Tensor, ...]]:
        return [tuple(images.contiguous(memory_format=LAYOUTS[layout]) for images in pair) for pair in self.batches]

    def describe(self) -> dict:
        """The case's entry in a record, without its times."""
        return {
            "op": "cyclegan step",
            "variant": f"resnet_{self.blocks}blocks",
            "shape": "x".join(map(str, self.shape)),
            "dtype": dtype_name(self.dtype),
            "direction": "step",
            "bytes": 0,
            "flops": self.flops,
            "backend": chosen_backend("instance_norm", self.device, self.dtype),
            "deviation": finite(self.errors),
        }

    def check(self) -> None:
        """One step each; AssertionError unless every loss of ours is as close to the float32 twin's as eager's is."""
        with FlopCounterMode(display=False) as counter, torch.backends.cudnn.flags(enabled=True, allow_tf32=False):
            expected = self._twin(False, "nchw", torch.float32)(0)
        self.flops = counter.get_total_flops()
        for name, step in self.steps.items():
            losses = step(0)
            self.errors[name] = worst(
                abs(losses[key].item() - value.item()) / max(1.0, abs(value.item())) for key, value in expected.items()
            )
        allowed = 2 * max(self.errors[name] for name in EAGER) + SLACK[self.dtype]
        wrong = {name: self.errors[name] for name in OURS if not self.errors[name] <= allowed}
        assert not wrong, f"not timed, because the losses of the first step are wrong: {wrong} (allowed: {allowed:.2g})"

    def runners(self) -> dict[str, Runner]:
        return self.steps


@pytest.mark.parametrize("dtype", DTYPES, ids=dtype_name)
@pytest.mark.parametrize(
    "blocks, size, batch",
    [
        pytest.param(6, 128, 1, id="resnet_6blocks-128x128-batch1"),
        pytest.param(9, 256, 1, id="resnet_9blocks-256x256-batch1", marks=pytest.mark.full("cpu")),
        pytest.param(9, 256, 16, id="resnet_9blocks-256x256-batch16", marks=pytest.mark.cuda),
    ],
)
def test_cyclegan_step(race, device, blocks, size, batch, dtype):
    torch.manual_seed(0)
    race(StepCase(blocks, size, batch, dtype, device))
