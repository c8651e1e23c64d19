"""python -m fastgan.generate CHECKPOINT: make images of random codes."""

from __future__ import annotations

from fastgan import _process  # noqa: I001

_process.settle()  # before torch is imported

import argparse
import sys
from pathlib import Path

import torch
from torch import Tensor

from fastgan import recipes
from fastgan.data.files import save_image, suffix_for
from fastgan.data.images import make_grid
from fastgan.engine import command
from fastgan.engine.codes import check_latent, parse_classes
from fastgan.engine.command import UserError
from fastgan.engine.device import pick_device
from fastgan.engine.flags import Parser, add_common, read_seed
from fastgan.engine.networks import load_recipe
from fastgan.engine.pictures import beside, check_free, check_suffix, write

ROW = 8  # images, in a grid without classes
AT_ONCE = 256


def main(argv: list[str]) -> int:
    arguments = _parser().parse(argv)
    recipe = load_recipe(arguments.checkpoint)
    check_latent(recipe, "generate")
    if arguments.labels is not None and not recipe.classes:
        raise UserError(f"--labels {arguments.labels}: {recipe.name} is told no classes, and shows what it likes")
    labels = parse_classes(arguments.labels or f"0-{recipe.classes - 1}", recipe.classes) if recipe.classes else None
    count = arguments.count if arguments.count is not None else ROW if labels else ROW * ROW
    if count < 1:
        raise UserError(f"--count is {count}: it must be 1 or more")
    targets = _targets(arguments, recipe.options.input_nc, count, labels)
    check_free(targets, arguments.overwrite)

    recipe.to(pick_device(arguments.device))
    codes = recipe.latents(count, torch.Generator().manual_seed(arguments.seed))
    rows = [_decode(recipe, codes, label) for label in labels or [None]]
    if arguments.files:
        targets[0].parent.mkdir(parents=True, exist_ok=True)
        for path, image in zip(targets, (image for row in rows for image in row)):
            save_image(image, path)
        print(f"{len(targets)} images are in {targets[0].parent}")
    else:
        if labels is None:
            rows = rows[0].split(ROW)
        picture = make_grid(rows, labels=[str(label) for label in labels or ()], least=64)
        write(targets[0], lambda temporary: picture.save(temporary, format="PNG"))
        print(f"{count * len(labels or [None])} images are in {targets[0]}")
    return 0


def _parser() -> Parser:
    parser = Parser("python -m fastgan.generate",
                    description="""\
Make images of random codes with a trained GAN or autoencoder: as one picture, a row for each class where the system is
told classes, or as a file for each image.""",
                    epilog="example: python -m fastgan.generate checkpoints/cgan --labels 3,1,4 --count 10 --seed 7")
    parser.add_argument("checkpoint", metavar="CHECKPOINT", help="a run folder, checkpoint.pt or networks.safetensors")
    parser.add_argument("--labels", metavar="LIST", help="classes, such as 3,1,4 or 0-4 (default: all, where there are "
                                                         "any); each shows the same codes")
    parser.add_argument("--count", type=int, metavar="N",
                        help=f"images of each class, or in all (default: {ROW} of each class, {ROW * ROW} without)")
    parser.add_argument("--seed", type=read_seed, default=0, metavar="N",
                        help="what the codes are drawn by (default: 0)")
    parser.add_argument("--files", action="store_true", help="write a file for each image, not one picture")
    parser.add_argument("--output", metavar="PATH", help="the picture, or the folder of the files (default: "
                                                         "generated.png, or generated, in the run's folder)")
    parser.add_argument("--overwrite", action="store_true", help="replace what is there already")
    add_common(parser)
    return parser


def _targets(arguments: argparse.Namespace, channels: int, count: int, labels: list[int] | None) -> list[Path]:
    if not arguments.files:
        path = Path(arguments.output) if arguments.output else beside(arguments.checkpoint, "generated.png")
        return [check_suffix(path, ".png", "--output")]
    folder = Path(arguments.output) if arguments.output else beside(arguments.checkpoint, "generated")
    names = [f"{label}_" for label in labels] if labels else [""]
    return [folder / f"{name}{number:05}{suffix_for(channels)}" for name in names for number in range(count)]


def _decode(recipe: recipes.Recipe, codes: Tensor, label: int | None) -> Tensor:
    return torch.cat([recipe.decode(part, None if label is None else torch.full((len(part),), label)).cpu()
                      for part in codes.split(AT_ONCE)])


if __name__ == "__main__":
    sys.exit(command.run(main))
