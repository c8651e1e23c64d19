"""``python -m fastgan.tune``: measures backends and kernel configurations on this GPU and writes its table."""

from __future__ import annotations

import sys
from pathlib import Path

import torch

from fastgan._errors import UserError
from fastgan.cli import command
from fastgan.cli.flags import Parser

from .ops import _table, _tuner

OPS = tuple(_tuner.TUNERS)
DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16, "fp32": torch.float32}


def cases(op: str, batch: int, size: int, width: int) -> list[tuple]:
    """The calls of a CycleGAN generator with ``width`` filters in its first layer, on square images of ``size``.

    Of the convolutions after the first, with instance norm, which writes their halo, then without.
    """
    if op == "reflection_pad_conv2d":
        trunk, last = (4 * width, size // 4, 4 * width, 3), (width, size, 3, 7)
        return [
            _tuner.Convolution(batch, 3, size, width, 7, 3),
            *(_tuner.Convolution(batch, c, side + k - 1, outputs, k, 0) for c, side, outputs, k in (trunk, last)),
            *(_tuner.Convolution(batch, c, side, outputs, k, k // 2) for c, side, outputs, k in (trunk, last)),
        ]
    return [
        _tuner.Norm(batch, width, size, 0),
        _tuner.Norm(batch, 2 * width, size // 2, 0),
        _tuner.Norm(batch, 4 * width, size // 4, 1),
        _tuner.Norm(batch, 4 * width, size // 4, 0),
        _tuner.Norm(batch, width, size, 3),
    ]


def _parser() -> Parser:
    p = Parser(
        "python -m fastgan.tune",
        description="""\
Measure every backend and kernel configuration on this GPU and write its table, which the ops then follow. Needs a CUDA
device and triton; takes minutes.""",
    )
    p.add_argument("--op", nargs="+", choices=OPS, default=list(OPS), help="which ops (default: all)")
    p.add_argument("--batch", nargs="+", type=int, default=[1, 4, 16], help="batch sizes (default: 1 4 16)")
    p.add_argument("--size", type=int, default=256, help="side of the images (default: 256)")
    p.add_argument("--ngf", type=int, default=64, help="filters of the generator's first layer (default: 64)")
    p.add_argument("--dtype", nargs="+", choices=DTYPES, default=["bf16", "fp32"], help="(default: bf16 fp32)")
    p.add_argument("--layout", nargs="+", choices=("nhwc", "nchw"), default=["nhwc", "nchw"], help="(default: both)")
    p.add_argument("--rounds", type=int, default=30, help="timings of each candidate (default: 30)")
    p.add_argument("--output", type=Path, help="the table to write or extend (default: this GPU's, in the package)")
    return p


def main(argv: list[str]) -> int:
    options = _parser().parse(argv)
    if options.size % 4 or options.size < 16:
        raise UserError(f"--size must be a multiple of 4 from 16 up, got {options.size}")
    for flag, value in (("batch", min(options.batch)), ("ngf", options.ngf), ("rounds", options.rounds)):
        if value < 1:
            raise UserError(f"--{flag} must be at least 1, got {value}")
    if not torch.cuda.is_available():
        raise UserError("fastgan.tune measures on a CUDA device, and torch finds none here")
    import triton

    device = torch.device("cuda", torch.cuda.current_device())
    name = torch.cuda.get_device_name(device)
    path = options.output or _table.FOLDER / _table.file_name(name)
    environment = {
        "capability": "{}.{}".format(*torch.cuda.get_device_capability(device)),
        "torch": torch.__version__,
        "triton": triton.__version__,
        "cuda": torch.version.cuda or "",
    }
    say = lambda text: print(f"  {text}", file=sys.stderr)  # noqa: E731
    for op in options.op:
        for batch in options.batch:
            for case in cases(op, batch, options.size, options.ngf):
                for dtype in options.dtype:
                    for layout in options.layout:
                        entry = _tuner.TUNERS[op](
                            case, DTYPES[dtype], layout, device, _tuner.event_clock, options.rounds, say
                        )
                        _table.write(path, name, environment, [entry])
                        print(describe(entry), flush=True)
    print(f"table: {path}")
    return 0


def describe(entry: _table.Entry) -> str:
    """One line: what serves the call, and the microseconds of each backend and direction."""
    times = "; ".join(
        f"{backend} " + ", ".join(f"{direction} {1e6 * s:.1f} us" for direction, s in taken.items())
        for backend, taken in entry["seconds"].items()
    )
    return f"{entry['op']} {entry['dtype']} {entry['layout']} {entry['shape']}: {entry['backend']} ({times})"


if __name__ == "__main__":
    sys.exit(command.run(main))
