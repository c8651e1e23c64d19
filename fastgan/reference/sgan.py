"""SGAN: semi-supervised learning with a discriminator of K + 1 classes (Salimans et al. 2016, arXiv 1606.03498, section
5; Odena 2016, arXiv 1606.01583), with DCGAN's networks."""

import torch
import torch.nn.functional as F
from torch import Tensor

from ._base import Batch, Losses, ReferenceModel, adams, detached, noise
from .dcgan import Discriminator, Generator


class SGAN(ReferenceModel):
    """D gives p(y|x) of the K classes and of class K + 1, "generated"; G turns noise into images.

    D minimises -log p(y|x, y < K + 1) of labelled images, -log(1 - p(K + 1|x)) of unlabelled and -log p(K + 1|x) of
    generated ones. g_loss "features": G matches the mean of D's features of real images (section 3.1); "vanilla": G
    minimises -log(1 - p(K + 1|x)).
    """

    def __init__(
        self,
        latent_size: int = 100,
        image_size: int = 28,
        input_nc: int = 1,
        n_classes: int = 10,
        lr: float = 2e-4,
        beta1: float = 0.5,
        upsample: str = "resize",
        g_loss: str = "features",
        d_norm: str = "instance",
    ):
        self.latent_size, self.g_loss = latent_size, g_loss
        self.G = Generator(latent_size, input_nc, image_size, upsample)
        self.D = Discriminator(input_nc, image_size, n_classes + 1, d_norm)
        self.networks = {"G": self.G, "D": self.D}
        self.optimizers = adams(self.networks, lr, beta1)

    def step(self, batch: Batch) -> Losses:
        x, labelled, labels = batch["image"], batch["labelled_image"], batch["labelled_label"]
        G, D = self.G, self.D
        losses: Losses = {}

        fake = G(noise(x, self.latent_size))
        losses["D_labelled"] = F.cross_entropy(D(labelled)[:, :-1], labels)
        losses["D_real"] = -log_real(D(x)).mean()
        losses["D_fake"] = -F.log_softmax(D(fake.detach()), 1)[:, -1].mean()
        self.update("D", losses["D_labelled"] + losses["D_real"] + losses["D_fake"])

        if self.g_loss == "features":
            losses["G"] = F.mse_loss(D.features(fake).mean(0), D.features(x).mean(0).detach())
        else:
            losses["G"] = -log_real(D(fake)).mean()
        self.update("G", losses["G"])
        return detached(losses)


def log_real(logits: Tensor) -> Tensor:
    """log(1 - p(K + 1|x)) = log of the sum of the other probabilities."""
    return torch.logsumexp(F.log_softmax(logits, 1)[:, :-1], 1)
