"""python -m fastgan.generate, interpolate and retrieve, as a user meets them."""

import itertools

import numpy as np
import pytest
import torch
from PIL import Image

from fastgan import generate, interpolate, retrieve
from fastgan.data import DataOptions, open_dataset, to_tensor
from fastgan.data.files import read_pixels
from fastgan.evaluation import codes
from fastgan.recipes._latent import LatentRecipe
from fastgan.training.networks import load_recipe

COMMANDS = {"generate": generate, "interpolate": interpolate, "retrieve": retrieve}


@pytest.fixture
def digits(tmp_path):
    """A gallery with a folder for each of three classes, 4 images in each."""
    dataset = open_dataset("labelled", DataOptions(max_dataset_size=40))
    for label in range(3):
        (tmp_path / "digits" / str(label)).mkdir(parents=True)
        for number, index in enumerate((dataset.labels == label).nonzero().flatten().tolist()[:4]):
            pixels = dataset.source.load(index).numpy()[:, :, 0]
            Image.fromarray(pixels).save(tmp_path / "digits" / str(label) / f"{number}.png")
    return tmp_path / "digits"


def picture(path):
    return np.asarray(Image.open(path).convert("L")).astype(int)


def cell(image, row, column, *, side=84, gap=4, left=0, under=0):
    """The 28x28 pixels of a cell of a grid that enlarged them by a whole factor."""
    top, start = gap + row * (side + gap + under), left + gap + column * (side + gap)
    return image[top : top + side, start : start + side][1 :: side // 28, 1 :: side // 28]


def as_pixels(image):
    return ((image[0] + 1) * 127.5).round().numpy().astype(int)


@pytest.mark.parametrize("name", COMMANDS)
def test_help_shows_an_example(call, name):
    outcome = call(COMMANDS[name], "--help")
    assert outcome.code == 0 and f"example: python -m fastgan.{name} checkpoints/" in outcome.out


def test_a_grid_of_random_images(call, runs, tmp_path):
    run = runs("dcgan")
    outcome = call(generate, run, "--output", "some.png", "--seed", 5)
    assert outcome.code == 0 and outcome.out == "64 images are in some.png\n", outcome.err
    recipe = load_recipe(run)
    images = recipe.decode(recipe.latents(64, torch.Generator().manual_seed(5)))
    grid = picture(tmp_path / "some.png")
    assert np.abs(cell(grid, 3, 2) - as_pixels(images[26])).max() <= 1
    call(generate, run, "--output", "same.png", "--seed", 5)
    call(generate, run, "--output", "other.png", "--seed", 6)
    assert np.array_equal(grid, picture("same.png")) and not np.array_equal(grid, picture("other.png"))


def test_a_row_for_each_class_shows_the_same_codes(call, runs):
    run = runs("cgan")
    assert call(generate, run, "--labels", "7,0-2", "--count", 3, "--output", "rows.png").code == 0
    recipe = load_recipe(run)
    codes = recipe.latents(3, torch.Generator().manual_seed(0))
    grid = picture("rows.png")
    left = grid.shape[1] - (4 + 3 * 88)
    for row, label in enumerate((7, 0, 1, 2)):
        image = recipe.decode(codes, torch.full((3,), label))[2]
        assert np.abs(cell(grid, row, 2, left=left) - as_pixels(image)).max() <= 1


def test_a_file_for_each_image(call, runs, tmp_path):
    run = runs("cgan")
    outcome = call(generate, run, "--files", "--labels", "3,8", "--count", 2)
    assert outcome.code == 0 and outcome.out == f"4 images are in {run / 'generated'}\n"
    names = sorted(path.name for path in (run / "generated").iterdir())
    assert names == ["3_00000.png", "3_00001.png", "8_00000.png", "8_00001.png"]
    recipe = load_recipe(run)
    expected = recipe.decode(recipe.latents(2, torch.Generator().manual_seed(0)), torch.tensor([8, 8]))[1]
    assert (to_tensor(read_pixels(run / "generated" / "8_00001.png", 1)[0]) - expected).abs().max() < 1.01 / 127.5
    outcome = call(generate, run, "--files", "--labels", "3,8", "--count", 2)
    assert outcome.code == 2 and "3_00000.png and 3 more would be overwritten: give another --output" in outcome.err
    assert call(generate, run, "--files", "--labels", "3,8", "--count", 2, "--overwrite").code == 0


def test_files_are_written_while_few_images_are_in_memory(call, runs, tmp_path, monkeypatch):
    """However many are asked for: they are decoded a few at a time, and written before the next ones are."""
    run = runs("cgan")
    arguments = ("--files", "--labels", "3,8", "--count", 5)
    assert call(generate, run, *arguments, "--output", "at_once").code == 0
    events, plain, save = [], LatentRecipe.decode, generate.save_image
    monkeypatch.setattr(LatentRecipe, "decode", lambda self, z, labels: events.append(len(z)) or plain(self, z, labels))
    monkeypatch.setattr(generate, "save_image", lambda image, path: events.append(path.name[:-4]) or save(image, path))
    monkeypatch.setattr(codes, "AT_ONCE", 2)
    assert call(generate, run, *arguments, "--output", "in_parts").code == 0
    assert events == [
        each
        for label in "38"
        for each in (2, f"{label}_00000", f"{label}_00001", 2, f"{label}_00002", f"{label}_00003", 1, f"{label}_00004")
    ]
    for path in (tmp_path / "at_once").iterdir():
        difference = np.abs(picture(path) - picture(tmp_path / "in_parts" / path.name))
        assert difference.max() <= 1, "products of fewer rows may round otherwise"


def test_long_walks_are_decoded_in_parts(call, runs, monkeypatch):
    run = runs("cvae")
    arguments = ("--labels", 2, 5, "--steps", 6)
    call(interpolate, run, *arguments, "--output", "at_once.png", "--gif", "at_once.gif")
    sizes, plain = [], LatentRecipe.decode
    monkeypatch.setattr(LatentRecipe, "decode", lambda self, z, labels: sizes.append(len(z)) or plain(self, z, labels))
    monkeypatch.setattr(codes, "AT_ONCE", 3)
    assert call(interpolate, run, *arguments, "--output", "in_parts.png", "--gif", "in_parts.gif").code == 0
    assert sizes == [3, 3, 1]
    assert np.abs(picture("at_once.png") - picture("in_parts.png")).max() <= 1
    with Image.open("in_parts.gif") as film:
        assert film.n_frames == 12


def test_a_strip_between_random_codes(call, runs):
    run = runs("dcgan")
    outcome = call(interpolate, run, "--seeds", 3, 9, "--steps", 4, "--output", "strip.png", "--gif", "walk.gif")
    assert outcome.code == 0, outcome.err
    assert outcome.out == "5 images are in strip.png\nthe same, moving, in walk.gif\n"
    recipe = load_recipe(run)
    ends = [recipe.latents(1, torch.Generator().manual_seed(seed)) for seed in (3, 9)]
    strip = picture("strip.png")
    for k in range(5):
        expected = recipe.decode(ends[0] + k * (ends[1] - ends[0]) / 4)[0]
        assert np.abs(cell(strip, 0, k) - as_pixels(expected)).max() <= 1
    with Image.open("walk.gif") as film:
        assert film.n_frames == 8 and film.info["loop"] == 0 and film.size == (140, 140)


@pytest.mark.parametrize("name", ["cgan", "cvae"])
def test_a_strip_between_classes(call, runs, name):
    run = runs(name)
    assert call(interpolate, run, "--labels", 2, 5, "--seed", 4, "--steps", 3, "--output", "strip.png").code == 0
    recipe = load_recipe(run)
    code = recipe.latents(1, torch.Generator().manual_seed(4))
    strip = picture("strip.png")
    for k, label in ((0, 2), (3, 5)):
        expected = recipe.decode(code, torch.tensor([label]))[0]
        assert np.abs(cell(strip, 0, k) - as_pixels(expected)).max() <= 1, "the ends are the classes themselves"
    halves = [cell(strip, 0, k) for k in range(4)]
    assert all(not np.array_equal(one, other) for one, other in itertools.pairwise(halves))


def test_a_strip_between_images(call, runs, digits):
    run = runs("vae")
    ends = [digits / "0" / "1.png", digits / "2" / "0.png"]
    assert call(interpolate, run, "--images", *ends, "--steps", 2, "--output", "strip.png").code == 0
    strip = picture("strip.png")
    real = [to_tensor(read_pixels(path, 1)[0]) for path in ends]
    recipe = load_recipe(run)
    codes = recipe.encode(torch.stack(real))
    middle = recipe.decode((codes[:1] + codes[1:]) / 2)[0]
    for column, expected in ((0, real[0]), (2, middle), (4, real[1])):
        assert np.abs(cell(strip, 0, column) - as_pixels(expected)).max() <= 1


def test_a_strip_between_images_of_a_conditional_system(call, runs, digits):
    ends = ("--images", digits / "0" / "1.png", digits / "2" / "0.png")
    outcome = call(interpolate, runs("cvae"), *ends, "--output", "strip.png")
    assert outcome.code == 2 and "cvae is conditional on a class: give those of the two images" in outcome.err
    assert call(interpolate, runs("cvae"), *ends, "--labels", 0, 2, "--output", "strip.png").code == 0


def test_the_nearest_images(call, runs, digits):
    run = runs("vae")
    outcome = call(
        retrieve,
        run,
        "--query",
        digits / "1" / "2.png",
        "0",
        "--gallery",
        digits,
        "--count",
        3,
        "--output",
        "sheet.png",
    )
    assert outcome.code == 0, outcome.err
    lines = outcome.out.splitlines()
    assert lines[0].startswith("nearest to ")
    assert lines[1].split() == ["0.0000", str(digits / "1" / "2.png"), "(class", "1)"]
    paths = sorted(digits.rglob("*.png"))
    images = torch.stack([to_tensor(read_pixels(path, 1)[0]) for path in paths])
    codes = load_recipe(run).encode(images).double()
    distances = (codes - codes[0]).norm(dim=1)
    order = [index for index in distances.argsort(stable=True).tolist() if index != 0][:3]
    assert lines[4] == "nearest to 0:"
    found = [line.split()[1] for line in lines[5:8]]
    assert found == [str(paths[index]) for index in order], "without the query itself"
    assert [float(line.split()[0]) for line in lines[5:8]] == pytest.approx(distances[order].tolist(), abs=2e-4)
    sheet = picture("sheet.png")
    under = (sheet.shape[0] - 4) // 2 - 88
    for column, index in enumerate([0, *order]):
        assert np.array_equal(cell(sheet, 1, column, under=under), as_pixels(images[index]))
    assert sheet[4 + 84 : 4 + 84 + under].min() < 128, "distances are written under the images"


def test_a_gallery_of_idx_files_and_of_a_conditional_system(call, runs, tmp_path):
    from tests.data.common import write_idx

    write_idx(tmp_path / "idx", 6, size=(28, 28))
    write_idx(tmp_path / "idx", 3, "t10k", size=(28, 28), gzipped=True)
    run = runs("cvae")
    outcome = call(retrieve, run, "--query", "7", "--gallery", "idx", "--output", "sheet.png", "--count", 20)
    assert outcome.code == 0, outcome.err
    assert len(outcome.out.splitlines()) == 1 + 8 + 1, "all of both sets but the query"
    Image.new("L", (28, 28)).save("query.png")
    outcome = call(retrieve, run, "--query", "query.png", "--gallery", "idx", "--output", "two.png")
    assert outcome.code == 2 and "cvae is conditional on a class: give that of query.png as --label 3" in outcome.err
    outcome = call(retrieve, run, "--query", "query.png", "--gallery", "idx", "--label", 2, "--output", "two.png")
    assert outcome.code == 0, outcome.err


def test_pictures_stay_unless_asked(call, runs, digits):
    for module, arguments in ((generate, ()), (interpolate, ()), (retrieve, ("--query", "0", "--gallery", digits))):
        first = call(module, runs("vae"), *arguments)
        assert first.code == 0, first.err
        again = call(module, runs("vae"), *arguments)
        assert again.code == 2 and again.err.endswith("would be overwritten: give another --output, or --overwrite\n")
        assert call(module, runs("vae"), *arguments, "--overwrite").code == 0


@pytest.mark.parametrize(
    "name, recipe, arguments, said",
    [
        ("generate", "vae", ("--labels", "3"), "--labels 3: vae is not conditional on a class"),
        ("generate", "cgan", ("--labels", "3,12"), "there is no class 12: classes run from 0 to 9"),
        ("generate", "vae", ("--seed", 2**64), "--seed: '18446744073709551616' is not a whole number from 0 to 1844"),
        ("interpolate", "vae", ("--seeds", "1", "x"), "--seeds: 'x' is not a whole number from 0 to"),
        ("generate", "vae", ("--count", "0"), "--count is 0: it must be 1 or more"),
        (
            "generate",
            "vae",
            ("--count", "1000000"),
            "--count is 1000000: a picture holds at most 11554 images of this size, and --files writes up to 100000",
        ),
        ("generate", "cgan", ("--count", "1156"), "a picture holds at most 1155 images of each class of this size"),
        (
            "generate",
            "cgan",
            ("--count", "100001", "--files"),
            "--count is 100001: at most 100000 files of a class go in one folder",
        ),
        (
            "generate",
            "vae",
            ("--output", "grid.jpg"),
            "--output grid.jpg: the file is written as PNG, so its name ends in .png",
        ),
        ("interpolate", "dcgan", ("--images", "a.png", "b.png"), "dcgan has no encoder, which --images needs"),
        ("interpolate", "vae", ("--images", "a.png", "b.png"), "a.png: No such file or directory"),
        (
            "interpolate",
            "vae",
            ("--labels", "1", "2"),
            "--labels: vae is not conditional on a class; give two --images or two --seeds",
        ),
        ("interpolate", "cgan", ("--labels", "1", "10"), "there is no class 10: classes run from 0 to 9"),
        ("interpolate", "vae", ("--steps", "0"), "--steps is 0: it must be 1 or more"),
        ("interpolate", "vae", ("--steps", 10**12), "the strip holds at most 11553 steps of images of this size"),
        ("interpolate", "vae", ("--gif", "a.png"), "--gif a.png: the file is written as GIF, so its name ends in .gif"),
        ("retrieve", "dcgan", ("--query", "0", "--gallery", "digits"), "dcgan has no encoder, which retrieve needs"),
        ("retrieve", "vae", ("--query", "0", "--gallery", "nowhere"), "nowhere is missing: it should hold IDX files"),
        ("retrieve", "vae", ("--query", "12", "--gallery", "digits"), "--query 12: the gallery has 12 images, 0 to 11"),
        ("retrieve", "vae", ("--query", "0", "--gallery", "digits", "--label", "1"), "--label: vae is not conditional"),
        ("retrieve", "vae", ("--query", "0", "--gallery", "digits", "--count", "0"), "--count is 0"),
        (
            "retrieve",
            "cvae",
            ("--query", "0", "--gallery", "digits/1"),
            "this gallery has none: give that of its images",
        ),
    ],
)
def test_bad_requests_are_errors(call, runs, digits, name, recipe, arguments, said):
    output = () if "--output" in arguments else ("--output", "new.png")
    outcome = call(COMMANDS[name], runs(recipe), *arguments, *output)
    assert outcome.code == 2 and outcome.err.startswith("error: ") and outcome.err.count("\n") == 1
    assert said in outcome.err


@pytest.mark.parametrize(
    "name, arguments", [("generate", ()), ("interpolate", ()), ("retrieve", ("--query", "0", "--gallery", "digits"))]
)
def test_translations_have_no_codes(call, trained, name, arguments):
    outcome = call(COMMANDS[name], trained, *arguments)
    assert outcome.code == 2
    assert f"cyclegan has no latent codes for {name}: it translates images, which python -m" in outcome.err


def test_there_must_be_a_run(call, tmp_path):
    outcome = call(generate, "nowhere")
    assert outcome.code == 2 and "nowhere" in outcome.err and outcome.err.count("\n") == 1
