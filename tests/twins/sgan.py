"""SGAN in plain torch: D has K real classes and a generated one; labelled, unlabelled and generated batches."""

import torch
import torch.nn.functional as F

from .networks import DCGANDiscriminator, dcgan_generator, noise, step


class Twin:
    def __init__(self, latent_size, image_size, n_classes=10, lr=2e-4, beta1=0.5, g_loss="features", d_norm="instance"):
        self.latent, self.features = latent_size, g_loss == "features"
        G = self.G = dcgan_generator(latent_size, image_size)
        D = self.D = DCGANDiscriminator(image_size, n_classes + 1, d_norm)
        self.networks = {"G": G, "D": D}
        self.optimizers = {
            name: torch.optim.Adam(network.parameters(), lr, (beta1, 0.999)) for name, network in self.networks.items()
        }

    def step(self, batch):
        x, labelled, labels = batch["image"], batch["labelled_image"], batch["labelled_label"]
        fake = self.G(noise(x, self.latent))
        generated = torch.softmax(self.D(x), 1)[:, -1], torch.softmax(self.D(fake.detach()), 1)[:, -1]
        losses = {
            "D_labelled": F.cross_entropy(self.D(labelled)[:, :-1], labels),
            "D_real": -torch.log(1 - generated[0]).mean(),
            "D_fake": -torch.log(generated[1]).mean(),
        }
        step(self.optimizers["D"], sum(losses.values()))
        if self.features:
            losses["G"] = F.mse_loss(self.D.features(fake).mean(0), self.D.features(x).mean(0).detach())
        else:
            losses["G"] = -torch.log(1 - torch.softmax(self.D(fake), 1)[:, -1]).mean()
        step(self.optimizers["G"], losses["G"])
        return losses
