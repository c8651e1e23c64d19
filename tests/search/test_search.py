"""A fixed sample of the random search in every run of the tests; the whole of it by ``make search``."""

import pytest
import torch

import fastgan.functional

from . import calls, campaign, judge

SAMPLE = 80


@pytest.fixture(scope="module")
def sample():
    """The outcomes of a fixed sample of every op, by op: one process for all of them."""
    found = {op: [] for op in calls.OPS}
    for outcome in campaign.run([(op, number) for op in calls.OPS for number in range(SAMPLE)]):
        found[outcome.op].append(outcome)
    return found


@pytest.mark.parametrize("op", calls.OPS)
def test_sample(op, sample):
    faults = [outcome for outcome in sample[op] if outcome.fault]
    told = "\n".join(f"{o.line}\n    {o.call}\n    {o.fault}" for o in faults[:5])
    assert not faults, f"{len(faults)} of {SAMPLE} calls of {op} are wrong:\n{told}"
    assert len(sample[op]) == SAMPLE
    judged = [outcome for outcome in sample[op] if not outcome.refused]
    assert len(judged) > 0.8 * SAMPLE and sum(outcome.second for outcome in judged) > 0.1 * SAMPLE


def test_every_public_function_is_searched():
    assert sorted(calls.OPS) == sorted(fastgan.functional.__all__)


def test_a_case_is_the_same_each_time():
    for op in calls.OPS:
        first, second = calls.draw(op, 7), calls.draw(op, 7)
        assert str(first) == str(second)
        for a, b in zip(first.tensors.values(), second.tensors.values()):
            assert torch.equal(a.nan_to_num(nan=5.0), b.nan_to_num(nan=5.0))


def spoiled(change):
    """A judge of a wrong implementation: ours, its output changed."""

    def function(**arguments):
        y = fastgan.functional.mse_loss(**arguments)
        return change(y)

    return function


@pytest.mark.parametrize(
    "change",
    [
        lambda y: y * (1 + 1e-4),
        lambda y: y.detach() + 0 * y,
        lambda y: y.double(),
        lambda y: y.unsqueeze(0),
        lambda y: y + torch.rand(()) * y.detach().abs().mean() * 1e-3,
        lambda y: y * torch.nan,
    ],
    ids=["value", "gradient", "dtype", "shape", "random", "nan"],
)
def test_the_judge_finds_what_is_wrong(change, monkeypatch):
    """Each kind of wrong result is a fault in nearly all cases; the right one in none."""
    numbers = [n for n in range(60) if calls.draw("mse_loss", n).dtype == torch.float32]
    numbers = [n for n in numbers if "input" in calls.draw("mse_loss", n).wanted]
    assert not any(judge.judge(calls.draw("mse_loss", n)).fault for n in numbers)
    monkeypatch.setattr(judge, "function_of", lambda op, subject: spoiled(change))
    found = sum(bool(judge.judge(calls.draw("mse_loss", n)).fault) for n in numbers)
    assert found > 0.7 * len(numbers), f"{found} of {len(numbers)}"


def test_a_crash_is_an_outcome():
    """The process that a case ends is replaced, and the search goes on."""
    outcomes = list(campaign.run([("l1_loss", number) for number in range(3)], subject="crash"))
    assert [bool(outcome.fault) for outcome in outcomes] == [False, True, False]
    assert "ends the process with code -" in outcomes[1].fault and outcomes[1].call.startswith("l1_loss")
