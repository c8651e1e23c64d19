"""python -m fastgan.generate CHECKPOINT: make images of random codes."""

from __future__ import annotations

if __name__ == "__main__":  # not where the command is imported: the process is then another's
    from fastgan import _process

    _process.settle()  # before torch is imported

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import torch

from fastgan._errors import UserError
from fastgan._options import check_bounds
from fastgan.cli import command
from fastgan.cli.flags import Parser, add_common, read_seed
from fastgan.cli.pictures import beside, check_free, check_suffix, write
from fastgan.data.files import save_image, suffix_for
from fastgan.data.images import grid_holds, make_grid
from fastgan.evaluation.codes import check_latent, decode, parse_classes
from fastgan.training.device import pick_device
from fastgan.training.networks import load_recipe

ROW = 8  # images, in a grid without classes
LEAST = 64  # pixels of an image's side in a grid
MOST_FILES = 100_000  # of a class: their names have five digits


def main(argv: list[str]) -> int:
    arguments = _parser().parse(argv)
    recipe = check_latent(load_recipe(arguments.checkpoint), "generate")
    if arguments.labels is not None and not recipe.classes:
        raise UserError(f"--labels {arguments.labels}: {recipe.name} is not conditional on a class")
    labels = parse_classes(arguments.labels or f"0-{recipe.classes - 1}", recipe.classes) if recipe.classes else None
    shown: Sequence[int | None] = labels or [None]
    most = MOST_FILES if arguments.files else grid_holds(recipe.options.image_size, least=LEAST) // len(shown)
    count = arguments.count if arguments.count is not None else max(1, min(most, ROW if labels else ROW * ROW))
    check_bounds("--count", count, least=1)
    if count > most and arguments.files:
        raise UserError(f"--count is {count}: at most {most} files{' of a class' if labels else ''} go in one folder")
    if count > most:
        raise UserError(
            f"--count is {count}: a picture holds at most {most} images{' of each class' if labels else ''}"
            f" of this size, and --files writes up to {MOST_FILES}"
        )
    target = _target(arguments)
    suffix = suffix_for(recipe.options.input_nc)

    def file(label: int | None, number: int) -> Path:
        return target / f"{'' if label is None else f'{label}_'}{number:05}{suffix}"

    files = (file(label, number) for label in shown for number in range(count))
    check_free(files if arguments.files else [target], arguments.overwrite)

    recipe.to(pick_device(arguments.device))
    codes = recipe.latents(count, torch.Generator().manual_seed(arguments.seed))
    rows = (decode(recipe, codes, None if label is None else torch.full((count,), label)) for label in shown)
    if arguments.files:
        target.mkdir(parents=True, exist_ok=True)
        for label, row in zip(shown, rows):
            for number, image in enumerate(row):
                save_image(image, file(label, number))
    else:
        images = [list(row) for row in rows]
        if labels is None:
            images = [images[0][start : start + ROW] for start in range(0, count, ROW)]
        picture = make_grid(images, labels=[str(label) for label in labels or ()], least=LEAST)
        write(target, lambda temporary: picture.save(temporary, format="PNG"))
    print(f"{count * len(shown)} images are in {target}")
    return 0


def _parser() -> Parser:
    parser = Parser(
        "python -m fastgan.generate",
        description="""\
Make images of random codes with a trained GAN or autoencoder: as one picture, a row for each class of a conditional
system, or as a file for each image.""",
        epilog="example: python -m fastgan.generate checkpoints/cgan --labels 3,1,4 --count 10 --seed 7",
    )
    parser.add_argument("checkpoint", metavar="CHECKPOINT", help="a run folder, checkpoint.pt or networks.safetensors")
    parser.add_argument(
        "--labels",
        metavar="LIST",
        help="classes, such as 3,1,4 or 0-4 (default: all, where there are any); each shows the same codes",
    )
    parser.add_argument(
        "--count",
        type=int,
        metavar="N",
        help=f"images of each class, or in all (default: {ROW} of each class, {ROW * ROW} without)",
    )
    parser.add_argument(
        "--seed", type=read_seed, default=0, metavar="N", help="what the codes are drawn by (default: 0)"
    )
    parser.add_argument("--files", action="store_true", help="write a file for each image, not one picture")
    parser.add_argument(
        "--output",
        metavar="PATH",
        help="the picture, or the folder of the files (default: generated.png, or generated, in the run's folder)",
    )
    parser.add_argument("--overwrite", action="store_true", help="replace what is there already")
    add_common(parser)
    return parser


def _target(arguments: argparse.Namespace) -> Path:
    """The folder of the files, or the picture."""
    if arguments.files:
        return Path(arguments.output) if arguments.output else beside(arguments.checkpoint, "generated")
    path = Path(arguments.output) if arguments.output else beside(arguments.checkpoint, "generated.png")
    return check_suffix(path, ".png", "--output")


if __name__ == "__main__":
    sys.exit(command.run(main))
