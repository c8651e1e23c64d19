"""A GAN of one's own on fastgan's layers: python examples/train_own_gan.py"""

import torch
from torch import nn

import fastgan.nn as fnn
from fastgan.data.synthetic.shapes import Scenes


def generator(codes: int, width: int) -> nn.Module:
    return fnn.Sequential(
        fnn.ConvTranspose2d(codes, 2 * width, 4, bias=False),
        fnn.BatchNorm2d(2 * width, activation="relu"),
        fnn.ConvTranspose2d(2 * width, width, 4, stride=2, padding=1, bias=False),
        fnn.BatchNorm2d(width, activation="relu"),
        fnn.ConvTranspose2d(width, 3, 4, stride=2, padding=1),
        nn.Tanh(),
    )


def discriminator(width: int) -> nn.Module:
    return fnn.Sequential(
        fnn.Conv2d(3, width, 4, stride=2, padding=1),
        nn.LeakyReLU(0.2),
        fnn.Conv2d(width, 2 * width, 4, stride=2, padding=1, bias=False),
        fnn.InstanceNorm2d(2 * width, affine=True, activation="leaky_relu"),
        fnn.Conv2d(2 * width, 1, 4),
    )


def main(steps: int = 20, batch: int = 16, codes: int = 16, width: int = 16) -> list[float]:
    """Train on the built-in shapes, and return the generator's losses."""
    torch.manual_seed(0)
    scenes = Scenes("A", "train", count=64, size=16)
    images = torch.stack([scenes.load(index) for index in range(64)]).permute(0, 3, 1, 2) / 127.5 - 1
    G, D, loss = generator(codes, width), discriminator(width), fnn.BCEWithLogitsLoss()
    of_G, of_D = (torch.optim.Adam(net.parameters(), 2e-4, (0.5, 0.999)) for net in (G, D))
    losses = []
    for _ in range(steps):
        real, fake = images[torch.randint(64, (batch,))], G(torch.randn(batch, codes, 1, 1))
        of_D.zero_grad()
        (loss(D(real), 1.0) + loss(D(fake.detach()), 0.0)).backward()  # a label may be a number
        of_D.step()
        of_G.zero_grad()
        of_loss = loss(D(fake), 1.0)
        of_loss.backward()
        of_G.step()
        losses.append(of_loss.item())
    return losses


if __name__ == "__main__":
    print("generator's loss:", ", ".join(f"{value:.3f}" for value in main()))
