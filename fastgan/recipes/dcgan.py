"""DCGAN: convolutional networks with batch norm (Radford, Metz, Chintala 2016, arXiv 1511.06434), at MNIST's size."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor
from torch.optim import Adam

from fastgan.models import UPSAMPLINGS, DCGANDiscriminator, DCGANGenerator

from ._base import Decisions, frozen
from ._latent import LatentRecipe, small_images
from ._options import AdamOptions, option
from .losses import GANLoss


@dataclass(frozen=True)
class DCGANOptions(AdamOptions):
    """Options of the recipe. ValueError, in one sentence, for values that cannot be."""

    upsample: str = option("resize", "how the generator grows its planes", UPSAMPLINGS)
    d_optimizers: str = option(2, "Adams of the discriminator: one for real and one for generated images, or 1 for "
                                  "the sum of both losses", (1, 2))


class DCGAN(LatentRecipe):
    """G turns noise into images, D tells them from real ones.

    D learns from real and from generated images in two steps of two Adams, so that each has its own moments; with
    d_optimizers 1 in one step, as in the paper. Every step of D normalises real and generated images in batches of
    their own.
    """

    name = "dcgan"
    summary = "images from noise, convolutional networks with batch norm (Radford et al. 2016)"
    Options = DCGANOptions
    presets = small_images(128, laptop={"n_epochs": 4})

    def __init__(self, options: DCGANOptions | None = None, *, precision: str = "fp32"):
        o = options or DCGANOptions()
        super().__init__(o, precision=precision)
        self.networks = {"G": DCGANGenerator(o.latent_size, o.input_nc, o.image_size, o.upsample),
                         "D": DCGANDiscriminator(o.input_nc, o.image_size)}
        owners = {"G": "G", "D": "D"} if o.d_optimizers == 1 else {"G": "G", "D_real": "D", "D_fake": "D"}
        self.optimizers = {name: Adam(self.networks[owner].parameters(), lr=o.lr, betas=(o.beta1, 0.999), fused=True)
                           for name, owner in owners.items()}
        self.gan_loss = GANLoss("vanilla")

    def compute(self, batch: Mapping[str, Any], decided: Decisions) -> dict[str, Tensor]:
        """D on batch["image"], D on generated images, G on what D says of the same ones; losses D_real, D_fake, G."""
        real = batch["image"]
        self.check_images(*real.shape[-2:])
        G, D = self.networks["G"], self.networks["D"]
        losses = {}

        with self.precision.autocast(real.device):
            fake = G(self.latents(len(real)))
            losses["D_real"] = self.gan_loss(D(real), True)
        if "D_real" in self.optimizers:
            self.update("D_real", losses["D_real"])
        with self.precision.autocast(real.device):
            losses["D_fake"] = self.gan_loss(D(fake.detach()), False)
        if "D_fake" in self.optimizers:
            self.update("D_fake", losses["D_fake"])
        else:
            self.update("D", losses["D_real"] + losses["D_fake"])

        with self.precision.autocast(real.device), frozen(D):
            losses["G"] = self.gan_loss(D(fake), True)
        self.update("G", losses["G"])
        return {name: loss.detach() for name, loss in losses.items()}

    def _generate(self, z: Tensor, labels: Tensor | None) -> Tensor:
        return self.networks["G"](z)


__all__ = ["DCGAN", "DCGANOptions"]
