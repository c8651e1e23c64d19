"""VAE: auto-encoding variational Bayes (Kingma, Welling 2014, arXiv 1312.6114).

    recon + KL,  recon = -E[log p(x|z)],  KL = -1/2 sum_j (1 + log sigma_j^2 - mu_j^2 - sigma_j^2)       (equation 10)

summed over an image and its code, and averaged over the batch.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ._base import Batch, Losses, ReferenceModel, detached


class BatchNormLeakyReLU(nn.BatchNorm2d):
    """Batch norm, then leaky ReLU 0.2: one layer of a Sequential."""

    def forward(self, x: Tensor) -> Tensor:
        return F.leaky_relu(super().forward(x), 0.2)


class Encoder(nn.Module):
    """x -> (mu, log sigma); with `classes` the one-hot class comes as planes beside the image."""

    def __init__(self, channels: int, image_size: int, latent_size: int, classes: int = 0):
        super().__init__()
        layers: list[nn.Module] = []
        for inputs, outputs, stride in ((channels + classes, 16, 2), (16, 32, 2), (32, 32, 1)):
            layers += [nn.Conv2d(inputs, outputs, 3, stride, padding=1, bias=False), BatchNormLeakyReLU(outputs)]
        self.features = nn.Sequential(*layers, nn.Flatten())
        self.mean = nn.Linear(32 * (image_size // 4) ** 2, latent_size)
        self.log_sigma = nn.Linear(32 * (image_size // 4) ** 2, latent_size)

    def forward(self, x: Tensor, one_hot: Tensor | None = None) -> tuple[Tensor, Tensor]:
        if one_hot is not None:
            x = torch.cat([x, one_hot[:, :, None, None] * torch.ones_like(x[:, :1])], 1)
        features = self.features(x)
        return self.mean(features), self.log_sigma(features)


class Decoder(nn.Module):
    """z -> the logits of an image in [0, 1]; with `classes` the one-hot class comes behind z."""

    def __init__(self, channels: int, image_size: int, latent_size: int, classes: int = 0):
        super().__init__()
        side = image_size // 4
        self.model = nn.Sequential(
            nn.Linear(latent_size + classes, 32 * side**2),
            nn.Unflatten(1, (32, side, side)),
            nn.ConvTranspose2d(32, 16, 4, stride=2, padding=1),
            nn.ReLU(),
            nn.ConvTranspose2d(16, channels, 4, stride=2, padding=1),
        )

    def forward(self, z: Tensor, one_hot: Tensor | None = None) -> Tensor:
        return self.model(z if one_hot is None else torch.cat([z, one_hot], 1))


class VAE(ReferenceModel):
    """E gives q(z|x) = N(mu, sigma^2), G gives p(x|z); both in one Adam."""

    def __init__(
        self,
        latent_size: int = 2,
        image_size: int = 28,
        input_nc: int = 1,
        lr: float = 1e-3,
        beta1: float = 0.9,
        recon_loss: str = "bce",
        lambda_kl: float = 1.0,
    ):
        self.recon_loss, self.lambda_kl = recon_loss, lambda_kl
        self.E = Encoder(input_nc, image_size, latent_size)
        self.G = Decoder(input_nc, image_size, latent_size)
        self.networks = {"E": self.E, "G": self.G}
        parameters = [*self.E.parameters(), *self.G.parameters()]
        self.optimizers = {"VAE": torch.optim.Adam(parameters, lr, (beta1, 0.999))}

    def step(self, batch: Batch) -> Losses:
        x = batch["image"]
        mean, log_sigma = self.E(x)
        logits = self.G(sample(mean, log_sigma))
        losses = {
            "recon": reconstruction(logits, (x + 1) / 2, self.recon_loss),
            "kl": self.lambda_kl * kl_divergence(mean, log_sigma),
        }
        self.update("VAE", losses["recon"] + losses["kl"])
        return detached(losses)


def sample(mean: Tensor, log_sigma: Tensor) -> Tensor:
    """z = mu + sigma epsilon, epsilon ~ N(0, 1) (section 2.4)."""
    return mean + torch.exp(log_sigma) * torch.randn_like(mean)


def reconstruction(logits: Tensor, x: Tensor, kind: str) -> Tensor:
    """-log p(x|z) of pixels that are Bernoulli ("bce", appendix C.1), or their squared error ("mse")."""
    if kind == "mse":
        return ((torch.sigmoid(logits) - x) ** 2).sum() / len(x)
    return F.binary_cross_entropy_with_logits(logits, x, reduction="sum") / len(x)


def kl_divergence(mean: Tensor, log_sigma: Tensor) -> Tensor:
    """KL(N(mu, sigma^2) || N(0, 1)) (appendix B)."""
    return -0.5 * (1 + 2 * log_sigma - mean**2 - torch.exp(2 * log_sigma)).sum() / len(mean)
