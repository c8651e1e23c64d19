"""The networks alone: how a run shares them, and how they, or the whole recipe, are rebuilt with no flags."""

from __future__ import annotations

import json
import logging
import re
import textwrap
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from fastgan import models, recipes
from fastgan._errors import UserError
from fastgan._files import write_atomically
from fastgan._form import check_form
from fastgan._options import read_options
from fastgan.models import plain_keys
from fastgan.training import checkpoint
from fastgan.training.checksum import checksum
from fastgan.training.settings import is_run_description

FORMAT = "fastgan networks"
FOLDER_FORMAT = "fastgan generator"
CONFIG = "config.json"
_PUBLISHED = re.compile(r"(.*)_net_([A-Za-z]+(?:_[AB])?)\.pth")
# How others call the generators and discriminators of a file: netG_A2B, G_AB, generator, dis_b, ...
_ROLE = re.compile(r"(?:net_?)?(?P<kind>[gd])[a-z]*?_?(?:(?P<A>a2b|ab|a)|(?P<B>b2a|ba|b))?", re.IGNORECASE)
# What people have in place of a file of tensors, by how it begins.
_BEGINNINGS = {
    b"version https://git-lfs": "a pointer of Git LFS, in place of a file that git lfs pull fetches",
    b"<": "a web page, as downloads give that ask for a confirmation",
    b"\x1f\x8b": "a gzip archive, to be unpacked",
    b"\x89HDF": "an HDF5 file, as Keras writes them",
    b"\x93NUMPY": "an array of numpy",
}
_LOGGER = logging.getLogger("fastgan.training")
# Generators of others that have no counterpart here, by a key that no other network has.
_OTHERS = {
    re.compile(r"model\.\d+\.filt"): (
        "a generator of CUT with antialiased sampling, which is not supported: CUT's options --no_antialias and "
        "--no_antialias_up train one that is"
    ),
    re.compile(r"model\.\d+\.block\.\d+\.weight"): (
        "PyTorch-GAN's GeneratorResNet, which is not supported: it enlarges by nearest neighbours before a "
        "convolution, where ResnetGenerator has a transposed convolution"
    ),
    re.compile(r"down1\.model\.0\.weight"): (
        "PyTorch-GAN's GeneratorUNet, which is not supported: its layers are others than UnetGenerator's"
    ),
}
_DEPTH = 4  # of dicts in dicts, or of prefixes of keys, around a network
_READ_AS = (models.ResnetGenerator, models.UnetGenerator, models.NLayerDiscriminator, models.PixelDiscriminator)


@dataclass
class Networks:
    """Networks read from a file, in evaluation mode, on the CPU.

    Attributes:
        networks: by the recipe's names ("G_A" translates A to B, "G_B" back); a generator that comes alone, without
            a direction in its file's name, is "G", a discriminator "D".
        recipe: the recipe that trained them, or None for published files.
        description: the run's options, as :meth:`.settings.Settings.to_json` gives them; {} when unknown.
        source: the file or files read.
    """

    networks: dict[str, nn.Module]
    recipe: str | None = None
    description: dict[str, Any] = field(default_factory=dict)
    source: tuple[Path, ...] = ()


@dataclass
class _Stored:
    """What a file holds: state dicts by network, and what trained them; without a recipe, a dict that others made."""

    states: dict[str, Any]
    path: Path
    recipe: str | None = None
    description: dict[str, Any] = field(default_factory=dict)


def save_networks(path: Path, networks: Mapping[str, nn.Module], description: Mapping[str, Any], step: int) -> None:
    """Write all networks' weights as one safetensors file, keys ``G_A.model.1.weight``, atomically.

    Its metadata names the recipe and the step, and holds the run's description as JSON, and a checksum of all that the
    file says.
    """
    from safetensors.torch import save

    tensors = {
        f"{name}.{key}": value.detach().cpu().contiguous()
        for name, network in networks.items()
        for key, value in network.state_dict().items()
    }
    metadata = {
        "format": FORMAT,
        "recipe": description["recipe"],
        "step": str(step),
        "description": json.dumps(description),
    }
    metadata["fastgan_checksum"] = checksum([metadata, tensors])
    write_atomically(path, lambda temporary: temporary.write_bytes(save(tensors, metadata=metadata)))


def step_of(path: Path) -> int | None:
    """The step of the networks in a safetensors file; None where it does not say. Reads no tensor."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="pt") as file:
            return int((file.metadata() or {})["step"])
    except (SafetensorError, OSError, ValueError, KeyError):
        return None


def save_folder(
    folder: Path, name: str, network: nn.Module, description: Mapping[str, Any], card: str, picture: bytes
) -> None:
    """Write a network as the folder of a model hub: config.json, model.safetensors, README.md with samples.png.

    Args:
        folder: made where it is missing.
        description: the run's options, or {}.
        card: the text of README.md.
        picture: a PNG file's content.
    """
    from safetensors.torch import save

    state = {key: value.detach().cpu().contiguous() for key, value in network.state_dict().items()}
    config = {
        "format": FOLDER_FORMAT,
        "network": name,
        "class": type(network).__name__,
        "description": dict(description),
    }
    files = {
        "samples.png": picture,
        "README.md": card.encode(),
        "model.safetensors": save(state, metadata={"format": "pt"}),
        CONFIG: (json.dumps(config, indent=2) + "\n").encode(),
    }
    folder.mkdir(parents=True, exist_ok=True)
    for file, content in files.items():
        write_atomically(folder / file, partial(Path.write_bytes, data=content))


def load_networks(path: str | Path) -> Networks:
    """Rebuild networks from what is written in ``path`` alone.

    Args:
        path: a run folder, its checkpoint.pt or networks.safetensors, a published ``latest_net_G_A.pth`` (any
            ``*_net_G*.pth``), a folder of such files (the latest, or else the highest epoch is taken), a folder that
            :func:`save_folder` wrote, or a file of others that holds the state dicts of such networks, in a dict of
            whatever they saved or with a prefix before the keys.

    Raises:
        UserError: nothing readable there, a damaged file, or networks that this package does not know.
    """
    path = Path(path)
    file = _run_file(path) if path.is_dir() else path
    if file is None:
        return _load_folder(path) if (path / CONFIG).is_file() else _load_published(path)
    stored = _read(file)
    if stored.recipe in recipes.RECIPES:
        networks = {name: network.eval() for name, network in _rebuild_recipe(stored, stored.recipe).networks.items()}
    elif stored.recipe is not None:
        networks = {name: _rebuild(state, stored.path, name) for name, state in stored.states.items()}
    else:
        networks = _find_networks(stored.states, stored.path)
    return Networks(networks, stored.recipe, stored.description, (stored.path,))


def load_recipe(path: str | Path) -> recipes.Recipe:
    """Rebuild the recipe that a run trained; see :func:`load_run`."""
    return load_run(path)[0]


def load_run(path: str | Path) -> tuple[recipes.Recipe, dict[str, Any]]:
    """Rebuild the recipe that a run trained, with its networks, from what is written in ``path`` alone.

    Args:
        path: a run folder, its checkpoint.pt or networks.safetensors.

    Returns:
        The recipe on the CPU, in fp32, optimizers and whatever else only training needs as new; and the run's options,
        as :meth:`fastgan.training.settings.Settings.to_json` gives them.

    Raises:
        UserError: nothing readable there, a damaged file, or networks without a recipe that this package knows.
    """
    path = Path(path)
    file = _run_file(path) if path.is_dir() else path
    if file is None:
        raise UserError(f"{path} holds no run: neither networks.safetensors nor checkpoint.pt")
    stored = _read(file)
    if stored.recipe is None:
        raise UserError(
            f"{stored.path} holds networks alone and does not say which recipe they belong to: give the folder of a run"
        )
    if stored.recipe not in recipes.RECIPES:
        raise UserError(
            f"{stored.path} is of the recipe {stored.recipe!r}, which is none of those known here "
            f"({', '.join(recipes.RECIPES)}): update fastgan"
        )
    return _rebuild_recipe(stored, stored.recipe), stored.description


def _run_file(folder: Path) -> Path | None:
    """The file that holds a run's networks. Where its two files are of two steps, the later one, which is told."""
    networks, saved = folder / "networks.safetensors", folder / "checkpoint.pt"
    if not networks.is_file():
        return saved if saved.is_file() else None
    of_networks, of_checkpoint = step_of(networks), checkpoint.step_of(saved)
    if of_networks is None or of_checkpoint is None or of_networks == of_checkpoint:
        return networks
    taken = networks if of_networks > of_checkpoint else saved
    _LOGGER.warning(
        f"{networks} is of step {of_networks} and checkpoint.pt of step {of_checkpoint} (the run was stopped between "
        f"writing them): {taken.name} is taken"
    )
    return taken


def _load_published(folder: Path) -> Networks:
    # Published runs keep one file per network and epoch; the latest are the ones meant.
    newest: dict[str, Path] = {}
    for file in sorted(folder.glob("*_net_G*.pth"), key=_age):
        if match := _PUBLISHED.fullmatch(file.name):
            newest[match[2]] = file
    if not newest:
        there = sorted(file.name for file in folder.iterdir())
        content = f"it holds {', '.join(there[:3])}{', ...' if len(there) > 3 else ''}" if there else "it is empty"
        raise UserError(
            f"{folder} holds no networks: neither networks.safetensors, nor checkpoint.pt, nor *_net_G*.pth; {content}"
        )
    networks = {name: network for file in newest.values() for name, network in load_networks(file).networks.items()}
    return Networks(networks, source=tuple(newest.values()))


def _load_folder(folder: Path) -> Networks:
    """The network of a folder that :func:`save_folder` wrote."""
    path, config = folder / "model.safetensors", folder / CONFIG
    try:
        content = json.loads(config.read_text(encoding="utf-8"))
    except ValueError:
        raise UserError(f"{config} is damaged: it is not JSON") from None
    if not isinstance(content, dict) or content.get("format") != FOLDER_FORMAT:
        raise UserError(f"{folder} is not a generator's folder of fastgan: {config} is of another format")
    name: Any = content.get("network")
    description: Any = content.get("description")
    if not isinstance(name, str) or not (description == {} or is_run_description(description)):
        raise UserError(f"{config} is damaged: it does not say which network is there")
    if not path.is_file():
        raise UserError(f"{folder} lacks model.safetensors")
    state = _read(path).states
    recipe = description.get("recipe")
    if recipe in recipes.RECIPES:
        network = _make_recipe(recipe, description, config).networks.get(name)
        if network is None:
            raise UserError(f"{config} is damaged: {recipe} has no network {name}")
        recipes.load_networks({name: network}, {name: state})
    else:
        network = _rebuild(state, path, name)
    return Networks({name: network.eval()}, recipe, description, (folder,))


def _age(file: Path) -> tuple[bool, int]:
    """Where a published file stands in time: by its number of epochs or iterations, and those called latest last."""
    label = _PUBLISHED.fullmatch(file.name)
    numbers = re.findall(r"[0-9]+", label[1]) if label else []
    return label is not None and label[1] == "latest", int(numbers[-1]) if numbers else -1


def _read(path: Path) -> _Stored:
    if not path.is_file():
        raise UserError(f"{path} is not a file" if path.exists() else f"{path}: no such file or folder")
    _refuse_others(path)
    if path.suffix == ".safetensors":
        return _read_safetensors(path)
    content = checkpoint.read_tensors(path)
    if isinstance(content, dict) and content.get("format") == checkpoint.FORMAT:
        content = checkpoint.checked(content, path)
        check_form(content["state"].get("networks"), dict, f"{path}: networks")
        return _Stored(content["state"]["networks"], path, content["recipe"], content["description"])
    if not isinstance(content, Mapping) or not content:
        raise UserError(
            f"{path} is not a checkpoint of ours, nor the state dict of a network: it holds {_describe(content)}"
        )
    return _Stored(dict(content), path)


def _refuse_others(path: Path) -> None:
    """Say what a file is that was taken for one of tensors; nothing of one that may be."""
    with open(path, "rb") as file:
        start = file.read(262)
    for beginning, what in _BEGINNINGS.items():
        if start.lstrip().startswith(beginning):
            raise UserError(f"{path} holds no network: it is {what}")
    if start[257:] == b"ustar":
        raise UserError(f"{path} holds no network: it is a tar archive, to be unpacked")
    try:
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
    except Exception:  # of bytes that no zip file has; what else it may be, read_tensors says
        return
    inner = {name.partition("/")[2] for name in names}
    made_by = (
        "torch.jit.save, a TorchScript program"
        if "constants.pkl" in inner
        else "torch.export.save"
        if ("archive_format" in inner)
        else None
    )
    if made_by:
        raise UserError(
            f"{path} was written by {made_by}; networks are built from state dicts: give a file of the "
            "model's state_dict()"
        )
    if not any(name.endswith("data.pkl") for name in names):
        more = f" and {len(names) - 2} more" if len(names) > 2 else ""
        raise UserError(f"{path} holds no network: it is a zip archive of {', '.join(names[:2])}{more}")


def _read_safetensors(path: Path) -> _Stored:
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
    except (SafetensorError, ValueError):
        raise UserError(f"{path} is damaged, or not a safetensors file") from None
    stated = metadata.pop("fastgan_checksum", None)
    if stated is not None and stated != checksum([metadata, tensors]):
        raise UserError(f"{path} is damaged: what it holds is not what was written (its checksum differs)")
    if metadata.get("format") != FORMAT:
        return _Stored(tensors, path)
    states: dict[str, dict[str, Tensor]] = {}
    for key, value in tensors.items():
        name, _, rest = key.partition(".")
        states.setdefault(name, {})[rest] = value
    try:
        description = json.loads(metadata.get("description", ""))
    except (ValueError, RecursionError):
        description = None
    if not is_run_description(description):
        raise UserError(f"{path} is damaged: its description of the run cannot be read")
    return _Stored(states, path, metadata.get("recipe"), description)


def check_fit(recipe_class: type[recipes.Recipe], options: Any, states: Any) -> None:
    """Raises UserError where networks of these options are larger than those of ``states``. Takes no memory, whatever
    the options say. The global random generator is left as it was."""
    try:
        with torch.random.fork_rng(devices=[]), torch.device("meta"):
            networks = recipe_class(options).networks
    except (RuntimeError, TypeError, OverflowError) as error:  # of torch, for sizes beyond its integers
        why = textwrap.shorten(str(error), 100)
        raise UserError(f"networks of the options in the checkpoint cannot be built ({why})") from None
    for name, network in networks.items():
        state = states.get(name) if isinstance(states, Mapping) else None
        stored = state.values() if isinstance(state, Mapping) else ()
        there = sum(each.numel() for each in stored if isinstance(each, Tensor))
        wanted = sum(each.numel() for each in network.state_dict().values())
        if wanted > there:
            raise UserError(
                f"the checkpoint's network {name} is of another kind or size ({there:,} numbers, where its options "
                f"give {wanted:,}); use the options it was trained with"
            )


def _rebuild_recipe(stored: _Stored, name: str) -> recipes.Recipe:
    """The recipe by its stored options, and its networks' weights."""
    recipe = _make_recipe(name, stored.description, stored.path, stored.states)
    try:
        recipes.load_networks(recipe.networks, stored.states)
    except ValueError as error:
        raise UserError(f"{stored.path}: {error}") from None
    return recipe


def _make_recipe(name: str, description: Mapping[str, Any], path: Path, states: Any = None) -> recipes.Recipe:
    """A new recipe by the options that ``path`` holds, for these states of all its networks, where they are given. The
    global random generator is left as it was."""
    recipe_class = recipes.get(name)
    try:
        options: Any = read_options(recipe_class.Options, description["options"]["recipe"])
    except (TypeError, KeyError):
        raise UserError(f"{path} was written by another version of fastgan, whose {name} has other options") from None
    except ValueError as error:
        raise UserError(f"the options in {path} cannot be used: {error}") from None
    try:
        if states is not None:
            check_fit(recipe_class, options, states)
        with torch.random.fork_rng(devices=[]):
            return recipe_class(options)
    except ValueError as error:
        raise UserError(f"{path}: {error}") from None


def _find_networks(content: Mapping[Any, Any], path: Path) -> dict[str, nn.Module]:
    """The networks of a dict that others made, by our names."""
    near: list[str] = []
    found = _search(content, "", near)
    if not found:
        kinds = ", ".join(network_class.__name__ for network_class in _READ_AS)
        raise UserError(
            f"{path}: {near[0]}"
            if near
            else f"{path} is none of the networks known here ({kinds}): it holds {_describe(content)}"
        )
    match = _PUBLISHED.fullmatch(path.name)
    if len(found) == 1:
        ((place, network),) = found.items()
        return {match[2] if match else _role(place, network) or _kind(network): network}
    roles = [(_role(place, network), network) for place, network in found.items()]
    named = {role: network for role, network in roles if role is not None}
    if len(named) < len(found):
        raise UserError(
            f"{path} holds several networks ({', '.join(found)}), whose names do not say which is which: "
            "save the state dict of one generator alone"
        )
    return named


def _search(content: Mapping[Any, Any], place: str, near: list[str]) -> dict[str, nn.Module]:
    """The networks in a dict, by where they are: it is one, or dicts in it or keys with one prefix are.

    ``near`` collects sentences on what is nearly one.
    """
    tensors = plain_keys(
        {key: value for key, value in content.items() if isinstance(key, str) and isinstance(value, Tensor)}
    )
    # Counters, which some put among the weights, have no module before their name.
    state = {key: value for key, value in tensors.items() if "." in key or value.numel() != 1}
    network = _recognise(state, place, near) if state else None
    if network is not None:
        return {place: network}
    parts: dict[str, dict[Any, Any]] = {}
    for key, value in content.items():
        if isinstance(key, str) and isinstance(value, Mapping):
            parts.setdefault(key, {}).update(value)
    for key, value in state.items():
        head, _, rest = key.partition(".")
        if rest:
            parts.setdefault(head, {})[rest] = value
    found: dict[str, nn.Module] = {}
    for head, part in parts.items() if place.count("/") < _DEPTH else ():
        found |= _search(part, f"{place}/{head}".lstrip("/"), near)
    return found


def _recognise(state: Mapping[str, Tensor], place: str, near: list[str]) -> nn.Module | None:
    """The network that a state dict describes, or None. The global random generator is left as it was."""
    with torch.random.fork_rng(devices=[]):
        for network_class in _READ_AS:
            try:
                network = network_class.from_state_dict(state).eval()
                if (fault := _odd_weight(state)) is None:
                    return network
                near.append(f"{place or 'it'} is a {network_class.__name__}, but {fault}")
            except RuntimeError as error:
                misfits = "; ".join(line.strip().rstrip(". ") for line in str(error).splitlines()[-3:])
                near.append(
                    f"{place or 'it'} is nearly a {network_class.__name__}, but does not fit: "
                    f"{textwrap.shorten(misfits, 300)}"
                )
            except (ValueError, KeyError, IndexError):
                continue
    near += [
        f"{place or 'it'} is {what}" for keys, what in _OTHERS.items() if any(keys.fullmatch(key) for key in state)
    ]
    return None


def _odd_weight(state: Mapping[str, Tensor]) -> str | None:
    """Why numbers of a state dict cannot be weights; None where all can."""
    for key, value in state.items():
        if not value.is_floating_point() and key.rpartition(".")[2] != "num_batches_tracked":
            kind = str(value.dtype).removeprefix("torch.")
            return f"{key} is of {kind}: weights are floating-point numbers, which quantized ones are made from"
        if not torch.isfinite(value).all():
            return f"{key} holds NaN or infinite values: its training went wrong before it was saved"
    return None


def _role(place: str, network: nn.Module) -> str | None:
    """What a network is for us, by the name that others gave it: G_A translates A to B; None where it does not say."""
    for name in reversed(place.split("/")):
        match = _ROLE.fullmatch(name)
        if match and match["kind"].upper() == _kind(network):
            return _kind(network) + ("_A" if match["A"] else "_B" if match["B"] else "")
    return None


def _kind(network: nn.Module) -> str:
    return "G" if isinstance(network, (models.ResnetGenerator, models.UnetGenerator)) else "D"


def _describe(content: Any) -> str:
    """What a file of others holds, in few words."""
    if isinstance(content, (list, tuple)) and content:
        return f"a {type(content).__name__} of {len(content)}, which begins with {_describe(content[0])}"
    if not isinstance(content, Mapping) or not content:
        return f"{'an empty' if content in ({}, [], ()) else 'a'} {type(content).__name__}"
    items = [
        f"{key} ({'x'.join(map(str, value.shape)) or 'a number'})"
        if isinstance(value, Tensor)
        else f"{key} ({type(value).__name__})"
        for key, value in content.items()
    ]
    known = ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")
    strange = [
        key for key, value in content.items() if isinstance(value, Tensor) and str(key).rpartition(".")[2] not in known
    ]
    more = f" and {len(items) - 3} more" if len(items) > 3 else ""
    return f"{', '.join(items[:3])}{more}" + (f", among them {', '.join(strange[:2])}" if more and strange else "")


def _rebuild(state: Mapping[str, Tensor], path: Path, name: str) -> nn.Module:
    """The network that a state dict describes. The global random generator is left as it was."""
    near: list[str] = []
    network = _recognise(state, name, near)
    if network is None:
        kinds = ", ".join(network_class.__name__ for network_class in _READ_AS)
        raise UserError(f"{path}: {near[0] if near else f'{name} is none of the networks known here ({kinds})'}")
    return network
