import logging
import pickle

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import DataLoader

from fastgan.data import DataOptions, open_dataset
from fastgan.data.labelled import open_gallery, read_square
from fastgan.data.synthetic.glyphs import glyphs

from .common import REAL_DATA, idx_bytes, needs_mnist, picture, write_idx


def options(root=None, **values):
    return DataOptions(dataroot=None if root is None else str(root), **values)


def numbers(dataset):
    """The numbers that write_idx wrote into the first pixels."""
    return [int(((item["image"][0, 0, 0] + 1) * 127.5).round()) for item in dataset]


@pytest.fixture
def folders(tmp_path):
    """Three classes of 5, 20 and 11 grey images 8x8, whose value tells class and number."""
    for label, (name, count) in enumerate({"ant": 5, "bee": 20, "cat": 11}.items()):
        (tmp_path / name).mkdir()
        for number in range(count):
            Image.new("L", (8, 8), 60 * label + number).save(tmp_path / name / f"{number}.png")
    return tmp_path


@pytest.mark.parametrize("kind", ["labelled", "semi_labelled"])
def test_the_built_in_set(kind):
    train, test = (open_dataset(kind, options(), split) for split in ("train", "test"))
    assert (len(train), len(test)) == (10_000, 1_000)
    for dataset in (train, test):
        assert (dataset.classes, dataset.channels, dataset.image_size) == (10, 1, 28)
        assert dataset.names == tuple("0123456789") and dataset.labels.dtype == torch.int64
    item = train[3, 17]
    assert item["image"].shape == (1, 28, 28) and item["image"].dtype == torch.float32
    images, labels = glyphs("train", 18)
    assert torch.equal(item["image"][0], torch.from_numpy(images[17]) / 127.5 - 1) and item["label"] == labels[17]
    assert set(test[0]) == {"image", "label"}


def test_batches():
    dataset = open_dataset("labelled", options(max_dataset_size=20))
    batch = next(iter(DataLoader(dataset, batch_sampler=[[(1, 4), (1, 0), (1, 9)]])))
    assert batch["image"].shape == (3, 1, 28, 28) and batch["label"].dtype == torch.int64
    assert batch["label"].tolist() == dataset.labels[[4, 0, 9]].tolist()
    assert torch.equal(dataset.images(0, 10)[4], batch["image"][0])


def test_size_and_channels_of_the_built_in_set():
    dataset = open_dataset("labelled", options(image_size=32, input_nc=3, max_dataset_size=30))
    assert len(dataset) == 30 and (dataset.channels, dataset.image_size) == (3, 32)
    image = dataset[0]["image"]
    assert image.shape == (3, 32, 32) and torch.equal(image[0], image[2])
    assert dataset.describe() == "30 images of 10 classes, 32x32, 3 channels"


def test_one_idx_set_keeps_its_last_tenth_for_the_test(tmp_path):
    write_idx(tmp_path, 45, "t10k", gzipped=True)
    train, test = (open_dataset("labelled", options(tmp_path), split) for split in ("train", "test"))
    assert numbers(train) == list(range(41)) and numbers(test) == list(range(41, 45))
    assert train.labels.tolist() == [number % 3 for number in range(41)] and train.classes == test.classes == 3
    assert numbers(open_dataset("labelled", options(tmp_path, max_dataset_size=5))) == [0, 1, 2, 3, 4]
    assert len(open_dataset("labelled", options(tmp_path, max_dataset_size=5), "test")) == 4


def test_two_idx_sets_are_training_and_test(tmp_path):
    write_idx(tmp_path, 4, classes=3)
    write_idx(tmp_path, 12, "t10k", classes=5)
    train, test = (open_dataset("labelled", options(tmp_path), split) for split in ("train", "test"))
    assert (len(train), len(test)) == (4, 12) and train.classes == test.classes == 5


def test_idx_images_are_resized_and_widened(tmp_path):
    write_idx(tmp_path, 20)
    dataset = open_dataset("labelled", options(tmp_path, image_size=9, input_nc=4))
    assert dataset[0]["image"].shape == (4, 9, 9)
    write_idx(tmp_path / "colour", 20, size=(6, 5, 2))
    dataset = open_dataset("labelled", options(tmp_path / "colour"))
    assert dataset.channels == 2 and dataset[0]["image"].shape == (2, 6, 5) and dataset.image_size is None
    with pytest.raises(ValueError, match="--input-nc is 3 and the images of .* have 2 channels: leave the flag out"):
        open_dataset("labelled", options(tmp_path / "colour", input_nc=3))


def test_a_folder_for_each_class(folders):
    train, test = (open_dataset("labelled", options(folders), split) for split in ("train", "test"))
    assert train.names == ("ant", "bee", "cat") and (train.classes, train.channels, train.image_size) == (3, 1, 8)
    assert numbers(train) == [*range(4), *range(60, 78), *range(120, 130)]
    assert numbers(test) == [4, 78, 79, 130] and test.labels.tolist() == [0, 1, 1, 2]
    assert train.labels.tolist() == [0] * 4 + [1] * 18 + [2] * 10
    few = open_dataset("labelled", options(folders, max_dataset_size=8))
    assert len(few) == 8 and set(few.labels.tolist()) == {0, 1, 2}


def test_folders_train_and_test(folders):
    (folders / "train").mkdir()
    for name in ("ant", "bee", "cat"):
        (folders / name).rename(folders / "train" / name)
    assert len(open_dataset("labelled", options(folders))) == 32
    assert len(open_dataset("labelled", options(folders), "test")) == 4
    (folders / "test" / "bee").mkdir(parents=True)
    (folders / "train" / "bee" / "0.png").rename(folders / "test" / "bee" / "0.png")
    assert len(open_dataset("labelled", options(folders))) == 35
    test = open_dataset("labelled", options(folders), "test")
    assert test.labels.tolist() == [1] and test.names == ("ant", "bee", "cat")


def write_class(folder, count=4, mode="L", size=(8, 8), value=100):
    folder.mkdir(parents=True, exist_ok=True)
    for number in range(count):
        colour = {
            "L": value,
            "LA": (value, 9),
            "RGB": (value, 0, 0),
            "RGBA": (value, 0, 0, 9),
            "P": value,
            "1": 1,
            "I;16": value,
        }[mode]
        Image.new(mode, size, colour).save(folder / f"{mode.replace(';', '')}{number}.png")


@pytest.mark.parametrize(
    "modes, channels",
    [
        (("L", "RGB"), 3),
        (("RGB", "L"), 3),
        (("1", "L"), 1),
        (("L", "P"), 3),
        (("RGB", "RGBA"), 3),
        (("RGBA", "RGB"), 3),
        (("LA", "RGBA"), 4),
        (("RGBA", "L"), 3),
        (("LA", "L"), 1),
        (("LA", "LA"), 2),
        (("I;16", "RGB"), 3),
        (("LA", "RGB"), 3),
    ],
)
@pytest.mark.parametrize("odd", [1, 5])
def test_colours_are_kept_whichever_file_comes_first(tmp_path, caplog, modes, channels, odd):
    write_class(tmp_path / "ant", odd, modes[0])
    write_class(tmp_path / "bee", 6, modes[1])
    dataset = open_dataset("labelled", options(tmp_path))
    assert dataset.channels == channels and dataset[0]["image"].shape == (channels, 8, 8)
    assert bool(caplog.records) == (modes != ("LA", "LA")), "a line tells that images were converted"
    assert open_dataset("labelled", options(tmp_path), "test").channels == channels
    assert open_dataset("labelled", options(tmp_path, input_nc=1)).channels == 1


def test_the_training_images_decide_on_the_channels_of_the_test_images(tmp_path, caplog):
    write_class(tmp_path / "train" / "ant", 2, "RGB")
    write_class(tmp_path / "test" / "ant", 2, "L")
    assert open_dataset("labelled", options(tmp_path), "test")[0]["image"].shape == (3, 8, 8)
    assert "were converted to RGB: 2 grey" in caplog.records[-1].getMessage()
    write_class(tmp_path / "test" / "ant", 2, "RGB", size=(9, 9))
    with pytest.raises(ValueError, match="is 8x8 and .* is 9x9: --image-size 64"):
        open_dataset("labelled", options(tmp_path), "test")


@pytest.mark.parametrize(
    "modes, told",
    [
        (("L", "RGB"), "2 of 2"),
        (("L", "L RGB"), "2 of 4"),
        (("1", "P"), "2 of 2"),
        (("LA", "RGBA"), "2 of 2"),
        (("L", "1"), None),
        (("RGB", "RGB"), None),
    ],
)
def test_it_is_told_that_test_images_lose_their_colours(tmp_path, caplog, modes, told):
    for part, kinds in zip(("train", "test"), modes):
        for mode in kinds.split():
            write_class(tmp_path / part / "ant", 2, mode)
    open_dataset("labelled", options(tmp_path), "test")
    lines = [record.getMessage() for record in caplog.records if "become grey" in record.getMessage()]
    assert lines == (
        []
        if told is None
        else [f"{told} images in {tmp_path / 'test'} have colours, and become grey as the training images are"]
    )
    caplog.clear()
    open_dataset("labelled", options(tmp_path, input_nc=1), "test")
    assert not any("become grey" in record.getMessage() for record in caplog.records), "it was asked for"


@pytest.mark.parametrize("where", ["Images", "animals", "a/b", "set-1.0/images"])
def test_a_folder_around_the_classes_is_passed(tmp_path, where):
    for name in ("ant", "bee"):
        write_class(tmp_path / where / name, 5)
    (tmp_path / "README.txt").write_text("")
    assert open_dataset("labelled", options(tmp_path)).names == ("ant", "bee")
    write_class(tmp_path / where, 1)
    assert open_dataset("labelled", options(tmp_path / where.split("/")[0] / "..", max_dataset_size=3)).names == (
        where.split("/")[0],
    ), "images beside folders are no set of classes"


def test_one_class_in_its_folder_stays_one(tmp_path):
    write_class(tmp_path / "ant", 5)
    (tmp_path / "ant" / "again").symlink_to(tmp_path / "ant", target_is_directory=True)
    assert open_dataset("labelled", options(tmp_path)).names == ("ant",)


@pytest.mark.parametrize("system", ["__MACOSX", "@eaDir", "$RECYCLE.BIN", ".ipynb_checkpoints"])
@pytest.mark.parametrize("inside", ["", "train", "train/ant"])
def test_folders_of_systems_hold_no_images(tmp_path, system, inside):
    for part in ("train", "test"):
        for name in ("ant", "bee"):
            write_class(tmp_path / "set" / part / name, 5)
    for folder in (tmp_path / system / "ant", tmp_path / "set" / inside / system):
        write_class(folder, 2, value=0)
    for split in ("train", "test"):
        dataset = open_dataset("labelled", options(tmp_path), split)
        assert dataset.names == ("ant", "bee") and len(dataset) == 10 and 0 not in numbers(dataset)


@pytest.mark.parametrize(
    "train, test",
    [
        ("train", "test"),
        ("train", "val"),
        ("train", "valid"),
        ("training", "testing"),
        ("Train", "Test"),
        ("TRAIN", "dev"),
        ("train", "validation"),
        ("train2017", "val2017"),
        ("train_images", "test_images"),
        ("seg_train", "seg_test"),
        ("train/train", "test/test"),
        ("seg_train/seg_train", "seg_test/seg_test"),
        ("set/train", "set/test"),
        ("pets/pets/training_set/training_set", "pets/pets/test_set/test_set"),
    ],
)
def test_parts_as_tools_lay_them_out(tmp_path, train, test):
    root = tmp_path / "root"
    for name in ("ant", "bee"):
        write_class(root / train / name, 11)
        write_class(root / test / name, 3, value=50)
    (root / ".cache").mkdir()
    (root / "labels.csv").write_text("")
    training, testing = (open_dataset("labelled", options(root), split) for split in ("train", "test"))
    assert (len(training), len(testing)) == (22, 6) and training.names == testing.names == ("ant", "bee")
    assert set(numbers(testing)) == {50} and set(numbers(training)) == {100}
    gallery = open_gallery(root, 1, 8)
    assert len(gallery) == 28 and gallery.names == ("ant", "bee") and gallery.labels[-1] == 1


def test_folders_named_as_parts_may_be_classes(tmp_path):
    for name in ("bus", "car", "train"):
        write_class(tmp_path / name, 5)
    assert open_dataset("labelled", options(tmp_path)).names == ("bus", "car", "train")


@pytest.mark.parametrize("flat", ["test", "val", "test1"])
@pytest.mark.parametrize("folder", ["", "unknown"])
def test_a_test_folder_without_the_classes_is_left_out(tmp_path, caplog, flat, folder):
    for name in ("ant", "bee"):
        write_class(tmp_path / "train" / name, 10)
    write_class(tmp_path / flat / folder, 3, value=50)
    assert len(open_dataset("labelled", options(tmp_path))) == 18 and not caplog.records
    test = open_dataset("labelled", options(tmp_path), "test")
    assert numbers(test) == [100, 100] and test.labels.tolist() == [0, 1]
    assert [record.getMessage() for record in caplog.records] == [
        f"the images in {tmp_path / flat} are left out: they lie in no folders of the classes in {tmp_path / 'train'} "
        "(ant, bee), of which a tenth is held out for the test instead"
    ]
    write_class(tmp_path / "valid" / "bee", 4, value=20)
    assert numbers(open_dataset("labelled", options(tmp_path), "test")) == [20] * 4, "another part has the classes"


def test_test_images_of_unknown_classes_are_left_out(tmp_path, caplog):
    for name in ("ant", "bee"):
        write_class(tmp_path / "train" / name, 10)
    write_class(tmp_path / "test" / "bee", 3)
    write_class(tmp_path / "test" / "wasp", 2)
    assert open_dataset("labelled", options(tmp_path), "test").labels.tolist() == [1] * 3
    assert (
        caplog.records[0].getMessage().startswith(f"2 images in {tmp_path / 'test'} are left out: they are of no class")
    )


@pytest.mark.parametrize("counts, train, test", [((1, 1), [0, 1], [0, 1]), ((1, 3), [0, 1, 1], [1]), ((1,), [0], [0])])
def test_classes_of_one_image(tmp_path, caplog, counts, train, test):
    for name, count in zip("ab", counts):
        write_class(tmp_path / name, count)
    sets = [open_dataset("labelled", options(tmp_path), split) for split in ("train", "test")]
    assert [dataset.labels.tolist() for dataset in sets] == [train, test]
    assert all(dataset[0]["image"].shape == (1, 8, 8) for dataset in sets)
    assert bool(caplog.records) == (train == test), "a line tells that the test is no test"


def test_the_domains_of_an_unpaired_set_are_no_classes(tmp_path):
    write_class(tmp_path / "trainA")
    write_class(tmp_path / "trainB")
    for more in ("", "testA"):
        write_class(tmp_path / more if more else tmp_path / "trainA")
        with pytest.raises(
            ValueError, match="holds .*A and .*, which are domains of an unpaired set and no classes: cyclegan"
        ):
            open_dataset("labelled", options(tmp_path))
    assert open_dataset("labelled", options(tmp_path / "trainA")).classes == 0


@pytest.mark.parametrize(
    "where, prefix",
    [
        ("MNIST/raw", ""),
        ("raw", ""),
        ("FashionMNIST/raw", ""),
        ("mnist", ""),
        ("", "emnist-letters-"),
        ("EMNIST/raw", "emnist-balanced-"),
        ("", "my_"),
    ],
)
def test_idx_files_where_tools_leave_them(tmp_path, where, prefix):
    folder = write_idx(tmp_path / where, 4)
    write_idx(folder, 3, "t10k", gzipped=True)
    for path in list(folder.iterdir()):
        path.rename(folder / (prefix + path.name.replace("t10k", "test" if prefix else "t10k")))
    sets = [open_dataset("labelled", options(tmp_path), split) for split in ("train", "test")]
    assert [numbers(dataset) for dataset in sets] == [[0, 1, 2, 3], [0, 1, 2]]
    assert len(open_gallery(tmp_path, 1, 6)) == 7


def test_of_several_idx_sets_none_is_taken(tmp_path):
    for name in ("MNIST", "KMNIST"):
        write_idx(tmp_path / name / "raw", 4)
    with pytest.raises(
        ValueError, match=r"holds 2 sets of IDX files \(.*KMNIST/raw, .*/MNIST/raw\): give the folder of"
    ):
        open_dataset("labelled", options(tmp_path))


def test_idx_files_in_folders_of_their_names(tmp_path):
    write_idx(tmp_path / "x", 4)
    for path in list((tmp_path / "x").iterdir()):
        (tmp_path / path.name).mkdir()
        path.rename(tmp_path / path.name / path.name)
    assert len(open_dataset("labelled", options(tmp_path))) == 3


def test_classes_without_images_need_no_labels(tmp_path):
    """Of the letters of EMNIST, which count from 1."""
    write_idx(tmp_path, 40, classes=3)
    labels = tmp_path / "train-labels-idx1-ubyte"
    labels.write_bytes(idx_bytes(np.arange(40, dtype=np.uint8) % 3 + 1))
    dataset = open_dataset("semi_labelled", options(tmp_path, n_labels=4))
    assert torch.bincount(dataset.labels[dataset.labelled]).tolist() == [0, 2, 1, 1] and dataset.classes == 4


def test_images_without_folders_have_no_classes(folders):
    dataset = open_dataset("labelled", options(folders / "bee"))
    assert dataset.classes == 0 and len(dataset) == 18 and set(dataset.labels.tolist()) == {0}
    assert dataset.describe() == "18 images, 8x8, 1 channel"
    with pytest.raises(ValueError, match="needs images with labels, and these have none"):
        open_dataset("semi_labelled", options(folders / "bee"))


def test_broken_files_are_left_out(folders, caplog):
    (folders / "bee" / "3.png").write_text("text")
    with caplog.at_level(logging.WARNING):
        dataset = open_dataset("labelled", options(folders))
    assert dataset.labels.tolist() == [0] * 4 + [1] * 18 + [2] * 10, "19 files, one held out"
    assert [record.getMessage().split(" images in")[0] for record in caplog.records] == ["skipped 1 of 36"]


def test_images_of_different_sizes_need_a_size(folders):
    picture((8, 9)).save(folders / "cat" / "5.png")
    with pytest.raises(ValueError, match=r"0.png is 8x8 and .*5.png is 8x9: --image-size 64, or another") as caught:
        open_dataset("labelled", options(folders))
    assert "\n" not in str(caught.value)
    dataset = open_dataset("labelled", options(folders, image_size=12))
    assert dataset[0]["image"].shape == (3, 12, 12) and dataset.image_size == 12


def test_misplaced_files_are_errors(folders, tmp_path):
    picture((8, 8)).save(folders / "stray.png")
    with pytest.raises(ValueError, match=r"holds images beside folders of images \(stray.png\): put them into"):
        open_dataset("labelled", options(folders))
    with pytest.raises(ValueError, match="nowhere is missing: it should hold IDX files"):
        open_dataset("labelled", options(tmp_path / "nowhere"))
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match="empty holds no image"):
        open_dataset("labelled", options(tmp_path / "empty"))


def test_the_labelled_subset_is_balanced_and_depends_on_the_seed_alone():
    data = options(n_labels=23, max_dataset_size=200)
    dataset = open_dataset("semi_labelled", data, seed=5)
    counts = torch.bincount(dataset.labels[dataset.labelled], minlength=10).tolist()
    assert counts == [3, 3, 3] + [2] * 7 and dataset.labelled == sorted(dataset.labelled)
    assert dataset.labelled == open_dataset("semi_labelled", data, seed=5).labelled
    assert dataset.labelled != open_dataset("semi_labelled", data, seed=6).labelled
    assert dataset.describe().endswith(", 23 of them labelled")


def test_labelled_images_come_from_the_subset_alone():
    dataset = open_dataset("semi_labelled", options(n_labels=10, max_dataset_size=100), seed=1)
    items = {key: dataset[key] for key in [(epoch, index) for epoch in range(3) for index in range(100)]}
    subset = {dataset.source.load(index).numpy().tobytes(): int(dataset.labels[index]) for index in dataset.labelled}
    seen = set()
    for (_epoch, index), item in items.items():
        pixels = ((item["labelled_image"] + 1) * 127.5).round().to(torch.uint8).numpy().tobytes()
        assert subset[pixels] == item["labelled_label"]
        assert item["label"] == dataset.labels[index]
        seen.add(pixels)
    assert seen == set(subset), "every labelled image is used"
    again = pickle.loads(pickle.dumps(dataset))[2, 50]
    assert all(torch.equal(again[name], value) for name, value in items[2, 50].items())


def test_too_few_labels_are_errors():
    with pytest.raises(ValueError, match="--n-labels is 9: with 10 classes it must be 10 or more"):
        open_dataset("semi_labelled", options(n_labels=9))
    with pytest.raises(ValueError, match="--n-labels is 100, 10 of each class, but class 0 has 2 images"):
        open_dataset("semi_labelled", options(max_dataset_size=20))


def test_unknown_kinds_are_errors():
    with pytest.raises(ValueError, match="no kind of data 'paired': choose from unaligned, aligned, labelled"):
        open_dataset("paired", options())
    with pytest.raises(ValueError, match="no split 'val': choose train or test"):
        open_dataset("labelled", options(), "val")


def test_a_gallery_is_all_there_is(folders, tmp_path):
    gallery = open_gallery(folders, 3, 8)
    assert len(gallery) == 36 and gallery.classes == 3 and gallery[0]["image"].shape == (3, 8, 8)
    assert gallery.source.path(35) == str(folders / "cat" / "10.png") and gallery.images(30).shape == (6, 3, 8, 8)
    assert open_gallery(folders / "bee", 1, 8).classes == 0
    write_idx(tmp_path / "idx", 4, classes=2)
    write_idx(tmp_path / "idx", 5, "t10k", classes=3)
    gallery = open_gallery(tmp_path / "idx", 1, 6)
    assert numbers(gallery) == [0, 1, 2, 3, 4, 0, 1, 2, 3] and gallery.classes == 3
    assert gallery.labels.tolist() == [0, 1, 2, 0, 1, 0, 1, 0, 1]
    assert gallery.source.path(5) == str(tmp_path / "idx" / "train-images-idx3-ubyte" / "00000")


def test_one_image_as_networks_take_it(tmp_path, caplog):
    picture((9, 5)).convert("P").save(tmp_path / "a.png")
    image = read_square(tmp_path / "a.png", 3, 8)
    assert image.shape == (3, 8, 8) and image.dtype == torch.float32 and image.abs().max() <= 1
    said = [record.getMessage() for record in caplog.records]
    assert said == [f"{tmp_path / 'a.png'} was converted to RGB: it is palette"]


@needs_mnist
def test_mnist():
    train, test = (open_dataset("labelled", options(REAL_DATA / "mnist"), split) for split in ("train", "test"))
    assert (len(train), len(test)) == (9000, 1000) and train.classes == 10 and train.channels == 1
    assert train.labels[:10].tolist() == [7, 2, 1, 0, 4, 1, 4, 9, 5, 9]
    assert np.isclose(train.images(0, 9000).mean(), 2 * 0.1325 - 1, atol=0.01)
