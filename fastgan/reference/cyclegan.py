"""CycleGAN: unpaired image-to-image translation (Zhu, Park, Isola, Efros 2017, arXiv 1703.10593).

    L(G_A, G_B, D_A, D_B) = L_GAN(G_A, D_A) + L_GAN(G_B, D_B) + lambda L_cyc(G_A, G_B)                    (equation 3)

G_A translates A to B (the paper's G: X -> Y), and D_A tells its images from those of B (the paper's D_Y); G_B and D_B
do so the other way round. L_GAN has least squares in place of logarithms (section 4), and section 5.2 adds the identity
loss.
"""

import torch
from torch import Tensor, nn

from ._base import Batch, Losses, ReferenceModel, bce, detached, init_normal
from .wgan_gp import gradient_penalty


class ResidualBlock(nn.Module):
    """x + two convolutions of x, with reflected padding."""

    def __init__(self, channels: int):
        super().__init__()
        self.conv_block = nn.Sequential(
            nn.ReflectionPad2d(1),
            nn.Conv2d(channels, channels, 3),
            nn.InstanceNorm2d(channels),
            nn.ReLU(),
            nn.ReflectionPad2d(1),
            nn.Conv2d(channels, channels, 3),
            nn.InstanceNorm2d(channels),
        )

    def forward(self, x: Tensor) -> Tensor:
        return x + self.conv_block(x)


class Generator(nn.Module):
    """c7s1-64, d128, d256, R256 x n_blocks, u128, u64, c7s1-3 (section 7.2), for ngf = 64."""

    def __init__(self, ngf: int = 64, n_blocks: int = 9, input_nc: int = 3, output_nc: int = 3):
        super().__init__()
        layers: list[nn.Module] = [nn.ReflectionPad2d(3), nn.Conv2d(input_nc, ngf, 7)]
        layers += [nn.InstanceNorm2d(ngf), nn.ReLU()]
        for width in (ngf, 2 * ngf):
            down = nn.Conv2d(width, 2 * width, 3, stride=2, padding=1)
            layers += [down, nn.InstanceNorm2d(2 * width), nn.ReLU()]
        layers += [ResidualBlock(4 * ngf) for _ in range(n_blocks)]
        for width in (2 * ngf, ngf):
            up = nn.ConvTranspose2d(2 * width, width, 3, stride=2, padding=1, output_padding=1)
            layers += [up, nn.InstanceNorm2d(width), nn.ReLU()]
        layers += [nn.ReflectionPad2d(3), nn.Conv2d(ngf, output_nc, 7), nn.Tanh()]
        self.model = nn.Sequential(*layers)

    def forward(self, x: Tensor) -> Tensor:
        return self.model(x)


class Discriminator(nn.Module):
    """C64-C128-C256-C512, the 70x70 PatchGAN (section 7.2), for ndf = 64: one logit for each overlapping patch."""

    def __init__(self, ndf: int = 64, n_layers: int = 3, input_nc: int = 3):
        super().__init__()
        layers: list[nn.Module] = [nn.Conv2d(input_nc, ndf, 4, stride=2, padding=1), nn.LeakyReLU(0.2)]
        width = ndf
        for depth in range(1, n_layers + 1):
            wider = min(2**depth, 8) * ndf
            conv = nn.Conv2d(width, wider, 4, stride=2 if depth < n_layers else 1, padding=1)
            layers += [conv, nn.InstanceNorm2d(wider), nn.LeakyReLU(0.2)]
            width = wider
        self.model = nn.Sequential(*layers, nn.Conv2d(width, 1, 4, padding=1))

    def forward(self, x: Tensor) -> Tensor:
        return self.model(x)


class ImagePool:
    """The last generated images, of which D is shown some (section 4; Shrivastava et al. 2017, section 2.3).

    Once it holds `size` images, each new one is returned with probability 1/2, and otherwise replaces a random stored
    one, which is returned: of a number drawn from 0 to 2 * size - 1, those below size are places.
    """

    def __init__(self, size: int):
        self.size, self.images = size, list[Tensor]()
        self.generator = torch.Generator().manual_seed(int(torch.randint(2**62, ())))

    def query(self, images: Tensor) -> Tensor:
        out = []
        for image in images.detach().split(1):
            if len(self.images) < self.size:
                self.images.append(image)
            elif self.size:
                place = int(torch.randint(2 * self.size, (), generator=self.generator))
                if place < self.size:
                    image, self.images[place] = self.images[place], image
            out.append(image)
        return torch.cat(out)


def gan_loss(logits: Tensor, real: bool, mode: str) -> Tensor:
    """How far logits are from calling everything real, or everything generated."""
    if mode == "lsgan":
        return ((logits - 1.0 if real else logits) ** 2).mean()
    if mode == "vanilla":
        return bce(logits, 1 if real else 0)
    return -logits.mean() if real else logits.mean()  # wgangp


class CycleGAN(ReferenceModel):
    """Both generators in one step, then both discriminators in one, each with half of its loss (section 7.1)."""

    def __init__(
        self,
        n_blocks: int = 9,
        ngf: int = 64,
        ndf: int = 64,
        input_nc: int = 3,
        output_nc: int = 3,
        gan_mode: str = "lsgan",
        pool_size: int = 50,
        lr: float = 2e-4,
        beta1: float = 0.5,
        lambda_A: float = 10.0,
        lambda_B: float = 10.0,
        lambda_identity: float = 0.5,
    ):
        self.gan_mode, self.lambda_identity = gan_mode, lambda_identity
        self.lambda_A, self.lambda_B = lambda_A, lambda_B
        self.G_A = init_normal(Generator(ngf, n_blocks, input_nc, output_nc))
        self.G_B = init_normal(Generator(ngf, n_blocks, output_nc, input_nc))
        self.D_A = init_normal(Discriminator(ndf, input_nc=output_nc))
        self.D_B = init_normal(Discriminator(ndf, input_nc=input_nc))
        self.networks = {"G_A": self.G_A, "G_B": self.G_B, "D_A": self.D_A, "D_B": self.D_B}
        self.of_G = [*self.G_A.parameters(), *self.G_B.parameters()]
        self.of_D = [*self.D_A.parameters(), *self.D_B.parameters()]
        self.optimizers = {
            "G": torch.optim.Adam(self.of_G, lr, (beta1, 0.999)),
            "D": torch.optim.Adam(self.of_D, lr, (beta1, 0.999)),
        }
        self.pools = {"fake_A": ImagePool(pool_size), "fake_B": ImagePool(pool_size)}

    def step(self, batch: Batch) -> Losses:
        A, B = batch["A"], batch["B"]
        G_A, G_B, D_A, D_B = self.G_A, self.G_B, self.D_A, self.D_B
        losses: Losses = {}

        for parameter in self.of_D:
            parameter.requires_grad_(False)
        fake_B, fake_A = G_A(A), G_B(B)
        losses["G_A"] = gan_loss(D_A(fake_B), True, self.gan_mode)
        losses["G_B"] = gan_loss(D_B(fake_A), True, self.gan_mode)
        losses["cycle_A"] = self.lambda_A * (G_B(fake_B) - A).abs().mean()  # equation 2
        losses["cycle_B"] = self.lambda_B * (G_A(fake_A) - B).abs().mean()
        objective = losses["G_A"] + losses["G_B"] + losses["cycle_A"] + losses["cycle_B"]
        if self.lambda_identity > 0:
            losses["idt_A"] = self.lambda_identity * self.lambda_B * (G_A(B) - B).abs().mean()
            losses["idt_B"] = self.lambda_identity * self.lambda_A * (G_B(A) - A).abs().mean()
            objective = objective + losses["idt_A"] + losses["idt_B"]
        self.update("G", objective)
        for parameter in self.of_D:
            parameter.requires_grad_(True)

        pooled_A, pooled_B = self.pools["fake_A"].query(fake_A), self.pools["fake_B"].query(fake_B)
        for side, D, real, fake in (("A", D_A, B, pooled_B), ("B", D_B, A, pooled_A)):
            losses["D_" + side] = (gan_loss(D(real), True, self.gan_mode) + gan_loss(D(fake), False, self.gan_mode)) / 2
            if self.gan_mode == "wgangp":
                losses["gp_" + side] = gradient_penalty(D, real, fake)
                losses["D_" + side] = losses["D_" + side] + losses["gp_" + side]
        self.update("D", losses["D_A"] + losses["D_B"])
        return detached(losses)
