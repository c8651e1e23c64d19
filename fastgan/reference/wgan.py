"""WGAN: the Wasserstein GAN (Arjovsky, Chintala, Bottou 2017, arXiv 1701.07875, algorithm 1), with DCGAN's networks."""

import torch
from torch import nn

from ._base import Batch, Losses, ReferenceModel, detached, init_normal, noise
from .dcgan import Discriminator, Generator


class WGAN(ReferenceModel):
    """`n_critic` steps of the critic D, whose weights are clipped after each, then one of G; each on fresh noise.

    The critic maximises E[D(x)] - E[D(G(z))], the estimate of the distance; G maximises E[D(G(z))].
    """

    def __init__(
        self,
        latent_size: int = 100,
        image_size: int = 28,
        input_nc: int = 1,
        lr: float = 5e-5,
        upsample: str = "resize",
        n_critic: int = 5,
        clip: float = 0.01,
    ):
        self.latent_size, self.n_critic, self.clip, self.steps = latent_size, n_critic, clip, 0
        self.G = init_normal(Generator(latent_size, input_nc, image_size, upsample))
        self.D = Discriminator(input_nc, image_size)
        self.networks: dict[str, nn.Module] = {"G": self.G, "D": self.D}
        self.optimizers = {name: torch.optim.RMSprop(each.parameters(), lr) for name, each in self.networks.items()}

    def step(self, batch: Batch) -> Losses:
        x, G, D = batch["image"], self.G, self.D
        losses: Losses = {}

        fake = G(noise(x, self.latent_size)).detach()
        losses["distance"] = D(x).mean() - D(fake).mean()
        losses["D"] = -losses["distance"]
        self.update("D", losses["D"])
        with torch.no_grad():
            for parameter in D.parameters():
                parameter.clamp_(-self.clip, self.clip)

        self.steps += 1
        if self.steps % self.n_critic == 0:
            losses["G"] = -D(G(noise(x, self.latent_size))).mean()
            self.update("G", losses["G"])
        return detached(losses)
