"""Many cases in a process of their own, with a limit on its memory, so that a crash is a result like any other.

python -m tests.fuzz.campaign READER FIRST CASES    prints a line of JSON for each case
"""

from __future__ import annotations

import json
import os
import random
import resource
import signal
import subprocess
import sys
import tempfile
import threading
import time
import traceback
import warnings
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
MEMORY = 2**31  # bytes that the process may have, of which torch takes a third
SLOW = 60.0  # seconds; a case that takes longer is a fault (an image of the largest size takes about ten)
HANGING = 120.0


@dataclass
class Outcome:
    reader: str
    number: int
    fault: str = ""  # empty: the file was read, or refused in a sentence
    refused: bool = False

    @property
    def line(self) -> str:
        return f"python -m tests.fuzz {self.reader} --case {self.number}"


def run(reader: str, first: int, cases: int) -> Iterator[Outcome]:
    """The outcomes of so many cases, in order, whatever becomes of the processes."""
    number, end = first, first + cases
    while number < end:
        for outcome in _process(reader, number, end - number):
            number = outcome.number + 1
            yield outcome


def _process(reader: str, first: int, cases: int) -> Iterator[Outcome]:
    """Outcomes up to, and with, the first one that ended the process."""
    number, hangs = first, threading.Event()
    with tempfile.TemporaryFile("w+") as errors:
        worker = subprocess.Popen(
            [sys.executable, "-m", "tests.fuzz.campaign", reader, str(first), str(cases)],
            cwd=ROOT,
            stdout=subprocess.PIPE,
            stderr=errors,
            text=True,
            env=os.environ | {"OMP_NUM_THREADS": "1"},
        )
        assert worker.stdout is not None
        try:
            while number < first + cases:
                timer = threading.Timer(HANGING, lambda: (hangs.set(), worker.kill()))
                timer.start()
                line = worker.stdout.readline()
                timer.cancel()
                if not line.endswith("\n"):
                    code = worker.wait()
                    errors.seek(0)
                    said = errors.read().strip().splitlines()[-3:]
                    how = f"no answer in {HANGING:.0f} s" if hangs.is_set() else _ended(code)
                    yield Outcome(reader, number, " | ".join([how, *said]))
                    return
                yield Outcome(**json.loads(line))
                number += 1
        finally:
            worker.kill()
            worker.wait()
            worker.stdout.close()


def _ended(code: int) -> str:
    return f"the process died of {signal.Signals(-code).name}" if code < 0 else f"the process ended with {code}"


def content_of(reader: str, number: int) -> tuple[str, bytes]:
    """(ending of the name, content) of the bad file of a case."""
    from .readers import READERS

    generator = random.Random(f"{reader} {number}")
    seeds = READERS[reader].seeds()
    suffix, content = seeds[number % len(seeds)]
    return suffix, READERS[reader].change(content, generator)


def _judge(reader: str, number: int, seeds: list[tuple[str, bytes]], folder: Path) -> Outcome:
    from .readers import READERS

    suffix, content = seeds[number % len(seeds)]
    path = folder / f"a{suffix}"
    path.write_bytes(READERS[reader].change(content, random.Random(f"{reader} {number}")))
    fault, refused, start = "", False, time.monotonic()
    try:
        READERS[reader].read(path)
    except READERS[reader].refuses as error:
        refused = True
        if str(path) not in str(error) or len(str(error).splitlines()) != 1:
            fault = f"a sentence that names no file, or several lines: {error!r}"
    except BaseException as error:
        fault = "".join(traceback.format_exception(error)[-3:])
    taken = time.monotonic() - start
    if not fault and taken > SLOW:
        fault = f"{taken:.0f} s"
    return Outcome(reader, number, fault, refused)


def _work(reader: str, first: int, cases: int) -> None:
    from .readers import READERS

    warnings.simplefilter("ignore")
    seeds = READERS[reader].seeds()
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    with tempfile.TemporaryDirectory() as folder:
        for number in range(first, first + cases):
            print(json.dumps(asdict(_judge(reader, number, seeds, Path(folder)))), flush=True)


if __name__ == "__main__":
    _work(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]))
