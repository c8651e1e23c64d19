"""CycleGAN: unpaired image-to-image translation (Zhu, Park, Isola, Efros 2017, arXiv 1703.10593)."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor
from torch.optim import Adam

from fastgan import functional
from fastgan._options import option
from fastgan.models import discriminator, generator, statistics_of_each_image

from ._base import Decisions, Recipe, frozen, trainable
from ._options import TranslationOptions
from ._together import together
from .losses import GANLoss, gradient_penalty
from .pool import ImagePool
from .schedule import make_schedulers


@dataclass(frozen=True)
class CycleGANOptions(TranslationOptions):
    """Options of the recipe; the defaults are the paper's. Raises ValueError for values that cannot be."""

    lambda_A: float = option(10.0, "weight of the cycle A -> B -> A", least=0)
    lambda_B: float = option(10.0, "weight of the cycle B -> A -> B", least=0)
    lambda_identity: float = option(
        0.5, "weight of the identity loss, relative to the cycles'; 0 switches it off", least=0
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.lambda_identity > 0 and self.input_nc != self.output_nc:
            raise ValueError(
                f"the identity loss needs domains of equally many channels, got {self.input_nc} and "
                f"{self.output_nc}; set lambda_identity to 0"
            )


class CycleGAN(Recipe):
    """Two generators, G_A: A -> B and G_B: B -> A, and two critics: D_A judges images of B, D_B images of A.

    The names of networks and losses are those of the published code.
    """

    name = "cyclegan"
    summary = "unpaired image-to-image translation between two domains"
    Options = CycleGANOptions
    data_kind = "unaligned"
    directions = ("AtoB", "BtoA")
    presets = {  # noqa: RUF012
        "paper": {},
        "laptop": {
            "load_size": 64,
            "crop_size": 64,
            "netG": "resnet_6blocks",
            "ngf": 16,
            "ndf": 32,
            "lr": 1e-3,
            "max_dataset_size": 160,
            "n_epochs": 2,
            "n_epochs_decay": 2,
        },
        "gpu": {
            "load_size": 143,
            "crop_size": 128,
            "netG": "resnet_6blocks",
            "ngf": 32,
            "batch_size": 4,
            "n_epochs": 10,
            "n_epochs_decay": 10,
        },
    }

    def __init__(self, options: CycleGANOptions | None = None, *, precision: str = "fp32"):
        o = options or CycleGANOptions()
        super().__init__(o, precision=precision)
        in_g = dict(ngf=o.ngf, norm=o.norm, dropout=o.dropout, init_type=o.init_type, init_gain=o.init_gain)
        in_d = dict(ndf=o.ndf, n_layers=o.n_layers_D, norm=o.norm, init_type=o.init_type, init_gain=o.init_gain)
        self.networks = {
            "G_A": generator(o.netG, o.input_nc, o.output_nc, **in_g),
            "G_B": generator(o.netG, o.output_nc, o.input_nc, **in_g),
            "D_A": discriminator(o.netD, o.output_nc, **in_d),
            "D_B": discriminator(o.netD, o.input_nc, **in_d),
        }
        of_g = trainable(self.networks["G_A"], self.networks["G_B"])
        of_d = trainable(self.networks["D_A"], self.networks["D_B"])
        # fused: one pass over the parameters. 25 million of them on two CPU cores: 0.1 s, 0.6 s without.
        self.optimizers = {
            "G": Adam(of_g, lr=o.lr, betas=(o.beta1, 0.999), fused=True),
            "D": Adam(of_d, lr=o.lr, betas=(o.beta1, 0.999), fused=True),
        }
        self.schedulers = make_schedulers(self.optimizers, o)
        self.pools = {"fake_A": ImagePool(o.pool_size), "fake_B": ImagePool(o.pool_size)}
        self.gan_loss = GANLoss(o.gan_mode)

    def compute(self, batch: Mapping[str, Any], decided: Decisions) -> dict[str, Tensor]:
        """Both generators in one step, then both discriminators in one step.

        batch["A"], batch["B"]: (N, C, H, W) in [-1, 1]. Losses as the published code reports them, weights included:
        G_A, cycle_A, idt_A, D_A and the same for B; without identity loss no idt_*, and with wgangp also gp_A and gp_B
        (the penalties, which D_A and D_B include).
        """
        real_A, real_B = batch["A"], batch["B"]
        for images in (real_A, real_B):
            self.check_images(*images.shape[-2:])
        losses, fake_A, fake_B = self._update_generators(real_A, real_B)
        pooled_A = self.pools["fake_A"].query(fake_A, decided.rows["fake_A"])
        pooled_B = self.pools["fake_B"].query(fake_B, decided.rows["fake_B"])
        losses |= self._update_discriminators(real_A, real_B, pooled_A, pooled_B)
        order = ("G_A", "cycle_A", "idt_A", "D_A", "gp_A", "G_B", "cycle_B", "idt_B", "D_B", "gp_B")
        return {name: losses[name].detach() for name in order if name in losses}

    def _update_generators(self, real_A: Tensor, real_B: Tensor) -> tuple[dict[str, Tensor], Tensor, Tensor]:
        G_A, G_B, D_A, D_B = (self.networks[name] for name in ("G_A", "G_B", "D_A", "D_B"))
        o = self.options
        with self.precision.autocast(real_A.device), frozen(D_A, D_B):
            if o.lambda_identity > 0:
                fake_B, same_B = together(G_A, real_A, real_B)
                fake_A, same_A = together(G_B, real_B, real_A)
            else:
                fake_B, fake_A = G_A(real_A), G_B(real_B)
            losses = {
                "G_A": self.gan_loss(D_A(fake_B), True),
                "G_B": self.gan_loss(D_B(fake_A), True),
                "cycle_A": o.lambda_A * functional.l1_loss(G_B(fake_B), real_A),
                "cycle_B": o.lambda_B * functional.l1_loss(G_A(fake_A), real_B),
            }
            if o.lambda_identity > 0:
                losses["idt_A"] = o.lambda_identity * o.lambda_B * functional.l1_loss(same_B, real_B)
                losses["idt_B"] = o.lambda_identity * o.lambda_A * functional.l1_loss(same_A, real_A)
            total = sum(losses.values())
        self.update("G", total)
        return losses, fake_A, fake_B

    def _update_discriminators(
        self, real_A: Tensor, real_B: Tensor, pooled_A: Tensor, pooled_B: Tensor
    ) -> dict[str, Tensor]:
        losses = {}
        self.optimizers["D"].zero_grad()
        for side, real, fake in (("A", real_B, pooled_B), ("B", real_A, pooled_A)):
            D = self.networks[f"D_{side}"]
            with self.precision.autocast(real.device):
                of_real, of_fake = together(D, real, fake)
                loss = 0.5 * (self.gan_loss(of_real, True) + self.gan_loss(of_fake, False))
                if self.options.gan_mode == "wgangp":
                    losses[f"gp_{side}"] = gradient_penalty(D, real, fake)
                    loss = loss + losses[f"gp_{side}"]
            losses[f"D_{side}"] = loss
            self.precision.backward(loss, "D")
        self.precision.optimizer_step(self.optimizers["D"], "D")
        return losses

    def sample(self, batch: Mapping[str, Any]) -> dict[str, Tensor]:
        """real_A, fake_B, rec_A, real_B, fake_A, rec_B: (N, C, H, W) in [-1, 1], in the dtype of the batch."""
        real_A, real_B = batch["A"], batch["B"]
        fake_B, fake_A = self.translate(real_A, "AtoB"), self.translate(real_B, "BtoA")
        return {
            "real_A": real_A,
            "fake_B": fake_B,
            "rec_A": self.translate(fake_B, "BtoA"),
            "real_B": real_B,
            "fake_A": fake_A,
            "rec_B": self.translate(fake_A, "AtoB"),
        }

    def translate(self, images: Tensor, direction: str) -> Tensor:
        """Images (N, C, H, W) in [-1, 1] of one domain, in the other: "AtoB" by G_A, "BtoA" by G_B.

        Evaluation mode, batch norms by the statistics of each image, no gradients; the dtype of the images is kept.
        ValueError for a size that G cannot take.
        """
        if direction not in self.directions:
            raise ValueError(f"unknown direction {direction!r}; choose AtoB or BtoA")
        network = self.networks["G_A" if direction == "AtoB" else "G_B"]
        network.check_images(*images.shape[-2:])
        with self.evaluating(), statistics_of_each_image(network), self.precision.autocast(images.device):
            return network(images).to(images.dtype)

    def check_images(self, height: int, width: int) -> None:
        for network in self.networks.values():
            network.check_images(height, width)


__all__ = ["CycleGAN", "CycleGANOptions"]
