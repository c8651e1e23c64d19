"""Prints a digest of every op's output and gradients for fixed inputs: two runs, of two processes, must print the same.

    python -m tests.ops.digests [--device cuda] [--side 64]

bench/gpu_check.sh compares two runs on a GPU.
"""

import argparse
import hashlib

import torch

import fastgan
from fastgan import functional as ours
from fastgan.ops import _dispatch

from .common import instance_norm

FORMATS = {"nchw": torch.contiguous_format, "nhwc": torch.channels_last}
DTYPES = (torch.float32, torch.bfloat16)


def norm(x, weight, channels):
    return instance_norm(x, weight=channels, bias=channels, activation="relu", residual=x, halo=1)


def batch(x, weight, channels):
    return ours.batch_norm(x, None, None, channels, channels, training=True, activation="leaky_relu")


def pad(x, weight, channels):
    return ours.reflection_pad2d(x, 3)


def convolution(x, weight, channels):
    return ours.reflection_pad_conv2d(x, weight, channels, padding=1)


def last_convolution(x, weight, channels):
    return ours.reflection_pad_conv2d(x, weight[:3], channels[:3], padding=1)


def transposed(x, weight, channels):
    return ours.conv_transpose2d(x, weight, channels, 2, 1, 1)


def losses(x, weight, channels):
    parts = [loss(x, 0.9) for loss in (ours.l1_loss, ours.mse_loss, ours.bce_with_logits)]
    return torch.stack(parts)


PROGRAMS = {
    norm: "instance_norm",
    batch: "batch_norm",
    pad: "reflection_pad2d",
    convolution: "reflection_pad_conv2d",
    last_convolution: "reflection_pad_conv2d",
    transposed: "conv_transpose2d",
    losses: "l1_loss",
}


def digest(tensors) -> str:
    sha = hashlib.sha256()
    for tensor in tensors:
        sha.update(tensor.detach().cpu().contiguous().view(torch.uint8).numpy().tobytes())
    return sha.hexdigest()[:16]


def kernels(op: str, device: str, dtype: torch.dtype) -> str | None:
    """The backend with our kernels that serves an op; None where there is none."""
    for name in ("triton", "cuda", "cpp"):
        if name in _dispatch.OPS[op].names() and (name != "triton" or device == "cuda"):
            if not _dispatch.refusal(op, name, device, dtype):
                return name
    return None


def lines(device: str, side: int, channels: int):
    for program, op in PROGRAMS.items():
        for dtype in DTYPES:
            backend = kernels(op, device, dtype)
            if backend is None:
                continue
            for layout, format in FORMATS.items():
                generator = torch.Generator().manual_seed(0)

                def draw(*shape, generator=generator, dtype=dtype, format=format):
                    tensor = torch.randn(shape, generator=generator).to(device, dtype)
                    return tensor.contiguous(memory_format=format) if tensor.dim() == 4 else tensor

                x, weight = draw(2, channels, side, side), draw(channels, channels, 3, 3) / channels
                leaves = [t.requires_grad_() for t in (x, weight, draw(channels))]
                with fastgan.backend(**{op: backend}):
                    y = program(*leaves)
                    used = torch.autograd.grad(y, leaves, torch.ones_like(y), allow_unused=True)
                text = digest([y, *(g for g in used if g is not None)])
                yield f"{program.__name__:17} {backend:7} {_name(dtype):8} {layout} {text}"


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.ops.digests")
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--side", type=int, default=64)
    parser.add_argument("--channels", type=int, default=64)
    options = parser.parse_args(argv)
    for line in lines(options.device, options.side, options.channels):
        print(line, flush=True)


if __name__ == "__main__":
    main()
