"""Which value an option takes, out of defaults, preset, stored run and command line; and options as JSON."""

from __future__ import annotations

import dataclasses
import json
import math
import typing
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fastgan._errors import UserError
from fastgan._files import write_atomically
from fastgan._form import short

FORMAT = "fastgan run"

# What a resumed run may change: options of recipes and data that the loop itself acts on, or no state depends on.
# The run's own options, and any other that knows better, say so in their metadata ("resume").
MAY_CHANGE = ("n_epochs", "n_epochs_decay", "lr", "num_threads", "dataroot", "cache")


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
            group: {field.name: getattr(options, field.name) for field in dataclasses.fields(options) if _stored(field)}
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
        UserError: a layer names an option that no class has, or a value is not among an option's choices.
    """
    values: dict[str, Any] = {}
    for layer in layers:
        values.update(layer)
    fields = {field.name for options in classes.values() for field in dataclasses.fields(options)}
    for name in values:
        if name not in fields:
            raise UserError(f"{recipe} has no option {name!r}: this run or preset is of another version of fastgan")
    groups = {}
    for group, options in classes.items():
        names = {field.name for field in dataclasses.fields(options)}
        groups[group] = make_options(options, {name: value for name, value in values.items() if name in names})
    return Settings(recipe, preset, groups)


def make_options(options: type, values: Mapping[str, Any]) -> Any:
    """An object of the dataclass ``options``.

    Raises:
        UserError: a value is not of its option's type or among its choices, or is a number that is not finite.
        TypeError: there is no such option.
    """
    types = typing.get_type_hints(options)
    for field in dataclasses.fields(options):
        if field.name not in values:
            continue
        name, value, choices = field.name, values[field.name], field.metadata.get("choices")
        allowed = tuple(typing.get_origin(each) or each for each in typing.get_args(types[name]) or (types[name],))
        if type(value) not in allowed and not (type(value) is int and float in allowed):
            raise UserError(f"{name} is {short(value)}, which is not of the kind {' or '.join(map(_name, allowed))}")
        if isinstance(value, list) and not all(type(each) in (int, float) for each in value):
            raise UserError(f"{name} is {short(value)}, which is not a list of numbers")
        numbers = value if isinstance(value, list) else [value]
        if any(isinstance(each, float) and not math.isfinite(each) for each in numbers):
            raise UserError(f"{name} is {short(value)}: it must be a finite number")
        if isinstance(value, int) and abs(value) > 2**64:
            raise UserError(f"{name} is {value}: no option takes integers of more than 64 bits")
        if choices and value not in choices:
            raise UserError(f"{name} is {value!r}: choose from {', '.join(map(str, choices))}")
    return options(**values)


def resume(description: Mapping[str, Any], classes: Mapping[str, type], given: Mapping[str, Any]) -> Settings:
    """The options of a stored run, with the flags of this call where a run may change them.

    Raises:
        UserError: a flag differs from the stored value of an option that is fixed once a run has started, or a stored
            value cannot be one.
    """
    stored = flatten(description)
    try:
        resolve(description["recipe"], description["preset"], classes, stored)
    except ValueError as error:
        raise UserError(f"the options in the checkpoint of the run cannot be used: {error}") from None
    for options in classes.values():
        for field in dataclasses.fields(options):
            if field.name not in given or field.name not in stored or given[field.name] == stored[field.name]:
                continue
            if not field.metadata.get("resume", field.name in MAY_CHANGE):
                flag = "--" + field.name.replace("_", "-")
                raise UserError(
                    f"{flag} {given[field.name]}: the run was started with {stored[field.name]}, which is "
                    f"fixed for its life; leave the flag out, or start a new run with --name"
                )
    return resolve(description["recipe"], description["preset"], classes, stored, given)


def changes(description: Mapping[str, Any], run: Settings) -> list[str]:
    """What a resumed run changes in the options it was started with: "n_epochs 4 instead of 2", ..."""
    before, after = flatten(description), flatten(run.to_json())
    return [
        f"{name} {after[name]} instead of {before[name]}"
        for name in after
        if name in before and after[name] != before[name]
    ]


def _name(kind: type) -> str:
    return "none" if kind is type(None) else kind.__name__


def _stored(field: dataclasses.Field) -> bool:
    return field.metadata.get("stored", True)
