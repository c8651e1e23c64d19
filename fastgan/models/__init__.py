"""Networks. `generator` and `discriminator` build one by its published name, with initial weights."""

from torch import nn

from ._layers import NORMS, statistics_of_each_image
from ._published import plain_keys
from .init import INIT_TYPES, init_weights
from .johnson import JohnsonGenerator
from .mlp import MLPDiscriminator, MLPGenerator
from .mnist import CRITIC_NORMS, UPSAMPLINGS, ConvClassifier, DCGANDiscriminator, DCGANGenerator
from .patchgan import NLayerDiscriminator, PixelDiscriminator
from .resnet import ResnetGenerator
from .unet import UnetGenerator
from .vae import Decoder, Encoder

GENERATORS = ("resnet_9blocks", "resnet_6blocks", "unet_256", "unet_128", "johnson_5blocks")
DISCRIMINATORS = ("basic", "n_layers", "pixel")


def generator(
    name: str,
    input_nc: int = 3,
    output_nc: int = 3,
    *,
    ngf: int = 64,
    norm: str = "instance",
    dropout: bool = False,
    init_type: str = "normal",
    init_gain: float = 0.02,
) -> nn.Module:
    """A generator by name (GENERATORS), with `ngf` filters in its first layer. ValueError for another name.

    johnson_5blocks has half as many, as published with its 32, and no dropout.
    """
    if name not in GENERATORS:
        raise ValueError(f"unknown generator {name!r}; choose one of {', '.join(GENERATORS)}")
    network: nn.Module
    if name == "johnson_5blocks":
        network = JohnsonGenerator(input_nc, output_nc, max(1, ngf // 2), norm)
    elif name.startswith("unet"):
        num_downs = {"unet_256": 8, "unet_128": 7}[name]
        network = UnetGenerator(input_nc, output_nc, num_downs, ngf, norm, dropout)
    else:
        n_blocks = {"resnet_9blocks": 9, "resnet_6blocks": 6}[name]
        network = ResnetGenerator(input_nc, output_nc, ngf, norm, dropout, n_blocks)
    return init_weights(network, init_type, init_gain)


def discriminator(
    name: str,
    input_nc: int = 3,
    *,
    ndf: int = 64,
    n_layers: int = 3,
    norm: str = "instance",
    init_type: str = "normal",
    init_gain: float = 0.02,
) -> nn.Module:
    """A discriminator by name (DISCRIMINATORS). ValueError for another name.

    "basic" is the 70x70 PatchGAN, "n_layers" one of depth `n_layers` (ignored by the others), "pixel" the 1x1 one.
    """
    if name not in DISCRIMINATORS:
        raise ValueError(f"unknown discriminator {name!r}; choose one of {', '.join(DISCRIMINATORS)}")
    network: nn.Module
    if name == "pixel":
        network = PixelDiscriminator(input_nc, ndf, norm)
    else:
        network = NLayerDiscriminator(input_nc, ndf, 3 if name == "basic" else n_layers, norm)
    return init_weights(network, init_type, init_gain)


__all__ = [
    "CRITIC_NORMS",
    "DISCRIMINATORS",
    "GENERATORS",
    "INIT_TYPES",
    "NORMS",
    "UPSAMPLINGS",
    "ConvClassifier",
    "DCGANDiscriminator",
    "DCGANGenerator",
    "Decoder",
    "Encoder",
    "JohnsonGenerator",
    "MLPDiscriminator",
    "MLPGenerator",
    "NLayerDiscriminator",
    "PixelDiscriminator",
    "ResnetGenerator",
    "UnetGenerator",
    "discriminator",
    "generator",
    "init_weights",
    "plain_keys",
    "statistics_of_each_image",
]
