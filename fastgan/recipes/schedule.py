"""When things change: learning-rate schedules in epochs, as in the published CycleGAN and pix2pix training, and turns
in steps."""

import math
from collections.abc import Mapping
from typing import Any, Protocol

from torch import Tensor
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR, LRScheduler, ReduceLROnPlateau

from fastgan._form import check_form

LR_POLICIES = ("linear", "step", "plateau", "cosine")


class ScheduleOptions(Protocol):
    """Options that a learning-rate schedule follows from."""

    @property
    def lr_policy(self) -> str: ...
    @property
    def lr_decay_iters(self) -> int: ...
    @property
    def n_epochs(self) -> int: ...
    @property
    def n_epochs_decay(self) -> int: ...


def make_scheduler(
    optimizer: Optimizer, policy: str, *, n_epochs: int, n_epochs_decay: int, lr_decay_iters: int
) -> LRScheduler:
    """A scheduler to be stepped at the end of every epoch (a plateau one with a loss).

    linear: constant for n_epochs, then down in equal steps over n_epochs_decay: epoch e (from 1) runs at the factor
    1 - max(0, e - n_epochs) / (n_epochs_decay + 1). step: times 0.1 every lr_decay_iters epochs. plateau: times 0.2
    once more than five epochs in a row brought no 1 % improvement. cosine: half a cosine down to 0 over n_epochs (and,
    past it, up again). ValueError for another policy, or a cosine over no epochs.
    """
    if policy == "linear":
        return EpochLR(optimizer, lambda epoch: 1.0 - max(0, epoch + 1 - n_epochs) / (n_epochs_decay + 1))
    if policy == "step":
        return EpochLR(optimizer, lambda epoch: 0.1 ** (epoch // lr_decay_iters))
    if policy == "plateau":
        return PlateauLR(optimizer, mode="min", factor=0.2, threshold=0.01, patience=5)
    if policy == "cosine":
        if n_epochs < 1:
            raise ValueError(f"lr_policy cosine falls over n_epochs, which is {n_epochs}: it must be at least 1")
        return EpochLR(optimizer, lambda epoch: (1 + math.cos(math.pi * epoch / n_epochs)) / 2)
    raise ValueError(f"unknown lr_policy {policy!r}; choose one of {', '.join(LR_POLICIES)}")


def make_schedulers(optimizers: Mapping[str, Optimizer], options: ScheduleOptions) -> dict[str, LRScheduler]:
    """One scheduler for each optimizer, by the options lr_policy, n_epochs, n_epochs_decay and lr_decay_iters."""
    return {
        name: make_scheduler(
            optimizer,
            options.lr_policy,
            n_epochs=options.n_epochs,
            n_epochs_decay=options.n_epochs_decay,
            lr_decay_iters=options.lr_decay_iters,
        )
        for name, optimizer in optimizers.items()
    }


class EpochLR(LambdaLR):
    """A learning rate that depends on the number of epochs alone: the first one times a factor.

    So a state goes on by the schedule that it is loaded into: one of another length continues as if it had been that
    of the run from its first epoch on.
    """

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue after the epochs of `state`, a state of any scheduler of torch's that counts epochs, and set the
        optimizer's rates. ValueError for what is no such state."""
        known: dict[str, Any] = {name: state.get(name) for name in ("base_lrs", "last_epoch")}
        check_form(known, {"base_lrs": [0.0] * len(self.base_lrs), "last_epoch": 0}, "the checkpoint's schedule")
        if min(known["last_epoch"], *known["base_lrs"]) < 0:
            raise ValueError(f"the checkpoint's schedule has {known}, which cannot be: none of it is negative")
        self.base_lrs, self.last_epoch = list(known["base_lrs"]), known["last_epoch"]
        self._step_count = self.last_epoch + 1
        self.set_rates()

    def set_rates(self) -> None:
        """Give the optimizer the rates of the epoch, by the first ones in `base_lrs`."""
        self._last_lr = [base * factor(self.last_epoch) for base, factor in zip(self.base_lrs, self.lr_lambdas)]
        for group, rate in zip(self.optimizer.param_groups, self._last_lr):
            set_rate(group, "lr", rate)


class PlateauLR(ReduceLROnPlateau):
    """torch's, which takes from a state what epochs have changed in it; the rates are the optimizer's."""

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from `state`. ValueError for what is no state of such a scheduler."""
        name = "the checkpoint's schedule"
        changing = {"best": math.inf, "num_bad_epochs": 0, "cooldown_counter": 0, "last_epoch": 0}
        check_form({key: state.get(key) for key in changing}, changing, name)
        for key, value in self.state_dict().items():  # the rest is as far as the torch that saved it had it
            if key in state and key not in (*changing, "_last_lr"):
                check_form(state[key], value, f"{name}.{key}")
        for key in changing:
            if key != "best" and state[key] < 0:
                raise ValueError(f"{name}.{key} is {state[key]}, which cannot be")
            setattr(self, key, state[key])
        self._last_lr = [float(group["lr"]) for group in self.optimizer.param_groups]


def set_rate(group: dict[str, Any], name: str, rate: float | Tensor) -> None:
    """Change a rate of an optimizer's group; in place where it lies on a device."""
    if isinstance(group[name], Tensor):
        group[name].fill_(rate)
    else:
        group[name] = rate


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
        """Continue from `state`. ValueError when it counts to another number, or is no such state."""
        check_form(state, self.state_dict(), "the checkpoint's turn")
        if state["n"] != self.n:
            raise ValueError(
                f"the checkpoint takes turns every {state['n']} steps, this recipe every {self.n}; "
                "use the options it was trained with"
            )
        if not 0 <= state["count"] < self.n:
            raise ValueError(f"the checkpoint's turn has waited {state['count']} of {self.n} steps, which cannot be")
        self.count = state["count"]


__all__ = ["LR_POLICIES", "EpochLR", "EveryNth", "PlateauLR", "make_scheduler", "make_schedulers", "set_rate"]
