"""What a run tells while it trains: a progress bar or plain lines, and the losses as JSON lines."""

from __future__ import annotations

import json
import math
import shutil
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import IO

from torch.optim import Optimizer
from tqdm import tqdm  # type: ignore[import-untyped]

from fastgan._files import write_atomically
from fastgan.training.checkpoint import Progress

PLAIN_LINE_SECONDS = 30.0


class LossFile:
    """losses.jsonl: one object per logged step, with step, epoch (from 1), lr, seconds and losses.

    ``lr`` maps each optimizer to its learning rate; a loss that not every step makes is that of the last step that did;
    ``seconds`` is the time spent training since the run began, over all its sessions. Lines of steps beyond ``step``,
    which a resumed run makes again, and damaged ones are dropped on opening. Lines that cannot be written are kept, and
    come before the next one that can; a file that was removed begins anew.

    Raises:
        OSError: (from :meth:`write`, too) the file cannot be written.
    """

    def __init__(self, path: Path, step: int):
        if path.exists():
            there = path.read_bytes()
            kept = b"".join(line + b"\n" for line in there.split(b"\n") if _step_of(line) <= step)
            if kept != there:
                write_atomically(path, lambda temporary: temporary.write_bytes(kept))
        self._path, self._waiting = path, b""
        self._append()

    def write(self, progress: Progress, epoch: int, lr: Mapping[str, float], losses: Mapping[str, float]) -> None:
        record = {
            "step": progress.step,
            "epoch": epoch,
            "lr": dict(lr),
            "seconds": round(progress.seconds, 3),
            "losses": dict(losses),
        }
        self._waiting += json.dumps(record).encode() + b"\n"
        self._append()

    def _append(self) -> None:
        with open(self._path, "ab", buffering=0) as file:
            while self._waiting:
                self._waiting = self._waiting[file.write(self._waiting) :]


def _step_of(line: bytes) -> float:
    """The step of a line; infinite for one that was not written here, or was torn when a run was killed."""
    try:
        return int(json.loads(line)["step"])
    except (ValueError, LookupError, TypeError, OverflowError, RecursionError):
        return math.inf


class PlainLines:
    """Progress for a file or a pipe: a line when the loop has losses to show, and at least one every half a minute."""

    every_step = False

    def __init__(self, total: int | None, start: int, stream: IO[str] | None = None):
        self._total, self._stream = total, stream or sys.stdout
        self._last_step, self._last_time = start, time.monotonic()

    def advance(self, step: int) -> bool:
        """Note a step; whether losses should be shown although no logged step is due."""
        return time.monotonic() - self._last_time >= PLAIN_LINE_SECONDS

    def show(self, step: int, epoch: int, lr: Mapping[str, float], losses: Mapping[str, float]) -> None:
        now = time.monotonic()
        seconds = (now - self._last_time) / max(1, step - self._last_step)
        parts = [
            f"step {step}" if self._total is None else f"step {step}/{self._total}",
            f"epoch {epoch}",
            _rate(seconds),
        ]
        if self._total is not None:
            parts.append(f"ETA {clock(seconds * (self._total - step))}")
        print("  ".join(parts + [_lr(lr), _losses(losses)]), file=self._stream, flush=True)
        self._last_step, self._last_time = step, now

    def close(self) -> None:
        pass


class ProgressBar:
    """Progress for a terminal: a bar with rate and ETA, and a line of losses under it."""

    every_step = True

    def __init__(self, total: int | None, start: int, stream: IO[str] | None = None):
        stream = stream or sys.stderr
        self._bar = tqdm(total=total, initial=start, unit="step", dynamic_ncols=True, file=stream, smoothing=0.1)
        self._losses = tqdm(total=0, bar_format="{desc}", position=1, dynamic_ncols=True, file=stream)

    def advance(self, step: int) -> bool:
        self._bar.update(step - self._bar.n)
        return False

    def show(self, step: int, epoch: int, lr: Mapping[str, float], losses: Mapping[str, float]) -> None:
        self._bar.set_description_str(f"epoch {epoch}", refresh=False)
        self._losses.set_description_str(f"{_lr(lr)}  {_losses(losses)}")

    def close(self) -> None:
        self._losses.close()
        self._bar.close()


def progress_display(total: int | None, start: int) -> PlainLines | ProgressBar:
    """A bar on a terminal that knows its size, plain lines otherwise."""
    terminal = all(stream is not None and stream.isatty() for stream in (sys.stderr, sys.stdout))
    return (
        ProgressBar(total, start)
        if terminal and shutil.get_terminal_size((0, 0)).lines > 2
        else PlainLines(total, start)
    )


def clock(seconds: float) -> str:
    """h:mm:ss"""
    minutes, seconds = divmod(int(seconds + 0.5), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{seconds:02}"


def learning_rates(optimizers: Mapping[str, Optimizer]) -> dict[str, float]:
    """The current learning rate of each optimizer's first parameter group."""
    return {name: float(optimizer.param_groups[0]["lr"]) for name, optimizer in optimizers.items()}


def _losses(losses: Mapping[str, float]) -> str:
    return "  ".join(f"{name} {value:.3f}" for name, value in losses.items())


def _lr(lr: Mapping[str, float]) -> str:
    values = sorted(set(lr.values()))
    return "lr " + "/".join(f"{value:.3g}" for value in values)


def _rate(seconds: float) -> str:
    return f"{seconds:.2f} s/step" if seconds >= 1 else f"{1 / max(seconds, 1e-9):.1f} steps/s"
