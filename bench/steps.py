"""A training step as a case of the bench: trials apart, the check of its losses, and the comparison of its variants."""

from __future__ import annotations

import os
import tempfile
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

from . import record
from .cases import passed_over, worst
from .measure import Clock, Runner, step_clock
from .systems import PLAIN, Step, System, Variant
from .trial import first_losses, in_fresh_process

# What a loss of ours may be off by from the float32 reference model's, beside twice what the eager one in the same
# precision is.
SLACK = {"fp32": 1e-4, "bf16": 1e-2}


class StepCase:
    """One turn of a system's schedule by every variant, from the same weights on the same images."""

    least_rounds = 3

    def __init__(
        self, system: System, size: int, count: int, variants: tuple[Variant, ...], device: torch.device, trial=None
    ) -> None:
        self.system, self.size, self.count, self.device = system, size, count, device
        self.variants = {variant.name: variant for variant in variants}
        self.warm_up_rounds = 5 if device.type == "cuda" else 1  # ours is recorded after its first steps
        self.clock: Clock = step_clock(device)
        self.caches = tempfile.TemporaryDirectory(prefix="fastgan-bench-")
        self._trial = trial or (
            lambda variant: in_fresh_process(system.name, size, count, variant.name, device, self.caches.name)
        )
        self.flops = 0
        self.trials: dict[str, dict[str, Any]] = {}
        self.errors: dict[str, float] = {}
        self.failed: dict[str, str] = {}
        self.served: dict[str, dict[str, list[str]]] = {}

    def describe(self) -> dict[str, Any]:
        """The case's entry in a record, without its times."""
        channels = 3 if self.system.paired else 1
        return {
            "op": self.system.name,
            "variant": self.system.variant,
            "shape": f"{self.count}x{channels}x{self.size}x{self.size}",
            "dtype": "",
            "direction": "step",
            "bytes": 0,
            "flops": self.flops,
            "backend": {
                "name": "",
                "served": self.served,
                "passed_over": passed_over("instance_norm", self.device, torch.float32),
            },
            "deviation": record.finite(self.errors),
            "trials": self.trials,
            "not_timed": self.failed,
        }

    def check(self) -> None:
        """Try each variant in a process of its own, and compare its first losses with the float32 reference model's.

        What torch refuses is left out, with its reason. AssertionError unless every variant of ours runs and its losses
        are as close to the float32 reference model's as those of the eager one in the same precision.
        """
        expected = self._reference()
        for name, variant in self.variants.items():
            found = self._trial(variant)
            losses, served = found.pop("losses", None), found.pop("served", None)
            if "failed" in found:
                self.failed[name] = found["failed"]
                continue
            self.trials[name] = found
            if variant.who == "ours":
                self.served[name] = served
            if losses is not None:
                self.errors[name] = worst(
                    abs(losses[key] - value) / max(1.0, abs(value)) for key, value in expected.items()
                )
        broken = {name: reason for name, reason in self.failed.items() if name.startswith("ours")}
        assert not broken, f"not timed, because it does not run: {broken}"
        wrong = {}
        for name, variant in self.variants.items():
            if variant.who == "ours" and not self.errors[name] <= self._allowed(variant.precision):
                wrong[name] = f"{self.errors[name]:.2g} (allowed: {self._allowed(variant.precision):.2g})"
        assert not wrong, f"not timed, because the losses of the first step are wrong: {wrong}"

    def _reference(self) -> dict[str, float]:
        """The losses of the first turn in float32, whose work is counted."""
        step = Step(self.system, self.size, self.count, PLAIN, self.device)
        with Work() as work, step.without_dropout(), torch.backends.cudnn.flags(enabled=True, allow_tf32=False):
            losses = first_losses(step)
        self.flops = work.flops
        return losses

    def _allowed(self, precision: str) -> float:
        eager = (
            self.errors[name]
            for name, variant in self.variants.items()
            if variant.who == "eager" and variant.precision == precision and name in self.errors
        )
        return 2 * max(eager, default=0.0) + SLACK[precision]

    def runners(self) -> dict[str, Runner]:
        """The variants that run; torch.compile finds at their first turn what the trials compiled."""
        os.environ["TORCHINDUCTOR_CACHE_DIR"] = self.caches.name
        return {
            name: Step(self.system, self.size, self.count, self.variants[name], self.device) for name in self.trials
        }

    def speedups(self, timings: dict[str, dict]) -> dict[str, dict[str, float]]:
        return record.step_speedups(timings)


class Work(TorchDispatchMode):
    """Inside, ``flops`` counts the multiplications and additions of matrix products and convolutions.

    torch's FlopCounterMode does so, too, but follows modules by hooks that torch.autograd.grad refuses.
    """

    def __init__(self) -> None:
        super().__init__()
        self.flops = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        if func._overloadpacket in flop_registry:
            self.flops += flop_registry[func._overloadpacket](*args, **(kwargs or {}), out_val=out)
        return out
