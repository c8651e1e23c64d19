"""Options: dataclass fields that say once what a value may be, and who may change it; all who take one read that."""

from __future__ import annotations

import dataclasses
import math
import types
import typing
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from fastgan._errors import UserError
from fastgan._form import short

_Value = TypeVar("_Value")
_Options = TypeVar("_Options")

_LARGEST = 2**64  # beyond every size, count and seed


def option(
    default: _Value,
    help: str,
    *,
    choices: Sequence[object] = (),
    least: float | None = None,
    most: float | None = None,
    below: float | None = None,
    resume: bool = False,
    stored: bool = True,
    from_data: bool = False,
    aliases: Sequence[str] = (),
) -> _Value:
    """A field of an options dataclass. Its annotation is the type of the values.

    Args:
        help: one phrase for ``--help``.
        choices: the values that are allowed.
        least, most: the smallest and the largest value that is allowed.
        below: what every value is smaller than.
        resume: whether ``--resume`` may be given together with another value than the run was started with.
        stored: whether the value belongs to the run and is kept with it, or only to this call of the command.
        from_data: whether the data decides the value; there is no flag for it then.
        aliases: other names that it has on the command line, and in what earlier versions stored.
    """
    metadata = {
        "help": help,
        "choices": tuple(choices),
        "least": least,
        "most": most,
        "below": below,
        "resume": resume or not stored,
        "stored": stored,
        "from_data": from_data,
        "aliases": tuple(aliases),
    }
    said = {name: value for name, value in metadata.items() if value not in ((), None)}
    return dataclasses.field(default=default, metadata=said)


def with_default(options: type, name: str, default: _Value) -> _Value:
    """The option ``name`` of another options dataclass, with another default."""
    (field,) = (field for field in dataclasses.fields(options) if field.name == name)
    return dataclasses.field(default=default, metadata=field.metadata)


@dataclass(frozen=True)
class Option:
    """What a field of an options dataclass says; see :func:`option`.

    Attributes:
        kind: int, float, str, bool, or list, which is two numbers.
        optional: whether None is allowed.
    """

    name: str
    kind: type
    optional: bool
    default: Any
    help: str
    choices: tuple[Any, ...]
    least: float | None
    most: float | None
    below: float | None
    resume: bool
    stored: bool
    from_data: bool
    aliases: tuple[str, ...]

    @property
    def flag(self) -> str:
        """How it is called on the command line, and in messages."""
        return self.name if self.from_data else "--" + self.name.replace("_", "-")

    def check(self, value: Any) -> None:
        """Raises UserError for a value that is not among the choices, out of bounds or not finite."""
        if value is None and self.optional:
            return
        if self.choices and value not in self.choices:
            raise UserError(f"{self.flag} is {value!r}: choose from {', '.join(map(str, self.choices))}")
        if self.kind is float and not math.isfinite(value):
            raise UserError(f"{self.flag} is {value}: it must be a finite number")
        check_bounds(self.flag, value, least=self.least, most=self.most, below=self.below, optional=self.optional)

    def check_kind(self, value: Any) -> None:
        """Raises UserError for a value of another type; for what a file holds, which may be anything."""
        allowed = (self.kind, *([int] if self.kind is float else []), *([type(None)] if self.optional else []))
        if type(value) not in allowed:
            kinds = " or ".join(["none" if kind is type(None) else kind.__name__ for kind in allowed])
            raise UserError(f"{self.flag} is {short(value)}, which is not of the kind {kinds}")
        if isinstance(value, list):
            if not all(type(each) in (int, float) for each in value):
                raise UserError(f"{self.flag} is {short(value)}, which is not a list of numbers")
            if not all(abs(each) <= _LARGEST for each in value):
                raise UserError(f"{self.flag} is {short(value)}: each must be a finite number")
        if isinstance(value, int) and abs(value) > _LARGEST:
            raise UserError(f"{self.flag} is {value}: no option takes integers of more than 64 bits")


def check_bounds(
    flag: str,
    value: float,
    *,
    least: float | None = None,
    most: float | None = None,
    below: float | None = None,
    optional: bool = False,
) -> None:
    """Raises UserError, naming the flag, for a value out of bounds."""
    otherwise = ", or none" if optional else ""
    if least is not None and not value >= least:
        raise UserError(f"{flag} is {value}: it must be {least} or more{otherwise}")
    if most is not None and not value <= most:
        raise UserError(f"{flag} is {value}: it must be {most} or less{otherwise}")
    if below is not None and not value < below:
        raise UserError(f"{flag} is {value}: it must be less than {below}{otherwise}")


def options_of(options: type) -> dict[str, Option]:
    """The options of a dataclass, by name. A field that was not made by :func:`option` has no bounds."""
    hints = typing.get_type_hints(options)
    found = {}
    for field in dataclasses.fields(options):
        kind, optional = _kind(hints[field.name])
        said = field.metadata
        found[field.name] = Option(
            field.name,
            kind,
            optional,
            field.default,
            said.get("help", ""),
            tuple(said.get("choices", ())),
            said.get("least"),
            said.get("most"),
            said.get("below"),
            said.get("resume", False),
            said.get("stored", True),
            said.get("from_data", False),
            tuple(said.get("aliases", ())),
        )
    return found


def check_options(options: Any) -> None:
    """Raises UserError for the first value of an options object that cannot be."""
    for name, each in options_of(type(options)).items():
        each.check(getattr(options, name))


def read_options(options: type[_Options], values: Mapping[str, Any]) -> _Options:
    """An object of the dataclass ``options``, of values that a file or a command line gives.

    Raises:
        UserError: a value is not of its option's type, or cannot be.
        TypeError: there is no such option.
    """
    for name, each in options_of(options).items():
        if name in values:
            each.check_kind(values[name])
            each.check(values[name])
    return options(**values)


def _kind(hint: Any) -> tuple[type, bool]:
    """(the kind, whether None is allowed) of a field's annotation."""
    optional = False
    if typing.get_origin(hint) in (typing.Union, types.UnionType):
        members = [member for member in typing.get_args(hint) if member is not type(None)]
        optional = len(members) < len(typing.get_args(hint))
        hint = float if set(members) == {int, float} else members[0]
    origin = typing.get_origin(hint)
    if origin is typing.Literal:
        return type(typing.get_args(hint)[0]), optional
    return list if origin in (list, Sequence) else hint, optional


__all__ = ["Option", "check_bounds", "check_options", "option", "options_of", "read_options", "with_default"]
