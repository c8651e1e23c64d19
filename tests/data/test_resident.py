"""A data set that lies on a device gives the items that it gives one by one."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.utils.data import default_collate

from fastgan.data import DataOptions, ResidentDataset, open_dataset, open_resident, to_tensor
from fastgan.data.folders import ImageFolder
from fastgan.data.resident import cut_out

from .common import picture, write_idx, write_images

CPU = torch.device("cpu")
KEYS = [[(0, 4), (0, 1), (0, 2)], [(1, 4), (1, 0)], [(7, 3)]]
KINDS = ("unaligned", "aligned", "labelled", "semi_labelled")


def assert_same_batches(dataset, keys=KEYS):
    resident = ResidentDataset(dataset, CPU)
    for batch_keys in keys:
        expected, batch = default_collate([dataset[key] for key in batch_keys]), resident.batch(batch_keys)
        assert list(batch) == list(expected)
        for name, value in expected.items():
            if isinstance(value, torch.Tensor):
                assert torch.equal(batch[name], value) and batch[name].dtype == value.dtype, name
                if value.dim() == 4:
                    assert batch[name].is_contiguous(memory_format=torch.channels_last)
            else:
                assert batch[name] == value


@pytest.mark.parametrize("kind", KINDS)
def test_built_in_sets(kind):
    options = DataOptions(load_size=20, crop_size=16, max_dataset_size=30, n_labels=10)
    assert_same_batches(open_dataset(kind, options, seed=3))


@pytest.mark.parametrize(
    "values",
    [
        dict(preprocess="resize_and_crop"),
        dict(preprocess="crop"),
        dict(preprocess="none"),
        dict(flip=False),
        dict(preprocess="scale_width"),
        dict(direction="BtoA", input_nc=1),
        dict(serial_batches=True),
    ],
    ids=lambda values: "-".join(map(str, values.values())),
)
def test_folders(tmp_path, values):
    write_images(tmp_path / "trainA", 5)
    write_images(tmp_path / "trainB", 3, (30, 30))
    options = DataOptions(dataroot=str(tmp_path), load_size=20, crop_size=16, **values)
    assert_same_batches(open_dataset("unaligned", options))


def test_images_that_are_decoded_at_every_use_are_decoded_once(tmp_path, monkeypatch):
    write_images(tmp_path / "trainA", 5)
    write_images(tmp_path / "trainB", 5)
    dataset = open_dataset("unaligned", DataOptions(dataroot=str(tmp_path), load_size=20, crop_size=16, cache="none"))
    resident = ResidentDataset(dataset, CPU)
    expected = dataset[2, 3]
    monkeypatch.setattr(ImageFolder, "_decode", None)
    assert torch.equal(resident.batch([(2, 3)])["B"][0], expected["B"])


def test_labelled_files(tmp_path):
    assert_same_batches(open_dataset("labelled", DataOptions(dataroot=str(write_idx(tmp_path, 12)))))


def test_what_cannot_be_resident(tmp_path):
    write_images(tmp_path / "trainA", 2)
    write_images(tmp_path / "trainB", 2)
    options = DataOptions(dataroot=str(tmp_path), preprocess="none", crop_size=16)
    picture((24, 40)).save(tmp_path / "trainA" / "2.png")
    with pytest.raises(ValueError, match="images differ in size"):
        ResidentDataset(open_dataset("unaligned", options), CPU)
    np.save(tmp_path / "trainB" / "deep.npy", np.zeros((20, 24, 3), np.uint16))
    (tmp_path / "trainA" / "2.png").unlink()
    with pytest.raises(ValueError, match="16 bits"):
        ResidentDataset(open_dataset("unaligned", options), CPU)
    assert open_resident(open_dataset("unaligned", options), CPU, pytest.fail) is None, "there is no GPU to fill"


@given(st.integers(1, 5), st.integers(1, 4), st.integers(1, 6), st.integers(1, 6), st.data())
def test_any_part_of_any_image(count, channels, height, width, data):
    pixels = torch.randint(256, (count, 9, 7, channels), generator=torch.Generator().manual_seed(0)).to(torch.uint8)
    places = [
        (
            data.draw(st.integers(0, count - 1)),
            data.draw(st.integers(0, 7 - width)),
            data.draw(st.integers(0, 9 - height)),
            data.draw(st.integers(0, 1)),
        )
        for _ in range(3)
    ]
    parts = cut_out(pixels, torch.tensor(places), width, height)
    for part, (index, left, top, mirrored) in zip(parts, places):
        expected = to_tensor(pixels[index, top : top + height, left : left + width])
        assert torch.equal(part, expected.flip(-1) if mirrored else expected)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("kind", KINDS)
def test_on_the_gpu(kind):
    dataset = open_dataset(kind, DataOptions(load_size=20, crop_size=16, max_dataset_size=30, n_labels=10))
    said = []
    resident = open_resident(dataset, torch.device("cuda", 0), said.append)
    assert said[0].startswith("all on the GPU")
    expected = default_collate([dataset[key] for key in KEYS[0]])
    resident.batch(KEYS[0])
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error")
    try:
        batch = resident.batch(KEYS[0])
    finally:
        torch.cuda.set_sync_debug_mode("default")
    for name, value in expected.items():
        if isinstance(value, torch.Tensor):
            torch.testing.assert_close(batch[name].cpu(), value, rtol=0, atol=2e-7)
