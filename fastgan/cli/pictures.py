"""Pictures that a command leaves behind: where they go, what they may not replace, and moving ones."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import IO, Any

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

from fastgan._errors import UserError
from fastgan._files import unfinished, write_atomically

FRAME_MILLISECONDS = 120


def beside(checkpoint: str | Path, name: str) -> Path:
    """``name`` in the run folder that a checkpoint is, or lies in."""
    checkpoint = Path(checkpoint)
    return (checkpoint if checkpoint.is_dir() else checkpoint.parent) / name


def check_free(paths: Iterable[Path], overwrite: bool) -> None:
    """UserError where a path is taken, unless it may be overwritten."""
    taken = [path for path in paths if path.exists()] if not overwrite else []
    if taken:
        more = f" and {len(taken) - 1} more" if len(taken) > 1 else ""
        raise UserError(f"{taken[0]}{more} would be overwritten: give another --output, or --overwrite")


def check_suffix(path: Path, suffix: str, flag: str) -> Path:
    """The path itself; UserError where its name ends in something else than ``suffix``."""
    if path.suffix.lower() != suffix:
        raise UserError(f"{flag} {path}: the file is written as {suffix[1:].upper()}, so its name ends in {suffix}")
    return path


def write(path: Path, save: Callable[[Path], object]) -> None:
    """Let ``save`` write a file, atomically, in a folder that is made where it is missing.

    ``save`` gets a temporary path of the same suffix.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, save)


class Results:
    """Files that a command writes into a folder and its sub-folders, each atomically, until it calls :meth:`end`.

    Until then the file ``.unfinished`` in the folder lists them: those of a call that was killed may be replaced.

    Attributes:
        left: what an earlier call has written that did not come to its end, and does not run any more.
    """

    def __init__(self, folder: Path):
        self._folder, self._list = folder, folder / ".unfinished"
        self._file: IO[str] | None = None
        self.left = self._left()

    def write(self, path: Path, save: Callable[[Path], object]) -> None:
        """Let ``save`` write a file; it gets a temporary path of the same suffix."""
        if self._file is None:
            self._folder.mkdir(parents=True, exist_ok=True)
            self._file = open(self._list, "a", encoding="ascii", buffering=1)  # noqa: SIM115
            _try_lock(self._file)
        self._file.write(json.dumps(path.relative_to(self._folder).as_posix()) + "\n")
        write(path, save)

    def end(self) -> None:
        """All are written."""
        if self._file is not None:
            self._file.close()
        if self._file is not None or self.left:
            self._list.unlink(missing_ok=True)

    def _left(self) -> set[Path]:
        try:
            with open(self._list, encoding="ascii") as file:
                if not _try_lock(file):
                    return set()
                lines = file.read().splitlines()
        except (OSError, ValueError):
            return set()
        left = set()
        for line in lines:
            with contextlib.suppress(ValueError, TypeError):  # a line that was cut off
                relative = Path(json.loads(line))
                if not relative.is_absolute() and ".." not in relative.parts:
                    left.add(self._folder / relative)
        for parent in {path.parent for path in left}:
            for half in unfinished(parent, [path.name for path in left if path.parent == parent]):
                half.unlink(missing_ok=True)
        return left


def _try_lock(file: IO[str]) -> bool:
    """Whether no other process holds the lock of a file, which this one has then; True where there are no locks."""
    if fcntl is None:
        return True
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:
        return True
    return True


def save_gif(images: Sequence[Any], draw: Callable[[Any], Any], path: Path) -> None:
    """Write images as a GIF that goes there and back for ever; ``draw`` makes a frame (Pillow's) of an image, in its
    turn."""
    frames = (draw(image).convert("RGB") for image in (*images, *images[-2:0:-1]))
    write(
        path,
        lambda temporary: next(frames).save(
            temporary, format="GIF", save_all=True, append_images=frames, duration=FRAME_MILLISECONDS, loop=0
        ),
    )
