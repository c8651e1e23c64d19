"""Where a run computes: device, precision, memory format, and how to say so."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Mapping
from contextlib import AbstractContextManager
from typing import Any

import torch
from torch import Tensor, nn

from fastgan._errors import UserError


def pick_device(name: str) -> torch.device:
    """The device of ``--device``: "auto" is the GPU where there is one.

    Raises:
        UserError: an unknown name, or a GPU that this machine or this torch does not have.
    """
    if name == "auto":
        return torch.device("cuda", torch.cuda.current_device()) if torch.cuda.is_available() else torch.device("cpu")
    if name == "cpu":
        return torch.device("cpu")
    match = re.fullmatch(r"cuda(?::(\d+))?", name)
    if match is None:
        raise UserError(f"unknown device {name!r}: choose auto, cpu, cuda or cuda:N")
    if not torch.cuda.is_available():
        why = "sees no GPU" if torch.version.cuda else "was built without CUDA"
        raise UserError(f"--device {name}: torch {torch.__version__} {why}; use --device cpu")
    count = torch.cuda.device_count()
    index = torch.cuda.current_device() if match[1] is None else int(match[1])
    if index >= count:
        raise UserError(f"--device {name}: there are {count} GPUs, cuda:0 to cuda:{count - 1}")
    return torch.device("cuda", index)


def describe_device(device: torch.device) -> str:
    """The device in a few words."""
    if device.type == "cuda":
        properties = torch.cuda.get_device_properties(device)
        return f"{device} ({properties.name}, {properties.total_memory / 2**30:.0f} GiB)"
    threads = torch.get_num_threads()
    return f"cpu ({threads} {'thread' if threads == 1 else 'threads'}, {torch.backends.cpu.get_cpu_capability()})"


def set_backend(names: str) -> None:
    """Force the backends of ``--backend``: a name, or ``op=name,op=name``; ``auto`` leaves the choice as it is."""
    import fastgan

    if names == "auto":
        return
    parts = [part.strip() for part in names.split(",") if part.strip()]
    bare = [part for part in parts if "=" not in part]
    if len(bare) > 1:
        raise UserError(f"--backend {names} names {len(bare)} backends for all ops: give one, or op=name pairs")
    fastgan.set_backend(bare[0] if bare else None, **dict(part.split("=", 1) for part in parts if "=" in part))


def describe_backends(device: torch.device, precision: str) -> str:
    """Which backend computes each op at this device and precision, as one line.

    Raises:
        RuntimeError: a backend was forced that cannot serve here; the message gives the reason.
    """
    from fastgan.ops import _dispatch

    by_backend: dict[str, list[str]] = {}
    for op in _dispatch.OPS:
        by_backend.setdefault(_dispatch.serving(op, device.type, dtype_of(precision)), []).append(op)
    return "; ".join(f"{backend}: {', '.join(ops)}" for backend, ops in by_backend.items())


def dtype_of(precision: str) -> torch.dtype:
    return {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}[precision]


def autocast(device: torch.device, precision: str) -> AbstractContextManager:
    """Autocast to ``precision``; for fp32 a context that does nothing."""
    if precision == "fp32":
        return contextlib.nullcontext()
    return torch.autocast(device.type, dtype_of(precision))


def memory_format(channels_last: bool) -> torch.memory_format:
    return torch.channels_last if channels_last else torch.contiguous_format


def move_batch(batch: Mapping[str, Any], device: torch.device, layout: torch.memory_format) -> dict[str, Tensor]:
    """The tensors of ``batch`` on ``device``, 4-d ones in the memory format ``layout``; names of files stay behind."""

    def move(value: Tensor) -> Tensor:
        if value.dim() == 4:
            return value.to(device, memory_format=layout, non_blocking=True)
        return value.to(device, non_blocking=True)

    return {name: move(value) for name, value in batch.items() if isinstance(value, Tensor)}


def parameter_count(network: nn.Module) -> int:
    return sum(parameter.numel() for parameter in network.parameters())
