"""``python -m fastgan.info``: what is built, for which torch, and which backend serves each op and why."""

from __future__ import annotations

if __name__ == "__main__":  # not where the command is imported: the process is then another's
    from . import _process

    _process.settle()  # before torch is imported

import platform
import sys

import torch

from fastgan.cli import command
from fastgan.cli.flags import Parser

from . import __version__
from .ops import _backend, _extension, _table

DTYPES = (torch.float32, torch.bfloat16, torch.float16, torch.float64)


def report() -> str:
    """The whole report as text."""
    lines = [
        f"fastgan {__version__}, torch {torch.__version__}, Python {platform.python_version()}, {platform.machine()}",
        f"C++ extension: {_extension.load()[1]}",
        f"triton: {_triton()}",
        f"CUDA: {_cuda()}",
    ]
    devices = ["cpu", "cuda"] if torch.cuda.is_available() else ["cpu"]
    for device in devices:
        lines += ["", f"Backends on {device} (of {', '.join(_name(d) for d in DTYPES)}):"]
        for op in sorted(_backend.ops()):
            try:
                lines += _op_lines(op, device)
            except RuntimeError as error:  # an op that it calls has a forced backend that cannot serve
                lines.append(f"  {op}: an error: {error}")
    for index in range(torch.cuda.device_count() if "cuda" in devices else 0):
        lines += ["", _measured(torch.cuda.get_device_name(index))]
    lines += ["", "Force one with FASTGAN_BACKEND=name, FASTGAN_BACKEND=op=name,... or fastgan.backend(...)."]
    return "\n".join(lines)


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def _triton() -> str:
    if not _backend.TRITON_FOUND:
        return "not installed (pip install 'triton>=3.6')"
    import triton

    return triton.__version__ + (", interpreting (TRITON_INTERPRET=1)" if _backend.TRITON_INTERPRETED else "")


def _cuda() -> str:
    if not torch.cuda.is_available():
        return "no device" if torch.version.cuda else "this torch is built without CUDA"
    names = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    return f"{', '.join(names)}; torch built for CUDA {torch.version.cuda}"


def _measured(device: str) -> str:
    """What the device's table holds: shapes in it are served by the backend that it names."""
    served: dict[str, int] = {}
    for (op, *_), entry in _table.entries(device).items():
        served[f"{op}: {entry['backend']}"] = served.get(f"{op}: {entry['backend']}", 0) + 1
    if not served:
        return f"Measured on {device}: nothing yet (python -m fastgan.tune measures)"
    return f"Measured on {device}: " + "; ".join(f"{name} for {count} shapes" for name, count in sorted(served.items()))


def _op_lines(op: str, device: str) -> list[str]:
    forced = _backend.forced(op)
    served: dict[str, list[str]] = {}
    refusals: dict[tuple[str, str], list[str]] = {}
    for dtype in DTYPES:
        why_not = _backend.refusal(op, device, dtype)
        served.setdefault("nothing" if why_not else _backend.select(op, device, dtype), []).append(_name(dtype))
        reasons = {f"{forced} (forced)": why_not} if forced else _backend.refusals(op, device, dtype)
        for name, reason in reasons.items():
            if reason:
                refusals.setdefault((name, reason), []).append(_name(dtype))
    parts = [name + _which(dtypes, " ({})") for name, dtypes in served.items()]
    lines = [f"  {op}: {'; '.join(parts)}"]
    if not forced:
        lines += [f"      {name}: {text}" for name in served if (text := _backend.remarks(op, name))]
    lines += [f"      not {name}{_which(dtypes, ' for {}')}: {reason}" for (name, reason), dtypes in refusals.items()]
    note = _backend.noted(op, device)
    if note and not forced and set(served) != {"reference"}:
        lines.append(f"      {note}")
    return lines


def _which(dtypes: list[str], form: str) -> str:
    return "" if len(dtypes) == len(DTYPES) else form.format(", ".join(dtypes))


def main(argv: list[str]) -> int:
    Parser(
        "python -m fastgan.info",
        description="Say what is built, for which torch, and which backend serves each op and why the others do not.",
    ).parse(argv)
    print(report())
    return 0


if __name__ == "__main__":
    sys.exit(command.run(main))
