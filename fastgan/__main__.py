"""python -m fastgan: the commands that there are, each by the first line of its own description."""

import ast
import shlex
import sys
from pathlib import Path

from fastgan._errors import UserError
from fastgan.cli import command
from fastgan.cli.flags import Parser

COMMANDS = ("train", "translate", "generate", "interpolate", "retrieve", "evaluate", "export", "demo", "info", "tune")


def main(argv: list[str]) -> int:
    if argv[:1] and argv[0] in COMMANDS:
        raise UserError(f"write a point, not a space: python -m fastgan.{shlex.join(argv)}")
    Parser("python -m fastgan", description="List the commands.").parse(argv)
    for name in COMMANDS:
        text = Path(__file__).with_name(f"{name}.py").read_text(encoding="utf-8")
        description = ast.get_docstring(ast.parse(text)) or name
        print(description.splitlines()[0].replace("`", ""))
    return 0


if __name__ == "__main__":
    sys.exit(command.run(main))
