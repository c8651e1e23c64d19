"""Networks. `generator` and `discriminator` build one by its published name, with initial weights."""

from torch import nn

from .init import INIT_TYPES, init_weights
from .patchgan import NLayerDiscriminator, PixelDiscriminator
from .resnet import ResnetGenerator

GENERATORS = ("resnet_9blocks", "resnet_6blocks")
DISCRIMINATORS = ("basic", "n_layers", "pixel")


def generator(name: str, input_nc: int = 3, output_nc: int = 3, *, ngf: int = 64, norm: str = "instance",
              dropout: bool = False, init_type: str = "normal", init_gain: float = 0.02) -> nn.Module:
    """A generator by name (GENERATORS), with `ngf` filters in its first layer. ValueError for another name."""
    if name not in GENERATORS:
        raise ValueError(f"unknown generator {name!r}; choose one of {', '.join(GENERATORS)}")
    n_blocks = {"resnet_9blocks": 9, "resnet_6blocks": 6}[name]
    return init_weights(ResnetGenerator(input_nc, output_nc, ngf, norm, dropout, n_blocks), init_type, init_gain)


def discriminator(name: str, input_nc: int = 3, *, ndf: int = 64, n_layers: int = 3, norm: str = "instance",
                  init_type: str = "normal", init_gain: float = 0.02) -> nn.Module:
    """A discriminator by name (DISCRIMINATORS). ValueError for another name.

    "basic" is the 70x70 PatchGAN, "n_layers" one of depth `n_layers` (ignored by the others), "pixel" the 1x1 one.
    """
    if name not in DISCRIMINATORS:
        raise ValueError(f"unknown discriminator {name!r}; choose one of {', '.join(DISCRIMINATORS)}")
    if name == "pixel":
        network = PixelDiscriminator(input_nc, ndf, norm)
    else:
        network = NLayerDiscriminator(input_nc, ndf, 3 if name == "basic" else n_layers, norm)
    return init_weights(network, init_type, init_gain)


__all__ = ["DISCRIMINATORS", "GENERATORS", "INIT_TYPES", "NLayerDiscriminator", "PixelDiscriminator", "ResnetGenerator",
           "discriminator", "generator", "init_weights"]
