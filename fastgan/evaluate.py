"""python -m fastgan.evaluate CHECKPOINT: measure a trained recipe, each figure beside its baseline."""

from __future__ import annotations

if __name__ == "__main__":  # not where the command is imported: the process is then another's
    from fastgan import _process

    _process.settle()  # before torch is imported

import argparse
import dataclasses
import json
import sys
from pathlib import Path
from typing import Any

from fastgan import data, recipes
from fastgan._errors import UserError
from fastgan._options import check_bounds, read_options
from fastgan.cli import command
from fastgan.cli.flags import Parser, add_common, read_seed
from fastgan.cli.pictures import beside
from fastgan.evaluation import measures, quality
from fastgan.evaluation.classifier import classifier_of
from fastgan.evaluation.translation_error import write_metrics
from fastgan.training.device import pick_device
from fastgan.training.networks import load_run


def main(argv: list[str]) -> int:
    arguments = _parser().parse(argv)
    check_bounds("--count", arguments.count, least=2)
    if arguments.eval_pairs is not None:
        check_bounds("--eval-pairs", arguments.eval_pairs, least=1)
    recipe, description = load_run(arguments.checkpoint)
    stored = description["options"]
    options = read_options(data.DataOptions, stored["data"])
    if arguments.dataroot is not None:
        options = dataclasses.replace(options, dataroot=arguments.dataroot)
        if not recipe.directions:  # images become what the networks take
            options = dataclasses.replace(
                options, input_nc=recipe.options.input_nc, image_size=recipe.options.image_size
            )
    recipe.to(pick_device(arguments.device))
    path = Path(arguments.output) if arguments.output else beside(arguments.checkpoint, "metrics.json")
    kept = _kept(path, recipe.name)
    measure = _measure_translation if recipe.directions else _measure_images
    figures, report = measure(recipe, options, stored["train"], arguments)

    path.parent.mkdir(parents=True, exist_ok=True)
    write_metrics(path, {"recipe": recipe.name, **kept, **figures})
    print(f"{report}\nthese figures are in {path}")
    return 0


def _parser() -> Parser:
    parser = Parser(
        "python -m fastgan.evaluate",
        description="""\
Measure what a run has learnt, on data that it was not trained on. Of generated images: their Frechet distance to the
training images in the features of a classifier, the classes they show, and whether it is the one asked for; of encoders
the error of reconstructions; of classifiers the accuracy; of translations the distance to the truth. The classifier is
trained on the training images when it is first needed, and kept in the user's cache folder (FASTGAN_CACHE, or fastgan
in XDG_CACHE_HOME or ~/.cache).""",
        epilog="example: python -m fastgan.evaluate checkpoints/dcgan --dataroot mnist",
    )
    parser.add_argument("checkpoint", metavar="CHECKPOINT", help="a run folder, checkpoint.pt or networks.safetensors")
    parser.add_argument("--dataroot", metavar="TEXT", help="folder of the data (default: as the run was trained)")
    parser.add_argument("--count", type=int, default=5000, metavar="N", help="images to generate (default: 5000)")
    parser.add_argument(
        "--seed", type=read_seed, default=0, metavar="N", help="what their codes are drawn by (default: 0)"
    )
    parser.add_argument(
        "--eval-pairs",
        type=int,
        metavar="N",
        help="true pairs to compare translations with; given, files of the same names in testA and "
        "testB are pairs (default: all, where the run was told so or the data says that they are pairs)",
    )
    parser.add_argument(
        "--output",
        metavar="JSON",
        help="where the figures go; those of the same recipe that are there already are brought up to "
        "date (default: metrics.json in the run's folder)",
    )
    add_common(parser)
    return parser


def _measure_images(
    recipe: recipes.Recipe, options: data.DataOptions, trained: dict[str, Any], arguments: argparse.Namespace
) -> tuple[dict[str, Any], str]:
    seed = trained["seed"]
    train, test = (_open_labelled(recipe, options, split, seed) for split in ("train", "test"))
    recipe.check_images(*train[0]["image"].shape[-2:])
    told = dataclasses.asdict(recipe.options).get("n_classes", train.classes)
    if train.classes != told:
        raise UserError(
            f"{recipe.name} was trained on {told} classes and these images have {train.classes}: figures "
            "of classes compare the same ones"
        )
    figures: dict[str, Any] = {}
    lines = []
    measured = measures.measure(recipe, test, len(test))
    if measured is not None:
        figures |= measured[0]
        lines.append(measured[1])
    if isinstance(train, data.SemiLabelledDataset):
        alone = quality.accuracy_of_labels_alone(recipe, train, test, batch_size=options.batch_size, seed=seed)
        figures |= {"labels": len(train.labelled), "accuracy_of_labels_alone": alone}
        lines.append(
            f"accuracy {100 * alone:.2f} % of the same network trained on its {len(train.labelled)} labels alone"
        )
    if train.classes > 1 and isinstance(recipe, recipes.Generates):
        images = train.images()
        classifier = classifier_of(images, train.labels, train.classes)
        right = (classifier.judge(test.images())[1] == test.labels).double().mean().item()
        figures |= quality.measure_generation(
            recipe, classifier, images, test.images(), arguments.count, arguments.seed
        )
        figures["classifier_accuracy"] = right
        lines.append(_report_generation(figures, train.names))
    if not figures:
        raise UserError(
            f"{recipe.name} is measured by classes of images, and these have none: give --dataroot of some "
            "that have, in IDX files or in a folder for each class"
        )
    return figures, "\n".join(lines)


def _open_labelled(recipe: recipes.Recipe, options: data.DataOptions, split: str, seed: int) -> data.LabelledDataset:
    dataset = data.open_dataset(recipe.data_kind, options, split, seed)
    assert isinstance(dataset, data.LabelledDataset)  # what recipes learn that translate nothing
    return dataset


def _report_generation(figures: dict[str, Any], names: tuple[str, ...]) -> str:
    shares = figures["class_shares"]
    rarest = shares.index(figures["rarest_class"])
    lines = [
        f"Frechet distance {figures['frechet_distance']:.2f} of {figures['generated']} generated images to the "
        f"training images; of the test images {figures['frechet_distance_of_test_images']:.2f}",
        f"classes shown: {', '.join(f'{name} {100 * share:.1f} %' for name, share in zip(names, shares))}; "
        f"rarest {names[rarest]} with {100 * shares[rarest]:.1f} %",
    ]
    if "asked_class_accuracy" in figures:
        lines.append(f"{100 * figures['asked_class_accuracy']:.2f} % of them show the class that was asked for")
    lines.append(
        f"(judged by a classifier that names {100 * figures['classifier_accuracy']:.2f} % of the test images rightly)"
    )
    return "\n".join(lines)


def _measure_translation(
    recipe: recipes.Recipe, options: data.DataOptions, trained: dict[str, Any], arguments: argparse.Namespace
) -> tuple[dict[str, Any], str]:
    asked = trained.get("eval_pairs") if arguments.eval_pairs is None else arguments.eval_pairs
    test = data.open_pairs(options, recipe.data_kind, by_name=bool(asked))
    if test is None:
        raise UserError(
            f"{options.dataroot} holds no pairs for a test: there is no truth to compare translations with "
            "(where files of the same names in testA and testB are pairs, --eval-pairs 64 says so)"
        )
    measured = measures.measure(recipe, test, min(len(test), arguments.eval_pairs or len(test)))
    assert measured is not None  # a recipe that translates is measured on any pairs
    figures, report = measured
    whole = dataclasses.replace(options, load_size=options.crop_size, flip=False, serial_batches=True, batch_size=1)
    train = data.open_dataset(recipe.data_kind, whole, "train", trained["seed"])
    if train.image_size is not None and test.image_size == train.image_size:
        errors = quality.mean_image_errors(train, test, recipe.directions)
        lines = [f"{direction}: the mean training image gets {error:.4f}" for direction, error in errors.items()]
        figures = {
            **figures,
            **{direction: {**figures[direction], "mean_image": error} for direction, error in errors.items()},
        }
        report = "\n".join([report, *lines])
    return figures, report


def _kept(path: Path, recipe: str) -> dict[str, Any]:
    """The figures of this recipe that are there already; nobody else's file is touched."""
    if not path.exists():
        return {}
    try:
        there = json.loads(path.read_text(encoding="utf-8"))
    except ValueError:
        there = None
    if not isinstance(there, dict) or there.get("recipe") != recipe:
        raise UserError(f"{path} holds something else than figures of {recipe}: give another --output")
    return there


if __name__ == "__main__":
    sys.exit(command.run(main))
