"""DCGAN: convolutional networks with batch norm (Radford, Metz, Chintala 2016, arXiv 1511.06434), at MNIST's size."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.optim import Adam

from fastgan._options import option
from fastgan.models import CRITIC_NORMS, UPSAMPLINGS, DCGANDiscriminator, DCGANGenerator, init_weights

from ._base import Decisions, frozen
from ._latent import LatentRecipe, small_images
from ._options import AdamOptions
from .losses import GANLoss, real_gradient_penalty


@dataclass(frozen=True)
class DCGANOptions(AdamOptions):
    """Options of the recipe. Raises ValueError for values that cannot be."""

    upsample: str = option("resize", "how the generator grows its planes", choices=UPSAMPLINGS)
    d_optimizers: int = option(
        2,
        "Adams of the discriminator: one for real and one for generated images, or 1 for "
        "the sum of both losses, on one batch of both",
        choices=(1, 2),
    )
    d_norm: str = option(
        "batch", "the discriminator's norm: of each batch, of each image's own planes, or none", choices=CRITIC_NORMS
    )
    r1_gamma: float = option(
        0.0, "weight of the penalty on the discriminator's gradient at real images (R1, Mescheder et al. 2018)", least=0
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.r1_gamma and self.d_norm == "batch":
            raise ValueError(
                f"r1_gamma {self.r1_gamma:g} penalises each image's own gradient, which batch norm mixes; "
                "use d_norm instance or none"
            )


class DCGAN(LatentRecipe):
    """G turns noise into images, D tells them from real ones.

    D learns from real and from generated images in two steps of two Adams, so that each has its own moments, and
    normalises each in a batch of its own, whose brightness and contrast it cannot see. With d_optimizers 1 it learns
    from both in one step, as in the paper, and sees them in one batch, with G's images beside real ones in G's step
    too. Initial weights are N(0, 0.02), as in the paper. With d_norm "instance" or "none" D has no batch norm, sees
    each image alone and learns the same of one batch as of two, as Gulrajani et al. 2017 (section 4) have their critic;
    r1_gamma then keeps it from running away from G.
    """

    name = "dcgan"
    summary = "images from noise, convolutional networks with batch norm (Radford et al. 2016)"
    Options = DCGANOptions
    presets = small_images(128, laptop={"n_epochs": 4})

    def __init__(self, options: DCGANOptions | None = None, *, precision: str = "fp32"):
        o = options or DCGANOptions()
        super().__init__(o, precision=precision)
        self.networks = {
            "G": init_weights(DCGANGenerator(o.latent_size, o.input_nc, o.image_size, o.upsample)),
            "D": init_weights(DCGANDiscriminator(o.input_nc, o.image_size, norm=o.d_norm)),
        }
        owners = {"G": "G", "D": "D"} if o.d_optimizers == 1 else {"G": "G", "D_real": "D", "D_fake": "D"}
        self.optimizers = {
            name: Adam(self.networks[owner].parameters(), lr=o.lr, betas=(o.beta1, 0.999), fused=True)
            for name, owner in owners.items()
        }
        self.gan_loss = GANLoss("vanilla")

    def compute(self, batch: Mapping[str, Any], decided: Decisions) -> dict[str, Tensor]:
        """D on batch["image"] and on generated images, G on what D says of the same ones.

        Losses D_real, D_fake, with r1_gamma r1, and G.
        """
        real = batch["image"]
        self.check_images(*real.shape[-2:])
        with self.precision.autocast(real.device):
            fake = self.networks["G"](self.latents(len(real)))
        losses = self._one_step(real, fake) if "D" in self.optimizers else self._three_steps(real, fake)
        return {name: losses[name].detach() for name in ("D_real", "D_fake", "r1", "G") if name in losses}

    def _three_steps(self, real: Tensor, fake: Tensor) -> dict[str, Tensor]:
        D, losses = self.networks["D"], {}
        for name, images, is_real in (("D_real", real, True), ("D_fake", fake.detach(), False)):
            with self.precision.autocast(real.device):
                losses[name] = self.gan_loss(D(images), is_real)
            self.update(name, self._penalised(losses[name], real, losses) if is_real else losses[name])
        with self.precision.autocast(real.device), frozen(D):
            losses["G"] = self.gan_loss(D(fake), True)
        self.update("G", losses["G"])
        return losses

    def _one_step(self, real: Tensor, fake: Tensor) -> dict[str, Tensor]:
        D, count = self.networks["D"], len(real)
        with self.precision.autocast(real.device):
            on_real, on_fake = D(torch.cat([real, fake.detach()])).split(count)
            losses = {"D_real": self.gan_loss(on_real, True), "D_fake": self.gan_loss(on_fake, False)}
        self.update("D", self._penalised(losses["D_real"] + losses["D_fake"], real, losses))
        with self.precision.autocast(real.device), frozen(D):
            on_fake = D(torch.cat([real, fake]))[count:] if self.options.d_norm == "batch" else D(fake)
            losses["G"] = self.gan_loss(on_fake, True)
        self.update("G", losses["G"])
        return losses

    def _penalised(self, loss: Tensor, real: Tensor, losses: dict[str, Tensor]) -> Tensor:
        """`loss`, with r1_gamma plus the penalty, which is put among the losses."""
        if not self.options.r1_gamma:
            return loss
        losses["r1"] = real_gradient_penalty(self.networks["D"], real, self.options.r1_gamma)
        return loss + losses["r1"]

    def _generate(self, z: Tensor, labels: Tensor | None) -> Tensor:
        return self.networks["G"](z)


__all__ = ["DCGAN", "DCGANOptions"]
