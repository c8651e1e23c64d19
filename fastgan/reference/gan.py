"""GAN: generative adversarial networks (Goodfellow et al. 2014, arXiv 1406.2661, algorithm 1), fully connected.

    min_G max_D  E[log D(x)] + E[log(1 - D(G(z)))]                                                        (equation 1)

D gives logits, D(x) = sigmoid(logit).
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ._base import Batch, Losses, ReferenceModel, adams, bce, detached, noise


class BatchNormLeakyReLU(nn.BatchNorm1d):
    """Batch norm, then leaky ReLU 0.2: one layer of a Sequential."""

    def forward(self, x: Tensor) -> Tensor:
        return F.leaky_relu(super().forward(x), 0.2)


class Generator(nn.Module):
    """z -> 128 -> 256 -> 512 -> 1024 -> image in [-1, 1]; with `classes` the class's embedding stands before z."""

    def __init__(self, latent_size: int, channels: int, image_size: int, classes: int = 0):
        super().__init__()
        self.embedding = nn.Embedding(classes, classes) if classes else None
        self.shape = (channels, image_size, image_size)
        layers: list[nn.Module] = [nn.Linear(latent_size + classes, 128), nn.LeakyReLU(0.2)]
        for width in (128, 256, 512):
            layers += [nn.Linear(width, 2 * width, bias=False), BatchNormLeakyReLU(2 * width, eps=0.8)]
        layers += [nn.Linear(1024, channels * image_size**2), nn.Tanh()]
        self.model = nn.Sequential(*layers)

    def forward(self, z: Tensor, labels: Tensor | None = None) -> Tensor:
        if self.embedding is not None:
            z = torch.cat([self.embedding(labels), z], 1)
        return self.model(z).unflatten(1, self.shape)


class Discriminator(nn.Module):
    """image -> 512 -> 256 -> logit."""

    def __init__(self, channels: int, image_size: int):
        super().__init__()
        self.model = nn.Sequential(
            nn.Linear(channels * image_size**2, 512),
            nn.LeakyReLU(0.2),
            nn.Linear(512, 256),
            nn.Identity(),  # the place of cgan's dropout
            nn.LeakyReLU(0.2),
            nn.Linear(256, 1),
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.model(x.flatten(1))


class GAN(ReferenceModel):
    """`d_steps` steps of D (k of algorithm 1), then one of G, each on fresh noise.

    gan_loss "vanilla": G maximises log D(G(z)) (section 3); "minimax": G minimises log(1 - D(G(z))), as in equation 1.
    """

    def __init__(
        self,
        latent_size: int = 100,
        image_size: int = 28,
        input_nc: int = 1,
        lr: float = 2e-4,
        beta1: float = 0.5,
        d_steps: int = 1,
        gan_loss: str = "vanilla",
    ):
        self.latent_size, self.d_steps, self.gan_loss, self.steps = latent_size, d_steps, gan_loss, 0
        self.G = Generator(latent_size, input_nc, image_size)
        self.D = Discriminator(input_nc, image_size)
        self.networks = {"G": self.G, "D": self.D}
        self.optimizers = adams(self.networks, lr, beta1)

    def step(self, batch: Batch) -> Losses:
        x, G, D = batch["image"], self.G, self.D
        losses: Losses = {}

        fake = G(noise(x, self.latent_size)).detach()
        losses["D"] = bce(D(x), 1) + bce(D(fake), 0)
        self.update("D", losses["D"])

        self.steps += 1
        if self.steps % self.d_steps == 0:
            logits = D(G(noise(x, self.latent_size)))
            if self.gan_loss == "minimax":
                losses["G"] = -bce(logits, 0)
            else:
                losses["G"] = bce(logits, 1)
            self.update("G", losses["G"])
        return detached(losses)
