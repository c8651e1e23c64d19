"""WGAN-GP in plain torch: the critic's gradient at points between real and generated images is held near norm 1."""

import torch

from .networks import DCGANDiscriminator, dcgan_generator, noise, step


class Twin:
    def __init__(
        self, latent_size, image_size, lr=1e-4, beta1=0.0, beta2=0.9, n_critic=5, lambda_gp=10.0, critic_norm="instance"
    ):
        self.latent, self.n_critic, self.weight, self.count = latent_size, n_critic, lambda_gp, 0
        G, D = self.G, self.D = (
            dcgan_generator(latent_size, image_size),
            DCGANDiscriminator(image_size, norm=critic_norm),
        )
        self.networks = {"G": G, "D": D}
        self.optimizers = {
            name: torch.optim.Adam(network.parameters(), lr, (beta1, beta2)) for name, network in self.networks.items()
        }

    def step(self, batch):
        x = batch["image"]
        fake = self.G(noise(x, self.latent)).detach()
        distance = self.D(x).mean() - self.D(fake).mean()
        penalty = gradient_penalty(self.D, x, fake, self.weight)
        loss_D = penalty - distance
        step(self.optimizers["D"], loss_D)
        losses = {"D": loss_D, "distance": distance, "gp": penalty}
        self.count += 1
        if self.count % self.n_critic == 0:
            losses["G"] = -self.D(self.G(noise(x, self.latent))).mean()
            step(self.optimizers["G"], losses["G"])
        return losses


def gradient_penalty(D, real, fake, weight):
    t = torch.rand(len(real), 1, 1, 1, dtype=real.dtype)
    x = (t * real + (1 - t) * fake).requires_grad_()
    (gradient,) = torch.autograd.grad(D(x).sum(), x, create_graph=True)
    return weight * ((gradient.flatten(1).norm(dim=1) - 1) ** 2).mean()
