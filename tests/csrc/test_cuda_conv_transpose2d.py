"""The CUDA ops of conv_transpose2d on a card: values, streams, devices, graphs, repeatability, size, accuracy."""

import contextlib
import random

import pytest
import torch
import torch.nn.functional as F

from fastgan.ops import _extension

from .geometry import ACTIVATIONS, ARITHMETICS, CASES, Case, activated, check, drawn, passes

FORMATS = {"nchw": torch.contiguous_format, "nhwc": torch.channels_last}
# The two upsampling layers of the ResNet generator.
LAYERS = {"u128": Case(c=256, o=128, size=(64, 64)), "u64": Case(c=128, o=64, size=(128, 128))}

pytestmark = [
    pytest.mark.skipif(not torch.cuda.is_available(), reason="torch finds no CUDA device"),
    pytest.mark.skipif(not _extension.build_info().get("cuda"), reason="the extension was built without CUDA"),
]


@contextlib.contextmanager
def tf32_allowed(allowed):
    # The context manager: torch's own test material forbids to assign the flag.
    with torch.backends.cudnn.flags(enabled=torch.backends.cudnn.enabled, allow_tf32=allowed):
        yield


def tensors(case, dtype, layout, seed=0, device="cuda"):
    """x, weight, bias and dy of a case, random."""
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape):
        values = torch.randn(shape, generator=generator, dtype=torch.float64).to(device, dtype)
        return values.contiguous(memory_format=FORMATS[layout]) if len(shape) == 4 else values

    x, weight = normal(case.n, case.c, *case.size), normal(case.c, case.o // case.groups, *case.kernel)
    return x, weight, normal(case.o), normal(case.n, case.o, *case.output()).contiguous(memory_format=format_of(x))


def format_of(t):
    """The layout as the ops read it: contiguous where a tensor is both."""
    return torch.contiguous_format if t.is_contiguous() else torch.channels_last


def run(ops, case, x, weight, bias, dy, activation="none"):
    """(y, dx, dweight) of the compiled ops."""
    geometry = case.stride, case.padding, case.output_padding, case.groups, case.dilation
    channels_last = format_of(weight) == torch.channels_last
    return (
        ops.conv_transpose2d(x, weight, bias, *geometry, activation, 0.3),
        ops.conv_transpose2d_input_gradient(dy, weight, *geometry),
        ops.conv_transpose2d_weight_gradient(dy, x, case.kernel, channels_last, *geometry),
    )


def prove(ops, case, arithmetic, layout, activation="none", bias=True, seed=0):
    dtype, tf32, rounding, sum_rounding = ARITHMETICS[arithmetic]
    x, weight, b, dy = tensors(case, dtype, layout, seed)
    b = b if bias else None
    with tf32_allowed(tf32):
        actual = run(ops, case, x, weight, b, dy, activation)
    wide = [None if t is None else t.cpu().double().contiguous() for t in (x, weight, b, dy)]
    expected = list(passes(case, *wide))
    magnitudes = passes(case, *(None if t is None else t.abs() for t in wide))
    expected[0] = activated(expected[0], activation, 0.3)
    for name, mine, theirs, magnitude in zip(("y", "dx", "dweight"), actual, expected, magnitudes, strict=True):
        assert mine.dtype == dtype
        assert mine.is_contiguous(memory_format=format_of(weight if name == "dweight" else x))
        check(mine.cpu(), theirs, magnitude, rounding, sum_rounding, f"{name} of {case}")


@pytest.mark.parametrize("layout", FORMATS)
@pytest.mark.parametrize("arithmetic", ARITHMETICS)
def test_all_passes(ops, arithmetic, layout):
    for seed, case in enumerate(CASES):
        prove(ops, case, arithmetic, layout, ACTIVATIONS[seed % 3], bias=seed % 2 == 0, seed=seed)


@pytest.mark.parametrize("seed", range(20))
def test_random_geometry(ops, seed):
    draw = random.Random(seed)
    for _ in range(10):
        prove(
            ops,
            drawn(draw),
            draw.choice(sorted(ARITHMETICS)),
            draw.choice(sorted(FORMATS)),
            draw.choice(ACTIVATIONS),
            draw.random() < 0.5,
            seed,
        )


def test_empty_batch(ops):
    case = Case(n=0)
    y, dx, dweight = run(ops, case, *tensors(case, torch.float32, "nhwc"))
    assert y.shape == (0, 8, *case.output()) and dx.shape == (0, 8, 4, 5)
    assert not dweight.any()


def test_tf32_follows_the_flag_of_torch(ops):
    """The flag of convolutions, by its old and its new name; that of matrix products has no say."""
    case = Case(c=64, o=64, size=(16, 16))
    arguments = tensors(case, torch.float32, "nhwc")
    results = []
    for allowed in (False, True):
        with tf32_allowed(allowed):
            results.append(run(ops, case, *arguments))
    for exact, rounded in zip(*results, strict=True):
        assert not torch.equal(exact, rounded)
    products, convolutions = torch.backends.cuda.matmul, torch.backends.cudnn.conv
    before = products.fp32_precision, convolutions.fp32_precision
    try:
        for precision, other, expected in (("ieee", "tf32", results[0]), ("tf32", "ieee", results[1])):
            convolutions.fp32_precision, products.fp32_precision = precision, other
            for mine, theirs in zip(run(ops, case, *arguments), expected, strict=True):
                assert torch.equal(mine, theirs), precision
    finally:
        products.fp32_precision, convolutions.fp32_precision = before


@pytest.mark.parametrize("n", (1, 16))
@pytest.mark.parametrize("layer", LAYERS)
@pytest.mark.parametrize("arithmetic", ("bf16", "fp16", "tf32", "fp32"))
def test_as_accurate_as_cudnn(ops, arithmetic, layer, n):
    """Our largest error is at most twice cuDNN's, all three passes, at the layers of the generator."""
    dtype, tf32, *_ = ARITHMETICS[arithmetic]
    case = Case(n=n, **{name: getattr(LAYERS[layer], name) for name in ("c", "o", "size")})
    x, weight, b, dy = tensors(case, dtype, "nhwc")
    weight = weight / (9 * case.c) ** 0.5
    with tf32_allowed(tf32):
        ours, theirs = run(ops, case, x, weight, b, dy), passes(case, x, weight, b, dy)
    wide = passes(case, *(t.double() for t in (x, weight, b, dy)))
    for mine, stock, exact in zip(ours, theirs, wide, strict=True):
        scale = exact.abs().max()
        error, reference = (mine - exact).abs().max() / scale, (stock - exact).abs().max() / scale
        assert error <= 2 * reference + 1e-6, f"error {error:.3g}, cuDNN's {reference:.3g}"


@pytest.mark.parametrize("arithmetic", ARITHMETICS)
def test_two_runs_are_bitwise_equal(ops, arithmetic):
    dtype, tf32, *_ = ARITHMETICS[arithmetic]
    case = Case(n=4, c=128, o=64, size=(64, 64))
    arguments = tensors(case, dtype, "nhwc")
    with tf32_allowed(tf32):
        first = run(ops, case, *arguments)
        for _ in range(5):
            assert all(torch.equal(a, b) for a, b in zip(first, run(ops, case, *arguments), strict=True))


def test_runs_on_the_current_stream(ops):
    """The inputs are ready late on a side stream: kernels of another stream would read them too early."""
    case = LAYERS["u64"]
    arguments = tensors(case, torch.bfloat16, "nhwc")
    expected = run(ops, case, *arguments)
    late = [torch.zeros_like(t) for t in arguments]
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        torch.cuda._sleep(50_000_000)
        for target, source in zip(late, arguments, strict=True):
            target.copy_(source)
        actual = run(ops, case, *late)
    torch.cuda.current_stream().wait_stream(stream)
    assert all(torch.equal(a, b) for a, b in zip(actual, expected, strict=True))


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two CUDA devices")
def test_runs_on_the_device_of_its_input(ops):
    case = Case(c=32, o=32)
    expected = run(ops, case, *tensors(case, torch.float32, "nhwc", device="cuda:0"))
    with torch.cuda.device(0):
        actual = run(ops, case, *tensors(case, torch.float32, "nhwc", device="cuda:1"))
        assert torch.cuda.current_device() == 0
    assert all(a.device.index == 1 and torch.equal(a.cpu(), b.cpu()) for a, b in zip(actual, expected, strict=True))


@pytest.mark.parametrize("layout", FORMATS)
@pytest.mark.parametrize("dtype", (torch.bfloat16, torch.float32))
def test_is_captured_in_a_graph(ops, dtype, layout):
    case = Case(n=2, c=128, o=64, size=(32, 32))
    static = tensors(case, dtype, layout)
    run(ops, case, *static)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        captured = run(ops, case, *static)
    for seed in (1, 2):
        fresh = tensors(case, dtype, layout, seed)
        for target, source in zip(static, fresh, strict=True):
            target.copy_(source)
        graph.replay()
        assert all(torch.equal(a, b) for a, b in zip(captured, run(ops, case, *fresh), strict=True))


def test_gradients_of_infinite_values_stay_where_they_belong(ops):
    """An infinity in dy reaches the one pixel and the one tap that see it."""
    case = Case(c=16, o=16, size=(8, 8))
    x, weight, b, dy = tensors(case, torch.bfloat16, "nhwc")
    dy[0, 3, 0, 0] = float("inf")
    _, dx, dweight = run(ops, case, x, weight, b, dy)
    assert dx[0, :, 1:].isfinite().all() and dx[0, :, :, 1:].isfinite().all() and not dx[0, :, 0, 0].isfinite().all()
    assert dweight[:, 3, 1, 1].isinf().all()
    dweight[:, 3, 1, 1] = 0
    assert dweight.isfinite().all()


@pytest.mark.parametrize("layout", FORMATS)
def test_more_than_two_to_the_31_elements(ops, layout):
    """The last rows of a result of 2.15e9 elements, and the gradients of such an output, against its border's own."""
    if torch.cuda.mem_get_info()[0] < 20e9:
        pytest.skip("needs 20 GB of free device memory")
    case = Case(c=8, o=64, size=(2900, 2900))
    x, weight, b, _ = tensors(Case(c=8, o=64, size=(1, 1)), torch.bfloat16, layout)
    x = torch.randn(1, 8, 2900, 2900, dtype=torch.bfloat16, device="cuda").contiguous(memory_format=FORMATS[layout])
    dy = torch.zeros(1, 64, *case.output(), dtype=torch.bfloat16, device="cuda")
    dy = dy.contiguous(memory_format=FORMATS[layout])
    assert dy.numel() > 2**31
    dy[:, :, -16:] = torch.randn(1, 64, 16, dy.shape[3], dtype=torch.bfloat16, device="cuda")
    y, dx, dweight = run(ops, case, x, weight, b, dy)
    part = Case(c=8, o=64, size=(12, 2900))  # the last 16 rows of y see the last 9 of x
    wide = [t.double().contiguous() for t in (x[:, :, -12:], weight, b, dy[:, :, -24:])]
    expected = passes(part, *wide)
    magnitudes = passes(part, *(t.abs() for t in wide))
    check(y[:, :, -16:], expected[0][:, :, -16:], magnitudes[0][:, :, -16:], 2**-8, 1e-6, "y")
    check(dx[:, :, -8:], expected[1][:, :, -8:], magnitudes[1][:, :, -8:], 2**-8, 1e-6, "dx")
    assert not dx[:, :, :-9].any()
    check(dweight, expected[2], magnitudes[2], 2**-8, 1e-5, "dweight")


def test_is_torchs_own_operator(ops):
    """The definition itself, once on the card: torch's transposed convolution of the same tensors in float64."""
    case = LAYERS["u64"]
    x, weight, b, dy = tensors(case, torch.float64, "nhwc")
    actual = run(ops, case, x, weight, b, dy)
    for mine, theirs in zip(actual, passes(case, x, weight, b, dy), strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-12, atol=1e-11)
    y = F.leaky_relu(F.conv_transpose2d(x, weight, b, *case.arguments()), 0.3)
    torch.testing.assert_close(run(ops, case, x, weight, b, dy, "leaky_relu")[0], y, rtol=1e-12, atol=1e-11)
