"""GAN: the first one, of fully connected networks (Goodfellow et al. 2014, arXiv 1406.2661, algorithm 1)."""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.optim import Adam

from fastgan._options import option
from fastgan.models import MLPDiscriminator, MLPGenerator

from ._base import Batch, Decisions, Losses, detached, frozen
from ._latent import LatentRecipe, small_images
from ._options import AdamOptions
from .losses import GANLoss
from .schedule import EveryNth


@dataclass(frozen=True)
class GANOptions(AdamOptions):
    """Options of the recipe. Raises ValueError for values that cannot be."""

    d_steps: int = option(1, "discriminator updates for each one of the generator (k of algorithm 1)", least=1)
    gan_loss: str = option(
        "vanilla", "generator's loss: -log D(G(z)), or minimax's log(1 - D(G(z)))", choices=("vanilla", "minimax")
    )


class GAN(LatentRecipe[GANOptions]):
    """G turns noise into images, D tells them from real ones; `d_steps` steps of D, then one of G."""

    name = "gan"
    summary = "images from noise, fully connected networks (Goodfellow et al. 2014)"
    Options = GANOptions
    presets = small_images(64, laptop={"n_epochs": 20})

    def __init__(self, options: GANOptions | None = None, *, precision: str = "fp32"):
        super().__init__(options, precision=precision)
        o = self.options
        self.networks = {
            "G": MLPGenerator(o.latent_size, o.input_nc, o.image_size),
            "D": MLPDiscriminator(o.input_nc, o.image_size, widths=(512, 256), dropout=0.0),
        }
        self.optimizers = {
            name: Adam(network.parameters(), lr=o.lr, betas=(o.beta1, 0.999), fused=True)
            for name, network in self.networks.items()
        }
        self.turns = {"G": EveryNth(o.d_steps)}
        self.gan_loss = GANLoss("vanilla")

    def compute(self, batch: Batch, decided: Decisions) -> Losses:
        """A step of D on batch["image"], and after every `d_steps`-th a step of G; losses D, and G when it had one."""
        real = batch["image"]
        self.check_images(*real.shape[-2:])
        losses = {"D": self._update_discriminator(real)}
        if decided.turns["G"]:
            losses["G"] = self._update_generator(real)
        return detached(losses)

    def _update_discriminator(self, real: Tensor) -> Tensor:
        G, D = self.networks["G"], self.networks["D"]
        with self.precision.autocast(real.device):
            with torch.no_grad():
                fake = G(self.latents(len(real)))
            loss = self.gan_loss(D(real), True) + self.gan_loss(D(fake), False)
        self.update("D", loss)
        return loss

    def _update_generator(self, real: Tensor) -> Tensor:
        G, D = self.networks["G"], self.networks["D"]
        with self.precision.autocast(real.device), frozen(D):
            logits = D(G(self.latents(len(real))))
            minimax = self.options.gan_loss == "minimax"
            loss = -self.gan_loss(logits, False) if minimax else self.gan_loss(logits, True)
        self.update("G", loss)
        return loss

    def _generate(self, z: Tensor, labels: Tensor | None) -> Tensor:
        return self.networks["G"](z)


__all__ = ["GAN", "GANOptions"]
