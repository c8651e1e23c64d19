"""Learning-rate schedules, epoch by epoch."""

import io
import math

import pytest
import torch

from fastgan import recipes
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
    assert rates("plateau", 9, [0.9**k for k in range(9)]) == [1.0] * 9
    assert rates("plateau", 9, [0.999**k for k in range(9)]) == pytest.approx([1.0] * 7 + [0.2] * 2)


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


def test_a_cosine_over_no_epochs_is_refused():
    with pytest.raises(ValueError, match="lr_policy cosine falls over n_epochs, which is 0: it must be at least 1"):
        build("cosine", n_epochs=0)


def torchs(policy, optimizer, n_epochs, n_epochs_decay, lr_decay_iters):
    """The same schedule by torch's own scheduler."""
    schedulers = torch.optim.lr_scheduler
    if policy == "step":
        return schedulers.StepLR(optimizer, lr_decay_iters, gamma=0.1)
    if policy == "cosine":
        return schedulers.CosineAnnealingLR(optimizer, n_epochs)
    if policy == "linear":
        return schedulers.SequentialLR(
            optimizer,
            [
                schedulers.ConstantLR(optimizer, 1.0),
                schedulers.LinearLR(optimizer, n_epochs_decay / (n_epochs_decay + 1), 0.0, n_epochs_decay),
            ],
            [n_epochs],
        )
    return schedulers.ReduceLROnPlateau(optimizer, factor=0.2, threshold=0.01, patience=5)


def advance(optimizer, scheduler, epochs, first=0):
    """The rates of the epochs after so many; a plateau begins with the fourth of them."""
    rates = []
    for epoch in range(first, first + epochs):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step(
            *([max(0, 3 - epoch) + 1.0] if isinstance(scheduler, torch.optim.lr_scheduler.ReduceLROnPlateau) else [])
        )
    return rates


def from_start(policy, epochs, lr=LR, ours=False, **lengths):
    optimizer = torch.optim.Adam([torch.nn.Parameter(torch.zeros(1))], lr=lr)
    make = (lambda policy, optimizer, **kwargs: make_scheduler(optimizer, policy, **kwargs)) if ours else torchs
    return advance(optimizer, make(policy, optimizer, **lengths), epochs)


LENGTHS = [
    dict(n_epochs=2, n_epochs_decay=2, lr_decay_iters=3),
    dict(n_epochs=4, n_epochs_decay=4, lr_decay_iters=3),
    dict(n_epochs=9, n_epochs_decay=1, lr_decay_iters=3),
    dict(n_epochs=1, n_epochs_decay=12, lr_decay_iters=3),
]


@pytest.mark.parametrize("policy", LR_POLICIES)
@pytest.mark.parametrize("lengths", LENGTHS)
def test_schedules_are_torchs_own(policy, lengths):
    epochs = lengths["n_epochs"] + lengths["n_epochs_decay"]
    expected = from_start(policy, epochs, **lengths)
    assert from_start(policy, epochs, ours=True, **lengths) == pytest.approx(expected, rel=1e-12, abs=LR * 1e-15)


@pytest.mark.parametrize("policy", LR_POLICIES)
@pytest.mark.parametrize("done", [1, 3, 4])
@pytest.mark.parametrize("before", LENGTHS)
@pytest.mark.parametrize("after", LENGTHS)
def test_another_length_holds_as_if_from_the_start(policy, done, before, after):
    rest = max(1, after["n_epochs"] + after["n_epochs_decay"] - done)
    optimizer, scheduler = build(policy, **before)
    advance(optimizer, scheduler, done)
    other_optimizer, other = build(policy, **after)
    other_optimizer.load_state_dict(optimizer.state_dict())
    other.load_state_dict(scheduler.state_dict())
    went = advance(other_optimizer, other, rest, done)
    assert went == from_start(policy, done + rest, ours=True, **after)[done:]
    assert went == pytest.approx(from_start(policy, done + rest, **after)[done:], rel=1e-12, abs=LR * 1e-15)


@pytest.mark.parametrize("policy", ["step", "cosine", "plateau"])
def test_states_of_torchs_own_schedulers_go_on(policy):
    """As runs of earlier versions saved them."""
    optimizer = torch.optim.Adam([torch.nn.Parameter(torch.zeros(1))], lr=LR)
    scheduler = torchs(policy, optimizer, **LENGTHS[1])
    advance(optimizer, scheduler, 3)
    other_optimizer, other = build(policy, **LENGTHS[1])
    other_optimizer.load_state_dict(optimizer.state_dict())
    other.load_state_dict(scheduler.state_dict())
    assert advance(other_optimizer, other, 9, 3) == pytest.approx(
        advance(optimizer, scheduler, 9, 3), rel=1e-12, abs=LR * 1e-15
    )


@pytest.mark.filterwarnings("ignore:Detected call of .lr_scheduler.step")
@pytest.mark.parametrize("policy", LR_POLICIES)
@pytest.mark.parametrize("done", [0, 2, 11])
@pytest.mark.parametrize("lr", [1e-5, 3e-3, 0.0])
def test_another_learning_rate_holds_as_if_from_the_start(policy, done, lr):
    def make(lr):
        return recipes.get("pix2pix")(
            recipes.get("pix2pix").Options(
                netG="resnet_6blocks",
                ngf=1,
                netD="n_layers",
                n_layers_D=1,
                ndf=1,
                lr=lr,
                lr_policy=policy,
                n_epochs=5,
                n_epochs_decay=9,
                lr_decay_iters=3,
            )
        )

    started, whole, resumed = make(LR), make(lr), make(lr)
    for _epoch in range(done):
        for recipe in (started, whole):
            recipe.end_epoch({"loss": 1.0})
    resumed.load_state_dict(started.state_dict())
    assert lrs(resumed) == lrs(started)
    resumed.change_lr(LR, lr)
    for _ in range(8):
        assert lrs(resumed) == pytest.approx(lrs(whole), rel=1e-12, abs=0)
        for recipe in (resumed, whole):
            recipe.end_epoch({"loss": 1.0})


def lrs(recipe):
    return [group["lr"] for optimizer in recipe.optimizers.values() for group in optimizer.param_groups]


@pytest.mark.parametrize("name", ["wgan", "wgan_gp", "vae", "dcgan"])
def test_rates_without_a_schedule_change_too(name):
    recipe = recipes.get(name)(recipes.get(name).Options(image_size=12, lr=2e-3))
    recipe.change_lr(2e-3, 1e-5)
    assert set(lrs(recipe)) == {1e-5}
    recipe.change_lr(1e-5, 3e-5)
    assert set(lrs(recipe)) == {3e-5}
