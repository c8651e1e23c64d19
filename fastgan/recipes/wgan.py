"""WGAN: a critic with clipped weights estimates the earth mover's distance (Arjovsky, Chintala, Bottou 2017, arXiv
1701.07875, algorithm 1)."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer, RMSprop

from fastgan._options import option, with_default
from fastgan.models import UPSAMPLINGS, DCGANDiscriminator, DCGANGenerator, init_weights

from ._base import Decisions, frozen
from ._latent import LatentRecipe, small_images
from ._options import LatentOptions
from .losses import GANLoss
from .schedule import EveryNth


@dataclass(frozen=True)
class CriticOptions(LatentOptions):
    """Options of systems with a critic. Raises ValueError for values that cannot be."""

    upsample: str = option("resize", "how the generator grows its planes", choices=UPSAMPLINGS)
    n_critic: int = option(5, "critic updates for each one of the generator", least=1)


@dataclass(frozen=True)
class WGANOptions(CriticOptions):
    """Options of the recipe. Raises ValueError for values that cannot be."""

    lr: float = with_default(LatentOptions, "lr", 5e-5)
    clip: float = option(0.01, "largest absolute value of the critic's weights", least=0)


class WGAN(LatentRecipe):
    """D, the critic, gives scores without a sigmoid; `n_critic` steps of D, then one of G, each on fresh noise."""

    name = "wgan"
    summary = "DCGAN's networks with a critic and clipped weights (Arjovsky et al. 2017)"
    Options = WGANOptions
    presets = small_images(64, laptop={"n_epochs": 10})

    def __init__(self, options: CriticOptions | None = None, *, precision: str = "fp32"):
        o = options or self.Options()
        super().__init__(o, precision=precision)
        self.networks = {
            "G": init_weights(DCGANGenerator(o.latent_size, o.input_nc, o.image_size, o.upsample)),
            "D": self._critic(o),
        }
        self.optimizers = {name: self._optimizer(network.parameters(), o) for name, network in self.networks.items()}
        self.turns = {"G": EveryNth(o.n_critic)}
        self.gan_loss = GANLoss("wgangp")

    def _critic(self, o: WGANOptions) -> torch.nn.Module:
        return DCGANDiscriminator(o.input_nc, o.image_size)

    def _optimizer(self, parameters: Any, o: WGANOptions) -> Optimizer:
        return RMSprop(parameters, lr=o.lr)

    def compute(self, batch: Mapping[str, Any], decided: Decisions) -> dict[str, Tensor]:
        """A step of D on batch["image"], and after every `n_critic`-th one a step of G.

        Losses: D, what D minimises; distance, its estimate mean D(real) - mean D(fake); G when it had a step.
        """
        real = batch["image"]
        self.check_images(*real.shape[-2:])
        losses = self._update_critic(real)
        if decided.turns["G"]:
            losses["G"] = self._update_generator(real)
        return {name: loss.detach() for name, loss in losses.items()}

    def _update_critic(self, real: Tensor) -> dict[str, Tensor]:
        D = self.networks["D"]
        with self.precision.autocast(real.device):
            loss = self.gan_loss(D(real), True) + self.gan_loss(D(self._fake(real)), False)
        self.update("D", loss)
        with torch.no_grad():
            for parameter in D.parameters():
                parameter.clamp_(-self.options.clip, self.options.clip)
        return {"D": loss, "distance": -loss}

    def _fake(self, real: Tensor) -> Tensor:
        """As many generated images as there are real ones, without a gradient."""
        with torch.no_grad():
            return self.networks["G"](self.latents(len(real)))

    def _update_generator(self, real: Tensor) -> Tensor:
        G, D = self.networks["G"], self.networks["D"]
        with self.precision.autocast(real.device), frozen(D):
            loss = self.gan_loss(D(G(self.latents(len(real)))), True)
        self.update("G", loss)
        return loss

    def _generate(self, z: Tensor, labels: Tensor | None) -> Tensor:
        return self.networks["G"](z)


__all__ = ["WGAN", "CriticOptions", "WGANOptions"]
