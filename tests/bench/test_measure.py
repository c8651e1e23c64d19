"""Interleaved timing: everybody's turn comes once a round, in rotating order, and warm-up leaves no trace."""

import os
import time
from pathlib import Path

import pytest

from bench import measure


def logged(names):
    calls = []
    return calls, {name: lambda number, name=name: calls.append((name, number)) for name in names}


def test_every_round_calls_each_function_once_in_rotating_order():
    calls, runners = logged("abc")
    comparison = measure.Comparison(runners)
    for _ in range(6):
        comparison.before("b")
        comparison.turn("b")
        comparison.after("b")
    rounds = [calls[i : i + 3] for i in range(0, len(calls), 3)]
    assert ["".join(name for name, _ in turn) for turn in rounds] == ["abc", "bca", "cab"] * 2
    assert [{number for _, number in turn} for turn in rounds] == [{i} for i in range(6)]


def test_interleaved_keeps_equally_many_samples_of_each_and_none_of_the_warm_up():
    calls, runners = logged("ab")
    timings = measure.interleaved(runners, seconds=1e-4, least=7, most=7)
    assert [len(timing.seconds) for timing in timings.values()] == [7, 7]
    assert len(calls) >= 2 * (7 + 2)


def test_summary_orders_its_quantiles_and_takes_a_single_sample():
    timing = measure.Timing()
    timing.seconds = [5.0, 1.0, 2.0, 4.0, 3.0]
    timing.preempted = 1
    assert timing.summary() == {"min": 1.0, "q20": 1.8, "median": 3.0, "q80": 4.2, "samples": 5, "preempted": 0.2}
    timing.seconds = [2.0]
    assert timing.summary()["q20"] == timing.summary()["q80"] == 2.0


@pytest.mark.skipif(not Path("/proc/stat").exists(), reason="the system keeps no accounts in /proc")
@pytest.mark.parametrize("busy", [False, True])
def test_a_long_sample_is_preempted_where_others_compute(monkeypatch, busy):
    """By others' share of the processor, however often this process is preempted."""
    monkeypatch.setattr(measure, "LONG", 0.01)
    monkeypatch.setattr(measure, "_preemptions", iter(range(0, 10**9, 10**6)).__next__)
    accounts = iter([5.0, 5.0 + (0.2 if busy else 0.0)])
    monkeypatch.setattr(measure, "_taken_by_others", accounts.__next__)
    comparison = measure.Comparison({"a": lambda _: time.sleep(0.02)})
    comparison.turn("a")
    assert comparison.timings["a"].preempted == busy


@pytest.mark.skipif(not Path("/proc/stat").exists(), reason="the system keeps no accounts in /proc")
def test_the_time_of_this_process_is_not_that_of_others():
    before, own, began = measure._taken_by_others(), time.process_time(), time.perf_counter()
    while time.process_time() - own < 1.0:
        pass
    elapsed = time.perf_counter() - began
    taken = measure._taken_by_others() - before
    assert -0.1 <= taken <= elapsed * (os.cpu_count() or 1) - 1.0 + 0.1


def test_rounds_stay_within_their_bounds():
    assert measure.rounds_within(1.0, 0.1) == 10
    assert measure.rounds_within(1.0, 10.0) == 5
    assert measure.rounds_within(1.0, 0.0) == 500


def test_inputs_are_rotated_over_twice_the_cache_unless_one_set_is_larger():
    cache = measure.cache_bytes("cpu")
    assert cache >= 1 << 18
    assert measure.copies_beyond_cache(cache, "cpu") == 2
    assert measure.copies_beyond_cache(3 * cache, "cpu") == 1
    assert measure.copies_beyond_cache(1, "cpu") == 32
