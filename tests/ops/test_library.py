"""The ops as PyTorch's machinery sees them: torch.library.opcheck, torch.compile, torch.export, autocast."""

import itertools
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from torch.autograd import forward_ad

import fastgan
from fastgan import functional as ours
from fastgan.ops import _dispatch

from .common import KERNELS, device_of, draw, instance_norm, slow

OPS = torch.ops.fastgan
NORMS = ("batch_norm", "batch_norm_apply", "batch_norm_backward", "instance_norm", "instance_norm_backward")


def serving(backend, op, dtype=torch.float32):
    """The device of ``backend``, or a skip with its reason."""
    device = device_of(backend)
    reason = _dispatch.refusal(op, backend, device, dtype)
    if reason:
        pytest.skip(f"{op} by {backend}: {reason}")
    return device


@pytest.mark.parametrize("layout", ["nchw", "nhwc"])
@pytest.mark.parametrize(
    ("op", "backend"),
    [*itertools.product(NORMS + ("pointwise_loss", "pad", "fold"), KERNELS),
     *itertools.product(("conv_transpose2d", "conv_transpose2d_gradients"), ("plain", "cpp")),
     *itertools.product(("reflected_convolution",), ("plain", "triton", "winograd")),
     ("reflected_convolution_and_moments", "triton")],
)  # fmt: skip
def test_opcheck(op, backend, layout):
    convolutions = {"conv": "conv_transpose2d", "refl": "reflection_pad_conv2d"}
    device = serving(backend, convolutions.get(op[:4], "reflection_pad2d"))
    x = draw((2, 3, 4, 5), layout, dtype=torch.float32, device=device)
    wide = draw((2, 3, 8, 9), layout, dtype=torch.float32, device=device, seed=1)
    channels = draw((3,), dtype=torch.float32, device=device, seed=2)
    inside = wide[:, :, 1:5, 1:6]
    weight = draw((3, 2, 3, 3), dtype=torch.float32, device=device)
    geometry = ((2, 2), (1, 1), (1, 1), 1, (1, 1))
    wide_dy = draw((2, 2, 8, 10), layout, dtype=torch.float32, device=device, seed=3)
    sums = statistics(x)
    how = ((1, 1 if backend == "winograd" else 2), (1, 2), (1, 1))
    outer = draw((2, 3, 4, 6 // how[0][1] + 1), layout, dtype=torch.float32, device=device, seed=3)
    filters = draw((3, 3, 3, 3), "nhwc", dtype=torch.float32, device=device, seed=4)
    nhwc = layout == "nhwc"
    square = draw((1, 9, 8, 8), layout, dtype=torch.float32, device=device)
    broad = draw((9, 9, 3, 3), "nhwc", dtype=torch.float32, device=device)
    batch = [t[0].clone() for t in sums]
    moments = torch.zeros((2, 2, 4, 3) if nhwc else (2, 2, 3, 4), device=device)
    cases = {
        "batch_norm": [
            (OPS.batch_norm, (x, channels, channels, 1e-5, "relu", 0.2, backend)),
            (OPS.batch_norm, (x[:, :, :1, :1].contiguous(), None, None, 1e-5, "none", 0.2, backend)),
        ],
        "batch_norm_apply": [(OPS.batch_norm_apply, (x, *batch, channels, None, "leaky_relu", 0.2, backend))],
        "batch_norm_backward": [
            (OPS.batch_norm_backward, (x, 2 * x, *batch, channels, None, True, 1e-5, "leaky_relu", 0.2, backend)),
            (OPS.batch_norm_backward, (x, 2 * x, *batch, None, channels, False, 0.0, "none", 0.2, backend)),
        ],
        "instance_norm": [
            (OPS.instance_norm, (x, None, channels, channels, inside, 1e-5, "relu", 0.2, 2, backend)),
            (OPS.instance_norm, (x, moments, None, None, None, 1e-5, "none", 0.2, 0, backend)),
        ],
        "instance_norm_backward": [
            (
                OPS.instance_norm_backward,
                (wide, None, x, *sums, channels, None, 1e-5, "leaky_relu", 0.2, 2, True, backend),
            ),
            (OPS.instance_norm_backward, (wide, x, x, *sums, channels, None, 1e-5, "relu", 0.2, 2, False, backend)),
            (OPS.instance_norm_backward, (x, None, x, *sums, None, channels, 1e-5, "none", 0.2, 0, False, backend)),
        ],
        "pointwise_loss": [
            (OPS.pointwise_loss, (x, None, 1.0, "bce", "mean", True, backend)),
            (OPS.pointwise_loss, (x, 2 * x, 0.0, "l1", "none", True, backend)),
            (OPS.pointwise_loss, (x, 2 * x, 0.0, "mse", "sum", False, backend)),
        ],
        "pad": [(OPS.reflection_pad2d, (x, 1, 2, 3, 0, backend))],
        "fold": [(OPS.reflection_pad2d_backward, (wide, 2, 2, 2, 2, backend))],
        "reflected_convolution": [
            (OPS.reflection_pad_conv2d, (x, filters, channels, *how, backend)),
            (OPS.reflection_pad_conv2d_input_gradient, (outer, filters, (4, 5), *how, nhwc, backend)),
            (OPS.reflection_pad_conv2d_weight_gradient, (outer, x, (3, 3), *how, True, backend)),
        ],
        "reflected_convolution_and_moments": [
            (OPS.reflection_pad_conv2d_and_moments, (square, broad, None, (1, 1), (1, 1), (1, 1), 64, backend)),
        ],
        "conv_transpose2d": [
            (OPS.conv_transpose2d, (x, weight, channels[:2], *geometry, "relu", 0.2, backend)),
            (OPS.conv_transpose2d, (x, weight, None, *geometry, "none", 0.2, backend)),
        ],
        "conv_transpose2d_gradients": [
            (OPS.conv_transpose2d_input_gradient, (wide_dy, weight, layout == "nhwc", *geometry, backend)),
            (OPS.conv_transpose2d_weight_gradient, (wide_dy, x, (3, 3), layout == "nhwc", *geometry, backend)),
        ],
    }
    utilities = ["test_schema", "test_faketensor"] if slow(backend) else torch.library._OPCHECK_DEFAULT_UTILS
    for function, arguments in cases[op]:
        torch.library.opcheck(function.default, arguments, test_utils=utilities)


def statistics(x):
    wide = x.double()
    return wide.mean((2, 3)).float(), (wide.var((2, 3), correction=0) + 1e-5).rsqrt().float()


def norm(x, w, b):
    return instance_norm(x, weight=w, bias=b, activation="relu", residual=x, halo=1)


def running(x, w, b):
    mean, var = torch.zeros_like(w), torch.ones_like(w)
    y = ours.instance_norm(x, mean, var, w, b, momentum=0.5, activation="leaky_relu")
    return y, mean, var


def batch(x, w, b):
    mean, var = torch.zeros_like(w), torch.ones_like(w)
    y = ours.batch_norm(x, mean, var, w, b, True, activation="relu")
    return ours.batch_norm(y, mean, var, w, b, activation="leaky_relu") + y, mean, var


def pad_conv(x, w, b):
    weight = w[:, None, None, None] * x[:1, :, :2, :2]
    return ours.reflection_pad_conv2d(ours.reflection_pad2d(x, (1, 0, 2, 1)), weight, b, padding=1)


def conv_transpose(x, w, b):
    weight = w[:, None, None, None] * x[:1, :, :3, :3].transpose(0, 1)
    return ours.conv_transpose2d(x, weight, b[:1], 2, 1, output_size=(7, 10), activation="leaky_relu")


def losses(x, w, b):
    label = ours.mse_loss(x, 1.0) + ours.bce_with_logits(x, 0.9, reduction="sum") + ours.l1_loss(x, 0.5)
    return label + ours.l1_loss(x, 2 * x, reduction="none").sum() + ours.bce_with_logits(x, torch.sigmoid(x))


PROGRAMS = {f.__name__: f for f in (norm, running, batch, pad_conv, conv_transpose, losses)}


def run(program, tensors):
    leaves = [t.detach().clone(memory_format=torch.preserve_format).requires_grad_() for t in tensors]
    results = program(*leaves)
    results = results if isinstance(results, tuple) else (results,)
    grads = torch.autograd.grad(results[0].float().square().mean(), leaves, allow_unused=True)
    return [*results, *(g if g is not None else torch.zeros(()) for g in grads)]


def assert_alike(results, expected):
    for result, other in zip(results, expected, strict=True):
        assert result.dtype == other.dtype and result.stride() == other.stride()
        torch.testing.assert_close(result, other, rtol=2e-3, atol=2e-3 if result.dtype == torch.bfloat16 else 1e-5)


@pytest.fixture
def fresh_compiler():
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


@pytest.mark.parametrize("autocast", [False, True], ids=["", "autocast"])
@pytest.mark.parametrize("backend", ["auto", "reference", "plain", "cpp", "triton"])
@pytest.mark.parametrize("name", PROGRAMS)
def test_compiles_without_graph_breaks(name, backend, autocast, fresh_compiler):
    """Forward and backward, equal to eager with the same backend; the dtypes under autocast are those of eager."""
    if backend == "triton":
        if autocast or name not in ("norm", "losses"):
            pytest.skip("the interpreter is slow; what this adds does not depend on the backend")
        serving(backend, "instance_norm")
    if backend == "cpp":
        if name != "conv_transpose":
            pytest.skip("the automatic choice is the same")
        serving(backend, "conv_transpose2d")
    with fastgan.backend(backend):
        x = draw((2, 3, 4, 5), "nhwc", dtype=torch.float32, device=device_of(backend))
        tensors = (x, 1 + 0.1 * draw((3,), seed=1).to(x), draw((3,), seed=2).to(x))
        with torch.autocast(x.device.type, dtype=torch.bfloat16, enabled=autocast):
            expected = run(PROGRAMS[name], tensors)
            results = run(torch.compile(PROGRAMS[name], fullgraph=True, backend="aot_eager"), tensors)
        assert_alike(results, expected)


def test_compiles_where_the_compiler_does_not_know_of_autocast(monkeypatch, fresh_compiler):
    """As that of torch 2.11."""
    monkeypatch.setattr(torch.amp, "is_autocast_available", torch._dynamo.disable(torch.amp.is_autocast_available))
    x = draw((1, 2, 4, 5)).float()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        y = torch.compile(lambda x: ours.conv_transpose2d(x, x.transpose(0, 1)), fullgraph=True, backend="eager")(x)
    assert y.dtype == torch.bfloat16


@pytest.mark.parametrize("layout", ["nchw", "nhwc"])
def test_compiles_with_inductor(layout, fresh_compiler):
    """The default compiler keeps the strides that the kernels ask for, with a residual inside a padded tensor."""
    wide = draw((2, 3, 6, 7), layout).float()

    def program(x, w, b):
        return instance_norm(x, weight=w, bias=b, residual=wide[:, :, 1:-1, 1:-1], activation="relu", halo=1)

    with fastgan.backend("plain"):
        tensors = (draw((2, 3, 4, 5), layout).float(), draw((3,), seed=1).float(), draw((3,), seed=2).float())
        assert_alike(run(torch.compile(program, fullgraph=True), tensors), run(program, tensors))


def test_compiles_with_changing_shapes(fresh_compiler):
    with fastgan.backend("plain"):
        program = lambda x, w, b: conv_transpose_any(norm(x, w, b), w)  # noqa: E731
        compiled = torch.compile(program, fullgraph=True, backend="aot_eager", dynamic=True)
        parameters = (draw((3,), seed=1).float(), draw((3,), seed=2).float())
        for shape in ((2, 3, 4, 5), (1, 3, 7, 6), (3, 3, 5, 9)):
            tensors = (draw(shape).float(), *parameters)
            assert_alike(run(compiled, tensors), run(program, tensors))


def conv_transpose_any(x, w):
    return ours.conv_transpose2d(x, w.view(3, 1, 1, 1).expand(3, 2, 3, 3), None, 2, 1, 1)


def test_compiled_code_follows_the_backend(fresh_compiler):
    """The choice is guarded: code that was compiled for one backend is not run for another."""
    x = draw((1, 2, 4, 5)).float()
    calls = []

    def spy(gm, inputs):
        calls.append([node.target for node in gm.graph.nodes if node.op == "call_function"])
        return gm.forward

    compiled = torch.compile(lambda x: ours.mse_loss(x, 1.0), fullgraph=True, backend=spy)
    for name, count in (("reference", 1), ("plain", 2), ("reference", 2), ("plain", 2)):
        with fastgan.backend(name):
            torch.testing.assert_close(compiled(x), ours.mse_loss(x, 1.0))
        assert len(calls) == count


def test_compiled_code_follows_the_backend_of_its_thread(fresh_compiler):
    """What one thread compiled inside a block is not run by another thread outside of it, nor the other way round."""
    x = draw((1, 2, 4, 5)).float()
    ran = []

    def spy(gm, inputs):
        plain = any("l1_loss" in str(node.target) for node in gm.graph.nodes)
        return lambda *args: ran.append("reference" if plain else "op") or gm.forward(*args)

    compiled = torch.compile(lambda x: ours.l1_loss(x, 1.0), fullgraph=True, backend=spy)
    expected = ours.l1_loss(x, 1.0)

    def work(*names):
        for name in names:
            with fastgan.backend(name):
                torch.testing.assert_close(compiled(x), expected)

    work("plain", "reference")
    with fastgan.backend("reference"), ThreadPoolExecutor(1) as pool:
        pool.submit(work, "plain", "reference", "plain").result()
        torch.testing.assert_close(compiled(x), expected)
    assert ran == ["op", "reference", "op", "reference", "op", "reference"]


def test_compiles_with_a_block_inside(fresh_compiler):
    def program(x):
        with fastgan.backend("plain"):
            y = ours.mse_loss(x, 1.0)
            with fastgan.backend(mse_loss="reference"):
                y = y + ours.mse_loss(x, 2.0)
            return y + ours.mse_loss(x, 3.0)

    x = draw((1, 2, 4, 5)).float()
    seen = []

    def spy(gm, inputs):
        seen.extend(str(node.target) for node in gm.graph.nodes)
        return gm.forward

    torch.testing.assert_close(torch.compile(program, fullgraph=True, backend=spy)(x), program(x))
    assert sum("mse_loss" in target for target in seen) == 1
    assert all(_dispatch.forced(op) is None for op in _dispatch.OPS) and not _dispatch._scope.compiled


def test_exports(fresh_compiler):
    class Block(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.norm = fastgan.nn.InstanceNorm2d(3, affine=True, activation="relu")
            self.convolution = fastgan.nn.ReflectionPadConv2d(3, 3, 3, padding=1)
            self.up = fastgan.nn.ConvTranspose2d(3, 2, 3, 2, 1, 1)

        def forward(self, x):
            return self.up(self.norm(self.convolution(x), residual=x))

    x = draw((2, 3, 4, 5)).float()
    for backend in ("reference", "plain"):
        with fastgan.backend(backend), torch.no_grad():
            block = Block()
            program = torch.export.export(block, (x,))
            torch.testing.assert_close(program.module()(x), block(x))
            operators = {str(node.target) for node in program.graph.nodes}
            assert any(name.startswith("fastgan.") for name in operators) == (backend == "plain")


STOCK = torch.nn.functional
AUTOCAST = {
    "batch_norm": (
        lambda x: ours.batch_norm(x, None, None, training=True),
        lambda x: STOCK.batch_norm(x, None, None, training=True),
    ),
    "instance_norm": (lambda x: ours.instance_norm(x), lambda x: STOCK.instance_norm(x)),
    "reflection_pad_conv2d": (
        lambda x: ours.reflection_pad_conv2d(x, x[:, :, :3, :3], padding=1),
        lambda x: STOCK.conv2d(STOCK.pad(x, (1,) * 4, mode="reflect"), x[:, :, :3, :3]),
    ),
    "conv_transpose2d": (
        lambda x: ours.conv_transpose2d(x, x.transpose(0, 1), None, 2),
        lambda x: STOCK.conv_transpose2d(x, x.transpose(0, 1), None, 2),
    ),
    "l1_loss": (lambda x: ours.l1_loss(x, 1.0), lambda x: STOCK.l1_loss(x, torch.ones_like(x))),
    "mse_loss": (lambda x: ours.mse_loss(x, 1.0), lambda x: STOCK.mse_loss(x, torch.ones_like(x))),
    "bce_with_logits": (
        lambda x: ours.bce_with_logits(x, 1.0),
        lambda x: STOCK.binary_cross_entropy_with_logits(x, torch.ones_like(x)),
    ),
    "unreduced": (lambda x: ours.l1_loss(x, x, reduction="none"), lambda x: STOCK.l1_loss(x, x, reduction="none")),
}


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64], ids=str)
@pytest.mark.parametrize("backend", ["auto", "reference", "plain", "cpp"])
@pytest.mark.parametrize("name", AUTOCAST)
def test_autocast_gives_the_dtypes_of_stock(name, backend, dtype):
    if backend == "cpp" and not _dispatch.EXTENSION_LOADED:
        pytest.skip(_dispatch.EXTENSION_STATUS)
    program, stock = AUTOCAST[name]
    with fastgan.backend(backend):
        x = draw((2, 3, 4, 5), dtype=dtype).requires_grad_()
        with torch.autocast("cpu", dtype=torch.bfloat16):
            y, expected = program(x), stock(x)
        assert y.dtype == expected.dtype
        (dx,) = torch.autograd.grad(y.float().sum(), x)
        (other,) = torch.autograd.grad(expected.float().sum(), x)
        assert dx.dtype == dtype
        torch.testing.assert_close(y, expected, rtol=0.02, atol=0.02)
        torch.testing.assert_close(dx, other, rtol=0.05, atol=0.05)


@pytest.mark.parametrize("strict", [False, True], ids=["", "strict"])
@pytest.mark.parametrize("channels", [3, 64])
@pytest.mark.parametrize(
    "name", ["instance_norm", "batch_norm", "reflection_pad_conv2d", "conv_transpose2d", "l1_loss"]
)
def test_exports_with_sizes_that_vary(name, channels, strict, fresh_compiler):
    """One program for images of any batch and size: no check and no choice of a backend fixes those of the example."""
    layer = {
        "instance_norm": fastgan.nn.InstanceNorm2d(channels, affine=True, activation="relu"),
        "batch_norm": fastgan.nn.BatchNorm2d(channels, track_running_stats=False, activation="relu"),
        "reflection_pad_conv2d": fastgan.nn.ReflectionPadConv2d(channels, channels, 3, padding=1),
        "conv_transpose2d": fastgan.nn.ConvTranspose2d(channels, channels, 3, 2, 1),
        "l1_loss": fastgan.nn.L1Loss(reduction="none"),
    }[name]
    count = 2 if name == "l1_loss" else 1
    vary = {0: torch.export.Dim.DYNAMIC, 2: torch.export.Dim.DYNAMIC, 3: torch.export.Dim.DYNAMIC}
    program = torch.export.export(
        layer, (draw((2, channels, 8, 9), dtype=torch.float32),) * count, dynamic_shapes=(vary,) * count, strict=strict
    ).module()
    for batch, height, width in ((1, 40, 40), (3, 4, 7)):
        images = (draw((batch, channels, height, width), dtype=torch.float32),) * count
        torch.testing.assert_close(program(*images), layer(*images), rtol=1e-4, atol=1e-4)


def test_shapes_on_the_meta_device():
    """As with stock layers, a model's shapes can be worked out without memory."""
    x = torch.empty(2, 3, 4, 5, device="meta")
    assert instance_norm(x, activation="relu", halo=2).shape == (2, 3, 8, 9)
    assert ours.batch_norm(x, None, None, training=True, activation="relu").shape == (2, 3, 4, 5)
    assert ours.reflection_pad_conv2d(x, torch.empty(4, 3, 3, 3, device="meta"), padding=1).shape == (2, 4, 4, 5)
    assert ours.conv_transpose2d(x, torch.empty(3, 4, 3, 3, device="meta"), None, 2).shape == (2, 4, 9, 11)
    assert ours.l1_loss(x, 1.0).shape == ours.bce_with_logits(x, x).shape == ()


DERIVED = {
    "instance_norm": lambda x: ours.instance_norm(x, activation="relu").square(),
    "reflection_pad2d": lambda x: ours.reflection_pad2d(x, 1).square(),
    "mse_loss": lambda x: ours.mse_loss(x, 1.0),
}


@pytest.mark.parametrize("grad_mode", [True, False])
@pytest.mark.parametrize("name", DERIVED)
def test_forward_mode_is_refused(name, grad_mode):
    """A tangent that would be lost is an error, with gradients switched off as well."""
    with fastgan.backend("plain"), torch.set_grad_enabled(grad_mode), forward_ad.dual_level():
        x = forward_ad.make_dual(draw((2, 3, 4, 5)), draw((2, 3, 4, 5)))
        with pytest.raises(NotImplementedError, match=r"has no rule for forward-mode differentiation \(jvp\): inside"):
            DERIVED[name](x)


@pytest.mark.parametrize("name", DERIVED)
def test_vmap_is_refused_with_its_remedy(name):
    x = draw((2, 2, 3, 4, 5))
    with fastgan.backend("plain"), pytest.raises(NotImplementedError, match=r"has no rule for vmap: inside"):
        torch.func.vmap(DERIVED[name])(x)
    with fastgan.backend("reference"):
        torch.testing.assert_close(torch.func.vmap(DERIVED[name])(x), torch.stack([DERIVED[name](each) for each in x]))


CONVOLUTIONS = {
    "conv2d": lambda x, w: ours.conv2d(x, w, None, 2, 1),
    "conv2d by columns": lambda x, w: ours.conv2d(x.repeat(1, 8, 1, 1), w.repeat(1, 8, 2, 2)[:3], None, 1, 3),
    "conv_transpose2d": lambda x, w: ours.conv_transpose2d(x, w, None, 2, 1, activation="relu"),
    "reflection_pad_conv2d": lambda x, w: ours.reflection_pad_conv2d(x, w, None, 1, 1),
}


@pytest.mark.parametrize("over", [(0, None), (None, 0), (0, 0)], ids=["images", "weights", "both"])
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("name", CONVOLUTIONS)
def test_vmap_of_convolutions_by_the_reference(name, layout, over):
    """Over images, over weights and over the gradients of single samples; conv2d in the automatic choice, too.

    The numbers are whole and small, of which float32 gives exact sums in any order."""
    images = draw((6, 4, 6, 5), dtype=torch.float32).sign().contiguous(memory_format=layout).unflatten(0, (3, 2))
    weights = draw((3, 4, 4, 3, 3), dtype=torch.float32).sign()
    function, given = (
        CONVOLUTIONS[name],
        (images if over[0] == 0 else images[0], weights if over[1] == 0 else weights[0]),
    )
    gradient = torch.func.grad(lambda w, x: function(x, w).square().sum())
    for backend in ("reference", "auto") if name.startswith("conv2d") else ("reference",):
        with fastgan.backend(backend):
            y = torch.func.vmap(function, in_dims=over)(*given)
            dw = torch.func.vmap(gradient, in_dims=over[::-1])(*given[::-1])
            samples = [[t[i] if d == 0 else t for t, d in zip(given, over)] for i in range(3)]
            assert torch.equal(y, torch.stack([function(x, w) for x, w in samples]))
            assert torch.equal(dw, torch.stack([gradient(w, x) for x, w in samples]))


@pytest.mark.parametrize("name", DERIVED)
def test_functional_gradients(name):
    x = draw((2, 3, 4, 5), dtype=torch.float64)

    def loss(x):
        return DERIVED[name](x).sum()

    with fastgan.backend("reference"):
        expected = torch.func.grad(loss)(x)
    with fastgan.backend("plain"):
        torch.testing.assert_close(torch.func.grad(loss)(x), expected)
