"""Pictures that a command leaves behind: where they go, what they may not replace, and moving ones."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

from fastgan._errors import UserError
from fastgan._files import write_atomically

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

    ``save`` gets a temporary path: what it writes must not depend on the suffix.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, save)


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
