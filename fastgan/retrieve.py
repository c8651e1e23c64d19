"""python -m fastgan.retrieve CHECKPOINT: the images of a gallery whose latent codes are nearest to an image's."""

from __future__ import annotations

if __name__ == "__main__":  # not where the command is imported: the process is then another's
    from fastgan import _process

    _process.settle()  # before torch is imported

import argparse
import sys
from pathlib import Path

import torch
from torch import Tensor

from fastgan._errors import UserError
from fastgan._options import check_bounds
from fastgan.cli import command
from fastgan.cli.flags import Parser, add_common
from fastgan.cli.pictures import beside, check_free, check_suffix, write
from fastgan.data import LabelledDataset
from fastgan.data.images import make_grid
from fastgan.data.labelled import open_gallery, read_square
from fastgan.evaluation.codes import check_class, check_latent, nearest
from fastgan.recipes import LatentRecipe
from fastgan.training.device import pick_device
from fastgan.training.networks import load_run

AT_ONCE = 256


def main(argv: list[str]) -> int:
    arguments = _parser().parse(argv)
    check_bounds("--count", arguments.count, least=1)
    trained, description = load_run(arguments.checkpoint)
    recipe = check_latent(trained, "retrieve")
    if not recipe.encodes:
        raise UserError(
            f"{recipe.name} has no encoder, which retrieve needs to find the codes of images: "
            "vae, cvae and cvae_gan have one"
        )
    if arguments.label is not None:
        if not recipe.classes:
            raise UserError(f"--label: {recipe.name} is not conditional on a class")
        check_class(arguments.label, recipe.classes)
    sheet = check_suffix(
        Path(arguments.output) if arguments.output else beside(arguments.checkpoint, "retrieved.png"),
        ".png",
        "--output",
    )
    check_free([sheet], arguments.overwrite)
    numbers = description["options"]["data"].get("range")
    gallery = open_gallery(
        arguments.gallery,
        recipe.options.input_nc,
        recipe.options.image_size,
        numbers,
        follow_links=arguments.follow_links,
    )

    recipe.to(pick_device(arguments.device))
    labels = _gallery_labels(recipe, gallery, arguments.label)
    codes = _encode(recipe, gallery.images(), labels)
    rows, captions = [], []
    for query in arguments.query:
        image, code, own = _query(recipe, query, arguments, gallery, codes, numbers)
        distances, indices = nearest(code, codes, arguments.count + (own is not None))
        found = [(distance, index) for distance, index in zip(distances.tolist(), indices.tolist()) if index != own]
        found = found[: arguments.count]
        rows.append([image, *(gallery[index]["image"] for _, index in found)])
        captions.append(["query" if own is None else f"query {own}", *(f"{distance:.3f}" for distance, _ in found)])
        print(f"nearest to {query}:")
        print(
            "\n".join(
                f"  {distance:8.4f}  {gallery.source.path(index)}{_class(gallery, index)}" for distance, index in found
            )
        )
    picture = make_grid(rows, captions=captions, least=84)
    write(sheet, lambda temporary: picture.save(temporary, format="PNG"))
    print(f"the contact sheet is {sheet}")
    return 0


def _parser() -> Parser:
    parser = Parser(
        "python -m fastgan.retrieve",
        description="""\
Find the images of a gallery whose latent codes are nearest to those of query images, by the Euclidean distance of mean
codes, and show them with their distances: a row for each query, which comes first.""",
        epilog="example: python -m fastgan.retrieve checkpoints/vae --query three.png --gallery digits",
    )
    parser.add_argument("checkpoint", metavar="CHECKPOINT", help="a run folder, checkpoint.pt or networks.safetensors")
    parser.add_argument(
        "--query",
        nargs="+",
        required=True,
        metavar="IMAGE",
        help="image files, or numbers of images of the gallery (from 0)",
    )
    parser.add_argument(
        "--gallery",
        required=True,
        metavar="DIR",
        help="folder of images, with or without a sub-folder for each class, or of IDX files",
    )
    parser.add_argument(
        "--follow-links", action="store_true", help="read folders outside of the gallery that links in it lead to"
    )
    parser.add_argument(
        "--label",
        type=int,
        metavar="N",
        help="class of the query images (and of a gallery without classes), for conditional systems",
    )
    parser.add_argument(
        "--count", type=int, default=10, metavar="N", help="images to find for each query (default: 10)"
    )
    parser.add_argument(
        "--output", metavar="PNG", help="the contact sheet (default: retrieved.png in the run's folder)"
    )
    parser.add_argument("--overwrite", action="store_true", help="replace what is there already")
    add_common(parser)
    return parser


def _gallery_labels(recipe: LatentRecipe, gallery: LabelledDataset, label: int | None) -> Tensor | None:
    """The labels that condition the encoder; None where it takes none."""
    if not recipe.classes:
        return None
    if gallery.classes:
        if gallery.classes > recipe.classes:
            raise UserError(
                f"the gallery has {gallery.classes} classes and {recipe.name} was trained on {recipe.classes}"
            )
        return gallery.labels
    if label is None:
        raise UserError(
            f"{recipe.name} is conditional on a class and this gallery has none: give that of its images as --label 3"
        )
    return torch.full((len(gallery),), label)


def _query(
    recipe: LatentRecipe,
    query: str,
    arguments: argparse.Namespace,
    gallery: LabelledDataset,
    codes: Tensor,
    numbers: list[float] | None,
) -> tuple[Tensor, Tensor, int | None]:
    """(image, code, its own number where it is one of the gallery)."""
    if query.isdecimal() and not Path(query).exists():
        if int(query) >= len(gallery):
            raise UserError(f"--query {query}: the gallery has {len(gallery)} images, 0 to {len(gallery) - 1}")
        return gallery[int(query)]["image"], codes[int(query)], int(query)
    image = read_square(query, recipe.options.input_nc, recipe.options.image_size, numbers)
    if recipe.classes and arguments.label is None:
        raise UserError(f"{recipe.name} is conditional on a class: give that of {query} as --label 3")
    labels = torch.tensor([arguments.label]) if recipe.classes else None
    return image, recipe.encode(image[None], labels)[0].cpu(), None


def _encode(recipe: LatentRecipe, images: Tensor, labels: Tensor | None) -> Tensor:
    parts = labels.split(AT_ONCE) if labels is not None else [None] * -(-len(images) // AT_ONCE)
    return torch.cat([recipe.encode(part, own).cpu() for part, own in zip(images.split(AT_ONCE), parts)])


def _class(gallery: LabelledDataset, index: int) -> str:
    return f"  (class {gallery.names[gallery.labels[index]]})" if gallery.classes else ""


if __name__ == "__main__":
    sys.exit(command.run(main))
