"""The options that several recipes share."""

from dataclasses import dataclass

from fastgan._options import check_options, option, with_default
from fastgan.models import DISCRIMINATORS, GENERATORS, INIT_TYPES, NORMS

from .losses import GAN_MODES
from .schedule import LR_POLICIES


@dataclass(frozen=True)
class TranslationOptions:
    """Options of image-to-image translation; the defaults are CycleGAN's.

    Raises:
        ValueError: a value is out of range, or values contradict each other.
    """

    input_nc: int = option(3, "channels of the images of domain A", least=1)
    output_nc: int = option(3, "channels of the images of domain B", least=1)
    netG: str = option("resnet_9blocks", "generator", choices=GENERATORS)
    netD: str = option(
        "basic", "discriminator: 70x70 PatchGAN, one of --n-layers-D layers, or 1x1", choices=DISCRIMINATORS
    )
    n_layers_D: int = option(3, "strided layers of the discriminator, with --netD n_layers", least=1, most=16)
    ngf: int = option(64, "filters in the generator's first layer (johnson_5blocks: half as many)", least=1)
    ndf: int = option(64, "filters in the discriminator's first layer", least=1)
    norm: str = option("instance", "normalisation layers", choices=NORMS)
    dropout: bool = option(False, "dropout 0.5 in the generator's middle blocks")
    init_type: str = option("normal", "distribution of the initial weights", choices=INIT_TYPES)
    init_gain: float = option(0.02, "scale of the initial weights", least=0)
    gan_mode: str = option("lsgan", "adversarial loss", choices=GAN_MODES)
    pool_size: int = option(50, "generated images kept for each discriminator; 0 switches it off", least=0)
    lr: float = option(2e-4, "Adam's learning rate", least=0, resume=True)
    beta1: float = option(0.5, "Adam's first momentum", least=0, below=1)
    lr_policy: str = option("linear", "how the learning rate falls", choices=LR_POLICIES)
    lr_decay_iters: int = option(50, "epochs between drops, with --lr-policy step", least=1)
    n_epochs: int = option(100, "epochs at the full learning rate", least=0, resume=True)
    n_epochs_decay: int = option(100, "epochs of linear decay after them", least=0, resume=True)

    def __post_init__(self) -> None:
        check_options(self)
        if self.gan_mode == "wgangp" and self.norm in ("batch", "syncbatch"):
            raise ValueError(
                "gan_mode wgangp penalises each sample's own gradient, which batch norm mixes; "
                "use norm instance or none"
            )


@dataclass(frozen=True)
class LatentOptions:
    """Options of systems that make small images out of a latent code. Raises ValueError for values that cannot be."""

    input_nc: int = option(1, "channels of the images", least=1, from_data=True)
    image_size: int = option(28, "side of the square images", least=1, from_data=True)
    latent_size: int = option(100, "length of the latent code", least=1)
    lr: float = option(2e-4, "learning rate of every optimizer", least=0, resume=True)
    n_epochs: int = option(30, "epochs to train", least=1, resume=True)

    def __post_init__(self) -> None:
        check_options(self)


@dataclass(frozen=True)
class AdamOptions(LatentOptions):
    """Options of systems whose optimizers are Adams."""

    beta1: float = option(0.5, "Adam's first momentum", least=0, below=1)


@dataclass(frozen=True)
class ConditionalOptions(AdamOptions):
    """Options of systems conditioned on the class of each image."""

    n_classes: int = option(10, "classes of the images", least=2, from_data=True)


__all__ = [
    "AdamOptions",
    "ConditionalOptions",
    "LatentOptions",
    "TranslationOptions",
    "check_options",
    "option",
    "with_default",
]
