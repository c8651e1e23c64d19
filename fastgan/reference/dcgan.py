"""DCGAN: deep convolutional adversarial networks (Radford, Metz, Chintala 2016, arXiv 1511.06434), at MNIST's size.

Losses are those of GAN: -log D(x) - log(1 - D(G(z))) for D, -log D(G(z)) for G, with D(x) = sigmoid(logit).
"""

import torch
from torch import Tensor, nn

from ._base import Batch, Losses, ReferenceModel, adams, bce, detached, init_normal, noise


class Generator(nn.Module):
    """z -> 1024 -> 128 planes of a quarter of the side, then twice as large twice; batch norm and tanh."""

    def __init__(self, latent_size: int, channels: int, image_size: int, upsample: str = "resize"):
        super().__init__()
        side = image_size // 4
        self.seed = nn.Sequential(
            nn.Linear(latent_size, 1024, bias=False),
            nn.BatchNorm1d(1024),
            nn.Tanh(),
            nn.Linear(1024, 128 * side**2, bias=False),
            nn.BatchNorm1d(128 * side**2),
            nn.Tanh(),
            nn.Unflatten(1, (128, side, side)),
        )

        def doubling(inputs: int, outputs: int, bias: bool) -> list[nn.Module]:
            if upsample == "transposed":
                return [nn.ConvTranspose2d(inputs, outputs, 4, stride=2, padding=1, bias=bias)]
            return [nn.Upsample(scale_factor=2), nn.Conv2d(inputs, outputs, 5, padding=2, bias=bias)]

        self.up = nn.Sequential(
            *doubling(128, 64, bias=False), nn.BatchNorm2d(64), nn.Tanh(), *doubling(64, channels, bias=True), nn.Tanh()
        )

    def forward(self, z: Tensor) -> Tensor:
        return self.up(self.seed(z))


class Discriminator(nn.Module):
    """Two 3x3 convolutions (64, 128), each pooled, then 1024 -> `outputs` logits.

    Only norm "batch" has a norm behind the fully connected layer: with the others no image sees another.
    """

    def __init__(self, channels: int, image_size: int, outputs: int = 1, norm: str = "batch"):
        super().__init__()
        planes = {"batch": nn.BatchNorm2d, "instance": nn.InstanceNorm2d, "none": nn.Identity}[norm]
        side = ((image_size - 2) // 2 - 2) // 2
        self.features = nn.Sequential(
            nn.Conv2d(channels, 64, 3, bias=norm == "none"),
            planes(64),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Conv2d(64, 128, 3, bias=norm == "none"),
            planes(128),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Flatten(),
            nn.Linear(128 * side**2, 1024, bias=norm != "batch"),
            nn.BatchNorm1d(1024) if norm == "batch" else nn.Identity(),
            nn.ReLU(),
        )
        self.logits = nn.Linear(1024, outputs)

    def forward(self, x: Tensor) -> Tensor:
        return self.logits(self.features(x))


class DCGAN(ReferenceModel):
    """D, then G on what D says of the same images.

    With d_optimizers 2, D learns from real and from generated images in two steps of two Adams, each on a batch of its
    own; with 1 in one step on one batch of both. Initial weights are N(0, 0.02).
    """

    def __init__(
        self,
        latent_size: int = 100,
        image_size: int = 28,
        input_nc: int = 1,
        lr: float = 2e-4,
        beta1: float = 0.5,
        upsample: str = "resize",
        d_optimizers: int = 2,
        d_norm: str = "batch",
        r1_gamma: float = 0.0,
    ):
        self.latent_size, self.d_optimizers, self.r1_gamma = latent_size, d_optimizers, r1_gamma
        self.G = init_normal(Generator(latent_size, input_nc, image_size, upsample))
        self.D = init_normal(Discriminator(input_nc, image_size, norm=d_norm))
        self.networks = {"G": self.G, "D": self.D}
        of_D = {"D": self.D} if d_optimizers == 1 else {"D_real": self.D, "D_fake": self.D}
        self.optimizers = adams({"G": self.G, **of_D}, lr, beta1)

    def step(self, batch: Batch) -> Losses:
        x = batch["image"]
        fake = self.G(noise(x, self.latent_size))
        return detached(self.one_step_of_D(x, fake) if self.d_optimizers == 1 else self.two_steps_of_D(x, fake))

    def two_steps_of_D(self, x: Tensor, fake: Tensor) -> Losses:
        D, losses = self.D, Losses()
        losses["D_real"] = bce(D(x), 1)
        self.update("D_real", losses["D_real"] + self.penalty(x, losses))
        losses["D_fake"] = bce(D(fake.detach()), 0)
        self.update("D_fake", losses["D_fake"])
        losses["G"] = bce(D(fake), 1)
        self.update("G", losses["G"])
        return losses

    def one_step_of_D(self, x: Tensor, fake: Tensor) -> Losses:
        D, losses = self.D, Losses()
        on_real, on_fake = D(torch.cat([x, fake.detach()])).split(len(x))
        losses["D_real"] = bce(on_real, 1)
        losses["D_fake"] = bce(on_fake, 0)
        self.update("D", losses["D_real"] + losses["D_fake"] + self.penalty(x, losses))
        on_real, on_fake = D(torch.cat([x, fake])).split(len(x))
        losses["G"] = bce(on_fake, 1)
        self.update("G", losses["G"])
        return losses

    def penalty(self, x: Tensor, losses: Losses) -> Tensor | float:
        """R1: gamma / 2 E[||grad D(x)||^2] at real images (Mescheder et al. 2018, arXiv 1801.04406, equation 9)."""
        if not self.r1_gamma:
            return 0.0
        x = x.clone().requires_grad_()
        (gradient,) = torch.autograd.grad(self.D(x).sum(), x, create_graph=True)
        losses["r1"] = self.r1_gamma / 2 * gradient.flatten(1).norm(dim=1).square().mean()
        return losses["r1"]
