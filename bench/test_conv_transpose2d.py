"""conv_transpose2d of the CycleGAN generator, the DCGAN generator and the VAE decoder, against torch's."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F

from fastgan import functional as fg

from .cases import DIRECTIONS, DTYPES, OpCase, dtype_name, providers

K3 = (3, {"stride": 2, "padding": 1, "output_padding": 1})  # the image doubles with either
K4 = (4, {"stride": 2, "padding": 1})
# Input, output channels, kernel and geometry.
LAYERS = {
    "u128": ((1, 256, 64, 64), 128, *K3),
    "u64": ((1, 128, 128, 128), 64, *K3),
    "vae-first": ((64, 32, 7, 7), 16, *K4),
    "vae-last": ((64, 16, 14, 14), 1, *K4),
    "dcgan-first": ((128, 128, 7, 7), 64, *K4),
    "dcgan-last": ((128, 64, 14, 14), 1, *K4),
}
BATCH_16 = {f"{name}-batch16": ((16, *LAYERS[name][0][1:]), *LAYERS[name][1:]) for name in ("u128", "u64")}


@pytest.mark.parametrize("direction", DIRECTIONS)
@pytest.mark.parametrize("dtype", DTYPES, ids=dtype_name)
@pytest.mark.parametrize("layer", [*LAYERS, *(pytest.param(name, marks=pytest.mark.cuda) for name in BATCH_16)])
def test_conv_transpose2d(compare, device, layer, dtype, direction):
    shape, out, kernel, geometry = (LAYERS | BATCH_16)[layer]
    weight_shape = (shape[1], out, kernel, kernel)

    def make():
        weight = torch.randn(weight_shape, device=device) / math.sqrt(kernel * kernel * shape[1])
        x, bias = torch.randn(shape, device=device, dtype=dtype), torch.randn(out, device=device, dtype=dtype)
        return x, weight.to(dtype), bias

    outputs = shape[0] * out * 4 * shape[2] * shape[3]
    product = 2 * math.prod(shape) * out * kernel * kernel
    operands = math.prod(shape) + outputs + math.prod(weight_shape)
    # Backward is two such products, and reads x, dy and the weight to write dx and dw.
    written_back = math.prod(shape) + math.prod(weight_shape) if direction == "backward" else 0
    compare(
        OpCase(
            "conv_transpose2d",
            f"{shape[1]}->{out} {kernel}x{kernel}",
            shape,
            dtype,
            direction,
            device,
            make,
            providers(
                eager=lambda x, w, b: F.conv_transpose2d(x, w, b, **geometry),
                ours=lambda x, w, b: fg.conv_transpose2d(x, w, b, **geometry),
            ),
            bytes_moved=(operands + written_back) * dtype.itemsize,
            flops=product * (2 if direction == "backward" else 1),
            leaves=3,
        )
    )
