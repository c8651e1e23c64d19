"""Checkpoints and network files: what comes back, and what is said about a file that cannot be read."""

import gzip
import json
import random
import warnings
import zipfile

import numpy
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import nn

from fastgan._errors import UserError
from fastgan.models import NLayerDiscriminator, PixelDiscriminator, ResnetGenerator, UnetGenerator
from fastgan.training import checkpoint, rng
from fastgan.training.networks import load_networks
from tests.training.tiny_recipe import new_loop


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    loop = new_loop(tmp_path_factory.mktemp("runs") / "run", max_steps=1)
    loop.run()
    return loop


def test_a_checkpoint_describes_itself(run):
    content = checkpoint.load(run.folder.checkpoint)
    assert content["recipe"] == "tiny"
    assert content["description"] == json.loads(run.folder.options.read_text())
    assert content["progress"].step == 1 and content["progress"].position == 2
    assert set(content["versions"]) == {"fastgan", "torch", "cuda", "python"}
    assert content["data"] == {"length": 5, "seed": 0}


@pytest.mark.parametrize("what", ["", "checkpoint.pt", "networks.safetensors"])
def test_networks_come_back_without_flags(run, what):
    before = torch.get_rng_state()
    loaded = load_networks(run.folder.path / what)
    assert torch.equal(before, torch.get_rng_state())
    assert loaded.recipe == "tiny"
    assert loaded.description["options"]["recipe"]["width"] == 4
    x = torch.rand(1, 3, 16, 16)
    assert set(loaded.networks) == {"G_A", "D_A"}
    for name, network in loaded.networks.items():
        assert not network.training
        trained = run.recipe.networks[name].eval()
        assert all(torch.equal(value, trained.state_dict()[key]) for key, value in network.state_dict().items())
        torch.testing.assert_close(network(x), trained(x))  # the one NCHW, the other channels_last


def test_shared_networks_are_plain_safetensors(run):
    with safe_open(run.folder.networks, framework="pt") as file:
        assert "G_A.model.1.weight" in file.keys()  # noqa: SIM118
        assert file.metadata()["recipe"] == "tiny"
        assert json.loads(file.metadata()["description"])["options"]["data"]["batch_size"] == 2


def published(norm="instance", dropout=False, blocks=2):
    """A state dict as the published code writes it: stock layers, running statistics of the old instance norm."""
    torch.manual_seed(0)
    state = ResnetGenerator(3, 3, 4, norm, dropout, blocks).state_dict()
    return {"module." + key: value for key, value in state.items()} | {
        "module.model.2.running_mean": torch.zeros(4),
        "module.model.2.running_var": torch.ones(4),
    }


@pytest.mark.parametrize(
    ("file", "name"),
    [("latest_net_G.pth", "G"), ("latest_net_G_A.pth", "G_A"), ("60_net_G_B.pth", "G_B"), ("horse2zebra.pth", "G")],
)
@pytest.mark.parametrize("dropout", [False, True])
def test_published_files(tmp_path, file, name, dropout):
    torch.save(published(dropout=dropout), tmp_path / file)
    loaded = load_networks(tmp_path / file)
    assert list(loaded.networks) == [name] and loaded.recipe is None
    expected = ResnetGenerator(3, 3, 4, "instance", dropout, 2).eval()
    expected.load_state_dict(published(dropout=dropout))
    x = torch.rand(1, 3, 16, 16)
    assert torch.equal(loaded.networks[name](x), expected(x))


def test_a_folder_of_published_files(tmp_path):
    for name in ("9_net_G_A", "latest_net_G_A", "100_net_G_B", "iter_99_net_G_B", "20_net_D_A"):
        torch.save(published(), tmp_path / f"{name}.pth")
    loaded = load_networks(tmp_path)
    assert set(loaded.networks) == {"G_A", "G_B"}
    assert {file.name for file in loaded.source} == {"latest_net_G_A.pth", "100_net_G_B.pth"}


def plain():
    torch.manual_seed(0)
    return ResnetGenerator(3, 3, 4, "instance", False, 2).state_dict()


def with_prefix(prefix, state):
    return {prefix + key: value for key, value in state.items()}


PATCHGAN = NLayerDiscriminator(3, 4, 2).state_dict()
UNET = UnetGenerator(num_downs=5, ngf=2).state_dict()
WRAPPED = {
    "a dict": (lambda: {"state_dict": plain(), "epoch": 3, "args": {"lr": 0.1}}, {"G"}),
    "dicts in dicts": (
        lambda: {
            "models": {"netG": with_prefix("module.", plain()), "netD": PATCHGAN},
            "optimizers": {"netG": {"state": {0: {"step": torch.ones(())}}, "param_groups": []}},
        },
        {"G", "D"},
    ),
    "two generators": (lambda: {"G_A": plain(), "G_B": UNET}, {"G_A", "G_B"}),
    "other names": (lambda: {"netG_A2B": plain(), "netG_B2A": UNET, "netD_A": PATCHGAN}, {"G_A", "G_B", "D_A"}),
    "words": (lambda: {"generator": plain(), "discriminator": PATCHGAN, "step": 7}, {"G", "D"}),
    "a prefix": (lambda: with_prefix("netG.", plain()), {"G"}),
    "prefixes": (
        lambda: {"state_dict": with_prefix("gen_AB.net.", plain()) | with_prefix("gen_BA.net.", UNET)},
        {"G_A", "G_B"},
    ),
    "wrappers around a prefix": (lambda: with_prefix("module.netG.module.", plain()), {"G"}),
    "a counter": (lambda: plain() | {"epoch": torch.tensor(3)}, {"G"}),
    "a number": (lambda: plain() | {"epoch": 3}, {"G"}),
    "an average": (lambda: with_prefix("module.", plain()) | {"n_averaged": torch.tensor(9)}, {"G"}),
}


@pytest.mark.parametrize("name", WRAPPED)
@pytest.mark.parametrize("suffix", ["pth", "safetensors"])
def test_networks_in_the_wrappings_of_others(tmp_path, name, suffix):
    make, expected = WRAPPED[name]
    path, content = tmp_path / f"file.{suffix}", make()
    if suffix == "pth":
        torch.save(content, path)
    elif all(isinstance(value, torch.Tensor) for value in content.values()):
        save_file(content, path)
    else:
        return
    before = torch.get_rng_state()
    networks = load_networks(path).networks
    assert set(networks) == expected and torch.equal(before, torch.get_rng_state())
    generator = networks.get("G_A", networks.get("G"))
    assert all(torch.equal(value, plain()[key]) for key, value in generator.state_dict().items())


def save_script(path):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.jit.save(torch.jit.trace(nn.Conv2d(3, 3, 1), torch.ones(1, 3, 4, 4)), path)


NEARLY = {
    "affine norm": (
        lambda: plain() | {"model.2.weight": torch.ones(4), "model.2.bias": torch.ones(4)},
        r"it is nearly a ResnetGenerator, .* model\.2\.weight without .* affine parameters",
    ),
    "a later affine norm": (lambda: plain() | {"model.5.weight": torch.ones(8)}, r"Unexpected key.*model\.5\.weight"),
    "filter": (lambda: plain() | {"model.7.filt": torch.ones(8, 1, 3, 3)}, r"Unexpected key.*model\.7\.filt"),
    "lost": (
        lambda: {key: value for key, value in plain().items() if key != "model.4.weight"},
        r"Missing key.*model\.4\.weight",
    ),
    "size": (
        lambda: {"netG": plain() | {"model.4.weight": torch.ones(8, 5, 3, 3)}},
        r"netG is nearly a ResnetGenerator, .* size mismatch for model\.4\.weight",
    ),
    "another network": (
        lambda: {f"{key}.filt": value for key, value in PATCHGAN.items()},
        r"none of the networks known here .* it holds model.0.weight.filt \(4x3x4x4\)",
    ),
    "an optimizer": (lambda: {"state": {}, "param_groups": []}, r"it holds state \(dict\), param_groups \(list\)"),
    "no number": (
        lambda: plain() | {"model.4.bias": torch.full((8,), float("nan"))},
        r"it is a ResnetGenerator, but model\.4\.bias holds NaN or infinite values",
    ),
    "whole numbers": (
        lambda: {"net": {key: value.to(torch.int8) for key, value in plain().items()}},
        r"net is a ResnetGenerator, but model\.1\.weight is of int8: weights are floating-point",
    ),
    "complex numbers": (
        lambda: {key: value.to(torch.complex64) for key, value in plain().items()},
        r"but model\.1\.weight is of complex64",
    ),
    "nothing": (dict, "it holds an empty dict"),
    "a list": (lambda: [plain()], r"it holds a list of 1, which begins with model\.1\.weight \(4x3x7x7\)"),
    "several": (lambda: {"params": plain(), "params_ema": plain()}, r"several networks \(params, params_ema\)"),
}


@pytest.mark.filterwarnings("ignore:Casting complex values")
@pytest.mark.parametrize("name", NEARLY)
def test_what_a_file_of_others_holds(tmp_path, name):
    make, sentence = NEARLY[name]
    torch.save(make(), tmp_path / "file.pth")
    with pytest.raises(UserError, match=sentence) as raised:
        load_networks(tmp_path / "file.pth")
    assert "\n" not in str(raised.value)


def test_programs_are_told_from_weights(tmp_path):
    save_script(tmp_path / "script.pt")
    torch.export.save(torch.export.export(nn.Conv2d(3, 3, 1), (torch.ones(1, 3, 4, 4),)), tmp_path / "program.pt2")
    for name, sentence in (
        ("script.pt", "was written by torch.jit.save, a TorchScript program"),
        ("program.pt2", "was written by torch.export.save"),
    ):
        with pytest.raises(UserError, match=sentence):
            load_networks(tmp_path / name)


OTHER_FILES = {
    "a pointer of Git LFS": b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 12345\n",
    "a web page": b"\n<!DOCTYPE html><html>Quota exceeded</html>",
    "a gzip archive": gzip.compress(b"net"),
    "an HDF5 file": b"\x89HDF\r\n\x1a\n" + bytes(100),
    "an array of numpy": b"\x93NUMPY\x01\0" + bytes(100),
    "a tar archive": bytes(257) + b"ustar" + bytes(250),
}


@pytest.mark.parametrize("what", OTHER_FILES)
@pytest.mark.parametrize("suffix", ["pth", "safetensors"])
def test_files_in_place_of_tensors_are_named(tmp_path, what, suffix):
    path = tmp_path / f"latest_net_G.{suffix}"
    path.write_bytes(OTHER_FILES[what])
    with pytest.raises(UserError, match=f"{path.name} holds no network: it is {what}"):
        load_networks(path)


def test_zip_archives_are_told_from_damaged_files(tmp_path):
    with zipfile.ZipFile(tmp_path / "nets.pth", "w") as archive:
        for name in ("a.pth", "b.pth", "c.txt"):
            archive.writestr(name, b"x")
    with pytest.raises(UserError, match=r"nets.pth holds no network: it is a zip archive of a.pth, b.pth and 1 more"):
        load_networks(tmp_path / "nets.pth")


@pytest.mark.parametrize("network", [NLayerDiscriminator(3, 4, 2), PixelDiscriminator(3, 4, "batch")])
def test_other_networks_of_a_run(tmp_path, network):
    save_file(network.state_dict(), tmp_path / "network.safetensors")
    assert type(load_networks(tmp_path / "network.safetensors").networks["D"]) is type(network)
    torch.save({"generator": network.state_dict()}, tmp_path / "network.pth")
    assert list(load_networks(tmp_path / "network.pth").networks) == ["D"], "whatever others call it"


@pytest.mark.parametrize("name", ["decoder", "d", "disc", "data", "dehazer"])
def test_a_generator_is_one_whatever_its_name(tmp_path, name):
    torch.save({name: plain()}, tmp_path / "network.pth")
    assert list(load_networks(tmp_path / "network.pth").networks) == ["G"]


def write_objects(path):
    torch.save({"network": nn.Linear(1, 1)}, path)


def write_truncated(path):
    torch.save({"weight": torch.zeros(10000)}, path)
    path.write_bytes(path.read_bytes()[:20000])


@pytest.mark.parametrize(
    ("write", "sentence"),
    [
        (lambda path: None, "no such file"),
        (lambda path: path.write_bytes(b""), "is empty"),
        (lambda path: path.write_text("hello"), "is not a checkpoint: torch cannot read it"),
        (write_truncated, "is damaged: it begins like a checkpoint but cannot be read to its end"),
        (
            write_objects,
            "holds python objects besides tensors (torch.nn.modules.linear.Linear), which could run any code",
        ),
        (lambda path: torch.save([1, 2], path), "is not a checkpoint of ours, nor the state dict of a network"),
        (lambda path: torch.save(nn.Linear(2, 2).state_dict(), path), "is none of the networks known here (ResnetGen"),
    ],
)
def test_unreadable_files(tmp_path, write, sentence):
    path = tmp_path / "file.pt"
    write(path)
    with pytest.raises(UserError) as raised:
        load_networks(path)
    assert sentence in str(raised.value) and str(path) in str(raised.value)


def test_damaged_safetensors_and_empty_folders(tmp_path):
    (tmp_path / "a.safetensors").write_text("nothing of the kind")
    with pytest.raises(UserError, match="is damaged, or not a safetensors file"):
        load_networks(tmp_path / "a.safetensors")
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="holds no networks: neither networks.safetensors, nor"):
        load_networks(tmp_path / "empty")


def test_checkpoints_of_others(tmp_path, run):
    torch.save(published(), tmp_path / "net.pth")
    with pytest.raises(UserError, match="is not a fastgan checkpoint"):
        checkpoint.load(tmp_path / "net.pth")
    content = checkpoint.load(run.folder.checkpoint)
    with pytest.raises(UserError, match="is a checkpoint of tiny, not of cyclegan: .*train tiny --resume"):
        checkpoint.check_recipe(content, "cyclegan", run.folder.checkpoint)
    content = torch.load(run.folder.checkpoint, weights_only=True)
    torch.save(content | {"version": 99}, tmp_path / "newer.pt")
    with pytest.raises(UserError, match="is newer than this one .* update fastgan"):
        checkpoint.load(tmp_path / "newer.pt")


def test_random_states_travel_through_a_file(tmp_path):
    rng.seed_everything(3)
    numpy.random.randn()  # leaves half a pair of normals behind
    torch.save(rng.state(), tmp_path / "rng.pt")
    expected = random.random(), numpy.random.randn(), torch.rand(2).tolist()
    rng.seed_everything(4)
    rng.restore(torch.load(tmp_path / "rng.pt", weights_only=True))
    assert (random.random(), numpy.random.randn(), torch.rand(2).tolist()) == expected


def test_preserved_draws_nothing():
    rng.seed_everything(3)
    with rng.preserved():
        random.random(), numpy.random.randn(), torch.rand(2)
    now = random.random(), numpy.random.randn(), torch.rand(2).tolist()
    rng.seed_everything(3)
    assert now == (random.random(), numpy.random.randn(), torch.rand(2).tolist())
