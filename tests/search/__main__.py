"""python -m tests.search [OP ...]: random calls of the public functions against float64; the table of what was found.

python -m tests.search                          10,000 cases of each of the ten functions
python -m tests.search conv2d --cases 100       some of them
python -m tests.search conv2d --case 4711       one of them
python -m tests.search --subject torch          what stock torch makes of the same arguments
"""

import argparse
import sys
import time

from . import campaign


def main(argv: list[str] | None = None) -> int:
    from .calls import OPS

    parser = argparse.ArgumentParser(prog="python -m tests.search", description=__doc__.splitlines()[0])
    parser.add_argument("ops", nargs="*", metavar="OP", help=f"of {', '.join(OPS)}; none: all")
    parser.add_argument("--cases", type=int, default=10_000, help="of each op (%(default)s)")
    parser.add_argument("--first", type=int, default=0, help="number of the first case")
    parser.add_argument("--case", type=int, help="run this case alone")
    parser.add_argument("--subject", choices=("fastgan", "torch"), default="fastgan")
    parser.add_argument("--show", type=int, default=20, help="faults of each op that are printed in full (%(default)s)")
    options = parser.parse_args(argv)
    unknown = [op for op in options.ops if op not in OPS]
    if unknown:
        parser.error(f"unknown op {unknown[0]!r}: choose from {', '.join(OPS)}")
    numbers = range(options.first, options.first + options.cases) if options.case is None else [options.case]
    rows, faults = [], 0
    for op in options.ops or OPS:
        start, outcomes, shown = time.perf_counter(), [], 0
        for outcome in campaign.run([(op, number) for number in numbers], options.subject):
            outcomes.append(outcome)
            if outcome.fault and shown < options.show:
                shown += 1
                print(f"{outcome.line}\n    {outcome.call}\n    {outcome.fault}", flush=True)
            elif options.case is not None:
                print(outcome, flush=True)
        rows.append(row(op, outcomes, time.perf_counter() - start))
        faults += sum(bool(outcome.fault) for outcome in outcomes)
    print("\n".join(table(rows)))
    return 1 if faults else 0


HEAD = ("op", "cases", "2nd order", "refused", "faults", "error/allowed", "error/torch's", "torch off", "seconds")


def row(op: str, outcomes: list[campaign.Outcome], seconds: float) -> tuple[str, ...]:
    """The counts of one op, and the worst ratios of the cases without a fault."""
    good = [outcome for outcome in outcomes if not outcome.fault and not outcome.refused]
    return (
        op,
        str(len(outcomes)),
        str(sum(outcome.second for outcome in outcomes)),
        str(sum(bool(outcome.refused) for outcome in outcomes)),
        str(sum(bool(outcome.fault) for outcome in outcomes)),
        f"{max((outcome.of_allowed for outcome in good), default=0):.2f}",
        f"{max((outcome.of_stock for outcome in good), default=0):.2f}",
        str(sum(bool(outcome.stock_fault) for outcome in outcomes)),
        f"{seconds:.0f}",
    )


def table(rows: list[tuple[str, ...]]) -> list[str]:
    """Lines of equal columns. "torch off": cases in which stock torch itself is wrong, on plain copies."""
    widths = [max(len(line[i]) for line in (HEAD, *rows)) for i in range(len(HEAD))]
    return [
        "  ".join(
            text.ljust(width) if i == 0 else text.rjust(width) for i, (text, width) in enumerate(zip(line, widths))
        )
        for line in (HEAD, *rows)
    ]


if __name__ == "__main__":
    sys.exit(main())
