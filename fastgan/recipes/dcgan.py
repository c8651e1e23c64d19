"""DCGAN: convolutional networks with batch norm (Radford, Metz, Chintala 2016, arXiv 1511.06434), at MNIST's size."""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.optim import Adam

from fastgan._options import option
from fastgan.models import CRITIC_NORMS, UPSAMPLINGS, DCGANDiscriminator, DCGANGenerator, init_weights

from ._base import Batch, Decisions, Losses, detached, frozen, total
from ._latent import LatentRecipe, small_images
from ._options import AdamOptions
from .losses import GANLoss, real_gradient_penalty


@dataclass(frozen=True)
class DCGANOptions(AdamOptions):
    """Options of the recipe. Raises ValueError for values that cannot be."""

    upsample: str = option("resize", "how the generator grows its planes", choices=UPSAMPLINGS)
    d_optimizers: int = option(
        2,
        "Adams of the discriminator: one for real and one for generated images, or 1 for "
        "the sum of both losses, on one batch of both",
        choices=(1, 2),
    )
    d_norm: str = option(
        "batch", "the discriminator's norm: of each batch, of each image's own planes, or none", choices=CRITIC_NORMS
    )
    r1_gamma: float = option(
        0.0, "weight of the penalty on the discriminator's gradient at real images (R1, Mescheder et al. 2018)", least=0
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.r1_gamma and self.d_norm == "batch":
            raise ValueError(
                f"r1_gamma {self.r1_gamma:g} penalises each image's own gradient, which batch norm mixes; "
                "use d_norm instance or none"
            )


class DCGAN(LatentRecipe[DCGANOptions]):
    """G turns noise into images, D tells them from real ones.

    D learns from real and from generated images in two steps of two Adams, so that each has its own moments, and
    normalises each in a batch of its own, whose brightness and contrast it cannot see. With d_optimizers 1 it learns
    from both in one step, as in the paper, and sees them in one batch, with G's images beside real ones in G's step
    too. Initial weights are N(0, 0.02), as in the paper. With d_norm "instance" or "none" D has no batch norm, sees
    each image alone and learns the same of one batch as of two, as Gulrajani et al. 2017 (section 4) have their critic;
    r1_gamma then keeps it from running away from G.
    """

    name = "dcgan"
    summary = "images from noise, convolutional networks with batch norm (Radford et al. 2016)"
    Options = DCGANOptions
    presets = small_images(128, laptop={"n_epochs": 4})

    def __init__(self, options: DCGANOptions | None = None, *, precision: str = "fp32"):
        super().__init__(options, precision=precision)
        o = self.options
        self.networks = {
            "G": init_weights(DCGANGenerator(o.latent_size, o.input_nc, o.image_size, o.upsample)),
            "D": init_weights(DCGANDiscriminator(o.input_nc, o.image_size, norm=o.d_norm)),
        }
        owners = {"G": "G", "D": "D"} if o.d_optimizers == 1 else {"G": "G", "D_real": "D", "D_fake": "D"}
        self.optimizers = {
            name: Adam(self.networks[owner].parameters(), lr=o.lr, betas=(o.beta1, 0.999), fused=True)
            for name, owner in owners.items()
        }
        self.gan_loss = GANLoss("vanilla")

    def compute(self, batch: Batch, decided: Decisions) -> Losses:
        """D on batch["image"] and on generated images, G on what D says of the same ones.

        Losses D_real, D_fake, with r1_gamma r1, and G.
        """
        real = batch["image"]
        self.check_images(*real.shape[-2:])
        with self.precision.autocast(real.device):
            fake = self.networks["G"](self.latents(len(real)))
        if self.options.d_optimizers == 1:
            of_discriminator = self._update_discriminator_once(real, fake.detach())
        else:
            of_discriminator = self._update_discriminator_twice(real, fake.detach())
        with self.precision.autocast(real.device), frozen(self.networks["D"]):
            of_generator = self.generator_losses(real, fake)
        self.update("G", total(of_generator))
        return detached({**of_discriminator, **of_generator})

    def _update_discriminator_once(self, real: Tensor, fake: Tensor) -> Losses:
        with self.precision.autocast(real.device):
            on_real, on_fake = self.networks["D"](torch.cat([real, fake])).split(len(real))
            losses = {"D_real": self.gan_loss(on_real, True), "D_fake": self.gan_loss(on_fake, False)}
        penalty = self._penalty(real)
        self.update("D", total(losses | penalty))
        return losses | penalty

    def _update_discriminator_twice(self, real: Tensor, fake: Tensor) -> Losses:
        D = self.networks["D"]
        with self.precision.autocast(real.device):
            on_real = self.gan_loss(D(real), True)
        penalty = self._penalty(real)
        self.update("D_real", total({"D_real": on_real, **penalty}))
        with self.precision.autocast(real.device):
            on_fake = self.gan_loss(D(fake), False)
        self.update("D_fake", on_fake)
        return {"D_real": on_real, "D_fake": on_fake, **penalty}

    def _penalty(self, real: Tensor) -> Losses:
        """With r1_gamma the penalty at the real images, by name."""
        gamma = self.options.r1_gamma
        return {"r1": real_gradient_penalty(self.networks["D"], real, gamma)} if gamma else {}

    def generator_losses(self, real: Tensor, fake: Tensor) -> Losses:
        """What G minimises the sum of, by name. Called under autocast, with a frozen D."""
        D = self.networks["D"]
        beside_real = self.options.d_optimizers == 1 and self.options.d_norm == "batch"
        on_fake = D(torch.cat([real, fake]))[len(real) :] if beside_real else D(fake)
        return {"G": self.gan_loss(on_fake, True)}

    def _generate(self, z: Tensor, labels: Tensor | None) -> Tensor:
        return self.networks["G"](z)


__all__ = ["DCGAN", "DCGANOptions"]
