"""Commands called in this process, with networks small enough for a step to take milliseconds."""

import numpy as np
import pytest
import torch
from PIL import Image

import fastgan
from fastgan import train, translate
from fastgan.cli import command
from tests.commands.tiny_command import TINY

SHORT = ("--max-steps", "2", "--max-dataset-size", "256", "--eval-images", "0", "--device", "cpu")


@pytest.fixture(autouse=True)
def no_forced_backend():
    with fastgan.backend("auto"):
        yield


class Outcome:
    def __init__(self, code, captured):
        self.code, self.out, self.err = code, captured.out, captured.err


@pytest.fixture
def call(capfd, monkeypatch, tmp_path):
    """Run a command's main in an empty working folder: call(train, "cyclegan", ...) -> Outcome."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("FASTGAN_DEBUG", raising=False)

    def run(module, *argv):
        capfd.readouterr()
        try:
            code = command.run(module.main, [str(argument) for argument in argv])
        except SystemExit as leaving:  # --help
            code = leaving.code
        return Outcome(code, capfd.readouterr())

    return run


@pytest.fixture
def tiny_train(call):
    """Train CycleGAN with tiny settings: tiny_train("--max-steps", 2) -> Outcome."""
    return lambda *argv: call(train, "cyclegan", *TINY, *argv)


@pytest.fixture(scope="session")
def trained(tmp_path_factory):
    """A run folder of two steps."""
    folder = tmp_path_factory.mktemp("trained")
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    code = command.run(
        train.main, ["cyclegan", *TINY, "--max-steps", "2", "--eval-pairs", "0", "--checkpoints-dir", str(folder)]
    )
    torch.set_num_threads(threads)
    assert code == 0
    return folder / "cyclegan"


@pytest.fixture(scope="session")
def runs(tmp_path_factory):
    """Run folders of latent recipes by name, of two steps on a few built-in glyphs; made when they are asked for."""
    folder = tmp_path_factory.mktemp("runs")

    def run(name):
        if not (folder / name).exists():
            assert command.run(train.main, [name, *SHORT, "--checkpoints-dir", str(folder)]) == 0
        return folder / name

    return run


@pytest.fixture
def tiny_translate(call, trained):
    """Translate with the networks of ``trained``: tiny_translate("photos", ...) -> Outcome."""
    return lambda *argv: call(translate, trained, *argv, "--device", "cpu")


def write_images(folder, *, sizes=((16, 16),), names=None, seed=0):
    """Write one random image per size (width, height)."""
    folder.mkdir(parents=True, exist_ok=True)
    generator = np.random.default_rng(seed)
    for number, (width, height) in enumerate(sizes):
        name = names[number] if names else f"{number}.png"
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(generator.integers(0, 256, (height, width, 3), dtype=np.uint8)).save(folder / name)


@pytest.fixture
def images():
    return write_images
