"""The networks alone: how a run shares them, and how they, or the whole recipe, are rebuilt with no flags."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from fastgan import models, recipes
from fastgan._form import check_form

from . import checkpoint
from .checksum import checksum
from .command import UserError
from .files import write_atomically
from .settings import is_run_description, make_options

FORMAT = "fastgan networks"
_PUBLISHED = re.compile(r".*_net_([A-Za-z]+(?:_[AB])?)\.pth")
_READ_AS = (models.ResnetGenerator, models.UnetGenerator, models.NLayerDiscriminator, models.PixelDiscriminator)


@dataclass
class Networks:
    """Networks read from a file, in evaluation mode, on the CPU.

    Attributes:
        networks: by the recipe's names ("G_A" translates A to B, "G_B" back); a generator that comes alone, without
            a direction in its file's name, is "G".
        recipe: the recipe that trained them, or None for published files.
        description: the run's options, as :meth:`fastgan.engine.settings.Settings.to_json` gives them; {} when unknown.
        source: the file or files read.
    """

    networks: dict[str, nn.Module]
    recipe: str | None = None
    description: dict[str, Any] = field(default_factory=dict)
    source: tuple[Path, ...] = ()


@dataclass
class _Stored:
    """What a file holds: state dicts by network, and what trained them."""

    states: dict[str, Mapping[str, Tensor]]
    path: Path
    recipe: str | None = None
    description: dict[str, Any] = field(default_factory=dict)


def save_networks(path: Path, networks: Mapping[str, nn.Module], description: Mapping[str, Any]) -> None:
    """Write all networks' weights as one safetensors file, keys ``G_A.model.1.weight``, atomically.

    Its metadata names the recipe and holds the run's description as JSON, and a checksum of all that the file says.
    """
    from safetensors.torch import save

    tensors = {f"{name}.{key}": value.detach().cpu().contiguous()
               for name, network in networks.items() for key, value in network.state_dict().items()}
    metadata = {"format": FORMAT, "recipe": description["recipe"], "description": json.dumps(description)}
    metadata["fastgan_checksum"] = checksum([metadata, tensors])
    write_atomically(path, lambda temporary: temporary.write_bytes(save(tensors, metadata=metadata)))


def load_networks(path: str | Path) -> Networks:
    """Rebuild networks from what is written in ``path`` alone.

    Args:
        path: a run folder, its checkpoint.pt or networks.safetensors, a published ``latest_net_G_A.pth`` (any
            ``*_net_G*.pth``), or a folder of such files.

    Raises:
        UserError: nothing readable there, a damaged file, or networks that this package does not know.
    """
    path = Path(path)
    if path.is_dir() and _run_file(path) is None:
        return _load_published(path)
    stored = _read(path)
    if stored.recipe in recipes.RECIPES:
        networks = {name: network.eval() for name, network in _rebuild_recipe(stored).networks.items()}
    else:
        networks = {name: _rebuild(state, stored.path, name) for name, state in stored.states.items()}
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
        as :meth:`fastgan.engine.settings.Settings.to_json` gives them.

    Raises:
        UserError: nothing readable there, a damaged file, or networks without a recipe that this package knows.
    """
    path = Path(path)
    if path.is_dir() and _run_file(path) is None:
        raise UserError(f"{path} holds no run: neither networks.safetensors nor checkpoint.pt")
    stored = _read(path)
    if stored.recipe is None:
        raise UserError(f"{stored.path} holds networks alone and does not say which recipe they belong to: give the "
                        "folder of a run")
    if stored.recipe not in recipes.RECIPES:
        raise UserError(f"{stored.path} is of the recipe {stored.recipe!r}, which is none of those known here "
                        f"({', '.join(recipes.RECIPES)}): update fastgan")
    return _rebuild_recipe(stored), stored.description


def _run_file(folder: Path) -> Path | None:
    for name in ("networks.safetensors", "checkpoint.pt"):
        if (folder / name).is_file():
            return folder / name
    return None


def _load_published(folder: Path) -> Networks:
    # Published runs keep one file per network and epoch; the latest are the ones meant.
    found = sorted(folder.glob("latest_net_G*.pth"))
    if not found:
        raise UserError(f"{folder} holds no networks: neither networks.safetensors, nor checkpoint.pt, "
                        "nor latest_net_G*.pth")
    parts = [load_networks(file) for file in found]
    return Networks({name: network for part in parts for name, network in part.networks.items()}, source=tuple(found))


def _read(path: Path) -> _Stored:
    if path.is_dir():
        path = _run_file(path)
    if not path.exists():
        raise UserError(f"{path}: no such file or folder")
    if path.suffix == ".safetensors":
        return _read_safetensors(path)
    content = checkpoint.read_tensors(path)
    if isinstance(content, dict) and content.get("format") == checkpoint.FORMAT:
        content = checkpoint.load(path)
        check_form(content["state"].get("networks"), dict, f"{path}: networks")
        return _Stored(content["state"]["networks"], path, content["recipe"], content["description"])
    if not _is_state_dict(content):
        raise UserError(f"{path} is not a checkpoint of ours, nor the state dict of a network")
    match = _PUBLISHED.fullmatch(path.name)
    return _Stored({match[1] if match else "G": content}, path)


def _read_safetensors(path: Path) -> _Stored:
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            tensors = {key: file.get_tensor(key) for key in file.keys()}
    except (SafetensorError, ValueError):
        raise UserError(f"{path} is damaged, or not a safetensors file") from None
    stated = metadata.pop("fastgan_checksum", None)
    if stated is not None and stated != checksum([metadata, tensors]):
        raise UserError(f"{path} is damaged: what it holds is not what was written (its checksum differs)")
    if metadata.get("format") != FORMAT:
        return _Stored({"G": tensors}, path)
    states: dict[str, dict[str, Tensor]] = {}
    for key, value in tensors.items():
        name, _, rest = key.partition(".")
        states.setdefault(name, {})[rest] = value
    try:
        description = json.loads(metadata.get("description", ""))
    except ValueError:
        description = None
    if not is_run_description(description):
        raise UserError(f"{path} is damaged: its description of the run cannot be read")
    return _Stored(states, path, metadata.get("recipe"), description)


def _rebuild_recipe(stored: _Stored) -> recipes.Recipe:
    """The recipe by its stored options, and its networks' weights. The global random generator is left as it was."""
    recipe_class = recipes.get(stored.recipe)
    try:
        options = make_options(recipe_class.Options, stored.description["options"]["recipe"])
    except (TypeError, KeyError):
        raise UserError(f"{stored.path} was written by another version of fastgan, whose {stored.recipe} has other "
                        "options") from None
    with torch.random.fork_rng(devices=[]):
        recipe = recipe_class(options)
    recipes.load_networks(recipe.networks, stored.states)
    return recipe


def _is_state_dict(content: Any) -> bool:
    return (isinstance(content, dict) and len(content) > 0
            and all(isinstance(key, str) and isinstance(value, Tensor) for key, value in content.items()))


def _rebuild(state: Mapping[str, Tensor], path: Path, name: str) -> nn.Module:
    """The network that a state dict describes. The global random generator is left as it was."""
    with torch.random.fork_rng(devices=[]):
        for network_class in _READ_AS:
            try:
                return network_class.from_state_dict(state).eval()
            except (ValueError, RuntimeError, KeyError, IndexError):
                continue
    kinds = ", ".join(network_class.__name__ for network_class in _READ_AS)
    raise UserError(f"{path}: {name} is none of the networks known here ({kinds})")
