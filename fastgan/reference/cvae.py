"""CVAE: a VAE told the class (Sohn, Lee, Yan 2015; Kingma et al. 2014, arXiv 1406.5298, model M2)."""

import torch
import torch.nn.functional as F

from ._base import Batch, Losses, ReferenceModel, detached
from .vae import Decoder, Encoder, kl_divergence, reconstruction, sample


class CVAE(ReferenceModel):
    """E gives q(z|x, y), G gives p(x|z, y); with `decoder_only` only G is told y."""

    def __init__(
        self,
        latent_size: int = 2,
        image_size: int = 28,
        input_nc: int = 1,
        n_classes: int = 10,
        lr: float = 1e-3,
        beta1: float = 0.9,
        recon_loss: str = "bce",
        lambda_kl: float = 1.0,
        decoder_only: bool = False,
    ):
        self.recon_loss, self.lambda_kl = recon_loss, lambda_kl
        self.n_classes, self.decoder_only = n_classes, decoder_only
        self.E = Encoder(input_nc, image_size, latent_size, 0 if decoder_only else n_classes)
        self.G = Decoder(input_nc, image_size, latent_size, n_classes)
        self.networks = {"E": self.E, "G": self.G}
        parameters = [*self.E.parameters(), *self.G.parameters()]
        self.optimizers = {"VAE": torch.optim.Adam(parameters, lr, (beta1, 0.999))}

    def step(self, batch: Batch) -> Losses:
        x = batch["image"]
        y = F.one_hot(batch["label"], self.n_classes).to(x)
        mean, log_sigma = self.E(x) if self.decoder_only else self.E(x, y)
        logits = self.G(sample(mean, log_sigma), y)
        losses = {
            "recon": reconstruction(logits, (x + 1) / 2, self.recon_loss),
            "kl": self.lambda_kl * kl_divergence(mean, log_sigma),
        }
        self.update("VAE", losses["recon"] + losses["kl"])
        return detached(losses)
