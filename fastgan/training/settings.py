"""Which value an option takes, out of defaults, preset, stored run and command line; and options as JSON."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fastgan._errors import UserError
from fastgan._files import write_atomically
from fastgan._options import options_of, read_options

FORMAT = "fastgan run"


@dataclass(frozen=True)
class Settings:
    """All options of a run.

    Attributes:
        recipe: the recipe's name.
        preset: the name of the preset that was taken.
        groups: option objects by group ("train", "data", "recipe").
    """

    recipe: str
    preset: str
    groups: dict[str, Any]

    def to_json(self) -> dict[str, Any]:
        """A plain dict: what :func:`from_json` reads, without the options that belong to one call only."""
        options = {
            group: {name: getattr(options, name) for name, each in options_of(type(options)).items() if each.stored}
            for group, options in self.groups.items()
        }
        return {"format": FORMAT, "recipe": self.recipe, "preset": self.preset, "options": options}

    def write(self, path: Path) -> None:
        text = json.dumps(self.to_json(), indent=2) + "\n"
        write_atomically(path, lambda temporary: temporary.write_text(text, encoding="utf-8"))


def is_run_description(value: Any) -> bool:
    """Whether a parsed JSON value has the form of :meth:`Settings.to_json`."""
    return (
        isinstance(value, dict)
        and value.get("format") == FORMAT
        and isinstance(value.get("options"), dict)
        and isinstance(value.get("recipe"), str)
        and isinstance(value.get("preset"), str)
        and {"train", "data", "recipe"} <= value["options"].keys()
        and all(
            isinstance(group, dict) and all(isinstance(name, str) for name in group)
            for group in value["options"].values()
        )
    )


def flatten(description: Mapping[str, Any]) -> dict[str, Any]:
    """The options of a run description by name, without their groups."""
    return {name: value for group in description["options"].values() for name, value in group.items()}


def choose_preset(
    presets: Mapping[str, Mapping[str, Any]], asked: str | None, dataroot: str | None, device_type: str
) -> tuple[str, str]:
    """(preset, why): the one asked for, else by data and device."""
    if asked is not None:
        if asked not in presets:
            raise UserError(f"unknown preset {asked!r}: choose from {', '.join(presets)}")
        return asked, "asked for"
    if dataroot is not None:
        name, why = "paper", "--dataroot is given"
    elif device_type == "cuda":
        name, why = "gpu", "built-in data on a GPU"
    else:
        name, why = "laptop", "built-in data on a CPU"
    if name not in presets:
        name, why = next(iter(presets)), "the recipe's first one"
    return name, why


def resolve(recipe: str, preset: str, classes: Mapping[str, type], *layers: Mapping[str, Any]) -> Settings:
    """Build the option objects; of ``layers`` (values by option name) the later ones win over the earlier.

    A name that several classes have is one option and reaches all of them.

    Raises:
        UserError: a layer names an option that no class has, or a value that an option does not take.
    """
    values: dict[str, Any] = {}
    for layer in layers:
        values.update(_by_todays_names(layer, classes))
    known = {name for options in classes.values() for name in options_of(options)}
    for name in values:
        if name not in known:
            raise UserError(f"{recipe} has no option {name!r}: this run or preset is of another version of fastgan")
    groups: dict[str, Any] = {
        group: read_options(options, {name: values[name] for name in options_of(options) if name in values})
        for group, options in classes.items()
    }
    return Settings(recipe, preset, groups)


def resume(description: Mapping[str, Any], classes: Mapping[str, type], given: Mapping[str, Any]) -> Settings:
    """The options of a stored run, with the flags of this call where a run may change them.

    Raises:
        UserError: a flag differs from the stored value of an option that is fixed once a run has started, or a stored
            value cannot be one.
    """
    stored = _by_todays_names(flatten(description), classes)
    try:
        resolve(description["recipe"], description["preset"], classes, stored)
    except ValueError as error:
        raise UserError(f"the options in the checkpoint of the run cannot be used: {error}") from None
    for options in classes.values():
        for name, each in options_of(options).items():
            if each.resume or name not in given or name not in stored or given[name] == stored[name]:
                continue
            raise UserError(
                f"{each.flag} {given[name]}: the run was started with {stored[name]}, which is "
                f"fixed for its life; leave the flag out, or start a new run with --name"
            )
    return resolve(description["recipe"], description["preset"], classes, stored, given)


def _by_todays_names(values: Mapping[str, Any], classes: Mapping[str, type]) -> dict[str, Any]:
    """``values`` under the names that options have now. Of a renamed one that is text now, numbers become text."""
    named: dict[str, Any] = {}
    found = {
        alias: each for options in classes.values() for each in options_of(options).values() for alias in each.aliases
    }
    for name, value in values.items():
        if name in found:
            name, value = found[name].name, str(value) if found[name].kind is str and type(value) is int else value
        named[name] = value
    return named


def changes(description: Mapping[str, Any], run: Settings) -> list[str]:
    """What a resumed run changes in the options it was started with: "n_epochs 4 instead of 2", ..."""
    before, after = flatten(description), flatten(run.to_json())
    return [
        f"{name} {after[name]} instead of {before[name]}"
        for name in after
        if name in before and after[name] != before[name]
    ]
