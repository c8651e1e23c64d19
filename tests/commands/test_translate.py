"""python -m fastgan.translate, as a user meets it."""

import numpy as np
import pytest
import torch
from PIL import Image

from fastgan import translate
from fastgan.data.files import read_pixels
from fastgan.data.images import to_image, to_tensor
from fastgan.engine.networks import load_networks
from fastgan.models import ResnetGenerator

SIZES = [(16, 16), (17, 23), (1, 1), (3, 40), (16, 16)]  # width, height


def names(folder):
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*.png"))


@pytest.mark.parametrize("batch_size", [1, 2])
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_any_size_both_directions(tiny_translate, images, tmp_path, trained, batch_size, precision):
    images(tmp_path / "photos", sizes=SIZES, names=["0.png", "1.jpg", "2.png", "sub/3.bmp", "4.png"])
    outcome = tiny_translate("photos", "--direction", "both", "--batch-size", batch_size, "--precision", precision)
    assert outcome.code == 0, outcome.err
    assert "AtoB: 5 images translated into photos_AtoB" in outcome.out
    for direction, network in (("AtoB", "G_A"), ("BtoA", "G_B")):
        folder = tmp_path / f"photos_{direction}"
        assert names(folder) == ["0.png", "1.png", "2.png", "4.png", "sub/3.png"]
        for name, size in zip(["0.png", "1.png", "2.png", "sub/3.png", "4.png"], SIZES):
            assert Image.open(folder / name).size == size
        source = to_tensor(read_pixels(tmp_path / "photos" / "0.png")[0])[None]
        with torch.no_grad():
            expected = to_image(load_networks(trained).networks[network](source)[0])
        error = np.abs(np.asarray(expected, dtype=int) - np.asarray(Image.open(folder / "0.png"), dtype=int)).max()
        assert error <= (1 if precision == "fp32" else 12)


def test_output_folders(tiny_translate, images, tmp_path):
    images(tmp_path / "photos")
    assert tiny_translate("photos", "--output", "one").code == 0
    assert tiny_translate("photos", "--output", "two", "--direction", "both").code == 0
    assert tiny_translate("photos/", "--direction", "BtoA").code == 0
    for folder in ("one", "two/AtoB", "two/BtoA", "photos_BtoA"):
        assert names(tmp_path / folder) == ["0.png"]


def test_nothing_is_overwritten_without_being_asked(tiny_translate, images, tmp_path):
    images(tmp_path / "photos", sizes=[(8, 8)] * 3)
    assert tiny_translate("photos").code == 0
    outcome = tiny_translate("photos")
    assert outcome.code == 2
    assert outcome.err == ("error: photos_AtoB/0.png and 2 more would be overwritten: "
                           "give another --output, or --overwrite\n")
    assert tiny_translate("photos", "--overwrite").code == 0
    before = (tmp_path / "photos" / "0.png").read_bytes()
    for inside in ("photos", "photos/results"):
        outcome = tiny_translate("photos", "--output", inside, "--overwrite")
        assert outcome.code == 2 and "results would go into photos itself" in outcome.err
    assert (tmp_path / "photos" / "0.png").read_bytes() == before


def test_names_that_differ_in_their_suffix_alone(tiny_translate, images, tmp_path):
    images(tmp_path / "photos", sizes=[(8, 8)] * 3, names=["a.png", "a.jpg", "b.jpg"])
    assert tiny_translate("photos").code == 0
    assert names(tmp_path / "photos_AtoB") == ["a.jpg.png", "a.png.png", "b.png"]


def test_broken_images_are_named_and_counted(tiny_translate, images, tmp_path):
    images(tmp_path / "photos", sizes=[(64, 64)] * 3)
    whole = (tmp_path / "photos" / "1.png").read_bytes()
    (tmp_path / "photos" / "1.png").write_bytes(whole[:len(whole) // 2])
    (tmp_path / "photos" / "text.jpg").write_text("no image")
    outcome = tiny_translate("photos")
    assert outcome.code == 0
    assert "skipped 2 of 4 images" in outcome.err
    assert "1.png: truncated" in outcome.err and "text.jpg: not an image" in outcome.err
    assert "AtoB: 2 images translated" in outcome.out
    for name in ("0.png", "2.png"):
        (tmp_path / "photos" / name).unlink()
    outcome = tiny_translate("photos", "--output", "other")
    assert outcome.code == 2 and "2 of 2 images could not be read" in outcome.err


def test_published_networks(call, images, tmp_path, trained):
    images(tmp_path / "photos")
    state = load_networks(trained).networks["G_A"].state_dict()
    torch.save({**state, "model.2.running_mean": torch.zeros(2)}, tmp_path / "latest_net_G_A.pth")
    assert call(translate, "latest_net_G_A.pth", "photos", "--device", "cpu").code == 0
    assert names(tmp_path / "photos_AtoB") == ["0.png"]
    outcome = call(translate, "latest_net_G_A.pth", "photos", "--direction", "BtoA", "--device", "cpu")
    assert outcome.code == 2 and "holds no G_B, which translates BtoA (it holds G_A)" in outcome.err


@pytest.mark.parametrize(("argv", "sentence"), [
    (["missing.pt", "photos"], "missing.pt: no such file or folder"),
    (["photos", "photos"], "photos holds no networks"),
    (["photos/0.png", "photos"], "photos/0.png is not a checkpoint"),
    (["missing.pt", "nowhere"], "nowhere is missing"),
    (["missing.pt", "empty"], "empty holds no image"),
    (["missing.pt"], "the following arguments are required: DIR"),
    (["missing.pt", "photos", "--direction", "up"], "--direction: invalid choice: 'up'"),
    (["missing.pt", "photos", "--batch_size", "0"], "--batch-size is 0: it must be 1 or more"),
    (["missing.pt", "photos", "--ouput", "x"], "unknown argument '--ouput': did you mean --output?"),
])
def test_bad_input_gets_a_sentence(call, images, tmp_path, argv, sentence):
    images(tmp_path / "photos")
    (tmp_path / "empty").mkdir()
    outcome = call(translate, *argv)
    assert outcome.code == 2
    assert outcome.err.startswith(f"error: {sentence}") and outcome.err.count("\n") == 1


def test_conversions_are_said_once_and_16_bits_stay_16(tiny_translate, images, tmp_path):
    folder = tmp_path / "photos"
    images(folder, sizes=[(8, 8)] * 2)
    Image.open(folder / "0.png").convert("P").save(folder / "palette.png")
    Image.fromarray(np.full((8, 8), 1000, dtype=np.uint16)).save(folder / "deep.png")
    outcome = tiny_translate("photos", "--direction", "both")
    assert outcome.code == 0, outcome.err
    assert outcome.err.count("2 images were converted to RGB: 1 16-bit grey, 1 palette\n") == 1
    pixels, _ = read_pixels(tmp_path / "photos_AtoB" / "deep.png")
    assert pixels.dtype == torch.uint16 and (pixels.numpy() % 257 != 0).any()
    assert read_pixels(tmp_path / "photos_AtoB" / "palette.png")[0].dtype == torch.uint8


@pytest.mark.parametrize("channels, suffix", [(4, ".png"), (6, ".npy")])
def test_as_many_channels_as_the_network_has(call, tmp_path, channels, suffix):
    torch.save(ResnetGenerator(channels, channels, 4, n_blocks=1).state_dict(), tmp_path / "latest_net_G.pth")
    (tmp_path / "photos").mkdir()
    pixels = np.random.default_rng(0).integers(0, 256, (9, 8, channels), dtype=np.uint8)
    np.save(tmp_path / "photos" / "bands.npy", pixels)
    outcome = call(translate, "latest_net_G.pth", "photos", "--device", "cpu")
    assert outcome.code == 0, outcome.err
    assert read_pixels(tmp_path / "photos_AtoB" / f"bands{suffix}", channels)[0].shape == (9, 8, channels)
