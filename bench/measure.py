"""How long do several functions take, timed turn by turn on a machine that is not quiet?

Functions that are compared run in one interleaved measurement: every round calls each of them once, and the order
rotates from round to round, so that drifting clocks and busy neighbours hit all alike. Quote ratios of medians.
"""

from __future__ import annotations

import gc
import os
import statistics
import time
from collections.abc import Callable, Mapping
from pathlib import Path

import torch

try:
    import resource
except ImportError:  # not a Unix system
    resource = None

Runner = Callable[[int], object]
Clock = Callable[[Runner, int], float]

ASSUMED_CACHE = 4 << 20
ORDINARY_PREEMPTIONS = 20  # a second
LONG = 1.0  # seconds; in a shorter sample the ticks of the system's accounts are too coarse
OTHERS = 0.03  # of the processor: tables count no smaller difference


def host_clock(call: Runner, index: int) -> float:
    """Seconds that ``call(index)`` takes on the host. Its result is freed after the clock has stopped."""
    start = time.perf_counter()
    result = call(index)
    elapsed = time.perf_counter() - start
    del result
    return elapsed


def warm_host_clock(call: Runner, index: int) -> float:
    """As :func:`host_clock`, right after a call on the set of inputs before, which is not timed.

    So the threads are awake and the instructions in cache for every function alike, as in the middle of a training
    step; the timed inputs are not in L2.
    """
    call(index - 1)
    return host_clock(call, index)


def synchronized_clock(call: Runner, index: int) -> float:
    """Seconds from an idle CUDA device to an idle CUDA device, kernel launches included."""
    torch.cuda.synchronize()
    start = time.perf_counter()
    result = call(index)
    torch.cuda.synchronize()
    elapsed = time.perf_counter() - start
    del result
    return elapsed


class DeviceClock:
    """Seconds between two CUDA events around a call; the device is kept busy while the host enqueues.

    So a short op is measured without the gaps between its kernel launches, as it runs inside a CUDA graph.
    """

    def __init__(self, cycles_per_second: float = 2e9) -> None:
        self.cycles_per_second = cycles_per_second
        self.slowest_enqueue = 0.0

    def __call__(self, call: Runner, index: int) -> float:
        start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        torch.cuda._sleep(int(1.5 * self.slowest_enqueue * self.cycles_per_second))
        start.record()
        began = time.perf_counter()
        result = call(index)
        enqueue = time.perf_counter() - began
        end.record()
        end.synchronize()
        # A call that waits for the device, or compiles, says nothing about enqueuing: cap what one call can claim.
        self.slowest_enqueue = max(self.slowest_enqueue, min(enqueue, 2e-3))
        del result
        return start.elapsed_time(end) / 1e3


def op_clock(device: torch.device | str) -> Clock:
    """The clock for a single op on ``device``: events on CUDA, the host's clock between calls elsewhere."""
    return DeviceClock() if torch.device(device).type == "cuda" else warm_host_clock


def step_clock(device: torch.device | str) -> Clock:
    """The clock for a training step on ``device``: wall time, the device idle at both ends."""
    return synchronized_clock if torch.device(device).type == "cuda" else host_clock


def cache_bytes(device: torch.device | str) -> int:
    """Bytes of L2, of all cores together on a CPU; 4 MiB where a CPU's cannot be read.

    A CPU's L3 is left out: in a training step an op reads what the layer before has just written there.
    """
    device = torch.device(device)
    if device.type == "cuda":
        return torch.cuda.get_device_properties(device).L2_cache_size
    try:
        size = Path("/sys/devices/system/cpu/cpu0/cache/index2/size").read_text().strip()
        return (int(size.removesuffix("K")) << 10) * (os.cpu_count() or 1)
    except (OSError, ValueError):
        return ASSUMED_CACHE


def copies_beyond_cache(bytes_per_call: int, device: torch.device | str, most: int = 32) -> int:
    """How many sets of inputs to rotate, so that twice the cache lies between two uses of one set."""
    return max(1, min(most, -(-2 * cache_bytes(device) // max(1, bytes_per_call))))


def _preemptions() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_nivcsw if resource else 0


def _taken_by_others() -> float | None:
    """Seconds of processor time that other processes, and other virtual machines, have taken; None where unknown."""
    try:
        fields = Path("/proc/stat").read_text().split(maxsplit=9)[1:9]
    except OSError:
        return None
    user, nice, system, _idle, _waiting, interrupts, soft_interrupts, stolen = map(int, fields)
    ticks = user + nice + system + interrupts + soft_interrupts + stolen
    return ticks / os.sysconf("SC_CLK_TCK") - time.process_time()


class Timing:
    """The samples of one function: seconds, and how many samples another process cut into."""

    def __init__(self) -> None:
        self.seconds: list[float] = []
        self.preempted = 0

    def summary(self) -> dict[str, float | int]:
        """Minimum, 20 % quantile, median and 80 % quantile in seconds, sample count, share of preempted samples."""
        low, high = self.seconds[0], self.seconds[0]
        if len(self.seconds) > 1:
            low, *_, high = statistics.quantiles(self.seconds, n=5, method="inclusive")
        return {
            "min": min(self.seconds),
            "q20": low,
            "median": statistics.median(self.seconds),
            "q80": high,
            "samples": len(self.seconds),
            "preempted": self.preempted / len(self.seconds),
        }


class Comparison:
    """Runs functions in rounds, each function once per round, and keeps their times.

    Each function gets the number of the round, to choose among its sets of inputs. A driver that has its own loop
    around one of them (pytest-benchmark) calls ``before(name)``, ``turn(name)``, ``after(name)`` for every round.
    """

    def __init__(self, runners: Mapping[str, Runner], clock: Clock = host_clock) -> None:
        self.runners = dict(runners)
        self.clock = clock
        self.timings = {name: Timing() for name in self.runners}
        self.number = 0

    def warm_up(self, seconds: float, least: int = 2) -> float:
        """Run rounds without keeping times for about ``seconds``, at least ``least``; seconds of the shortest round."""
        gc.collect()
        start, shortest, done = time.perf_counter(), float("inf"), 0
        while done < least or time.perf_counter() - start < seconds:
            began = time.perf_counter()
            for run in self.runners.values():
                self.clock(run, self.number)
            shortest = min(shortest, time.perf_counter() - began)
            self.number += 1
            done += 1
        return shortest

    def turn(self, name: str) -> None:
        """Time one function in the present round."""
        timing = self.timings[name]
        preemptions, taken = _preemptions(), _taken_by_others()
        timing.seconds.append(self.clock(self.runners[name], self.number))
        seconds, after = timing.seconds[-1], _taken_by_others()
        if seconds >= LONG and taken is not None and after is not None:
            # With a thread on every core, work that takes 1 % of the processor preempts a step 30 times a second.
            timing.preempted += after - taken > OTHERS * seconds * (os.cpu_count() or 1)
        else:  # the system's own work cuts into every second a few times
            timing.preempted += _preemptions() - preemptions > ORDINARY_PREEMPTIONS * seconds

    def _order(self) -> list[str]:
        names = list(self.runners)
        first = self.number % len(names)
        return names[first:] + names[:first]

    def before(self, name: str) -> None:
        """Time the functions that come before ``name`` in the present round."""
        order = self._order()
        for other in order[: order.index(name)]:
            self.turn(other)

    def after(self, name: str) -> None:
        """Time the functions that come after ``name``, and end the round."""
        order = self._order()
        for other in order[order.index(name) + 1 :]:
            self.turn(other)
        self.number += 1


def rounds_within(seconds: float, round_seconds: float, least: int = 5, most: int = 500) -> int:
    """How many rounds of ``round_seconds`` fit into ``seconds``, within bounds."""
    return max(least, min(most, int(seconds / max(round_seconds, 1e-9))))


def interleaved(
    runners: Mapping[str, Runner],
    seconds: float,
    clock: Clock = host_clock,
    least: int = 5,
    most: int = 500,
) -> dict[str, Timing]:
    """Warm up and time ``runners`` turn by turn, for about ``seconds`` in all; each gets the number of the round."""
    comparison = Comparison(runners, clock)
    rounds = rounds_within(seconds, comparison.warm_up(seconds / 5), least, most)
    first = next(iter(comparison.runners))
    for _ in range(rounds):
        comparison.before(first)
        comparison.turn(first)
        comparison.after(first)
    return comparison.timings
