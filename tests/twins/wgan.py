"""WGAN in plain torch: n_critic steps of the critic with clipping, then G."""

import torch

from .networks import DCGANDiscriminator, dcgan_generator, noise, step


class Twin:
    def __init__(self, latent_size, image_size, lr=5e-5, n_critic=5, clip=0.01):
        self.latent, self.n_critic, self.clip, self.count = latent_size, n_critic, clip, 0
        G, D = self.G, self.D = dcgan_generator(latent_size, image_size), DCGANDiscriminator(image_size)
        self.networks = {"G": G, "D": D}
        self.optimizers = {
            name: torch.optim.RMSprop(network.parameters(), lr) for name, network in self.networks.items()
        }

    def step(self, batch):
        x = batch["image"]
        loss_D = -self.D(x).mean() + self.D(self.G(noise(x, self.latent)).detach()).mean()
        step(self.optimizers["D"], loss_D)
        for parameter in self.D.parameters():
            parameter.data.clamp_(-self.clip, self.clip)
        losses = {"D": loss_D, "distance": -loss_D}
        self.count += 1
        if self.count % self.n_critic == 0:
            losses["G"] = -self.D(self.G(noise(x, self.latent))).mean()
            step(self.optimizers["G"], losses["G"])
        return losses
