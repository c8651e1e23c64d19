"""CGAN: conditional adversarial nets (Mirza, Osindero 2014, arXiv 1411.1784).

    min_G max_D  E[log D(x|y)] + E[log(1 - D(G(z|y)|y))]                                                  (equation 2)

Both networks are conditioned on the class y by an embedding. The default loss puts least squares in place of the
logarithms (Mao et al. 2017, arXiv 1611.04076, equation 9).
"""

import torch
from torch import Tensor, nn

from ._base import Batch, Losses, ReferenceModel, adams, bce, detached, noise
from .gan import Generator


class Discriminator(nn.Module):
    """image, class -> 512 -> 512 -> 512 -> logit, with dropout."""

    def __init__(self, channels: int, image_size: int, classes: int):
        super().__init__()
        self.embedding = nn.Embedding(classes, classes)
        self.model = nn.Sequential(
            nn.Linear(channels * image_size**2 + classes, 512),
            nn.LeakyReLU(0.2),
            nn.Linear(512, 512),
            nn.Dropout(0.4),
            nn.LeakyReLU(0.2),
            nn.Linear(512, 512),
            nn.Dropout(0.4),
            nn.LeakyReLU(0.2),
            nn.Linear(512, 1),
        )

    def forward(self, x: Tensor, labels: Tensor) -> Tensor:
        return self.model(torch.cat([x.flatten(1), self.embedding(labels)], 1))


def init_kaiming(network: nn.Module) -> nn.Module:
    """He et al. 2015's weights: with torch's smaller ones, batch norms of eps 0.8 let hardly any of z and y through."""
    for module in network.modules():
        if isinstance(module, nn.Linear):
            nn.init.kaiming_normal_(module.weight)
            if module.bias is not None:
                nn.init.zeros_(module.bias)
        elif isinstance(module, nn.BatchNorm1d):
            nn.init.normal_(module.weight, 1.0, 0.02)
    return network


class CGAN(ReferenceModel):
    """G on random classes, then D on real images with their labels and on G's with the classes that G was asked for."""

    def __init__(
        self,
        latent_size: int = 100,
        image_size: int = 28,
        input_nc: int = 1,
        n_classes: int = 10,
        lr: float = 2e-4,
        beta1: float = 0.5,
        gan_loss: str = "lsgan",
    ):
        self.latent_size, self.n_classes, self.gan_loss = latent_size, n_classes, gan_loss
        self.G = init_kaiming(Generator(latent_size, input_nc, image_size, n_classes))
        self.D = Discriminator(input_nc, image_size, n_classes)
        self.networks = {"G": self.G, "D": self.D}
        self.optimizers = adams(self.networks, lr, beta1)

    def step(self, batch: Batch) -> Losses:
        x, labels, G, D = batch["image"], batch["label"], self.G, self.D
        losses: Losses = {}

        z = noise(x, self.latent_size)
        asked = torch.randint(self.n_classes, (len(x),), device=x.device)
        fake = G(z, asked)
        losses["G"] = self.loss(D(fake, asked), real=True)
        self.update("G", losses["G"])

        losses["D"] = (self.loss(D(x, labels), real=True) + self.loss(D(fake.detach(), asked), real=False)) / 2
        self.update("D", losses["D"])
        return detached(losses)

    def loss(self, logits: Tensor, real: bool) -> Tensor:
        """How far logits are from calling everything real, or everything generated."""
        if self.gan_loss == "lsgan":
            return ((logits - 1.0 if real else logits) ** 2).mean()
        return bce(logits, 1 if real else 0)
