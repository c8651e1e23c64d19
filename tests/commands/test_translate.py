"""python -m fastgan.translate, as a user meets it."""

import os
import sys
from pathlib import Path, PurePosixPath

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from fastgan import generate, interpolate, train, translate
from fastgan.cli.pictures import Results
from fastgan.data.files import read_pixels
from fastgan.data.images import to_image, to_tensor
from fastgan.models import ResnetGenerator
from fastgan.training.networks import load_networks
from tests.commands.tiny_command import TINY

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


@pytest.mark.skipif(sys.platform != "linux", reason="other systems may have no links")
@pytest.mark.parametrize("link", [os.symlink, os.link])
def test_no_source_is_overwritten_by_a_link(tiny_translate, images, tmp_path, link):
    images(tmp_path / "photos", sizes=[(8, 8)], names=["a.png"])
    images(tmp_path / "far", sizes=[(8, 8)] * 2, names=["b.png", "c.png"])
    link(tmp_path / "far" / "b.png", tmp_path / "photos" / "b.png")
    before = (tmp_path / "far" / "b.png").read_bytes()
    outcome = tiny_translate("photos", "--output", "far", "--overwrite")
    assert outcome.code == 2 and "far/b.png is itself one of the images in photos, by a link" in outcome.err
    assert (tmp_path / "far" / "b.png").read_bytes() == before and names(tmp_path / "far") == ["b.png", "c.png"]


def test_nothing_is_overwritten_without_being_asked(tiny_translate, images, tmp_path):
    images(tmp_path / "photos", sizes=[(8, 8)] * 3)
    assert tiny_translate("photos").code == 0
    outcome = tiny_translate("photos")
    assert outcome.code == 2
    assert outcome.err == (
        "error: photos_AtoB/0.png and 2 more would be overwritten: give another --output, or --overwrite\n"
    )
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


def test_names_that_meet_the_longer_names_of_others(tiny_translate, images, tmp_path):
    sources = ["a.jpg", "a.jpg.png", "a.png", "A.bmp", "b.png/c.jpg", "b.jpg", "x/d.png", "X/D.jpg"]
    images(tmp_path / "photos", sizes=[(8, 8 + number) for number in range(len(sources))], names=sources)
    outcome = tiny_translate("photos")
    assert outcome.code == 0, outcome.err
    made = [path for path in (tmp_path / "photos_AtoB").rglob("*") if path.is_file()]
    assert sorted(Image.open(path).height for path in made) == list(range(8, 8 + len(sources)))
    assert len({str(path).casefold() for path in made}) == len(sources)


NAME = st.text(st.sampled_from("aAßé\u0301\udce9_2."), min_size=1, max_size=4).filter(lambda name: name[0] != ".")


@given(
    sources=st.lists(
        st.tuples(st.lists(NAME, max_size=2), NAME, st.sampled_from([".png", ".jpg", ".PNG", ".npy"])), max_size=12
    )
)
def test_every_result_has_a_place_of_its_own(sources):
    """On file systems that take capitals for small letters, too, and one spelling of an accent for another."""
    files = sorted({"/".join([*folders, name + suffix]) for folders, name, suffix in sources})
    targets = translate._targets(files, Path("out"), ".png")
    parts = [translate._key(PurePosixPath(target)) for target in targets]
    assert len(set(parts)) == len(files)
    inner = {translate._key(folder) for target in targets for folder in PurePosixPath(target).parents}
    assert not inner & set(parts), "a result has the name of a folder"
    assert all(
        target.parent == Path("out", file).parent and target.suffix == ".png" for target, file in zip(targets, files)
    )


@pytest.mark.skipif(sys.platform != "linux", reason="other systems take no such names")
def test_names_that_are_no_text_are_kept_as_they_are(tiny_translate, images, tmp_path):
    odd = os.fsdecode(b"caf\xe9")
    images(tmp_path / odd, sizes=[(8, 8)] * 2, names=[f"{odd}.png", f"{odd}.jpg"])
    assert tiny_translate(odd).code == 0
    assert sorted(os.listdir(os.fsencode(tmp_path / f"{odd}_AtoB"))) == [b"caf\xe9.jpg.png", b"caf\xe9.png.png"]


@pytest.mark.parametrize("batch_size", [1, 3])
@pytest.mark.parametrize(
    "error",
    [
        RuntimeError(
            "[enforce fail at alloc_cpu.cpp:124] DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 "
            "bytes. Error code 12"
        ),
        MemoryError(),
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate"),
        RuntimeError("std::bad_alloc"),
        RuntimeError("could not create a primitive"),  # as oneDNN says it
        RuntimeError("could not create a memory object"),
        RuntimeError("could not execute a primitive"),
    ],
)
def test_an_image_that_memory_does_not_hold_is_named_and_the_others_are_translated(
    tiny_translate, images, tmp_path, monkeypatch, batch_size, error
):
    images(tmp_path / "photos", sizes=[(8, 8), (24, 16), (8, 8), (8, 8), (8, 8)])
    whole = translate.translate

    def bounded(network, batch, *arguments):
        if batch.shape[0] * batch.shape[2] * batch.shape[3] > 128:  # two of the small ones
            raise error
        return whole(network, batch, *arguments)

    monkeypatch.setattr(translate, "translate", bounded)
    outcome = tiny_translate("photos", "--batch-size", batch_size)
    assert outcome.code == 1 and names(tmp_path / "photos_AtoB") == ["0.png", "2.png", "3.png", "4.png"]
    assert (
        "skipped 1 of 5 images could not be translated: photos/1.png: 24x16 pixels are more than memory holds (make "
        "it smaller, or cut it into pieces)\n"
    ) in outcome.err
    assert "--batch-size" not in outcome.err and "--crop-size" not in outcome.err


@pytest.mark.parametrize("batch_size", [1, 2])
@pytest.mark.parametrize("step", ["decode", "to_tensor", "save_image"])
def test_memory_may_end_at_any_step(tiny_translate, images, tmp_path, monkeypatch, step, batch_size):
    images(tmp_path / "photos", sizes=[(8, 8), (24, 16), (8, 8)])
    whole = getattr(translate, step)

    def bounded(what, *arguments, **options):
        if "1.png" in str(what) or 24 in getattr(what, "shape", ()):
            raise MemoryError
        return whole(what, *arguments, **options)

    monkeypatch.setattr(translate, step, bounded)
    outcome = tiny_translate("photos", "--batch-size", batch_size)
    assert outcome.code == 1 and names(tmp_path / "photos_AtoB") == ["0.png", "2.png"]
    assert outcome.err.count("photos/1.png: ") == 1 and "more than memory holds (make it smaller" in outcome.err


def test_images_for_which_others_left_no_memory_are_translated_alone(tiny_translate, images, tmp_path, monkeypatch):
    images(tmp_path / "photos", sizes=[(8, 8), (9, 8), (24, 16), (10, 8)])
    whole, prepared = translate.to_tensor, []

    def bounded(pixels):
        if pixels.shape[1] == 24 and len(prepared) == 2:  # while the two before it wait for others of their size
            prepared.append(None)
            raise MemoryError
        prepared.append(pixels)
        return whole(pixels)

    monkeypatch.setattr(translate, "to_tensor", bounded)
    outcome = tiny_translate("photos", "--batch-size", 2)
    assert outcome.code == 0 and "AtoB: 4 images translated" in outcome.out
    assert names(tmp_path / "photos_AtoB") == ["0.png", "1.png", "2.png", "3.png"]


def test_few_images_wait_for_others_of_their_size(tiny_translate, images, tmp_path, monkeypatch):
    images(tmp_path / "photos", sizes=[(width, 8) for width in range(8, 20)])
    waiting, most = 0, []
    prepare, whole = translate.to_tensor, translate.translate

    def prepared(pixels):
        nonlocal waiting
        image = prepare(pixels)
        waiting += image.nbytes
        most.append(waiting)
        return image

    def translated(network, batch, *arguments):
        nonlocal waiting
        waiting -= batch.nbytes
        return whole(network, batch, *arguments)

    monkeypatch.setattr(translate, "to_tensor", prepared)
    monkeypatch.setattr(translate, "translate", translated)
    monkeypatch.setattr(translate, "output_channels", lambda network: 3)  # which tries the network
    monkeypatch.setattr(translate, "WAITING_BYTES", 3 * 19 * 8 * 3 * 4)
    assert tiny_translate("photos", "--batch-size", 2).code == 0
    assert len(names(tmp_path / "photos_AtoB")) == 12
    assert max(most) <= 4 * 19 * 8 * 3 * 4 < sum(3 * 4 * 8 * width for width in range(8, 20))


def test_other_errors_end_the_command(tiny_translate, images, tmp_path, monkeypatch):
    images(tmp_path / "photos")

    def gone(*arguments):
        raise RuntimeError("the device is gone")

    monkeypatch.setattr(translate, "translate", gone)
    outcome = tiny_translate("photos")
    assert outcome.code == 2 and "the device is gone" in outcome.err


def test_images_past_the_limit_and_names_too_long_are_left_out(tiny_translate, images, tmp_path, monkeypatch):
    long = "x" * 248
    images(
        tmp_path / "photos",
        sizes=[(8, 8), (30, 10), (8, 8), (8, 8)],
        names=["0.png", "1.png", f"{long}.jpg", f"{long}.bmp"],
    )
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 140)
    outcome = tiny_translate("photos")
    assert outcome.code == 1 and names(tmp_path / "photos_AtoB") == ["0.png"]
    assert "photos/1.png: 300 pixels, and at most 280 are read: make it smaller, or cut it into pieces" in outcome.err
    assert f"{long}.jpg.png: File name too long" in outcome.err and "skipped 3 of 4" in outcome.err


def test_numbers_are_read_by_the_range_of_the_training(call, images, tmp_path, monkeypatch):
    for side in "AB":
        images(tmp_path / f"data/train{side}", sizes=[(32, 32)] * 2)
    made = call(train, "cyclegan", *TINY, "--dataroot", "data", "--max-steps", 1, "--range", "-1000", "3000")
    assert made.code == 0, made.err
    (tmp_path / "scans").mkdir()
    np.save(tmp_path / "scans" / "a.npy", np.full((8, 8), 1000, np.int32))
    seen = []
    whole = translate.translate

    def watched(network, batch, *arguments):
        seen.append(batch.max().item())
        return whole(network, batch, *arguments)

    monkeypatch.setattr(translate, "translate", watched)
    assert call(translate, "checkpoints/cyclegan", "scans").code == 0
    assert call(translate, "checkpoints/cyclegan", "scans", "--range", 0, 1000, "--output", "other").code == 0
    assert seen == pytest.approx([0, 1], abs=1e-4)
    outcome = call(translate, "checkpoints/cyclegan", "scans", "--range", 5, 5, "--output", "third")
    assert outcome.code == 2 and "--range is 5 5: give the numbers that become black and white" in outcome.err


def test_what_is_passed_over_and_how_much_of_the_range_is_used_is_said(tiny_translate, images, tmp_path):
    images(tmp_path / "photos")
    (tmp_path / "photos" / "b.heic").write_text("")
    np.save(tmp_path / "photos" / "c.npy", np.full((8, 8), 4095, np.uint16))
    outcome = tiny_translate("photos")
    assert outcome.code == 0
    assert "passed over 1 file in photos that no image is read from: 1 .heic\n" in outcome.err
    assert "images in photos hold uint16 numbers from 4095 to 4095" in outcome.err


def test_broken_images_are_named_and_counted(tiny_translate, images, tmp_path):
    images(tmp_path / "photos", sizes=[(64, 64)] * 3)
    whole = (tmp_path / "photos" / "1.png").read_bytes()
    (tmp_path / "photos" / "1.png").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "photos" / "text.jpg").write_text("no image")
    outcome = tiny_translate("photos")
    assert outcome.code == 1
    assert "skipped 2 of 4 images" in outcome.err
    assert "1.png: truncated" in outcome.err and "text.jpg: not an image" in outcome.err
    assert "AtoB: 2 images translated" in outcome.out
    for name in ("0.png", "2.png"):
        (tmp_path / "photos" / name).unlink()
    outcome = tiny_translate("photos", "--output", "other")
    assert outcome.code == 2 and "2 of 2 images could not be translated" in outcome.err


def test_published_networks(call, images, tmp_path, trained):
    images(tmp_path / "photos")
    state = load_networks(trained).networks["G_A"].state_dict()
    torch.save({**state, "model.2.running_mean": torch.zeros(2)}, tmp_path / "latest_net_G_A.pth")
    assert call(translate, "latest_net_G_A.pth", "photos", "--device", "cpu").code == 0
    assert names(tmp_path / "photos_AtoB") == ["0.png"]
    outcome = call(translate, "latest_net_G_A.pth", "photos", "--direction", "BtoA", "--device", "cpu")
    assert outcome.code == 2 and "holds no G_B, which translates BtoA (it holds G_A)" in outcome.err


@pytest.mark.parametrize(
    ("argv", "sentence"),
    [
        (["missing.pt", "photos"], "missing.pt: no such file or folder"),
        (["photos", "photos"], "photos holds no networks"),
        (["photos/0.png", "photos"], "photos/0.png is not a checkpoint"),
        (["missing.pt", "nowhere"], "nowhere is missing"),
        (["missing.pt", "empty"], "empty holds no image"),
        (["missing.pt"], "the following arguments are required: DIR"),
        (["missing.pt", "photos", "--direction", "up"], "--direction: invalid choice: 'up'"),
        (["missing.pt", "photos", "--batch_size", "0"], "--batch-size is 0: it must be 1 or more"),
        (["missing.pt", "photos", "--ouput", "x"], "unknown argument '--ouput': did you mean --output?"),
    ],
)
def test_bad_input_is_an_error(call, images, tmp_path, argv, sentence):
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


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork")
@pytest.mark.parametrize("at", ["in a file", "after a file"])
@pytest.mark.parametrize("suffix", [".png", ".npy"])
def test_a_killed_call_leaves_whole_files_and_the_next_one_replaces_them(call, images, tmp_path, suffix, at):
    names = ["a", "b", "c", "sub/d"]
    if suffix == ".png":
        images(tmp_path / "photos", sizes=[(8, 8)] * 4, names=[f"{name}.png" for name in names])
    else:
        (tmp_path / "photos" / "sub").mkdir(parents=True)
        for name in names:
            np.save(tmp_path / "photos" / f"{name}.npy", np.full((8, 8, 5), 7, np.uint8))
    channels = 3 if suffix == ".png" else 5
    torch.save(ResnetGenerator(channels, channels, 2, n_blocks=1).state_dict(), tmp_path / "network.pth")
    output = tmp_path / "photos_AtoB"

    def killed(at):
        """A child process that ends at its third result."""
        real, made = {"save": translate.save_image, "replace": os.replace}, []

        def save(image, path, **options):
            real["save"](image, path, **options)
            made.append(path)
            if at == "in a file" and len(made) == 3:
                os.truncate(path, path.stat().st_size // 2)
                os._exit(9)

        def replace(source, target):
            real["replace"](source, target)
            if at == "after a file" and len(made) == 3:
                os._exit(9)

        translate.save_image, os.replace = save, replace
        translate.main(["network.pth", "photos", "--device", "cpu"])

    child = os.fork()
    if child == 0:
        try:
            killed(at)
        finally:
            os._exit(1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 9
    there = sorted(path.name for path in output.iterdir())
    whole = 2 if at == "in a file" else 3
    assert [name for name in there if name[0] != "."] == [f"{name}{suffix}" for name in names[:whole]]
    assert len([name for name in there if name.endswith(f".c{suffix}")]) == 3 - whole  # half of it, hidden
    for name in names[:whole]:
        read_pixels(output / f"{name}{suffix}", channels)

    (output / "sub").mkdir(exist_ok=True)
    (output / "sub" / f"d{suffix}").write_text("of somebody else")
    outcome = call(translate, "network.pth", "photos", "--device", "cpu")
    assert outcome.code == 2 and f"sub/d{suffix} would be overwritten" in outcome.err
    (output / "sub" / f"d{suffix}").unlink()
    outcome = call(translate, "network.pth", "photos", "--device", "cpu")
    assert outcome.code == 0, outcome.err
    assert sorted(path.relative_to(output).as_posix() for path in output.rglob("*") if path.is_file()) == [
        f"{name}{suffix}" for name in names
    ]
    outcome = call(translate, "network.pth", "photos", "--device", "cpu")
    assert outcome.code == 2 and f"a{suffix} and 3 more would be overwritten" in outcome.err


def test_what_another_call_writes_just_now_is_not_taken_for_left(tmp_path):
    pytest.importorskip("fcntl")
    running = Results(tmp_path / "out")
    running.write(tmp_path / "out" / "a.png", lambda path: path.write_text("new"))
    assert Results(tmp_path / "out").left == set()
    running._file.close()  # as at the end of its process
    assert Results(tmp_path / "out").left == {tmp_path / "out" / "a.png"}
    (tmp_path / "out" / ".unfinished").write_text('"a.png"\n"../up\n7\n"b.p')  # the last line was cut off
    assert Results(tmp_path / "out").left == {tmp_path / "out" / "a.png"}


@pytest.mark.parametrize("command", ["translate", "generate", "interpolate"])
def test_no_picture_is_made_of_numbers_that_are_none(call, images, trained, runs, tmp_path, command):
    """Weights that are finite may still be so large that no result is."""
    source = trained if command == "translate" else runs("vae")
    stored = torch.load(source / "checkpoint.pt", weights_only=True)
    del stored["checksum"]
    for network in stored["state"]["networks"].values():
        for value in network.values():
            if value.is_floating_point() and value.dim() > 1:
                value.copy_(torch.where(torch.rand_like(value) < 0.5, -3e38, 3e38))
    torch.save(stored, tmp_path / "checkpoint.pt")
    images(tmp_path / "photos", sizes=[(8, 8)] * 2)
    if command == "translate":
        outcome = call(translate, "checkpoint.pt", "photos", "--device", "cpu")
        assert "photos/0.png: the networks make NaN or infinite pixels of it" in outcome.err
    else:
        outcome = call(generate if command == "generate" else interpolate, "checkpoint.pt", "--device", "cpu")
        assert "the networks make NaN or infinite pixels" in outcome.err
    assert outcome.code == 2 and outcome.err.count("\n") == 1
    assert sorted(path.name for path in tmp_path.rglob("*.*") if "photos/" not in str(path)) == ["checkpoint.pt"]
