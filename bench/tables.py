"""Bench records as Markdown tables."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from typing import Any

from . import record

COLUMNS = ("eager NCHW", "eager channels_last", "ours NCHW", "ours channels_last")
BUSY = 0.2
DTYPES = {"fp32": "float32", "bf16": "bfloat16"}

Run = dict[str, Any]
Case = dict[str, Any]


def seconds(value: float) -> str:
    """A time with three significant digits: 1.2 s, 94.5 ms, 8.12 µs."""
    unit, scale = ("s", 1.0) if value >= 1 else ("ms", 1e-3) if value >= 1e-3 else ("µs", 1e-6)
    return f"{value / scale:.3g} {unit}"


def size(value: int | None) -> str:
    """Bytes with three significant digits, or nothing for None."""
    if value is None:
        return ""
    return f"{value / 2**30:.3g} GiB" if value >= 2**30 else f"{value / 2**20:.3g} MiB"


def work(flops: int) -> str:
    """Multiplications and additions with four significant digits: 1.879 TFLOP, 27.45 GFLOP."""
    return f"{flops / 1e12:.4g} TFLOP" if flops >= 1e12 else f"{flops / 1e9:.4g} GFLOP"


def table(header: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    """A Markdown table, its columns aligned."""
    header, rows = list(header), [list(row) for row in rows]
    widths = [max(map(len, column)) for column in zip(header, *rows)]
    lines = [header, ["-" * width for width in widths], *rows]
    return "\n".join("| " + " | ".join(cell.ljust(width) for cell, width in zip(line, widths)) + " |" for line in lines)


def of_kind(runs: Iterable[Run], *directions: str) -> list[tuple[Run, Case]]:
    """The cases of these directions, each with its run."""
    return [(run, case) for run in runs for case in run["cases"] if case["direction"] in directions]


def ceiling(run: Run, dtype: str) -> float:
    """The best multiplication rate of the run's machine in ``dtype``, in FLOP/s."""
    return max(run["ceilings"]["flops"][dtype].values())


def floor(run: Run, case: Case, dtype: str) -> float:
    """Seconds that the case's bytes or multiplications, whichever take longer, need at the run's ceilings."""
    return max(case["bytes"] / run["ceilings"]["copy_bytes_per_second"], case["flops"] / ceiling(run, dtype))


def machine(run: Run) -> str:
    """Device, versions, commit, date and ceilings of a run, in two sentences."""
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


def _medians(case: Case, column: str) -> str:
    """The medians of one column, which has several where eager also ran in place, or ours by each backend."""
    who, layout = column.lower().split()
    found = [
        timing["median"]
        for name, timing in case["providers"].items()
        if name.startswith(who) and record.layout(name) == layout
    ]
    return " / ".join(map(seconds, found))


def _ratios(case: Case, group: str) -> str:
    return " / ".join(f"{ratios[group]:.2f}" for ratios in case["speedup"].values())


def _of_ceiling(run: Run, case: Case) -> str:
    """What the fastest provider of ours reaches, in bytes or multiplications a second, and its share of the ceiling."""
    median = min(timing["median"] for name, timing in case["providers"].items() if name.startswith("ours"))
    if case["flops"]:
        rate, unit, most = case["flops"] / median, "GFLOP/s", ceiling(run, case["dtype"])
    elif case["bytes"]:
        rate, unit, most = case["bytes"] / median, "GB/s", run["ceilings"]["copy_bytes_per_second"]
    else:
        return ""
    return f"{rate / 1e9:.3g} {unit} ({rate / most:.0%})"


def ops(runs: Iterable[Run]) -> str:
    """Single ops: medians of each provider, ratios, rates, floors and who computed."""
    rows = []
    for run, case in of_kind(runs, "forward", "backward", "both"):
        rows.append(
            [" ".join(filter(None, (case["op"], case["variant"]))), case["shape"], case["dtype"], case["direction"]]
            + [_medians(case, column) for column in COLUMNS]
            + [_ratios(case, "same_layout"), _ratios(case, "best_eager"), _of_ceiling(run, case)]
            + [seconds(floor(run, case, case["dtype"])), case["backend"]["name"]]
        )
    if not rows:
        return ""
    header = [
        "op",
        "shape",
        "dtype",
        "direction",
        *COLUMNS,
        "× same layout",
        "× best eager",
        "best of ours",
        "floor",
        "backend",
    ]
    legend = (
        "Medians of interleaved runs; eager as out-of-place / in-place activation where that differs, ours as halo "
        "/ triton (/ triton with moments) where it ran by each. Ratios: the better eager form's median over ours, for "
        "ours NCHW / ours channels_last, halo first. Shares and floors are of the ceilings of the same run."
    )
    return f"{table(header, rows)}\n\n{legend}"


def gains(runs: Iterable[Run]) -> str:
    """Single ops, one row each: how many times faster the fastest form of ours is than the fastest one of eager torch,
    whatever the layout; of several shapes the smallest and the largest ratio.

    Raises:
        ValueError: a run whose medians are not to be quoted.
    """
    found: dict[str, dict[str, list[float]]] = {}
    columns: list[str] = []
    for run, case in of_kind(runs, "forward", "backward"):
        if preempted(run) > BUSY:
            raise ValueError(
                f"the run {run['selection']!r} of {run['date'][:10]} is not to be quoted: the machine was busy"
            )
        column = f"{case['dtype']} {case['direction']}"
        columns += [column] if column not in columns else []
        fastest = {
            who: min(timing["median"] for name, timing in case["providers"].items() if name.startswith(who))
            for who in ("eager", "ours")
        }
        row = found.setdefault(" ".join(filter(None, (case["op"], case["variant"]))), {})
        row.setdefault(column, []).append(fastest["eager"] / fastest["ours"])
    if not found:
        return ""
    rows = [[name, *(_range(row.get(column, [])) for column in columns)] for name, row in found.items()]
    return table(["one pass", *columns], rows)


def _range(ratios: list[float]) -> str:
    ends = sorted({f"{ratio:.2f}" for ratio in ratios}, key=float)
    return " to ".join(dict.fromkeys((*ends[:1], *ends[-1:])))


def fastest(case: Case, precision: str, *who: str) -> str | None:
    """The variant of the step with the least median among these: the first words of their names, and a precision."""
    names = [name for name in case["providers"] if name.startswith(who) and record.precision(name) == precision]
    return min(names, key=lambda name: case["providers"][name]["median"], default=None)


def _median(case: Case, name: str | None) -> str:
    return seconds(case["providers"][name]["median"]) if name else ""


def summary(runs: Iterable[Run]) -> str:
    """Training steps, one row each: the fastest form of eager torch, of torch.compile and of ours, and the ratios."""
    rows, compiled, timed = [], False, {}
    for run, case in of_kind(runs, "step"):
        timed |= dict.fromkeys(case["providers"])
        best = {
            (who, precision): fastest(case, precision, who)
            for who in ("eager", "compile", "ours")
            for precision in DTYPES
        }
        row = [case["op"], case["shape"], *(_median(case, name) for name in best.values())]
        compiled |= any(best["compile", precision] for precision in DTYPES)
        of_fp32, of_bf16 = (case["speedup"].get(best["ours", precision], {}) for precision in DTYPES)
        ratios = (of_fp32.get("eager_fp32"), of_bf16.get("eager_fp32"), of_bf16.get("same_precision"))
        row += [f"{ratio:.2f}" if ratio else "" for ratio in ratios]
        rows.append(row + [seconds(floor(run, case, DTYPES[precision])) for precision in DTYPES])
    if not rows:
        return ""
    header = [
        "step of",
        "batch",
        "eager fp32",
        "eager bf16",
        "compile fp32",
        "compile bf16",
        "ours fp32",
        "ours bf16",
        "fp32 × eager",
        "bf16 × eager fp32",
        "bf16 × best bf16 of torch",
        "floor fp32",
        "floor bf16",
    ]
    if not compiled:
        header, rows = _without(header, rows, ("compile fp32", "compile bf16"))
    legend = (
        f"Medians of interleaved runs, each the fastest of the forms that were timed: {', '.join(timed)}. Ratios: "
        "torch's median over ours. Floors: the multiplications of direct convolution at the ceiling of the same run."
    )
    return f"{table(header, rows)}\n\n{legend}"


def _without(header: list[str], rows: list[list[str]], names: Iterable[str]) -> tuple[list[str], list[list[str]]]:
    kept = [i for i, name in enumerate(header) if name not in names]
    return [header[i] for i in kept], [[row[i] for i in kept] for row in rows]


def steps(runs: Iterable[Run]) -> str:
    """Training steps, a table each: every variant with its quantiles, rate, memory and first step."""
    sections = []
    for run, case in of_kind(runs, "step"):
        base, rows = fastest(case, "fp32", "eager"), []
        for name, timing in case["providers"].items():
            median, trial, dtype = timing["median"], case["trials"][name], DTYPES[record.precision(name)]
            rate = case["flops"] / median
            rows.append([
                name, seconds(median), f"{seconds(timing['q20'])} to {seconds(timing['q80'])}",
                f"{case['providers'][base]['median'] / median:.2f}" if base else "",
                f"{rate / 1e9:.4g} ({rate / ceiling(run, dtype):.0%})", seconds(floor(run, case, dtype)),
                size(trial["peak_bytes"]), seconds(trial["first_step"]),
            ])  # fmt: skip
        title = ", ".join(filter(None, (case["op"], f"batch {case['shape']}", case["variant"])))
        header = [
            f"{title}: {work(case['flops'])}",
            "median",
            "20 % to 80 %",
            "× eager fp32",
            "GFLOP/s (of ceiling)",
            "floor",
            "peak memory",
            "first step",
        ]
        sections.append(table(header, rows))
    if not sections:
        return ""
    legend = (
        "× eager fp32: the fastest eager float32 form's median over this one's. First step and peak memory are those "
        "of a process of its own: cold, without imports; the memory of networks, optimizers and a step."
    )
    return "\n\n".join([*sections, legend])


def loader(runs: Iterable[Run]) -> str:
    """Loaders: images per second, and how that compares with what the fastest step of ours takes."""
    runs, rows = list(runs), []
    needs = {(case["op"], case["shape"]): case for _, case in of_kind(runs, "step")}
    for _, case in of_kind(runs, "load"):
        step = needs.get((case["feeds"], case["shape"]))
        need = None
        if step is not None:
            turn = min(step["providers"][name]["median"] for name in step["providers"] if name.startswith("ours"))
            need = case["images"] / case["batches"] / turn
        for name, timing in case["providers"].items():
            rate = case["images"] / timing["median"]
            rows.append(
                [
                    case["variant"],
                    f"{case['feeds']} {case['shape']}",
                    name,
                    f"{rate:,.0f}",
                    f"{need:,.1f} ({rate / need:.0f} times)" if need else "",
                ]
            )
    if not rows:
        return ""
    header = ["images", "batch of", "loaded by", "images/s", "the fastest step of ours takes"]
    return table(header, rows)


def training(runs: Iterable[Run]) -> str:
    """Low-precision training beside float32's noise: how far losses part between seeds, and between ours and eager."""
    rows = [
        [case["op"], case["shape"], name, f"{found['spread']:.3g}", f"{found['apart']:.3g}"]
        for _, case in of_kind(runs, "training")
        for name, found in case["losses"].items()
    ]
    if not rows:
        return ""
    header = ["trained", "batch", "loss", "eager bf16, between seeds", "ours bf16 from eager bf16, same seed"]
    legend = (
        "Mean absolute difference of losses, each a mean over 20 steps, in 200 steps: the largest among three seeds of "
        "eager bf16, and the largest between ours and eager from the same seed."
    )
    return f"{table(header, rows)}\n\n{legend}"


def preempted(run: Run) -> float:
    """The share of a run's samples that other processes cut into; above BUSY its medians are not to be quoted."""
    shares = [timing["preempted"] for case in run["cases"] for timing in case["providers"].values()]
    return sum(shares) / len(shares) if shares else 0.0


def remarks(run: Run) -> str:
    """What must be said beside the tables: fallbacks, losing cases, what was not timed, a busy machine."""
    found = []
    reasons = {
        (case["op"], name, reason)
        for _, case in of_kind([run], "forward", "backward", "both")
        for name, reason in case["backend"]["passed_over"].items()
        if case["backend"]["name"] == "reference"
    }
    found += [f"{op} ran on reference: not {name}, because {reason}." for op, name, reason in sorted(reasons)]
    for group, what in (("ops", "eager in the same layout"), ("steps", "torch in the same precision")):
        losing = [x for x in run["losing"] if x["case"].endswith(" step") == (group == "steps")]
        if losing:
            listed = "; ".join(f"{x['case']} ({x['provider'].removeprefix('ours ')}, {x['ratio']:.2f})" for x in losing)
            found.append(f"Slower than {what}, by more than {record.TIE:.0%}: {listed}.")
    for _, case in of_kind([run], "step"):
        found += [
            f"{record.title(case)}: {name} was not timed: {_sentence(reason)}."
            for name, reason in case["not_timed"].items()
        ]
    found += [f"Not timed: {record.title(case)}: {_sentence(case['reason'])}." for case in run["failed"]]
    if preempted(run) > BUSY:
        found.append(
            f"The machine was busy: other processes cut into {preempted(run):.0%} of the samples, "
            "so these medians are not to be quoted."
        )
    return "\n".join(f"- {remark}" for remark in found)


def _sentence(reason: str) -> str:
    return re.sub(r"\s+", " ", reason).rstrip(".")


TABLES: dict[str, Callable[[list[Run]], str]] = {
    "gains": gains, "ops": ops, "summary": summary, "steps": steps, "loader": loader, "training": training,
    "machine": lambda runs: "\n\n".join(map(machine, runs)),
    "remarks": lambda runs: "\n\n".join(text if len(runs) == 1 else f"{run['selection']}:\n\n{text}"
                                        for run in runs if (text := remarks(run))),
}  # fmt: skip


def markdown(runs: list[Run]) -> str:
    """One section per run: the machine, the tables of what was timed, and what is to be said about them."""
    kinds = ("machine", "summary", "steps", "ops", "loader", "training", "remarks")
    return "\n\n".join("\n\n".join(filter(None, (TABLES[kind]([run]) for kind in kinds))) for run in runs)
