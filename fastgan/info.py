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
from .ops import _dispatch, _extension, _table

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
        for op in sorted(_dispatch.OPS):
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
    if not _dispatch.TRITON_FOUND:
        return "not installed (pip install 'triton>=3.6')"
    import triton

    return triton.__version__ + (", interpreting (TRITON_INTERPRET=1)" if _dispatch.TRITON_INTERPRETED else "")


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
    forced = _dispatch.forced(op) is not None
    served: dict[str, list[str]] = {}
    refusals: dict[tuple[str, str], list[str]] = {}
    remarks: dict[str, str] = {}
    for dtype in DTYPES:
        reasons = _dispatch.refusals(op, device, dtype)
        for name, reason in reasons.items():
            if reason:
                refusals.setdefault((f"{name} (forced)" if forced else name, reason), []).append(_name(dtype))
            elif not forced:
                remarks[name] = _dispatch.OPS[op][name].remark
        name = "nothing" if all(reasons.values()) else _dispatch.serving(op, device, dtype)
        served.setdefault(name, []).append(_name(dtype))
    parts = [name + _which(dtypes, " ({})") for name, dtypes in served.items()]
    lines = [f"  {op}: {'; '.join(parts)}"]
    lines += [f"      {name}: {remark}" for name, remark in remarks.items() if remark]
    lines += [f"      not {name}{_which(dtypes, ' for {}')}: {reason}" for (name, reason), dtypes in refusals.items()]
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
