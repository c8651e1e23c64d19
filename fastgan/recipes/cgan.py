"""CGAN: both networks are conditioned on the class (Mirza, Osindero 2014, arXiv 1411.1784, equation 2)."""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.optim import Adam

from fastgan._options import option, with_default
from fastgan.models import MLPDiscriminator, MLPGenerator, init_weights

from ._base import Batch, Decisions, Losses, detached, frozen
from ._latent import LatentRecipe, small_images
from ._options import ConditionalOptions
from .losses import GANLoss


@dataclass(frozen=True)
class CGANOptions(ConditionalOptions):
    """Options of the recipe. Raises ValueError for values that cannot be."""

    n_epochs: int = with_default(ConditionalOptions, "n_epochs", 120)
    gan_loss: str = option("lsgan", "adversarial loss", choices=("lsgan", "vanilla"))


class CGAN(LatentRecipe[CGANOptions]):
    """G makes an image of a class, D judges image and class together.

    G starts from Kaiming's weights: with torch's, which are smaller, its batch norms of eps 0.8 let hardly anything of
    code and class through.
    """

    name = "cgan"
    summary = "images of a class that is asked for (Mirza, Osindero 2014)"
    Options = CGANOptions
    presets = small_images(64, laptop={"n_epochs": 20})

    def __init__(self, options: CGANOptions | None = None, *, precision: str = "fp32"):
        super().__init__(options, precision=precision)
        o = self.options
        G = MLPGenerator(o.latent_size, o.input_nc, o.image_size, o.n_classes)
        self.networks = {"G": init_weights(G, "kaiming"), "D": MLPDiscriminator(o.input_nc, o.image_size, o.n_classes)}
        self.optimizers = {
            name: Adam(network.parameters(), lr=o.lr, betas=(o.beta1, 0.999), fused=True)
            for name, network in self.networks.items()
        }
        self.gan_loss = GANLoss(o.gan_loss)

    @property
    def classes(self) -> int:
        return self.options.n_classes

    def compute(self, batch: Batch, decided: Decisions) -> Losses:
        """G on random classes, then D on (image, its label) and on (G's image, the class G was asked for); G, D."""
        real, labels = batch["image"], batch["label"]
        self.check_images(*real.shape[-2:])
        G, D = self.networks["G"], self.networks["D"]
        z = self.latents(len(real))
        asked = torch.randint(self.classes, (len(real),), device=real.device)

        with self.precision.autocast(real.device), frozen(D):
            fake = G(z, asked)
            loss_G = self.gan_loss(D(fake, asked), True)
        self.update("G", loss_G)

        with self.precision.autocast(real.device):
            loss_D = 0.5 * (self.gan_loss(D(real, labels), True) + self.gan_loss(D(fake.detach(), asked), False))
        self.update("D", loss_D)
        return detached({"G": loss_G, "D": loss_D})

    def _generate(self, z: Tensor, labels: Tensor | None) -> Tensor:
        return self.networks["G"](z, labels)


__all__ = ["CGAN", "CGANOptions"]
