"""Folders of images: which files count, in which order, and their pixels."""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol, TypeVar

import numpy as np
import torch
from torch import Tensor

from . import cache as caches
from .bounds import check_size, is_special
from .convert import CHANNELS, deepen
from .files import Decoded, Header, ImageError, decode, is_hidden, read_header, suffixes
from .levels import Span, tell_spans
from .links import LEFT_OUT, leads_out
from .notices import notice, some

_Result = TypeVar("_Result")


def find_images(folder: str | Path, wanted: str = "images", inside: str | Path | None = None) -> list[str]:
    """The image files of a folder and its sub-folders, as relative POSIX paths in natural order (2.png before 10.png).

    What counts is the suffix (see :func:`fastgan.data.files.suffixes`). Hidden files and folders, and those of
    operating systems, do not. ``wanted`` is what an error says that the folder should hold.

    Args:
        inside: links to folders outside of this one are not followed (default: the folder).

    Raises:
        ValueError: the folder is missing, not a folder, lies elsewhere by a link, or holds no such file.
    """
    return look_through(folder, wanted, inside)[0]


def look_through(
    folder: str | Path, wanted: str = "images", inside: str | Path | None = None
) -> tuple[list[str], Counter[str]]:
    """What :func:`find_images` gives, and how many other files of which suffix, and folders that were not looked
    into, there are."""
    folder = Path(folder)
    if not folder.is_dir():
        state = "not a folder" if folder.exists() else "missing"
        raise ValueError(f"{folder} is {state}: it should hold {wanted}")
    inside = folder if inside is None else inside
    if leads_out(folder, inside):
        raise ValueError(f"{folder} is a link to a folder outside of {inside}: --follow-links reads it")
    endings = suffixes()
    found: list[str] = []
    others: Counter[str] = Counter()
    visited: set[str] = set()

    def unreadable(error: OSError) -> None:
        others[f"folder that cannot be opened ({os.path.relpath(error.filename, folder)}: {error.strerror})"] += 1

    for where, folders, files in os.walk(folder, onerror=unreadable, followlinks=True):
        real = os.path.realpath(where)
        if real in visited:  # a link back up
            folders.clear()
            continue
        visited.add(real)
        if leads_out(real, inside):
            others[LEFT_OUT] += 1
            folders.clear()
            continue
        folders[:] = sorted(name for name in folders if not is_hidden(name))
        for name in files:
            if is_hidden(name):
                continue
            if name.lower().endswith(endings) and not is_special(os.path.join(where, name)):
                found.append((Path(where) / name).relative_to(folder).as_posix())
            else:
                others[Path(name).suffix.lower() or "without suffix"] += 1
    if not found:
        there = f" (there are {_counts(others)})" if others else ""
        raise ValueError(f"{folder} holds no image{there}: it should hold {wanted}")
    return sorted(found, key=_natural), others


def passed_over(others: Counter[str], folder: str | Path) -> str | None:
    """The line that tells of the files that :func:`look_through` left out; None where there are none."""
    if not others:
        return None
    count = others.total()
    folders = sum(number for kind, number in others.items() if kind.startswith("folder"))
    if 0 < folders < count:
        what = "files and folders"
    else:
        what = ("folder" if folders else "file") + "s" * (count > 1)
    return f"passed over {count} {what} in {folder} that no image is read from: {_counts(others)}"


@dataclass
class Listing:
    """The image files of a folder and what their headers say.

    Attributes:
        headers: by name, in natural order.
        skipped: why others could not be read, by name.
        others: how many files are no images by their suffix, by that.
    """

    folder: Path
    headers: dict[str, Header]
    skipped: dict[str, str] = field(default_factory=dict)
    others: Counter[str] = field(default_factory=Counter)

    @classmethod
    def of(
        cls,
        folder: str | Path,
        wanted: str = "images",
        limit: int | None = None,
        inside: str | Path | None = None,
    ) -> Listing:
        """All image files of a folder, or the first so many. Raises ValueError as :func:`find_images`."""
        names, others = look_through(folder, wanted, inside)
        return cls.of_names(Path(folder), names[:limit], others)

    @classmethod
    def of_names(cls, folder: Path, names: Sequence[str], others: Counter[str] | None = None) -> Listing:
        """So many files of a folder."""
        skipped: dict[str, str] = {}
        headers = _read_all(names, lambda name: read_header(folder / name), skipped)
        return cls(folder, headers, skipped, others or Counter())


class Resizing(Protocol):
    """What an :class:`ImageFolder` needs of a :class:`~fastgan.data.transforms.Transform`."""

    @property
    def wanted(self) -> str: ...
    @property
    def preprocess(self) -> str: ...
    def resized(self, width: int, height: int) -> tuple[int, int]: ...
    def check(self, width: int, height: int, name: str) -> None: ...
    def resize(self, pixels: np.ndarray) -> np.ndarray: ...


class ImageFolder:
    """The images of a folder, resized, by index.

    Opening it reads the header of every file, decodes every file once and keeps the pixels, in 16 bits if any file has
    as many, else in 8. Files that are broken are named in one notice, and left out. Where pixels are not kept a file
    may turn out broken only when it is used: it is named then, once, and the next good one takes its place.

    Args:
        folder: a folder, or the files of one that were looked through already.
        transform: its ``resize`` is applied, and its crop checked against every image.
        channels: 1 (grey), 3 (RGB), 2 or 4 (with transparency), or what all files have.
        limit: use only the first so many files.
        cache: where pixels are kept: "memory", "file", "none", or "auto", see :func:`fastgan.data.cache.choose`.
        substitute: whether another image may take the place of one that is broken; if not, its use is an error.
        range: the numbers that become black and white, see :func:`fastgan.data.files.read_pixels`.

    Raises:
        ValueError: the folder is missing or empty, every image in it is broken, or the crop is larger than an image.
    """

    def __init__(
        self,
        folder: str | Path | Listing,
        transform: Resizing,
        *,
        channels: int = 3,
        limit: int | None = None,
        cache: str = "auto",
        substitute: bool = True,
        range: Sequence[float] | None = None,
    ):
        listing = folder if isinstance(folder, Listing) else Listing.of(folder, transform.wanted, limit)
        self.folder, self.transform, self.channels, self.substitute = listing.folder, transform, channels, substitute
        self.range = range
        skipped = dict(listing.skipped)
        # With a range, pixels of 8 bits may become 16, which only decoding shows.
        self.deep = range is not None or any(header.deep for header in listing.headers.values())
        self.names: list[str] = []
        self.sizes: list[tuple[int, int]] = []
        for name, header in listing.headers.items():
            transform.check(header.width, header.height, str(self.folder / name))
            try:
                check_size(*transform.resized(header.width, header.height), channels, 1 + self.deep)
            except OSError as error:
                skipped[name] = f"{header.width}x{header.height} become {error}"
                continue
            self.names.append(name)
            self.sizes.append((header.width, header.height))
        self._pixels: Tensor | None = None
        self._starts: list[int] = []
        self._kinds: Counter[str] = Counter()
        self._broken: set[str] = set()
        total = sum(self._elements(size) for size in self.sizes) * (2 if self.deep else 1)
        where = caches.choose(total, cache)
        if where == "file":
            notice(
                f"the images of {self.folder} are decoded into a file of {total / 2**30:.1f} GiB in "
                f"{caches.folder()}, which vanishes with the run; --cache memory or none does without"
            )
        if (line := passed_over(listing.others, self.folder)) is not None:
            notice(line)
        if where != "none":
            self._decode_all(skipped, where)
        if skipped:
            reasons = [f"{name} ({reason})" for name, reason in skipped.items()]
            if not self.names:
                raise ValueError(f"{self.folder} holds no readable image: {some(reasons)}")
            count = len(listing.headers) + len(listing.skipped)
            notice(f"skipped {len(skipped)} of {count} images in {self.folder}: {some(reasons)}")
        if self._pixels is None:
            why = "as --cache none says" if cache == "none" else "which neither memory nor the disk has room for"
            notice(
                f"the images of {self.folder} ({total / 2**30:.1f} GiB) are not kept, {why}, but decoded at every "
                "use; --num-threads 4 does that ahead, in other processes"
            )
        self._tell_conversions()
        self._tell_rounding()
        several = [name for name in self.names if listing.headers[name].several]
        if several:
            notice(
                f"{len(several)} of {len(self)} images in {self.folder} hold further frames or pages, of which the "
                f"first is read: {some(several)}"
            )

    def __len__(self) -> int:
        return len(self.names)

    def path(self, index: int) -> str:
        return str(self.folder / self.names[index])

    def load(self, index: int) -> Tensor:
        """uint8 or uint16 (H, W, C) of an image after the resize. Not to be written to."""
        if self._pixels is not None:
            (width, height), start = self.transform.resized(*self.sizes[index]), self._starts[index]
            return self._pixels[start : start + self._elements(self.sizes[index])].view(height, width, self.channels)
        for step in range(len(self)):
            name = self.names[(index + step) % len(self)]
            try:
                return self._decode(name).pixels
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

    def _decode(self, name: str) -> Decoded:
        try:
            decoded = decode(self.folder / name, self.channels, self.range)
            resized = self.transform.resize(decoded.pixels.numpy())
        except MemoryError:
            raise ImageError.of(
                self.folder / name, "more than memory holds (make it smaller, or cut it into pieces)"
            ) from None
        return decoded._replace(pixels=torch.from_numpy(deepen(resized) if self.deep else resized))

    def _decode_all(self, skipped: dict[str, str], where: str) -> None:
        """Fill one buffer with all images: worker processes share it rather than copy it."""
        starts, end = {}, 0
        shapes = {name: self.transform.resized(*size)[::-1] for name, size in zip(self.names, self.sizes)}
        for name, (height, width) in shapes.items():
            starts[name], end = end, end + height * width * self.channels
        buffer = caches.buffer(end, torch.uint16 if self.deep else torch.uint8, where)

        def decode(name: str) -> tuple[str | None, Span | None]:
            pixels, kind, span = self._decode(name)
            if pixels.shape[:2] != shapes[name]:
                raise ImageError.of(self.folder / name, "its header gives another size than its pixels have")
            buffer[starts[name] : starts[name] + pixels.numel()] = pixels.reshape(-1)
            return kind, span

        told = _read_all(self.names, decode, skipped)
        self.sizes = [size for name, size in zip(self.names, self.sizes) if name in told]
        self.names = list(told)
        self._kinds.update(kind for kind, _ in told.values() if kind is not None)
        for line in tell_spans((span for _, span in told.values()), f"images in {self.folder}"):
            notice(line)
        self._starts, self._pixels = [starts[name] for name in told], buffer

    def _elements(self, size: tuple[int, int]) -> int:
        width, height = self.transform.resized(*size)
        return width * height * self.channels

    def _tell_conversions(self) -> None:
        if self._kinds:
            kinds = ", ".join(f"{count} {kind}" for kind, count in sorted(self._kinds.items()))
            notice(
                f"{sum(self._kinds.values())} of {len(self)} images in {self.folder} were converted to "
                f"{CHANNELS.get(self.channels, f'{self.channels} channels')}: {kinds}"
            )

    def _tell_rounding(self) -> None:
        if self.transform.preprocess == "none":
            count = sum(self.transform.resized(*size) != size for size in self.sizes)
            if count:
                notice(f"{count} of {len(self)} images in {self.folder} were resized to sides that are multiples of 4")


def _read_all(names: Iterable[str], read: Callable[[str], _Result], skipped: dict[str, str]) -> dict[str, _Result]:
    """``read`` every file, on several threads; those it cannot read go to ``skipped`` with the reason."""

    def attempt(name: str) -> _Result | ImageError:
        try:
            return read(name)
        except ImageError as error:
            return error

    names = list(names)
    results: dict[str, _Result] = {}
    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as threads:
        for name, result in zip(names, threads.map(attempt, names)):
            if isinstance(result, ImageError):
                skipped[name] = result.reason
            else:
                results[name] = result
    return results


def _counts(others: Counter[str]) -> str:
    return some([f"{count} {suffix}" for suffix, count in others.most_common()])


def _natural(name: str) -> tuple[list[tuple[int, int, str]], str]:
    parts = re.split(r"([0-9]+)", name.casefold())
    return [(1, int(part), "") if index % 2 else (0, 0, part) for index, part in enumerate(parts)], name
