"""torch's FLOP counter counts a model of ours as the same model of torch's layers: the products of its convolutions."""

import subprocess
import sys

import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

import fastgan
from fastgan.ops import _dispatch, _flops

from .test_programs import names


def counted(model, x, backward):
    with FlopCounterMode(display=False) as counter:
        y = model(x)
        if backward:
            y.square().mean().backward()
    return counter.get_total_flops()


def pad_conv(stride=1, size=3):
    return nn.Sequential(nn.ReflectionPad2d(1), nn.Conv2d(32, 32, size, stride))


MODELS = {
    "reflected convolution": pad_conv,
    "strided reflected convolution": lambda: pad_conv(2, 4),
    "convolution": lambda: nn.Conv2d(32, 40, 4, 2, 1),
    "wide kernel": lambda: nn.Conv2d(32, 3, 7),
    "wide reflected kernel": lambda: nn.Sequential(nn.ReflectionPad2d(3), nn.Conv2d(32, 3, 7)),
    "transposed convolution": lambda: nn.ConvTranspose2d(32, 16, 4, 2, 1, bias=False),
    "dilated transposed convolution": lambda: nn.ConvTranspose2d(32, 6, (3, 2), (1, 3), 1, (0, 1), dilation=(2, 1)),
    "generator": lambda: nn.Sequential(
        pad_conv(),
        nn.InstanceNorm2d(32),
        nn.ReLU(),
        nn.Conv2d(32, 64, 3, 2, 1),
        nn.BatchNorm2d(64),
        nn.LeakyReLU(0.2),
        nn.ConvTranspose2d(64, 32, 3, 2, 1, 1),
        nn.InstanceNorm2d(32),
        nn.ReLU(),
    ),
}


@pytest.mark.parametrize("backward", [False, True], ids=["forward", "backward"])
@pytest.mark.parametrize("backend", ["auto", "plain", "cpp", "winograd", "reference"])
@pytest.mark.parametrize("name", MODELS)
def test_a_fused_model_counts_as_the_plain_one(name, backend, backward):
    if backend in ("cpp", "winograd") and not _dispatch.EXTENSION_LOADED:
        pytest.skip(_dispatch.EXTENSION_STATUS)
    if backend == "winograd" and name == "strided reflected convolution":
        pytest.skip("Winograd's kernels take stride 1")
    x = torch.randn(2, 32, 24, 20).contiguous(memory_format=torch.channels_last).requires_grad_(backward)
    expected = counted(MODELS[name](), x, backward)
    with fastgan.backend(backend):
        assert counted(fastgan.fuse(MODELS[name]()), x, backward) == expected > 0


def test_a_program_counts_as_its_model():
    model, x = fastgan.fuse(MODELS["generator"]()), torch.randn(2, 32, 24, 20)
    expected = counted(MODELS["generator"](), x, True)
    program = torch.export.export(model, (x,)).module()
    assert counted(program, x, True) == expected


def test_every_op_of_products_has_a_formula():
    convolutions = {name for name in names("fastgan") if "conv" in name}
    assert set(_flops._FORMULAS) == convolutions


@pytest.mark.parametrize(
    "order",
    [
        "import fastgan.functional; from torch.utils.flop_counter import FlopCounterMode",
        "from torch.utils.flop_counter import FlopCounterMode; import fastgan.functional",
    ],
    ids=["ours first", "torch's first"],
)
def test_the_order_of_imports_does_not_matter(order):
    """A counter entered before any op of ours ran counts, too; until one is wanted, torch's is not imported."""
    code = f"""
import sys
{order}
import torch
x, w = torch.randn(1, 4, 8, 8), torch.randn(4, 2, 3, 3)
for _ in range(2):
    with FlopCounterMode(display=False) as counter, fastgan.backend(conv_transpose2d="cpp"):
        fastgan.functional.conv_transpose2d(x, w)
    print(counter.get_total_flops() // (2 * 64 * w.numel()), end=" ")
"""
    if not _dispatch.EXTENSION_LOADED:
        code = code.replace('fastgan.backend(conv_transpose2d="cpp")', 'fastgan.backend("auto")')
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert result.stdout == "1 1 ", result.stderr


def test_our_import_does_not_wait_for_the_counter():
    code = "import sys, fastgan.functional; print('torch.utils.flop_counter' in sys.modules)"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert result.stdout == "False\n", result.stderr
