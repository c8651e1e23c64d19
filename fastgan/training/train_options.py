"""The options of a training run that belong to no recipe and no data set."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

LARGEST_SEED = 2**64 - 1  # that torch takes
PRECISIONS = ("fp32", "bf16", "fp16")


def option(default, help: str, *, choices: tuple | None = None, resume: bool = False, stored: bool = True):
    """A dataclass field that becomes a command-line flag.

    Args:
        help: one phrase for ``--help``.
        choices: the values that are allowed.
        resume: whether ``--resume`` may be given together with another value than the run was started with.
        stored: whether the value belongs to the run and is kept with it, or only to this call of the command.
    """
    metadata = {"help": help, "resume": resume or not stored, "stored": stored}
    if choices is not None:
        metadata["choices"] = choices
    return dataclasses.field(default=default, metadata=metadata)


@dataclass(frozen=True)
class TrainOptions:
    """How long, where, on what and how talkative."""

    name: str | None = option(
        None, "name of the run, a folder in --checkpoints-dir (default: the recipe's name)", stored=False
    )
    checkpoints_dir: str = option("checkpoints", "folder that holds the runs", stored=False)
    resume: bool = option(False, "go on with the run of this name where its checkpoint was saved", stored=False)
    overwrite: bool = option(False, "replace the run of this name, if the folder is a run of ours", stored=False)
    accept_other_data: bool = option(
        False, "with --resume, go on although the data is not what the run was trained on", stored=False
    )
    preset: str | None = option(None, "a set of defaults; flags on the command line beat it")
    max_steps: int | None = option(None, "stop after so many steps in all, before the epochs are over", resume=True)
    seed: int = option(0, "seed of the initial weights, of the data order, of crops and flips")
    device: str = option("auto", "auto, cpu, cuda or cuda:N; auto takes a GPU where there is one", resume=True)
    precision: str = option("fp32", "arithmetic of the networks", choices=PRECISIONS, resume=True)
    backend: str = option("auto", "who computes our ops: auto, a name, or op=name,op=name", resume=True)
    channels_last: bool = option(True, "keep images and weights in the channels_last memory format", resume=True)
    graph: bool = option(True, "on a GPU, record the step in CUDA graphs", resume=True)
    resident: bool = option(True, "on a GPU, keep all images there, where they fit", resume=True)
    print_freq: int = option(50, "steps between two logged lines", resume=True)
    sample_freq: int = option(500, "steps between two sample grids; 0: only at the end", resume=True)
    sample_count: int = option(4, "rows of a sample grid", resume=True)
    save_freq: int = option(1000, "steps between two checkpoints; 0: only at the end", resume=True)
    eval_pairs: int | None = option(
        None,
        "true pairs that the final evaluation looks at; 0: none; given, files of the "
        "same names in testA and testB are pairs (default: 64, where the data says "
        "that they are pairs)",
        resume=True,
    )
    eval_images: int = option(
        1000, "test images that the final evaluation looks at, where there are any; 0: none", resume=True
    )

    def __post_init__(self) -> None:
        for name, least in {
            "max_steps": 1,
            "seed": 0,
            "print_freq": 1,
            "sample_freq": 0,
            "sample_count": 1,
            "save_freq": 0,
            "eval_pairs": 0,
            "eval_images": 0,
        }.items():
            value = getattr(self, name)
            if value is not None and value < least:
                raise ValueError(f"--{name.replace('_', '-')} is {value}: it must be {least} or more")
        if self.seed > LARGEST_SEED:
            raise ValueError(f"--seed is {self.seed}: it must be {LARGEST_SEED} or less")
        if self.resume and self.overwrite:
            raise ValueError("--resume goes on with a run and --overwrite replaces it: give one of them")
