"""One changed bit in a file of a run is noticed, or changes nothing; the checkpoint before a damaged one is taken."""

import os
import random

import pytest
import torch
from safetensors.torch import load_file, save_file

from fastgan._errors import UserError
from fastgan.models import ResnetGenerator
from fastgan.training import checkpoint
from fastgan.training.checksum import checksum
from fastgan.training.networks import load_networks
from tests.training.tiny_recipe import new_loop, resumed_loop


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    loop = new_loop(tmp_path_factory.mktemp("runs") / "run", max_steps=2)
    loop.run()
    return loop.folder


def flipped(path, content, bit):
    changed = bytearray(content)
    changed[bit // 8] ^= 1 << bit % 8
    path.write_bytes(changed)


def bits_of(content, tensor, generator, count):
    """Some bits of the numbers of a tensor in a file."""
    for values in (tensor.contiguous(), tensor.as_strided((tensor.numel(),), (1,))):  # safetensors, torch: as it lies
        values = values.numpy().tobytes()
        start = content.find(values)
        if start >= 0:
            break
    assert start >= 0
    return [8 * start + generator.randrange(8 * len(values)) for _ in range(count)]


def test_every_flipped_bit_of_a_checkpoint_is_noticed_or_changes_nothing(run, tmp_path):
    content = run.checkpoint.read_bytes()
    good = checkpoint.load(run.checkpoint)
    whole = checksum({key: good[key] if key != "progress" else vars(good[key]) for key in good})
    generator, path = random.Random(0), tmp_path / "checkpoint.pt"
    weight = good["state"]["networks"]["G_A"]["model.1.weight"]
    moment = good["state"]["optimizer"]["state"][0]["exp_avg_sq"]
    for bit in bits_of(content, weight, generator, 8) + bits_of(content, moment, generator, 8):
        flipped(path, content, bit)
        with pytest.raises(UserError, match="checkpoint.pt is damaged"):
            checkpoint.load(path)
    start = content.find(b"data.pkl")
    anywhere = [generator.randrange(8 * len(content)) for _ in range(60)]
    for bit in anywhere + [8 * start + generator.randrange(8 * 4000) for _ in range(60)]:
        flipped(path, content, bit)
        try:
            read = checkpoint.load(path)
        except UserError as error:
            assert "\n" not in str(error) and str(path) in str(error)
        else:  # in what the form of the file has between its parts
            assert whole == checksum({key: read[key] if key != "progress" else vars(read[key]) for key in read})


def test_every_flipped_bit_of_shared_networks_is_noticed_or_changes_nothing(run, tmp_path):
    content = run.networks.read_bytes()
    good = load_networks(run.networks)
    state = {name: network.state_dict() for name, network in good.networks.items()}
    generator, path = random.Random(1), tmp_path / "networks.safetensors"
    for bit in bits_of(content, state["G_A"]["model.1.weight"], generator, 8):
        flipped(path, content, bit)
        with pytest.raises(UserError, match="networks.safetensors is damaged: .* checksum differs"):
            load_networks(path)
    header = int.from_bytes(content[:8], "little")
    for bit in [generator.randrange(8 * (8 + header)) for _ in range(60)]:
        flipped(path, content, bit)
        try:
            read = load_networks(path)
        except ValueError as error:
            assert "\n" not in str(error)
        else:
            assert read.description == good.description
            assert checksum({name: network.state_dict() for name, network in read.networks.items()}) == checksum(state)


def test_networks_of_earlier_runs_have_no_checksum(run, tmp_path):
    from safetensors import safe_open

    with safe_open(run.networks, framework="pt") as file:
        metadata = {key: value for key, value in file.metadata().items() if "checksum" not in key}
    save_file(load_file(run.networks), tmp_path / "networks.safetensors", metadata=metadata)
    assert set(load_networks(tmp_path / "networks.safetensors").networks) == {"G_A", "D_A"}
    save_file(load_file(run.networks), tmp_path / "networks.safetensors", metadata=metadata | {"description": "{"})
    with pytest.raises(UserError, match="is damaged: its description of the run cannot be read"):
        load_networks(tmp_path / "networks.safetensors")


def test_checkpoints_of_earlier_runs_have_no_checksum_and_changed_ones_a_wrong_one(run, tmp_path):
    content = torch.load(run.checkpoint, weights_only=True)
    path = tmp_path / "checkpoint.pt"
    content["progress"]["step"] += 1
    torch.save(content, path)
    with pytest.raises(checkpoint.Damaged, match="not what was written .its checksum differs"):
        checkpoint.load(path)
    del content["checksum"]
    torch.save(content, path)
    assert checkpoint.load(path)["progress"].step == 3


def test_a_flipped_bit_in_the_file_of_others_is_noticed(tmp_path):
    path = tmp_path / "latest_net_G.pth"
    network = ResnetGenerator(3, 3, 4, n_blocks=1)
    torch.save(network.state_dict(), path)
    load_networks(path)
    content = path.read_bytes()
    for bit in bits_of(content, network.state_dict()["model.1.weight"], random.Random(2), 4):
        flipped(path, content, bit)
        with pytest.raises(UserError, match="latest_net_G.pth is damaged"):
            load_networks(path)


def test_a_checksum_sees_values_kinds_and_names_and_neither_order_nor_strides():
    image = torch.randn(2, 3, 4, 5)
    value = {"a": [1, 2.0, "x", None], "b": image, 3: (True,), "bf16": image.bfloat16(), "empty": torch.zeros(0)}
    same = {key: value[key] for key in reversed(value)} | {"b": image.to(memory_format=torch.channels_last)}
    assert checksum(value) == checksum(same)
    others = [
        value | {"a": [1, 2.0, "x", 0]},
        value | {"a": (1, 2.0, "x", None)},
        value | {"b": image[0]},
        value | {"b": image.reshape(3, 2, 4, 5)},
        value | {"b": image.double()},
        value | {3: (1,)},
        value | {"b": torch.nextafter(image, image + 1)},
        value | {"c": 0},
        value | {"a": [1, 2, "x", None]},
    ]
    assert len({checksum(each) for each in [value, *others]}) == 1 + len(others)


def spoil(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def test_the_checkpoint_before_a_damaged_one_is_taken(tmp_path):
    whole = new_loop(tmp_path / "whole", max_steps=7)
    whole.run()
    loop = new_loop(tmp_path / "run", max_steps=5, save_freq=2)
    loop.run()
    folder = loop.folder
    assert checkpoint.load(folder.checkpoint)["progress"].step == 5
    assert checkpoint.load(folder.previous)["progress"].step == 4
    assert checkpoint.load_latest(folder.checkpoint, folder.previous)[1] is None
    spoil(folder.checkpoint)
    content, said = checkpoint.load_latest(folder.checkpoint, folder.previous)
    assert content["progress"].step == 4
    assert "checkpoint.pt is damaged" in said and said.endswith(f"{folder.previous} of step 4")
    folder.take_previous()
    assert folder.damaged.exists() and not folder.previous.exists()
    second = resumed_loop(tmp_path / "run", max_steps=7)
    assert second.progress.step == 4
    second.run()
    one, other = (checkpoint.load(each.folder.checkpoint)["state"] for each in (whole, second))
    assert checksum(one) == checksum(other)
    assert checkpoint.load(folder.previous)["progress"].step == 6

    spoil(folder.checkpoint), spoil(folder.previous)
    with pytest.raises(checkpoint.Damaged, match="checkpoint.pt is damaged"):
        checkpoint.load_latest(folder.checkpoint, folder.previous)
    os.remove(folder.checkpoint)
    folder.check_resume()
    with pytest.raises(checkpoint.Damaged, match="checkpoint.pt: no such file"):
        checkpoint.load_latest(folder.checkpoint, folder.previous)


@pytest.mark.parametrize("links", [True, False])
def test_there_is_a_whole_checkpoint_at_every_moment(tmp_path, monkeypatch, links):
    loop = new_loop(tmp_path / "run", max_steps=1)
    loop.run()
    folder, seen = loop.folder, []
    real = {name: getattr(os, name) for name in ("link", "replace")}

    def watched(name):
        def call(*arguments):
            if name == "link" and not links:
                raise PermissionError(1, "Operation not permitted", str(arguments[0]))
            seen.append(checkpoint.load_latest(folder.checkpoint, folder.previous)[0]["progress"].step)
            real[name](*arguments)
            seen.append(checkpoint.load_latest(folder.checkpoint, folder.previous)[0]["progress"].step)

        return call

    for name in real:
        monkeypatch.setattr(os, name, watched(name))
    for step in (2, 3):
        loop.progress.step = step
        loop._began = 0.0
        loop.save()
    monkeypatch.undo()
    assert seen == sorted(seen) and {1, 2, 3} == set(seen)
    assert checkpoint.load(folder.previous)["progress"].step == 2
    assert sorted(path.name for path in folder.path.iterdir()) == [
        "checkpoint.previous.pt",
        "checkpoint.pt",
        "losses.jsonl",
        "networks.safetensors",
        "options.json",
        "samples",
    ]


def test_a_save_that_was_killed_before_its_last_move_leaves_nothing_over(tmp_path):
    loop = new_loop(tmp_path / "run", max_steps=1)
    loop.run()
    os.link(loop.folder.checkpoint, loop.folder.previous)  # both are one file then
    loop.progress.step = 2
    loop.save()
    assert checkpoint.load(loop.folder.previous)["progress"].step == 1
    assert not [path for path in loop.folder.path.iterdir() if path.name.startswith(".")]
