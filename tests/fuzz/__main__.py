"""python -m tests.fuzz [READER ...]: random changes to good files; each is read, or refused in a sentence.

python -m tests.fuzz                        10,000 cases of each reader, in a process of 2 GiB
python -m tests.fuzz images --cases 100     some of them
python -m tests.fuzz images --case 4711     one of them, whose file is left beside you
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

from . import campaign
from .readers import READERS


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("readers", nargs="*", metavar="READER", help=f"of {', '.join(READERS)}; none: all")
    parser.add_argument("--cases", type=int, default=10_000, help="of each reader (%(default)s)")
    parser.add_argument("--first", type=int, default=0, help="number of the first case")
    parser.add_argument("--case", type=int, help="run this case alone, and keep its file")
    parser.add_argument("--most", type=int, default=20, help="faults after which it ends (%(default)s)")
    options = parser.parse_args(argv)
    unknown = [name for name in options.readers if name not in READERS]
    if unknown:
        parser.error(f"unknown reader {unknown[0]!r}: choose from {', '.join(READERS)}")
    first, cases = (options.first, options.cases) if options.case is None else (options.case, 1)
    faults = 0
    for reader in options.readers or READERS:
        start, refused = time.monotonic(), 0
        for outcome in campaign.run(reader, first, cases):
            refused += outcome.refused
            if outcome.fault:
                faults += 1
                print(f"{outcome.line}\n    {outcome.fault}", flush=True)
                if faults >= options.most:
                    print(f"{faults} faults: no more cases are run")
                    return 1
        print(f"{reader}: {cases:,} cases, {refused:,} refused, {faults} faults, {time.monotonic() - start:.0f} s")
        if options.case is not None:
            suffix, content = campaign.content_of(reader, options.case)
            Path(f"case-{options.case}{suffix}").write_bytes(content)
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())
