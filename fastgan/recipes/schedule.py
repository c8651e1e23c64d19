"""When things change: learning-rate schedules in epochs, as in the published CycleGAN and pix2pix training, and turns
in steps."""

from collections.abc import Mapping
from typing import Any

from torch.optim import Optimizer
from torch.optim.lr_scheduler import CosineAnnealingLR, LambdaLR, LRScheduler, ReduceLROnPlateau, StepLR

LR_POLICIES = ("linear", "step", "plateau", "cosine")


def make_scheduler(optimizer: Optimizer, policy: str, *, n_epochs: int, n_epochs_decay: int,
                   lr_decay_iters: int) -> LRScheduler:
    """A scheduler to be stepped at the end of every epoch (a plateau one with a loss).

    linear: constant for n_epochs, then down in equal steps over n_epochs_decay: epoch e (from 1) runs at the factor
    1 - max(0, e - n_epochs) / (n_epochs_decay + 1). step: times 0.1 every lr_decay_iters epochs. plateau: times 0.2
    once more than five epochs in a row brought no 1 % improvement. cosine: half a cosine down to 0 over n_epochs (and,
    past it, up again). ValueError for another policy.
    """
    if policy == "linear":
        return LambdaLR(optimizer, lambda epoch: 1.0 - max(0, epoch + 1 - n_epochs) / (n_epochs_decay + 1))
    if policy == "step":
        return StepLR(optimizer, step_size=lr_decay_iters, gamma=0.1)
    if policy == "plateau":
        return ReduceLROnPlateau(optimizer, mode="min", factor=0.2, threshold=0.01, patience=5)
    if policy == "cosine":
        return CosineAnnealingLR(optimizer, T_max=n_epochs, eta_min=0.0)
    raise ValueError(f"unknown lr_policy {policy!r}; choose one of {', '.join(LR_POLICIES)}")


def make_schedulers(optimizers: Mapping[str, Optimizer], options: Any) -> dict[str, LRScheduler]:
    """One scheduler for each optimizer, by the options lr_policy, n_epochs, n_epochs_decay and lr_decay_iters."""
    return {name: make_scheduler(optimizer, options.lr_policy, n_epochs=options.n_epochs,
                                 n_epochs_decay=options.n_epochs_decay, lr_decay_iters=options.lr_decay_iters)
            for name, optimizer in optimizers.items()}


class EveryNth:
    """Whose turn it is: `due()` is true at every n-th call, first at call n."""

    def __init__(self, n: int):
        if n < 1:
            raise ValueError(f"a turn comes every n-th step with n at least 1, got {n}")
        self.n, self.count = n, 0

    def due(self) -> bool:
        self.count = (self.count + 1) % self.n
        return self.count == 0

    def state_dict(self) -> dict:
        """How many steps the turn has been waited for."""
        return {"n": self.n, "count": self.count}

    def load_state_dict(self, state: dict) -> None:
        """Continue from `state`. ValueError when it counts to another number."""
        if state["n"] != self.n:
            raise ValueError(f"the checkpoint takes turns every {state['n']} steps, this recipe every {self.n}; "
                             "use the options it was trained with")
        self.count = state["count"]


__all__ = ["LR_POLICIES", "EveryNth", "make_scheduler", "make_schedulers"]
