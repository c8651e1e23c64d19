"""CycleGAN: unpaired image-to-image translation (Zhu, Park, Isola, Efros 2017, arXiv 1703.10593)."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor
from torch.optim import Adam

from fastgan import functional
from fastgan._options import option

from ._base import Batch, Decisions, Losses, detached, frozen, total, trainable
from ._options import TranslationOptions
from ._together import together
from ._translation import TranslationRecipe
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


class CycleGAN(TranslationRecipe[CycleGANOptions]):
    """Two generators, G_A: A -> B and G_B: B -> A, and two critics: D_A judges images of B, D_B images of A.

    The names of networks and losses are those of the published code.
    """

    name = "cyclegan"
    summary = "unpaired image-to-image translation between two domains"
    Options = CycleGANOptions
    data_kind = "unaligned"
    directions = ("AtoB", "BtoA")
    presets: ClassVar[Mapping[str, Mapping[str, object]]] = {
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
        super().__init__(options, precision=precision)
        o = self.options
        self.networks = {
            "G_A": self.make_generator(o.input_nc, o.output_nc),
            "G_B": self.make_generator(o.output_nc, o.input_nc),
            "D_A": self.make_discriminator(o.output_nc),
            "D_B": self.make_discriminator(o.input_nc),
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

    def compute(self, batch: Batch, decided: Decisions) -> Losses:
        """Both generators in one step, then both discriminators in one step.

        batch["A"], batch["B"]: (N, C, H, W) in [-1, 1]. Losses as the published code reports them, weights included:
        G_A, cycle_A, idt_A, D_A and the same for B; without identity loss no idt_*, and with wgangp also gp_A and gp_B
        (the penalties, which D_A and D_B include).
        """
        real_A, real_B = batch["A"], batch["B"]
        for images in (real_A, real_B):
            self.check_images(*images.shape[-2:])
        fake_A, fake_B, losses = self._update_generators(real_A, real_B)
        pooled_A = self.pools["fake_A"].query(fake_A, decided.rows["fake_A"])
        pooled_B = self.pools["fake_B"].query(fake_B, decided.rows["fake_B"])
        critics = self._update_discriminators(real_A, real_B, pooled_A, pooled_B)
        return detached({**losses["A"], **critics["A"], **losses["B"], **critics["B"]})

    def _update_generators(self, real_A: Tensor, real_B: Tensor) -> tuple[Tensor, Tensor, dict[str, Losses]]:
        # A backward pass for each direction, not one for both: half of the activations are held at a time.
        self.optimizers["G"].zero_grad()
        fakes, losses = {}, {}
        with frozen(self.networks["D_A"], self.networks["D_B"]):
            for side, real, other in (("A", real_A, real_B), ("B", real_B, real_A)):
                G = self.networks[f"G_{side}"]
                with self.precision.autocast(real.device):
                    images = {"real": real, "other": other}
                    if self.options.lambda_identity > 0:
                        images["fake"], images["same"] = together(G, real, other)
                    else:
                        images["fake"] = G(real)
                    found = self.generator_losses(side, images)
                self.precision.backward(total(found), "G")
                fakes[side], losses[side] = images["fake"].detach(), detached(found)
        self.precision.optimizer_step(self.optimizers["G"], "G")
        return fakes["B"], fakes["A"], losses

    def generator_losses(self, side: str, images: Mapping[str, Tensor]) -> Losses:
        """What the generators minimise the sum of, by name, in one direction: from A for side "A", from B for "B".

        images: real, its translation fake by G_side, other, which is of the other domain, and with an identity loss
        same, what G_side makes of other. Called under autocast, with frozen discriminators.
        """
        o, back = self.options, "B" if side == "A" else "A"
        weights = {"A": o.lambda_A, "B": o.lambda_B}
        losses = {f"G_{side}": self.gan_loss(self.networks[f"D_{side}"](images["fake"]), True)}
        rec = self.networks[f"G_{back}"](images["fake"])
        losses[f"cycle_{side}"] = weights[side] * functional.l1_loss(rec, images["real"])
        if o.lambda_identity > 0:
            same = functional.l1_loss(images["same"], images["other"])
            losses[f"idt_{side}"] = o.lambda_identity * weights[back] * same
        return losses

    def _update_discriminators(
        self, real_A: Tensor, real_B: Tensor, pooled_A: Tensor, pooled_B: Tensor
    ) -> dict[str, Losses]:
        losses: dict[str, Losses] = {}
        self.optimizers["D"].zero_grad()
        for side, real, fake in (("A", real_B, pooled_B), ("B", real_A, pooled_A)):
            D = self.networks[f"D_{side}"]
            with self.precision.autocast(real.device):
                of_real, of_fake = together(D, real, fake)
                loss = 0.5 * (self.gan_loss(of_real, True) + self.gan_loss(of_fake, False))
                penalty = {}
                if self.options.gan_mode == "wgangp":
                    penalty[f"gp_{side}"] = gradient_penalty(D, real, fake)
                    loss = loss + penalty[f"gp_{side}"]
            losses[side] = {f"D_{side}": loss, **penalty}
            self.precision.backward(loss, "D")
        self.precision.optimizer_step(self.optimizers["D"], "D")
        return losses

    def sample(self, batch: Batch) -> dict[str, Tensor]:
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
        Raises ValueError for a size that G cannot take.
        """
        if direction not in self.directions:
            raise ValueError(f"unknown direction {direction!r}; choose AtoB or BtoA")
        return self.translate_by("G_A" if direction == "AtoB" else "G_B", images)


__all__ = ["CycleGAN", "CycleGANOptions"]
