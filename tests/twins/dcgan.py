"""DCGAN in plain torch: a step of D on real images, one on generated ones, one of G; an Adam for each."""

import torch
import torch.nn.functional as F

from .networks import DCGANDiscriminator, dcgan_generator, noise, step


class Twin:
    def __init__(self, latent_size, image_size, lr=2e-4, beta1=0.5, upsample="resize", d_optimizers=2):
        self.latent = latent_size
        G, D = self.G, self.D = dcgan_generator(latent_size, image_size, upsample), DCGANDiscriminator(image_size)
        self.networks = {"G": G, "D": D}
        owners = {"G": G, "D": D} if d_optimizers == 1 else {"G": G, "D_real": D, "D_fake": D}
        self.optimizers = {name: torch.optim.Adam(owner.parameters(), lr, (beta1, 0.999))
                           for name, owner in owners.items()}

    def step(self, batch):
        x, bce = batch["image"], F.binary_cross_entropy_with_logits
        fake = self.G(noise(x, self.latent))
        logits = self.D(x)
        real_loss = bce(logits, torch.ones_like(logits))
        if "D_real" in self.optimizers:
            step(self.optimizers["D_real"], real_loss)
        logits = self.D(fake.detach())
        fake_loss = bce(logits, torch.zeros_like(logits))
        if "D_fake" in self.optimizers:
            step(self.optimizers["D_fake"], fake_loss)
        else:
            step(self.optimizers["D"], real_loss + fake_loss)
        logits = self.D(fake)
        loss_G = bce(logits, torch.ones_like(logits))
        step(self.optimizers["G"], loss_G)
        return {"D_real": real_loss, "D_fake": fake_loss, "G": loss_G}
