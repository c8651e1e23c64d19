"""The losses of recent steps, left on the device until they are read; and the stop where numbers end."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from fastgan._errors import UserError
from fastgan.training.checkpoint import Progress


class NonFiniteLoss(UserError):
    """A loss, or a weight, became NaN or infinite."""


class RecentLosses:
    """Collects each step's losses without waiting for the device; :meth:`fetch` brings them over in one copy.

    Args:
        progress: its epoch sums and latest losses are kept up to date by every fetch.
    """

    def __init__(self, progress: Progress):
        self._progress = progress
        self._names: tuple[str, ...] = ()
        self._steps: list[int] = []
        self._values: list[Tensor] = []

    def __len__(self) -> int:
        return len(self._steps)

    def add(self, step: int, losses: Mapping[str, Tensor]) -> None:
        """Keep the losses of ``step``: 0-d tensors by name, on any one device."""
        if tuple(losses) != self._names:
            self.fetch()
            self._names = tuple(losses)
        self._steps.append(step)
        self._values.append(torch.stack([value.detach().float() for value in losses.values()]))

    def fetch(self) -> dict[str, float]:
        """The latest value of every loss as a number, waiting for the device once.

        Raises:
            NonFiniteLoss: naming the first loss, and the first step, that is NaN or infinite.
        """
        if not self._steps:
            return self._progress.latest
        rows = torch.stack(self._values).tolist()
        steps, self._steps, self._values = self._steps, [], []
        sums, counts = self._progress.loss_sums, self._progress.loss_counts
        for step, row in zip(steps, rows):
            for name, value in zip(self._names, row):
                if not math.isfinite(value):
                    raise NonFiniteLoss(f"the loss {name} is {value} at step {step}")
                sums[name] = sums.get(name, 0.0) + value
                counts[name] = counts.get(name, 0) + 1
        self._progress.latest.update(zip(self._names, rows[-1]))
        return self._progress.latest


def check_weights(networks: Mapping[str, nn.Module], optimizers: Mapping[str, Optimizer], step: int) -> None:
    """Raise NonFiniteLoss, naming the network or the optimizer, where a weight, a statistic or a moment is NaN or
    infinite."""
    for name, network in networks.items():
        for key, weight in network.state_dict().items():
            if not torch.isfinite(weight).all():
                raise NonFiniteLoss(f"the weights {key} of {name} are not finite after step {step}")
    for name, optimizer in optimizers.items():
        for state in optimizer.state.values():
            for key, value in state.items():
                if isinstance(value, Tensor) and not torch.isfinite(value).all():
                    raise NonFiniteLoss(f"the moments {key} of the optimizer {name} are not finite after step {step}")


def check_rest(state: Mapping[str, Any], step: int) -> None:
    """Raise NonFiniteLoss, naming it, where a tensor of a recipe's state is NaN or infinite that is in no network and
    no optimizer, such as an image in a pool."""
    rest: list[tuple[str, Any]] = [
        (part, value) for part, value in state.items() if part not in ("networks", "optimizers")
    ]
    while rest:
        name, value = rest.pop()
        if isinstance(value, Mapping):
            rest += [(f"{name}.{key}", each) for key, each in value.items()]
        elif isinstance(value, (list, tuple)):
            rest += [(f"{name}.{index}", each) for index, each in enumerate(value)]
        elif isinstance(value, Tensor) and not torch.isfinite(value).all():
            raise NonFiniteLoss(f"{name} is not finite after step {step}")
