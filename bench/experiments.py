"""Do the recipes learn? Long trainings on real data, measured, held against thresholds, and kept as one record.

    python -m bench.experiments [EXPERIMENT...] [--data DIR]

An experiment trains a recipe with the commands that a user would type, from their defaults and the flags given here.
Some stop early on, to be measured, and go on from there as a resumed run does, to the weights of a run that never
stopped. The minutes that a training may take are those of the clock; on a machine that others use at the same time
(--shared), those of the processor, for each of the threads: there the clock also counts the others' turns.
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from . import record

FORMAT = 2
DATA = record.ROOT.parent / "shared" / "data"
LEAST_SHARE = 0.02

Figures = dict[str, Any]
Check = tuple[str, float, str, float]  # what, its value, "<=", "<" or ">=", the bound


@dataclass(frozen=True)
class Experiment:
    """One training and what must come of it.

    Attributes:
        recipe: its name for ``fastgan.train``.
        data: the folder of its data.
        flags: for the new run.
        length: the flag that says how long the run is.
        first, last: its values where the run stops for its first figures (None: it does not), and at the end.
        checks: (first figures, {} without such; last figures) -> the checks.
        minutes: that the training may take on two cores.
    """

    recipe: str
    data: str
    length: str
    first: int | None
    last: int
    checks: Callable[[Figures, Figures], list[Check]]
    flags: str = ""
    minutes: float = 10


def _distribution(first: Figures, last: Figures) -> list[Check]:
    half = first["frechet_distance"] / 2
    return [
        ("Frechet distance, against half of that after epoch 1", last["frechet_distance"], "<=", half),
        ("share of the rarest digit", last["rarest_class"], ">=", LEAST_SHARE),
    ]


def _asked(first: Figures, last: Figures) -> list[Check]:
    return [("generated digits that show the class asked for", last["asked_class_accuracy"], ">=", 0.9)]


def _reconstruction(bound: float) -> Callable[[Figures, Figures], list[Check]]:
    return lambda first, last: [("reconstruction MSE of held-out digits", last["reconstruction_mse"], "<=", bound)]


def _few_labels(first: Figures, last: Figures) -> list[Check]:
    bound = round(last["accuracy_of_labels_alone"] + 0.03, 6)
    return [("test accuracy, against three points above the labels alone", last["accuracy"], ">=", bound)]


def _translation(first: Figures, last: Figures) -> list[Check]:
    error = last["AtoB"]["translation"]
    return [
        ("test L1, against the mean training image's", error, "<", last["AtoB"]["mean_image"]),
        ("test L1, against that after step 100", error, "<", first["AtoB"]["translation"]),
    ]


EXPERIMENTS = {
    "dcgan": Experiment(
        "dcgan", "mnist", "--n-epochs", 1, 5, _distribution,
        "--upsample transposed --d-optimizers 1 --d-norm none --r1-gamma 10 --batch-size 32 --lr 5e-4",
    ),
    "wgan_gp": Experiment(
        "wgan_gp", "mnist", "--n-epochs", 1, 4, _distribution,
        "--upsample transposed --batch-size 32 --lr 5e-4 --n-critic 2",
    ),
    "cgan": Experiment(
        "cgan", "mnist", "--n-epochs", None, 55, _asked, "--batch-size 32 --lr 5e-4 --gan-loss vanilla"
    ),
    "sgan": Experiment("sgan", "mnist", "--n-epochs", None, 6, _few_labels, "--upsample transposed"),
    "vae-z2": Experiment("vae", "mnist", "--n-epochs", None, 60, _reconstruction(0.048), "--latent-size 2"),
    "vae-z16": Experiment("vae", "mnist", "--n-epochs", None, 40, _reconstruction(0.014), "--latent-size 16"),
    "cvae": Experiment("cvae", "mnist", "--n-epochs", None, 30, _asked),
    "cvae_gan": Experiment(
        "cvae_gan", "mnist", "--n-epochs", None, 3, _asked, "--batch-size 32 --lr 1e-3 --lambda-class 10"
    ),
    "pix2pix": Experiment(
        "pix2pix", "facades_aligned", "--max-steps", 100, 2000, _translation,
        "--direction BtoA --netG unet_128 --ngf 32 --ndf 32 --load-size 143 --crop-size 128 --lambda-L1 1000 "
        "--n-epochs 4 --n-epochs-decay 4",
        20,
    ),
}  # fmt: skip


class Training:
    """The training of one experiment: runs the commands, and remembers them as they can be written anywhere."""

    def __init__(self, name: str, experiment: Experiment, data: Path, runs: Path, last: int, shared: bool):
        self.name, self.experiment, self.data, self.runs = name, experiment, data, runs
        self.last, self.shared = last, shared
        self.folder = f"learn-{name}"
        self.commands: list[str] = []
        self.seconds = {"train": 0.0, "evaluate": 0.0}
        self.cpu_seconds = {"train": 0.0, "evaluate": 0.0}

    def run(self) -> dict[str, Any]:
        experiment = self.experiment
        flags = experiment.flags.split()
        begin = ("--dataroot", str(self.data / experiment.data), *flags, "--overwrite", experiment.length)
        first: Figures = {}
        if experiment.first is None:
            self._train(*begin, str(self.last))
        else:
            self._train(*begin, str(experiment.first))
            first = self._evaluate(f"after-{experiment.first}.json")
            self._train("--resume", experiment.length, str(self.last))
        last = self._evaluate("metrics.json")
        minutes, cpu_minutes = self.seconds["train"] / 60, self.cpu_seconds["train"] / 60
        threads = torch.get_num_threads()
        if self.shared:
            duration = ("CPU minutes of training, for each thread", cpu_minutes / threads, "<=", experiment.minutes)
        else:
            duration = ("minutes of training", minutes, "<=", experiment.minutes)
        checks = [*experiment.checks(first, last), duration]
        return {
            "experiment": self.name,
            "recipe": experiment.recipe,
            "data": experiment.data,
            "commands": self.commands,
            "train_minutes": minutes,
            "train_cpu_minutes": cpu_minutes,
            "threads": threads,
            "shared": self.shared,
            "evaluate_minutes": self.seconds["evaluate"] / 60,
            "checks": [
                {"what": what, "value": value, "must_be": f"{sign} {bound:.6g}", "passed": _holds(value, sign, bound)}
                for what, value, sign, bound in checks
            ],
            "first_figures": first,
            "figures": last,
        }

    def _train(self, *arguments: str) -> None:
        self._call(
            "train",
            self.experiment.recipe,
            "--name",
            self.folder,
            "--checkpoints-dir",
            str(self.runs),
            *arguments,
            "--eval-images" if self.experiment.data == "mnist" else "--eval-pairs",
            "0",
        )

    def _evaluate(self, file: str) -> Figures:
        path = self.runs / self.folder / file
        path.unlink(missing_ok=True)
        self._call("evaluate", str(self.runs / self.folder), "--output", str(path))
        return json.loads(path.read_text(encoding="utf-8"))

    def _call(self, command: str, *arguments: str) -> None:
        said = " ".join(["python -m fastgan." + command, *arguments])
        self.commands.append(said.replace(str(self.data), "DATA").replace(str(self.runs), "checkpoints"))
        print(f"$ {self.commands[-1]}", flush=True)
        began, cpu_began = time.monotonic(), _cpu_seconds()
        _run(command, arguments)
        self.seconds[command] += time.monotonic() - began
        self.cpu_seconds[command] += _cpu_seconds() - cpu_began


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser("python -m bench.experiments", description=__doc__.split("\n")[0])
    parser.add_argument(
        "experiments",
        nargs="*",
        metavar="EXPERIMENT",
        help=f"{', '.join(EXPERIMENTS)}, or a recipe for all of its experiments (default: all)",
    )
    parser.add_argument(
        "--data",
        type=Path,
        default=DATA,
        metavar="DIR",
        help="folder that holds mnist (IDX files) and facades_aligned (default: shared/data beside the repository)",
    )
    parser.add_argument(
        "--runs",
        type=Path,
        default=Path("checkpoints"),
        metavar="DIR",
        help="where the runs are kept (default: checkpoints)",
    )
    parser.add_argument(
        "--length",
        type=int,
        metavar="N",
        help="epochs, or steps for pix2pix, of the experiments named, in place of their own",
    )
    parser.add_argument(
        "--shared",
        action="store_true",
        help="others use this machine too: judge the minutes of training by the processor's clock",
    )
    parser.add_argument("--record", type=Path, metavar="PATH", help="where the record goes (default: bench/results)")
    arguments = parser.parse_args(argv)
    names = _chosen(arguments.experiments, parser)

    results, skipped, failed = [], [], []
    for name in names:
        experiment = EXPERIMENTS[name]
        folder = arguments.data / experiment.data
        if not folder.is_dir():
            skipped.append({"experiment": name, "reason": f"there is no folder {experiment.data} in the data"})
            print(f"{name}: skipped, there is no {folder}")
            continue
        length = arguments.length or experiment.last
        training = Training(name, experiment, arguments.data, arguments.runs, length, arguments.shared)
        try:
            results.append(training.run())
        except subprocess.CalledProcessError as error:
            failed.append(
                {"experiment": name, "commands": training.commands, "reason": f"exit status {error.returncode}"}
            )
            print(f"{name}: failed, exit status {error.returncode}")
            continue
        print(_report(results[-1]), flush=True)
    if results or failed:
        path = _write(arguments.record, arguments.experiments, results, skipped, failed)
        print(f"\n{chr(10).join(map(_report, results))}\nrecord: {path}")
    return 1 if failed or not all(check["passed"] for result in results for check in result["checks"]) else 0


def _cpu_seconds() -> float:
    """User and system time of the commands that have ended."""
    times = os.times()
    return times.children_user + times.children_system


def _run(command: str, arguments: tuple[str, ...]) -> None:
    subprocess.run([sys.executable, "-m", f"fastgan.{command}", *arguments], check=True)


def _chosen(asked: list[str], parser: argparse.ArgumentParser) -> list[str]:
    unknown = [
        name for name in asked if not any(name in (experiment, each.recipe) for experiment, each in EXPERIMENTS.items())
    ]
    if unknown:
        parser.error(f"there is no experiment {unknown[0]!r}: choose from {', '.join(EXPERIMENTS)}")
    return [
        name for name, experiment in EXPERIMENTS.items() if not asked or name in asked or experiment.recipe in asked
    ]


def _holds(value: float, sign: str, bound: float) -> bool:
    return {"<=": value <= bound, "<": value < bound, ">=": value >= bound}[sign]


def _report(result: dict[str, Any]) -> str:
    lines = [
        f"{result['experiment']}: {result['train_minutes']:.1f} minutes of training, "
        f"{result['train_cpu_minutes']:.1f} of the processor"
    ]
    for check in result["checks"]:
        lines.append(
            f"  {'passed' if check['passed'] else 'MISSED'}  {check['what']}: {check['value']:.4g}, must be "
            f"{check['must_be']}"
        )
    return "\n".join(lines)


def _write(path: Path | None, asked: list[str], results: list[dict], skipped: list[dict], failed: list[dict]) -> Path:
    environment = record.environment("cuda" if torch.cuda.is_available() else "cpu")
    path = path or record.new_path(environment, f"learn {' '.join(asked)}".strip())
    record.write(
        path,
        {
            "format": FORMAT,
            "kind": "learn",
            "date": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
            "environment": environment,
            "experiments": results,
            "skipped": skipped,
            "failed": failed,
            "missed": [
                result["experiment"] for result in results if not all(check["passed"] for check in result["checks"])
            ],
        },
    )
    return path


if __name__ == "__main__":
    sys.exit(main())
