"""python -m fastgan.train RECIPE: train a recipe, on the built-in data or on your own."""

from __future__ import annotations

from fastgan import _process  # noqa: I001

_process.settle()  # before torch is imported

import argparse
import difflib
import shlex
import sys
from typing import Any

import torch
from torch import Tensor

import fastgan
from fastgan import data, recipes
from fastgan.engine import checkpoint, command, device, evaluation, loop, rng, settings
from fastgan.engine.command import UserError
from fastgan.engine.flags import Parser, add_options
from fastgan.engine.folder import RunFolder
from fastgan.engine.log import clock
from fastgan.engine.options import TrainOptions
from fastgan.engine.samples import SampleGrids, fixed_batch
from fastgan.engine.settings import Settings

PROGRAM = "python -m fastgan.train"
USAGE = f"""usage: {PROGRAM} RECIPE [options]
       {PROGRAM} RECIPE --help
       {PROGRAM} --list"""


def main(argv: list[str]) -> int:
    if argv[:1] in (["-h"], ["--help"]):
        print(f"{USAGE}\n\nrecipes:\n{_list()}")
        return 0
    if argv[:1] == ["--list"]:
        print(_list())
        return 0
    if not argv or argv[0].startswith("-"):
        raise UserError(f"name a recipe first: {PROGRAM} RECIPE [options], with one of {', '.join(recipes.RECIPES)}")
    return train(_recipe(argv[0]), argv[1:])


def train(recipe_class: type[recipes.Recipe], argv: list[str]) -> int:
    """Train ``recipe_class`` as the flags in ``argv`` say, to the end of the run or a signal; returns the exit code."""
    classes = {"train": TrainOptions, "data": data.DataOptions, "recipe": recipe_class.Options}
    given = vars(_parser(recipe_class, classes).parse(argv))
    asked = TrainOptions(**{name: value for name, value in given.items()
                            if name in ("name", "checkpoints_dir", "resume", "overwrite")})
    folder = RunFolder(asked.checkpoints_dir, recipe_class.name if asked.name is None else asked.name)
    if asked.resume:
        folder.check_resume()
        content = checkpoint.load(folder.checkpoint)
        checkpoint.check_recipe(content, recipe_class.name, folder.checkpoint)
        run, why = settings.resume(content["description"], classes, given), "as the run was started"
    else:
        folder.check_new(asked.overwrite)
        content = None
        run, why = _new_settings(recipe_class, classes, given)
    options: TrainOptions = run.groups["train"]
    on = device.pick_device(options.device)
    layout = device.memory_format(options.channels_last)
    device.set_backend(options.backend)
    _say_how(recipe_class, run, why, on)

    dataset = data.open_dataset("unaligned", run.groups["data"], "train", options.seed)
    pairs = data.open_pairs(run.groups["data"])
    rng.seed_everything(options.seed)
    recipe = recipe_class(run.groups["recipe"], precision=options.precision)
    recipe.check_images(*dataset[0]["A"].shape[-2:])
    recipe.to(on, layout)
    _say_what(recipe, dataset, pairs, run)

    progress = None if content is None else loop.restore(recipe, dataset, content)
    if progress is None:
        folder.start()
    examples = fixed_batch(dataset if pairs is None else pairs, options.sample_count)
    grids = SampleGrids(recipe, device.move_batch(examples, on, layout), folder.samples, data.make_grid)
    training = loop.Loop(recipe, dataset, folder, run, on, sample=grids.write, progress=progress)
    _say("run", f"{folder.path}: {training.describe()}")
    if training.finished():
        raise UserError(f"the run in {folder.path} is complete; a larger --max-steps or --n-epochs goes on with it")
    run.write(folder.options)
    finished = training.run()

    step = training.progress.step
    done = f"{step} steps in {clock(training.progress.seconds)}"
    if not finished:
        print(f"stopped after {done}, saved in {folder.checkpoint}; go on with:")
        print(f"  {_resume_command(recipe_class, asked)}")
        return command.INTERRUPTED
    print(f"finished {done}: checkpoint.pt, networks.safetensors, losses.jsonl and samples are in {folder.path}")
    print(f"the last sample grid is {grids.path(step)}")
    if pairs is not None and options.eval_pairs > 0:
        _evaluate(recipe, pairs, options.eval_pairs, on, folder, step)
    print(f"translate a folder of images with:\n  python -m fastgan.translate {folder.path} DIR")
    return 0


def _recipe(name: str) -> type[recipes.Recipe]:
    if name not in recipes.RECIPES:
        close = difflib.get_close_matches(name, recipes.RECIPES, n=1)
        hint = f" (did you mean {close[0]}?)" if close else ""
        raise UserError(f"unknown recipe {name!r}{hint}: choose from {', '.join(recipes.RECIPES)}")
    return recipes.get(name)


def _list() -> str:
    width = max(map(len, recipes.RECIPES))
    return "\n".join(f"  {name:{width}}  {recipes.get(name).summary}" for name in recipes.RECIPES)


def _parser(recipe_class: type[recipes.Recipe], classes: dict[str, type]) -> Parser:
    presets = "presets (default: paper with --dataroot; without it, gpu on a GPU, else laptop):"
    for name, values in recipe_class.presets.items():
        changes = " ".join(f"--{option.replace('_', '-')} {value}" for option, value in values.items())
        presets += f"\n  {name}: {changes or 'the defaults above'}"
    parser = Parser(f"{PROGRAM} {recipe_class.name}", usage=f"{PROGRAM} {recipe_class.name} [options]",
                    description=recipe_class.summary, epilog=presets)
    titles = {"train": "run", "data": "data", "recipe": f"the recipe {recipe_class.name}"}
    for group, options in classes.items():
        add_options(parser, options, titles[group])
    errors = parser.add_argument_group("errors")
    errors.add_argument("--debug", action="store_true", default=argparse.SUPPRESS,
                        help="show the traceback of an error")
    return parser


def _new_settings(recipe_class: type[recipes.Recipe], classes: dict[str, type],
                  given: dict[str, Any]) -> tuple[Settings, str]:
    """(the options of a new run, why its preset was taken)."""
    on = device.pick_device(given.get("device", TrainOptions.device))
    preset, why = settings.choose_preset(recipe_class.presets, given.get("preset"), given.get("dataroot"), on.type)
    run = settings.resolve(recipe_class.name, preset, classes, recipe_class.presets[preset], given,
                           {"preset": preset})
    others = " or ".join(f"--preset {name}" for name in recipe_class.presets if name != preset)
    return run, f"{why}; {others} chooses another, and flags beat it" if others else why


def _say_how(recipe_class: type[recipes.Recipe], run: Settings, why: str, on: torch.device) -> None:
    options: TrainOptions = run.groups["train"]
    layout = "channels_last" if options.channels_last else "NCHW"
    _say("recipe", f"{recipe_class.name}: {recipe_class.summary}")
    _say("preset", f"{run.preset}: {why}")
    _say("device", f"{device.describe_device(on)}, {options.precision}, {layout}, "
                   f"fastgan {fastgan.__version__}, torch {torch.__version__}")
    _say("backends", device.describe_backends(on, options.precision))


def _say_what(recipe: recipes.Recipe, dataset: data.UnalignedDataset, pairs: data.UnalignedDataset | None,
              run: Settings) -> None:
    counts = (f"{name} {device.parameter_count(network):,}" for name, network in recipe.networks.items())
    _say("networks", f"{', '.join(counts)} parameters")
    dataroot = run.groups["data"].dataroot
    tested = "no test pairs" if pairs is None else f"{len(pairs)} test pairs"
    _say("data", f"{'built-in shapes' if dataroot is None else dataroot}: {len(dataset.A)} + {len(dataset.B)} images, "
                 f"{tested}")


def _say(label: str, text: str) -> None:
    print(f"{label:9} {text}", flush=True)


def _evaluate(recipe: recipes.Recipe, pairs: data.UnalignedDataset, limit: int, on: torch.device, folder: RunFolder,
              step: int) -> None:
    def translate(images: Tensor, direction: str) -> Tensor:
        return recipe.translate(images.to(on), direction)

    result = evaluation.evaluate(translate, pairs, limit=limit)
    evaluation.write_metrics(folder.metrics, {"recipe": recipe.name, "step": step, **result})
    print(f"{evaluation.report(result)}\nthese figures are in {folder.metrics}")


def _resume_command(recipe_class: type[recipes.Recipe], asked: TrainOptions) -> str:
    parts = [recipe_class.name, "--resume"]
    if asked.name is not None:
        parts += ["--name", asked.name]
    if asked.checkpoints_dir != TrainOptions.checkpoints_dir:
        parts += ["--checkpoints-dir", asked.checkpoints_dir]
    return f"{PROGRAM} {shlex.join(parts)}"


if __name__ == "__main__":
    sys.exit(command.run(main))
