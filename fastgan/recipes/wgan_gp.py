"""WGAN-GP: the critic's gradient is kept near norm 1 by a penalty (Gulrajani et al. 2017, arXiv 1704.00028, algorithm
1)."""

from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn
from torch.optim import Adam, Optimizer

from fastgan._options import option, with_default
from fastgan.models import DCGANDiscriminator

from ._latent import small_images
from ._options import AdamOptions, LatentOptions
from .losses import gradient_penalty
from .wgan import WGAN, CriticOptions


@dataclass(frozen=True)
class WGANGPOptions(CriticOptions):
    """Options of the recipe. Raises ValueError for values that cannot be."""

    lr: float = with_default(LatentOptions, "lr", 1e-4)
    beta1: float = with_default(AdamOptions, "beta1", 0.0)
    beta2: float = option(0.9, "Adam's second momentum", least=0, below=1)
    lambda_gp: float = option(10.0, "weight of the gradient penalty", least=0)
    critic_norm: str = option("instance", "the critic's norm, which must not mix images", choices=("instance", "none"))


class WGANGP(WGAN):
    """WGAN with a gradient penalty in place of clipped weights, and a critic in which no image sees another.

    The penalty is differentiated twice: through the gradient of every operation of the critic.
    """

    name = "wgan_gp"
    summary = "WGAN with a gradient penalty instead of clipping (Gulrajani et al. 2017)"
    Options = WGANGPOptions
    presets = small_images(64, laptop={"n_epochs": 5})

    def _critic(self, o: WGANGPOptions) -> nn.Module:
        return DCGANDiscriminator(o.input_nc, o.image_size, norm=o.critic_norm)

    def _optimizer(self, parameters: Any, o: WGANGPOptions) -> Optimizer:
        return Adam(parameters, lr=o.lr, betas=(o.beta1, o.beta2), fused=True)

    def _update_critic(self, real: Tensor) -> dict[str, Tensor]:
        """Losses: D, what D minimises, penalty included; distance, mean D(real) - mean D(fake); gp, the penalty."""
        D = self.networks["D"]
        with self.precision.autocast(real.device):
            fake = self._fake(real)
            distance = -self.gan_loss(D(real), True) - self.gan_loss(D(fake), False)
            penalty = gradient_penalty(D, real, fake, self.options.lambda_gp)
            loss = penalty - distance
        self.update("D", loss)
        return {"D": loss, "distance": distance, "gp": penalty}


__all__ = ["WGANGP", "WGANGPOptions"]
