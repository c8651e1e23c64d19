"""The training loop: batches into the recipe, and what is due after a step."""

from __future__ import annotations

import contextlib
import logging
import math
import time
from collections.abc import Callable, Generator, Mapping
from typing import Any, Protocol

import torch

from fastgan._errors import EXPECTED, UserError, sentence
from fastgan.recipes import Batch, Losses, Recipe
from fastgan.training import checkpoint, rng
from fastgan.training.checkpoint import Progress
from fastgan.training.data_order import BatchKeys, Items, Key
from fastgan.training.device import memory_format, move_batch
from fastgan.training.folder import RunFolder
from fastgan.training.interrupt import Interrupt
from fastgan.training.interval import Due, read_interval
from fastgan.training.log import LossFile, PlainLines, ProgressBar, learning_rates, progress_display
from fastgan.training.networks import save_networks
from fastgan.training.recent_losses import NonFiniteLoss, RecentLosses, check_rest, check_weights
from fastgan.training.settings import Settings
from fastgan.training.train_options import TrainOptions
from fastgan.training.workers import Loader, loader

LONGEST_HISTORY = 1000

_LOGGER = logging.getLogger("fastgan.training")


class LoadOptions(Protocol):
    """Options of data that the loop looks at."""

    @property
    def batch_size(self) -> int: ...
    @property
    def num_threads(self) -> int: ...
    @property
    def serial_batches(self) -> bool: ...


class Loop:
    """Trains a recipe in a run folder.

    Args:
        recipe: on its device already.
        folder: where checkpoint, networks and losses are written; it exists.
        settings: the "train" and "data" options steer the loop; all of them go into the checkpoint.
        step: makes an update on a batch and gives its losses, as ``recipe.step`` does, which it is by default.
        batches: makes a batch on the device of a list of keys; without it, the items are loaded and collated.
        sample: called with the step whenever a sample grid is due; what it draws from generators is given back. That
            it cannot write, or has no memory for, is told, and does not end the run.
        progress: where to begin.

    Raises:
        UserError: there are fewer items than one batch needs.
    """

    def __init__(
        self,
        recipe: Recipe,
        dataset: Items,
        folder: RunFolder,
        settings: Settings,
        device: torch.device,
        *,
        step: Callable[[Batch], Losses] | None = None,
        batches: Callable[[list[Key]], Mapping[str, Any]] | None = None,
        sample: Callable[[int], None] | None = None,
        progress: Progress | None = None,
        display: PlainLines | ProgressBar | None = None,
    ):
        self.recipe, self.dataset, self.folder, self.settings, self.device = recipe, dataset, folder, settings, device
        self.options: TrainOptions = settings.groups["train"]
        self.data: LoadOptions = settings.groups["data"]
        self.progress = progress or Progress()
        self.epochs = recipe.epochs
        batch_size, self.drop_last = self.data.batch_size, recipe.drop_last
        self.used = len(dataset) - len(dataset) % batch_size if self.drop_last else len(dataset)  # items of an epoch
        if self.used == 0:
            raise UserError(
                f"--batch-size is {batch_size} and there are {len(dataset)} images, which fill no batch: "
                "give a smaller one"
            )
        self.total = total_steps(self.epochs, self.used, batch_size, self.options.max_steps, self.progress)
        self._step, self._batches, self._sample, self._display = step or recipe.step, batches, sample, display
        self._losses = RecentLosses(self.progress)
        self._saved_step = self.progress.step
        self._told: set[str] = set()

    def finished(self) -> bool:
        """Whether all steps are made."""
        return self.total is not None and self.progress.step >= self.total

    def describe(self) -> str:
        """How long the run is, and where it begins."""
        epochs = "" if self.epochs is None else f", {self.epochs} epochs"
        steps = "no end set" if self.total is None else f"{self.total} steps"
        begins = f", going on after step {self.progress.step}" if self.progress.step else ""
        return f"{steps}{epochs}, batches of {self.data.batch_size}{begins}"

    def run(self) -> bool:
        """Train to the end; False if a signal asked to stop before it. Either way everything is saved.

        What goes wrong beside the training (a sample grid, a line of losses or a checkpoint on the way that cannot be
        written) is told, and the run goes on.

        Raises:
            NonFiniteLoss: a loss or a weight is NaN or infinite; nothing is saved over the last good checkpoint.
            UserError: an expected error ended the run; the steps that were made are saved, if that can be.
            KeyboardInterrupt: at a second signal; nothing is saved.
        """
        progress = self.progress
        keys = BatchKeys(
            len(self.dataset),
            self.data.batch_size,
            self.options.seed,
            epochs=self.epochs,
            shuffle=not self.data.serial_batches,
            epoch=progress.epoch,
            position=progress.position,
            drop_last=self.drop_last,
        )
        layout = memory_format(self.options.channels_last)
        display = self._display or progress_display(self.total, progress.step)
        self._file = LossFile(self.folder.losses, progress.step)
        self._began = time.monotonic() - progress.seconds
        self._sampling = Due(read_interval(self.options.sample_every, "--sample-every"), self.total)
        self._saving = Due(read_interval(self.options.save_every, "--save-every"), self.total)
        with (
            Interrupt() as interrupt,
            contextlib.closing(self._open(keys)) as batches,
            contextlib.closing(display),
        ):
            try:
                while not self.finished() and not interrupt.requested:
                    batch = move_batch(next(batches), self.device, layout)
                    self._losses.add(progress.step + 1, self._step(batch))
                    self._after_step(display)
                self._save_last()
            except NonFiniteLoss as error:
                precise = "" if self.options.precision == "fp32" else " or --precision fp32"
                way = (
                    f"--resume with a lower --lr{precise}"
                    if self.folder.checkpoint.exists()
                    else f"a lower --lr{precise}"
                )
                raise NonFiniteLoss(f"{error}: training stopped, {self._last_save()}; {way} may help") from None
            except KeyboardInterrupt:
                raise KeyboardInterrupt(
                    f"left after step {progress.step} without saving; {self._last_save()}"
                ) from None
            except Exception as error:
                stands = self._rescue(error)
                if not isinstance(error, EXPECTED):  # a bug keeps its type and its traceback
                    _LOGGER.error(stands)
                    raise
                raise UserError(f"{sentence(error)}: {stands}") from error
        return self.finished()

    def _open(self, keys: BatchKeys) -> Loader | Generator[Mapping[str, Any], None, None]:
        if self._batches is not None:
            return (self._batches(batch) for batch in keys)
        return loader(self.dataset, keys, self.data.num_threads, self.device.type == "cuda")

    def _after_step(self, display: PlainLines | ProgressBar) -> None:
        progress, options = self.progress, self.options
        progress.step += 1
        progress.position += min(self.data.batch_size, self.used - progress.position)
        epoch = progress.epoch + 1

        logged = progress.step % options.print_freq == 0 or progress.step == 1 or self.finished()
        shown = display.advance(progress.step) or logged
        on_host = self.device.type == "cpu"
        look = logged or shown or on_host or len(self._losses) >= LONGEST_HISTORY
        if look:
            values = self._losses.fetch()
            lr = learning_rates(self.recipe.optimizers)
            progress.seconds = time.monotonic() - self._began
        if progress.position >= self.used:
            self._end_epoch()

        # The step is complete: a run that an error ends from here on is saved as one that can go on.
        if look and logged:
            with self._going_on(f"losses cannot be written to {self.folder.losses}"):
                self._file.write(progress, epoch, lr, values)
        if look and (shown or (on_host and display.every_step)):
            display.show(progress.step, epoch, lr, values)
        if self._sample is not None and (self._sampling.after(progress.step) or self.finished()):
            with rng.preserved(), self._going_on("a sample grid cannot be written", EXPECTED):
                self._sample(progress.step)
            self._sampling.done()
        if self._saving.after(progress.step) and not self.finished():
            self._losses.fetch()
            self._save_on_the_way()
            self._saving.done()

    def _end_epoch(self) -> None:
        progress = self.progress
        self._losses.fetch()
        self.recipe.end_epoch({name: value / progress.loss_counts[name] for name, value in progress.loss_sums.items()})
        progress.epoch, progress.position = progress.epoch + 1, 0
        progress.loss_sums.clear()
        progress.loss_counts.clear()

    def save(self) -> None:
        """Write checkpoint.pt and networks.safetensors of this moment.

        Raises:
            NonFiniteLoss: something of the state is NaN or infinite, as the next loss will be; nothing is written.
        """
        state = self.recipe.state_dict()
        check_weights(self.recipe.networks, self.recipe.optimizers, self.progress.step)
        check_rest(state, self.progress.step)
        self.progress.seconds = time.monotonic() - self._began
        checkpoint.save(
            self.folder.checkpoint,
            description=self.settings.to_json(),
            progress=self.progress,
            rng=rng.state(),
            state=state,
            data=_identity(self.dataset, self.options.seed),
            previous=self.folder.previous,
        )
        self.share_networks()
        self._saved_step = self.progress.step

    def share_networks(self) -> None:
        """Write networks.safetensors of this moment."""
        save_networks(self.folder.networks, self.recipe.networks, self.settings.to_json(), self.progress.step)

    def _save_on_the_way(self) -> None:
        """Save; where that cannot be, because a disk is full, say, tell it every time: the next one may succeed."""
        try:
            self.save()
        except NonFiniteLoss:
            raise
        except (OSError, UserError) as error:
            _LOGGER.warning(
                f"step {self.progress.step} is not saved ({sentence(error)}): training goes on, "
                f"{self._last_save()}, and --save-every {self.options.save_every} tries it again"
            )

    def _save_last(self) -> None:
        self._losses.fetch()
        if self._saved_step != self.progress.step or not self.folder.checkpoint.exists():
            self.save()

    def _rescue(self, error: Exception) -> str:
        """Save the steps that were made before ``error``; what there is then, in a few words."""
        step = self.progress.step
        if step == 0:
            return "training stopped before the first step was made"
        try:
            self._save_last()
        except Exception as another:
            why = "" if sentence(another) == sentence(error) else f" ({sentence(another)})"
            return f"training stopped after step {step}, which cannot be saved{why}; {self._last_save()}"
        return (
            f"training stopped after step {step}, which is saved in {self.folder.checkpoint}; --resume goes on with it"
        )

    @contextlib.contextmanager
    def _going_on(self, what: str, expected: tuple[type[Exception], ...] = (OSError,)) -> Generator[None, None, None]:
        """That something beside the training cannot be written is told once, and the run goes on."""
        try:
            yield
        except expected as error:
            if what not in self._told:
                self._told.add(what)
                _LOGGER.warning(f"{what} ({sentence(error)}): the run goes on")

    def _last_save(self) -> str:
        if not self.folder.checkpoint.exists():
            return "nothing was saved yet"
        return f"the checkpoint of step {self._saved_step} in {self.folder.checkpoint} is kept"


def restore(recipe: Recipe, dataset: Items, content: dict[str, Any], accept_other_data: bool = False) -> Progress:
    """Bring a recipe (on its device already) and all random generators to the moment of a checkpoint.

    A recipe that has another learning rate among its options than the run had goes on at rates in proportion. Accepted
    data of another length begins anew with the epoch that the run was in.

    Raises:
        UserError: the data is not what the run was trained on, and that is not accepted.
        ValueError: the state does not fit the recipe, or is damaged.
    """
    progress, before = content["progress"], content["data"]
    now = _identity(dataset, before["seed"])
    if not accept_other_data:
        remedy = "give it the same data, go on with this one (--accept-other-data), or start a new run with --name"
        if now["length"] != before["length"]:
            raise UserError(
                f"the run of this checkpoint was trained on {before['length']} images and the data now has "
                f"{now['length']}, so it cannot go on in the same order: {remedy}"
            )
        if "fingerprint" in now and now["fingerprint"] != before.get("fingerprint", now["fingerprint"]):
            raise UserError(
                "the data is not what the run of this checkpoint was trained on (files have other names, "
                f"sizes or contents, or are gone): {remedy}"
            )
    if not 0 <= progress.position < max(1, before["length"]):
        raise ValueError(
            f"the checkpoint's progress is at image {progress.position} of {before['length']}, which cannot be"
        )
    recipe.load_state_dict(content["state"])
    old, new = content["description"]["options"].get("recipe", {}).get("lr"), recipe.lr
    if old is not None and new is not None and old != new:
        recipe.change_lr(old, new)
    rng.restore(content["rng"])
    if now["length"] != before["length"]:
        progress.position = 0
        progress.loss_sums.clear()
        progress.loss_counts.clear()
    return progress


def total_steps(
    epochs: int | None, length: int, batch_size: int, max_steps: int | None, done: Progress | None = None
) -> int | None:
    """The steps of a whole run; None where neither epochs nor steps end it. The last batch of an epoch may be short.

    Args:
        done: what is behind; its steps may have been those of epochs of another length.
    """
    limits = [] if max_steps is None else [max_steps]
    if epochs is not None:
        done = done or Progress()
        per_epoch = math.ceil(length / batch_size)
        limits.append(done.step + (epochs - done.epoch) * per_epoch - math.ceil(done.position / batch_size))
    return min(limits, default=None)


def _identity(dataset: Items, seed: int) -> dict[str, Any]:
    """What must be the same for a run to go on in the same order, as far as the data set tells."""
    identity: dict[str, Any] = {"length": len(dataset), "seed": seed}
    return identity if dataset.fingerprint is None else identity | {"fingerprint": dataset.fingerprint}
