"""The CUDA kernels of conv_transpose2d, executed on the CPU by tests/csrc/emulation: indexing, fragments, barriers.

The same source that nvcc compiles, compiled by a C++ compiler. It proves what is computed, and that every element is
written once, nothing out of bounds is touched, and no copy is used before it has arrived; it says nothing about speed.
"""

import ctypes
import dataclasses
import os
import random
import shlex
import shutil
import subprocess
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

REPOSITORY = Path(__file__).resolve().parents[2]
SOURCES = [*sorted((REPOSITORY / "csrc/cuda").glob("conv_transpose2d*.cu")),
           *sorted((REPOSITORY / "tests/csrc/emulation").glob("*.cpp"))]
DTYPES = {torch.float32: 0, torch.bfloat16: 1, torch.float16: 2, torch.float64: 3}
FORMATS = (torch.contiguous_format, torch.channels_last)
ACTIVATIONS = ("none", "relu", "leaky_relu")
# (dtype, TF32 allowed), the rounding of a result, and of a sum relative to the sum of magnitudes that went into it.
ARITHMETICS = {
    "bf16": (torch.bfloat16, False, 2**-8, 1e-6),
    "fp16": (torch.float16, False, 2**-11, 1e-6),
    "tf32": (torch.float32, True, 0.0, 2**-10),
    "fp32": (torch.float32, False, 2**-24, 1e-6),
    "fp64": (torch.float64, False, 2**-53, 4e-15),
}

COMPILER = shlex.split(os.environ.get("CXX", "")) or ["c++"]
pytestmark = [
    pytest.mark.skipif(os.name != "posix", reason="the emulation switches stacks by POSIX functions"),
    pytest.mark.skipif(shutil.which(COMPILER[0]) is None, reason=f"no C++ compiler was found ({COMPILER[0]})"),
]


@dataclasses.dataclass(frozen=True)
class Case:
    n: int = 1
    c: int = 8
    o: int = 8
    size: tuple[int, int] = (4, 5)
    kernel: tuple[int, int] = (3, 3)
    stride: tuple[int, int] = (2, 2)
    padding: tuple[int, int] = (1, 1)
    output_padding: tuple[int, int] = (1, 1)
    dilation: tuple[int, int] = (1, 1)
    groups: int = 1

    def arguments(self):
        return self.stride, self.padding, self.output_padding, self.groups, self.dilation

    def output(self):
        return tuple(
            (self.size[i] - 1) * self.stride[i] - 2 * self.padding[i] + self.dilation[i] * (self.kernel[i] - 1)
            + self.output_padding[i] + 1
            for i in (0, 1)
        )


@pytest.fixture(scope="module")
def library(tmp_path_factory):
    folder = tmp_path_factory.mktemp("emulation")
    flags = ["-std=c++17", "-O2", "-U_FORTIFY_SOURCE", "-fPIC", "-w", f"-I{REPOSITORY / 'tests/csrc/emulation'}"]
    objects = [folder / f"{index}.o" for index in range(len(SOURCES))]
    running = []
    for source, target in zip(SOURCES, objects):
        command = [*COMPILER, *flags, "-x", "c++", "-c", str(source), "-o", str(target)]
        running.append(subprocess.Popen(command, stderr=subprocess.PIPE, text=True))
        if len(running) == 2:
            finish(running.pop(0))
    for process in running:
        finish(process)
    built = folder / "emulation.so"
    finish(subprocess.Popen([*COMPILER, "-shared", *map(str, objects), "-o", str(built)], stderr=subprocess.PIPE,
                            text=True))
    library = ctypes.CDLL(str(built))
    library.make_shape.argtypes = [ctypes.c_void_p, ctypes.c_double, ctypes.c_void_p]
    return library


def finish(process):
    errors = process.communicate()[1]
    assert process.returncode == 0, errors[-4000:]


def shape_of(library, case, dtype, layout, dweight, activation, slope):
    numbers = [DTYPES[dtype], layout, case.n, case.c, case.o, case.groups]
    for pair in (case.size, case.output(), case.kernel, case.stride, case.padding, case.output_padding, case.dilation):
        numbers += pair
    numbers += [*dweight.stride(), ACTIVATIONS.index(activation)]
    shape = ctypes.create_string_buffer(library.shape_bytes())
    library.make_shape((ctypes.c_int64 * len(numbers))(*numbers), slope, shape)
    return shape


def call(function, shape, tf32, *tensors, more=()):
    """Calls an entry of the library; the last tensor is the result, filled with NaN before."""
    tensors[-1].fill_(float("nan"))
    sizes = (ctypes.c_int64 * len(tensors))(*(0 if t is None else t.numel() * t.element_size() for t in tensors))
    pointers = [ctypes.c_void_p(None if t is None else t.data_ptr()) for t in tensors]
    assert function(shape, int(tf32), *pointers, sizes, *more) == 0, "the emulated kernel reported an error"


def check(actual, expected, magnitude, rounding, sum_rounding, what):
    """Every element within its own bound: the rounding of the result and of the sum that gave it."""
    bound = rounding * expected.abs() + sum_rounding * magnitude + (1e-7 if actual.dtype == torch.float16 else 1e-30)
    error = (actual.double() - expected).abs()
    wrong = ~(error <= bound)
    assert not wrong.any(), (
        f"{what}: {int(wrong.sum())} of {wrong.numel()} elements are wrong, the first at {wrong.nonzero()[0].tolist()}"
    )


def prove(library, case, arithmetic, layout, activation="none", bias=True, weight_format=None, multiprocessors=1, seed=0):
    """All three passes of one case against float64."""
    dtype, tf32, rounding, sum_rounding = ARITHMETICS[arithmetic]
    library.set_multiprocessors(multiprocessors)
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape, like=FORMATS[layout]):
        values = torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype)
        return values.contiguous(memory_format=like) if len(shape) == 4 else values

    x = normal(case.n, case.c, *case.size)
    weight = normal(case.c, case.o // case.groups, *case.kernel, like=torch.channels_last)
    b = normal(case.o) if bias else None
    y = normal(case.n, case.o, *case.output())
    dy, dx = normal(*y.shape), normal(*x.shape)
    dweight = normal(*weight.shape, like=weight_format or FORMATS[layout])
    assert weight.permute(0, 2, 3, 1).is_contiguous()
    shape = shape_of(library, case, dtype, layout, dweight, activation, 0.3)

    wide = [None if t is None else t.double().contiguous() for t in (x, weight, b, dy)]
    sizes = [None if t is None else t.abs() for t in wide]

    def passes(x, weight, b, dy):
        x, weight = x.clone().requires_grad_(), weight.clone().requires_grad_()
        y = F.conv_transpose2d(x, weight, b, *case.arguments())
        return y.detach(), *torch.autograd.grad(y, (x, weight), dy)

    expected, magnitudes = passes(*wide), passes(*sizes)
    activate = {"none": lambda z: z, "relu": F.relu, "leaky_relu": lambda z: F.leaky_relu(z, 0.3)}[activation]

    call(library.forward, shape, tf32, x, weight, b, y)
    check(y, activate(expected[0]), magnitudes[0], rounding, sum_rounding, f"forward of {case}")
    call(library.input_gradient, shape, tf32, dy, weight, None, dx)
    check(dx, expected[1], magnitudes[1], rounding, sum_rounding, f"input gradient of {case}")
    workspace = ctypes.c_int64()
    call(library.weight_gradient, shape, tf32, dy, x, None, dweight, more=[ctypes.byref(workspace)])
    check(dweight, expected[2], magnitudes[2], rounding, sum_rounding, f"weight gradient of {case}")
    return y, dx, dweight, workspace.value // dweight.numel() // (8 if dtype == torch.float64 else 4)


@pytest.mark.parametrize("layout", (0, 1), ids=("nchw", "nhwc"))
@pytest.mark.parametrize("arithmetic", ARITHMETICS)
@pytest.mark.parametrize("case", (
    Case(),
    Case(n=2, c=24, o=40, size=(5, 9)),
), ids=str)
def test_all_passes(library, case, arithmetic, layout):
    prove(library, case, arithmetic, layout)
