"""WGAN-GP: the critic's gradient is kept near norm 1 by a penalty (Gulrajani et al. 2017, arXiv 1704.00028, algorithm
1)."""

from collections.abc import Iterable
from dataclasses import dataclass

from torch import Tensor, nn
from torch.optim import Adam, Optimizer

from fastgan._options import option, with_default
from fastgan.models import DCGANDiscriminator

from ._base import Losses
from ._latent import small_images
from ._options import AdamOptions, LatentOptions
from .losses import gradient_penalty, mean_score
from .wgan import CriticOptions, CriticRecipe


@dataclass(frozen=True)
class WGANGPOptions(CriticOptions):
    """Options of the recipe. Raises ValueError for values that cannot be."""

    lr: float = with_default(LatentOptions, "lr", 1e-4)
    beta1: float = with_default(AdamOptions, "beta1", 0.0)
    beta2: float = option(0.9, "Adam's second momentum", least=0, below=1)
    lambda_gp: float = option(10.0, "weight of the gradient penalty", least=0)
    critic_norm: str = option("instance", "the critic's norm, which must not mix images", choices=("instance", "none"))


class WGANGP(CriticRecipe[WGANGPOptions]):
    """WGAN with a gradient penalty in place of clipped weights, and a critic in which no image sees another.

    The penalty is differentiated twice: through the gradient of every operation of the critic.
    """

    name = "wgan_gp"
    summary = "WGAN with a gradient penalty instead of clipping (Gulrajani et al. 2017)"
    Options = WGANGPOptions
    presets = small_images(64, laptop={"n_epochs": 5})

    def _critic(self) -> nn.Module:
        return DCGANDiscriminator(self.options.input_nc, self.options.image_size, norm=self.options.critic_norm)

    def _optimizer(self, parameters: Iterable[nn.Parameter]) -> Optimizer:
        o = self.options
        return Adam(parameters, lr=o.lr, betas=(o.beta1, o.beta2), fused=True)

    def _update_critic(self, real: Tensor) -> Losses:
        """Losses: D, E[D(fake)] - E[D(real)] + gp (equation 3); distance, E[D(real)] - E[D(fake)]; gp, the penalty."""
        D = self.networks["D"]
        with self.precision.autocast(real.device):
            fake = self._fake(real)
            mean_real, mean_fake = mean_score(D(real)), mean_score(D(fake))
            penalty = gradient_penalty(D, real, fake, self.options.lambda_gp)
            loss = mean_fake - mean_real + penalty
        self.update("D", loss)
        return {"D": loss, "distance": mean_real - mean_fake, "gp": penalty}


__all__ = ["WGANGP", "WGANGPOptions"]
