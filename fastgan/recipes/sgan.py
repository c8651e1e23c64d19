"""SGAN: a discriminator that also classifies learns from few labels (Salimans et al. 2016, arXiv 1606.03498, section 5;
Odena 2016, arXiv 1606.01583)."""

from dataclasses import dataclass
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.optim import Adam

from fastgan import functional
from fastgan._options import option
from fastgan.models import UPSAMPLINGS, DCGANDiscriminator, DCGANGenerator

from ._base import Batch, Decisions, Losses, detached, frozen, total
from ._latent import LatentRecipe, small_images
from ._options import AdamOptions
from .losses import GANLoss


@dataclass(frozen=True)
class SGANOptions(AdamOptions):
    """Options of the recipe. Raises ValueError for values that cannot be."""

    n_classes: int = option(10, "classes of the images", least=2, from_data=True)
    upsample: str = option("resize", "how the generator grows its planes", choices=UPSAMPLINGS)
    g_loss: str = option(
        "features",
        "generator's loss: mean features of real images matched, or D called real",
        choices=("features", "vanilla"),
    )
    d_norm: str = option(
        "instance", "the discriminator's norm, which must not mix images", choices=("instance", "none")
    )


class SGAN(LatentRecipe[SGANOptions]):
    """D has K + 1 outputs, the real classes and "generated"; G turns noise into images.

    An image's logit of being real is logsumexp(first K) - last: sigmoid of it is 1 - p(generated). D has no batch norm:
    labelled, unlabelled and generated images come in batches of their own, and a test image alone.
    """

    name = "sgan"
    summary = "a classifier from few labels and many images without (Salimans et al. 2016)"
    Options = SGANOptions
    data_kind = "semi_labelled"
    presets = small_images(64, laptop={"n_epochs": 4})

    def __init__(self, options: SGANOptions | None = None, *, precision: str = "fp32"):
        super().__init__(options, precision=precision)
        o = self.options
        self.networks = {
            "G": DCGANGenerator(o.latent_size, o.input_nc, o.image_size, o.upsample),
            "D": DCGANDiscriminator(o.input_nc, o.image_size, o.n_classes + 1, o.d_norm),
        }
        self.optimizers = {
            name: Adam(network.parameters(), lr=o.lr, betas=(o.beta1, 0.999), fused=True)
            for name, network in self.networks.items()
        }
        self.gan_loss = GANLoss("vanilla")

    def compute(self, batch: Batch, decided: Decisions) -> Losses:
        """D on labelled, unlabelled and generated images, then G.

        batch["labelled_image"] has its classes in "labelled_label"; those of batch["image"] are not looked at. Losses:
        D_labelled, the cross entropy of the K classes; D_real and D_fake, whether unlabelled and generated images are
        taken for what they are; G.
        """
        labelled, labels, unlabelled = batch["labelled_image"], batch["labelled_label"], batch["image"]
        self.check_images(*unlabelled.shape[-2:])
        G, D = self.networks["G"], self.discriminator

        with self.precision.autocast(unlabelled.device):
            fake = G(self.latents(len(unlabelled)))
            losses = {
                "D_labelled": F.cross_entropy(D(labelled)[:, :-1], labels),
                "D_real": self.gan_loss(self._real(D(unlabelled)), True),
                "D_fake": self.gan_loss(self._real(D(fake.detach())), False),
            }
        self.update("D", total(losses))

        with self.precision.autocast(unlabelled.device), frozen(D):
            if self.options.g_loss == "features":
                with torch.no_grad():
                    wanted = D.features(unlabelled).mean(0)
                losses["G"] = functional.mse_loss(D.features(fake).mean(0), wanted)
            else:
                losses["G"] = self.gan_loss(self._real(D(fake)), True)
        self.update("G", losses["G"])
        return detached(losses)

    def classify(self, images: Tensor) -> Tensor:
        """Logits (N, K) of the real classes, of images (N, C, S, S) in [-1, 1]; evaluation mode, no gradients, fp32."""
        self.check_images(*images.shape[-2:])
        weight = self._weight()
        with self.evaluating(), self.precision.autocast(weight.device):
            return self.discriminator(images.to(weight))[:, :-1].float()

    @property
    def discriminator(self) -> DCGANDiscriminator:
        """The network D."""
        return cast(DCGANDiscriminator, self.networks["D"])

    @staticmethod
    def _real(logits: Tensor) -> Tensor:
        return torch.logsumexp(logits[:, :-1], 1) - logits[:, -1]

    def _generate(self, z: Tensor, labels: Tensor | None) -> Tensor:
        return self.networks["G"](z)


__all__ = ["SGAN", "SGANOptions"]
