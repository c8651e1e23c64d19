"""python -m fastgan.export, fastgan.load_generator and python -m fastgan.demo."""

import importlib.util
import json
import subprocess
import sys

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

import fastgan
from fastgan import demo, export, generate, models, reference, translate
from fastgan.evaluation import exporting
from fastgan.evaluation.translation import translate as translate_images
from fastgan.training.networks import load_networks, load_recipe

KEYS = {"G_A": "AtoB", "G_B": "BtoA"}


def images(*shape):
    return torch.rand(shape, generator=torch.Generator().manual_seed(3)) * 2 - 1


def published(folder, network, name="latest_net_G.pth"):
    folder.mkdir(parents=True, exist_ok=True)
    torch.save(network.state_dict(), folder / name)
    return folder / name


def without_fastgan(code, *arguments):
    """Run code in a process in which fastgan cannot be imported."""
    blocked = "import sys; sys.modules['fastgan'] = None\n" + code
    result = subprocess.run([sys.executable, "-c", blocked, *map(str, arguments)], capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    return result.stdout


def test_state_dicts_have_the_published_keys_and_load_in_the_published_network(call, trained, tmp_path):
    outcome = call(export, trained, "--to", "pth", "--output", tmp_path / "out")
    assert outcome.code == 0, outcome.err
    networks = load_networks(trained).networks
    for name in KEYS:
        file = tmp_path / "out" / f"latest_net_{name}.pth"
        assert f"{name} (ResnetGenerator) is in {file}" in outcome.out
        plain = reference.get("cyclegan")(n_blocks=6, ngf=2, ndf=2).networks[name].eval()
        plain.load_state_dict(torch.load(file, weights_only=True))
        torch.testing.assert_close(plain(images(1, 3, 32, 32)), networks[name](images(1, 3, 32, 32)), rtol=0, atol=1e-4)
    again = load_networks(tmp_path / "out").networks
    assert all(
        torch.equal(again["G_B"].state_dict()[key], value) for key, value in networks["G_B"].state_dict().items()
    )


def test_safetensors_of_one_network(call, trained, tmp_path):
    from safetensors.torch import load_file

    outcome = call(export, trained, "--to", "safetensors", "--network", "D_A", "--output", tmp_path / "D.safetensors")
    assert outcome.code == 0, outcome.err
    expected = load_networks(trained).networks["D_A"].state_dict()
    found = load_file(tmp_path / "D.safetensors")
    assert found.keys() == expected.keys() and all(torch.equal(found[key], expected[key]) for key in expected)


@pytest.mark.parametrize("direction", KEYS.values())
def test_a_torch_program_needs_no_fastgan(call, trained, tmp_path, direction):
    outcome = call(export, trained, "--to", "pt2", "--network", direction, "--output", tmp_path / "G.pt2")
    assert outcome.code == 0, outcome.err
    assert "torch.export agrees with fastgan within" in outcome.out and "multiples of 4" in outcome.out
    x = images(3, 3, 20, 12)
    torch.save(x, tmp_path / "x.pt")
    code = """
import torch
module = torch.export.load(sys.argv[1]).module()
torch.save(module(torch.load(sys.argv[2])), sys.argv[3])
"""
    without_fastgan(code, tmp_path / "G.pt2", tmp_path / "x.pt", tmp_path / "y.pt")
    expected = fastgan.load_generator(trained, direction)(x)
    torch.testing.assert_close(torch.load(tmp_path / "y.pt"), expected, rtol=0, atol=1e-4)


def test_onnx_is_compared_and_takes_other_sizes(call, trained, tmp_path):
    onnxruntime = pytest.importorskip("onnxruntime")
    outcome = call(export, trained, "--to", "onnx", "--network", "G_A", "--output", tmp_path / "G.onnx")
    assert outcome.code == 0 and not outcome.err, outcome.err
    assert "onnxruntime, opset 18, agrees with fastgan within" in outcome.out and "the tolerance is" in outcome.out
    assert "2 random images and 2 sample images" in outcome.out
    session = onnxruntime.InferenceSession(tmp_path / "G.onnx")
    (taken,) = session.get_inputs()
    assert (taken.name, taken.shape[0], taken.shape[1]) == ("images", "batch", 3)
    for shape in ((1, 3, 8, 8), (3, 3, 16, 36)):
        found = torch.from_numpy(session.run(None, {"images": images(*shape).numpy()})[0])
        expected = fastgan.load_generator(trained)(images(*shape))
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-3)


def test_translators_with_batch_norm_leave_as_translate_runs_them(call, tmp_path):
    network = models.UnetGenerator(3, 3, 5, 4, "batch", dropout=True)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.fill_(0.3), module.running_var.fill_(2.0)
    file = published(tmp_path / "net", network)
    x = images(1, 3, 32, 96)  # planes of one pixel in the middle
    for flags, running in (([], False), (["--eval"], True)):
        path = tmp_path / f"G{running}.pt2"
        outcome = call(export, file, "--to", "pt2", "--output", path, *flags)
        assert outcome.code == 0, outcome.err
        module = torch.export.load(path).module()
        expected = translate_images(network.eval(), x, running_statistics=running)
        torch.testing.assert_close(module(x), expected, rtol=0, atol=1e-5)
    assert (module(x) - translate_images(network, x)).abs().max() > 0.01, "the two differ here"


@pytest.mark.parametrize("recipe", ["cgan", "cvae"])
def test_what_makes_images_of_codes(call, runs, tmp_path, recipe):
    pytest.importorskip("onnxruntime")
    run = load_recipe(runs(recipe))
    codes, labels = run.latents(3, torch.Generator().manual_seed(1)), torch.tensor([1, 0, 7])
    expected = run.decode(codes, labels)
    outcome = call(export, runs(recipe), "--to", "pt2", "--output", tmp_path / "G.pt2")
    assert outcome.code == 0, outcome.err
    found = torch.export.load(tmp_path / "G.pt2").module()(codes, labels)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)
    if recipe == "cvae":
        assert call(export, runs(recipe), "--to", "onnx", "--output", tmp_path / "G.onnx").code == 0
        session = exporting.onnx_session((tmp_path / "G.onnx").read_bytes())
        torch.testing.assert_close(session(codes, labels), expected, rtol=0, atol=1e-5)
        assert call(export, runs(recipe), "--to", "folder", "--output", tmp_path / "model").code == 0
        ours = fastgan.load_generator(tmp_path / "model")
        assert torch.equal(ours.state_dict()["model.0.weight"], run.networks["G"].state_dict()["model.0.weight"])
        assert "fastgan.translate" not in (tmp_path / "model" / "README.md").read_text()


@pytest.mark.parametrize("wrong", ["no activation", "another weight", "nan"])
def test_a_program_that_differs_is_not_written(call, trained, tmp_path, monkeypatch, wrong):
    original = exporting.translator

    def spoilt(*arguments):
        program = original(*arguments)
        layers = program.module.model
        if wrong == "no activation":
            layers[6] = nn.Identity()
        else:
            layers[1].weight.data[0, 0, 0, 0] = float("nan") if wrong == "nan" else 1.0
        return program

    monkeypatch.setattr(exporting, "translator", spoilt)
    outcome = call(export, trained, "--to", "pt2", "--network", "G_A", "--output", tmp_path / "G.pt2")
    assert outcome.code == 2 and "G.pt2 is not written: torch.export differs by" in outcome.err
    assert not (tmp_path / "G.pt2").exists()


def test_the_tolerance_is_above_rounding_and_below_faults():
    torch.manual_seed(0)
    network = models.init_weights(models.ResnetGenerator(3, 3, 4, "instance", False, 2)).eval()
    program = exporting.translator(network)
    ours = exporting.agreement(program, program.module)
    halved = exporting.agreement(program, lambda x: program.module(x.half().float()))
    assert ours.good and ours.error < ours.tolerance / 4
    assert not halved.good and ours.tolerance < 1 / 255
    other_size = exporting.agreement(program, lambda x: program.module(x)[..., 1:])
    assert not other_size.good


def test_a_folder_loads_by_path_and_translates(call, trained, tmp_path, images):
    outcome = call(export, trained, "--to", "folder", "--output", tmp_path / "models")
    assert outcome.code == 0, outcome.err
    folder = tmp_path / "models" / "G_B"
    assert {file.name for file in folder.iterdir()} == {"README.md", "config.json", "model.safetensors", "samples.png"}
    card = (folder / "README.md").read_text()
    assert "samples.png" in card and "--direction BtoA" in card and "recipe `cyclegan`" in card
    assert (folder / "samples.png").read_bytes() == max((trained / "samples").iterdir()).read_bytes()
    ours, expected = fastgan.load_generator(folder), fastgan.load_generator(trained, "BtoA")
    assert not ours.training
    assert all(torch.equal(ours.state_dict()[key], value) for key, value in expected.state_dict().items())
    images(tmp_path / "photos")
    arguments = ("--direction", "BtoA", "--device", "cpu", "--output")
    assert call(translate, folder, tmp_path / "photos", *arguments, tmp_path / "a").code == 0
    assert call(translate, trained, tmp_path / "photos", *arguments, tmp_path / "b").code == 0
    assert (tmp_path / "a" / "0.png").read_bytes() == (tmp_path / "b" / "0.png").read_bytes()


def test_a_folder_of_a_published_file_shows_what_it_makes(call, tmp_path):
    file = published(tmp_path / "net", models.ResnetGenerator(3, 3, 2, n_blocks=1))
    assert call(export, file, "--to", "folder", "--output", tmp_path / "model").code == 0
    with Image.open(tmp_path / "model" / "samples.png") as picture:
        assert picture.size[1] > picture.size[0] // 2 > 64
    x = torch.rand(1, 3, 16, 16)
    ours, expected = fastgan.load_generator(tmp_path / "model"), fastgan.load_generator(file)
    assert torch.equal(ours(x), expected(x))


@pytest.mark.parametrize(
    "damage, sentence",
    [
        (lambda folder: (folder / "config.json").write_text("{"), "it is not JSON"),
        (lambda folder: (folder / "config.json").write_text("{}"), "is not a generator's folder of fastgan"),
        (lambda folder: (folder / "model.safetensors").unlink(), "lacks model.safetensors"),
        (lambda folder: (folder / "model.safetensors").write_bytes(b"x" * 50), "is damaged, or not a safetensors file"),
        (lambda folder: edit(folder, network="Q"), "has no network Q"),
        (lambda folder: edit(folder, network=3), "does not say which network"),
        (lambda folder: edit(folder, description=[]), "does not say which network"),
        (lambda folder: edit(folder, network="D_A"), "D_A"),
    ],
)
def test_damaged_folders_are_told(call, trained, tmp_path, damage, sentence):
    assert call(export, trained, "--to", "folder", "--network", "G_A", "--output", tmp_path / "model").code == 0
    damage(tmp_path / "model")
    with pytest.raises(ValueError, match=sentence):
        fastgan.load_generator(tmp_path / "model")


def edit(folder, **values):
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | values))


@pytest.mark.parametrize(
    "flags, sentence",
    [
        (["--to", "pth", "--network", "Q"], "--network Q: choose from G_A"),
        (["--to", "onnx", "--network", "D_A"], "--to onnx takes generators, not D_A"),
        (["--to", "onnx", "--network", "G_A", "--output", "G.pt2"], "ends in .onnx"),
        (["--to", "tflite"], "invalid choice: 'tflite'"),
        ([], "the following arguments are required: --to"),
    ],
)
def test_flags_that_do_not_fit(call, trained, flags, sentence):
    outcome = call(export, trained, *flags)
    assert outcome.code == 2 and outcome.err.startswith("error: ") and sentence in outcome.err


def test_nothing_is_overwritten_unasked(call, trained, tmp_path):
    (tmp_path / "G.pth").write_text("mine")
    flags = ("--to", "pth", "--network", "G_A", "--output", tmp_path / "G.pth")
    outcome = call(export, trained, *flags)
    assert outcome.code == 2 and "would be overwritten" in outcome.err
    assert (tmp_path / "G.pth").read_text() == "mine"
    assert call(export, trained, *flags, "--overwrite").code == 0
    assert fastgan.load_generator(tmp_path / "G.pth")


def hide(monkeypatch, *names):
    found = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *rest: None if name in names else found(name, *rest))


def test_missing_packages_are_told_with_the_command(call, trained, tmp_path, monkeypatch):
    hide(monkeypatch, "onnxscript", "onnxruntime")
    outcome = call(export, trained, "--to", "onnx", "--output", tmp_path / "out")
    assert outcome.code == 2
    assert outcome.err == ("error: ONNX needs onnxscript and onnxruntime: pip install onnx onnxscript onnxruntime\n")


def test_load_generator_tells_what_it_cannot_do(trained, runs):
    with pytest.raises(ValueError, match="choose from AtoB, BtoA"):
        fastgan.load_generator(trained, "sideways")
    with pytest.raises(ValueError, match="no such file"):
        fastgan.load_generator(trained / "nothing.pth")
    assert isinstance(fastgan.load_generator(runs("cgan")), models.MLPGenerator)


def test_the_demo_tells_what_it_needs(call, trained, monkeypatch):
    hide(monkeypatch, "gradio")
    outcome = call(demo, trained)
    assert (
        outcome.code == 2
        and outcome.err == "error: the page needs gradio, which is not installed: pip install gradio\n"
    )


def test_the_demo_translates_as_the_command_does(call, trained, tmp_path, images):
    images(tmp_path / "photos", sizes=((18, 14),))
    assert call(translate, trained, tmp_path / "photos", "--device", "cpu", "--output", tmp_path / "out").code == 0
    run = demo.translating({"AtoB": fastgan.load_generator(trained)})
    with Image.open(tmp_path / "photos" / "0.png") as image, Image.open(tmp_path / "out" / "0.png") as expected:
        difference = np.asarray(run(image, "AtoB")).astype(int) - np.asarray(expected)
    assert difference.shape == (14, 18, 3) and abs(difference).max() <= 1  # the layout of memory differs
    with pytest.raises(ValueError, match="choose an image first"):
        run(None, "AtoB")


def test_the_demo_makes_images_as_the_command_does(call, runs, tmp_path):
    flags = ("--labels", "3", "--count", "8", "--seed", "5", "--files", "--output", tmp_path / "out", "--device", "cpu")
    assert call(generate, runs("cgan"), *flags).code == 0
    picture = np.asarray(demo.sampling(load_recipe(runs("cgan")))(5, 3).convert("L"))
    with Image.open(tmp_path / "out" / "3_00000.png") as image:
        side, first = image.width, np.asarray(image)
    factor = -(-128 // side)
    assert (picture[4 : 4 + factor * side : factor, 4 : 4 + factor * side : factor] == first).all()


class Page:
    """As much of gradio as the page asks for."""

    class Error(Exception):
        pass

    def __getattr__(self, name):
        return lambda *arguments, **named: (name, arguments, named)


def test_the_page_offers_the_directions_that_there_are(trained, runs, monkeypatch):
    monkeypatch.setitem(sys.modules, "gradio", Page())
    _, (run, [_, (_, (choices,), _)], _), _ = demo.page(str(trained), "cpu")
    assert choices == ["AtoB", "BtoA"]
    with pytest.raises(Page.Error, match="choose an image"):
        run(None, "AtoB")
    _, (_, asked, _), _ = demo.page(str(runs("cgan")), "cpu")
    assert [name for name, *_ in asked] == ["Number", "Dropdown"]
