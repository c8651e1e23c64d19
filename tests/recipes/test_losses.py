"""Adversarial losses against their formulas, and the gradient penalty."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from fastgan import nn as fnn
from fastgan.recipes.losses import GANLoss, gradient_penalty, real_gradient_penalty

FORMULAS = {
    "lsgan": lambda x, label: ((x - label) ** 2).mean(),
    "vanilla": lambda x, label: F.binary_cross_entropy_with_logits(x, torch.full_like(x, label)),
    "wgangp": lambda x, label: x.mean() if label == 0 else -x.mean(),
}


@pytest.mark.parametrize("mode", FORMULAS)
@pytest.mark.parametrize("is_real", [True, False])
def test_value_and_gradient(mode, is_real):
    torch.manual_seed(0)
    logits = torch.randn(2, 1, 5, 5, requires_grad=True)
    loss = GANLoss(mode)(logits, is_real)
    expected = FORMULAS[mode](logits, 1.0 if is_real else 0.0)
    assert loss.shape == ()
    torch.testing.assert_close(loss, expected)
    (ours,) = torch.autograd.grad(loss, logits)
    (its,) = torch.autograd.grad(expected, logits)
    torch.testing.assert_close(ours, its)


@pytest.mark.parametrize("mode", FORMULAS)
def test_half_precision_logits_give_a_single_precision_loss_of_the_same_value(mode):
    logits = torch.linspace(-3, 3, 77).bfloat16().view(1, 1, 7, 11)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = GANLoss(mode)(logits, True)
    torch.testing.assert_close(loss.float(), FORMULAS[mode](logits.float(), 1.0), rtol=1e-5, atol=1e-5)


def test_unknown_mode_lists_the_choices():
    with pytest.raises(ValueError, match="'hinge'.*lsgan, vanilla, wgangp"):
        GANLoss("hinge")


def test_penalty_of_a_linear_critic_is_known():
    critic = nn.Sequential(nn.Flatten(), nn.Linear(12, 1)).double()
    real, fake = torch.randn(2, 4, 3, 2, 2, dtype=torch.float64)
    penalty = gradient_penalty(critic, real, fake, weight=10.0)
    torch.testing.assert_close(penalty, 10 * (critic[1].weight.norm() - 1) ** 2)
    penalty.backward()
    weight = critic[1].weight.detach()
    torch.testing.assert_close(critic[1].weight.grad, 20 * (weight.norm() - 1) * weight / weight.norm())


def test_penalty_at_real_images_of_a_linear_discriminator_is_known():
    discriminator = nn.Sequential(nn.Flatten(), nn.Linear(12, 1)).double()
    real = torch.randn(4, 3, 2, 2, dtype=torch.float64, requires_grad=True)
    penalty = real_gradient_penalty(discriminator, real, gamma=3.0)
    weight = discriminator[1].weight
    torch.testing.assert_close(penalty, 1.5 * weight.square().sum())
    penalty.backward()
    torch.testing.assert_close(weight.grad, 3 * weight)
    assert real.grad is None


def test_penalty_is_taken_between_real_and_fake_and_reaches_neither():
    class Watch(nn.Module):
        def forward(self, x):
            self.seen = x.detach().clone()
            return x.square().sum((1, 2, 3))

    critic = Watch()
    real, fake = torch.ones(64, 1, 2, 2, requires_grad=True), torch.zeros(64, 1, 2, 2, requires_grad=True)
    gradient_penalty(critic, real, fake)
    position = critic.seen[:, 0, 0, 0]
    assert torch.equal(critic.seen, position.view(-1, 1, 1, 1).expand_as(critic.seen))
    assert 0 <= position.min() < 0.2 and 0.8 < position.max() <= 1
    assert real.grad is None and fake.grad is None


def test_penalty_through_our_norm_passes_gradcheck():
    torch.manual_seed(0)
    norm = fnn.InstanceNorm2d(2, activation="leaky_relu").double()
    last = torch.randn(1, 2, 3, 3, dtype=torch.float64)
    real, fake = torch.randn(2, 2, 1, 5, 5, dtype=torch.float64)

    class Critic(nn.Module):
        def __init__(self, weight):
            super().__init__()
            self.weight = weight

        def forward(self, x):
            return F.conv2d(norm(F.conv2d(x, self.weight)), last)

    def penalty(weight):
        torch.manual_seed(5)
        return gradient_penalty(Critic(weight), real, fake)

    assert torch.autograd.gradcheck(penalty, torch.randn(2, 1, 3, 3, dtype=torch.float64, requires_grad=True))


def test_penalty_stays_in_single_precision_under_autocast():
    critic = nn.Conv2d(3, 1, 3)
    real, fake = torch.randn(2, 2, 3, 8, 8)
    torch.manual_seed(0)
    expected = gradient_penalty(critic, real, fake)
    torch.manual_seed(0)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        penalty = gradient_penalty(critic, real, fake)
    assert penalty.dtype == torch.float32 and torch.equal(penalty, expected)


def test_penalty_needs_equal_shapes():
    with pytest.raises(ValueError, match=r"\(1, 3, 8, 8\) and \(1, 3, 8, 12\)"):
        gradient_penalty(nn.Conv2d(3, 1, 3), torch.zeros(1, 3, 8, 8), torch.zeros(1, 3, 8, 12))
