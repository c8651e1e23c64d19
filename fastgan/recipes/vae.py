"""VAE: the variational autoencoder (Kingma, Welling 2014, arXiv 1312.6114, equation 10)."""

from dataclasses import dataclass
from typing import TypeVar

import torch
from torch import Tensor
from torch.optim import Adam

from fastgan._options import option, with_default
from fastgan.models import Decoder, Encoder

from ._base import Batch, Decisions, Losses, detached, total
from ._latent import LatentRecipe, small_images
from ._options import AdamOptions, LatentOptions
from .losses import RECONSTRUCTIONS, kl_to_standard_normal, reconstruction_loss


@dataclass(frozen=True)
class VAEOptions(AdamOptions):
    """Options of the recipe. Raises ValueError for values that cannot be."""

    latent_size: int = with_default(LatentOptions, "latent_size", 2)
    lr: float = with_default(LatentOptions, "lr", 1e-3)
    beta1: float = with_default(AdamOptions, "beta1", 0.9)
    n_epochs: int = with_default(LatentOptions, "n_epochs", 60)
    recon_loss: str = option("bce", "how a picture is compared with its reconstruction", choices=RECONSTRUCTIONS)
    lambda_kl: float = option(1.0, "weight of the KL divergence", least=0)


VAEOptionsT = TypeVar("VAEOptionsT", bound=VAEOptions)


class VAE(LatentRecipe[VAEOptionsT]):
    """E gives mean and log-sigma of an image's code, G makes the image of a code drawn from them.

    Inside, pictures are in [0, 1] and G gives their logits.
    """

    name = "vae"
    summary = "variational autoencoder (Kingma, Welling 2014)"
    Options = VAEOptions
    encodes = True
    presets = small_images(128, laptop={"n_epochs": 10})

    def __init__(self, options: VAEOptionsT | None = None, *, precision: str = "fp32"):
        super().__init__(options, precision=precision)
        o = self.options
        self.networks = {
            "E": Encoder(o.input_nc, o.image_size, o.latent_size, self._encoder_classes()),
            "G": Decoder(o.input_nc, o.image_size, o.latent_size, self.classes),
        }
        both = [parameter for network in self.networks.values() for parameter in network.parameters()]
        self.optimizers = {"VAE": Adam(both, lr=o.lr, betas=(o.beta1, 0.999), fused=True)}

    def compute(self, batch: Batch, decided: Decisions) -> Losses:
        """One step on the negative bound of batch["image"]; losses recon and kl (weighted), mean per image."""
        real = batch["image"]
        self.check_images(*real.shape[-2:])
        labels = batch["label"] if self.classes else None
        with self.precision.autocast(real.device):
            mean, log_sigma = self._posterior(real, labels)
            logits = self._logits(reparameterize(mean, log_sigma), labels)
            losses = {
                "recon": reconstruction_loss(logits, to_unit(real), self.options.recon_loss),
                "kl": self.options.lambda_kl * kl_to_standard_normal(mean, log_sigma),
            }
        self.update("VAE", total(losses))
        return detached(losses)

    def _posterior(self, images: Tensor, labels: Tensor | None) -> tuple[Tensor, Tensor]:
        """(mean, log_sigma) of the images' codes."""
        return self.networks["E"](images, None)

    def _logits(self, z: Tensor, labels: Tensor | None) -> Tensor:
        """The logits of the pictures of codes."""
        return self.networks["G"](z, None)

    def _encoder_classes(self) -> int:
        """How many classes the encoder is conditioned on."""
        return 0

    def _generate(self, z: Tensor, labels: Tensor | None) -> Tensor:
        return 2 * torch.sigmoid(self._logits(z, labels)) - 1

    def _encode(self, images: Tensor, labels: Tensor | None) -> Tensor:
        return self._posterior(images, labels)[0]


def reparameterize(mean: Tensor, log_sigma: Tensor) -> Tensor:
    """A code from N(mean, sigma^2), differentiable in both (Kingma and Welling 2014, section 2.4)."""
    return mean + log_sigma.exp() * torch.randn_like(mean)


def to_unit(images: Tensor) -> Tensor:
    """Images in [-1, 1] as pictures in [0, 1]."""
    return (images + 1) / 2


__all__ = ["VAE", "VAEOptions", "VAEOptionsT", "reparameterize", "to_unit"]
