"""Bench records as a Markdown table, and as a plot.

    python -m bench.report RECORD... [--output TABLE.md] [--plot PLOT.png]
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from . import record

COLUMNS = ("eager NCHW", "eager channels_last", "ours NCHW", "ours channels_last")
BUSY = 0.2


def seconds(value: float) -> str:
    """A time with three significant digits: 1.2 s, 94.5 ms, 8.12 µs."""
    unit, scale = ("s", 1.0) if value >= 1 else ("ms", 1e-3) if value >= 1e-3 else ("µs", 1e-6)
    return f"{value / scale:.3g} {unit}"


def _medians(case: dict, column: str) -> str:
    """The medians of one column, which has several where eager also ran in place, or ours by each backend."""
    who, layout = column.lower().split()
    found = [
        timing["median"] for name, timing in case["providers"].items()
        if name.startswith(who) and record.layout(name) == layout
    ]
    return " / ".join(map(seconds, found))


def _ratios(case: dict, group: str) -> str:
    return " / ".join(f"{ratios[group]:.2f}" for ratios in case["speedup"].values())


def _of_ceiling(case: dict, ceilings: dict) -> str:
    """What the fastest provider of ours reaches, in bytes or multiplications a second, and its share of the ceiling."""
    median = min(timing["median"] for name, timing in case["providers"].items() if name.startswith("ours"))
    if case["flops"]:
        rate, unit, ceiling = case["flops"] / median, "GFLOP/s", max(ceilings["flops"][case["dtype"]].values())
    elif case["bytes"]:
        rate, unit, ceiling = case["bytes"] / median, "GB/s", ceilings["copy_bytes_per_second"]
    else:
        return ""
    return f"{rate / 1e9:.3g} {unit} ({rate / ceiling:.0%})"


def _rows(run: dict) -> list[list[str]]:
    rows = []
    for case in run["cases"]:
        what = " ".join(filter(None, (case["op"], case["variant"])))
        rows.append(
            [what, case["shape"], case["dtype"], case["direction"], *(_medians(case, column) for column in COLUMNS)]
            + [_ratios(case, "same_layout"), _ratios(case, "best_eager"), _of_ceiling(case, run["ceilings"])]
            + [case["backend"]["name"]]
        )
    return rows


def _table(header: list[str], rows: list[list[str]]) -> str:
    widths = [max(map(len, column)) for column in zip(header, *rows)]
    lines = [header, ["-" * width for width in widths], *rows]
    return "\n".join("| " + " | ".join(cell.ljust(width) for cell, width in zip(line, widths)) + " |" for line in lines)


def _machine(run: dict) -> str:
    env, ceilings = run["environment"], run["ceilings"]
    commit = env["commit"]["id"] or "no commit"
    rates = ", ".join(
        f"{dtype} {max(kinds.values()) / 1e9:.4g} GFLOP/s ({max(kinds, key=kinds.get)})"
        for dtype, kinds in ceilings["flops"].items()
    )
    cores = f", {env['threads']} threads on {env['cores']} cores" if env["device_type"] == "cpu" else ""
    driver = f", driver {env['driver_version']}" if "driver_version" in env else ""
    return (
        f"{env['device']}{cores}{driver}; torch {env['torch']}, triton {env['triton']}, Python {env['python']}; "
        f"fastgan {env['fastgan']} ({commit}{', changed' if env['commit']['dirty'] else ''}), {run['date'][:10]}. "
        f"Ceilings measured in this run: copy {ceilings['copy_bytes_per_second'] / 1e9:.4g} GB/s, {rates}."
    )


def _remarks(run: dict) -> list[str]:
    remarks = []
    reasons = {
        (case["op"], case["backend"]["name"], name, reason)
        for case in run["cases"]
        for name, reason in case["backend"]["passed_over"].items()
        if case["backend"]["name"] == "reference"
    }
    remarks += [f"{op} ran on {chosen}: not {name}, because {reason}." for op, chosen, name, reason in sorted(reasons)]
    if run["losing"]:
        each = (f"{x['case']} ({x['provider'].removeprefix('ours ')}, {x['ratio']:.2f})" for x in run["losing"])
        listed = "; ".join(each)
        remarks.append(f"Slower than eager in the same layout, by more than {record.TIE:.0%}: {listed}.")
    remarks += [f"Not timed: {record.title(case)}: {case['reason']}." for case in run["failed"]]
    shares = [timing["preempted"] for case in run["cases"] for timing in case["providers"].values()]
    if shares and sum(shares) / len(shares) > BUSY:
        remarks.append(
            f"The machine was busy: other processes cut into {sum(shares) / len(shares):.0%} of the samples, "
            "so these medians are not to be quoted."
        )
    return remarks


def markdown(runs: list[dict]) -> str:
    """One section per run: the machine, a table of medians and ratios, and what is to be said about them."""
    header = ["op", "shape", "dtype", "direction", *COLUMNS, "× same layout", "× best eager", "best of ours", "backend"]
    sections = []
    for run in runs:
        parts = [_machine(run), _table(header, _rows(run))]
        if remarks := _remarks(run):
            parts.append("\n".join(f"- {remark}" for remark in remarks))
        sections.append("\n\n".join(parts))
    legend = (
        "Medians of interleaved runs; eager as out-of-place / in-place activation where that differs, ours as halo "
        "/ triton where it ran by both. Ratios: the better eager form's median over ours, for ours NCHW / ours "
        "channels_last, halo first. Shares are of the ceiling of the same run."
    )
    return "\n\n".join([*sections, legend])


def plot(runs: list[dict], path: Path) -> None:
    """Speed-up over the best eager form, one bar per case and provider of ours; ImportError without matplotlib."""
    from matplotlib.figure import Figure

    bars = [(record.title(case), case["speedup"]) for run in runs for case in run["cases"]]
    figure = Figure(figsize=(9, 1 + 0.32 * len(bars)), layout="constrained")
    axes = figure.subplots()
    for offset, (name, colour) in enumerate((("ours nchw", "#4477aa"), ("ours channels_last", "#ee6677"))):
        found = []
        for i, (_, speedup) in enumerate(bars):
            ratios = [r["best_eager"] for key, r in speedup.items() if record.layout(key) == record.layout(name)]
            found += [(i, max(ratios))] if ratios else []
        if found:
            places, lengths = zip(*found)
            axes.barh([i + 0.4 * offset for i in places], lengths, height=0.38, color=colour, label=name)
    axes.axvline(1.0, color="black", linewidth=0.8)
    axes.set_yticks([i + 0.2 for i in range(len(bars))], [label for label, _ in bars], fontsize=7)
    axes.invert_yaxis()
    axes.set_xlabel("times as fast as the best eager form")
    axes.legend()
    figure.savefig(path, dpi=150)


def main(argv: list[str] | None = None) -> int:
    """The command; its exit status."""
    parser = argparse.ArgumentParser(prog="python -m bench.report", description="Bench records as a table and a plot.")
    parser.add_argument("records", nargs="+", type=Path, metavar="RECORD", help="what pytest bench --benchmark wrote")
    parser.add_argument("--output", type=Path, metavar="TABLE.md", help="write the table there (default: print it)")
    parser.add_argument("--plot", type=Path, metavar="PLOT.png", help="also draw the speed-ups (needs matplotlib)")
    options = parser.parse_args(argv)
    try:
        runs = [record.read(path) for path in options.records]
        if options.plot:
            plot(runs, options.plot)
    except ValueError as error:
        parser.exit(2, f"{parser.prog}: {error}\n")
    except ImportError:
        parser.exit(2, f"{parser.prog}: --plot needs matplotlib (pip install matplotlib)\n")
    text = markdown(runs) + "\n"
    if options.output:
        options.output.write_text(text, encoding="utf-8")
    else:
        sys.stdout.write(text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
