"""Translating images of any size with a trained generator."""

from __future__ import annotations

from contextlib import nullcontext
from pathlib import Path

import torch
from torch import Tensor, nn

from fastgan import recipes
from fastgan._errors import UserError
from fastgan.models import statistics_of_each_image
from fastgan.training.device import autocast
from fastgan.training.networks import Networks, load_networks

GENERATOR_OF = {"AtoB": "G_A", "BtoA": "G_B"}

# oneDNN, in the last three, says only what it had no memory for.
_OUT_OF_MEMORY = (
    "can't allocate memory",
    "out of memory",
    "bad_alloc",
    "not enough memory",
    "could not create a primitive",
    "could not create a memory",
    "could not execute a primitive",
)


def load_generator(path: str | Path, direction: str | None = None) -> nn.Module:
    """A trained generator, in evaluation mode, on the CPU.

    It takes images (N, C, H, W) in [-1, 1], or codes (N, latent_size). What is read is tensors and plain values: no
    code of a file is run.

    Args:
        path: a run folder, its checkpoint.pt or networks.safetensors, a published ``*_net_G*.pth``, or a folder that
            ``python -m fastgan.export --to folder`` wrote.
        direction: ``"AtoB"`` or ``"BtoA"``; the default is the only generator there is, or else ``"AtoB"``.

    Raises:
        ValueError: nothing readable there, a damaged file, networks that are unknown here, or no such generator.
    """
    if direction is not None and direction not in GENERATOR_OF:
        raise UserError(f"direction is {direction!r}: choose from {', '.join(GENERATOR_OF)}")
    loaded = load_networks(path)
    generators = [network for name, network in loaded.networks.items() if name.partition("_")[0] == "G"]
    if direction is None and len(generators) == 1:
        return generators[0]
    return generator_for(loaded, direction or "AtoB")


def generator_for(loaded: Networks, direction: str) -> nn.Module:
    """The generator for "AtoB" or "BtoA". One that comes alone with no direction in its name serves "AtoB".

    Raises:
        UserError: the networks have none for that direction.
    """
    if loaded.recipe in recipes.RECIPES and not recipes.get(loaded.recipe).directions:
        raise UserError(
            f"{', '.join(map(str, loaded.source))} was trained by {loaded.recipe}, which translates no "
            "images: python -m fastgan.generate makes some with it"
        )
    name = GENERATOR_OF[direction]
    if name in loaded.networks:
        return loaded.networks[name]
    if direction == "AtoB" and "G" in loaded.networks:
        return loaded.networks["G"]
    source = ", ".join(map(str, loaded.source))
    there = ", ".join(sorted(loaded.networks))
    if set(loaded.networks) == {"G"}:
        raise UserError(f"{source} holds one generator of one direction: translate with it as --direction AtoB")
    raise UserError(f"{source} holds no {name}, which translates {direction} (it holds {there})")


def translate(network: nn.Module, images: Tensor, precision: str = "fp32", running_statistics: bool = False) -> Tensor:
    """Translate images (N, C, H, W) in [-1, 1], of any H and W, on the network's device; returns float32 of that H x W.

    Batch norms normalise each image by itself, or, on request, by their running statistics. Sizes that the network
    cannot halve are continued by reflection at the bottom and the right, and cut back after.
    """
    height, width = images.shape[-2:]
    padded = reflect_to_fit(images, getattr(network, "size_multiple", 1), getattr(network, "minimum_size", 1))
    statistics = nullcontext() if running_statistics else statistics_of_each_image(network)
    with torch.inference_mode(), statistics, autocast(images.device, precision):
        return network(padded)[..., :height, :width].float()


def is_out_of_memory(error: BaseException) -> bool:
    """Whether memory, of the host or of a GPU, is what an operation lacked."""
    text = str(error)
    return (
        isinstance(error, (MemoryError, torch.OutOfMemoryError))
        or isinstance(error, RuntimeError)
        and any(said in text for said in _OUT_OF_MEMORY)
    )


def reflect_to_fit(images: Tensor, multiple: int, least: int) -> Tensor:
    """Continue (N, C, H, W) by reflection to multiples of ``multiple``, at least ``least``; for any H and W."""
    for dimension in (2, 3):
        size = images.shape[dimension]
        wanted = max(least, -(-size // multiple) * multiple)
        if wanted != size:
            images = images.index_select(dimension, _reflected(size, wanted, images.device))
    return images


def _reflected(size: int, wanted: int, device: torch.device) -> Tensor:
    """0, 1, ..., size - 1, size - 2, ..., 0, 1, ... : ``wanted`` indices that run to and fro."""
    if size == 1:
        return torch.zeros(wanted, dtype=torch.long, device=device)
    ramp = torch.arange(wanted, device=device) % (2 * size - 2)
    return torch.minimum(ramp, 2 * size - 2 - ramp)


def input_channels(network: nn.Module) -> int:
    """The channels of the images that a convolutional network takes."""
    return next(parameter.shape[1] for parameter in network.parameters() if parameter.dim() == 4)


def output_channels(network: nn.Module) -> int:
    """The channels of the images that it makes, seen on the smallest image it takes."""
    parameter = next(network.parameters())
    smallest = torch.zeros(1, input_channels(network), 1, 1, dtype=parameter.dtype, device=parameter.device)
    return translate(network, smallest).shape[1]
