"""The CUDA kernels of conv_transpose2d, executed on the CPU by tests/csrc/emulation: indexing, fragments, barriers.

The same source that nvcc compiles, compiled by a C++ compiler. It proves what is computed, and that every element is
written once, nothing out of bounds is touched, and no copy is used before it has arrived; it says nothing about speed.
"""

import ctypes
import itertools
import os
import random
import shlex
import shutil
import subprocess
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

from .geometry import ACTIVATIONS, ARITHMETICS, CASES, Case, activated, check, drawn, passes

REPOSITORY = Path(__file__).resolve().parents[2]
SOURCES = [
    *sorted((REPOSITORY / "csrc/cuda/conv_transpose2d").glob("*.cu")),
    *sorted((REPOSITORY / "tests/csrc/emulation").glob("*.cpp")),
]
DTYPES = {torch.float32: 0, torch.bfloat16: 1, torch.float16: 2, torch.float64: 3}
FORMATS = (torch.contiguous_format, torch.channels_last)
COMPILER = shlex.split(os.environ.get("CXX", "")) or ["c++"]
pytestmark = [
    pytest.mark.skipif(os.name != "posix", reason="the emulation switches stacks by POSIX functions"),
    pytest.mark.skipif(shutil.which(COMPILER[0]) is None, reason=f"no C++ compiler was found ({COMPILER[0]})"),
]


@pytest.fixture(scope="module")
def library(tmp_path_factory):
    folder = tmp_path_factory.mktemp("emulation")
    includes = [f"-I{REPOSITORY / folder}" for folder in ("csrc", "tests/csrc/emulation")]
    flags = ["-std=c++17", "-O2", "-U_FORTIFY_SOURCE", "-fPIC", "-w", *includes]
    objects = [str(folder / f"{index}.o") for index in range(len(SOURCES))]
    commands = [
        [*flags, "-x", "c++", "-c", str(source), "-o", target] for source, target in zip(SOURCES, objects, strict=True)
    ]
    built = folder / "emulation.so"
    with ThreadPoolExecutor(2) as pool:
        list(pool.map(run, commands))
    run(["-shared", *objects, "-o", str(built)])
    library = ctypes.CDLL(str(built))
    library.make_shape.argtypes = [ctypes.c_void_p, ctypes.c_double, ctypes.c_void_p]
    return library


def run(arguments):
    """The C++ compiler; its failure is the test's."""
    result = subprocess.run([*COMPILER, *arguments], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    assert result.returncode == 0, result.stdout[-4000:]


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


def prove(
    library, case, arithmetic, layout, activation="none", bias=True, weight_format=None, multiprocessors=1, seed=0
):
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

    expected, magnitudes = passes(case, *wide), passes(case, *sizes)

    call(library.forward, shape, tf32, x, weight, b, y)
    check(y, activated(expected[0], activation, 0.3), magnitudes[0], rounding, sum_rounding, f"forward of {case}")
    call(library.input_gradient, shape, tf32, dy, weight, None, dx)
    check(dx, expected[1], magnitudes[1], rounding, sum_rounding, f"input gradient of {case}")
    workspace = ctypes.c_int64()
    call(library.weight_gradient, shape, tf32, dy, x, None, dweight, more=[ctypes.byref(workspace)])
    check(dweight, expected[2], magnitudes[2], rounding, sum_rounding, f"weight gradient of {case}")
    return y, dx, dweight, workspace.value // dweight.numel() // (8 if dtype == torch.float64 else 4)


@pytest.mark.parametrize("layout", (0, 1), ids=("nchw", "nhwc"))
@pytest.mark.parametrize("arithmetic", ARITHMETICS)
def test_all_passes(library, arithmetic, layout):
    for seed, case in enumerate(CASES):
        activation = ACTIVATIONS[seed % 3]
        prove(
            library,
            case,
            arithmetic,
            layout,
            activation,
            bias=seed % 2 == 0,
            seed=seed,
            weight_format=FORMATS[seed // 2 % 2],
        )


@pytest.mark.parametrize("seed", range(8))
def test_random_geometry(library, seed):
    draw = random.Random(seed)
    for _ in range(5):
        prove(
            library,
            drawn(draw),
            draw.choice(sorted(ARITHMETICS)),
            draw.randint(0, 1),
            draw.choice(ACTIVATIONS),
            draw.random() < 0.5,
            draw.choice(FORMATS),
            seed=seed,
        )


@pytest.mark.parametrize("arithmetic", ARITHMETICS)
def test_every_cut_of_the_work(library, arithmetic):
    """More multiprocessors take smaller blocks (fp32 and fp64 have one) and more stretches for the weight gradient."""
    one_block = arithmetic in ("fp32", "fp64")
    case = Case(c=24, o=24, size=(12, 24)) if one_block else Case(n=2, c=72, o=72, size=(11, 24))
    splits = [prove(library, case, arithmetic, 1, multiprocessors=count)[-1] for count in (1, 20, 1000)]
    assert splits[0] == 1 < splits[-1], splits


@pytest.mark.parametrize("arithmetic", ARITHMETICS)
def test_two_runs_are_bitwise_equal(library, arithmetic):
    """Warps and lanes take turns in another order from block to block: results do not depend on it."""
    runs = [prove(library, CASES[0], arithmetic, 1, multiprocessors=1000) for _ in range(2)]
    assert all(torch.equal(a, b) for a, b in zip(runs[0][:3], runs[1][:3], strict=True))


@pytest.mark.parametrize("layout", (0, 1), ids=("nchw", "nhwc"))
def test_values_beyond_numbers_stay_where_they_belong(library, layout):
    """An infinity reaches the outputs that see it and no other: nothing is multiplied by padding."""
    case = Case(c=8, o=8, size=(4, 6))
    x, dweight = torch.ones(1, 8, 4, 6), torch.empty(8, 8, 3, 3)
    x[0, 3, 0, 5] = float("inf")
    x[0, 5, 2, 2] = float("nan")
    x = x.contiguous(memory_format=FORMATS[layout])
    weight = torch.full((8, 8, 3, 3), -1.0).contiguous(memory_format=torch.channels_last)
    y = torch.empty(1, 8, *case.output()).contiguous(memory_format=FORMATS[layout])
    expected = F.conv_transpose2d(x, weight, None, *case.arguments())
    for activation, reference in (("none", expected), ("relu", expected.relu())):
        shape = shape_of(library, case, torch.float32, layout, dweight, activation, 0.0)
        call(library.forward, shape, False, x, weight, None, y)
        assert torch.equal(y.isnan(), reference.isnan())
        assert torch.equal(y.nan_to_num(7.0), reference.nan_to_num(7.0))
    dy = torch.ones_like(y)
    dy[0, 2, 0, 0] = float("inf")
    call(library.weight_gradient, shape, False, dy, x, None, dweight, more=[ctypes.byref(ctypes.c_int64())])
    expected = torch.zeros_like(dweight)
    for ky, kx, iy, ix in itertools.product(range(3), range(3), range(4), range(6)):
        oy, ox = 2 * iy - 1 + ky, 2 * ix - 1 + kx
        if 0 <= oy < y.shape[2] and 0 <= ox < y.shape[3]:
            expected[:, :, ky, kx] += x[0, :, iy, ix, None] * dy[0, None, :, oy, ox]
    assert torch.equal(dweight.nan_to_num(1e9), expected.nan_to_num(1e9)) and not expected.isfinite().all()


def test_sizes_beyond_the_kernels_are_refused(library):
    case = Case(size=(1 << 29, 1))
    tensors = [torch.empty(1) for _ in range(2)]
    shape = shape_of(library, case, torch.float32, 0, torch.empty(8, 8, 3, 3), "none", 0.0)
    sizes = (ctypes.c_int64 * 4)()
    pointers = [ctypes.c_void_p(t.data_ptr()) for t in tensors]
    assert library.forward(shape, 0, pointers[0], pointers[0], None, pointers[1], sizes) == 801  # cudaErrorNotSupported
