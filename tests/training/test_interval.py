"""What is due in a run, by steps and by the clock."""

import math

import pytest

from fastgan._errors import UserError
from fastgan.training import interval
from fastgan.training.interval import Due, Interval, read_interval


@pytest.mark.parametrize(
    ("text", "steps", "seconds"),
    [
        ("1000", 1000, math.inf),
        ("10m", 0, 600),
        ("1000|10m", 1000, 600),
        ("500,60s", 500, 60),
        ("1.5h , 7", 7, 5400),
        ("0", 0, math.inf),
        ("0,90s", 0, 90),
    ],
)
def test_intervals(text, steps, seconds):
    assert read_interval(text, "--save-every") == Interval(steps, seconds)


@pytest.mark.parametrize(
    "text", ["", "-1", "ten", "10x", "5,5", "1m,1m", "1000|", "1e3", "0s", "10m|1000|10m", "9" * 30]
)
def test_no_intervals(text):
    with pytest.raises(UserError, match="^--save-every is .*: give steps, a time, or both, such as 1000, 10m"):
        read_interval(text, "--save-every")


@pytest.fixture
def clock(monkeypatch):
    """A clock that is set by hand."""

    class Clock:
        now = 100.0

    monkeypatch.setattr(interval.time, "monotonic", lambda: Clock.now)
    return Clock


def due_steps(due, total, clock, seconds, cost):
    """The steps after which it is due, where each step takes so long, and doing it costs so much."""
    found = []
    for step in range(1, total + 1):
        clock.now += seconds
        if due.after(step):
            found.append(step)
            clock.now += cost
            due.done()
    return found


@pytest.mark.parametrize(
    ("text", "total", "seconds", "cost", "steps"),
    [
        ("4", 10, 1, 0, [1, 4, 8]),
        ("4", None, 1, 0, [1, 4, 8]),
        ("1000", 10, 1, 0, [1, 3, 6, 9]),  # quarters
        ("1000", 3, 1, 0, [1, 2, 3]),
        ("1000,4s", None, 1, 0, [1, 5, 9]),
        ("4s", 10, 1, 0, [1, 5, 9]),
        ("4s", 10, 3, 0, [1, 3, 5, 7, 9]),
        ("6,4s", 10, 1, 0, [1, 5, 6, 10]),
        ("0", 10, 1, 0, []),
        ("1s", 10, 1, 0.25, [1, 6]),  # once in five seconds
        ("2", 10, 1, 5, [1, 2, 4, 6, 8, 10]),  # by steps whatever it costs
    ],
)
def test_what_is_due(clock, text, total, seconds, cost, steps):
    due = Due(read_interval(text, "--x"), total)
    assert due_steps(due, total or 10, clock, seconds, cost) == steps


def test_a_run_that_goes_on_makes_no_first_step(clock):
    due = Due(read_interval("4,60s", "--x"), 100)
    assert [step for step in range(5, 10) if due.after(step)] == [8]
