"""Bench records as Markdown tables and as plots, and pages that quote them.

    python -m bench.report RECORD... [--output TABLE.md] [--plots FOLDER]
    python -m bench.report --update PAGE.md...

A page holds, between two comments, what it quotes: the kinds of table (gains, ops, summary, steps, loader, training,
machine, remarks) and the records, as paths from the root of the repository. ``--update`` writes the tables between them
anew.

    <!-- bench.report: summary machine | bench/results/one.json bench/results/two.json -->
    <!-- /bench.report -->
"""

from __future__ import annotations

import argparse
import re
import sys
from pathlib import Path

from . import plots, record, tables

BLOCK = re.compile(r"(<!-- bench\.report: ([^|\n]*)\|([^\n]*?)-->\n).*?(<!-- /bench\.report -->)", re.DOTALL)


def quoted(page: str) -> str:
    """``page`` with every block between its comments written anew from the records that it names.

    Raises:
        ValueError: a kind of table or a record that there is not, or a record without such a table.
    """

    def block(match: re.Match[str]) -> str:
        kinds, names = match[2].split(), match[3].split()
        unknown = [kind for kind in kinds if kind not in tables.TABLES]
        if unknown:
            raise ValueError(f"there is no table {unknown[0]!r}: choose from {', '.join(tables.TABLES)}")
        runs = [record.read(record.ROOT / name) for name in names]
        found = {kind: tables.TABLES[kind](runs) for kind in kinds}
        empty = [kind for kind, text in found.items() if not text and kind != "remarks"]
        if empty:
            raise ValueError(f"{' and '.join(names)} hold nothing for the table {empty[0]}")
        text = "\n\n".join(filter(None, found.values()))
        return f"{match[1]}{text}\n{match[4]}"

    return BLOCK.sub(block, page)


def main(argv: list[str] | None = None) -> int:
    """The command; its exit status."""
    parser = argparse.ArgumentParser(prog="python -m bench.report", description="Bench records as tables and plots.")
    parser.add_argument("records", nargs="*", type=Path, metavar="RECORD", help="what pytest bench --benchmark wrote")
    parser.add_argument("--output", type=Path, metavar="TABLE.md", help="write the tables there (default: print them)")
    parser.add_argument("--plots", type=Path, metavar="FOLDER", help="also draw them there (needs matplotlib)")
    parser.add_argument(
        "--update",
        type=Path,
        nargs="+",
        default=[],
        metavar="PAGE.md",
        help="write the tables that these pages quote anew",
    )
    options = parser.parse_args(argv)
    if not options.records and not options.update:
        parser.error("give records, or pages to --update")
    try:
        for page in options.update:
            page.write_text(quoted(page.read_text(encoding="utf-8")), encoding="utf-8")
        runs = [record.read(path) for path in options.records]
        drawn = plots.draw(runs, options.plots) if options.plots else []
    except ValueError as error:
        parser.exit(2, f"{parser.prog}: {error}\n")
    except OSError as error:
        parser.exit(2, f"{parser.prog}: {error.filename}: {error.strerror}\n")
    except ImportError:
        parser.exit(2, f"{parser.prog}: --plots needs matplotlib (pip install matplotlib)\n")
    for path in drawn:
        print(f"wrote {path}", file=sys.stderr)
    if runs:
        text = tables.markdown(runs) + "\n"
        if options.output:
            options.output.write_text(text, encoding="utf-8")
        else:
            sys.stdout.write(text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
