"""pix2pix in plain torch: D on pairs first, then G with 100 times L1."""

import torch
import torch.nn.functional as F
from torch import nn

from .networks import step


class Level(nn.Module):
    """One level of the U-Net and all that is inside it: what comes in, joined to what comes out."""

    def __init__(self, outer, inner, inside, dropout=False):
        super().__init__()
        down, up = (
            nn.Conv2d(outer, inner, 4, 2, 1, bias=False),
            nn.ConvTranspose2d(inner if inside is None else 2 * inner, outer, 4, 2, 1, bias=False),
        )
        middle = [] if inside is None else [nn.BatchNorm2d(inner), inside]
        self.body = nn.Sequential(
            nn.LeakyReLU(0.2),
            down,
            *middle,
            nn.ReLU(),
            up,
            nn.BatchNorm2d(outer),
            *([nn.Dropout(0.5)] if dropout else []),
        )

    def forward(self, x):
        return torch.cat([x, self.body(x)], 1)


def unet(num_downs, ngf):
    level = Level(8 * ngf, 8 * ngf, None)
    for _ in range(num_downs - 5):
        level = Level(8 * ngf, 8 * ngf, level, dropout=True)
    for outer, inner in ((4, 8), (2, 4), (1, 2)):
        level = Level(outer * ngf, inner * ngf, level)
    return nn.Sequential(
        nn.Conv2d(3, ngf, 4, 2, 1, bias=False), level, nn.ReLU(), nn.ConvTranspose2d(2 * ngf, 3, 4, 2, 1), nn.Tanh()
    )


def patchgan(ndf, n_layers=3):
    layers, width = [nn.Conv2d(6, ndf, 4, 2, 1), nn.LeakyReLU(0.2)], ndf
    for depth in range(1, n_layers + 1):
        wider = min(2**depth, 8) * ndf
        layers += [
            nn.Conv2d(width, wider, 4, 2 if depth < n_layers else 1, 1, bias=False),
            nn.BatchNorm2d(wider),
            nn.LeakyReLU(0.2),
        ]
        width = wider
    return nn.Sequential(*layers, nn.Conv2d(width, 1, 4, 1, 1))


class Twin:
    def __init__(self, num_downs=7, ngf=64, ndf=64, lr=2e-4, beta1=0.5, lambda_L1=100.0):
        self.lambda_L1 = lambda_L1
        G, D = self.G, self.D = unet(num_downs, ngf), patchgan(ndf)
        self.networks = {"G": G, "D": D}
        self.optimizers = {
            name: torch.optim.Adam(network.parameters(), lr, (beta1, 0.999)) for name, network in self.networks.items()
        }

    def step(self, batch):
        A, B, bce = batch["A"], batch["B"], F.binary_cross_entropy_with_logits
        fake = self.G(A)
        logits = self.D(torch.cat([A, fake.detach()], 1))
        D_fake = bce(logits, torch.zeros_like(logits))
        logits = self.D(torch.cat([A, B], 1))
        D_real = bce(logits, torch.ones_like(logits))
        step(self.optimizers["D"], (D_fake + D_real) / 2)
        logits = self.D(torch.cat([A, fake], 1))
        G_GAN = bce(logits, torch.ones_like(logits))
        G_L1 = self.lambda_L1 * (fake - B).abs().mean()
        step(self.optimizers["G"], G_GAN + G_L1)
        return {"G_GAN": G_GAN, "G_L1": G_L1, "D_real": D_real, "D_fake": D_fake}
