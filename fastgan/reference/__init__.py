"""The systems of fastgan.recipes in stock torch: each one file to read as its algorithm, and what tests and benches
compare with.

    model = fastgan.reference.get("cyclegan")()
    losses = model.step({"A": images_A, "B": images_B})

Networks, losses and the order of the updates are all there is: no op or layer of fastgan, no precision other than the
weights' own. Networks have the state-dict keys of the recipe's, strictly and both ways; losses have the recipe's names,
and arguments the names and defaults of its options. Under one seed of torch both begin with the same weights.
"""

from collections.abc import Callable
from importlib import import_module

from ._base import ReferenceModel

MODELS = {
    "gan": "fastgan.reference.gan:GAN",
    "dcgan": "fastgan.reference.dcgan:DCGAN",
    "cgan": "fastgan.reference.cgan:CGAN",
    "wgan": "fastgan.reference.wgan:WGAN",
    "wgan_gp": "fastgan.reference.wgan_gp:WGANGP",
    "sgan": "fastgan.reference.sgan:SGAN",
    "pix2pix": "fastgan.reference.pix2pix:Pix2Pix",
    "cyclegan": "fastgan.reference.cyclegan:CycleGAN",
    "vae": "fastgan.reference.vae:VAE",
    "cvae": "fastgan.reference.cvae:CVAE",
    "cvae_gan": "fastgan.reference.cvae_gan:CVAEGAN",
}


def get(name: str) -> Callable[..., ReferenceModel]:
    """The class of the reference model of the recipe `name`. ValueError, with the list, for another name."""
    if name not in MODELS:
        raise ValueError(f"unknown reference model {name!r}; choose one of {', '.join(MODELS)}")
    module, _, attribute = MODELS[name].partition(":")
    return getattr(import_module(module), attribute)


__all__ = ["MODELS", "ReferenceModel", "get"]
