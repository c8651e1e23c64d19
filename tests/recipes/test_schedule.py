"""Learning-rate schedules, epoch by epoch."""

import io
import math

import pytest
import torch

from fastgan.recipes.schedule import LR_POLICIES, make_scheduler

LR = 2e-4


def build(policy, **kwargs):
    optimizer = torch.optim.Adam([torch.nn.Parameter(torch.zeros(1))], lr=LR)
    options = dict(n_epochs=100, n_epochs_decay=100, lr_decay_iters=50) | kwargs
    return optimizer, make_scheduler(optimizer, policy, **options)


def rates(policy, epochs, losses=None, **kwargs):
    """The factor on the learning rate during epochs 1, 2, ..."""
    optimizer, scheduler = build(policy, **kwargs)
    factors = []
    for epoch in range(epochs):
        factors.append(optimizer.param_groups[0]["lr"] / LR)
        optimizer.step()
        scheduler.step(*([losses[epoch]] if losses else []))
    return factors


def test_linear_is_constant_and_then_falls_in_equal_steps():
    factors = rates("linear", 200)
    assert factors[:100] == [1.0] * 100
    assert factors[100:] == pytest.approx([1 - k / 101 for k in range(1, 101)])
    assert factors[-1] == pytest.approx(1 / 101)


def test_linear_without_constant_part():
    assert rates("linear", 3, n_epochs=0, n_epochs_decay=3) == pytest.approx([3 / 4, 2 / 4, 1 / 4])


def test_step():
    assert rates("step", 101) == pytest.approx([1.0] * 50 + [0.1] * 50 + [0.01])


def test_cosine():
    factors = rates("cosine", 101)
    assert factors == pytest.approx([(1 + math.cos(math.pi * k / 100)) / 2 for k in range(101)], abs=1e-9)


def test_plateau_waits_five_epochs_without_a_one_percent_improvement():
    assert rates("plateau", 9, [1.0] * 9) == pytest.approx([1.0] * 7 + [0.2] * 2)
    assert rates("plateau", 9, [0.9 ** k for k in range(9)]) == [1.0] * 9
    assert rates("plateau", 9, [0.999 ** k for k in range(9)]) == pytest.approx([1.0] * 7 + [0.2] * 2)


@pytest.mark.parametrize("policy", LR_POLICIES)
def test_state_survives_a_file(policy):
    optimizer, scheduler = build(policy, n_epochs=3, n_epochs_decay=9, lr_decay_iters=4)
    other_optimizer, other = build(policy, n_epochs=3, n_epochs_decay=9, lr_decay_iters=4)

    def advance(scheduler, optimizer):
        optimizer.step()
        scheduler.step(*([1.0] if policy == "plateau" else []))
        return optimizer.param_groups[0]["lr"]

    for _ in range(5):
        advance(scheduler, optimizer)
    file = io.BytesIO()
    torch.save([scheduler.state_dict(), optimizer.state_dict()], file)
    file.seek(0)
    state, optimizer_state = torch.load(file, weights_only=True)
    other.load_state_dict(state)
    other_optimizer.load_state_dict(optimizer_state)
    for _ in range(5):
        assert advance(scheduler, optimizer) == advance(other, other_optimizer)


def test_unknown_policy_lists_the_choices():
    with pytest.raises(ValueError, match="'warm'.*linear, step, plateau, cosine"):
        build("warm")
