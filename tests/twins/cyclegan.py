"""CycleGAN in plain torch: stock modules only, nothing of fastgan. What the recipe is compared with."""

import itertools

import torch
import torch.nn.functional as F
from torch import nn


class Block(nn.Module):
    def __init__(self, channels, inplace):
        super().__init__()
        self.conv_block = nn.Sequential(
            nn.ReflectionPad2d(1),
            nn.Conv2d(channels, channels, 3),
            nn.InstanceNorm2d(channels),
            nn.ReLU(inplace),
            nn.ReflectionPad2d(1),
            nn.Conv2d(channels, channels, 3),
            nn.InstanceNorm2d(channels),
        )

    def forward(self, x):
        return x + self.conv_block(x)


class Generator(nn.Module):
    def __init__(self, ngf=64, n_blocks=9, inplace=True):
        super().__init__()
        layers = [nn.ReflectionPad2d(3), nn.Conv2d(3, ngf, 7), nn.InstanceNorm2d(ngf), nn.ReLU(inplace)]
        for width in (ngf, 2 * ngf):
            layers += [
                nn.Conv2d(width, 2 * width, 3, stride=2, padding=1),
                nn.InstanceNorm2d(2 * width),
                nn.ReLU(inplace),
            ]
        layers += [Block(4 * ngf, inplace) for _ in range(n_blocks)]
        for width in (4 * ngf, 2 * ngf):
            layers += [
                nn.ConvTranspose2d(width, width // 2, 3, stride=2, padding=1, output_padding=1),
                nn.InstanceNorm2d(width // 2),
                nn.ReLU(inplace),
            ]
        layers += [nn.ReflectionPad2d(3), nn.Conv2d(ngf, 3, 7), nn.Tanh()]
        self.model = nn.Sequential(*layers)

    def forward(self, x):
        return self.model(x)


class Discriminator(nn.Module):
    def __init__(self, ndf=64, n_layers=3, inplace=True):
        super().__init__()
        layers = [nn.Conv2d(3, ndf, 4, stride=2, padding=1), nn.LeakyReLU(0.2, inplace)]
        width = ndf
        for depth in range(1, n_layers + 1):
            wider = min(2**depth, 8) * ndf
            layers += [
                nn.Conv2d(width, wider, 4, stride=2 if depth < n_layers else 1, padding=1),
                nn.InstanceNorm2d(wider),
                nn.LeakyReLU(0.2, inplace),
            ]
            width = wider
        layers += [nn.Conv2d(width, 1, 4, stride=1, padding=1)]
        self.model = nn.Sequential(*layers)

    def forward(self, x):
        return self.model(x)


class Pool:
    """One integer below 2 * size per image once the pool is full; below size it is the slot to trade with."""

    def __init__(self, size, generator):
        self.size, self.generator, self.images = size, generator, []

    def query(self, images):
        out = []
        for image in images.detach().split(1):
            if len(self.images) < self.size:
                self.images.append(image)
            else:
                slot = torch.randint(2 * self.size, (), generator=self.generator).item()
                if slot < self.size:
                    image, self.images[slot] = self.images[slot], image
            out.append(image)
        return torch.cat(out)


def gan_loss(logits, real, mode):
    if mode == "wgangp":
        return -logits.mean() if real else logits.mean()
    label = torch.full_like(logits, 1.0 if real else 0.0)
    return F.mse_loss(logits, label) if mode == "lsgan" else F.binary_cross_entropy_with_logits(logits, label)


def gradient_penalty(D, real, fake, weight=10.0):
    t = torch.rand(len(real), 1, 1, 1, dtype=real.dtype)
    x = (t * real + (1 - t) * fake).requires_grad_()
    (gradient,) = torch.autograd.grad(D(x).sum(), x, create_graph=True)
    return weight * ((gradient.reshape(len(real), -1).norm(dim=1) - 1) ** 2).mean()


class CycleGAN:
    """Published defaults; pool_generators are the random generators of the pools of fake A and of fake B."""

    def __init__(
        self,
        pool_generators,
        ngf=64,
        ndf=64,
        n_blocks=9,
        n_layers=3,
        gan_mode="lsgan",
        pool_size=50,
        lr=2e-4,
        beta1=0.5,
        lambda_A=10.0,
        lambda_B=10.0,
        lambda_identity=0.5,
        inplace=True,
    ):
        self.networks = {
            "G_A": Generator(ngf, n_blocks, inplace),
            "G_B": Generator(ngf, n_blocks, inplace),
            "D_A": Discriminator(ndf, n_layers, inplace),
            "D_B": Discriminator(ndf, n_layers, inplace),
        }
        self.mode, self.lambdas = gan_mode, (lambda_A, lambda_B, lambda_identity)
        self.pools = [Pool(pool_size, generator) for generator in pool_generators]
        parameters = {name: list(network.parameters()) for name, network in self.networks.items()}
        self.of_D = [*parameters["D_A"], *parameters["D_B"]]
        of_G = [*parameters["G_A"], *parameters["G_B"]]
        self.optimizers = {
            "G": torch.optim.Adam(of_G, lr, (beta1, 0.999)),
            "D": torch.optim.Adam(self.of_D, lr, (beta1, 0.999)),
        }
        self.idle = {name: idle_biases(network) for name, network in self.networks.items()}

    def step(self, batch):
        A, B = batch["A"], batch["B"]
        G_A, G_B, D_A, D_B = self.networks.values()
        lambda_A, lambda_B, lambda_identity = self.lambdas
        losses = {}

        for parameter in self.of_D:
            parameter.requires_grad_(False)
        fake_B, fake_A = G_A(A), G_B(B)
        losses["G_A"] = gan_loss(D_A(fake_B), True, self.mode)
        losses["G_B"] = gan_loss(D_B(fake_A), True, self.mode)
        losses["cycle_A"] = lambda_A * (G_B(fake_B) - A).abs().mean()
        losses["cycle_B"] = lambda_B * (G_A(fake_A) - B).abs().mean()
        losses["idt_A"] = lambda_identity * lambda_B * (G_A(B) - B).abs().mean()
        losses["idt_B"] = lambda_identity * lambda_A * (G_B(A) - A).abs().mean()
        self.optimizers["G"].zero_grad()
        sum(losses.values()).backward()
        self.optimizers["G"].step()

        for parameter in self.of_D:
            parameter.requires_grad_(True)
        self.optimizers["D"].zero_grad()
        pool_A, pool_B = self.pools
        for name, D, real, fake in (("A", D_A, B, pool_B.query(fake_B)), ("B", D_B, A, pool_A.query(fake_A))):
            loss = (gan_loss(D(real), True, self.mode) + gan_loss(D(fake), False, self.mode)) / 2
            if self.mode == "wgangp":
                losses["gp_" + name] = gradient_penalty(D, real, fake)
                loss = loss + losses["gp_" + name]
            loss.backward()
            losses["D_" + name] = loss
        self.optimizers["D"].step()
        return {name: loss.detach() for name, loss in losses.items()}


def idle_biases(network):
    """Names of the biases that feed an instance norm: their true gradient is zero, Adam follows its rounding noise."""
    names = set()
    for prefix, sequence in network.named_modules():
        if isinstance(sequence, nn.Sequential):
            children = list(sequence.named_children())
            names |= {
                f"{prefix}.{name}.bias"
                for (name, _), (_, following) in itertools.pairwise(children)
                if isinstance(following, nn.InstanceNorm2d)
            }
    return names
