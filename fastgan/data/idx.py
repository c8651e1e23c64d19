"""IDX files, the form in which MNIST and its relatives come: a header of dimensions, then bytes. Plain or gzipped."""

from __future__ import annotations

import gzip
import math
import re
import zlib
from pathlib import Path

import numpy as np

from .files import is_hidden

PARTS = ("train", "t10k")  # how such files name the training and the test set

_UNSIGNED_BYTES = 0x08
_TYPES = {
    0x08: "unsigned bytes",
    0x09: "signed bytes",
    0x0B: "short integers",
    0x0C: "integers",
    0x0D: "floats",
    0x0E: "doubles",
}
_NAME = re.compile(r"(?P<set>.*?)(?P<part>train|t10k|test)[-_.](?P<kind>images|labels)[-_.]idx\d-ubyte(\.gz)?")
_DEEPEST = 2  # folders under a root in which tools unpack such files: torchvision in MNIST/raw


def find_idx(root: str | Path) -> dict[str, dict[str, Path]]:
    """The IDX files of a folder: {"train" or "t10k": {"images": path, "labels": path}}, as far as they are there.

    Names are those of MNIST, with what may come before them (emnist-letters-train-images-idx3-ubyte); "test" means
    "t10k". Of a file that lies there both plain and gzipped the plain one is taken. Where the folder has no such file,
    those of a folder in it are taken, or of one in that.

    Raises:
        ValueError: there are several sets.
    """
    folders, sets = [Path(root)], {}
    for _ in range(_DEEPEST + 1):
        for folder in folders:
            for path in sorted(folder.iterdir(), reverse=True):  # x.gz before x
                match = _NAME.fullmatch(path.name)
                # Some tools unpack x.gz into a folder x, that holds x.
                inner = path / path.name
                if match and (path.is_file() or inner.is_file()):
                    parts = sets.setdefault((folder, match["set"]), {})
                    part = "train" if match["part"] == "train" else "t10k"
                    parts.setdefault(part, {})[match["kind"]] = path if path.is_file() else inner
        if sets:
            break
        folders = [
            inner
            for folder in folders
            for inner in sorted(folder.iterdir())
            if inner.is_dir() and not is_hidden(inner.name)
        ]
    if len(sets) > 1:
        names = ", ".join(str(folder / name) for folder, name in sorted(sets)[:3])
        more = ", ..." if len(sets) > 3 else ""
        raise ValueError(
            f"{root} holds {len(sets)} sets of IDX files ({names}{more}): give the folder of one as "
            "--dataroot, or move its files into a folder of their own"
        )
    return next(iter(sets.values()), {})


def read_idx(path: str | Path) -> np.ndarray:
    """The array in an IDX file of unsigned bytes, as uint8; gzipped where its content says so.

    Raises:
        ValueError: not an IDX file, one of other numbers than bytes, one that ends too early or goes on too long.
        OSError: it cannot be opened.
    """
    content = Path(path).read_bytes()
    if content[:2] == b"\x1f\x8b":
        try:
            content = gzip.decompress(content)
        except (OSError, EOFError, zlib.error) as error:
            why = "it ends too early" if isinstance(error, EOFError) else "its checksum or structure is wrong"
            raise ValueError(f"{path} is damaged: {why} for a gzip file (was a copy cut short?)") from None
    if len(content) < 4 or content[:2] != b"\0\0" or content[2] not in _TYPES or content[3] == 0:
        raise ValueError(
            f"{path} is not an IDX file: it begins with {content[:4].hex(' ') or 'nothing'}, not with "
            "00 00 08 and the number of dimensions"
        )
    if content[2] != _UNSIGNED_BYTES:
        raise ValueError(f"{path} holds {_TYPES[content[2]]}: only IDX files of unsigned bytes (00 00 08) are read")
    start = 4 + 4 * content[3]
    if len(content) < start:
        raise ValueError(f"{path} is cut short: it ends within its header")
    shape = tuple(int(size) for size in np.frombuffer(content, ">u4", content[3], 4))
    wanted, there = math.prod(shape), len(content) - start
    if there != wanted:
        fault = "is cut short" if there < wanted else "is too long"
        raise ValueError(
            f"{path} {fault}: its header says {' x '.join(map(str, shape))} = {wanted} bytes and {there} follow"
        )
    return np.frombuffer(content, np.uint8, wanted, start).reshape(shape)


def read_labelled(files: dict[str, Path]) -> tuple[np.ndarray, np.ndarray]:
    """Images uint8 (N, H, W, C) and labels int64 (N,) of one set that :func:`find_idx` found.

    Images are (N, H, W) in the file, or (N, H, W, C).

    Raises:
        ValueError: one of the two files is missing or cannot be read, or their numbers of items differ.
    """
    for kind, other, wanted in (("images", "labels", "images-idx3"), ("labels", "images", "labels-idx1")):
        if kind not in files:
            there = files[other]
            missing = there.name[: there.name.index(other)] + f"{wanted}-ubyte"
            raise ValueError(
                f"{there.parent} holds {there.name} but no {kind} for it: put {missing} beside it, plain or as .gz"
            )
    images, labels = read_idx(files["images"]), read_idx(files["labels"])
    if images.ndim not in (3, 4):
        raise ValueError(
            f"{files['images']} holds {images.ndim} dimensions: images have 3 (number, height, width), "
            "or 4 with channels last"
        )
    if labels.ndim != 1:
        raise ValueError(f"{files['labels']} holds {labels.ndim} dimensions: labels have one")
    if len(images) != len(labels):
        raise ValueError(
            f"{files['images']} holds {len(images)} images and {files['labels'].name} {len(labels)} "
            "labels: they belong to different sets"
        )
    if images.size == 0:
        raise ValueError(f"{files['images']} holds no image")
    return images.reshape(*images.shape[:3], -1), labels.astype(np.int64)
