"""The training step recorded in CUDA graphs: the host starts one graph instead of every kernel by itself."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

import torch
from torch import Tensor
from torch.nn.parallel import DistributedDataParallel

from fastgan.recipes import Batch, Decisions, Losses, Recipe

WARM_UP = 3  # steps of each kind before it is recorded

_LOGGER = logging.getLogger("fastgan.training")
_Result = TypeVar("_Result")


class Recorder(Protocol):
    """What records calls: CUDA graphs, or what stands in for them in a test."""

    def warm_up(self, call: Callable[[], _Result]) -> _Result:
        """Make the call where it will be recorded."""

    def record(self, call: Callable[[], _Result]) -> tuple[Callable[[], None], _Result]:
        """(what makes the call again on the same tensors, its result, filled by every replay). Not yet made once.

        Raises:
            RuntimeError: the call does something that cannot be recorded; it is as if it had not been tried.
        """


class CudaRecorder:
    """CUDA graphs on one stream, in one memory pool: replays follow one another, and keep nothing in it in between."""

    def __init__(self, device: torch.device):
        self._device, self._stream = device, torch.cuda.Stream(device)
        self._pool = torch.cuda.graph_pool_handle()

    def warm_up(self, call: Callable[[], _Result]) -> _Result:
        outer = torch.cuda.current_stream(self._device)
        self._stream.wait_stream(outer)
        with torch.cuda.stream(self._stream):
            result = call()
        outer.wait_stream(self._stream)
        return result

    def record(self, call: Callable[[], _Result]) -> tuple[Callable[[], None], _Result]:
        with torch.cuda.device(self._device):
            graph, outer = torch.cuda.CUDAGraph(), torch.cuda.current_stream()
            generator = torch.cuda.default_generators[torch.cuda.current_device()]
            random = generator.clone_state()
            try:
                # thread_local: the thread that pins the next batches may allocate meanwhile.
                with torch.cuda.graph(graph, self._pool, self._stream, capture_error_mode="thread_local"):
                    result = call()
            except RuntimeError as error:
                # The end of a capture that went wrong leaves its own stream as the current one, a generator that draws
                # in captures only, and hides the error that tells why.
                torch.cuda.set_stream(outer)
                generator.graphsafe_set_state(random)
                raise RuntimeError(str(error.__context__ or error)) from error
            return graph.replay, result


@dataclass
class _Kind:
    """Steps with the same turns."""

    warm: int = 0
    recorded: tuple[Callable[[], None], Losses] | None = None  # what replays the step, and fills its losses


class GraphedStep:
    """`recipe.step`, but recorded: to be called with a batch on the recipe's device.

    What the host decides (Recipe.decide) it decides at every step; what the device computes (Recipe.compute) is
    recorded, once for each combination of turns, on tensors that stay: every batch and every decision is copied into
    them. Learning rates, image pools, random numbers and losses live on the device, so a replay finds them as they are.
    The first steps of each kind run as they are, and count: they compile kernels and make the optimizers' states.

    A batch that is not of `batch_size` images, or of other shapes than the first one that was, runs as it is; so does
    every step once something could not be recorded. The reason is logged once, on "fastgan.training". Moving or
    loading the recipe leaves what was recorded behind: make a new GraphedStep then.

    The losses that are returned are overwritten by the next step.
    """

    def __init__(self, recipe: Recipe, batch_size: int, recorder: Recorder):
        self._recipe, self._batch_size, self._recorder = recipe, batch_size, recorder
        self._kinds: dict[tuple[bool, ...], _Kind] = {}
        self._inputs: dict[str, Tensor] | None = None
        self._rows: dict[str, Tensor] = {}
        self._failed = False
        self._told: set[str] = set()

    def __call__(self, batch: Mapping[str, object]) -> Losses:
        tensors = {name: value for name, value in batch.items() if isinstance(value, Tensor)}
        decided = self._recipe.decide(tensors)
        if self._failed or not self._fits(tensors):
            return self._recipe.compute(tensors, decided)
        inputs = self._fill(tensors, decided)
        kind = self._kinds.setdefault(tuple(decided.turns.values()), _Kind())
        standing = Decisions(decided.turns, self._rows)
        if kind.warm < WARM_UP:
            kind.warm += 1
            return self._recorder.warm_up(lambda: self._recipe.compute(inputs, standing))
        if kind.recorded is None:
            try:
                kind.recorded = self._recorder.record(lambda: self._recipe.compute(inputs, standing))
            except RuntimeError as error:
                self._failed = True
                self._tell(
                    f"the step could not be recorded in a CUDA graph ({str(error).splitlines()[0]}): it goes on "
                    "kernel by kernel; --no-graph does so from the start"
                )
                return self._recipe.compute(tensors, decided)
        replay, losses = kind.recorded
        replay()
        return losses

    def _fits(self, tensors: Batch) -> bool:
        count = len(next(iter(tensors.values())))
        if count != self._batch_size:
            self._tell(
                f"batches of {count} instead of {self._batch_size} are too rare to be recorded: their steps run "
                "kernel by kernel"
            )
            return False
        if self._inputs is None:
            return True
        same = {name: _form(value) for name, value in tensors.items()} == {
            name: _form(value) for name, value in self._inputs.items()
        }
        if not same and any(pool.size for pool in self._recipe.pools.values()):
            self._failed = True  # a pool of several sizes keeps images one by one, where no recorded step finds them
            self._tell(
                "the images differ in size, and so do those of the image pools, which cannot be recorded: all "
                "steps run kernel by kernel from here on; a --preprocess that crops gives all images one size"
            )
        elif not same:
            self._tell(
                "the images differ in size, and steps are recorded for that of the first batch alone: the "
                "others run kernel by kernel; a --preprocess that crops gives all images one size"
            )
        return same

    def _fill(self, tensors: Batch, decided: Decisions) -> Batch:
        """Copy batch and decisions into the tensors that stay; returns those of the batch."""
        if self._inputs is None:
            self._inputs = {name: torch.empty_like(value) for name, value in tensors.items()}
            self._rows = {name: torch.empty_like(rows) for name, rows in decided.rows.items()}
        for standing, given in ((self._inputs, tensors), (self._rows, decided.rows)):
            for name, value in given.items():
                standing[name].copy_(value)
        return self._inputs

    def _tell(self, line: str) -> None:
        if line not in self._told:
            self._told.add(line)
            _LOGGER.warning(line)


def why_not(recipe: Recipe, device: torch.device) -> str | None:
    """Why the steps of a recipe cannot be recorded; None where they can."""
    if device.type != "cuda":
        return f"graphs are CUDA's, and the run is on the {device.type}"
    if recipe.precision.name == "fp16":
        return "fp16 scales losses by what overflowed before; --precision bf16 does not"
    if any(isinstance(network, DistributedDataParallel) for network in recipe.networks.values()):
        return "gradients are exchanged with other processes (DistributedDataParallel)"
    return None


def make_step(
    recipe: Recipe, batch_size: int, device: torch.device, wanted: bool = True
) -> tuple[Callable[[Batch], Losses], str]:
    """(what makes a step, how it does, in a few words): a GraphedStep where that can be, else `recipe.step`."""
    reason = why_not(recipe, device) if wanted else "--no-graph"
    if reason is not None:
        return recipe.step, f"none: {reason}"
    return GraphedStep(recipe, batch_size, CudaRecorder(device)), f"the whole step, after {WARM_UP} steps of each kind"


def _form(value: Tensor) -> tuple[Any, ...]:
    return value.shape, value.dtype, value.stride()
