"""A variant of a step alone in a fresh process: its first turn from a cold start, its memory, its first losses.

    python -m bench.trial SYSTEM SIZE BATCH VARIANT DEVICE

prints one line of JSON. On the CPU the peak is of resident memory in the second turn, when the optimizers have their
states, code and other files left out, above what it was before the networks were built: networks, states, gradients,
activations, the heap's slack, and the compiler where there is one. On CUDA it is torch's peak of allocated memory in
that turn.
"""

from __future__ import annotations

from fastgan import _process

_process.settle()  # before torch is imported

import contextlib
import json
import os
import re
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import torch

from .cases import Served
from .record import ROOT
from .systems import SYSTEMS, VARIANTS, Step, System, Variant

STATUS, CLEAR_REFS = Path("/proc/self/status"), Path("/proc/self/clear_refs")


def _resident(field: str) -> int | None:
    """Bytes of resident memory by a field of proc(5); None where the system does not tell."""
    try:
        found = re.search(rf"^{field}:\s*(\d+) kB", STATUS.read_text(), re.MULTILINE)
    except OSError:
        return None
    return int(found.group(1)) << 10 if found else None


class Peak:
    """The peak of memory between ``reset`` and ``read``, in bytes above what was there when this was made."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.before = _resident("RssAnon") if device.type == "cpu" else 0

    def reset(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(self.device)
        elif self.before is not None:
            try:
                CLEAR_REFS.write_text("5")
            except OSError:
                self.before = None

    def read(self) -> int | None:
        """None where the system does not tell."""
        if self.device.type == "cuda":
            return torch.cuda.max_memory_allocated(self.device)
        # Mapped files have no peak of their own in proc(5): they only grow, so that what they hold now is their peak.
        return None if self.before is None else _resident("VmHWM") - _resident("RssFile") - self.before


def first_losses(step: Step) -> dict[str, float]:
    """The losses of the first call of a turn that is run whole, from random numbers that are the same in every variant.

    Later calls follow updates by Adam, which turns the rounding of a small gradient into a whole step.
    """
    torch.manual_seed(2)
    turn = step.turn(0)
    losses = {name: loss.item() for name, loss in next(turn).items()}
    for _ in turn:
        pass
    return losses


def trial(system: System, size: int, count: int, variant: Variant, device: torch.device) -> dict[str, Any]:
    """``{"first_step": seconds, "peak_bytes", "losses", "served"}`` of two turns; dropout is off in the first.

    ``served`` are the backends of fastgan's low-level ops. A compiled variant keeps its dropout, and then has no losses
    to compare. ``{"failed": reason}`` instead, where torch refuses the variant.
    """
    peak = Peak(device)
    try:
        step = Step(system, size, count, variant, device)
        comparable = variant.who != "compile" or not step.drops_out
        began = time.perf_counter()
        if comparable:
            with step.without_dropout():
                losses = first_losses(step)
        else:
            losses = first_losses(step)
        first = time.perf_counter() - began
        peak.reset()
        with Served() if variant.who == "ours" else contextlib.nullcontext() as served:
            step(1)
        return {
            "first_step": first,
            "peak_bytes": peak.read(),
            "losses": losses if comparable else None,
            "served": served.backends if served else {},
        }
    except Exception as error:
        lines = str(error).strip().splitlines() or [""]
        return {"failed": f"{type(error).__name__}: {lines[0]}"}


def in_fresh_process(system: str, size: int, count: int, variant: str, device: torch.device, caches: str) -> dict:
    """:func:`trial` in a process of its own, whose torch.compile keeps its caches in the folder ``caches``."""
    command = [sys.executable, "-m", "bench.trial", system, str(size), str(count), variant, str(device)]
    done = subprocess.run(
        command, cwd=ROOT, capture_output=True, text=True, env={**os.environ, "TORCHINDUCTOR_CACHE_DIR": caches}
    )
    try:
        return json.loads(done.stdout.splitlines()[-1])
    except (IndexError, ValueError):
        reason = (done.stderr.strip().splitlines() or [f"exit status {done.returncode}"])[-1]
        return {"failed": f"its process ended early: {reason}"}


def main(argv: list[str]) -> int:
    system, size, count, variant, device = argv
    found = trial(SYSTEMS[system], int(size), int(count), VARIANTS[variant], torch.device(device))
    print(json.dumps(found))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
