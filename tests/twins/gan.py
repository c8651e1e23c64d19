"""GAN in plain torch: k steps of D, then G."""

import torch
import torch.nn.functional as F

from .networks import MLPDiscriminator, MLPGenerator, noise, step


class Twin:
    def __init__(self, latent_size, image_size, lr=2e-4, beta1=0.5, d_steps=1, gan_loss="vanilla"):
        self.latent, self.d_steps, self.minimax, self.count = latent_size, d_steps, gan_loss == "minimax", 0
        G, D = self.G, self.D = MLPGenerator(latent_size, image_size), MLPDiscriminator(image_size)
        self.networks = {"G": G, "D": D}
        self.optimizers = {
            "G": torch.optim.Adam(G.parameters(), lr, (beta1, 0.999)),
            "D": torch.optim.Adam(D.parameters(), lr, (beta1, 0.999)),
        }

    def step(self, batch):
        x, bce = batch["image"], F.binary_cross_entropy_with_logits
        fake = self.G(noise(x, self.latent)).detach()
        real_logits, fake_logits = self.D(x), self.D(fake)
        loss_D = bce(real_logits, torch.ones_like(real_logits)) + bce(fake_logits, torch.zeros_like(fake_logits))
        step(self.optimizers["D"], loss_D)
        losses = {"D": loss_D}
        self.count += 1
        if self.count % self.d_steps == 0:
            p = torch.sigmoid(self.D(self.G(noise(x, self.latent))))
            losses["G"] = torch.log(1 - p).mean() if self.minimax else -torch.log(p).mean()
            step(self.optimizers["G"], losses["G"])
        return losses
