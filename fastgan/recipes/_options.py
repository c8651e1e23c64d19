"""How recipes declare their options, and the ones that several of them share."""

import dataclasses
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from fastgan.models import DISCRIMINATORS, GENERATORS, INIT_TYPES, NORMS

from .losses import GAN_MODES
from .schedule import LR_POLICIES


def option(
    default: Any, help: str, choices: tuple[Any, ...] = (), *, least: int | None = None, from_data: bool = False
) -> Any:
    """A field of an options dataclass.

    Args:
        help: one phrase for --help.
        choices: the values that are allowed.
        least: the smallest value that is allowed.
        from_data: whether the data decides the value; there is no flag for it then.
    """
    metadata = {"help": help, "choices": choices, "least": least, "from_data": from_data}
    return field(default=default, metadata={name: value for name, value in metadata.items() if value not in ((), None)})


def with_default(options: type, name: str, default: Any) -> Any:
    """The field `name` of another options dataclass, with another default."""
    return field(default=default, metadata=options.__dataclass_fields__[name].metadata)


def check_options(options: Any) -> None:
    """ValueError, in one sentence, for the first field whose value is not among its choices, or too small."""
    for each in dataclasses.fields(options):
        value = getattr(options, each.name)
        choices: Iterable[Any] = each.metadata.get("choices", ())
        if choices and value not in choices:
            raise ValueError(f"unknown {each.name} {value!r}; choose one of {', '.join(map(str, choices))}")
        least = each.metadata.get("least")
        if least is not None and value < least:
            bound = "must not be negative" if least == 0 else f"must be at least {least}"
            raise ValueError(f"{each.name} {bound}, got {value}")


@dataclass(frozen=True)
class TranslationOptions:
    """Options of image-to-image translation; the defaults are CycleGAN's. ValueError for values that cannot be."""

    input_nc: int = option(3, "channels of the images of domain A", least=1)
    output_nc: int = option(3, "channels of the images of domain B", least=1)
    netG: str = option("resnet_9blocks", "generator", GENERATORS)
    netD: str = option("basic", "discriminator: 70x70 PatchGAN, one of --n-layers-D layers, or 1x1", DISCRIMINATORS)
    n_layers_D: int = option(3, "strided layers of the discriminator, with --netD n_layers", least=1)
    ngf: int = option(64, "filters in the generator's first layer (johnson_5blocks: half as many)", least=1)
    ndf: int = option(64, "filters in the discriminator's first layer", least=1)
    norm: str = option("instance", "normalisation layers", NORMS)
    dropout: bool = option(False, "dropout 0.5 in the generator's middle blocks")
    init_type: str = option("normal", "distribution of the initial weights", INIT_TYPES)
    init_gain: float = option(0.02, "scale of the initial weights")
    gan_mode: str = option("lsgan", "adversarial loss", GAN_MODES)
    pool_size: int = option(50, "generated images kept for each discriminator; 0 switches it off", least=0)
    lr: float = option(2e-4, "Adam's learning rate", least=0)
    beta1: float = option(0.5, "Adam's first momentum")
    lr_policy: str = option("linear", "how the learning rate falls", LR_POLICIES)
    lr_decay_iters: int = option(50, "epochs between drops, with --lr-policy step", least=1)
    n_epochs: int = option(100, "epochs at the full learning rate", least=0)
    n_epochs_decay: int = option(100, "epochs of linear decay after them", least=0)

    def __post_init__(self):
        check_options(self)
        if self.gan_mode == "wgangp" and self.norm in ("batch", "syncbatch"):
            raise ValueError(
                "gan_mode wgangp penalises each sample's own gradient, which batch norm mixes; "
                "use norm instance or none"
            )


@dataclass(frozen=True)
class LatentOptions:
    """Options of systems that make small images out of a latent code. ValueError for values that cannot be."""

    input_nc: int = option(1, "channels of the images", least=1, from_data=True)
    image_size: int = option(28, "side of the square images", least=1, from_data=True)
    latent_size: int = option(100, "length of the latent code", least=1)
    lr: float = option(2e-4, "learning rate of every optimizer", least=0)
    n_epochs: int = option(30, "epochs to train", least=1)

    def __post_init__(self):
        check_options(self)


@dataclass(frozen=True)
class AdamOptions(LatentOptions):
    """Options of systems whose optimizers are Adams."""

    beta1: float = option(0.5, "Adam's first momentum", least=0)


@dataclass(frozen=True)
class ConditionalOptions(AdamOptions):
    """Options of systems that are told the class of each image."""

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
