"""pix2pix: image-to-image translation with conditional adversarial networks (Isola, Zhu, Zhou, Efros 2017, arXiv
1611.07004).

    min_G max_D  E[log D(x, y)] + E[log(1 - D(x, G(x)))] + lambda E[||y - G(x)||_1]               (equations 1, 3 and 4)

x is an image of A, y the same one in B; G's noise is its dropout (section 3.1). D gives logits, D(x) = sigmoid(logit).
"""

from collections import OrderedDict

import torch
from torch import Tensor, nn

from ._base import Batch, Losses, ReferenceModel, adams, bce, detached, init_normal


class Level(nn.Module):
    """One level of the U-Net and all that is inside it: what comes in, joined to what comes out."""

    def __init__(self, outer: int, inner: int, inside: nn.Module | None = None, dropout: bool = False):
        super().__init__()
        layers: list[nn.Module] = [nn.LeakyReLU(0.2), nn.Conv2d(outer, inner, 4, 2, 1, bias=False)]
        if inside is None:
            layers += [nn.ReLU(), nn.ConvTranspose2d(inner, outer, 4, 2, 1, bias=False)]
        else:
            layers += [nn.BatchNorm2d(inner), inside]
            layers += [nn.ReLU(), nn.ConvTranspose2d(2 * inner, outer, 4, 2, 1, bias=False)]
        layers.append(nn.BatchNorm2d(outer))
        if dropout:
            layers.append(nn.Dropout(0.5))
        self.model = nn.Sequential(*layers)

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([x, self.model(x)], 1)


class Generator(nn.Module):
    """The U-Net of section 6.1.1: down to 1/2^num_downs of the side and up again, with a skip at every level."""

    def __init__(self, num_downs: int = 8, ngf: int = 64, dropout: bool = True, input_nc: int = 3, output_nc: int = 3):
        super().__init__()
        level = Level(8 * ngf, 8 * ngf)
        for _ in range(num_downs - 5):
            level = Level(8 * ngf, 8 * ngf, level, dropout)
        for width in (4 * ngf, 2 * ngf, ngf):
            level = Level(width, 2 * width, level)
        outermost = nn.Sequential(
            nn.Conv2d(input_nc, ngf, 4, 2, 1, bias=False),
            level,
            nn.ReLU(),
            nn.ConvTranspose2d(2 * ngf, output_nc, 4, 2, 1),
            nn.Tanh(),
        )
        self.model = nn.Sequential(OrderedDict(model=outermost))  # published files name it so

    def forward(self, x: Tensor) -> Tensor:
        return self.model(x)


class Discriminator(nn.Module):
    """The PatchGAN of section 6.1.2: one logit for each overlapping patch (70x70 with three layers)."""

    def __init__(self, input_nc: int = 6, ndf: int = 64, n_layers: int = 3):
        super().__init__()
        layers: list[nn.Module] = [nn.Conv2d(input_nc, ndf, 4, 2, 1), nn.LeakyReLU(0.2)]
        width = ndf
        for depth in range(1, n_layers + 1):
            wider = min(2**depth, 8) * ndf
            stride = 2 if depth < n_layers else 1
            layers += [nn.Conv2d(width, wider, 4, stride, 1, bias=False), nn.BatchNorm2d(wider), nn.LeakyReLU(0.2)]
            width = wider
        self.model = nn.Sequential(*layers, nn.Conv2d(width, 1, 4, 1, 1))

    def forward(self, xy: Tensor) -> Tensor:
        return self.model(xy)


class Pix2Pix(ReferenceModel):
    """D on the pairs (x, y) and (x, G(x)), with half of its loss (section 3.3), then G. G_L1 includes its weight."""

    def __init__(
        self,
        num_downs: int = 8,
        ngf: int = 64,
        ndf: int = 64,
        input_nc: int = 3,
        output_nc: int = 3,
        dropout: bool = True,
        lr: float = 2e-4,
        beta1: float = 0.5,
        lambda_L1: float = 100.0,
    ):
        self.lambda_L1 = lambda_L1
        self.G = init_normal(Generator(num_downs, ngf, dropout, input_nc, output_nc))
        self.D = init_normal(Discriminator(input_nc + output_nc, ndf))
        self.networks = {"G": self.G, "D": self.D}
        self.optimizers = adams(self.networks, lr, beta1)

    def step(self, batch: Batch) -> Losses:
        x, y, G, D = batch["A"], batch["B"], self.G, self.D
        losses: Losses = {}

        fake = G(x)
        losses["D_fake"] = bce(D(torch.cat([x, fake.detach()], 1)), 0)
        losses["D_real"] = bce(D(torch.cat([x, y], 1)), 1)
        self.update("D", (losses["D_fake"] + losses["D_real"]) / 2)

        losses["G_GAN"] = bce(D(torch.cat([x, fake], 1)), 1)
        losses["G_L1"] = self.lambda_L1 * (y - fake).abs().mean()
        self.update("G", losses["G_GAN"] + losses["G_L1"])
        return detached(losses)
