"""Folders of images: which files count, in which order, and their pixels."""

from __future__ import annotations

import os
import re
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Callable, Iterable, TypeVar

import torch
from torch import Tensor

from . import cache as caches
from .convert import CHANNELS, deepen
from .files import SUFFIXES, ImageError, read_header, read_pixels
from .notices import notice, some
from .transforms import Transform

_Result = TypeVar("_Result")


def find_images(folder: str | Path, wanted: str = "images") -> list[str]:
    """The image files of a folder and its sub-folders, as relative POSIX paths in natural order (2.png before 10.png).

    What counts is the suffix (see ``files.SUFFIXES``). Hidden files and folders do not. ``wanted`` is what an error says
    that the folder should hold.

    Raises:
        ValueError: the folder is missing, not a folder, or holds no such file.
    """
    folder = Path(folder)
    if not folder.is_dir():
        state = "not a folder" if folder.exists() else "missing"
        raise ValueError(f"{folder} is {state}: it should hold {wanted}")
    found, visited = [], set()
    for where, folders, files in os.walk(folder, followlinks=True):
        real = os.path.realpath(where)
        if real in visited:  # a link back up
            folders.clear()
            continue
        visited.add(real)
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        found += [(Path(where) / name).relative_to(folder).as_posix() for name in files
                  if not name.startswith(".") and name.lower().endswith(SUFFIXES)]
    if not found:
        raise ValueError(f"{folder} holds no image (looked for {', '.join(SUFFIXES)}, in sub-folders too)")
    return sorted(found, key=_natural)


class ImageFolder:
    """The images of a folder, resized, by index.

    Opening it reads the header of every file, decodes every file once and keeps the pixels, in 16 bits if any file has
    as many, else in 8. Files that are broken are named in one notice, and left out. Where pixels are not kept a file
    may turn out broken only when it is used: it is named then, once, and the next good one takes its place.

    Args:
        transform: its ``resize`` is applied, and its crop checked against every image.
        channels: 1 (grey), 3 (RGB), 2 or 4 (with transparency), or what all files have.
        limit: use only the first so many files.
        cache: where pixels are kept: "memory", "file", "none", or "auto", see :func:`fastgan.data.cache.choose`.
        substitute: whether another image may take the place of one that is broken; if not, its use is an error.

    Raises:
        ValueError: the folder is missing or empty, every image in it is broken, or the crop is larger than an image.
    """

    def __init__(self, folder: str | Path, transform: Transform, *, channels: int = 3, limit: int | None = None,
                 cache: str = "auto", substitute: bool = True):
        self.folder, self.transform, self.channels, self.substitute = Path(folder), transform, channels, substitute
        files = find_images(self.folder, transform.wanted)[:limit]
        skipped: dict[str, str] = {}
        headers = self._read(files, lambda name: read_header(self.folder / name), skipped)
        for name, header in headers.items():
            transform.check(header.width, header.height, str(self.folder / name))

        self.names, self.sizes = list(headers), [(header.width, header.height) for header in headers.values()]
        self.deep = any(header.deep for header in headers.values())
        self._pixels, self._kinds, self._broken = None, Counter(), set()
        total = sum(self._elements(size) for size in self.sizes) * (2 if self.deep else 1)
        where = caches.choose(total, cache)
        if where == "file":
            notice(f"the images of {self.folder} are decoded into a file of {total / 2 ** 30:.1f} GiB in "
                   f"{caches.folder()}, which vanishes with the run; --cache memory or none does without")
        if where != "none":
            self._decode_all(skipped, where)
        if skipped:
            reasons = [f"{name} ({reason})" for name, reason in skipped.items()]
            if not self.names:
                raise ValueError(f"{self.folder} holds no readable image: {some(reasons)}")
            notice(f"skipped {len(skipped)} of {len(files)} images in {self.folder}: {some(reasons)}")
        if self._pixels is None:
            why = "as --cache none says" if cache == "none" else "which neither memory nor the disk has room for"
            notice(f"the images of {self.folder} ({total / 2 ** 30:.1f} GiB) are not kept, {why}, but decoded at every "
                   "use; --num-threads 4 does that ahead, in other processes")
        self._tell_conversions()
        self._tell_rounding()

    def __len__(self) -> int:
        return len(self.names)

    def path(self, index: int) -> str:
        return str(self.folder / self.names[index])

    def load(self, index: int) -> Tensor:
        """uint8 or uint16 (H, W, C) of an image after the resize. Not to be written to."""
        if self._pixels is not None:
            (width, height), start = self.transform.resized(*self.sizes[index]), self._starts[index]
            return self._pixels[start:start + self._elements(self.sizes[index])].view(height, width, self.channels)
        for step in range(len(self)):
            name = self.names[(index + step) % len(self)]
            try:
                return self._decode(name)[0]
            except ImageError as error:
                if not self.substitute:
                    raise
                if name not in self._broken:
                    self._broken.add(name)
                    notice(f"{error}; the image after it takes its place")
        raise ValueError(f"{self.folder} holds no readable image")

    def keep(self, indices: Iterable[int]) -> None:
        """Forget all images but these."""
        indices = list(indices)
        self.names, self.sizes = [self.names[index] for index in indices], [self.sizes[index] for index in indices]
        if self._pixels is not None:
            self._starts = [self._starts[index] for index in indices]

    def _decode(self, name: str) -> tuple[Tensor, str | None]:
        pixels, kind = read_pixels(self.folder / name, self.channels)
        resized = self.transform.resize(pixels.numpy())
        return torch.from_numpy(deepen(resized) if self.deep else resized), kind

    def _decode_all(self, skipped: dict[str, str], where: str) -> None:
        """Fill one buffer with all images: worker processes share it rather than copy it."""
        expected = {name: self._elements(size) for name, size in zip(self.names, self.sizes)}
        starts, end = {}, 0
        for name in self.names:
            starts[name], end = end, end + expected[name]
        buffer = caches.buffer(end, torch.uint16 if self.deep else torch.uint8, where)

        def decode(name: str) -> str | None:
            pixels, kind = self._decode(name)
            if pixels.numel() != expected[name]:
                raise ImageError(f"{self.folder / name}: its header gives another size than its pixels have")
            buffer[starts[name]:starts[name] + expected[name]] = pixels.reshape(-1)
            return kind

        kinds = self._read(self.names, decode, skipped)
        self.sizes = [size for name, size in zip(self.names, self.sizes) if name in kinds]
        self.names = list(kinds)
        self._kinds.update(kind for kind in kinds.values() if kind is not None)
        self._starts, self._pixels = [starts[name] for name in kinds], buffer

    def _read(self, names: Iterable[str], read: Callable[[str], _Result],
              skipped: dict[str, str]) -> dict[str, _Result]:
        """``read`` every file, on several threads; those it cannot read go to ``skipped`` with the reason."""

        def attempt(name: str) -> tuple[str, _Result | None, ImageError | None]:
            try:
                return name, read(name), None
            except ImageError as error:
                return name, None, error

        results = {}
        with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as threads:
            for name, result, error in threads.map(attempt, names):
                if error is None:
                    results[name] = result
                else:
                    skipped[name] = str(error).removeprefix(f"{self.folder / name}: ")
        return results

    def _elements(self, size: tuple[int, int]) -> int:
        width, height = self.transform.resized(*size)
        return width * height * self.channels

    def _tell_conversions(self) -> None:
        if self._kinds:
            kinds = ", ".join(f"{count} {kind}" for kind, count in sorted(self._kinds.items()))
            notice(f"{sum(self._kinds.values())} of {len(self)} images in {self.folder} were converted to "
                   f"{CHANNELS.get(self.channels, f'{self.channels} channels')}: {kinds}")

    def _tell_rounding(self) -> None:
        if self.transform.preprocess == "none":
            count = sum(self.transform.resized(*size) != size for size in self.sizes)
            if count:
                notice(f"{count} of {len(self)} images in {self.folder} were resized to sides that are multiples of 4")


def _natural(name: str) -> tuple[list[tuple[int, int, str]], str]:
    parts = re.split(r"([0-9]+)", name.casefold())
    return [(1, int(part), "") if index % 2 else (0, 0, part) for index, part in enumerate(parts)], name
