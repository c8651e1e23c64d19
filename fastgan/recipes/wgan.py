"""WGAN: a critic with clipped weights estimates the earth mover's distance (Arjovsky, Chintala, Bottou 2017, arXiv
1701.07875, algorithm 1)."""

from abc import abstractmethod
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TypeVar

import torch
from torch import Tensor, nn
from torch.optim import Optimizer, RMSprop

from fastgan._options import option, with_default
from fastgan.models import UPSAMPLINGS, DCGANDiscriminator, DCGANGenerator, init_weights

from ._base import Batch, Decisions, Losses, detached, frozen
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


CriticT = TypeVar("CriticT", bound=CriticOptions)


class CriticRecipe(LatentRecipe[CriticT]):
    """D, the critic, gives scores without a sigmoid; `n_critic` steps of D, then one of G, each on fresh noise."""

    def __init__(self, options: CriticT | None = None, *, precision: str = "fp32"):
        super().__init__(options, precision=precision)
        o = self.options
        self.networks = {
            "G": init_weights(DCGANGenerator(o.latent_size, o.input_nc, o.image_size, o.upsample)),
            "D": self._critic(),
        }
        self.optimizers = {name: self._optimizer(network.parameters()) for name, network in self.networks.items()}
        self.turns = {"G": EveryNth(o.n_critic)}
        self.gan_loss = GANLoss("wgangp")

    @abstractmethod
    def _critic(self) -> nn.Module:
        """D, with its initial weights."""

    @abstractmethod
    def _optimizer(self, parameters: Iterable[nn.Parameter]) -> Optimizer:
        """What trains a network."""

    def compute(self, batch: Batch, decided: Decisions) -> Losses:
        """A step of D on batch["image"], and after every `n_critic`-th one a step of G.

        Losses: D, what D minimises; distance, its estimate E[D(real)] - E[D(fake)]; G when it had a step.
        """
        real = batch["image"]
        self.check_images(*real.shape[-2:])
        losses = self._update_critic(real)
        if decided.turns["G"]:
            losses["G"] = self._update_generator(real)
        return detached(losses)

    @abstractmethod
    def _update_critic(self, real: Tensor) -> Losses:
        """A step of D; its losses by name."""

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


class WGAN(CriticRecipe[WGANOptions]):
    """After each step of D its weights are clipped."""

    name = "wgan"
    summary = "DCGAN's networks with a critic and clipped weights (Arjovsky et al. 2017)"
    Options = WGANOptions
    presets = small_images(64, laptop={"n_epochs": 10})

    def _critic(self) -> nn.Module:
        return DCGANDiscriminator(self.options.input_nc, self.options.image_size)

    def _optimizer(self, parameters: Iterable[nn.Parameter]) -> Optimizer:
        return RMSprop(parameters, lr=self.options.lr)

    def _update_critic(self, real: Tensor) -> Losses:
        D = self.networks["D"]
        with self.precision.autocast(real.device):
            loss = self.gan_loss(D(real), True) + self.gan_loss(D(self._fake(real)), False)
        self.update("D", loss)
        with torch.no_grad():
            for parameter in D.parameters():
                parameter.clamp_(-self.options.clip, self.options.clip)
        return {"D": loss, "distance": -loss}


__all__ = ["WGAN", "CriticOptions", "CriticRecipe", "WGANOptions"]
