"""How option dataclasses become command-line flags."""

from __future__ import annotations

import argparse
import difflib
import math
from collections.abc import Callable, Collection, Sequence
from typing import Any, NoReturn

from fastgan._errors import UserError
from fastgan._options import options_of
from fastgan.cli.published_flags import answer
from fastgan.training.train_options import LARGEST_SEED

ALMOST = 0.85  # of difflib's ratio: a letter or two, no other word


class Parser(argparse.ArgumentParser):
    """An argument parser whose errors are sentences of ours, and whose flags take dashes and underscores alike.

    Args:
        incomplete: what exit code 1 says, in a command that has it.
    """

    def __init__(
        self,
        prog: str,
        *,
        usage: str | None = None,
        description: str | None = None,
        epilog: str | None = None,
        incomplete: str | None = None,
    ) -> None:
        super().__init__(
            prog,
            usage=usage,
            description=description,
            epilog="\n\n".join(part for part in (epilog, exit_codes(incomplete)) if part),
            formatter_class=_Formatter,
            allow_abbrev=False,
        )

    def error(self, message: str) -> NoReturn:
        raise UserError(message.removeprefix("argument "))

    def parse(self, argv: Sequence[str]) -> argparse.Namespace:
        """Parse ``argv``; an unknown argument is an error that says what serves instead, or which flag is almost it."""
        namespace, unknown = self.parse_known_args(normalise(argv))
        if unknown:
            known = [flag for action in self._actions for flag in action.option_strings]
            flag = unknown[0].split("=")[0]
            hint = answer(flag, known)
            if hint is None:
                meant = [each for each in known if each.startswith(flag)]
                if len(meant) != 1:
                    meant = difflib.get_close_matches(flag, known, n=1, cutoff=ALMOST)
                hint = f"did you mean {meant[0]}?" if meant else f"{self.prog} --help lists what there is"
            raise UserError(f"unknown argument {unknown[0]!r}: {hint}")
        return namespace


def exit_codes(incomplete: str | None = None) -> str:
    """The line of ``--help`` that says what a command's exit code means."""
    some = "" if incomplete is None else f" 1 {incomplete},"
    return f"exit codes: 0 done,{some} 2 an error, told in one line, 130 stopped by Ctrl-C or a signal"


class _Formatter(argparse.RawDescriptionHelpFormatter):
    def __init__(self, prog: str) -> None:
        super().__init__(prog, max_help_position=32, width=116)


def normalise(argv: Sequence[str]) -> list[str]:
    """Write the names of long flags with dashes (``--load_size=286`` -> ``--load-size=286``); leave values alone."""
    result: list[str] = []
    for position, argument in enumerate(argv):
        if argument == "--":
            return [*result, *argv[position:]]
        if argument.startswith("--"):
            name, equals, value = argument.partition("=")
            argument = name.replace("_", "-") + equals + value
        result.append(argument)
    return result


def add_options(parser: argparse.ArgumentParser, options: type, title: str, leave_out: Collection[str] = ()) -> None:
    """Give ``parser`` a group of flags, one per field of the dataclass ``options`` that is not among ``leave_out``.

    A field of a name that another dataclass already brought is the same flag and is not added again; one that the data
    decides has no flag. The parsed namespace holds only what was given on the command line.
    """
    group = parser.add_argument_group(title)
    taken = {action.dest for action in parser._actions}
    for name, each in options_of(options).items():
        if name in taken or name in leave_out or each.from_data:
            continue
        text = each.help
        if each.default is not None and "(default" not in text:
            text += f" (default: {_show(each.default)})"
        how: dict[str, Any] = {"default": argparse.SUPPRESS, "dest": name, "help": text.replace("%", "%%")}
        if each.kind is bool:
            group.add_argument(each.flag, action=argparse.BooleanOptionalAction, **how)
        elif each.kind is list:
            group.add_argument(each.flag, type=_reader(float, False), nargs=2, metavar=("LOW", "HIGH"), **how)
        elif each.choices:
            group.add_argument(each.flag, type=_reader(each.kind, each.optional), choices=each.choices, **how)
        else:
            metavar = {int: "N", float: "X", str: "TEXT"}[each.kind]
            flags = (each.flag, *("--" + alias.replace("_", "-") for alias in each.aliases))
            group.add_argument(*flags, type=_reader(each.kind, each.optional), metavar=metavar, **how)


def read_seed(text: str) -> int:
    """A conversion for argparse: a seed that torch takes."""
    if not text.isdecimal() or int(text) > LARGEST_SEED:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number from 0 to {LARGEST_SEED}")
    return int(text)


def add_common(parser: argparse.ArgumentParser, *, device: bool = True) -> None:
    """Give ``parser`` the flags --device, where it computes on one, and --debug, of commands that have no option
    dataclasses."""
    if device:
        text = "auto, cpu, cuda or cuda:N (default: auto)"
        parser.add_argument("--device", default="auto", metavar="TEXT", help=text)
    parser.add_argument(
        "--debug", action="store_true", default=argparse.SUPPRESS, help="show the traceback of an error"
    )


def _show(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    return f"{value:g}" if isinstance(value, float) else str(value)


def _reader(kind: type, optional: bool) -> Callable[[str], Any]:
    """A conversion for argparse; where None is allowed for a number, ``none`` gives it."""

    def read(text: str) -> Any:
        if optional and kind is not str and text.lower() == "none":
            return None
        try:
            value = kind(text)
            if kind is float and not math.isfinite(value):
                raise ValueError
            return value
        except ValueError:
            wanted = {int: "a whole number", float: "a number"}[kind]
            raise argparse.ArgumentTypeError(f"{text!r} is not {wanted}{' or none' if optional else ''}") from None

    return read
