"""The CycleGAN recipe against its plain-torch twin: same weights, same data, every loss and the parameters.

How closely can two right implementations agree? In fp64 they part by the growth of rounding errors alone: 20 steps at
the paper's learning rate take 1e-15 to 4e-10. In fp32 the same growth, together with ReLU units that rounding puts on
the other side of zero and Adam's first, sign-like steps, parts even stock torch from stock torch: 20 steps of the twin
in fp32 and in fp64 differ by up to 50 % in some loss at lr 2e-4, and at lr 1e-5 by up to 0.3 % (with oneDNN against
without: 0.4 %; parameters: rms 7.5e-6, largest 7e-5; six runs, 32x32). So there are three tests: fp64 at the paper's
rate, tight; fp32 at the paper's rate, with the twin's state taken over after every step; and fp32 left alone at lr
1e-5, within some five times that natural drift.

Biases that feed an instance norm are left out, by name (`idle_biases`).
"""

import pytest
import torch
import torch.nn.functional as F

from fastgan.models import NLayerDiscriminator
from fastgan.recipes.cyclegan import CycleGAN, CycleGANOptions
from fastgan.recipes.losses import gradient_penalty

from . import cyclegan as plain

STEPS = 20
SMALL = dict(ngf=8, ndf=8, pool_size=4)


def pair(gan_mode, dtype, lr=2e-4, seed=0):
    """The recipe and its twin, with the same weights and the same draws of the image pools."""
    torch.manual_seed(seed)
    recipe = CycleGAN(CycleGANOptions(netG="resnet_6blocks", gan_mode=gan_mode, lr=lr, **SMALL))
    generators = []
    for pool in recipe.pools.values():
        generators.append(torch.Generator())
        generators[-1].set_state(pool.generator.get_state())
    twin = plain.CycleGAN(generators, n_blocks=6, gan_mode=gan_mode, lr=lr, **SMALL)
    for name, network in twin.networks.items():
        network.load_state_dict(recipe.networks[name].state_dict())
        network.to(dtype)
        recipe.networks[name].to(dtype)
    return recipe, twin


def images(dtype, size=32, seed=0):
    """One pair of batches per step: smooth shapes with a little noise."""
    generator = torch.Generator().manual_seed(seed)

    def image():
        coarse = 2 * torch.rand(1, 3, 8, 8, generator=generator, dtype=torch.float64) - 1
        noise = torch.randn(1, 3, size, size, generator=generator, dtype=torch.float64)
        return (F.interpolate(coarse, size=(size, size), mode="bilinear") + 0.1 * noise).clamp(-1, 1).to(dtype)

    return [(image(), image()) for _ in range(STEPS)]


def compared(recipe, twin):
    """(our parameter, the twin's, our optimizer's state, the twin's) for every parameter that matters."""
    for name, network in twin.networks.items():
        ours = dict(recipe.networks[name].named_parameters())
        idle = plain.idle_biases(network)
        assert idle == {key for key, parameter in ours.items() if not parameter.requires_grad}
        for key, parameter in network.named_parameters():
            if key not in idle:
                our_state = recipe.optimizers[name[0]].state[ours[key]]
                its_state = (twin.optimizer_G if name[0] == "G" else twin.optimizer_D).state[parameter]
                yield ours[key], parameter, our_state, its_state


def differences(recipe, twin):
    """(largest, root mean square) difference over all compared parameters."""
    flat = torch.cat([(ours - its).detach().double().flatten() for ours, its, *_ in compared(recipe, twin)])
    return flat.abs().max().item(), flat.square().mean().sqrt().item()


def same_losses(step, ours, its, rtol, atol):
    for name in its:
        torch.testing.assert_close(ours[name], its[name], rtol=rtol, atol=atol,
                                   msg=lambda message: f"step {step}, {name}: {message}")


def steps(recipe, twin, batches):
    for step, (A, B) in enumerate(batches):
        torch.manual_seed(step)  # for the positions of the gradient penalty
        ours = recipe.step({"A": A, "B": B})
        torch.manual_seed(step)
        its = twin.step(A, B)
        assert ours.keys() == its.keys()
        assert len(ours) == (10 if twin.mode == "wgangp" else 8)
        yield step, ours, its


@pytest.mark.parametrize("gan_mode", ["lsgan", "vanilla"])
def test_every_loss_and_the_final_parameters_in_double_precision(gan_mode):
    recipe, twin = pair(gan_mode, torch.float64)
    for step, ours, its in steps(recipe, twin, images(torch.float64)):
        same_losses(step, ours, its, rtol=1e-7, atol=1e-10)  # measured: 4e-10
    largest, _ = differences(recipe, twin)
    assert largest < 1e-8  # measured: 3e-11
    assert all(len(pool.images) == 4 for pool in recipe.pools.values())


def test_wgangp_in_double_precision():
    recipe, twin = pair("wgangp", torch.float64)
    for step, ours, its in steps(recipe, twin, images(torch.float64)[:6]):
        same_losses(step, ours, its, rtol=1e-8, atol=1e-10)
    assert differences(recipe, twin)[0] < 1e-9


@pytest.mark.parametrize("gan_mode", ["lsgan", "vanilla"])
def test_every_step_in_single_precision_from_the_twins_state(gan_mode):
    recipe, twin = pair(gan_mode, torch.float32)
    gradient_errors = []
    for step, ours, its in steps(recipe, twin, images(torch.float32, size=64)):
        same_losses(step, ours, its, rtol=5e-6, atol=1e-6)  # measured: 6e-7
        error = scale = 0.0
        for our_parameter, parameter, our_state, its_state in compared(recipe, twin):
            if our_parameter.grad is not None:
                error += (our_parameter.grad - parameter.grad).double().square().sum().item()
                scale += parameter.grad.double().square().sum().item()
            our_parameter.data.copy_(parameter.data)
            for key, value in its_state.items():
                our_state[key].copy_(value)
        gradient_errors.append((error / scale) ** 0.5)
    # Measured, as rms over all parameters: 4e-6 where no unit changed sides, up to 2e-2 where one did; stock torch with
    # oneDNN against stock torch without: 6e-6 and 1e-2.
    assert sorted(gradient_errors)[STEPS // 4] < 3e-5
    assert max(gradient_errors) < 6e-2


@pytest.mark.parametrize("gan_mode", ["lsgan", "vanilla"])
@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
def test_every_loss_and_the_final_parameters_in_single_precision(gan_mode, memory_format):
    recipe, twin = pair(gan_mode, torch.float32, lr=1e-5)
    recipe.to("cpu", memory_format)
    for step, ours, its in steps(recipe, twin, images(torch.float32)):
        same_losses(step, ours, its, rtol=2e-2, atol=1e-5)  # measured: 3e-3
    largest, rms = differences(recipe, twin)
    assert largest < 2e-4 and rms < 2e-5  # measured: 6e-5 and 7e-6


def test_gradient_penalty_and_its_gradients_are_the_stock_ones():
    torch.manual_seed(0)
    ours = NLayerDiscriminator(ndf=8, n_layers=2).double()
    its = plain.Discriminator(ndf=8, n_layers=2).double()
    its.load_state_dict(ours.state_dict())
    real, fake = torch.randn(2, 3, 3, 24, 20, dtype=torch.float64)
    torch.manual_seed(1)
    our_penalty = gradient_penalty(ours, real, fake)
    torch.manual_seed(1)
    its_penalty = plain.gradient_penalty(its, real, fake)
    torch.testing.assert_close(our_penalty, its_penalty, rtol=1e-12, atol=0)
    our_penalty.backward()
    its_penalty.backward()
    idle = plain.idle_biases(its)
    compared = 0
    for (name, parameter), other in zip(its.named_parameters(), ours.parameters()):
        if name not in idle and parameter.grad is not None:  # the last bias has no part in the gradient
            scale = parameter.grad.abs().max().item()
            torch.testing.assert_close(other.grad, parameter.grad, rtol=1e-9, atol=1e-11 * scale, msg=name)
            compared += 1
    assert compared >= 5
