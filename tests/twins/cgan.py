"""CGAN in plain torch: G on random classes, then D on (real, label) and (generated, the class asked for)."""

import torch
import torch.nn.functional as F

from .networks import MLPDiscriminator, MLPGenerator, noise, step


class Twin:
    def __init__(self, latent_size, image_size, n_classes=10, lr=2e-4, beta1=0.5, gan_loss="lsgan"):
        self.latent, self.classes = latent_size, n_classes
        self.loss = F.mse_loss if gan_loss == "lsgan" else F.binary_cross_entropy_with_logits
        self.G, self.D = MLPGenerator(latent_size, image_size, n_classes), MLPDiscriminator(image_size, n_classes)
        self.networks = {"G": self.G, "D": self.D}
        self.optimizers = {
            name: torch.optim.Adam(network.parameters(), lr, (beta1, 0.999)) for name, network in self.networks.items()
        }

    def step(self, batch):
        x, labels = batch["image"], batch["label"]
        ones, zeros = torch.ones(len(x), 1).to(x), torch.zeros(len(x), 1).to(x)
        z = noise(x, self.latent)
        asked = torch.randint(0, self.classes, (len(x),))
        fake = self.G(z, asked)
        loss_G = self.loss(self.D(fake, asked), ones)
        step(self.optimizers["G"], loss_G)
        loss_D = (self.loss(self.D(x, labels), ones) + self.loss(self.D(fake.detach(), asked), zeros)) / 2
        step(self.optimizers["D"], loss_D)
        return {"G": loss_G, "D": loss_D}
