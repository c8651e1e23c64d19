"""A data set that lies on a GPU as a whole, in 8 bits, and batches of its items that are cut out and turned there."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import default_collate

from fastgan._upload import upload

from .dataset import ImageDataset, Key, Source
from .images import to_tensor
from .transforms import Cut

SHARE = 4  # of a GPU's free memory, images take one part in so many at most


class ResidentDataset:
    """All images of a data set on a device, as they are before crop and flip.

    What is random in an item is drawn on the host as ever, by (seed, epoch, index): a few numbers for each image, which
    reach the device without anybody waiting.

    Args:
        device: a GPU; any other works as well.

    Raises:
        ValueError: images differ in size, or have 16 bits.
    """

    def __init__(self, dataset: ImageDataset, device: torch.device):
        self.dataset, self.device = dataset, device
        self._pixels = {id(source): _stack(source, device) for source in dataset.sources}

    def batch(self, keys: Sequence[Key]) -> dict[str, Any]:
        """What collating ``dataset[key]`` of every key gives, images (N, C, h, w) float32 on the device, channels_last.

        Equal to the last bit on a CPU; a GPU may divide with another last bit.
        """
        items = [self.dataset.picks(key) for key in keys]
        about = default_collate([self.dataset.about(picks) for picks in items])
        images = {name: self._cut([picks[name] for picks in items]) for name in items[0]}
        return images | {
            name: upload(value, self.device) if isinstance(value, Tensor) else value for name, value in about.items()
        }

    def _cut(self, picks: Sequence[Any]) -> Tensor:
        pixels = self._pixels[id(picks[0].source)]
        _, height, width, _ = pixels.shape
        transform = self.dataset.transform
        cuts = [
            Cut(0, 0, width, height, False)
            if transform is None or pick.generator is None
            else transform.place(width, height, pick.generator)
            for pick in picks
        ]
        places = torch.tensor([(pick.index, cut.left, cut.top, cut.mirrored) for pick, cut in zip(picks, cuts)])
        return cut_out(pixels, upload(places, self.device), cuts[0].width, cuts[0].height)


def cut_out(pixels: Tensor, places: Tensor, width: int, height: int) -> Tensor:
    """Parts of images, one for each place: (N, C, height, width) float32 in [-1, 1], channels_last.

    Args:
        pixels: uint8 (M, H, W, C).
        places: int64 (N, 4): which image, the left and the top pixel, and 1 where the part is turned left to right.
    """
    index, left, top, mirrored = places[:, :, None].unbind(1)
    row, column = (torch.arange(length, device=pixels.device) for length in (height, width))
    rows = top + row
    columns = left + torch.where(mirrored == 1, width - 1 - column, column)
    return to_tensor(pixels[index[:, :, None], rows[:, :, None], columns[:, None]])


def open_resident(dataset: ImageDataset, device: torch.device, tell: Callable[[str], None]) -> ResidentDataset | None:
    """The data set on a GPU where all of it fits into a quarter of the memory that is free there; None where it does
    not, or cannot be, or there is no GPU. ``tell`` is told which, in a few words."""
    if device.type != "cuda":
        return None
    size = sum(len(source) * source.load(0).numel() for source in dataset.sources)
    free = torch.cuda.mem_get_info(device)[0]
    if size > free // SHARE:
        tell(f"stay on the host: they take {size / 2**30:.1f} GiB, and {free / 2**30:.1f} GiB are free on the GPU")
        return None
    try:
        resident = ResidentDataset(dataset, device)
    except ValueError as error:
        tell(f"stay on the host: {error}")
        return None
    tell(f"all on the GPU, {size / 2**30:.2f} GiB")
    return resident


def _stack(source: Source, device: torch.device) -> Tensor:
    """All images of a source: uint8 (M, H, W, C) on the device."""
    shape = source.load(0).shape
    pixels = torch.empty(len(source), *shape, dtype=torch.uint8, device=device)

    def put(index: int) -> None:
        image = source.load(index)
        if image.dtype != torch.uint8:
            raise ValueError("images have 16 bits")
        if image.shape != shape:
            raise ValueError("images differ in size")
        pixels[index].copy_(image)

    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as threads:
        for _ in threads.map(put, range(len(source))):
            pass
    return pixels
