import logging
import os
import pickle

import numpy as np
import pytest
import torch
from PIL import Image

from fastgan.data import DataOptions
from fastgan.data.folders import ImageFolder, find_images
from fastgan.data.transforms import Transform

from .common import picture, truncated_jpeg, write_images

WHOLE = Transform.of(DataOptions(preprocess="none"), "train")


def messages(caplog):
    return [record.getMessage() for record in caplog.records if record.name == "fastgan.data"]


def test_images_are_found_in_sub_folders_in_natural_order(tmp_path):
    for name in (
        "b/2.png",
        "b/10.PNG",
        "b/1.jpeg",
        "a10.png",
        "a9.png",
        "A9.png",
        ".hidden.png",
        ".cache/1.png",
        "notes.txt",
    ):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        picture().save(tmp_path / name, format="PNG")
    (tmp_path / "b" / "up").symlink_to(tmp_path)
    assert find_images(tmp_path) == ["A9.png", "a9.png", "a10.png", "b/1.jpeg", "b/2.png", "b/10.PNG"]


def test_missing_and_empty_folders_are_errors(tmp_path):
    with pytest.raises(ValueError, match="trainB is missing: it should hold the images of one domain"):
        ImageFolder(tmp_path / "trainB", WHOLE)
    (tmp_path / "trainB").mkdir()
    with pytest.raises(ValueError, match="trainB holds no image"):
        ImageFolder(tmp_path / "trainB", WHOLE)
    (tmp_path / "trainC").write_text("")
    with pytest.raises(ValueError, match="trainC is not a folder"):
        ImageFolder(tmp_path / "trainC", WHOLE)


def test_pixels_are_decoded_once(tmp_path):
    write_images(tmp_path / "a", 3)
    folder = ImageFolder(tmp_path / "a", WHOLE)
    for number in range(3):
        (tmp_path / "a" / f"{number}.png").unlink()
    for number in range(3):
        pixels = folder.load(number)
        assert pixels.dtype == torch.uint8 and pixels.shape == (20, 24, 3)
        assert (pixels[..., 2] == 37 * number).all()
        assert folder.path(number) == str(tmp_path / "a" / f"{number}.png")


def test_images_of_different_sizes_share_the_cache(tmp_path):
    folder = write_images(tmp_path / "a", 2)
    picture((12, 40), 2).save(folder / "2.png")
    opened = ImageFolder(folder, WHOLE)
    assert opened.sizes == [(24, 20), (24, 20), (12, 40)]
    assert opened.load(2).shape == (40, 12, 3) and (opened.load(1)[..., 2] == 37).all()


@pytest.mark.parametrize("cache", ["memory", "file", "none"])
def test_cached_or_not_pixels_are_the_same(tmp_path, caplog, cache):
    folder = write_images(tmp_path / "a", 2, (50, 40))
    steps = Transform.of(DataOptions(load_size=32, crop_size=16), "train")
    opened = pickle.loads(pickle.dumps(ImageFolder(folder, steps, channels=1, cache=cache)))
    expected = picture((50, 40), 1).convert("L").resize((32, 32), Image.Resampling.BICUBIC)
    assert opened.load(1).squeeze(2).tolist() == np.asarray(expected).tolist()
    said = {"file": "decoded into a file of 0.0 GiB in ", "none": "are not kept, as --cache none says"}
    lines = [line for line in messages(caplog) if line.startswith("the images of")]
    assert len(lines) == (cache != "memory") and all(said[cache] in line for line in lines)


def test_broken_images_are_named_counted_and_left_out(tmp_path, caplog):
    folder = write_images(tmp_path / "a", 3, (64, 64))
    truncated_jpeg(folder / "1a.jpg", (64, 64))
    (folder / "2a.png").write_text("<html>404</html>")
    with caplog.at_level(logging.WARNING):
        opened = ImageFolder(folder, WHOLE)
    assert opened.names == ["0.png", "1.png", "2.png"]
    assert [opened.load(index)[0, 0, 2].item() for index in range(3)] == [0, 37, 74]
    assert messages(caplog) == [f"skipped 2 of 5 images in {folder}: 2a.png (not an image), 1a.jpg (truncated)"]


def test_an_error_if_no_image_is_left(tmp_path):
    folder = tmp_path / "trainB"
    folder.mkdir()
    for number in range(5):
        (folder / f"{number}.png").write_text("text")
    with pytest.raises(ValueError) as caught:
        ImageFolder(folder, WHOLE)
    assert str(caught.value) == (
        f"{folder} holds no readable image: 0.png (not an image), 1.png (not an image), 2.png (not an image) and 2 more"
    )
    folder = tmp_path / "half"
    folder.mkdir()
    truncated_jpeg(folder / "0.jpg", (64, 64))
    with pytest.raises(ValueError, match=r"holds no readable image: 0\.jpg \(truncated\)"):
        ImageFolder(folder, WHOLE)


def test_without_the_cache_a_broken_image_is_replaced_by_the_next_and_named_once(tmp_path, caplog):
    folder = write_images(tmp_path / "a", 2, (64, 64))
    truncated_jpeg(folder / "1a.jpg", (64, 64))
    opened = ImageFolder(folder, WHOLE, cache="none")
    caplog.clear()
    assert len(opened) == 3
    assert [opened.load(2)[0, 0, 2].item() for _ in range(3)] == [0, 0, 0]
    assert messages(caplog) == [f"{folder / '1a.jpg'}: truncated; the image after it takes its place"]
    with pytest.raises(ValueError, match=r"1a\.jpg: truncated$"):
        ImageFolder(folder, WHOLE, cache="none", substitute=False).load(2)
    (folder / "0.png").write_text("")
    (folder / "1.png").write_text("")
    with pytest.raises(ValueError, match="holds no readable image"):
        opened.load(0)


def test_conversions_are_said_once(tmp_path, caplog):
    folder = write_images(tmp_path / "a", 2)
    picture().convert("L").save(folder / "3.png")
    picture().convert("L").save(folder / "4.png")
    picture().convert("RGBA").save(folder / "5.png")
    opened = ImageFolder(folder, WHOLE)
    assert all(opened.load(index).shape == (20, 24, 3) for index in range(5))
    assert messages(caplog) == [f"3 of 5 images in {folder} were converted to RGB: 1 RGB with transparency, 2 grey"]


def test_limit_takes_the_first_files(tmp_path):
    assert ImageFolder(write_images(tmp_path / "a", 12), WHOLE, limit=3).names == ["0.png", "1.png", "2.png"]


def test_a_crop_larger_than_an_image_is_an_error_when_the_folder_is_opened(tmp_path):
    folder = write_images(tmp_path / "a", 2)
    with pytest.raises(ValueError, match=r"0\.png is 24x20, smaller than the crop of 22x22: give --crop-size 20"):
        ImageFolder(folder, Transform.of(DataOptions(preprocess="crop", crop_size=22), "train"))


@pytest.mark.parametrize("cache", ["memory", "file", "none"])
def test_keep(tmp_path, cache):
    opened = ImageFolder(write_images(tmp_path / "a", 4), WHOLE, cache=cache)
    opened.keep([1, 3])
    assert len(opened) == 2 and opened.names == ["1.png", "3.png"]
    assert [opened.load(index)[0, 0, 2].item() for index in range(2)] == [37, 111]


def test_a_folder_with_16_bits_is_kept_in_16(tmp_path):
    (folder := tmp_path / "a").mkdir()
    Image.fromarray(np.full((4, 4), 1000, dtype=np.uint16)).save(folder / "0.png")
    Image.fromarray(np.full((4, 4), 100, dtype=np.uint8)).save(folder / "1.png")
    for cache in ("memory", "file", "none"):
        opened = ImageFolder(folder, WHOLE, channels=1, cache=cache)
        assert [int(opened.load(index)[0, 0, 0]) for index in range(2)] == [1000, 25700]
        assert opened.load(0).dtype == torch.uint16


def test_a_folder_of_arrays_with_many_channels(tmp_path, caplog):
    (folder := tmp_path / "a").mkdir()
    arrays = [np.random.default_rng(number).integers(0, 256, (20, 24, 6), dtype=np.uint8) for number in range(3)]
    for number, array in enumerate(arrays):
        np.save(folder / f"{number}.npy", array)
    opened = ImageFolder(folder, WHOLE, channels=6)
    assert all((opened.load(number).numpy() == array).all() for number, array in enumerate(arrays))
    picture().save(folder / "3.png")
    opened = ImageFolder(folder, WHOLE, channels=6)
    assert len(opened) == 3
    assert messages(caplog)[0].startswith(f"skipped 1 of 4 images in {folder}: 3.png (it has 3 channels, and 6 are")


@pytest.mark.parametrize(
    "dtype, numbers, said",
    [
        (
            np.uint16,
            (0, 4095),
            "hold uint16 numbers from 0 to 4095, 6.2 % of the range from black (0) to white (65535); "
            "--range 0 4095 would use all of it",
        ),
        (
            np.uint16,
            (7, 7),
            "hold uint16 numbers from 7 to 7, 0.0 % of the range from black (0) to white (65535); "
            "--range 7 8 would use all of it",
        ),
        (np.uint16, (0, 40000), None),
        (
            np.int16,
            (-1024, 3071),
            "hold int16 numbers from -1024 to 3071, 6.2 % of the range from black (-32768) to white "
            "(32767); --range -1024 3071 would use all of it",
        ),
        (
            np.int8,
            (-128, 127),
            "hold int8 numbers from -128 to 127, 100.0 % of the range from black (-128) to white (127)",
        ),
        (np.uint8, (0, 9), None),
    ],
)
def test_how_much_of_the_range_is_used_is_said(tmp_path, caplog, dtype, numbers, said):
    (folder := tmp_path / "a").mkdir()
    for name, number in zip("01", numbers):
        np.save(folder / f"{name}.npy", np.full((4, 4), number, dtype))
    opened = ImageFolder(folder, WHOLE, channels=1)
    assert messages(caplog) == ([] if said is None else [f"images in {folder} {said}"])
    assert opened.load(0).dtype == (torch.uint8 if np.dtype(dtype).itemsize == 1 else torch.uint16)
    caplog.clear()
    opened = ImageFolder(folder, WHOLE, channels=1, range=[numbers[0], numbers[0] + 100])
    assert messages(caplog) == []
    assert opened.load(0).dtype == torch.uint16 and not opened.load(0).numpy().any()


@pytest.mark.parametrize("cache", ["memory", "file", "none"])
def test_a_range_makes_16_bits_of_all_images(tmp_path, cache):
    (folder := tmp_path / "a").mkdir()
    np.save(folder / "0.npy", np.full((4, 4), 5, np.uint8))
    np.save(folder / "1.npy", np.full((4, 4), 500, np.float32))
    opened = ImageFolder(folder, WHOLE, channels=1, cache=cache, range=[0, 1000])
    assert [int(opened.load(index)[0, 0, 0]) for index in range(2)] == [5 * 257, 32768]


@pytest.mark.parametrize("cache", ["memory", "file", "none"])
def test_turned_photos_of_a_folder(tmp_path, cache):
    exif = Image.Exif()
    exif[0x0112] = 6
    (folder := tmp_path / "a").mkdir()
    picture((24, 20)).save(folder / "0.tif", exif=exif)
    opened = ImageFolder(folder, WHOLE, cache=cache)
    assert opened.sizes == [(20, 24)]
    assert np.array_equal(opened.load(0).numpy(), np.rot90(np.array(picture((24, 20))), -1))


def test_files_of_any_suffix_that_can_be_read_are_and_the_others_are_counted(tmp_path, caplog):
    (folder := tmp_path / "a").mkdir()
    for name, kind in (("0.jfif", "JPEG"), ("1.JPE", "JPEG"), ("2.tga", "TGA"), ("3.pnm", "PPM")):
        picture().save(folder / name, format=kind)
    for name in ("a.HEIC", "b.heic", "c.jpg_large", "LICENSE"):
        (folder / name).write_text("")
    opened = ImageFolder(folder, WHOLE)
    assert opened.names == ["0.jfif", "1.JPE", "2.tga", "3.pnm"]
    assert messages(caplog) == [
        f"passed over 4 files in {folder} that no image is read from: 2 .heic, 1 .jpg_large, 1 without suffix"
    ]
    caplog.clear()
    for name in opened.names:
        (folder / name).unlink()
    with pytest.raises(ValueError) as caught:
        ImageFolder(folder, WHOLE)
    assert str(caught.value) == (
        f"{folder} holds no image (there are 2 .heic, 1 .jpg_large, 1 without suffix): it should "
        "hold the images of one domain"
    )


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no pipes on this system")
def test_pipes_are_passed_over_and_broken_links_named(tmp_path, caplog):
    folder = write_images(tmp_path / "a", 1)
    os.mkfifo(folder / "pipe.png")
    (folder / "link.png").symlink_to(tmp_path / "nowhere.png")
    assert ImageFolder(folder, WHOLE).names == ["0.png"]
    assert messages(caplog) == [
        f"passed over 1 file in {folder} that no image is read from: 1 .png",
        f"skipped 1 of 2 images in {folder}: link.png (No such file or directory)",
    ]
