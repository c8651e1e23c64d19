"""DCGAN in plain torch: a step of D on real images, one on generated ones, one of G, an Adam for each; or one step of D
on a batch of both.
"""

import torch
import torch.nn.functional as F

from .networks import DCGANDiscriminator, dcgan_generator, noise, step


class Twin:
    def __init__(
        self,
        latent_size,
        image_size,
        lr=2e-4,
        beta1=0.5,
        upsample="resize",
        d_optimizers=2,
        d_norm="batch",
        r1_gamma=0.0,
    ):
        self.latent, self.gamma = latent_size, r1_gamma
        G, D = dcgan_generator(latent_size, image_size, upsample), DCGANDiscriminator(image_size, norm=d_norm)
        self.G, self.D = G, D
        self.networks = {"G": G, "D": D}
        owners = {"G": G, "D": D} if d_optimizers == 1 else {"G": G, "D_real": D, "D_fake": D}
        self.optimizers = {
            name: torch.optim.Adam(owner.parameters(), lr, (beta1, 0.999)) for name, owner in owners.items()
        }

    def step(self, batch):
        fake = self.G(noise(batch["image"], self.latent))
        return self.one_step(batch["image"], fake) if "D" in self.optimizers else self.three_steps(batch["image"], fake)

    def three_steps(self, x, fake):
        bce = F.binary_cross_entropy_with_logits
        logits = self.D(x)
        real_loss = bce(logits, torch.ones_like(logits))
        r1 = self.r1(x)
        step(self.optimizers["D_real"], real_loss + r1)
        logits = self.D(fake.detach())
        fake_loss = bce(logits, torch.zeros_like(logits))
        step(self.optimizers["D_fake"], fake_loss)
        logits = self.D(fake)
        loss_G = bce(logits, torch.ones_like(logits))
        step(self.optimizers["G"], loss_G)
        return {"D_real": real_loss, "D_fake": fake_loss} | ({"r1": r1} if self.gamma else {}) | {"G": loss_G}

    def r1(self, x):
        """Half of gamma times the mean squared norm of D's gradient at real images (Mescheder et al. 2018, eq. 9)."""
        if not self.gamma:
            return 0.0
        x = x.clone().requires_grad_()
        (gradient,) = torch.autograd.grad(self.D(x).sum(), x, create_graph=True)
        return self.gamma / 2 * gradient.flatten(1).norm(dim=1).square().mean()

    def one_step(self, x, fake):
        bce, n = F.binary_cross_entropy_with_logits, len(x)
        logits = self.D(torch.cat([x, fake.detach()]))
        real_loss = bce(logits[:n], torch.ones_like(logits[:n]))
        fake_loss = bce(logits[n:], torch.zeros_like(logits[n:]))
        r1 = self.r1(x)
        step(self.optimizers["D"], real_loss + fake_loss + r1)
        logits = self.D(torch.cat([x, fake]))[n:]
        loss_G = bce(logits, torch.ones_like(logits))
        step(self.optimizers["G"], loss_G)
        return {"D_real": real_loss, "D_fake": fake_loss} | ({"r1": r1} if self.gamma else {}) | {"G": loss_G}
