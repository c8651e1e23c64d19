"""VAE and CVAE in plain torch: reconstruction and KL divergence, summed over an image, mean over images."""

import torch
import torch.nn.functional as F

from .networks import Encoder, decoder, step


class Twin:
    def __init__(
        self,
        latent_size,
        image_size,
        classes=0,
        lr=1e-3,
        beta1=0.9,
        recon_loss="bce",
        lambda_kl=1.0,
        decoder_only=False,
    ):
        self.classes, self.decoder_only = classes, decoder_only
        self.mse, self.lambda_kl = recon_loss == "mse", lambda_kl
        E = self.E = Encoder(latent_size, image_size, 0 if decoder_only else classes)
        G = self.G = decoder(latent_size, image_size, classes)
        self.networks = {"E": E, "G": G}
        self.optimizers = {"VAE": torch.optim.Adam([*E.parameters(), *G.parameters()], lr, (beta1, 0.999))}

    def step(self, batch):
        recon, kl, *_ = self.bound(batch["image"], batch["label"])
        step(self.optimizers["VAE"], recon + kl)
        return {"recon": recon, "kl": kl}

    def bound(self, x, labels):
        one_hot = torch.eye(self.classes)[labels].to(x) if self.classes else None
        mean, log_sigma = self.E(x, None if self.decoder_only else one_hot)
        z = mean + torch.exp(log_sigma) * torch.randn_like(mean)
        logits = self.draw(z, one_hot)
        picture = (x + 1) / 2
        if self.mse:
            recon = ((torch.sigmoid(logits) - picture) ** 2).sum() / len(x)
        else:
            recon = F.binary_cross_entropy_with_logits(logits, picture, reduction="sum") / len(x)
        variance = torch.exp(2 * log_sigma)
        kl = -0.5 * self.lambda_kl * (1 + torch.log(variance) - mean**2 - variance).sum() / len(x)
        return recon, kl, logits, one_hot

    def draw(self, z, one_hot):
        return self.G(z if one_hot is None else torch.cat([z, one_hot], 1))
