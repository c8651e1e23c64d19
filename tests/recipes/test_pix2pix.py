"""The pix2pix recipe: its contract, who learns from what, resuming, errors."""

import copy
import io

import pytest
import torch
from torch import nn

from fastgan import nn as fnn
from fastgan import recipes
from fastgan.recipes.cyclegan import CycleGAN, CycleGANOptions
from fastgan.recipes.pix2pix import Pix2Pix, Pix2PixOptions

TINY = dict(netG="resnet_6blocks", ngf=2, netD="n_layers", n_layers_D=1, ndf=2)


def make(seed=0, precision="fp32", **options):
    torch.manual_seed(seed)
    return Pix2Pix(Pix2PixOptions(**TINY | options), precision=precision)


def batches(count=1, size=16, n=2):
    generator = torch.Generator().manual_seed(0)
    return [{name: 2 * torch.rand(n, 3, size, size, generator=generator) - 1 for name in "AB"} for _ in range(count)]


def test_paper_defaults():
    o = Pix2PixOptions()
    assert (o.netG, o.netD, o.norm, o.dropout, o.gan_mode) == ("unet_256", "basic", "batch", True, "vanilla")
    assert (o.pool_size, o.lambda_L1, o.lr, o.beta1) == (0, 100.0, 2e-4, 0.5)
    assert (o.init_type, o.init_gain, o.n_epochs, o.n_epochs_decay, o.lr_policy) == ("normal", 0.02, 100, 100, "linear")
    assert recipes.get("pix2pix") is Pix2Pix and Pix2Pix.data_kind == "aligned" and Pix2Pix.presets["paper"] == {}


def test_the_discriminator_judges_pairs():
    recipe = make()
    D = recipe.networks["D"]
    assert D.model[0].in_channels == 6
    seen = []
    D.register_forward_hook(lambda module, inputs, output: seen.append(inputs[0].detach().clone()))
    batch = batches()[0]
    recipe.step(batch)
    fake, real, fooling = seen
    for pair in seen:
        assert torch.equal(pair[:, :3], batch["A"])
    assert torch.equal(real[:, 3:], batch["B"]) and torch.equal(fake, fooling)
    assert not torch.equal(fake[:, 3:], batch["B"])


@pytest.mark.parametrize("gan_mode", ["vanilla", "lsgan", "wgangp"])
def test_a_step(gan_mode):
    recipe = make(gan_mode=gan_mode, norm="instance")
    losses = recipe.step(batches()[0])
    assert list(losses) == ["G_GAN", "G_L1", "D_real", "D_fake"] + ["gp"] * (gan_mode == "wgangp")
    assert all(loss.isfinite() and not loss.requires_grad for loss in losses.values())


def test_no_gradient_crosses_between_generator_and_discriminator():
    recipe = make()
    G, D = recipe.networks["G"], recipe.networks["D"]
    updates, plain_update = [], recipe.update

    def update(name, loss):
        other = D if name == "G" else G
        before = [None if p.grad is None else p.grad.clone() for p in other.parameters()]
        plain_update(name, loss)
        assert all((p.grad is None and q is None) or torch.equal(p.grad, q) for p, q in zip(other.parameters(), before))
        updates.append(name)

    recipe.update = update
    for batch in batches(2):
        recipe.step(batch)
    assert updates == ["D", "G", "D", "G"]


def test_a_run_continues_bit_for_bit():
    steps = batches(4)
    whole, first = make(dropout=True, pool_size=3), make(dropout=True, pool_size=3)
    torch.manual_seed(5)
    for batch in steps:
        whole.step(batch)
    torch.manual_seed(5)
    for batch in steps[:2]:
        first.step(batch)
    file, rng = io.BytesIO(), torch.get_rng_state()
    torch.save(first.state_dict(), file)
    file.seek(0)
    second = make(seed=9, dropout=True, pool_size=3)
    second.load_state_dict(torch.load(file, weights_only=True))
    torch.set_rng_state(rng)
    for batch in steps[2:]:
        second.step(batch)
    for name, network in whole.networks.items():
        for key, value in network.state_dict().items():
            assert torch.equal(value, second.networks[name].state_dict()[key]), f"{name}.{key}"


def test_translation_is_in_evaluation_mode():
    recipe = make(dropout=True)
    images = batches()[0]["A"]
    recipe.step(batches()[0])
    one, other = recipe.translate(images, "AtoB"), recipe.translate(images, "AtoB")
    assert torch.equal(one, other) and recipe.networks["G"].training
    assert list(recipe.sample(batches()[0])) == ["real_A", "fake_B", "real_B"]
    with pytest.raises(ValueError, match="unknown direction 'BtoA': pix2pix learns one"):
        recipe.translate(images, "BtoA")


def test_translation_by_the_statistics_of_each_image():
    """What a network in training mode makes of one image at a time, without dropout; nothing stays behind."""
    recipe = make(dropout=True)
    recipe.step(batches()[0])
    G, images = recipe.networks["G"], batches()[0]["B"]
    before = {key: value.clone() for key, value in G.state_dict().items()}
    together = recipe.translate(images, "AtoB")
    assert all(torch.equal(value, before[key]) for key, value in G.state_dict().items())

    alone = copy.deepcopy(G)
    for module in alone.modules():
        module.training = isinstance(module, nn.BatchNorm2d)
    with torch.no_grad():
        expected = torch.cat([alone(image[None]) for image in images])
        by_running_statistics = G.eval()(images)
    torch.testing.assert_close(together, expected, rtol=0, atol=1e-5)
    assert (together - by_running_statistics).abs().max() > 0.01


def test_sizes_and_options_that_do_not_fit():
    with pytest.raises(ValueError, match="100x128 .* multiples of 128"):
        make(netG="unet_128", netD="basic").check_images(100, 128)
    with pytest.raises(ValueError, match="use norm instance or none"):
        make(gan_mode="wgangp")
    with pytest.raises(ValueError, match="--lambda-L1 is -1.* it must be 0 or more"):
        make(lambda_L1=-1.0)


@pytest.mark.parametrize("netG", ["unet_128", "johnson_5blocks"])
@pytest.mark.parametrize("norm", ["instance", "batch"])
def test_cyclegan_takes_the_other_generators(netG, norm):
    torch.manual_seed(0)
    recipe = CycleGAN(CycleGANOptions(netG=netG, norm=norm, ngf=2, netD="n_layers", n_layers_D=1, ndf=2))
    losses = recipe.step(batches(size=128 if netG == "unet_128" else 44, n=1)[0])
    assert all(loss.isfinite() for loss in losses.values())
    for network in recipe.networks.values():
        stock = [
            module
            for module in network.modules()
            if isinstance(module, (nn.BatchNorm2d, nn.InstanceNorm2d, nn.ConvTranspose2d, nn.ReflectionPad2d))
        ]
        assert stock and all(
            isinstance(module, (fnn.BatchNorm2d, fnn.InstanceNorm2d, fnn.ConvTranspose2d, fnn.ReflectionPad2d))
            or not module.bias.requires_grad
            for module in stock
        )
