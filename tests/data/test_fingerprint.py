"""Exchanged data has another fingerprint; the same data in another place has the same."""

import os
import shutil

import numpy as np
import pytest

from fastgan.data import DataOptions, open_dataset
from fastgan.data.fingerprint import PIECE, PIECES
from tests.data.common import idx_bytes, write_idx, write_images


def unaligned(root):
    write_images(root / "trainA", 4), write_images(root / "trainB", 3)


def aligned(root):
    write_images(root / "train", 4)


def classes(root):
    write_images(root / "cat", 11), write_images(root / "dog", 11)


def idx(root):
    write_idx(root, 20)


def arrays(root):
    """Files that have one size whatever they hold."""
    for side in ("trainA", "trainB"):
        (root / side).mkdir(parents=True)
        for number in range(3):
            pixels = np.random.default_rng(number).integers(0, 256, (40, 80, 3), dtype=np.uint8)
            np.save(root / side / f"{number}.npy", pixels)


def fingerprint(kind, root, **values):
    size = {"image_size": 8} if "labelled" in kind else {"load_size": 16, "crop_size": 16}
    return open_dataset(kind, DataOptions(dataroot=root and str(root), **size, **values)).fingerprint


KINDS = [
    ("unaligned", unaligned),
    ("aligned", aligned),
    ("labelled", classes),
    ("labelled", idx),
    ("unaligned", arrays),
]


@pytest.mark.parametrize(("kind", "write"), KINDS)
def test_moved_and_touched_data_is_the_same(tmp_path, kind, write):
    write(tmp_path / "one")
    before = fingerprint(kind, tmp_path / "one")
    shutil.copytree(tmp_path / "one", tmp_path / "far" / "away")
    for path in (tmp_path / "far").rglob("*.*"):
        os.utime(path, (0, 0))
    assert fingerprint(kind, tmp_path / "far" / "away") == before
    assert fingerprint(kind, tmp_path / "one", cache="none", num_threads=2) == before


@pytest.mark.parametrize(("kind", "write"), KINDS)
def test_every_exchange_is_seen(tmp_path, kind, write):
    def changed(change, number):
        root = tmp_path / str(number)
        write(root)
        files = sorted(path for path in root.rglob("*") if path.is_file())
        change(files, root)
        return fingerprint(kind, root)

    def swap(files, root):
        first, second = files[:2]
        content = first.read_bytes()
        first.write_bytes(second.read_bytes())
        second.write_bytes(content)

    def rename(files, root):
        files[0].rename(files[0].with_stem("other"))

    def remove(files, root):
        files[1].unlink()

    def another_pixel(files, root):
        if files[0].suffix == ".npy":
            pixels = np.load(files[0])
            pixels[0, 0, 0] ^= 1
            np.save(files[0], pixels)
        else:
            shutil.copy(files[2], files[0])

    def images(files, root):
        images = np.zeros((20, 6, 6), dtype=np.uint8)
        (root / "train-images-idx3-ubyte").write_bytes(idx_bytes(images))

    def labels(files, root):
        (root / "train-labels-idx1-ubyte").write_bytes(idx_bytes((np.arange(20) // 2 % 3).astype(np.uint8)))

    ways = [images, labels] if write is idx else [swap, rename, remove, another_pixel]
    found = [changed(change, number) for number, change in enumerate([lambda files, root: None, *ways])]
    assert len(set(found)) == len(found)


@pytest.mark.parametrize("side", [60, 300])
@pytest.mark.parametrize("part", ["first", "last", "middle"])
def test_what_is_seen_of_files_of_one_size(tmp_path, side, part):
    """Scans are black around what they show, and their files differ in nothing but that."""

    def scan(seed):
        pixels = np.zeros((side, side, 3), np.uint8)
        inner = slice(side // 4, -(side // 4))
        pixels[inner, inner] = np.random.default_rng(seed).integers(1, 256, pixels[inner, inner].shape)
        return pixels

    assert (scan(0).nbytes > PIECE * PIECES) == (side == 300)
    for name in ("trainA", "trainB"):
        (tmp_path / name).mkdir()
        np.save(tmp_path / name / "0.npy", scan(0))
    before = fingerprint("unaligned", tmp_path)
    pixels = scan(1 if part == "middle" else 0)
    pixels.reshape(-1)[{"first": 0, "last": -1, "middle": pixels.size // 2}[part]] ^= 1
    np.save(tmp_path / "trainB" / "0.npy", pixels)
    assert fingerprint("unaligned", tmp_path) != before


@pytest.mark.parametrize("kind", ["unaligned", "aligned", "labelled", "semi_labelled"])
def test_built_in_sets_have_one(kind):
    assert fingerprint(kind, None, max_dataset_size=100) == fingerprint(kind, None, max_dataset_size=100)
    assert fingerprint(kind, None, max_dataset_size=100) != fingerprint(kind, None, max_dataset_size=101)
