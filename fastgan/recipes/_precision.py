"""What changes between fp32, bf16 and fp16 training: the autocast region and, for fp16, loss scaling."""

from contextlib import AbstractContextManager

import torch
from torch import Tensor
from torch.optim import Optimizer

from fastgan._form import check_form

PRECISIONS = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


class Precision:
    """Mixed precision of one recipe. Parameters stay fp32; fp32 and bf16 never wait for the device.

    fp16 scales each optimizer's losses by a scale of its own (torch.amp.GradScaler), and skips steps that overflowed.
    """

    def __init__(self, name: str = "fp32"):
        if name not in PRECISIONS:
            raise ValueError(f"unknown precision {name!r}; choose one of {', '.join(PRECISIONS)}")
        self.name = name
        self.scalers: dict[str, torch.amp.GradScaler] = {}
        self._saved: dict[str, dict] = {}

    def autocast(self, device: torch.device) -> AbstractContextManager:
        """The region for forward passes. One region must not span an optimizer step: it caches cast weights."""
        return torch.autocast(device.type, dtype=PRECISIONS[self.name], enabled=self.name != "fp32")

    def backward(self, loss: Tensor, name: str) -> None:
        """loss.backward(), scaled for the optimizer called `name`."""
        if self.name == "fp16":
            loss = self._scaler(name, loss.device).scale(loss)
        loss.backward()

    def optimizer_step(self, optimizer: Optimizer, name: str) -> None:
        """Step the optimizer called `name` on gradients that `backward` made."""
        if self.name == "fp16":
            self.scalers[name].step(optimizer)
            self.scalers[name].update()
        else:
            optimizer.step()

    def _scaler(self, name: str, device: torch.device) -> torch.amp.GradScaler:
        if name not in self.scalers:
            self.scalers[name] = torch.amp.GradScaler(device.type)
            if name in self._saved:
                self.scalers[name].load_state_dict(self._saved.pop(name))
        return self.scalers[name]

    def to(self, device: torch.device) -> None:
        """Scalers are made where the next losses are; only their numbers move."""
        self.load_state_dict(self.state_dict())

    def state_dict(self) -> dict:
        """The scale of every optimizer's losses; empty unless fp16."""
        return {**self._saved, **{name: scaler.state_dict() for name, scaler in self.scalers.items()}}

    def load_state_dict(self, state: dict) -> None:
        """Continue from `state`; what it holds is used only in fp16. ValueError for what is no such state."""
        scaler = torch.amp.GradScaler("cpu").state_dict()
        check_form(
            state, dict.fromkeys(state, scaler) if isinstance(state, dict) else dict, "the checkpoint's precision"
        )
        self.scalers = {}
        self._saved = dict(state)


__all__ = ["PRECISIONS", "Precision"]
