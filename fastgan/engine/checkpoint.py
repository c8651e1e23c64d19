"""The checkpoint: everything that a run needs to go on as if it had never stopped."""

from __future__ import annotations

import pickle
import platform
import re
import zipfile
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch

from .command import UserError
from .files import write_atomically
from .settings import is_run_description

FORMAT = "fastgan checkpoint"
VERSION = 2


@dataclass
class Progress:
    """How far a run has come.

    Attributes:
        step: updates made.
        epoch: complete epochs.
        position: items of the current epoch that are done.
        seconds: time spent training, over all sessions.
        loss_sums, loss_counts: sums of each loss over the steps of the current epoch, and their number.
        latest: each loss of the last step that had it; a recipe need not make all of its losses in every step.
    """

    step: int = 0
    epoch: int = 0
    position: int = 0
    seconds: float = 0.0
    loss_sums: dict[str, float] = field(default_factory=dict)
    loss_counts: dict[str, int] = field(default_factory=dict)
    latest: dict[str, float] = field(default_factory=dict)


def save(path: Path, *, description: Mapping[str, Any], progress: Progress, state: Mapping[str, Any],
         rng: Mapping[str, Any], data: Mapping[str, Any]) -> None:
    """Write a checkpoint, atomically.

    Args:
        description: :meth:`Settings.to_json`, from which the run can be set up with no flags.
        state: the recipe's ``state_dict()``.
        rng: :func:`fastgan.engine.rng.state`.
        data: what must be the same data at resume: the number of items and the order's seed.
    """
    content = {
        "format": FORMAT,
        "version": VERSION,
        "recipe": description["recipe"],
        "description": dict(description),
        "progress": asdict(progress),
        "state": dict(state),
        "rng": dict(rng),
        "data": dict(data),
        "versions": versions(),
    }
    write_atomically(path, lambda temporary: _write(content, temporary, path))


def _write(content: dict[str, Any], temporary: Path, path: Path) -> None:
    try:
        torch.save(content, temporary)
    except RuntimeError as error:
        if "inline_container" not in str(error):
            raise
        # Where a disk is full, torch's writer speaks of positions in the file alone.
        raise UserError(f"{path} cannot be written to its end: the disk may be full") from error


def load(path: str | Path) -> dict[str, Any]:
    """The content of a checkpoint, tensors on the CPU; ``progress`` is a :class:`Progress`.

    Raises:
        UserError: no such file, a damaged file, or a file that is not a checkpoint of this package.
    """
    content = read_tensors(path)
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        raise UserError(f"{path} is not a fastgan checkpoint: a run keeps its own in checkpoint.pt")
    if content["version"] != VERSION:
        age, remedy = ("newer", "update fastgan") if content["version"] > VERSION else ("older", "go on with that one")
        raise UserError(f"{path} was written by fastgan {content['versions'].get('fastgan')}, which is {age} than this "
                        f"one and writes another form of checkpoint: {remedy}")
    if not is_run_description(content["description"]):
        raise UserError(f"{path} is damaged: its description of the run cannot be read")
    content["progress"] = Progress(**content["progress"])
    return content


def check_recipe(content: Mapping[str, Any], recipe: str, path: Path) -> None:
    """Refuse the checkpoint of another recipe."""
    if content["recipe"] != recipe:
        raise UserError(f"{path} is a checkpoint of {content['recipe']}, not of {recipe}: "
                        f"python -m fastgan.train {content['recipe']} --resume goes on with it")


def read_tensors(path: str | Path) -> Any:
    """What ``torch.save`` put into a file: tensors and plain values only, on the CPU.

    Raises:
        UserError: no such file, not a file of torch's, a damaged one, or one that holds python objects.
    """
    path = Path(path)
    if not path.is_file():
        raise UserError(f"{path}: no such file")
    if path.stat().st_size == 0:
        raise UserError(f"{path} is empty")
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        if "Unsupported global" in str(error):
            named = re.search(r"GLOBAL ([\w.]+)", str(error))
            what = f"python objects besides tensors ({named[1]})" if named else "python objects besides tensors"
            raise UserError(f"{path} holds {what}, which could run any code: only files of tensors and plain "
                            "values are read, such as a model's state_dict()") from None
        raise UserError(_damaged(path)) from None
    except OSError as error:
        if error.filename is not None:  # it cannot be opened; a file that was cut short gives an error with no name
            raise
        raise UserError(_damaged(path)) from None
    except (RuntimeError, EOFError, ValueError, KeyError, AttributeError, zipfile.BadZipFile):
        raise UserError(_damaged(path)) from None


def _damaged(path: Path) -> str:
    with open(path, "rb") as file:
        zipped = file.read(2) == b"PK"
    if zipped:
        return f"{path} is damaged: it begins like a checkpoint but cannot be read to its end (was a copy cut short?)"
    return f"{path} is not a checkpoint: torch cannot read it"


def versions() -> dict[str, str | None]:
    """What wrote a file."""
    from fastgan import __version__

    return {"fastgan": __version__, "torch": str(torch.__version__), "cuda": torch.version.cuda,
            "python": platform.python_version()}
