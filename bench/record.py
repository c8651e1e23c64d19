"""Where and with what was a bench run, and how is that kept?"""

from __future__ import annotations

import datetime
import json
import math
import os
import platform
import re
import subprocess
from pathlib import Path

import torch

import fastgan

ROOT = Path(__file__).resolve().parent.parent
RESULTS = Path(__file__).resolve().parent / "results"
FORMAT = 1
TIE = 0.03


def environment(device: torch.device | str) -> dict:
    """Device, cores, versions, commit, load and numerical settings that a measurement depends on."""
    device = torch.device(device)
    return {
        "device": device_name(device),
        "device_type": device.type,
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "threads": torch.get_num_threads(),
        "cpu_capability": torch.backends.cpu.get_cpu_capability(),
        "load_average": os.getloadavg()[0] if hasattr(os, "getloadavg") else None,
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.machine()}",
        "torch": torch.__version__,
        "triton": _triton_version(),
        "fastgan": fastgan.__version__,
        "commit": commit(),
        **(_cuda_environment(device) if device.type == "cuda" else {}),
    }


def device_name(device: torch.device | str) -> str:
    """The model of the GPU, or of the processor."""
    device = torch.device(device)
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    try:
        found = re.search(r"^model name\s*:\s*(.+)$", Path("/proc/cpuinfo").read_text(), re.MULTILINE)
    except OSError:
        found = None
    return found.group(1).strip() if found else platform.processor() or platform.machine()


def _triton_version() -> str | None:
    try:
        import triton
    except ImportError:
        return None
    return triton.__version__


def _cuda_environment(device: torch.device) -> dict:
    fields = ("driver_version", "clocks.sm", "clocks.mem", "clocks.max.sm", "power.limit")
    uuid = str(torch.cuda.get_device_properties(device).uuid)
    answer = _output("nvidia-smi", f"--query-gpu=uuid,{','.join(fields)}", "--format=csv,noheader")
    rows = [[cell.strip() for cell in line.split(",")] for line in (answer or "").splitlines()]
    values = next((row[1:] for row in rows if uuid in row[0]), [None] * len(fields))
    return {
        "cuda": torch.version.cuda,
        "cudnn": torch.backends.cudnn.version(),
        "tf32_matmul": torch.backends.cuda.matmul.allow_tf32,
        "tf32_convolution": torch.backends.cudnn.allow_tf32,
        **dict(zip(fields, values)),
    }


def _output(*command: str) -> str | None:
    try:
        return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True, timeout=30).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return None


def commit() -> dict:
    """The short commit (None where there is none) and whether tracked files differ from it."""
    changes = _output("git", "status", "--porcelain", "--untracked-files=no")
    return {"id": _output("git", "rev-parse", "--short", "HEAD"), "dirty": None if changes is None else bool(changes)}


def slug(text: str) -> str:
    """``text`` as a part of a file name."""
    return re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-")


def new_path(env: dict, selection: str, folder: Path = RESULTS) -> Path:
    """A path not yet taken: date, device, commit and the selection of ops, in this order."""
    commit_id = env["commit"]["id"] or "uncommitted"
    parts = (datetime.date.today().isoformat(), slug(env["device"]), commit_id, slug(selection))
    stem = "-".join(part for part in parts if part)
    path, number = folder / f"{stem}.json", 2
    while path.exists():
        path, number = folder / f"{stem}-{number}.json", number + 1
    return path


def content(env: dict, ceilings: dict, selection: str, cases: list[dict], failed: list[dict]) -> dict:
    """One run, ready to be written; cases where ours loses are listed beside the winning ones."""
    return {
        "format": FORMAT,
        "date": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
        "selection": selection,
        "environment": env,
        "ceilings": ceilings,
        "cases": cases,
        "losing": [entry for case in cases for entry in losses(case)],
        "failed": failed,
    }


def finite(values: dict[str, float]) -> dict[str, float | None]:
    """``values`` as JSON can hold them: None for infinities and NaN."""
    return {name: value if math.isfinite(value) else None for name, value in values.items()}


def losses(case: dict) -> list[dict]:
    """Where a provider of ours is slower by more than ``TIE``: an op than eager torch given the same layout, a step
    than the best of torch in the same precision."""
    group = "same_precision" if case["direction"] == "step" else "same_layout"
    found = [(name, ratios[group]) for name, ratios in case["speedup"].items() if group in ratios]
    return [{"case": title(case), "provider": name, "ratio": ratio} for name, ratio in found if ratio < 1 - TIE]


def write(path: Path, run: dict) -> None:
    """Write one run as JSON."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(run, indent=1, allow_nan=False) + "\n")


def read(path: Path) -> dict:
    """A record from ``path``. ValueError for a file that cannot be read or is no bench record."""
    try:
        run = json.loads(Path(path).read_text())
    except OSError as error:
        raise ValueError(f"{path} cannot be read: {error.strerror}") from error
    except ValueError as error:
        raise ValueError(f"{path} is not JSON: {error}") from error
    if not isinstance(run, dict) or run.get("format") != FORMAT:
        raise ValueError(f"{path} is not a bench record of format {FORMAT}; pytest bench --benchmark writes one")
    return run


def title(case: dict) -> str:
    """One case in a few words."""
    return " ".join(filter(None, (case["op"], case["variant"], case["shape"], case["dtype"], case["direction"])))


def layout(provider: str) -> str:
    """The memory layout of a provider's inputs, which its name tells."""
    return "channels_last" if "channels_last" in provider else "nchw"


def precision(variant: str) -> str:
    """The precision of a step's variant, which its name tells."""
    return "bf16" if " bf16" in variant else "fp32"


def speedups(timings: dict[str, dict]) -> dict[str, dict[str, float]]:
    """For each provider of ours: the best eager one's time over its own, among those of its layout and among all.

    The ratios of minima stand beside those of medians: a busy machine disturbs them less.
    """
    eager = [name for name in timings if name.startswith("eager")]
    ratios = {}
    for ours in (name for name in timings if name.startswith("ours")):
        groups = {"same_layout": [name for name in eager if layout(name) == layout(ours)] or eager, "best_eager": eager}
        ratios[ours] = {
            group + suffix: min(timings[name][figure] for name in names) / timings[ours][figure]
            for group, names in groups.items()
            for figure, suffix in (("median", ""), ("min", "_by_minima"))
        }
    return ratios


def step_speedups(timings: dict[str, dict]) -> dict[str, dict[str, float]]:
    """For each variant of ours: over its time, that of the fastest eager one in float32, and of the fastest one of
    torch, compiled or not, in the same precision, where such were timed; by medians, and by minima, which a busy
    machine disturbs less."""
    torch_only = [name for name in timings if not name.startswith("ours")]
    eager_fp32 = [name for name in torch_only if name.startswith("eager") and precision(name) == "fp32"]
    ratios = {}
    for ours in (name for name in timings if name.startswith("ours")):
        groups = {
            "eager_fp32": eager_fp32,
            "same_precision": [name for name in torch_only if precision(name) == precision(ours)],
        }
        ratios[ours] = {
            group + suffix: min(timings[name][figure] for name in names) / timings[ours][figure]
            for group, names in groups.items()
            if names
            for figure, suffix in (("median", ""), ("min", "_by_minima"))
        }
    return ratios
