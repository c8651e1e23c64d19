"""The options of a training run that belong to no recipe and no data set."""

from __future__ import annotations

from dataclasses import dataclass

from fastgan._options import check_options, option, options_of
from fastgan.training.interval import read_interval

LARGEST_SEED = 2**64 - 1  # that torch takes
PRECISIONS = ("fp32", "bf16", "fp16")


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
    max_steps: int | None = option(
        None, "stop after so many steps in all, before the epochs are over", least=1, resume=True
    )
    seed: int = option(
        0, "seed of the initial weights, of the data order, of crops and flips", least=0, most=LARGEST_SEED
    )
    device: str = option("auto", "auto, cpu, cuda or cuda:N; auto takes a GPU where there is one", resume=True)
    precision: str = option("fp32", "arithmetic of the networks", choices=PRECISIONS, resume=True)
    backend: str = option("auto", "who computes our ops: auto, a name, or op=name,op=name", resume=True)
    channels_last: bool = option(True, "keep images and weights in the channels_last memory format", resume=True)
    graph: bool = option(True, "on a GPU, record the step in CUDA graphs", resume=True)
    resident: bool = option(True, "on a GPU, keep all images there, where they fit", resume=True)
    print_freq: int = option(50, "steps between two logged lines", least=1, resume=True)
    sample_every: str = option(
        "500,60s",
        "steps, time (s, m, h), or both, whichever comes first, between two sample grids; 0: only at the end",
        resume=True,
        aliases=("sample_freq", "display_freq"),
    )
    sample_count: int = option(4, "rows of a sample grid", least=1, resume=True)
    save_every: str = option(
        "1000,10m",
        "steps, time, or both between two checkpoints; a shorter run saves at its quarters; 0: only at the end",
        resume=True,
        aliases=("save_freq", "save_latest_freq"),
    )
    eval_pairs: int | None = option(
        None,
        "true pairs that the final evaluation looks at; 0: none; given, files of the "
        "same names in testA and testB are pairs (default: 64, where the data says "
        "that they are pairs)",
        least=0,
        resume=True,
    )
    eval_images: int = option(
        1000, "test images that the final evaluation looks at, where there are any; 0: none", least=0, resume=True
    )

    def __post_init__(self) -> None:
        check_options(self)
        for name in ("sample_every", "save_every"):
            read_interval(getattr(self, name), options_of(TrainOptions)[name].flag)
        if self.resume and self.overwrite:
            raise ValueError("--resume goes on with a run and --overwrite replaces it: give one of them")
