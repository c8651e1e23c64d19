"""WGAN-GP: improved training of Wasserstein GANs (Gulrajani et al. 2017, arXiv 1704.00028, algorithm 1)."""

import torch
from torch import Tensor, nn

from ._base import Batch, Losses, ReferenceModel, adams, detached, init_normal, noise
from .dcgan import Discriminator, Generator


def gradient_penalty(D: nn.Module, real: Tensor, fake: Tensor, weight: float = 10.0) -> Tensor:
    """weight E[(||grad D(x)||_2 - 1)^2] at x = t real + (1 - t) fake with t ~ U(0, 1) for each image (equation 3)."""
    t = torch.rand(len(real), 1, 1, 1, dtype=real.dtype, device=real.device)
    x = (t * real + (1 - t) * fake.detach()).requires_grad_()
    (gradient,) = torch.autograd.grad(D(x).sum(), x, create_graph=True)
    return weight * ((gradient.flatten(1).norm(dim=1) - 1) ** 2).mean()


class WGANGP(ReferenceModel):
    """`n_critic` steps of the critic D, then one of G; each on fresh noise.

    The critic minimises E[D(G(z))] - E[D(x)] + the gradient penalty (equation 3); G maximises E[D(G(z))]. No image may
    see another in the critic (section 4), which leaves instance norm or none.
    """

    def __init__(
        self,
        latent_size: int = 100,
        image_size: int = 28,
        input_nc: int = 1,
        lr: float = 1e-4,
        beta1: float = 0.0,
        beta2: float = 0.9,
        upsample: str = "resize",
        n_critic: int = 5,
        lambda_gp: float = 10.0,
        critic_norm: str = "instance",
    ):
        self.latent_size, self.n_critic, self.lambda_gp, self.steps = latent_size, n_critic, lambda_gp, 0
        self.G = init_normal(Generator(latent_size, input_nc, image_size, upsample))
        self.D = Discriminator(input_nc, image_size, norm=critic_norm)
        self.networks = {"G": self.G, "D": self.D}
        self.optimizers = adams(self.networks, lr, beta1, beta2)

    def step(self, batch: Batch) -> Losses:
        x, G, D = batch["image"], self.G, self.D
        losses: Losses = {}

        fake = G(noise(x, self.latent_size)).detach()
        of_real, of_fake = D(x).mean(), D(fake).mean()
        losses["distance"] = of_real - of_fake
        losses["gp"] = gradient_penalty(D, x, fake, self.lambda_gp)
        losses["D"] = of_fake - of_real + losses["gp"]
        self.update("D", losses["D"])

        self.steps += 1
        if self.steps % self.n_critic == 0:
            losses["G"] = -D(G(noise(x, self.latent_size))).mean()
            self.update("G", losses["G"])
        return detached(losses)
