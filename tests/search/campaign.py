"""Many cases, in a process of their own, so that a crash of a kernel is a result like any other."""

import dataclasses
import json
import os
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TextIO

ROOT = Path(__file__).resolve().parents[2]
HANGING = 120.0  # seconds


@dataclasses.dataclass
class Outcome:
    op: str
    number: int
    fault: str = ""
    refused: str = ""
    stock_fault: str = ""
    of_allowed: float = 0.0
    of_stock: float = 0.0
    second: bool = False
    call: str = ""  # what was called, where something is wrong

    @property
    def line(self) -> str:
        """How to run this case alone, and what it is."""
        return f"python -m tests.search {self.op} --case {self.number}"


def run(cases: Sequence[tuple[str, int]], subject: str = "fastgan") -> Iterator[Outcome]:
    """The outcomes of (op, number) in order."""
    cases = list(cases)
    while cases:
        done = 0
        for outcome in _run(cases, subject):
            done += 1
            yield outcome
        cases = cases[done:]


def _run(cases: list[tuple[str, int]], subject: str) -> Iterator[Outcome]:
    """Outcomes up to, and with, the first one that ended the process."""
    done, stage = 0, ""
    with tempfile.TemporaryFile("w+") as errors:
        command = [sys.executable, "-m", "tests.search.campaign", subject]
        worker = subprocess.Popen(
            command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=errors, text=True
        )
        hangs = threading.Event()
        try:
            worker.stdin.write(json.dumps(cases))
            worker.stdin.close()
            while done < len(cases):
                timer = threading.Timer(HANGING, lambda: (hangs.set(), worker.kill()))
                timer.start()
                line = worker.stdout.readline()
                timer.cancel()
                if not line:
                    break
                told = json.loads(line)
                if isinstance(told, str):
                    stage = told
                    continue
                yield Outcome(**told)
                done += 1
        finally:
            if done < len(cases):
                worker.kill()
            code = worker.wait()
            worker.stdout.close()
        if done < len(cases):
            op, number = cases[done]
            errors.seek(0)
            said = (errors.read().strip().splitlines() or [""])[-1][:200]
            end = (
                f"hangs for {HANGING:.0f} s" if hangs.is_set() else f"ends the process with code {code} {said}".strip()
            )
            from .calls import draw
            from .judge import PLAIN

            outcome = Outcome(op, number, call=str(draw(op, number)))
            if stage == PLAIN:
                yield dataclasses.replace(outcome, stock_fault=end, refused=f"{stage} {end}")
            else:
                yield dataclasses.replace(outcome, fault=end)


def _serve(subject: str, cases: list[tuple[str, int]], out: TextIO) -> None:
    import torch

    from . import calls, judge

    def tell(what: str | dict) -> None:
        out.write(json.dumps(what) + "\n")
        out.flush()

    torch.set_num_threads(1)
    judge.enter = tell
    for op, number in cases:
        tell("the definition")
        if subject == "crash" and number == 1:  # for the test of this file
            os.abort()
        call = calls.draw(op, number)
        described = str(call)
        verdict = judge.judge(call, "torch" if subject == "torch" else "fastgan")
        outcome = Outcome(op, number, **dataclasses.asdict(verdict))
        if outcome.fault or outcome.stock_fault:
            outcome.call = described
        tell(dataclasses.asdict(outcome))


if __name__ == "__main__":
    results, sys.stdout = sys.stdout, sys.stderr
    _serve(sys.argv[1], json.load(sys.stdin), results)
