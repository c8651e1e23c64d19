"""reflection_pad_conv2d, against reflection padding followed by a convolution; on CUDA by both of its backends."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F

import fastgan
from fastgan import functional as fg
from fastgan.ops import instance_norm, reflection_pad_conv2d

from .cases import DIRECTIONS, DTYPES, LAYOUTS, OpCase, Provider, dtype_name, providers

# Winograd's transforms, on the CPU in float32, cost a few bits: see fastgan.ops.reflection_pad_conv2d.
TIMES_EAGER = {"trunk": 8.0, "trunk-128": 8.0}
# On CUDA, Triton hands float32 to tensor cores as it is: they cut it off to TF32, where cuDNN may round.
CUT_OFF = 4.0
# Input, output channels, kernel: the generator's first and last layer, and its trunk, also that of 128 x 128 images;
# the padding keeps the size.
LAYERS = {
    "first": ((1, 3, 256, 256), 64, 7),
    "trunk": ((1, 256, 64, 64), 256, 3),
    "trunk-128": ((1, 256, 32, 32), 256, 3),
    "last": ((1, 64, 256, 256), 3, 7),
}
BATCH_16 = {f"{name}-batch16": ((16, *shape[1:]), out, kernel) for name, (shape, out, kernel) in LAYERS.items()}


def times_eager(layer: str, dtype: torch.dtype, device: torch.device) -> float:
    if dtype != torch.float32:
        return 2.0
    return CUT_OFF if device.type == "cuda" else TIMES_EAGER.get(layer, 2.0)


def ours_by(backend: str, padding: int):
    """Ours, forced onto a backend."""

    def compute(x, weight, bias):
        with fastgan.backend(reflection_pad_conv2d=backend):
            return fg.reflection_pad_conv2d(x, weight, bias, padding=padding)

    return compute


def with_norm(backend: str | None, moments: bool):
    """The convolution by a backend or by the one that is chosen, and instance norm, which takes its moments or not."""
    forced = {"reflection_pad_conv2d": backend} if backend else {}

    def compute(x, weight, bias):
        with fastgan.backend(**forced):
            y, given = reflection_pad_conv2d.convolve(x, weight, None, 1, 1, 1, 1, with_moments=moments)
            return instance_norm.compute(y, None, None, None, 1e-5, "relu", 0.2, 1, False, given)[0]

    return compute


def eager_with_norm(x, weight, bias):
    y = F.conv2d(F.pad(x, (1,) * 4, mode="reflect"), weight)
    return F.pad(F.relu(F.instance_norm(y)), (1,) * 4, mode="reflect")


def providers_with_norm(device: torch.device) -> list[Provider]:
    found = providers(eager=eager_with_norm, ours=with_norm(None, True))
    if device.type != "cuda":
        return found
    found = [provider for provider in found if provider.name.startswith("eager")]
    for backend in ("halo", "triton", "triton+moments"):
        compute = with_norm(backend.removesuffix("+moments"), backend.endswith("+moments"))
        found += [Provider(f"ours {backend} {layout}", compute) for layout in LAYOUTS]
    return found


def providers_of_padding(device: torch.device, padding: int) -> list[Provider]:
    found = providers(
        eager=lambda x, w, b: F.conv2d(F.pad(x, (padding,) * 4, mode="reflect"), w, b),
        ours=lambda x, w, b: fg.reflection_pad_conv2d(x, w, b, padding=padding),
    )
    if device.type != "cuda":
        return found
    # Ours as the table has it is one of the two.
    found = [provider for provider in found if provider.name.startswith("eager")]
    for backend in ("halo", "triton"):
        found += [Provider(f"ours {backend} {layout}", ours_by(backend, padding)) for layout in LAYOUTS]
    return found


@pytest.mark.parametrize("direction", DIRECTIONS)
@pytest.mark.parametrize("dtype", DTYPES, ids=dtype_name)
@pytest.mark.parametrize("layer", [*LAYERS, *(pytest.param(name, marks=pytest.mark.cuda) for name in BATCH_16)])
def test_reflection_pad_conv2d(compare, device, layer, dtype, direction):
    shape, out, kernel = (LAYERS | BATCH_16)[layer]
    found = providers_of_padding(device, kernel // 2)
    compare(case(shape, out, kernel, dtype, direction, device, found, times_eager(layer, dtype, device)))


@pytest.mark.parametrize("dtype", DTYPES, ids=dtype_name)
@pytest.mark.parametrize("layer", ["trunk", pytest.param("trunk-batch16", marks=pytest.mark.cuda)])
def test_convolution_and_norm(compare, device, layer, dtype):
    """The trunk's convolution and the norm behind it, which takes the moments that Triton's kernel leaves."""
    shape, out, kernel = (LAYERS | BATCH_16)[layer]
    found = providers_with_norm(device)
    compare(case(shape, out, kernel, dtype, "forward", device, found, times_eager(layer, dtype, device), norm=True))


def case(shape, out, kernel, dtype, direction, device, found, times, norm=False) -> OpCase:
    weight_shape = (out, shape[1], kernel, kernel)

    def make():
        weight = torch.randn(weight_shape, device=device) / math.sqrt(math.prod(weight_shape[1:]))
        x, bias = torch.randn(shape, device=device, dtype=dtype), torch.randn(out, device=device, dtype=dtype)
        return x, weight.to(dtype), bias

    outputs = shape[0] * out * shape[2] * shape[3]
    product = 2 * outputs * math.prod(weight_shape[1:])
    operands = math.prod(shape) + outputs + math.prod(weight_shape)
    # Backward is two such products, and reads x, dy and the weight to write dx and dw.
    further = math.prod(shape) + math.prod(weight_shape) if direction == "backward" else 0
    if norm:  # reads what the convolution wrote, and writes it anew with its halo
        further = outputs + shape[0] * out * (shape[2] + 2) * (shape[3] + 2)
    return OpCase(
        "reflection_pad_conv2d",
        f"{shape[1]}->{out} {kernel}x{kernel}" + " and instance norm" * norm,
        shape,
        dtype,
        direction,
        device,
        make,
        found,
        bytes_moved=(operands + further) * dtype.itemsize,
        flops=product * (2 if direction == "backward" else 1),
        leaves=3,
        times_eager=times,
    )
