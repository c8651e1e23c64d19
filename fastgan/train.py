"""python -m fastgan.train RECIPE: train a recipe, on the built-in data or on your own."""

from __future__ import annotations

if __name__ == "__main__":  # not where the command is imported: the process is then another's
    from fastgan import _process

    _process.settle()  # before torch is imported

import argparse
import dataclasses
import difflib
import shlex
import sys
from typing import Any

import torch

import fastgan
from fastgan import data, recipes
from fastgan.training import checkpoint, device, graphs, loop, networks, rng, settings
from fastgan.cli import command
from fastgan.evaluation import measures
from fastgan._errors import UserError
from fastgan._options import options_of
from fastgan.evaluation.translation_error import write_metrics
from fastgan.cli.flags import Parser, add_options, exit_codes
from fastgan.training.folder import RunFolder
from fastgan.training.log import clock, learning_rates
from fastgan.training.train_options import TrainOptions
from fastgan.training.sample_grids import SampleGrids, fixed_batch
from fastgan.training.settings import Settings

Data = data.UnalignedDataset | data.AlignedDataset | data.LabelledDataset
Tested = data.PairDataset | data.LabelledDataset

PROGRAM = "python -m fastgan.train"
USAGE = f"""usage: {PROGRAM} RECIPE [options]
       {PROGRAM} RECIPE --help
       {PROGRAM} --list"""

# Options that mean nothing to a recipe on the other kind of data, and are no flags of it.
_OF_PAIRS = ("load_size", "crop_size", "preprocess", "flip", "direction", "output_nc", "eval_pairs")
_OF_LABELLED = ("image_size", "eval_images")
EVAL_PAIRS = 64  # that the final evaluation looks at, unless --eval-pairs says otherwise
LEFT_OUT = {
    "unaligned": (*_OF_LABELLED, "n_labels"),
    "aligned": (*_OF_LABELLED, "n_labels"),
    "labelled": (*_OF_PAIRS, "n_labels"),
    "semi_labelled": _OF_PAIRS,
}


def main(argv: list[str]) -> int:
    if argv[:1] in (["-h"], ["--help"]):
        print(f"{USAGE}\n\nrecipes:\n{_list()}\n\n{exit_codes()}")
        return 0
    if argv[:1] == ["--list"]:
        print(_list())
        return 0
    if not argv or argv[0].startswith("-"):
        raise UserError(f"name a recipe first: {PROGRAM} RECIPE [options], with one of {', '.join(recipes.RECIPES)}")
    return train(_recipe(argv[0]), argv[1:])


def train(recipe_class: type[recipes.Recipe], argv: list[str]) -> int:
    """Train ``recipe_class`` as the flags in ``argv`` say, to the end of the run or a signal; returns the exit code."""
    classes = _option_classes(recipe_class)
    given = vars(parser_of(recipe_class).parse(argv))
    asked = TrainOptions(
        **{name: value for name, value in given.items() if name in ("name", "checkpoints_dir", "resume", "overwrite")}
    )
    folder = RunFolder(asked.checkpoints_dir, recipe_class.name if asked.name is None else asked.name)
    if asked.resume:
        folder.check_resume()
        folder.claim()
        content, fallen_back = checkpoint.load_latest(folder.checkpoint, folder.previous)
        checkpoint.check_recipe(content, recipe_class.name, folder.checkpoint)
        run, why = settings.resume(content["description"], classes, given), "as the run was started"
    else:
        folder.check_new(asked.overwrite)
        content, fallen_back = None, None
        run, why = _new_settings(recipe_class, classes, given)
    options: TrainOptions = run.groups["train"]
    on = device.pick_device(options.device)
    layout = device.memory_format(options.channels_last)
    device.set_backend(options.backend)
    _say_how(recipe_class, run, why, on)

    dataset = data.open_dataset(recipe_class.data_kind, run.groups["data"], "train", options.seed)
    test = _open_test(recipe_class, run)
    run = _fit_to_data(recipe_class, run, dataset)
    if content is not None:
        networks.check_fit(recipe_class, run.groups["recipe"], content["state"].get("networks"))
    rng.seed_everything(options.seed)
    recipe = recipe_class(run.groups["recipe"], precision=options.precision)
    _check_sizes(recipe, dataset, test)
    recipe.to(on, layout)
    _say_what(recipe, dataset, test, run)

    progress = None if content is None else loop.restore(recipe, dataset, content, options.accept_other_data)
    if content is not None:
        _say_resumed(fallen_back, settings.changes(content["description"], run), recipe)
    examples = fixed_batch(dataset if test is None else test, options.sample_count)
    grids = SampleGrids(recipe, device.move_batch(examples, on, layout), folder.samples, data.make_grid)
    one_step, how = graphs.make_step(recipe, run.groups["data"].batch_size, on, options.graph)
    if on.type == "cuda":
        _say("graphs", how)
    resident = data.open_resident(dataset, on, lambda how: _say("images", how)) if options.resident else None
    training = loop.Loop(
        recipe,
        dataset,
        folder,
        run,
        on,
        step=one_step,
        batches=None if resident is None else resident.batch,
        sample=grids.write,
        progress=progress,
    )
    _say("run", f"{folder.path}: {training.describe()}")
    if training.finished():
        if (networks.step_of(folder.networks) or 0) < training.progress.step:  # killed between the two files of a save
            training.share_networks()
            _say("networks", f"{folder.networks} is written anew, of step {training.progress.step}")
        raise UserError(
            f"the run in {folder.path} is complete; a larger --max-steps or --n-epochs goes on with it "
            f"({training.progress.step} steps and {training.progress.epoch} epochs are made)"
        )
    if progress is None:  # from here on nothing that was typed can be wrong: what is overwritten may go
        folder.start(options.overwrite)
    elif fallen_back:
        folder.take_previous()
    run.write(folder.options)
    finished = training.run()

    step = training.progress.step
    done = f"{step} steps in {clock(training.progress.seconds)}"
    if not finished:
        print(f"stopped after {done}, saved in {folder.checkpoint}; go on with:")
        print(f"  {_resume_command(recipe_class, asked)}")
        return command.INTERRUPTED
    print(f"finished {done}: checkpoint.pt, networks.safetensors, losses.jsonl and samples are in {folder.path}")
    if grids.path(step).exists():
        print(f"the last sample grid is {grids.path(step)}")
    limit = _pairs_to_measure(options) if recipe.directions else options.eval_images
    if test is not None and limit > 0:
        _measure(recipe, test, limit, folder, step)
    if recipe.directions:
        print(f"translate a folder of images with:\n  python -m fastgan.translate {shlex.quote(str(folder.path))} DIR")
    else:
        place = shlex.quote(str(folder.path))
        print(f"make images with:\n  python -m fastgan.generate {place}")
        if dataset.classes > 1:
            print(f"measure such images with:\n  python -m fastgan.evaluate {place}")
    return 0


def _recipe(name: str) -> type[recipes.Recipe]:
    if name not in recipes.RECIPES:
        close = difflib.get_close_matches(name.lower(), recipes.RECIPES, n=1)
        hint = f" (did you mean {close[0]}?)" if close else ""
        raise UserError(f"unknown recipe {name!r}{hint}: choose from {', '.join(recipes.RECIPES)}")
    return recipes.get(name)


def _list() -> str:
    width = max(map(len, recipes.RECIPES))
    return "\n".join(f"  {name:{width}}  {recipes.get(name).summary}" for name in recipes.RECIPES)


def _option_classes(recipe_class: type[recipes.Recipe]) -> dict[str, type]:
    return {"train": TrainOptions, "data": data.DataOptions, "recipe": recipe_class.Options}


def parser_of(recipe_class: type[recipes.Recipe]) -> Parser:
    """What reads the flags of this recipe; only those that were given get into its namespace."""
    presets = "presets (default: paper with --dataroot; without it, gpu on a GPU, else laptop):"
    for name, values in recipe_class.presets.items():
        changes = " ".join(f"--{option.replace('_', '-')} {value}" for option, value in values.items())
        presets += f"\n  {name}: {changes or 'the defaults above'}"
    parser = Parser(
        f"{PROGRAM} {recipe_class.name}",
        usage=f"{PROGRAM} {recipe_class.name} [options]",
        description=recipe_class.summary,
        epilog=presets,
    )
    titles = {"train": "run", "data": "data", "recipe": f"the recipe {recipe_class.name}"}
    for group, options in _option_classes(recipe_class).items():
        add_options(parser, options, titles[group], LEFT_OUT[recipe_class.data_kind])
    errors = parser.add_argument_group("errors")
    errors.add_argument(
        "--debug", action="store_true", default=argparse.SUPPRESS, help="show the traceback of an error"
    )
    return parser


def _new_settings(
    recipe_class: type[recipes.Recipe], classes: dict[str, type], given: dict[str, Any]
) -> tuple[Settings, str]:
    """(the options of a new run, why its preset was taken)."""
    on = device.pick_device(given.get("device", TrainOptions.device))
    preset, why = settings.choose_preset(recipe_class.presets, given.get("preset"), given.get("dataroot"), on.type)
    run = settings.resolve(recipe_class.name, preset, classes, recipe_class.presets[preset], given, {"preset": preset})
    others = " or ".join(f"--preset {name}" for name in recipe_class.presets if name != preset)
    return run, f"{why}; {others} chooses another, and flags beat it" if others else why


def _say_how(recipe_class: type[recipes.Recipe], run: Settings, why: str, on: torch.device) -> None:
    options: TrainOptions = run.groups["train"]
    layout = "channels_last" if options.channels_last else "NCHW"
    _say("recipe", f"{recipe_class.name}: {recipe_class.summary}")
    _say("preset", f"{run.preset}: {why}")
    _say(
        "device",
        f"{device.describe_device(on)}, {options.precision}, {layout}, "
        f"fastgan {fastgan.__version__}, torch {torch.__version__}",
    )
    _say("backends", device.describe_backends(on, options.precision))


def _open_test(recipe_class: type[recipes.Recipe], run: Settings) -> Tested | None:
    """What the recipe is measured on: true pairs, where there are any, or the test part of labelled images."""
    options: data.DataOptions = run.groups["data"]
    if recipe_class.directions:
        return data.open_pairs(options, recipe_class.data_kind, by_name=bool(run.groups["train"].eval_pairs))
    return data.open_dataset(recipe_class.data_kind, options, "test")


def _pairs_to_measure(options: TrainOptions) -> int:
    return EVAL_PAIRS if options.eval_pairs is None else options.eval_pairs


def _fit_to_data(recipe_class: type[recipes.Recipe], run: Settings, dataset: Data) -> Settings:
    """The options with what the data decides: channels, and for labelled images their size and classes."""
    channels = dataset.channels if isinstance(dataset.channels, tuple) else (dataset.channels,) * 2
    found = {
        "input_nc": channels[0],
        "output_nc": channels[1],
        "image_size": dataset.image_size,
        "n_classes": dataset.classes,
    }
    options = run.groups["recipe"]
    wanted = {name: value for name, value in found.items() if name in options_of(recipe_class.Options)}
    if "image_size" in wanted and dataset.image_size is None:
        raise UserError(f"{recipe_class.name} needs square images: --image-size 28, or another number, resizes them")
    if "n_classes" in wanted and dataset.classes < 2:
        raise UserError(
            f"{recipe_class.name} needs images of two classes or more: give IDX files with labels, or a "
            "folder with a sub-folder of images for each class"
        )
    return dataclasses.replace(run, groups={**run.groups, "recipe": dataclasses.replace(options, **wanted)})


def _check_sizes(recipe: recipes.Recipe, dataset: Data, test: Tested | None) -> None:
    """Refuse images that the networks cannot take, or measure, before the first step: by the sizes in their headers."""
    if dataset.transform is None or dataset.transform.crops:  # all images are of one size
        first = dataset[0]
        recipe.check_images(*first["image" if "image" in first else "A"].shape[-2:])
        return
    fitting: set[tuple[int, int]] = set()
    for images in (dataset, test) if test is not None else (dataset,):
        assert images.transform is not None  # both are pairs
        for path, *size in images.sizes():
            width, height = images.transform.result(*size)
            if (width, height) not in fitting:
                try:
                    recipe.check_images(height, width)
                except ValueError as error:
                    raise UserError(f"{path}: {error}") from None
                fitting.add((width, height))
    if test is None or test.transform is None:
        return
    for index in range(len(test)):
        one, other = (
            (pick.source.path(pick.index), test.transform.result(*pick.source.sizes[pick.index]))
            for pick in test.picks(index).values()
        )
        if one[1] != other[1]:
            raise UserError(
                f"{one[0]} and {other[0]} are a test pair, and would be {one[1][0]}x{one[1][1]} and "
                f"{other[1][0]}x{other[1][1]}: give them one size, or another --preprocess"
            )


def _say_what(recipe: recipes.Recipe, dataset: Data, test: Tested | None, run: Settings) -> None:
    counts = (f"{name} {device.parameter_count(network):,}" for name, network in recipe.networks.items())
    _say("networks", f"{', '.join(counts)} parameters")
    built_in = "built-in shapes" if recipe.directions else "built-in glyphs"
    kind = "test pairs" if recipe.directions else "test images"
    tested = f"no {kind}" if test is None else f"{len(test)} {kind}"
    _say("data", f"{run.groups['data'].dataroot or built_in}: {dataset.describe()}, {tested}")


def _say_resumed(fallen_back: str | None, changes: list[str], recipe: recipes.Recipe) -> None:
    """What is not as the run was left."""
    if fallen_back:
        _say("resume", fallen_back)
    if changes:
        rates = ", ".join(f"{name} {rate:.3g}" for name, rate in learning_rates(recipe.optimizers).items())
        _say("changed", f"{', '.join(changes)}; the learning rates go on as if it had been so from the start: {rates}")


def _say(label: str, text: str) -> None:
    print(f"{label:9} {text}", flush=True)


def _measure(recipe: recipes.Recipe, test: Tested, limit: int, folder: RunFolder, step: int) -> None:
    measured = measures.measure(recipe, test, limit)
    if measured is not None:
        figures, report = measured
        write_metrics(folder.metrics, {"recipe": recipe.name, "step": step, **figures})
        print(f"{report}\nthese figures are in {folder.metrics}")


def _resume_command(recipe_class: type[recipes.Recipe], asked: TrainOptions) -> str:
    parts = [recipe_class.name, "--resume"]
    if asked.name is not None:
        parts += ["--name", asked.name]
    if asked.checkpoints_dir != TrainOptions.checkpoints_dir:
        parts += ["--checkpoints-dir", asked.checkpoints_dir]
    return f"{PROGRAM} {shlex.join(parts)}"


if __name__ == "__main__":
    command.outlast_console()
    sys.exit(command.run(main))
