"""python -m fastgan.interpolate CHECKPOINT: images on the straight line between two latent codes."""

from __future__ import annotations

if __name__ == "__main__":  # not where the command is imported: the process is then another's
    from fastgan import _process

    _process.settle()  # before torch is imported

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from fastgan._errors import UserError
from fastgan._options import check_bounds
from fastgan.cli import command
from fastgan.cli.flags import Parser, add_common, read_seed
from fastgan.cli.pictures import beside, check_free, check_suffix, save_gif, write
from fastgan.data.images import grid_holds, make_grid
from fastgan.data.labelled import read_square
from fastgan.evaluation.codes import check_class, check_latent, decode, mixtures, path
from fastgan.recipes import LatentRecipe
from fastgan.training.device import pick_device
from fastgan.training.networks import load_run

ROW = 16  # images, at most
LEAST = 64  # pixels of an image's side in the strip


def main(argv: list[str]) -> int:
    arguments = _parser().parse(argv)
    check_bounds("--steps", arguments.steps, least=1)
    trained, description = load_run(arguments.checkpoint)
    recipe = check_latent(trained, "interpolate")
    if arguments.images and not recipe.encodes:
        raise UserError(f"{recipe.name} has no encoder, which --images needs to find their codes: give --seeds instead")
    most = grid_holds(recipe.options.image_size, least=LEAST) - 1 - len(arguments.images or ())
    if arguments.steps > most:
        raise UserError(f"--steps is {arguments.steps}: the strip holds at most {most} steps of images of this size")
    classes = _classes(recipe, arguments)
    strip = check_suffix(
        Path(arguments.output) if arguments.output else beside(arguments.checkpoint, "interpolated.png"),
        ".png",
        "--output",
    )
    gif = check_suffix(Path(arguments.gif), ".gif", "--gif") if arguments.gif else None
    check_free([target for target in (strip, gif) if target], arguments.overwrite)

    recipe.to(pick_device(arguments.device))
    numbers = description["options"]["data"].get("range")
    real = [
        read_square(name, recipe.options.input_nc, recipe.options.image_size, numbers)
        for name in arguments.images or ()
    ]
    start, end = _ends(recipe, arguments, real, classes)
    labels = mixtures(*classes, recipe.classes, arguments.steps) if classes else None
    images = list(decode(recipe, path(start, end, arguments.steps), labels))
    picture = _picture(images, real)
    write(strip, lambda temporary: picture.save(temporary, format="PNG"))
    print(f"{len(images)} images are in {strip}")
    if gif:
        save_gif(images, lambda image: make_grid([[image]], gap=0), gif)
        print(f"the same, moving, in {gif}")
    return 0


def _parser() -> Parser:
    parser = Parser(
        "python -m fastgan.interpolate",
        description="""\
Walk straight from one latent code to another, z_a + k (z_b - z_a) / n for k = 0, ..., n, and show the images on the
way, from left to right. The ends are the codes of two images (of systems with an encoder), two random codes, or two
classes that one code is shown as.""",
        epilog="example: python -m fastgan.interpolate checkpoints/vae --images 3.png 8.png --gif walk.gif",
    )
    parser.add_argument("checkpoint", metavar="CHECKPOINT", help="a run folder, checkpoint.pt or networks.safetensors")
    ends = parser.add_mutually_exclusive_group()
    ends.add_argument("--images", nargs=2, metavar="IMAGE", help="the ends are the mean codes of two image files")
    ends.add_argument(
        "--seeds",
        nargs=2,
        type=read_seed,
        metavar="N",
        help="the ends are random codes (default: 0 1, unless --labels is given)",
    )
    parser.add_argument(
        "--labels",
        nargs=2,
        type=int,
        metavar="N",
        help="classes of the ends, for conditional systems; alone, one random code is shown as both",
    )
    parser.add_argument(
        "--seed", type=read_seed, default=0, metavar="N", help="what that one code is drawn by (default: 0)"
    )
    parser.add_argument("--steps", type=int, default=10, metavar="N", help="steps from end to end (default: 10)")
    parser.add_argument("--output", metavar="PNG", help="the strip (default: interpolated.png in the run's folder)")
    parser.add_argument("--gif", metavar="GIF", help="write a moving picture, there and back, too")
    parser.add_argument("--overwrite", action="store_true", help="replace what is there already")
    add_common(parser)
    return parser


def _classes(recipe: LatentRecipe, arguments: argparse.Namespace) -> tuple[int, int] | None:
    """The classes of the ends; None where the system is not conditional."""
    if not recipe.classes:
        if arguments.labels is not None:
            raise UserError(f"--labels: {recipe.name} is not conditional on a class; give two --images or two --seeds")
        return None
    if arguments.labels is None:
        if arguments.images is not None:
            raise UserError(f"{recipe.name} is conditional on a class: give those of the two images as --labels 3 8")
        return 0, 0
    first, last = (check_class(label, recipe.classes) for label in arguments.labels)
    return first, last


def _ends(
    recipe: LatentRecipe, arguments: argparse.Namespace, real: Sequence[Tensor], classes: tuple[int, int] | None
) -> Tensor:
    """(2, latent_size): the codes of the ends."""
    if real:
        return recipe.encode(torch.stack(list(real)), None if classes is None else torch.tensor(classes))
    seeds = arguments.seeds or ([arguments.seed] * 2 if arguments.labels else [0, 1])
    return torch.cat([recipe.latents(1, torch.Generator().manual_seed(seed)) for seed in seeds])


def _picture(images: list[Tensor], real: Sequence[Tensor]) -> Any:
    """The strip, in rows where it is long; between the images that its ends are codes of, where it has such."""
    if not real:
        return make_grid([images[start : start + ROW] for start in range(0, len(images), ROW)], least=LEAST)
    strip = [real[0], *images, real[1]]
    captions = ["image", *(["code"] + [""] * (len(images) - 2) + ["code"]), "image"]
    rows = range(0, len(strip), ROW)
    return make_grid(
        [strip[start : start + ROW] for start in rows],
        least=LEAST,
        captions=[captions[start : start + ROW] for start in rows],
    )


if __name__ == "__main__":
    sys.exit(command.run(main))
