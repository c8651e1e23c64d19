"""The checkpoint: everything that a run needs to go on as if it had never stopped."""

from __future__ import annotations

import errno
import os
import platform
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import IO, Any, cast

import torch

from fastgan._errors import UserError
from fastgan._files import write_atomically
from fastgan._form import check_form
from fastgan.training.checksum import checksum
from fastgan.training.outline import Excessive, ForeignObject, is_pickle, outline
from fastgan.training.settings import flatten, is_run_description

FORMAT = "fastgan checkpoint"
VERSION = 2
_DATA = {"length": int, "seed": int}
_CONTENT: dict[str, Any] = {
    "format": str,
    "version": int,
    "recipe": str,
    "description": dict,
    "progress": dict,
    "state": dict,
    "rng": dict,
    "data": _DATA,
    "versions": dict,
}
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_SUMMED = ("description", "progress", "state", "rng", "data")  # what the checksum is of; the rest says what wrote it


class Damaged(UserError):
    """A file that should hold a checkpoint holds none that can be used."""


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


def save(
    path: Path,
    *,
    description: Mapping[str, Any],
    progress: Progress,
    state: Mapping[str, Any],
    rng: Mapping[str, Any],
    data: Mapping[str, Any],
    previous: Path | None = None,
) -> None:
    """Write a checkpoint, atomically, with a checksum of what it holds.

    Args:
        description: :meth:`Settings.to_json`, from which the run can be set up with no flags.
        state: the recipe's ``state_dict()``.
        rng: :func:`fastgan.training.rng.state`.
        data: what must be the same data at resume: the number of items, the order's seed, and a fingerprint where the
            data set has one.
        previous: where the checkpoint goes that ``path`` holds.
    """
    content = _on_cpu(
        {
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
    )
    content["checksum"] = checksum({name: content[name] for name in _SUMMED})
    write_atomically(path, lambda temporary: _write(content, temporary, path), previous)


def _write(content: dict[str, Any], temporary: Path, path: Path) -> None:
    with open(temporary, "wb") as file:
        watched = _Watched(file)
        try:
            torch.save(content, cast(IO[bytes], watched))
        except (RuntimeError, OSError) as error:  # torch's writer speaks of positions in the file alone
            if watched.error is None:
                raise
            if watched.error.errno in _FULL:
                raise UserError(f"{path} cannot be written to its end: the disk may be full") from error
            raise watched.error from error


class _Watched:
    """What ``torch.save`` writes to, with the first error of the file."""

    def __init__(self, file: IO[bytes]):
        self._file = file
        self.flush = file.flush
        self.error: OSError | None = None

    def write(self, data: Any) -> int:
        try:
            return self._file.write(data)
        except OSError as error:
            self.error = self.error or error
            raise


def load(path: str | Path) -> dict[str, Any]:
    """The content of a checkpoint, tensors on the CPU; ``progress`` is a :class:`Progress`.

    What it holds is as it was written: its checksum is right (checkpoints of earlier versions have none, but those that
    every file of torch's has). All has its form but the states of the recipe and the generators, which check their own.

    Raises:
        Damaged: no such file, a damaged file, or a file that is not a checkpoint of this package.
        UserError: a checkpoint of another version.
    """
    return checked(read_tensors(path), path)


def checked(content: Any, path: str | Path) -> dict[str, Any]:
    """What :func:`load` gives of the content of the file ``path``."""
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        raise Damaged(f"{path} is not a fastgan checkpoint: a run keeps its own in checkpoint.pt")
    try:
        return _checked(content, path)
    except UserError:
        raise
    except (ValueError, TypeError, RuntimeError) as error:
        raise Damaged(f"{path} is damaged: {error}") from None


def load_latest(path: Path, previous: Path) -> tuple[dict[str, Any], str | None]:
    """The checkpoint in ``path``, or the one in ``previous`` where that is damaged; and a sentence that says so.

    Raises:
        Damaged: both are; the sentence is about ``path``.
        UserError: a checkpoint of another version.
    """
    try:
        return load(path), None
    except Damaged as damaged:
        try:
            content = load(previous)
        except UserError:
            raise damaged from None
        return content, f"{damaged}; the one before it is taken, {previous} of step {content['progress'].step}"


def _checked(content: dict[str, Any], path: str | Path) -> dict[str, Any]:
    check_form([content.get("version"), content.get("versions")], [int, dict], "its version")
    version, versions = content["version"], content["versions"]
    if version != VERSION:
        age, remedy = ("newer", "update fastgan") if version > VERSION else ("older", "go on with that one")
        raise UserError(
            f"{path} was written by fastgan {versions.get('fastgan')}, which is {age} than this one and "
            f"writes another form of checkpoint: {remedy}"
        )
    stated, fingerprint = content.pop("checksum", None), None
    if isinstance(content.get("data"), dict):
        fingerprint = content["data"].get("fingerprint")
    check_form(
        content,
        _CONTENT if fingerprint is None else _CONTENT | {"data": _DATA | {"fingerprint": str}},
        "its content",
    )
    if stated is not None and stated != checksum({name: content[name] for name in _SUMMED}):
        raise ValueError("what it holds is not what was written (its checksum differs)")
    if not is_run_description(content["description"]):
        raise ValueError("its description of the run cannot be read")
    if flatten(content["description"]).get("seed") != content["data"]["seed"]:
        raise ValueError("the seed of its data is not that of the run")
    content["progress"] = _progress(content["progress"])
    return content


def _progress(values: dict[str, Any]) -> Progress:
    check_form(values, asdict(Progress()) | {"loss_sums": dict, "loss_counts": dict, "latest": dict}, "its progress")
    for name, kind in (("loss_sums", float), ("loss_counts", int), ("latest", float)):
        check_form(values[name], {str(loss): kind for loss in values[name]}, f"its progress.{name}")
    counted = values["loss_counts"]
    least = min(values["step"], values["epoch"], values["position"], values["seconds"])
    if min([least, *(count - 1 for count in counted.values())]) < 0 or counted.keys() != values["loss_sums"].keys():
        raise ValueError(f"its progress cannot be: {values}")
    return Progress(**values)


def _on_cpu(value: Any) -> Any:
    """The same with every tensor on the CPU, as :func:`load` gives it."""
    if isinstance(value, torch.Tensor):
        return value.cpu()
    if isinstance(value, Mapping):
        return {key: _on_cpu(each) for key, each in value.items()}
    if isinstance(value, (list, tuple)):
        return type(value)(_on_cpu(each) for each in value)
    return value


def check_recipe(content: Mapping[str, Any], recipe: str, path: Path) -> None:
    """Refuse the checkpoint of another recipe."""
    if content["recipe"] != recipe:
        raise UserError(
            f"{path} is a checkpoint of {content['recipe']}, not of {recipe}: "
            f"python -m fastgan.train {content['recipe']} --resume goes on with it"
        )


def read_tensors(path: str | Path) -> Any:
    """What ``torch.save`` put into a file: tensors and plain values only, on the CPU.

    torch keeps a CRC-32 of each part of a file (not in the form it wrote before 1.6), which must be right.

    Raises:
        Damaged: no such file, not a file of torch's, a damaged one, or one that holds python objects.
    """
    path = Path(path)
    if not path.is_file():
        raise Damaged(f"{path}: no such file" if not path.exists() else f"{path} is not a file")
    with open(path, "rb") as file:  # once: another process may put a new one in its place
        zipped = file.read(2) == b"PK"
        if file.seek(0, os.SEEK_END) == 0:
            raise Damaged(f"{path} is empty")
        try:
            outline(file)
            file.seek(0)
            return torch.load(file, map_location="cpu", weights_only=True)
        except ForeignObject as error:
            raise Damaged(
                f"{path} holds python objects besides tensors ({error}), which could run any code: only files of "
                "tensors and plain values are read, such as a model's state_dict()"
            ) from None
        except Excessive as error:
            raise Damaged(f"{path} is damaged, or made to do harm: {error}") from None
        except OSError as error:
            if error.errno == errno.EIO:  # the disk cannot read it now, whatever it holds
                raise OSError(error.errno, error.strerror, str(path)) from None
        except MemoryError:
            raise
        except Exception:  # whatever a reader stumbles over in bytes that nobody wrote
            pass
        raise Damaged(_damaged(path, zipped, is_pickle(file)))


def step_of(path: Path) -> int | None:
    """The step of the checkpoint in a file; None where there is none that can be read. Reads no tensor."""
    try:
        with open(path, "rb") as file:
            step = outline(file)["progress"]["step"]
    except Exception:
        return None
    return step if isinstance(step, int) else None


def _damaged(path: Path, zipped: bool, pickled: bool) -> str:
    if zipped:
        return (
            f"{path} is damaged: it begins like a checkpoint but cannot be read to its end, or its checksums are "
            "wrong (was a copy cut short, is the disk failing?)"
        )
    if pickled:
        return f"{path} is not a checkpoint: it is a pickle that torch.save did not write"
    return f"{path} is not a checkpoint: torch cannot read it"


def versions() -> dict[str, str | None]:
    """What wrote a file."""
    from fastgan import __version__

    return {
        "fastgan": __version__,
        "torch": str(torch.__version__),
        "cuda": torch.version.cuda,
        "python": platform.python_version(),
    }
