"""The folder of a run: what is in it, and when it may be written to."""

from __future__ import annotations

import json
import os
import weakref
from pathlib import Path
from typing import Any

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

from fastgan._errors import UserError
from fastgan._files import unfinished
from fastgan.training.settings import is_run_description


class RunFolder:
    """``checkpoints_dir/name``. Making the object touches nothing.

    Raises:
        UserError: the name is empty or leads out of ``checkpoints_dir``.
    """

    def __init__(self, checkpoints_dir: str | Path, name: str):
        relative = Path(name)
        if not name.strip() or relative.is_absolute() or ".." in relative.parts or relative == Path("."):
            raise UserError(f"--name {name!r} is not a name for a folder inside {checkpoints_dir}")
        self.name = name
        self.path = Path(checkpoints_dir) / relative
        self.options = self.path / "options.json"
        self.losses = self.path / "losses.jsonl"
        self.samples = self.path / "samples"
        self.checkpoint = self.path / "checkpoint.pt"
        self.previous = self.path / "checkpoint.previous.pt"
        self.damaged = self.path / "checkpoint.damaged.pt"
        self.networks = self.path / "networks.safetensors"
        self.metrics = self.path / "metrics.json"
        self._claimed = False

    def description(self) -> dict[str, Any] | None:
        """The run description in options.json, or None when the folder is not one of ours."""
        try:
            value = json.loads(self.options.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return None
        return value if is_run_description(value) else None

    def check_new(self, overwrite: bool) -> None:
        """Refuse to start a run here if that would touch what somebody else, or another run, has written.

        A run of ours that never made a step holds nothing to be kept.
        """
        if not self.path.exists():
            return
        if not self.path.is_dir():
            raise UserError(f"{self.path} is not a folder: choose another --name")
        if not any(self.path.iterdir()):
            return
        if self.description() is None:
            raise UserError(
                f"{self.path} exists and is not a run of ours (it has no options.json that says so): "
                "choose another --name"
            )
        if not overwrite and (self._saved() or _size(self.losses) > 0):
            raise UserError(
                f"{self.path} already holds a run: go on with it (--resume), choose another --name, "
                "or replace it (--overwrite)"
            )

    def claim(self) -> None:
        """Keep other processes from training in the folder, which exists, as long as this object lives.

        UserError if one trains there. Where the system or the file system has no locks, nobody is kept out.
        """
        if fcntl is None or self._claimed:
            return
        try:
            descriptor = os.open(self.path, os.O_RDONLY)
        except OSError:
            return
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(descriptor)
            raise UserError(
                f"another process is training in {self.path}: wait for its end, or choose another --name for a new run"
            ) from None
        except OSError:
            pass
        else:
            own = (self.checkpoint, self.previous, self.networks, self.options, self.losses, self.metrics)
            halves = unfinished(self.path, [path.name for path in own]) + unfinished(self.samples)
            for half in halves:  # of a process that was killed while it wrote
                half.unlink(missing_ok=True)
        self._claimed = True
        _held.add(descriptor)
        weakref.finalize(self, _let_go, descriptor)

    def start(self, overwrite: bool = True) -> None:
        """Make the folder for a new run, and claim it; files of an earlier run of ours go, others that lie there stay.

        UserError, with ``overwrite`` off, where a run has come there since :meth:`check_new`.
        """
        try:
            self.path.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UserError(f"cannot make the folder {self.path}: {error.strerror}") from None
        self.claim()
        self.check_new(overwrite)
        for path in (
            self.checkpoint,
            self.previous,
            self.damaged,
            self.networks,
            self.metrics,
            self.losses,
            *self.samples.glob("step_*.png"),
        ):
            path.unlink(missing_ok=True)
        self.samples.mkdir(exist_ok=True)

    def check_resume(self) -> None:
        """Refuse to resume where there is no run of ours, or none that was saved."""
        if not self.path.is_dir() or (self.description() is None and not self._saved()):
            raise UserError(f"--resume: there is no run in {self.path}; --name and --checkpoints-dir say where it is")
        if not self._saved():
            raise UserError(
                f"--resume: the run in {self.path} ended before its first checkpoint; start it again with --overwrite"
            )

    def take_previous(self) -> None:
        """Put the checkpoint before the newest in its place, and what lies there aside, as checkpoint.damaged.pt."""
        if self.checkpoint.exists():
            os.replace(self.checkpoint, self.damaged)
        os.replace(self.previous, self.checkpoint)

    def _saved(self) -> bool:
        return self.checkpoint.is_file() or self.previous.is_file()


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


_held: set[int] = set()  # descriptors by which this process holds folders


def _let_go(descriptor: int) -> None:
    if descriptor in _held:
        _held.remove(descriptor)
        os.close(descriptor)


def _let_go_of_all() -> None:
    for descriptor in list(_held):
        _let_go(descriptor)


if hasattr(os, "register_at_fork"):
    # A folder is held until the last process has closed the descriptor: those that load images must not keep it.
    os.register_at_fork(after_in_child=_let_go_of_all)
