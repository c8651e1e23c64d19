"""python -m fastgan.demo CHECKPOINT: try a trained generator in a page of the browser."""

from __future__ import annotations

if __name__ == "__main__":  # not where the command is imported: the process is then another's
    from fastgan import _process

    _process.settle()  # before torch is imported

import importlib.util
import sys
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import nn

from fastgan import recipes
from fastgan._errors import UserError
from fastgan.cli import command
from fastgan.cli.flags import Parser, add_common
from fastgan.data.convert import CHANNELS, convert
from fastgan.data.images import MOST_CHANNELS, make_grid, to_image, to_tensor
from fastgan.evaluation.translation import (
    GENERATOR_OF,
    generator_for,
    input_channels,
    is_out_of_memory,
    output_channels,
    translate,
)
from fastgan.recipes._latent import LatentRecipe
from fastgan.training.device import pick_device
from fastgan.training.networks import load_networks, load_recipe

COUNT = 8  # images of a class, or in all
ROW = 4


def main(argv: list[str]) -> int:
    arguments = _parser().parse(argv)
    if importlib.util.find_spec("gradio") is None:
        raise UserError("the page needs gradio, which is not installed: pip install gradio")
    page(arguments.checkpoint, arguments.device).launch(server_name="127.0.0.1", server_port=arguments.port)
    return 0


def _parser() -> Parser:
    parser = Parser(
        "python -m fastgan.demo",
        description="""\
Open a page of this machine (by gradio) on which images are translated, or made of random codes, by a trained run.""",
        epilog="example: python -m fastgan.demo checkpoints/cyclegan",
    )
    parser.add_argument("checkpoint", metavar="CHECKPOINT", help="a run folder, or what else fastgan.translate takes")
    parser.add_argument("--port", type=int, metavar="N", help="of the page (default: the first free one from 7860)")
    add_common(parser)
    return parser


def page(checkpoint: str, device: str = "auto") -> Any:
    """The page of a trained run, a ``gradio.Interface``."""
    import gradio

    chosen = pick_device(device)
    loaded = load_networks(checkpoint)
    title = f"fastgan {loaded.recipe or 'translation'}"
    if loaded.recipe in recipes.RECIPES and issubclass(recipes.get(loaded.recipe), LatentRecipe):
        recipe = load_recipe(checkpoint)
        assert isinstance(recipe, LatentRecipe)
        recipe.to(chosen)
        seed = gradio.Number(0, label="seed", precision=0, minimum=0)
        labels = [gradio.Dropdown(list(range(recipe.classes)), value=0, label="class")] if recipe.classes else []
        make = sampling(recipe)
        return gradio.Interface(_told(make, gradio.Error), [seed, *labels], gradio.Image(), title=title)
    directions = {}
    for direction, name in GENERATOR_OF.items():
        if name in loaded.networks or (direction == "AtoB" and "G" in loaded.networks):
            directions[direction] = generator_for(loaded, direction).to(chosen)
    choice = gradio.Radio(list(directions), value=next(iter(directions)), label="direction")
    return gradio.Interface(
        _told(translating(directions), gradio.Error),
        [gradio.Image(type="pil", image_mode=None), choice],
        gradio.Image(type="pil", format="png"),
        title=title,
    )


def translating(networks: dict[str, nn.Module]) -> Callable[[Image.Image | None, str], Image.Image]:
    """What the page calls with an image and a direction.

    Raises:
        UserError: there is no image, memory does not hold it, or the network's images are none that a page shows.
    """
    for direction, network in networks.items():
        if input_channels(network) not in CHANNELS or output_channels(network) > MOST_CHANNELS:
            raise UserError(f"the images of {direction} have more channels than a page shows: use fastgan.translate")

    def run(image: Image.Image | None, direction: str) -> Image.Image:
        if image is None:
            raise UserError("choose an image first")
        network = networks[direction]
        parameter = next(network.parameters())
        pixels = convert(np.asarray(image.convert("RGBA")), input_channels(network))
        try:
            result = translate(network, to_tensor(torch.from_numpy(pixels))[None].to(parameter))
        except (RuntimeError, MemoryError) as error:
            if is_out_of_memory(error):
                size = f"{image.width}x{image.height}"
                raise UserError(f"{size} pixels are more than memory holds: take a smaller image") from None
            raise
        return to_image(result[0])

    return run


def sampling(recipe: LatentRecipe) -> Callable[..., Image.Image]:
    """What the page calls with a seed and, where the recipe is conditional on a class, a class."""

    def run(seed: float, label: int | None = None) -> Image.Image:
        codes = recipe.latents(COUNT, torch.Generator().manual_seed(int(seed)))
        images = recipe.decode(codes, None if label is None else torch.full((COUNT,), int(label))).cpu()
        return make_grid([list(images[start : start + ROW]) for start in range(0, COUNT, ROW)])

    return run


def _told(function: Callable[..., Image.Image], error_class: type[Exception]) -> Callable[..., Image.Image]:
    """``function``, whose sentences the page shows."""

    def run(*inputs: Any) -> Image.Image:
        try:
            return function(*inputs)
        except UserError as error:
            raise error_class(str(error)) from None

    return run


if __name__ == "__main__":
    sys.exit(command.run(main))
