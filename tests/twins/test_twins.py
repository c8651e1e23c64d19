"""Every recipe but CycleGAN (test_cyclegan.py, which explains the three comparisons) against its plain-torch twin.

Same weights, data and random numbers. In fp64 at the default learning rate every loss, gradient and final weight agrees
but for rounding; in fp32 so does every step from the twin's state, and some steps left alone at a small rate. How much
rounding explains is measured in the same test (harness.py).
"""

import pytest
import torch

from fastgan import recipes
from fastgan.models import DCGANDiscriminator
from fastgan.recipes.losses import gradient_penalty

from . import cgan, cvae_gan, dcgan, gan, networks, pix2pix, sgan, vae, wgan, wgan_gp
from .harness import CLASSES, WAYS, Way, aligned, assert_rounding_explains, distances, labelled, start

SMALL = dict(latent_size=8, image_size=12)
CASES = {
    # Each recipe as it comes, then its other choices.
    "gan": ("gan", gan.Twin, {}),
    "gan-minimax-2-steps": ("gan", gan.Twin, dict(d_steps=2, gan_loss="minimax")),
    "dcgan": ("dcgan", dcgan.Twin, {}),
    "dcgan-transposed-1-optimizer": ("dcgan", dcgan.Twin, dict(upsample="transposed", d_optimizers=1)),
    "dcgan-instance-norm": ("dcgan", dcgan.Twin, dict(d_norm="instance")),
    "dcgan-r1": ("dcgan", dcgan.Twin, dict(d_norm="instance", r1_gamma=3.0)),
    "dcgan-no-norm-r1-1-optimizer": ("dcgan", dcgan.Twin, dict(d_optimizers=1, d_norm="none", r1_gamma=3.0)),
    "dcgan-no-norm-1-optimizer": ("dcgan", dcgan.Twin, dict(upsample="transposed", d_optimizers=1, d_norm="none")),
    "cgan": ("cgan", cgan.Twin, {}),
    "cgan-vanilla": ("cgan", cgan.Twin, dict(gan_loss="vanilla")),
    "wgan": ("wgan", wgan.Twin, {}),
    "wgan_gp": ("wgan_gp", wgan_gp.Twin, dict(n_critic=2)),
    "wgan_gp-no-norm": ("wgan_gp", wgan_gp.Twin, dict(critic_norm="none")),
    "sgan": ("sgan", sgan.Twin, {}),
    "sgan-vanilla": ("sgan", sgan.Twin, dict(g_loss="vanilla", d_norm="none")),
    "pix2pix": ("pix2pix", pix2pix.Twin, {}),
    "vae": ("vae", vae.Twin, {}),
    "vae-mse": ("vae", vae.Twin, dict(recon_loss="mse", lambda_kl=0.5)),
    "cvae": ("cvae", vae.Twin, {}),
    "cvae-decoder-only": ("cvae", vae.Twin, dict(decoder_only=True)),
    "cvae_gan": ("cvae_gan", cvae_gan.Twin, {}),
}
AS_IT_COMES = [case for case in CASES if case in recipes.RECIPES]


def trained(case, dtype, ways, followed=False, **changes):
    """(the recipe's distance from the twin, that of stock torch in other ways) after steps from the same weights."""
    name, make, options = CASES[case]
    recipe_class, options = recipes.get(name), options | changes
    size = dict(ngf=4, ndf=4) if name == "pix2pix" else SMALL
    torch.manual_seed(0)
    recipe = recipe_class(
        recipe_class.Options(**size, **(dict(netG="unet_128") if name == "pix2pix" else {}), **options)
    )
    told = dict(classes=CLASSES) if name in ("cvae", "cvae_gan") else {}
    first, *others = [start(recipe, make(**size, **told, **options), dtype)[1] for _ in range(1 + len(ways))]
    others = [Way(way, twin) for way, twin in zip(ways, others)]
    batches = aligned(dtype) if name == "pix2pix" else labelled(dtype)
    return distances(recipe, first, others, batches, followed)


@pytest.mark.parametrize("case", CASES)
def test_every_loss_and_the_final_weights_in_double_precision(case):
    drift = assert_rounding_explains(*trained(case, torch.float64, WAYS[1:]))
    assert drift["loss"] < 1e-6, "rounding would hide a mistake"


@pytest.mark.parametrize("case", AS_IT_COMES)
def test_every_step_in_single_precision_from_the_twins_state(case):
    assert_rounding_explains(*trained(case, torch.float32, WAYS, followed=True))


@pytest.mark.parametrize("case", AS_IT_COMES)
def test_every_loss_and_the_final_weights_in_single_precision(case):
    assert_rounding_explains(*trained(case, torch.float32, WAYS, lr=1e-5))


@pytest.mark.parametrize("norm", ["instance", "none"])
def test_the_penalty_and_its_gradients_are_the_stock_ones(norm):
    torch.manual_seed(0)
    ours = DCGANDiscriminator(image_size=28, norm=norm).double()
    its = networks.DCGANDiscriminator(28, norm=norm).double()
    for one, other in zip(ours.parameters(), its.parameters(), strict=True):
        other.data.copy_(one.data)
    real, fake = 2 * torch.rand(2, 3, 1, 28, 28, dtype=torch.float64) - 1
    penalties = []
    for compute, critic in ((gradient_penalty, ours), (wgan_gp.gradient_penalty, its)):
        torch.manual_seed(1)
        penalties.append(compute(critic, real, fake, 10.0))
        penalties[-1].backward()
    torch.testing.assert_close(*penalties, rtol=1e-12, atol=0)
    compared = 0
    for one, other in zip(ours.parameters(), its.parameters()):
        if other.grad is not None:  # the last bias has no part in the gradient
            torch.testing.assert_close(one.grad, other.grad, rtol=1e-9, atol=1e-11 * other.grad.abs().max().item())
            compared += other.grad.abs().max() > 0
    assert compared >= 4
