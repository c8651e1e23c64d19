"""CVAE-GAN: a CVAE whose images must also pass a discriminator and a classifier (Bao et al. 2017, arXiv 1703.10155)."""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.optim import Adam

from fastgan._options import option, with_default
from fastgan.models import ConvClassifier

from ._base import Batch, Decisions, Losses, detached, frozen, total
from ._latent import small_images
from ._options import LatentOptions
from .cvae import CVAE, CVAEOptions
from .losses import GANLoss, kl_to_standard_normal, reconstruction_loss
from .vae import reparameterize, to_unit


@dataclass(frozen=True)
class CVAEGANOptions(CVAEOptions):
    """Options of the recipe. Raises ValueError for values that cannot be."""

    lr: float = with_default(LatentOptions, "lr", 1e-4)
    beta1: float = with_default(CVAEOptions, "beta1", 0.5)
    lambda_gan: float = option(1.0, "weight of fooling the discriminator", least=0)
    lambda_class: float = option(1.0, "weight of satisfying the classifier", least=0)


class CVAEGAN(CVAE[CVAEGANOptions]):
    """E and G are a CVAE; D tells real images from G's, C names the class of an image.

    G's images are of two kinds: reconstructions, of codes from the posterior, and fantasies, of codes from the prior.
    """

    name = "cvae_gan"
    summary = "CVAE with a discriminator and a classifier (Bao et al. 2017)"
    Options = CVAEGANOptions
    presets = small_images(64, laptop={"n_epochs": 5})

    def __init__(self, options: CVAEGANOptions | None = None, *, precision: str = "fp32"):
        super().__init__(options, precision=precision)
        o = self.options
        self.networks |= {
            "D": ConvClassifier(o.input_nc, o.image_size),
            "C": ConvClassifier(o.input_nc, o.image_size, o.n_classes),
        }
        for name in ("D", "C"):
            self.optimizers[name] = Adam(self.networks[name].parameters(), lr=o.lr, betas=(o.beta1, 0.999), fused=True)
        self.gan_loss = GANLoss("vanilla")

    def compute(self, batch: Batch, decided: Decisions) -> Losses:
        """C on batch["image"], then D on it and on G's images, then E and G; losses C, D, recon, kl, G_gan, G_class.

        The last four are what E and G minimise the sum of, weights included.
        """
        real, labels, o = batch["image"], batch["label"], self.options
        self.check_images(*real.shape[-2:])
        C, D = self.networks["C"], self.networks["D"]
        losses: Losses = {}

        with self.precision.autocast(real.device):
            losses["C"] = F.cross_entropy(C(real), labels)
        self.update("C", losses["C"])

        with self.precision.autocast(real.device):
            mean, log_sigma = self._posterior(real, labels)
            logits = self._logits(reparameterize(mean, log_sigma), labels)
            rebuilt = 2 * torch.sigmoid(logits) - 1
            imagined = self._generate(self.latents(len(real)), labels)
            fake = torch.cat([rebuilt, imagined])
            losses["D"] = self.gan_loss(D(real), True) + self.gan_loss(D(fake.detach()), False)
        self.update("D", losses["D"])

        with self.precision.autocast(real.device), frozen(C, D):
            bound = {
                "recon": reconstruction_loss(logits, to_unit(real), o.recon_loss),
                "kl": o.lambda_kl * kl_to_standard_normal(mean, log_sigma),
                "G_gan": o.lambda_gan * self.gan_loss(D(fake), True),
                "G_class": o.lambda_class * F.cross_entropy(C(fake), labels.repeat(2)),
            }
        self.update("VAE", total(bound))
        return detached(losses | bound)

    def classify(self, images: Tensor) -> Tensor:
        """C's logits (N, K), of images (N, C, S, S) in [-1, 1]; evaluation mode, no gradients, fp32."""
        self.check_images(*images.shape[-2:])
        weight = self._weight()
        with self.evaluating(), self.precision.autocast(weight.device):
            return self.networks["C"](images.to(weight)).float()


__all__ = ["CVAEGAN", "CVAEGANOptions"]
