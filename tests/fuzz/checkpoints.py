"""Checkpoints and files of networks: good ones, and changes that get behind their checksums."""

from __future__ import annotations

import contextlib
import functools
import io
import json
import random
import tempfile
import zipfile
from pathlib import Path

import torch
from safetensors.torch import save

from fastgan import train
from fastgan._errors import sentence
from fastgan.evaluation.translation import is_out_of_memory
from fastgan.models import ResnetGenerator
from fastgan.training.networks import load_networks

from .mutate import mutated
from .trees import GONE, at, changed, nodes, unusual, wrong

_SMALL = ["--device", "cpu", "--sample-count", "1", "--max-dataset-size", "4", "--max-steps", "2"]
_PAIRS = ["--load-size", "16", "--crop-size", "16", "--netG", "resnet_6blocks", "--ngf", "2", "--eval-pairs", "0"]
_RUNS = {
    "cyclegan": [*_PAIRS, "--netD", "n_layers", "--n-layers-D", "1", "--ndf", "2", "--pool-size", "2"],
    "wgan_gp": ["--image-size", "12", "--batch-size", "2", "--eval-images", "0"],
}


@functools.cache
def _run(recipe: str) -> tuple[bytes, bytes]:
    """(checkpoint.pt, networks.safetensors) of a small run of two steps."""
    with tempfile.TemporaryDirectory() as folder:
        with contextlib.redirect_stdout(io.StringIO()):
            assert train.main([recipe, "--checkpoints-dir", folder, *_SMALL, *_RUNS[recipe]]) == 0
        run = Path(folder, recipe)
        return (run / "checkpoint.pt").read_bytes(), (run / "networks.safetensors").read_bytes()


def runs() -> list[tuple[str, bytes]]:
    return [(".pt", _run(recipe)[0]) for recipe in _RUNS]


def networks() -> list[tuple[str, bytes]]:
    """Ours, and those of others in every form."""
    torch.manual_seed(0)
    state = ResnetGenerator(3, 3, 2, n_blocks=1).state_dict()
    found = [(suffix, content) for recipe in _RUNS for suffix, content in zip((".pt", ".safetensors"), _run(recipe))]
    for new in (True, False):
        content = io.BytesIO()
        torch.save({"netG": state, "epoch": 3}, content, _use_new_zipfile_serialization=new)
        found.append((".pth", content.getvalue()))
    return [*found, (".safetensors", save(state))]


def read_networks(path: Path) -> None:
    load_networks(path)


def resume(path: Path) -> None:
    """Go on with the run of a checkpoint by a step."""
    content = path.read_bytes()
    with tempfile.TemporaryDirectory() as folder:
        run = Path(folder, "run")
        run.mkdir()
        (run / "checkpoint.pt").write_bytes(content)
        recipe = "wgan_gp" if b"wgan_gp" in content else "cyclegan"
        try:
            with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
                train.main([recipe, "--checkpoints-dir", folder, "--name", "run", "--resume", "--max-steps", "3"])
        except (ValueError, OSError) as error:  # about an option, say, and the file is the one that was named
            raise ValueError(f"{path}: {sentence(error)}") from error
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            raise ValueError(f"{path}: {sentence(error)}") from error


def change(content: bytes, generator: random.Random) -> bytes:
    """Bytes anywhere, or bytes or values behind the checksums."""
    if generator.random() < 0.3:
        return mutated(content, generator)
    if content[:2] == b"PK":
        return (change_values if generator.random() < 0.5 else _change_pickle)(content, generator)
    if content[8:9] == b"{":
        return _change_header(content, generator)
    return mutated(content, generator)


def change_values(content: bytes, generator: random.Random) -> bytes:
    """One to three values of what ``torch.save`` wrote; the checksum of our own goes."""
    value = torch.load(io.BytesIO(content), weights_only=True)
    value.pop("checksum", None)
    for _ in range(generator.choice((1, 1, 1, 2, 3))):
        places = [place for place in nodes(value) if len(place) > 1 or place[0] not in ("format", "versions")]
        place = generator.choice(places)
        new = generator.choice((wrong, unusual))(at(value, place), generator)
        with contextlib.suppress(RuntimeError):  # of torch, for what is no tensor of that kind
            value = changed(value, place, new if new is not GONE or isinstance(at(value, place[:-1]), dict) else None)
    changed_content = io.BytesIO()
    torch.save(value, changed_content)
    return changed_content.getvalue()


def _change_pickle(content: bytes, generator: random.Random) -> bytes:
    """Bytes of the pickle in a zip file, whose CRC-32s are right."""
    changed_content = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(content)) as old, zipfile.ZipFile(changed_content, "w") as new:
        for part in old.infolist():
            data = old.read(part)
            if part.filename.endswith("data.pkl"):
                for _ in range(generator.choice((1, 1, 2, 4))):
                    place = generator.randrange(len(data))
                    data = data[:place] + mutated(data[place : place + 200], generator) + data[place + 200 :]
            new.writestr(part.filename, data)
    return changed_content.getvalue()


def _change_header(content: bytes, generator: random.Random) -> bytes:
    """Values or bytes of the JSON before the tensors, whose length is right."""
    length = int.from_bytes(content[:8], "little")
    header, rest = content[8 : 8 + length], content[8 + length :]
    if generator.random() < 0.6:
        value = json.loads(header)
        place = generator.choice(list(nodes(value)))
        new = generator.choice(
            (None, "text", [], {}, 0, -1, 2**31, 2**64, [[[]]], "F4", "F64", "BOOL", 0.5, "[" * 3000)
        )
        header = json.dumps(changed(value, place, new)).encode()
    else:
        header = mutated(header, generator)
    return len(header).to_bytes(8, "little") + header + rest
