"""fastgan.translate with a file of others alone: the architecture is read off its keys, whatever is around them."""

import os

import pytest
import torch

import fastgan
from fastgan import translate
from fastgan.models import ResnetGenerator, UnetGenerator

STATISTICS = {"model.2.running_mean": torch.zeros(4), "model.2.running_var": torch.ones(4)}
NETWORKS = {
    "resnet 9": ResnetGenerator(n_blocks=9, ngf=4),
    "resnet 6, dropout": ResnetGenerator(n_blocks=6, ngf=4, dropout=True),
    "resnet, batch norm": ResnetGenerator(n_blocks=6, ngf=2, norm="batch"),
    "resnet, grey to colour, another width": ResnetGenerator(1, 3, 5, n_blocks=6),
    "unet 128": UnetGenerator(num_downs=7, ngf=1),
    "unet 256": UnetGenerator(num_downs=8, ngf=1),
    "unet 512": UnetGenerator(num_downs=9, ngf=1),
    "unet, instance norm": UnetGenerator(num_downs=7, ngf=2, norm="instance"),
}


@pytest.mark.parametrize("name", NETWORKS)
def test_architectures(call, images, tmp_path, name):
    network = NETWORKS[name]
    torch.save(network.state_dict(), tmp_path / "latest_net_G.pth")
    images(tmp_path / "photos", sizes=((20, 16),))
    outcome = call(translate, tmp_path / "latest_net_G.pth", tmp_path / "photos", "--device", "cpu")
    assert outcome.code == 0 and (tmp_path / "photos_AtoB" / "0.png").is_file(), outcome.err
    found = fastgan.load_generator(tmp_path / "latest_net_G.pth")
    assert type(found) is type(network) and not found.training
    expected = network.state_dict()
    assert found.state_dict().keys() == expected.keys()
    assert all(torch.equal(value, expected[key]) for key, value in found.state_dict().items())
    if "dropout" in name:
        assert any(isinstance(module, torch.nn.Dropout) for module in found.modules())


@pytest.mark.parametrize(
    "wrap",
    [
        lambda state: {"state_dict": state},
        lambda state: {"epoch": 3, "model": {"netG": state}},
        lambda state: {f"module.{key}": value for key, value in state.items()},
        lambda state: {"state_dict": {f"module._orig_mod.{key}": value for key, value in state.items()}},
        lambda state: state | STATISTICS,
        lambda state: {"state_dict": {f"module.{key}": value for key, value in (state | STATISTICS).items()}},
    ],
)
def test_wrappings(tmp_path, wrap):
    state = NETWORKS["resnet 9"].state_dict()
    torch.save(wrap(state), tmp_path / "G.pth")
    found = fastgan.load_generator(tmp_path / "G.pth").state_dict()
    assert found.keys() == state.keys() and all(torch.equal(found[key], value) for key, value in state.items())


@pytest.mark.parametrize(
    "keys, sentence",
    [
        (["model.7.filt", "model.8.weight"], "generator of CUT with antialiased sampling.*--no_antialias"),
        (["model.1.weight", "model.10.block.1.weight"], "PyTorch-GAN's GeneratorResNet.*nearest neighbours"),
        (["down1.model.0.weight", "final.2.weight"], "PyTorch-GAN's GeneratorUNet"),
    ],
)
@pytest.mark.parametrize("prefix", ["", "module."])
def test_generators_of_others_that_are_not_supported_are_named(tmp_path, keys, sentence, prefix):
    torch.save({"state_dict": {prefix + key: torch.zeros(2, 2, 3, 3) for key in keys}}, tmp_path / "G.pth")
    with pytest.raises(ValueError, match=sentence):
        fastgan.load_generator(tmp_path / "G.pth")


class Runs:
    """A pickle of it makes a folder as soon as it is read."""

    def __init__(self, folder):
        self.folder = folder

    def __reduce__(self):
        return os.mkdir, (str(self.folder),)


def test_code_in_a_file_is_not_run(tmp_path):
    state = dict(NETWORKS["resnet 9"].state_dict())
    torch.save({"state_dict": state, "hyper_parameters": Runs(tmp_path / "ran")}, tmp_path / "G.pth")
    with pytest.raises(ValueError):
        fastgan.load_generator(tmp_path / "G.pth")
    assert not (tmp_path / "ran").exists()
