"""Bench records as plots: speed-ups of ops, a roofline, and training steps by batch, resolution and pixels."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

from . import record
from .tables import DTYPES, Case, Run, ceiling, of_kind

OPS = ("forward", "backward", "both")
COLOURS = {"nchw": "#4477aa", "channels_last": "#ee6677"}
# What a plot of steps shows, as the first words of variants' names, the fastest of each; and how.
LINES = {
    "eager fp32": ("#bbbbbb", "o-"), "compile fp32": ("#bbbbbb", "s--"), "ours fp32": ("#4477aa", "o-"),
    "eager bf16": ("#888888", "^-"), "compile bf16": ("#888888", "s:"), "ours bf16": ("#ee6677", "^-"),
}  # fmt: skip


def draw(runs: list[Run], folder: Path) -> list[Path]:
    """Write each plot for which the records hold something into ``folder``; the paths written.

    Raises:
        ImportError: matplotlib is not installed.
        ValueError: the records hold nothing to draw.
    """
    from matplotlib.figure import Figure

    kinds: dict[str, tuple[Callable[[list[Run], Any], Any], tuple[str, ...]]] = {
        "speedups": (_speedups, OPS), "roofline": (_roofline, OPS), "steps": (_steps, ("step",)),
    }  # fmt: skip
    written = []
    for name, (plot, directions) in kinds.items():
        if of_kind(runs, *directions):
            folder.mkdir(parents=True, exist_ok=True)
            figure = Figure(layout="constrained")
            plot(runs, figure)
            written.append(folder / f"{name}.png")
            figure.savefig(written[-1], dpi=110, metadata={"Software": None})
    if not written:
        raise ValueError("the records hold no op and no step: nothing to draw")
    return written


def _speedups(runs: list[Run], figure: Any) -> None:
    """Ops: speed-up over the best eager form, one bar per case and layout of ours."""
    bars = [(record.title(case), case["speedup"]) for _, case in of_kind(runs, *OPS)]
    figure.set_size_inches(9, 1 + 0.32 * len(bars))
    axes = figure.subplots()
    for offset, (layout, colour) in enumerate(COLOURS.items()):
        found = []
        for i, (_, speedup) in enumerate(bars):
            ratios = [r["best_eager"] for key, r in speedup.items() if record.layout(key) == layout]
            found += [(i, max(ratios))] if ratios else []
        if found:
            places, lengths = zip(*found)
            axes.barh([i + 0.4 * offset for i in places], lengths, height=0.38, color=colour, label=f"ours {layout}")
    axes.axvline(1.0, color="black", linewidth=0.8)
    axes.set_yticks([i + 0.2 for i in range(len(bars))], [label for label, _ in bars], fontsize=7)
    axes.invert_yaxis()
    axes.set_xlabel("times as fast as the best eager form")
    axes.legend()


def _roofline(runs: list[Run], figure: Any) -> None:
    """Ops that multiply beside the roofs of their runs, and the share of the copy rate that the others reach."""
    cases = of_kind(runs, *OPS)
    multiplying = [(run, case) for run, case in cases if case["flops"]]
    moving = [(run, case) for run, case in cases if not case["flops"] and case["bytes"]]
    groups = [(_roof, multiplying), (_shares, moving)]
    groups = [(plot, found) for plot, found in groups if found]
    figure.set_size_inches(7 * len(groups), max(5, 1 + 0.16 * len(moving)))
    for axes, (plot, found) in zip(figure.subplots(1, len(groups), squeeze=False)[0], groups):
        plot(found, axes)


def _times(case: Case) -> tuple[float, float]:
    """Medians of the fastest eager provider and of the fastest one of ours."""
    return tuple(
        min(t["median"] for name, t in case["providers"].items() if name.startswith(who)) for who in ("eager", "ours")
    )


def _roof(cases: list[tuple[Run, Case]], axes: Any) -> None:
    intensities = [case["flops"] / case["bytes"] for _, case in cases]
    span = [min(intensities) / 2, max(intensities) * 2]
    for dtype, marker in (("float32", "o"), ("bfloat16", "^")):
        found = [(run, case) for run, case in cases if case["dtype"] == dtype]
        if not found:
            continue
        top = max(ceiling(run, dtype) for run, _ in found) / 1e9
        copy = max(run["ceilings"]["copy_bytes_per_second"] for run, _ in found) / 1e9
        ridge = top / copy
        xs = [span[0], *([ridge] if span[0] < ridge < span[1] else []), span[1]]
        axes.plot(
            xs,
            [min(top, copy * x) for x in xs],
            color="black",
            linewidth=0.8,
            linestyle="-" if dtype == "float32" else "--",
            label=f"roof, {dtype}",
        )
        for who, (index, colour) in {"eager": (0, "#bbbbbb"), "ours": (1, "#4477aa")}.items():
            axes.plot(
                [case["flops"] / case["bytes"] for _, case in found],
                [case["flops"] / _times(case)[index] / 1e9 for _, case in found],
                marker,
                color=colour,
                label=f"{who}, {dtype}",
                markersize=5,
            )
    axes.set(xscale="log", yscale="log", xlabel="FLOP per byte of operands", ylabel="GFLOP/s")
    axes.set_title("convolutions, fastest layout of each", fontsize=9)
    axes.legend(fontsize=7)


def _shares(cases: list[tuple[Run, Case]], axes: Any) -> None:
    for i, (run, case) in enumerate(cases):
        eager, ours = (case["bytes"] / time / run["ceilings"]["copy_bytes_per_second"] for time in _times(case))
        axes.plot([eager, ours], [i, i], color="#dddddd", zorder=1)
        axes.plot(eager, i, "o", color="#bbbbbb", label="eager" if i == 0 else None)
        axes.plot(ours, i, "o", color="#4477aa", label="ours" if i == 0 else None)
    axes.axvline(1.0, color="black", linewidth=0.8)
    axes.set_yticks(range(len(cases)), [record.title(case) for _, case in cases], fontsize=6)
    axes.invert_yaxis()
    axes.set_xlabel("share of the copy rate, operands once (above 1: from cache)")
    axes.legend(fontsize=7)


def _steps(runs: list[Run], figure: Any) -> None:
    """CycleGAN's step by batch, by resolution, and per pixel; each point the fastest variant of its kind."""
    points: dict[str, dict[tuple[int, int], float]] = defaultdict(dict)
    floors: dict[str, dict[tuple[int, int], float]] = defaultdict(dict)
    for run, case in of_kind(runs, "step"):
        if case["op"] != "cyclegan":
            continue
        count, _, side, _ = map(int, case["shape"].split("x"))
        for line in LINES:
            medians = [t["median"] for name, t in case["providers"].items() if name.startswith(line)]
            if medians:
                points[line][count, side] = min(medians)
        for precision, dtype in DTYPES.items():
            floors[precision][count, side] = case["flops"] / ceiling(run, dtype)
    from matplotlib.ticker import LogFormatter

    figure.set_size_inches(14, 4.5)
    by_batch, by_side, by_pixel = figure.subplots(1, 3)
    sides = sorted(
        {side for line in points.values() for _, side in line},
        key=lambda side: -len({count for line in points.values() for count, other in line if other == side}),
    )
    side = sides[0] if sides else 0
    for line, (colour, style) in LINES.items():
        found = sorted(points[line].items())
        for axes, chosen in (
            (by_batch, [(count, t) for (count, at), t in found if at == side]),
            (by_side, [(at, t) for (count, at), t in found if count == 1]),
        ):
            if chosen:
                axes.plot(*zip(*chosen), style, color=colour, label=line)
        per_pixel = sorted((count * at * at, 1e6 * t / (count * at * at)) for (count, at), t in found)
        if per_pixel:
            by_pixel.plot(*zip(*per_pixel), style, color=colour, label=line)
    for precision, found in floors.items():
        per_pixel = sorted((count * at * at, 1e6 * t / (count * at * at)) for (count, at), t in found.items())
        by_pixel.plot(
            *zip(*per_pixel),
            color="black",
            linewidth=0.8,
            label=f"floor {precision}",
            linestyle="-" if precision == "fp32" else ":",
        )
    by_batch.set(xlabel=f"images in a batch, {side}x{side}", ylabel="seconds a step", xscale="log", yscale="log")
    by_side.set(xlabel="side of the image in pixels, batch 1", ylabel="seconds a step", xscale="log", yscale="log")
    by_pixel.set(xlabel="pixels in a batch", ylabel="microseconds a pixel", xscale="log", ylim=(0, None))
    drawn = {point for line in points.values() for point in line}
    for axes, values in (
        (by_batch, {count for count, at in drawn if at == side}),
        (by_side, {at for count, at in drawn if count == 1}),
        (by_pixel, {count * at * at for count, at in drawn}),
    ):
        axes.set_xticks(sorted(values), [str(value) for value in sorted(values)])
        axes.tick_params(axis="x", which="minor", bottom=False, labelbottom=False)
    for axes in (by_batch, by_side):  # less than a decade may hold no tick but minor ones
        axes.yaxis.set_major_formatter("{x:g}")
        axes.yaxis.set_minor_formatter(LogFormatter(minor_thresholds=(2, 0.5)))
    by_pixel.set_ylim(0, 1.25 * by_pixel.get_ylim()[1])
    by_pixel.legend(fontsize=7, loc="upper right", ncols=2)
    figure.suptitle("CycleGAN step, 9 residual blocks", fontsize=10)
