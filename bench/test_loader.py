"""Images per second of our data sets and loader, against decoding at every use as the published code does it.

The step needs so many: ``python -m bench.report`` sets the two side by side where both are in its records.
"""

from __future__ import annotations

import os
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset

from fastgan.data import DataOptions, open_dataset
from fastgan.data.synthetic import shapes
from fastgan.training.data_order import BatchKeys
from fastgan.training.workers import loader

from .measure import Clock, Runner, host_clock

LOAD, CROP, PHOTO = 286, 256, 256
PHOTOS = 16  # of each domain
WORKERS = (0, min(2, os.cpu_count() or 1))
# Batches in a sample: a worker has two ready when the clock starts, a twentieth at most.
BATCHES = 40 * max(1, *WORKERS)


class Decoding(Dataset):
    """Pairs of photos, decoded, resized, cropped and mirrored at every use."""

    def __init__(self, folder: Path):
        self.A, self.B = (sorted((folder / name).iterdir()) for name in ("trainA", "trainB"))

    def __len__(self) -> int:
        return len(self.A)

    def __getitem__(self, key: tuple[int, int]) -> dict[str, Tensor]:
        index = key[1]
        return {"A": self._image(self.A[index]), "B": self._image(self.B[random.randrange(len(self.B))])}

    def _image(self, path: Path) -> Tensor:
        image = Image.open(path).convert("RGB").resize((LOAD, LOAD), Image.Resampling.BICUBIC)
        left, top = random.randint(0, LOAD - CROP), random.randint(0, LOAD - CROP)
        image = image.crop((left, top, left + CROP, top + CROP))
        if random.random() < 0.5:
            image = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
        return torch.from_numpy(np.array(image)).permute(2, 0, 1).float().div(127.5).sub(1).contiguous()


class InMemory(Dataset):
    """Small grey images that are in memory as pixels, each made a tensor at its use."""

    def __init__(self, pixels: Tensor, labels: Tensor):
        self.pixels, self.labels = pixels, labels

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, key: tuple[int, int]) -> dict[str, Tensor]:
        return {"image": self.pixels[key[1]].float().div(127.5).sub(1), "label": self.labels[key[1]]}


class LoaderCase:
    """Batches as a recipe gets them, from a plain data set and from ours, with and without workers."""

    least_rounds = 5
    warm_up_rounds = 1
    clock: Clock = staticmethod(host_clock)

    def __init__(self, feeds: str, variant: str, plain: Dataset, ours: Dataset, count: int, images: tuple[str, ...]):
        self.feeds, self.variant, self.count, self.images = feeds, variant, count, images
        self.sets = {"eager": plain, "ours": ours}
        self.shape: tuple[int, ...] = ()

    def _batches(self, who: str, workers: int) -> Iterator[dict[str, Any]]:
        dataset = self.sets[who]
        return loader(dataset, BatchKeys(len(dataset), self.count, seed=0, drop_last=True), workers)

    def describe(self) -> dict[str, Any]:
        """The case's entry in a record, without its times."""
        return {
            "op": "loader", "variant": self.variant, "shape": "x".join(map(str, self.shape)), "dtype": "",
            "direction": "load", "bytes": 0, "flops": 0, "backend": {"name": "", "passed_over": {}}, "deviation": {},
            "feeds": self.feeds, "batches": BATCHES, "images": BATCHES * self.count * len(self.images),
        }  # fmt: skip

    def check(self) -> None:
        """AssertionError unless all give batches of one shape in [-1, 1], and ours the same ones whoever loads them."""
        first: dict[str, list[dict[str, Any]]] = {}
        for who in self.sets:
            for workers in WORKERS:
                batches = self._batches(who, workers)
                first[f"{who} {workers}"] = [next(batches) for _ in range(3)]
        tensors = [batch[name] for found in first.values() for batch in found for name in self.images]
        self.shape = tuple(tensors[0].shape)
        assert all(t.shape == self.shape and t.dtype == torch.float32 and t.abs().max() <= 1 for t in tensors)
        for one, other in zip(first[f"ours {WORKERS[0]}"], first[f"ours {WORKERS[-1]}"]):
            assert all(torch.equal(one[name], other[name]) for name in self.images), "workers load other images"

    def runners(self) -> dict[str, Runner]:
        return {f"{who} {workers} workers": self._runner(who, workers) for who in self.sets for workers in WORKERS}

    def _runner(self, who: str, workers: int) -> Runner:
        batches = self._batches(who, workers)

        def run(number: int) -> None:
            for _ in range(BATCHES):
                next(batches)

        return run

    def speedups(self, timings: dict[str, dict]) -> dict[str, dict[str, float]]:
        return {}


@pytest.fixture(scope="module")
def photos(tmp_path_factory) -> Path:
    """Folders trainA and trainB of JPEG files, drawn scenes with a grain like that of photos."""
    folder, grain = tmp_path_factory.mktemp("photos"), np.random.default_rng(0)
    for name in "AB":
        (folder / f"train{name}").mkdir()
        for index in range(PHOTOS):
            pixels = shapes.render(shapes.scene(f"bench {index}"), name, PHOTO).astype(np.int16)
            pixels += grain.integers(-12, 13, pixels.shape, dtype=np.int16)
            image = Image.fromarray(pixels.clip(0, 255).astype(np.uint8))
            image.save(folder / f"train{name}" / f"{index}.jpg", quality=90)
    return folder


@pytest.mark.parametrize("count", [1, 4], ids="batch{}".format)
def test_loader_of_photos(compare, photos, count):
    options = DataOptions(dataroot=str(photos), load_size=LOAD, crop_size=CROP, batch_size=count)
    ours = open_dataset("unaligned", options)
    what = f"JPEG {PHOTO}x{PHOTO}, resized to {LOAD}, cropped to {CROP}"
    compare(LoaderCase("cyclegan", what, Decoding(photos), ours, count, ("A", "B")))


def test_loader_of_digits(compare):
    ours = open_dataset("labelled", DataOptions(batch_size=128))
    pixels = (127.5 * (ours.images() + 1)).round().to(torch.uint8)
    compare(LoaderCase("dcgan", "drawn digits", InMemory(pixels, ours.labels), ours, 128, ("image",)))
