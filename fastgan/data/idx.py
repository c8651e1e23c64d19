"""IDX files, the form in which MNIST and its relatives come: a header of dimensions, then bytes. Plain or gzipped."""

from __future__ import annotations

import gzip
import math
import os
import re
import zlib
from pathlib import Path
from typing import IO

import numpy as np

from .bounds import check_ends
from .files import is_hidden
from .links import leads_out

MOST_UNPACKED = 2**30  # bytes of a gzipped file
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
_GZIP = b"\x1f\x8b"
_MOST_DIMENSIONS = 4
_AT_ONCE = 2**20  # bytes
_NAME = re.compile(r"(?P<set>.*?)(?P<part>train|t10k|test)[-_.](?P<kind>images|labels)[-_.]idx\d-ubyte(\.gz)?")
_DEEPEST = 2  # folders under a root in which tools unpack such files: torchvision in MNIST/raw


def find_idx(root: str | Path, inside: str | Path | None = None) -> dict[str, dict[str, Path]]:
    """The IDX files of a folder: {"train" or "t10k": {"images": path, "labels": path}}, as far as they are there.

    Names are those of MNIST, with what may come before them (emnist-letters-train-images-idx3-ubyte); "test" means
    "t10k". Of a file that lies there both plain and gzipped the plain one is taken. Where the folder has no such file,
    those of a folder in it are taken, or of one in that. Links to folders outside of ``inside`` (default: the folder)
    are not followed.

    Raises:
        ValueError: there are several sets.
    """
    folders: list[Path] = [Path(root)]
    sets: dict[tuple[Path, str], dict[str, dict[str, Path]]] = {}
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
            if inner.is_dir() and not is_hidden(inner.name) and not leads_out(inner, inside or root)
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
        ValueError: not an IDX file, one of other numbers than bytes or of more than four dimensions, one that ends too
            early or goes on too long, or that unpacks to more than ``MOST_UNPACKED`` bytes.
        OSError: it cannot be opened, or is a pipe or a device.
    """
    check_ends(path)
    with open(path, "rb") as file:
        packed = file.read(2) == _GZIP
        file.seek(0)
        try:
            return _read(str(path), gzip.GzipFile(fileobj=file) if packed else file, packed)
        except (gzip.BadGzipFile, EOFError, zlib.error) as error:
            why = "it ends too early" if isinstance(error, EOFError) else "its checksum or structure is wrong"
            raise ValueError(f"{path} is damaged: {why} for a gzip file (was a copy cut short?)") from None


def _read(path: str, file: IO[bytes] | gzip.GzipFile, packed: bool) -> np.ndarray:
    start = file.read(4)
    if len(start) < 4 or start[:2] != b"\0\0" or start[2] not in _TYPES or not 1 <= start[3] <= _MOST_DIMENSIONS:
        raise ValueError(
            f"{path} is not an IDX file: it begins with {start.hex(' ') or 'nothing'}, not with "
            "00 00 08 and the number of dimensions"
        )
    if start[2] != _UNSIGNED_BYTES:
        raise ValueError(f"{path} holds {_TYPES[start[2]]}: only IDX files of unsigned bytes (00 00 08) are read")
    sizes = file.read(4 * start[3])
    if len(sizes) < 4 * start[3]:
        raise ValueError(f"{path} is cut short: it ends within its header")
    shape = tuple(int(size) for size in np.frombuffer(sizes, ">u4"))
    wanted = math.prod(shape)
    if math.prod(max(1, size) for size in shape) >= 2**62:
        raise ValueError(f"{path} is damaged: its header says {' x '.join(map(str, shape))} bytes")
    if packed and wanted > MOST_UNPACKED:
        raise ValueError(
            f"{path} unpacks to {wanted / 2**30:,.1f} GiB, and at most {MOST_UNPACKED / 2**30:.0f} GiB are unpacked "
            "here: unpack it with gunzip"
        )
    there = None if packed else os.fstat(file.fileno()).st_size - file.tell()
    content = np.zeros(0, np.uint8)
    if there is None or there == wanted:
        content = np.empty(wanted, np.uint8)
        there, more = _fill(file, content), bool(file.read(1))  # at the end, gzip compares its checksum
    else:
        more = there > wanted
    if there != wanted or more:
        fault = "is too long" if more else "is cut short"
        follow = "more" if packed and more else there
        raise ValueError(
            f"{path} {fault}: its header says {' x '.join(map(str, shape))} = {wanted} bytes and {follow} follow"
        )
    return content.reshape(shape)


def _fill(file: IO[bytes] | gzip.GzipFile, content: np.ndarray) -> int:
    """Read into ``content``, as far as the file goes. Gives how far."""
    done, view = 0, content.data
    while done < len(content) and (part := file.read(min(_AT_ONCE, len(content) - done))):
        view[done : done + len(part)] = part
        done += len(part)
    return done


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
