"""pix2pix: image-to-image translation from aligned pairs (Isola, Zhu, Zhou, Efros 2017, arXiv 1611.07004)."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.optim import Adam

from fastgan import functional
from fastgan._options import option, with_default
from fastgan.models import discriminator, generator, statistics_of_each_image

from ._base import Decisions, Recipe, frozen, trainable
from ._options import TranslationOptions
from ._together import together
from .losses import GANLoss, gradient_penalty
from .pool import ImagePool
from .schedule import make_schedulers


@dataclass(frozen=True)
class Pix2PixOptions(TranslationOptions):
    """Options of the recipe; the defaults are the paper's. Raises ValueError for values that cannot be."""

    netG: str = with_default(TranslationOptions, "netG", "unet_256")
    norm: str = with_default(TranslationOptions, "norm", "batch")
    dropout: bool = with_default(TranslationOptions, "dropout", True)
    gan_mode: str = with_default(TranslationOptions, "gan_mode", "vanilla")
    pool_size: int = with_default(TranslationOptions, "pool_size", 0)
    lambda_L1: float = option(100.0, "weight of the L1 distance to the true image", least=0)


class Pix2Pix(Recipe):
    """G translates A to B; D judges pairs: an image of A with the true B, or with G's.

    The names of networks and losses are those of the published code.
    """

    name = "pix2pix"
    summary = "paired image-to-image translation (Isola et al. 2017)"
    Options = Pix2PixOptions
    data_kind = "aligned"
    directions = ("AtoB",)
    presets = {  # noqa: RUF012
        "paper": {},
        "laptop": {
            "load_size": 72,
            "crop_size": 64,
            "netG": "resnet_6blocks",
            "ngf": 16,
            "ndf": 32,
            "lr": 5e-4,
            "max_dataset_size": 200,
            "n_epochs": 4,
            "n_epochs_decay": 4,
        },
        "gpu": {
            "load_size": 143,
            "crop_size": 128,
            "netG": "unet_128",
            "ngf": 32,
            "batch_size": 4,
            "n_epochs": 20,
            "n_epochs_decay": 20,
        },
    }

    def __init__(self, options: Pix2PixOptions | None = None, *, precision: str = "fp32"):
        o = options or Pix2PixOptions()
        super().__init__(o, precision=precision)
        self.networks = {
            "G": generator(
                o.netG,
                o.input_nc,
                o.output_nc,
                ngf=o.ngf,
                norm=o.norm,
                dropout=o.dropout,
                init_type=o.init_type,
                init_gain=o.init_gain,
            ),
            "D": discriminator(
                o.netD,
                o.input_nc + o.output_nc,
                ndf=o.ndf,
                n_layers=o.n_layers_D,
                norm=o.norm,
                init_type=o.init_type,
                init_gain=o.init_gain,
            ),
        }
        self.optimizers = {
            name: Adam(trainable(network), lr=o.lr, betas=(o.beta1, 0.999), fused=True)
            for name, network in self.networks.items()
        }
        self.schedulers = make_schedulers(self.optimizers, o)
        self.pools = {"fake_AB": ImagePool(o.pool_size)}
        self.gan_loss = GANLoss(o.gan_mode)

    def compute(self, batch: Mapping[str, Any], decided: Decisions) -> dict[str, Tensor]:
        """D on the pair and on the translated pair, then G (equations 1 and 4).

        batch["A"], batch["B"]: aligned, (N, C, H, W) in [-1, 1]. Losses as the published code reports them: G_GAN, G_L1
        (weighted), D_real, D_fake (D minimises their mean); with wgangp also gp, which D adds.
        """
        A, B = batch["A"], batch["B"]
        self.check_images(*A.shape[-2:])
        G, D = self.networks["G"], self.networks["D"]
        losses = {}

        with self.precision.autocast(A.device):
            fake_B = G(A)
            fake_AB, real_AB = torch.cat([A, fake_B], 1), torch.cat([A, B], 1)
            pooled_AB = self.pools["fake_AB"].query(fake_AB, decided.rows["fake_AB"])
            of_fake, of_real = together(D, pooled_AB, real_AB)
            losses["D_fake"] = self.gan_loss(of_fake, False)
            losses["D_real"] = self.gan_loss(of_real, True)
            loss_D = 0.5 * (losses["D_fake"] + losses["D_real"])
            if self.options.gan_mode == "wgangp":
                losses["gp"] = gradient_penalty(D, real_AB, fake_AB)
                loss_D = loss_D + losses["gp"]
        self.update("D", loss_D)

        with self.precision.autocast(A.device), frozen(D):
            losses["G_GAN"] = self.gan_loss(D(fake_AB), True)
            losses["G_L1"] = self.options.lambda_L1 * functional.l1_loss(fake_B, B)
        self.update("G", losses["G_GAN"] + losses["G_L1"])
        order = ("G_GAN", "G_L1", "D_real", "D_fake", "gp")
        return {name: losses[name].detach() for name in order if name in losses}

    def sample(self, batch: Mapping[str, Any]) -> dict[str, Tensor]:
        """real_A, fake_B, real_B: (N, C, H, W) in [-1, 1], in the dtype of the batch."""
        return {"real_A": batch["A"], "fake_B": self.translate(batch["A"], "AtoB"), "real_B": batch["B"]}

    def translate(self, images: Tensor, direction: str = "AtoB") -> Tensor:
        """Images (N, C, H, W) in [-1, 1] of the domain that G was trained to take, in the other one.

        Evaluation mode, batch norms by the statistics of each image, no gradients; the dtype of the images is kept.
        ValueError for a size that G cannot take.
        """
        if direction not in self.directions:
            raise ValueError(f"unknown direction {direction!r}: pix2pix learns one, and AtoB stands for it")
        network = self.networks["G"]
        network.check_images(*images.shape[-2:])
        with self.evaluating(), statistics_of_each_image(network), self.precision.autocast(images.device):
            return network(images).to(images.dtype)

    def check_images(self, height: int, width: int) -> None:
        for network in self.networks.values():
            network.check_images(height, width)


__all__ = ["Pix2Pix", "Pix2PixOptions"]
