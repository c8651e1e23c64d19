"""Measures backends and kernel configurations of one call, for the tables of ``python -m fastgan.tune``.

Every candidate is checked against stock torch before it is timed. Candidates take turns, on rotating sets of inputs
that together are twice as large as the device's L2 cache; what counts is the median of their device times.
"""

from __future__ import annotations

import functools
import math
import os
import statistics
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

import torch
from torch import Tensor

from . import _table, instance_norm, reflection_pad_conv2d
from ._dispatch import Backend, Call

Runner = Callable[[int], Any]  # gets the number of the round, to choose its inputs by
Clock = Callable[[Runner, int], float]

_FORMATS = {"nchw": torch.contiguous_format, "nhwc": torch.channels_last}


class Convolution(NamedTuple):
    """A reflected convolution to measure, stride and dilation 1; without padding for images that carry their halo."""

    batch: int
    channels: int
    size: int
    outputs: int
    kernel: int
    padding: int


class Norm(NamedTuple):
    """An instance norm with ReLU to measure."""

    batch: int
    channels: int
    size: int
    halo: int


def event_clock(run: Runner, index: int) -> float:
    """Device seconds of one call; the device is kept busy meanwhile, so that launching costs nothing."""
    start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
    torch.cuda._sleep(1_000_000)
    start.record()
    run(index)
    end.record()
    end.synchronize()
    return start.elapsed_time(end) / 1e3


def medians(runners: Mapping[Any, Runner], clock: Clock, rounds: int) -> dict[Any, float]:
    """Median seconds of each runner over ``rounds`` rounds, in each of which every runner has its turn once."""
    seconds: dict[Any, list[float]] = {name: [] for name in runners}
    for number in range(rounds + 2):
        for name, run in runners.items():
            taken = clock(run, number)
            if number >= 2:  # the first rounds warm up
                seconds[name].append(taken)
    return {name: statistics.median(taken) for name, taken in seconds.items()}


def _sets(make: Callable[[], tuple[Tensor, ...]], device: torch.device) -> list[tuple[Tensor, ...]]:
    """Sets of inputs that fill the L2 cache twice, at most 16."""
    first = make()
    cache = torch.cuda.get_device_properties(device).L2_cache_size if device.type == "cuda" else 0
    size = sum(t.numel() * t.element_size() for t in first)
    return [first, *(make() for _ in range(min(15, math.ceil(2 * cache / size))))]


def _right(result: Tensor, expected: Tensor) -> bool:
    """Within the rounding of the dtype (of tf32 for float32), relative to the largest element."""
    tolerance = {torch.float32: 2e-3, torch.bfloat16: 2e-2, torch.float16: 4e-3}.get(expected.dtype, 1e-9)
    return bool((result.double() - expected.double()).abs().max() <= tolerance * expected.double().abs().max())


def _usable(
    candidates: Iterable, run: Callable[[Any], Tensor], expected: Tensor, say: Callable[[str], None], together: int = 1
) -> list:
    """The candidates that run on this device and give the right result; the others are named with the reason.

    ``together`` of them are tried at once: first calls compile, which takes most of a tuner's time.
    """

    def wrong(config: Any) -> str:
        try:
            result = run(config)
        except Exception as error:  # a tile too large for this device, or one that this triton cannot compile
            return f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"
        return "" if _right(result, expected) else "its result is wrong"

    configs = list(candidates)
    with ThreadPoolExecutor(together) as threads:
        reasons = dict(zip(configs, threads.map(wrong, configs)))
    for config, reason in reasons.items():
        if reason:
            say(f"left out {tuple(config)}: {reason}")
    return [config for config, reason in reasons.items() if not reason]


def _at_once(device: torch.device) -> int:
    """How many candidates are tried together; one by one where Triton interprets them, which it does in one thread."""
    return min(16, os.cpu_count() or 1) if device.type == "cuda" else 1


def _entry(op: str, dtype: torch.dtype, layout: str, shape: str, configurations: dict, seconds: dict) -> _table.Entry:
    """The entry of a call from the seconds of each backend and direction: the backend with the smaller sum."""
    totals = {backend: sum(taken.values()) for backend, taken in seconds.items() if taken}
    return {
        "op": op,
        "dtype": _table.dtype_name(dtype),
        "layout": layout,
        "shape": shape,
        "backend": min(totals, key=totals.__getitem__),
        "configurations": {direction: config._asdict() for direction, config in configurations.items()},
        "seconds": seconds,
    }


def tune_convolution(
    case: Convolution,
    dtype: torch.dtype,
    layout: str,
    device: torch.device,
    clock: Clock,
    rounds: int,
    say: Callable[[str], None],
) -> _table.Entry:
    """Forward, input gradient and weight gradient by every configuration, and by the other backends that serve."""
    from fastgan.kernels import reflection_pad_conv2d as kernels

    n, c, side, outputs, k, pad = case
    how = ((1, 1), (pad, pad), (1, 1))
    weight_shape = (outputs, c, k, k)
    size = reflection_pad_conv2d.output_size((side, side), (k, k), *how)
    precision = reflection_pad_conv2d.fp32_precision()

    def make() -> tuple[Tensor, ...]:
        shapes = ((n, c, side, side), weight_shape, (n, outputs, *size))
        scales = (1.0, 1 / math.sqrt(c * k * k), 1.0)
        x, weight, dy = (
            (torch.randn(s, device=device) * scale).to(dtype=dtype, memory_format=_FORMATS[layout])
            for s, scale in zip(shapes, scales)
        )
        return x, weight, torch.randn(outputs, device=device).to(dtype), dy

    sets = _sets(make, device)
    graphs = []
    for x, weight, bias, dy in sets:
        x, weight = x.detach().requires_grad_(), weight.detach().requires_grad_()
        graphs.append((reflection_pad_conv2d.halo(x, weight, bias, *how, 1), x, weight, dy))

    def halo(direction: str, index: int) -> Tensor:
        y, x, weight, dy = graphs[index % len(sets)]
        if direction == "forward":
            with torch.no_grad():
                return reflection_pad_conv2d.halo(x, weight, sets[index % len(sets)][2], *how, 1)
        leaf = x if direction == "input_gradient" else weight
        return torch.autograd.grad(y, leaf, dy, retain_graph=True)[0]

    def run(backend: Backend, direction: str, config: Any, index: int) -> Tensor:
        if backend.takes_any:
            return halo(direction, index)
        x, weight, bias, dy = sets[index % len(sets)]
        if direction == "forward":
            return backend.launchers.forward(x, weight, bias, *how, precision, config)
        last = (precision, layout == "nhwc", config)
        if direction == "input_gradient":
            return backend.launchers.input_gradient(dy, weight, (side, side), *how, *last)
        return backend.launchers.weight_gradient(dy, x, (k, k), *how, *last)

    op = reflection_pad_conv2d.OP
    triton, call = op["triton"], Call(device.type, dtype, None, sets[0][0], sets[0][1], *how)
    others = [
        each for each in op.backends[:-1] if each is not triton and not each.refuses(call._replace(asked=each.name))
    ]
    best: dict[str, Any] = {}
    seconds: dict[str, dict[str, float]] = {each.name: {} for each in (triton, *others)}
    g = kernels.geometry((n, c, side, side), weight_shape, *how)
    for direction in kernels.DIRECTIONS:
        candidates = kernels.candidates(direction, layout, g, dtype.itemsize, precision)
        attempt = functools.partial(run, triton, direction, index=0)
        usable = _usable(candidates, attempt, halo(direction, 0), say, _at_once(device))
        runners: dict[Any, Runner] = {config: functools.partial(run, triton, direction, config) for config in usable}
        runners |= {each.name: functools.partial(run, each, direction, None) for each in others}
        taken = medians(runners, clock, rounds)
        for each in others:
            seconds[each.name][direction] = taken.pop(each.name)
        if taken:
            best[direction] = min(taken, key=taken.__getitem__)
            seconds["triton"][direction] = taken[best[direction]]
    if len(best) < len(kernels.DIRECTIONS):
        seconds["triton"], best = {}, {}
    shape = reflection_pad_conv2d.shape_key((n, c, side, side), weight_shape, *how)
    return _entry("reflection_pad_conv2d", dtype, layout, shape, best, seconds)


def tune_norm(
    case: Norm,
    dtype: torch.dtype,
    layout: str,
    device: torch.device,
    clock: Clock,
    rounds: int,
    say: Callable[[str], None],
) -> _table.Entry:
    """Forward and backward by every configuration of the kernels."""
    from fastgan.kernels import instance_norm as kernels

    n, c, side, halo = case
    wide = side + 2 * halo

    def make() -> tuple[Tensor, ...]:
        x, dy = (
            torch.randn(shape, device=device).to(dtype=dtype, memory_format=_FORMATS[layout])
            for shape in ((n, c, side, side), (n, c, wide, wide))
        )
        return x, dy, *kernels.forward(x, None, None, None, 1e-5, "relu", 0.0, halo)[1:]

    sets = _sets(make, device)

    def run(direction: str, config: Any, index: int) -> Tensor:
        x, dy, mean, rstd = sets[index % len(sets)]
        if direction == "forward":
            return kernels.forward(x, None, None, None, 1e-5, "relu", 0.0, halo, config)[0]
        return kernels.backward(dy, x, mean, rstd, None, None, "relu", 0.0, halo, False, config)[0]

    x = sets[0][0].detach().requires_grad_()
    y = instance_norm.reference(x, activation="relu", halo=halo)
    expected = {"forward": y.detach(), "backward": torch.autograd.grad(y, x, sets[0][1])[0]}
    best: dict[str, Any] = {}
    seconds: dict[str, dict[str, float]] = {"triton": {}}
    for direction, right in expected.items():
        candidates = kernels.candidates(direction, layout, (n, c, side, side), dtype.itemsize)
        usable = _usable(candidates, functools.partial(run, direction, index=0), right, say, _at_once(device))
        taken = medians({config: functools.partial(run, direction, config) for config in usable}, clock, rounds)
        best[direction] = min(taken, key=taken.__getitem__)
        seconds["triton"][direction] = taken[best[direction]]
    return _entry("instance_norm", dtype, layout, instance_norm.shape_key(x.shape, halo), best, seconds)


TUNERS: dict[str, Callable[..., _table.Entry]] = {
    "reflection_pad_conv2d": tune_convolution,
    "instance_norm": tune_norm,
}
