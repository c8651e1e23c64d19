"""The systems fastgan trains, by name; a recipe's module is imported when it is asked for."""

from importlib import import_module

from ._base import Batch, Decisions, Losses, Recipe, load_networks
from ._capabilities import Classifies, Generates, Reconstructs, Translates
from ._latent import LatentRecipe

RECIPES = {
    "gan": "fastgan.recipes.gan:GAN",
    "dcgan": "fastgan.recipes.dcgan:DCGAN",
    "cgan": "fastgan.recipes.cgan:CGAN",
    "wgan": "fastgan.recipes.wgan:WGAN",
    "wgan_gp": "fastgan.recipes.wgan_gp:WGANGP",
    "sgan": "fastgan.recipes.sgan:SGAN",
    "pix2pix": "fastgan.recipes.pix2pix:Pix2Pix",
    "cyclegan": "fastgan.recipes.cyclegan:CycleGAN",
    "vae": "fastgan.recipes.vae:VAE",
    "cvae": "fastgan.recipes.cvae:CVAE",
    "cvae_gan": "fastgan.recipes.cvae_gan:CVAEGAN",
}


def get(name: str) -> type[Recipe]:
    """The recipe class called `name`. Raises ValueError, with the list, for another name."""
    if name not in RECIPES:
        raise ValueError(f"unknown recipe {name!r}; choose one of {', '.join(RECIPES)}")
    module, _, attribute = RECIPES[name].partition(":")
    return getattr(import_module(module), attribute)


__all__ = [
    "RECIPES",
    "Batch",
    "Classifies",
    "Decisions",
    "Generates",
    "LatentRecipe",
    "Losses",
    "Recipe",
    "Reconstructs",
    "Translates",
    "get",
    "load_networks",
]
