"""CVAE-GAN in plain torch: C on real images, then D, then encoder and decoder."""

import torch
import torch.nn.functional as F

from . import vae
from .networks import conv_classifier, noise, step


class Twin(vae.Twin):
    def __init__(self, latent_size, image_size, classes=10, lr=1e-4, beta1=0.5, lambda_gan=1.0, lambda_class=1.0):
        super().__init__(latent_size, image_size, classes, lr, beta1)
        self.latent, self.lambdas = latent_size, (lambda_gan, lambda_class)
        D, C = self.D, self.C = conv_classifier(image_size, 1), conv_classifier(image_size, classes)
        self.networks |= {"D": D, "C": C}
        for name, network in (("D", D), ("C", C)):
            self.optimizers[name] = torch.optim.Adam(network.parameters(), lr, (beta1, 0.999))

    def step(self, batch):
        x, labels, bce = batch["image"], batch["label"], F.binary_cross_entropy_with_logits
        lambda_gan, lambda_class = self.lambdas
        loss_C = F.cross_entropy(self.C(x), labels)
        step(self.optimizers["C"], loss_C)

        recon, kl, logits, one_hot = self.bound(x, labels)
        imagined = self.draw(noise(x, self.latent), one_hot)
        fake = 2 * torch.sigmoid(torch.cat([logits, imagined])) - 1
        of_real, of_fake = self.D(x), self.D(fake.detach())
        loss_D = bce(of_real, torch.ones_like(of_real)) + bce(of_fake, torch.zeros_like(of_fake))
        step(self.optimizers["D"], loss_D)

        of_fake = self.D(fake)
        fooled = lambda_gan * bce(of_fake, torch.ones_like(of_fake))
        named = lambda_class * F.cross_entropy(self.C(fake), torch.cat([labels, labels]))
        step(self.optimizers["VAE"], recon + kl + fooled + named)
        return {"C": loss_C, "D": loss_D, "recon": recon, "kl": kl, "G_gan": fooled, "G_class": named}
