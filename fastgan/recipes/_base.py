"""What every recipe shares: its parts by name, one update of them, moving them and saving them."""

import dataclasses
import functools
import operator
import textwrap
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, ClassVar, Generic, Protocol, TypeVar, runtime_checkable

import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler, ReduceLROnPlateau

from fastgan._form import FormError, check_form, short
from fastgan._upload import upload
from fastgan.models._published import plain_keys

from ._precision import Precision
from .pool import ImagePool
from .schedule import EpochLR, EveryNth, set_rate

Batch = Mapping[str, Tensor]
Losses = dict[str, Tensor]
OptionsT = TypeVar("OptionsT")
_RecipeT = TypeVar("_RecipeT", bound="Recipe")

PARTS = ("networks", "optimizers", "schedulers", "pools", "turns")


@dataclass(frozen=True)
class Decisions:
    """What the host decides about one step before the device begins with it.

    Attributes:
        turns: whether it is whose turn, by the names in `Recipe.turns`.
        rows: the rows that each image pool writes and reads, by the names in `Recipe.pools`, on the device;
            see ImagePool.draw.
    """

    turns: dict[str, bool] = field(default_factory=dict)
    rows: dict[str, Tensor] = field(default_factory=dict)


@runtime_checkable
class ChecksImages(Protocol):
    """A network that says which images it takes."""

    def check_images(self, height: int, width: int) -> None:
        """Raises ValueError for image sizes that it cannot be trained on."""


class Recipe(ABC, Generic[OptionsT]):
    """One system: its networks, losses and the order of their updates. The loop is :mod:`fastgan.training.loop`.

    A subclass builds its parts in __init__, on the CPU, from torch's global generator, and files them by name in
    `networks`, `optimizers`, `schedulers`, `pools` and `turns`; these five and `precision` are all the state there is.
    It never chooses a device: batches and networks meet on the one that the training loop chose.

    A step is what the host decides (`decide`) and then what the device computes (`compute`), which asks the host for
    nothing and gives it nothing to wait for: so it can be recorded once and replayed.

    Class attributes: `name`; `summary`, one line; `Options`, a frozen dataclass; `presets`, overrides of any option by
    name of preset; `data_kind`, what fastgan.data.open_dataset is asked for; `drop_last`, whether an epoch leaves out
    its last, smaller batch; `directions` that `translate` knows, none where nothing is translated.
    """

    name: ClassVar[str]
    summary: ClassVar[str]
    Options: ClassVar[type]
    presets: ClassVar[Mapping[str, Mapping[str, object]]]
    data_kind: ClassVar[str]
    drop_last: ClassVar[bool] = False
    directions: ClassVar[tuple[str, ...]] = ()

    def __init__(self, options: OptionsT | None = None, *, precision: str = "fp32"):
        self.options: OptionsT = self.Options() if options is None else options
        self.precision = Precision(precision)
        self.networks: dict[str, nn.Module] = {}
        self.optimizers: dict[str, Optimizer] = {}
        self.schedulers: dict[str, LRScheduler] = {}
        self.pools: dict[str, ImagePool] = {}
        self.turns: dict[str, EveryNth] = {}

    @property
    def epochs(self) -> int | None:
        """The epochs of a whole run, by the options n_epochs and n_epochs_decay; None without such options."""
        values = self._values()
        return values["n_epochs"] + values.get("n_epochs_decay", 0) if "n_epochs" in values else None

    @property
    def lr(self) -> float | None:
        """The option lr; None without such an option."""
        return self._values().get("lr")

    def _values(self) -> dict[str, Any]:
        return {field.name: getattr(self.options, field.name) for field in dataclasses.fields(self.Options)}

    def step(self, batch: Batch) -> Losses:
        """One full update on one batch; the losses by name, detached 0-d tensors on the networks' device."""
        return self.compute(batch, self.decide(batch))

    def decide(self, batch: Batch) -> Decisions:
        """What the host decides about the next step, on `batch`; counts as the beginning of that step."""
        images = next(iter(batch.values()))
        return Decisions(
            {name: turn.due() for name, turn in self.turns.items()},
            {name: upload(pool.draw(len(images)), images.device) for name, pool in self.pools.items()},
        )

    @abstractmethod
    def compute(self, batch: Batch, decided: Decisions) -> Losses:
        """The step on `batch` as it was decided; returns what `step` does. All losses are logged, in their order.

        No control flow depends on a tensor's value, no value comes to the host and none from it.
        """

    @abstractmethod
    def sample(self, batch: Batch) -> dict[str, Tensor]:
        """Images to look at, by name, (N, C, H, W) in [-1, 1]; evaluation mode, no gradients."""

    def check_images(self, height: int, width: int) -> None:
        """Raises ValueError for image sizes that the networks cannot be trained on."""
        for network in self.networks.values():
            if isinstance(network, ChecksImages):
                network.check_images(height, width)

    def update(self, name: str, loss: Tensor) -> None:
        """One step of the optimizer `name` on the gradients of `loss` alone; what was left in them before is gone."""
        self.optimizers[name].zero_grad()
        self.precision.backward(loss, name)
        self.precision.optimizer_step(self.optimizers[name], name)

    def to(
        self: _RecipeT, device: torch.device | str, memory_format: torch.memory_format = torch.preserve_format
    ) -> _RecipeT:
        """Move networks and optimizer states; before or after the first step. Returns the recipe itself."""
        device = torch.device(device)
        for network in self.networks.values():
            if memory_format is torch.preserve_format:
                network.to(device)
            else:
                network.to(device, memory_format=memory_format)  # type: ignore[call-overload]  # torch's stubs lack it
        for optimizer in self.optimizers.values():
            _settle(optimizer, device)
        self.precision.to(device)
        return self

    def end_epoch(self, losses: Mapping[str, float]) -> None:
        """Step the learning-rate schedules; `losses` are the epoch's means (plateau follows their average)."""
        for scheduler in self.schedulers.values():
            if isinstance(scheduler, ReduceLROnPlateau):
                scheduler.step(sum(losses.values()) / len(losses))
            else:
                scheduler.step()

    def state_dict(self) -> dict[str, Any]:
        """Everything a bit-exact continuation needs, except random-number states and the data order.

        Tensors and plain values only: torch.load(weights_only=True) reads it.
        """
        parts = {part: {name: each.state_dict() for name, each in getattr(self, part).items()} for part in PARTS}
        return {"recipe": self.name, **parts, "precision": self.precision.state_dict()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from `state`. Raises ValueError when it is another recipe's or does not fit.

        Every part is checked before it is used, for its kind, and tensors for shape, dtype and finite values. What an
        optimizer's options are (betas, eps, ...) this recipe says and no state, except for the learning rates. Where
        they follow from the number of epochs they are those of this recipe's schedule.
        """
        check_form(state, dict, "the checkpoint's state")
        recipe = state.get("recipe")
        if not isinstance(recipe, str) or recipe != self.name:
            raise ValueError(f"the checkpoint was made by recipe {short(recipe)}, not by {self.name!r}")
        for part in (*PARTS, "precision"):
            like = dict if part in ("networks", "precision") else dict.fromkeys(getattr(self, part), dict)
            check_form(state.get(part), like, f"the checkpoint's {part}")
        check_form(
            {name: None for name in state["precision"] if name not in self.optimizers}, {}, "the checkpoint's precision"
        )
        load_networks(self.networks, state["networks"])
        for name, optimizer in self.optimizers.items():
            _load_optimizer(optimizer, state["optimizers"][name], f"the checkpoint's optimizers.{name}")
        for part in PARTS[2:]:
            for name, each in getattr(self, part).items():
                each.load_state_dict(state[part][name])
        for optimizer in self.optimizers.values():
            _settle(optimizer, optimizer.param_groups[0]["params"][0].device)
        self.precision.load_state_dict(state["precision"])

    def change_lr(self, old: float, new: float) -> None:
        """Go on at the learning rates of a recipe that was made with the option lr `new` where this one has `old`."""

        def changed(rate: Any) -> float:
            return new if float(rate) == old or old == 0 else float(rate) * (new / old)

        for optimizer in self.optimizers.values():
            for group in optimizer.param_groups:
                for name in {"lr", "initial_lr"} & group.keys():
                    set_rate(group, name, changed(group[name]))
        for scheduler in self.schedulers.values():
            if hasattr(scheduler, "base_lrs"):
                scheduler.base_lrs = [changed(rate) for rate in scheduler.base_lrs]
            if isinstance(scheduler, EpochLR):
                scheduler.set_rates()

    @contextmanager
    def evaluating(self) -> Iterator[None]:
        """Evaluation mode without gradients; every network's mode is put back afterwards."""
        training = {name: network.training for name, network in self.networks.items()}
        try:
            for network in self.networks.values():
                network.eval()
            with torch.no_grad():
                yield
        finally:
            for name, network in self.networks.items():
                network.train(training[name])


def load_networks(networks: Mapping[str, nn.Module], states: Mapping[str, Mapping[str, Tensor]]) -> None:
    """Load every network from its state dict, strictly. Raises ValueError, naming the first misfit."""
    for name, network in networks.items():
        if name not in states:
            raise ValueError(f"the checkpoint has no network {name}, only {', '.join(map(str, states)) or 'none'}")
        state = states[name]
        try:
            check_form(state, dict, name)
            for key in state:
                check_form(key, str, f"a key of {name}")
            like = plain_keys(network.state_dict())
            for key, value in plain_keys(state).items():
                check_form(value, like.get(key, value), key)  # which keys there must be, load_state_dict knows
            network.load_state_dict(dict(state))
        except (FormError, RuntimeError) as error:
            first = str(error).split("\n\t")[:2][-1]  # torch puts each misfit on a line of its own, after a heading
            reason = textwrap.shorten(first.rstrip("."), 160)
            raise ValueError(
                f"the checkpoint's network {name} is of another kind or size ({reason}); "
                "use the options it was trained with"
            ) from None
        except ValueError as error:
            raise ValueError(f"the checkpoint is damaged: {error} in its network {name}") from None


def _load_optimizer(optimizer: Optimizer, state: Mapping[str, Any], name: str) -> None:
    """Give an optimizer the moments and the learning rates of a state, and none of its other options.

    An optimizer that has made no step has no moments; one that has, has them for each of its parameters.
    """
    groups = optimizer.state_dict()["param_groups"]
    check_form(state, {"state": dict, "param_groups": list}, name)
    check_form(state["param_groups"], [dict] * len(groups), f"{name}.param_groups")
    for index, (group, saved) in enumerate(zip(groups, state["param_groups"])):
        where = f"{name}.param_groups.{index}"
        check_form(saved.get("params"), group["params"], f"{where}.params")
        if saved["params"] != group["params"]:
            raise FormError(f"{where}.params are {short(saved.get('params'))}, where {short(group['params'])} belong")
        for key in group.keys() - {"lr", "initial_lr"}:  # of the right kind, as far as the torch that saved it had them
            if group[key] is not None and key in saved:
                check_form(saved[key], group[key], f"{where}.{key}")
        for rate in ("lr", "initial_lr"):
            if rate in group:
                group[rate] = _rate(saved.get(rate), f"{where}.{rate}")
    moments = (
        {
            index: moment
            for group, saved in zip(optimizer.param_groups, groups)
            for index, moment in zip(saved["params"], _moments(optimizer, group))
        }
        if state["state"]
        else {}
    )
    check_form(state["state"], moments, f"{name}.state")
    # Copies: what shares its memory with another part, in the file or in a recipe, must not be updated with it.
    copies = {
        index: {key: value.clone() if isinstance(value, Tensor) else value for key, value in moment.items()}
        for index, moment in state["state"].items()
    }
    optimizer.load_state_dict({"state": copies, "param_groups": groups})


def _moments(optimizer: Optimizer, group: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """The form of what a step leaves behind for each parameter of a group: seen at a step of a small one."""
    shape = (2, 3, 4)
    small = nn.Parameter(torch.zeros(shape, dtype=group["params"][0].dtype))
    small.grad = torch.zeros_like(small)
    options = {key: value for key, value in group.items() if key != "initial_lr"}
    make: Callable[..., Optimizer] = type(optimizer)  # its options are in the group
    probe = make([options | {"params": [small], "lr": 0.0, "capturable": False}])
    probe.step()
    for parameter in group["params"]:
        yield {
            key: value.new_empty(parameter.shape, device="meta") if getattr(value, "shape", None) == shape else value
            for key, value in probe.state[small].items()
        }


def _rate(value: Any, name: str) -> float:
    """A learning rate of a state: a number, or a tensor of one where it was saved on a GPU."""
    if isinstance(value, Tensor) and value.numel() == 1 and value.is_floating_point():
        value = value.item()
    check_form(value, 0.0, name)
    if value < 0:
        raise ValueError(f"{name} is {value}: a learning rate is not negative")
    return float(value)


def make_capturable(optimizer: Optimizer) -> None:
    """Let a step of the optimizer be recorded: its learning rate lies on the device, where schedules change it in place
    between replays, and it counts its steps there."""
    for group in optimizer.param_groups:
        group["lr"] = torch.tensor(float(group["lr"]), device=group["params"][0].device)
        group["capturable"] = True


def _settle(optimizer: Optimizer, device: torch.device) -> None:
    """Give every state of an optimizer the device and the strides of its parameter; on a GPU make it capturable."""
    if device.type == "cuda":
        make_capturable(optimizer)
    else:
        for group in optimizer.param_groups:
            group["lr"], group["capturable"] = float(group["lr"]), False
    optimizer.load_state_dict(optimizer.state_dict())
    for parameter, state in optimizer.state.items():
        for key, value in state.items():
            if isinstance(value, Tensor) and value.shape == parameter.shape and value.stride() != parameter.stride():
                state[key] = torch.empty_like(parameter, dtype=value.dtype).copy_(value)


@contextmanager
def frozen(*networks: nn.Module) -> Iterator[None]:
    """Graphs built inside ask the networks' parameters for no gradient. Parameters frozen before stay frozen after."""
    parameters = trainable(*networks)
    for parameter in parameters:
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        for parameter in parameters:
            parameter.requires_grad_(True)


def trainable(*networks: nn.Module) -> list[nn.Parameter]:
    """The parameters that ask for gradients, in order."""
    return [parameter for network in networks for parameter in network.parameters() if parameter.requires_grad]


def total(losses: Mapping[str, Tensor]) -> Tensor:
    """The sum of all losses."""
    return functools.reduce(operator.add, losses.values())


def detached(losses: Mapping[str, Tensor]) -> Losses:
    """The losses as `Recipe.compute` returns them."""
    return {name: loss.detach() for name, loss in losses.items()}


__all__ = [
    "PARTS",
    "Batch",
    "Decisions",
    "Losses",
    "OptionsT",
    "Recipe",
    "detached",
    "frozen",
    "load_networks",
    "make_capturable",
    "total",
    "trainable",
]
