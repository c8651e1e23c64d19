"""Where the training and the test images of a labelled set lie, as download tools and competitions leave them."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable
from pathlib import Path

from .files import is_hidden, suffixes
from .links import leads_out

_KIND = r"([-_ ]?(set|data|images?|\d+))?"
_TRAINING = re.compile(rf"(?P<prefix>.+[-_ ])?train(ing)?{_KIND}", re.IGNORECASE)
_TESTING = [
    re.compile(rf"(.+[-_ ])?{name}{_KIND}", re.IGNORECASE) for name in ("test(ing)?", "val(id(ation)?)?", "dev")
]
_DOMAINS = re.compile("(train|test|val)[AB]", re.IGNORECASE)
_DEEPEST = 4  # folders that hold nothing but the next one


def find_parts(root: Path, inside: Path) -> tuple[Path, list[Path]]:
    """(the folder of the training images, the folders that may hold test images, the likelier first).

    The training images lie in train, training, train2017, ..., the test images in test, val, valid, ... beside it, in
    capitals or not; else all are training images. A folder of these names beside folders of other images is a class, if
    it holds no folders. Folders that hold nothing but one of the same name, but these parts, or but one that holds
    several folders of images, are passed. Links to folders outside of ``inside`` are not followed.
    """
    for _ in range(_DEEPEST):
        training = _training(root, inside)
        if training is not None:
            tests = [folder for name in _TESTING for folder in _folders(root, inside) if name.fullmatch(folder.name)]
            return _innermost(training, inside), [_innermost(folder, inside) for folder in tests]
        inner = _folders(root, inside)
        if (
            len(inner) != 1
            or _holds_images(root, deep=False)
            or not (
                inner[0].name.casefold() == root.resolve().name.casefold()
                or _training(inner[0], inside) is not None
                or _holds_classes(inner[0], inside)
            )
        ):
            break
        root = inner[0]
    return root, []


def check_classes(folder: Path, classes: Iterable[str]) -> None:
    """Raise ValueError where the folders of a set are the domains of an unpaired one, and no classes."""
    classes = list(classes)
    if len(classes) > 1 and all(_DOMAINS.fullmatch(name) for name in classes):
        raise ValueError(
            f"{folder} holds {' and '.join(classes[:2])}, which are domains of an unpaired set and no "
            "classes: cyclegan learns from both, and --dataroot with one of them takes its images alone"
        )


def _training(root: Path, inside: Path) -> Path | None:
    folders = _folders(root, inside)
    found = [folder for folder in folders if _TRAINING.fullmatch(folder.name)]
    for folder in sorted(found, key=lambda folder: len(folder.name)):
        if _folders(folder, inside):
            return folder
        others = [
            other
            for other in folders
            if other not in found and not any(name.fullmatch(other.name) for name in _TESTING)
        ]
        named = _TRAINING.fullmatch(folder.name)
        if named is not None and not named["prefix"] and not any(map(_holds_images, others)):
            return folder
    return None


def _innermost(folder: Path, inside: Path) -> Path:
    """Past folders that hold nothing but one of the same name."""
    for _ in range(_DEEPEST):
        inner = _folders(folder, inside)
        if len(inner) != 1 or inner[0].name.casefold() != folder.name.casefold() or _holds_images(folder, deep=False):
            break
        folder = inner[0]
    return folder


def _holds_classes(folder: Path, inside: Path) -> bool:
    """Whether a folder, or the only one in it, holds several folders of images and no images beside them."""
    for _ in range(_DEEPEST):
        inner = _folders(folder, inside)
        if _holds_images(folder, deep=False) or len(inner) != 1:
            return not _holds_images(folder, deep=False) and sum(map(_holds_images, inner)) > 1
        folder = inner[0]
    return False


def _folders(root: Path, inside: Path) -> list[Path]:
    with os.scandir(root) as entries:
        folders = [Path(entry.path) for entry in entries if not is_hidden(entry.name) and entry.is_dir()]
    return sorted(folder for folder in folders if not leads_out(folder, inside))


def _holds_images(folder: Path, deep: bool = True) -> bool:
    endings = suffixes()
    for _, folders, files in os.walk(folder):
        if any(name.lower().endswith(endings) and not is_hidden(name) for name in files):
            return True
        if not deep:
            return False
        folders[:] = [name for name in folders if not is_hidden(name)]
    return False
