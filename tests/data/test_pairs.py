import logging
import pickle
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import DataLoader

from fastgan.data import DataOptions, open_dataset, open_pairs

from .common import REAL_DATA, needs_facades, picture, truncated_jpeg, write_images


@pytest.fixture
def root(tmp_path):
    """trainA with 5 images, trainB with 3, testA and testB with 2 of equal names; B is of another size."""
    write_images(tmp_path / "trainA", 5)
    write_images(tmp_path / "trainB", 3, (30, 30))
    write_images(tmp_path / "testA", 2)
    write_images(tmp_path / "testB", 2, (30, 30))
    return tmp_path


def options(root, **values):
    return DataOptions(**{"dataroot": str(root) if root else None, "load_size": 20, "crop_size": 16, **values})


def open_unaligned(options, split="train", seed=0):
    return open_dataset("unaligned", options, split, seed)


def same(one, other):
    return (
        torch.equal(one["A"], other["A"])
        and torch.equal(one["B"], other["B"])
        and (one["A_path"], one["B_path"]) == (other["A_path"], other["B_path"])
    )


def domain(path):
    return Path(path).parent.name


def name(path):
    return Path(path).name


def test_items(root):
    dataset = open_unaligned(options(root))
    assert len(dataset) == 5
    item = dataset[0]
    assert list(item) == ["A", "B", "A_path", "B_path"]
    for image in (item["A"], item["B"]):
        assert image.shape == (3, 16, 16) and image.dtype == torch.float32 and image.is_contiguous()
        assert image.min() >= -1 and image.max() <= 1
    assert item["A_path"] == str(root / "trainA" / "0.png") and domain(item["B_path"]) == "trainB"


def test_sizes_of_all_images_are_known_without_decoding(root, aligned):
    dataset = open_unaligned(options(root, cache="none"))
    expected = [(str(root / "trainA" / f"{number}.png"), 24, 20) for number in range(5)]
    assert list(dataset.sizes()) == expected + [(str(root / "trainB" / f"{number}.png"), 30, 30) for number in range(3)]
    halves = open_dataset("aligned", options(aligned, cache="none"))
    assert list(halves.sizes()) == [(str(aligned / "train" / f"{number}.png"), 24, 20) for number in range(5)] * 2
    for kind, length in (("unaligned", 14), ("aligned", 14), ("labelled", 7)):
        assert len(list(open_dataset(kind, options(None, max_dataset_size=7)).sizes())) == length


@pytest.mark.parametrize("built_in", [False, True])
def test_an_item_depends_on_seed_epoch_and_index_alone(root, built_in):
    data = options(None if built_in else root, max_dataset_size=5)
    keys = [(epoch, index) for epoch in range(3) for index in range(5)]
    forwards = open_unaligned(data, seed=1)
    expected = {key: forwards[key] for key in keys}
    backwards = open_unaligned(data, seed=1)
    assert all(same(backwards[key], expected[key]) for key in reversed(keys)), "the order of access matters"
    assert same(backwards[2], expected[0, 2]), "an index alone means epoch 0"
    assert same(backwards[np.int64(2)], expected[0, 2])
    other = open_unaligned(data, seed=2)
    assert not all(same(other[key], expected[key]) for key in keys)
    assert len({expected[epoch, 0]["B"].sum().item() for epoch in range(3)}) == 3, "epochs draw alike"


def test_random_numbers_of_torch_are_left_alone(root):
    torch.manual_seed(0)
    before = torch.get_rng_state()
    open_unaligned(options(root))[0]
    assert torch.equal(before, torch.get_rng_state())


@pytest.mark.parametrize("built_in", [False, True])
def test_workers_give_what_the_main_process_gives(root, built_in):
    dataset = open_unaligned(options(None if built_in else root, max_dataset_size=5))
    keys = [[(1, 4), (1, 0)], [(1, 2), (1, 1)], [(2, 3)]]
    batches = [list(DataLoader(dataset, batch_sampler=keys, num_workers=workers)) for workers in (0, 2)]
    assert [batch["A"].shape[0] for batch in batches[0]] == [2, 2, 1]
    for one, other in zip(*batches):
        assert torch.equal(one["A"], other["A"]) and torch.equal(one["B"], other["B"])
        assert one["B_path"] == other["B_path"]


@pytest.mark.parametrize("built_in", [False, True])
def test_datasets_are_picklable(root, built_in):
    dataset = open_unaligned(options(None if built_in else root))
    assert same(pickle.loads(pickle.dumps(dataset))[3, 1], dataset[3, 1])


def test_partners_are_random_unless_serial(root):
    dataset = open_unaligned(options(root))
    partners = {(index, name(dataset[epoch, index]["B_path"])) for epoch in range(30) for index in range(5)}
    assert len(partners) == 5 * 3
    serial = open_unaligned(options(root, serial_batches=True))
    assert [name(serial[7, index]["B_path"]) for index in range(5)] == ["0.png", "1.png", "2.png", "0.png", "1.png"]


def test_a_smaller_a_is_gone_through_again(root):
    dataset = open_unaligned(options(root, direction="BtoA"))
    assert len(dataset) == 5
    assert [name(dataset[index]["A_path"]) for index in range(5)] == ["0.png", "1.png", "2.png", "0.png", "1.png"]


def test_direction_swaps_roles_and_channels_stay_with_the_role(root):
    item = open_unaligned(options(root, direction="BtoA", input_nc=1))[0]
    assert domain(item["A_path"]) == "trainB" and domain(item["B_path"]) == "trainA"
    assert item["A"].shape == (1, 16, 16) and item["B"].shape == (3, 16, 16)
    built_in = open_unaligned(options(None, direction="BtoA", output_nc=1))[0]
    assert built_in["A_path"].startswith("built-in/trainB") and built_in["B"].shape == (1, 16, 16)


def test_max_dataset_size_limits_training_sets_only(root):
    limited = options(root, max_dataset_size=1)
    assert len(open_unaligned(limited)) == 1 and len(open_unaligned(limited, "test")) == 2
    built_in = options(None, max_dataset_size=7)
    assert len(open_unaligned(built_in)) == 7 and len(open_unaligned(built_in, "test")) == 64


def test_indices_outside_end_an_iteration(root):
    dataset = open_unaligned(options(root))
    assert len(list(dataset)) == 5
    for key in (5, -1, (0, 5)):
        with pytest.raises(IndexError, match="of a set of 5 items"):
            dataset[key]


def test_missing_folders_are_errors(root):
    with pytest.raises(ValueError, match="--dataroot .*nowhere is missing: it should hold the folders"):
        open_unaligned(options(root / "nowhere"))
    for file in (root / "trainB").iterdir():
        file.unlink()
    with pytest.raises(ValueError, match="trainB holds no image"):
        open_unaligned(options(root))
    (root / "trainB").rmdir()
    with pytest.raises(ValueError, match="trainB is missing"):
        open_unaligned(options(root))
    with pytest.raises(ValueError, match="no split 'val': choose train or test"):
        open_unaligned(options(root), "val")


def test_images_of_different_sizes_in_one_batch_are_errors(root):
    picture((24, 40)).save(root / "trainA" / "3.png")
    with pytest.raises(ValueError) as caught:
        open_unaligned(options(root, preprocess="none", batch_size=2))
    assert str(caught.value).startswith("--batch-size 2 needs images of one size, but ")
    assert "24x20" in str(caught.value) and "3.png as 24x40" in str(caught.value)
    open_unaligned(options(root, preprocess="none", batch_size=1))
    open_unaligned(options(root, preprocess="crop", batch_size=2))


def test_broken_files_do_not_stop_a_set(root, caplog):
    (root / "trainA" / "1.png").write_text("text")
    truncated_jpeg(root / "trainB" / "9.jpg", (64, 64))
    with caplog.at_level(logging.WARNING):
        dataset = open_unaligned(options(root))
    assert len(dataset) == 4 and len(list(dataset)) == 4
    said = [record.getMessage().split(" images in")[0] for record in caplog.records]
    assert said == ["skipped 1 of 5", "skipped 1 of 4"]


def test_pairs_of_folders(root):
    pairs = open_pairs(options(root))
    assert len(pairs) == 2
    assert [name(pairs[index]["B_path"]) for index in range(2)] == ["0.png", "1.png"]
    (root / "testB" / "1.png").rename(root / "testB" / "other.png")
    assert open_pairs(options(root)) is None
    (root / "testB" / "other.png").rename(root / "testB" / "1.jpg")
    assert len(open_pairs(options(root))) == 2, "suffixes may differ"
    (root / "testA" / "0.png").write_text("text")
    assert [(name(item["A_path"]), name(item["B_path"])) for item in open_pairs(options(root))] == [("1.png", "1.jpg")]
    (root / "testB" / "1.jpg").write_text("text")
    with pytest.raises(ValueError, match="of every pair one image is broken"):
        open_pairs(options(root))
    for file in (root / "testB").iterdir():
        file.unlink()
    assert open_pairs(options(root)) is None
    (root / "testB").rmdir()
    assert open_pairs(options(root)) is None


def test_equal_names_are_pairs_only_where_that_is_said(root, aligned, caplog):
    assert open_pairs(options(root), by_name=False) is None
    assert [record.getMessage() for record in caplog.records] == [
        f"testA and testB in {root} hold files of the same names: if they show the same things, --eval-pairs 64 compares "  # noqa: E501
        "translations with them"
    ]
    caplog.clear()
    (root / "testB" / "1.png").rename(root / "testB" / "other.png")
    assert open_pairs(options(root), by_name=False) is None and not caplog.records
    assert len(open_pairs(options(aligned), "aligned", by_name=False)) == 2
    assert len(open_pairs(options(None), by_name=False)) == 64


@pytest.mark.parametrize("direction", ["AtoB", "BtoA"])
def test_pairs_of_the_built_in_set(direction):
    pairs = open_pairs(options(None, direction=direction, flip=True))
    assert len(pairs) == 64
    item = pairs[5]
    assert item["A"].shape == (3, 16, 16)
    assert item["A_path"] == f"built-in/test{direction[0]}/0005.png"
    assert item["B_path"] == f"built-in/test{direction[-1]}/0005.png"


@needs_facades
def test_facades():
    data = DataOptions(dataroot=str(REAL_DATA / "facades_unaligned"), load_size=143, crop_size=128, max_dataset_size=20)
    dataset = open_unaligned(data)
    assert len(dataset) == 20 and dataset[1, 3]["A"].shape == (3, 128, 128)
    pairs = open_pairs(data)
    assert len(pairs) == 50
    assert name(pairs[7]["A_path"]) == name(pairs[7]["B_path"])


@pytest.fixture
def aligned(tmp_path):
    """train with 5 images and test with 2, 48x20, the left half of a green value of its own."""
    for split, count in (("train", 5), ("test", 2)):
        (tmp_path / split).mkdir()
        for number in range(count):
            whole = Image.new("RGB", (48, 20))
            red, green, _ = picture((24, 20), number).split()
            whole.paste(Image.merge("RGB", [red, green, Image.new("L", (24, 20), 200)]), (0, 0))
            whole.paste(picture((24, 20), number), (24, 0))
            whole.save(tmp_path / split / f"{number}.png")
    return tmp_path


def test_aligned_halves_are_cropped_and_mirrored_alike(aligned):
    dataset = open_dataset("aligned", options(aligned))
    assert len(dataset) == 5 and dataset.channels == (3, 3) and dataset.image_size == 16 and dataset.classes == 0
    crops = set()
    for epoch in range(10):
        item = dataset[epoch, 3]
        assert item["A"].shape == item["B"].shape == (3, 16, 16) and name(item["A_path"]) == name(item["B_path"])
        assert torch.equal(item["A"][:2], item["B"][:2]), "red and green are those of the place"
        assert torch.allclose(item["A"][2], torch.tensor(200 / 127.5 - 1))
        assert torch.allclose(item["B"][2], torch.tensor(111 / 127.5 - 1))
        crops.add((item["A"][0, 0, 0].item(), item["A"][1, 0, 0].item()))
    assert len(crops) > 3, "crops and flips are drawn anew"


def test_aligned_direction_and_channels(aligned):
    item = open_dataset("aligned", options(aligned, direction="BtoA", input_nc=1))[0]
    assert item["A"].shape == (1, 16, 16) and item["B"].shape == (3, 16, 16)
    assert torch.allclose(item["B"][2], torch.tensor(200 / 127.5 - 1))
    whole = open_dataset("aligned", options(aligned, direction="BtoA", input_nc=1, preprocess="none"), "test")[1]
    grey = np.asarray(picture((24, 20), 1).convert("L"))
    assert np.array_equal(((whole["A"][0] + 1) * 127.5).round().numpy(), grey)
    with pytest.raises(ValueError, match="--input-nc 4 and --output-nc 3: the two halves"):
        open_dataset("aligned", options(aligned, input_nc=4))


def test_aligned_test_set_is_the_pairs(aligned):
    pairs = open_pairs(options(aligned), "aligned")
    assert len(pairs) == 2 and torch.equal(pairs[0]["A"], open_dataset("aligned", options(aligned), "test")[0]["A"])
    shutil.rmtree(aligned / "test")
    assert open_pairs(options(aligned), "aligned") is None
    assert len(open_dataset("aligned", options(aligned, max_dataset_size=2))) == 2


def test_aligned_built_in_pairs():
    dataset = open_dataset("aligned", options(None, direction="BtoA"))
    assert len(dataset) == 1000 and dataset[4]["A_path"] == "built-in/trainB/0004.png"
    assert len(open_pairs(options(None), "aligned")) == 64


def test_images_that_are_no_pairs_are_errors(aligned):
    picture((47, 20)).save(aligned / "train" / "odd.png")
    with pytest.raises(ValueError, match="odd.png is 47 pixels wide: A and B side by side are equally wide"):
        open_dataset("aligned", options(aligned))
    picture((20, 20)).save(aligned / "train" / "odd.png")
    with pytest.raises(ValueError, match="each half of .*odd.png is 10x20, smaller than the crop of 16x16"):
        open_dataset("aligned", options(aligned, preprocess="crop"))
    with pytest.raises(ValueError, match="nowhere is missing: it should hold the folder train, of images with A and B"):
        open_dataset("aligned", options(aligned / "nowhere"))
    (aligned / "train").rename(aligned / "trainA")
    with pytest.raises(ValueError, match="train is missing: it should hold images with A and B side by side"):
        open_dataset("aligned", options(aligned))


def test_aligned_broken_files_do_not_stop_a_set(aligned, caplog):
    (aligned / "train" / "1.png").write_text("text")
    with caplog.at_level(logging.WARNING):
        dataset = open_dataset("aligned", options(aligned))
    assert len(dataset) == 4
    assert [record.getMessage().split(" images in")[0] for record in caplog.records] == ["skipped 1 of 5"]


@needs_facades
def test_aligned_facades():
    data = DataOptions(
        dataroot=str(REAL_DATA / "facades_aligned"), load_size=143, crop_size=128, direction="BtoA", max_dataset_size=10
    )
    dataset = open_dataset("aligned", data)
    assert len(dataset) == 10 and dataset[1, 3]["A"].shape == (3, 128, 128)
    assert len(open_pairs(data, "aligned")) == 50
