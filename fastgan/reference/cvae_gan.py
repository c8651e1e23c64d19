"""CVAE-GAN: fine-grained image generation (Bao, Chen, Wen, Li, Hua 2017, arXiv 1703.10155).

E and G are a CVAE; D tells real images from G's; C names the class of an image. G's images are of two kinds,
reconstructions from q(z|x, y) and fantasies from the prior.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ._base import Batch, Losses, ReferenceModel, adams, bce, detached, noise
from .vae import Decoder, Encoder, kl_divergence, reconstruction, sample


class Classifier(nn.Module):
    """Two 3x3 convolutions (32, 64), each pooled, then 1024 -> `outputs` logits: D has one, C one for each class."""

    def __init__(self, channels: int, image_size: int, outputs: int):
        super().__init__()
        self.model = nn.Sequential(
            nn.Conv2d(channels, 32, 3, padding=1),
            nn.LeakyReLU(0.2),
            nn.MaxPool2d(2),
            nn.Conv2d(32, 64, 3, padding=1),
            nn.LeakyReLU(0.2),
            nn.MaxPool2d(2),
            nn.Flatten(),
            nn.Linear(64 * (image_size // 4) ** 2, 1024),
            nn.LeakyReLU(0.2),
            nn.Linear(1024, outputs),
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.model(x)


class CVAEGAN(ReferenceModel):
    """C on real images, then D on real ones and on G's, then E and G together: on the CVAE's bound, on being taken for
    real by D, and on being given their class by C."""

    def __init__(
        self,
        latent_size: int = 2,
        image_size: int = 28,
        input_nc: int = 1,
        n_classes: int = 10,
        lr: float = 1e-4,
        beta1: float = 0.5,
        recon_loss: str = "bce",
        lambda_kl: float = 1.0,
        lambda_gan: float = 1.0,
        lambda_class: float = 1.0,
        decoder_only: bool = False,
    ):
        self.latent_size, self.n_classes, self.decoder_only = latent_size, n_classes, decoder_only
        self.recon_loss, self.lambda_kl = recon_loss, lambda_kl
        self.lambda_gan, self.lambda_class = lambda_gan, lambda_class
        self.E = Encoder(input_nc, image_size, latent_size, 0 if decoder_only else n_classes)
        self.G = Decoder(input_nc, image_size, latent_size, n_classes)
        self.D = Classifier(input_nc, image_size, 1)
        self.C = Classifier(input_nc, image_size, n_classes)
        self.networks = {"E": self.E, "G": self.G, "D": self.D, "C": self.C}
        parameters = [*self.E.parameters(), *self.G.parameters()]
        self.optimizers = {
            "VAE": torch.optim.Adam(parameters, lr, (beta1, 0.999)),
            **adams({"D": self.D, "C": self.C}, lr, beta1),
        }

    def step(self, batch: Batch) -> Losses:
        x, labels = batch["image"], batch["label"]
        y = F.one_hot(labels, self.n_classes).to(x)
        G, D, C = self.G, self.D, self.C
        losses: Losses = {}

        losses["C"] = F.cross_entropy(C(x), labels)
        self.update("C", losses["C"])

        mean, log_sigma = self.E(x) if self.decoder_only else self.E(x, y)
        rebuilt = G(sample(mean, log_sigma), y)
        imagined = G(noise(x, self.latent_size), y)
        fake = 2 * torch.sigmoid(torch.cat([rebuilt, imagined])) - 1
        losses["D"] = bce(D(x), 1) + bce(D(fake.detach()), 0)
        self.update("D", losses["D"])

        losses["recon"] = reconstruction(rebuilt, (x + 1) / 2, self.recon_loss)
        losses["kl"] = self.lambda_kl * kl_divergence(mean, log_sigma)
        losses["G_gan"] = self.lambda_gan * bce(D(fake), 1)
        losses["G_class"] = self.lambda_class * F.cross_entropy(C(fake), torch.cat([labels, labels]))
        self.update("VAE", losses["recon"] + losses["kl"] + losses["G_gan"] + losses["G_class"])
        return detached(losses)
