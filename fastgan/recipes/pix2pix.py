"""pix2pix: image-to-image translation from aligned pairs (Isola, Zhu, Zhou, Efros 2017, arXiv 1611.07004)."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor
from torch.optim import Adam

from fastgan import functional
from fastgan._options import option, with_default

from ._base import Batch, Decisions, Losses, detached, frozen, total, trainable
from ._options import TranslationOptions
from ._together import together
from ._translation import TranslationRecipe
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


class Pix2Pix(TranslationRecipe[Pix2PixOptions]):
    """G translates A to B; D judges pairs: an image of A with the true B, or with G's.

    The names of networks and losses are those of the published code.
    """

    name = "pix2pix"
    summary = "paired image-to-image translation (Isola et al. 2017)"
    Options = Pix2PixOptions
    data_kind = "aligned"
    directions = ("AtoB",)
    presets: ClassVar[Mapping[str, Mapping[str, object]]] = {
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
        super().__init__(options, precision=precision)
        o = self.options
        self.networks = {
            "G": self.make_generator(o.input_nc, o.output_nc),
            "D": self.make_discriminator(o.input_nc + o.output_nc),
        }
        self.optimizers = {
            name: Adam(trainable(network), lr=o.lr, betas=(o.beta1, 0.999), fused=True)
            for name, network in self.networks.items()
        }
        self.schedulers = make_schedulers(self.optimizers, o)
        self.pools = {"fake_AB": ImagePool(o.pool_size)}
        self.gan_loss = GANLoss(o.gan_mode)

    def compute(self, batch: Batch, decided: Decisions) -> Losses:
        """D on the pair and on the translated pair, then G (equations 1 and 4).

        batch["A"], batch["B"]: aligned, (N, C, H, W) in [-1, 1]. Losses as the published code reports them: G_GAN, G_L1
        (weighted), D_real, D_fake (D minimises their mean); with wgangp also gp, which D adds.
        """
        A, B = batch["A"], batch["B"]
        self.check_images(*A.shape[-2:])
        with self.precision.autocast(A.device):
            fake_B = self.networks["G"](A)
            fake_AB, real_AB = torch.cat([A, fake_B], 1), torch.cat([A, B], 1)
        of_discriminator = self._update_discriminator(real_AB, fake_AB, decided.rows["fake_AB"])
        with self.precision.autocast(A.device), frozen(self.networks["D"]):
            of_generator = self.generator_losses(A, B, fake_B, fake_AB)
        self.update("G", total(of_generator))
        return detached({**of_generator, **of_discriminator})

    def _update_discriminator(self, real_AB: Tensor, fake_AB: Tensor, rows: Tensor) -> Losses:
        D = self.networks["D"]
        with self.precision.autocast(real_AB.device):
            pooled_AB = self.pools["fake_AB"].query(fake_AB, rows)
            of_fake, of_real = together(D, pooled_AB, real_AB)
            on_fake, on_real = self.gan_loss(of_fake, False), self.gan_loss(of_real, True)
            losses = {"D_real": on_real, "D_fake": on_fake}
            loss = 0.5 * (on_fake + on_real)
            if self.options.gan_mode == "wgangp":
                losses["gp"] = gradient_penalty(D, real_AB, fake_AB)
                loss = loss + losses["gp"]
        self.update("D", loss)
        return losses

    def generator_losses(self, A: Tensor, B: Tensor, fake_B: Tensor, fake_AB: Tensor) -> Losses:
        """What G minimises the sum of, by name. Called under autocast, with a frozen D."""
        return {
            "G_GAN": self.gan_loss(self.networks["D"](fake_AB), True),
            "G_L1": self.options.lambda_L1 * functional.l1_loss(fake_B, B),
        }

    def sample(self, batch: Batch) -> dict[str, Tensor]:
        """real_A, fake_B, real_B: (N, C, H, W) in [-1, 1], in the dtype of the batch."""
        return {"real_A": batch["A"], "fake_B": self.translate(batch["A"], "AtoB"), "real_B": batch["B"]}

    def translate(self, images: Tensor, direction: str = "AtoB") -> Tensor:
        """Images (N, C, H, W) in [-1, 1] of the domain that G was trained to take, in the other one.

        Evaluation mode, batch norms by the statistics of each image, no gradients; the dtype of the images is kept.
        Raises ValueError for a size that G cannot take.
        """
        if direction not in self.directions:
            raise ValueError(f"unknown direction {direction!r}: pix2pix learns one, and AtoB stands for it")
        return self.translate_by("G", images)


__all__ = ["Pix2Pix", "Pix2PixOptions"]
