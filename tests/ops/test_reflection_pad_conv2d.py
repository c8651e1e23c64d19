"""reflection_pad_conv2d: every backend against stock torch, layouts, all orders of differentiation, the choice."""

import functools
import json

import hypothesis
import hypothesis.strategies as st
import pytest
import torch

import fastgan
from fastgan.functional import reflection_pad_conv2d
from fastgan.ops import _dispatch, _table
from fastgan.ops import reflection_pad_conv2d as module
from fastgan.ops.reflection_pad_conv2d import reference

from .common import (
    LAYOUTS,
    assert_accurate,
    assert_same,
    dense_layout,
    draw,
    gradients,
    instance_norm,
    slow,
    using,
    watch,
)

using = functools.partial(using, "reflection_pad_conv2d")
PRODUCTS = ("plain", "triton")  # the implicit products
BACKENDS = ("reference", "halo", *PRODUCTS)
DTYPES = (torch.float32, torch.bfloat16, torch.float16, torch.float64)
NAMES = ("dx", "dweight", "dbias")


def operands(shape, outputs, kernel, layout="nchw", dtype=torch.float64, device="cpu", groups=1, weights="nchw"):
    weight = draw((outputs, shape[1] // groups, *kernel), weights, dtype=dtype, device=device, seed=1)
    return draw(shape, layout, dtype=dtype, device=device), weight, draw((outputs,), dtype=dtype, device=device, seed=2)


def check(tensors, stride, padding, dilation, groups=1):
    """y and its gradients, as near to fp64 as stock torch in the same dtype."""
    ours = lambda x, w, b: reflection_pad_conv2d(x, w, b, stride, padding, dilation, groups)  # noqa: E731
    stock = lambda x, w, b: reference(x, w, b, stride, padding, dilation, groups)  # noqa: E731
    y, grads = gradients(ours, tensors)
    same, same_grads = gradients(stock, tensors)
    exact, exact_grads = gradients(stock, tuple(t.double() for t in tensors))
    assert_accurate(y, same, exact, "y")
    for name, *results in zip(NAMES, grads, same_grads, exact_grads):
        assert_accurate(*results, name)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("backend", BACKENDS)
def test_convolution(backend, dtype):
    with using(backend, dtype) as device:
        for layout, weights, stride, padding, dilation, groups in (
            ("nchw", "nchw", (1, 1), (1, 1), (1, 1), 1),
            ("nhwc", "nhwc", (1, 1), (3, 3), (1, 1), 1),
            ("nhwc", "nchw", (2, 1), (0, 2), (1, 2), 2),
            ("interior", "nhwc", (2, 2), (5, 4), (1, 1), 1),
            ("nchw", "transposed", (1, 1), (0, 0), (1, 1), 4),
        ):
            if backend in PRODUCTS and groups > 1 or slow(backend) and layout == "interior":
                continue
            tensors = operands((2, 4, 6, 5), 4, (3, 3), layout, dtype, device, groups, weights)
            check(tensors, stride, padding, dilation, groups)


geometries = hypothesis.given(
    shape=st.tuples(st.integers(0, 2), st.sampled_from((1, 2, 9)), st.integers(1, 6), st.integers(1, 6)),
    outputs=st.sampled_from((1, 3, 9)),
    kernel=st.tuples(st.integers(1, 4), st.integers(1, 4)),
    layout=st.sampled_from(LAYOUTS),
    weights=st.sampled_from(("nchw", "nhwc", "sliced", "transposed")),
    stride=st.tuples(st.integers(1, 3), st.integers(1, 3)),
    padding=st.tuples(st.integers(0, 5), st.integers(0, 5)),
    dilation=st.tuples(st.integers(1, 2), st.integers(1, 2)),
    dtype=st.sampled_from((torch.float32, torch.bfloat16, torch.float64)),
)


def check_any_input(backend, shape, outputs, kernel, layout, weights, stride, padding, dilation, dtype):
    padding = tuple(min(pad, side - 1) for pad, side in zip(padding, shape[2:]))
    reach = [(side + 2 * pad - 1) // far + 1 for side, pad, far in zip(shape[2:], padding, dilation)]
    kernel = tuple(min(k, most) for k, most in zip(kernel, reach))
    hypothesis.assume(shape[0] > 0 or layout == "nchw")
    with using(backend, dtype) as device:
        tensors = operands(shape, outputs, kernel, layout, dtype, device, weights=weights)
        check(tensors, stride, padding, dilation)


@pytest.mark.parametrize("backend", ["plain", "halo"])
@geometries
def test_any_input(backend, **drawn):
    check_any_input(backend, **drawn)


@hypothesis.settings(max_examples=4)
@geometries
def test_any_input_of_triton(**drawn):
    check_any_input("triton", **drawn)


def test_it_is_the_stock_layer():
    """The definition agrees with nn.Conv2d(padding_mode="reflect"), which no code here shares."""
    layer = torch.nn.Conv2d(3, 4, (3, 5), padding=(1, 2), stride=2, padding_mode="reflect")
    x = draw((2, 3, 7, 8), dtype=torch.float32)
    y = reflection_pad_conv2d(x, layer.weight, layer.bias, 2, (1, 2))
    torch.testing.assert_close(y, layer(x))


@pytest.mark.parametrize("backend", PRODUCTS)
@pytest.mark.parametrize("layout", ["nchw", "nhwc"])
def test_layouts_are_kept(backend, layout):
    """y and dx lie as x does, dweight as the weight does, in whatever layout the gradient comes."""
    with using(backend) as device:
        for weights, dy_layout in (("nchw", "nhwc"), ("nhwc", "nchw"), ("nhwc", "interior")):
            x, weight, _ = operands((2, 3, 4, 5), 2, (3, 3), layout, torch.float32, device, weights=weights)
            dy = draw((2, 2, 4, 5), dy_layout, dtype=torch.float32, device=device)
            function = lambda x, w: reflection_pad_conv2d(x, w, None, 1, 1)  # noqa: E731
            y, (dx, dweight) = gradients(function, (x, weight), dy)
            assert dense_layout(y) == dense_layout(dx) == layout and dense_layout(dweight) == weights
            # One output channel: its gradient lies in both layouts, dx does not.
            _, (dx, _) = gradients(function, (x, weight[:1]))
            assert dense_layout(dx) == layout


@pytest.mark.parametrize("backend", ["halo", *PRODUCTS])
def test_gradcheck(backend):
    with using(backend, torch.float64) as device:
        x, weight, bias = (t.requires_grad_() for t in operands((1, 2, 3, 4), 3, (2, 2), "nhwc", device=device))
        conv = lambda x, w, b: reflection_pad_conv2d(x, w, b, (1, 2), (2, 1))  # noqa: E731
        assert torch.autograd.gradcheck(conv, (x, weight, bias), fast_mode=True)
        assert torch.autograd.gradgradcheck(conv, (x, weight, bias), fast_mode=True)


@pytest.mark.parametrize("backend", ["halo", *PRODUCTS])
def test_three_orders_of_a_penalty(backend):
    """Gradients of a gradient penalty, and one order more, equal stock torch's."""
    with using(backend, torch.float64) as device:
        tensors = operands((1, 2, 3, 4), 2, (2, 3), "nhwc", device=device)

        def orders(function):
            x, weight, bias = (t.detach().clone().requires_grad_() for t in tensors)
            y = function(x, weight, bias, (1, 1), (1, 2), (1, 1), 1)
            (dx,) = torch.autograd.grad(y.square().sum(), x, create_graph=True)
            second = torch.autograd.grad(dx.square().sum(), (x, weight, bias), create_graph=True)
            third = torch.autograd.grad(sum(g.pow(3).sum() for g in second), (x, weight, bias))
            return [*second, *third]

        for ours, stock in zip(orders(reflection_pad_conv2d), orders(reference)):
            torch.testing.assert_close(ours, stock, rtol=1e-8, atol=1e-8 * stock.abs().max().item())


@pytest.mark.parametrize("backend", BACKENDS)
def test_empty(backend):
    with using(backend) as device:
        x, weight, bias = operands((0, 3, 4, 5), 2, (3, 3), "nchw", torch.float32, device)
        y, (dx, dweight, dbias) = gradients(lambda x, w, b: reflection_pad_conv2d(x, w, b, 1, 1), (x, weight, bias))
        assert y.shape == (0, 2, 4, 5) and dx.shape == x.shape
        assert not dweight.any() and not dbias.any()


@pytest.mark.parametrize("backend", PRODUCTS)
def test_repeatable_and_retained(backend):
    with using(backend) as device:
        tensors = [t.requires_grad_() for t in operands((2, 3, 5, 6), 4, (3, 3), "nhwc", torch.float32, device)]
        y = reflection_pad_conv2d(*tensors, padding=(4, 2))
        dy = draw(y.shape, dtype=torch.float32, device=device, seed=2)
        assert_same(torch.autograd.grad(y, tensors, dy, retain_graph=True), torch.autograd.grad(y, tensors, dy))
        with torch.inference_mode():
            assert torch.equal(reflection_pad_conv2d(*tensors, padding=(4, 2)), y)


def test_only_the_gradients_asked_for(monkeypatch):
    calls = []
    watch(monkeypatch, module.OP.name, lambda _name, direction, launch, *a: calls.append(direction) or launch(*a))
    x, weight, bias = operands((1, 2, 4, 5), 3, (3, 3))
    with fastgan.backend(reflection_pad_conv2d="plain"):
        reflection_pad_conv2d(x, weight.clone().requires_grad_(), bias, padding=1).sum().backward()
        assert calls == ["forward", "weight_gradient"]
        calls.clear()
        reflection_pad_conv2d(x.clone().requires_grad_(), weight, bias, padding=1).sum().backward()
        assert calls == ["forward", "input_gradient"]


def test_what_no_product_takes():
    x, weight, bias = operands((1, 4, 4, 5), 4, (3, 3), dtype=torch.float32)
    with fastgan.backend(reflection_pad_conv2d="plain"):
        with pytest.raises(RuntimeError, match="'plain' was asked for but cannot serve this call: groups is 2, not 1"):
            reflection_pad_conv2d(x, weight[:, :2], bias, groups=2)
        with pytest.raises(RuntimeError, match="weight is torch.float64 beside an input of torch.float32"):
            reflection_pad_conv2d(x, weight.double(), bias)
    assert reflection_pad_conv2d(x, weight[:, :2], bias, groups=2).shape == (1, 4, 2, 3)


def test_products_follow_torchs_flag(monkeypatch):
    """allow_tf32 of torch's convolutions decides for ours, by its old and its new name."""
    seen = []
    watch(monkeypatch, module.OP.name, lambda _name, _direction, launch, *a: seen.append(a[6]) or launch(*a))
    tensors = operands((1, 2, 4, 5), 3, (3, 3), dtype=torch.float32)
    before = torch.backends.cudnn.conv.fp32_precision
    try:
        with fastgan.backend(reflection_pad_conv2d="plain"):
            for precision in ("tf32", "ieee", "none"):
                torch.backends.cudnn.conv.fp32_precision = precision
                reflection_pad_conv2d(*tensors)
    finally:
        torch.backends.cudnn.conv.fp32_precision = before
    assert seen == ["tf32", "ieee", "ieee"]


@pytest.fixture
def measured(tmp_path, monkeypatch):
    """Gives the CPU a table with the entries that a test writes."""
    monkeypatch.setattr(_table, "FOLDER", tmp_path)
    monkeypatch.setattr(_table, "KINDS", ("cpu",))
    monkeypatch.setattr(_table, "device_name", lambda kind, index: "A Test Device")

    def write(*entries):
        _table.write(tmp_path / "a-test-device.json", "A Test Device", {"torch": torch.__version__}, entries)

    yield write
    _table.entries.cache_clear()


def entry(shape, backend, layout="nchw", **configurations):
    return {"op": "reflection_pad_conv2d", "dtype": "float32", "layout": layout, "shape": shape, "backend": backend,
            "configurations": configurations, "seconds": {}}  # fmt: skip


def test_the_table_decides(measured, monkeypatch):
    """An entry's backend serves its shape, layout and dtype, and its configurations reach the launchers."""
    key = "1x2x4x5 to 3x3x3 stride 1x1 padding 1x1 dilation 1x1"
    fields = {"kind": "tile", "block_m": 32, "block_n": 16, "block_k": 16, "warps": 4, "stages": 2, "splits": 0}
    measured(entry(key, "plain", forward=fields))
    calls = []

    def spy(name, direction, launch, *args):
        calls.append((direction, args[-1]))
        return launch(*args[:-1], None)

    watch(monkeypatch, module.OP.name, spy)
    x, weight, bias = operands((1, 2, 4, 5), 3, (3, 3), dtype=torch.float32)
    expected = reference(x, weight, bias, (1, 1), (1, 1), (1, 1), 1)
    torch.testing.assert_close(reflection_pad_conv2d(x, weight.requires_grad_(), bias, 1, 1), expected)
    assert [(direction, config.block_m) for direction, config in calls] == [("forward", 32)]
    calls.clear()
    for other in (
        (x.double(), weight.double(), bias.double()),
        (draw((1, 2, 4, 5), "nhwc").float(), weight, bias),
        (x[:, :, :3], weight, bias),
    ):
        reflection_pad_conv2d(*other, 1, 1)
    with fastgan.backend(reflection_pad_conv2d="halo"):
        reflection_pad_conv2d(x, weight, bias, 1, 1)
    assert not calls
    measured(entry(key, "halo"))
    reflection_pad_conv2d(x, weight, bias, 1, 1)
    assert not calls


@pytest.mark.parametrize("dynamic", [False, True])
def test_the_table_decides_in_compiled_code(measured, dynamic):
    """Open shapes have no entry: they take the default; the graph is whole either way."""
    measured(entry("1x2x4x5 to 3x3x3 stride 1x1 padding 1x1 dilation 1x1", "plain"))
    tensors = operands((1, 2, 4, 5), 3, (3, 3), dtype=torch.float32)
    graphs = []

    def spy(gm, inputs):
        graphs.append(str(gm.graph))
        return gm.forward

    torch._dynamo.reset()
    with torch.no_grad():
        compiled = torch.compile(lambda x, w, b: reflection_pad_conv2d(x, w, b, 1, 1), fullgraph=True, backend=spy,
                                 dynamic=dynamic)  # fmt: skip
        torch.testing.assert_close(compiled(*tensors), reference(*tensors, (1, 1), (1, 1), (1, 1), 1))
    torch._dynamo.reset()
    if not dynamic:
        assert "reflection_pad_conv2d" in graphs[0]


def test_tables_on_disk(measured, tmp_path):
    """Written entries are read, later ones replace and are added; a broken table says what to do."""
    first, second = entry("a", "halo"), entry("b", "plain")
    measured(first, second)
    measured(entry("a", "plain"))
    path = tmp_path / _table.file_name("A Test Device")
    content = json.loads(path.read_text())
    assert content["device"] == "A Test Device" and [e["backend"] for e in content["entries"]] == ["plain", "plain"]
    x = torch.zeros(1, 1, 2, 2)
    assert _table.backend("reflection_pad_conv2d", x, "b") == "plain"
    assert _table.backend("reflection_pad_conv2d", x, "c") is None
    assert _table.configuration("reflection_pad_conv2d", "forward", x, "b") is None
    with pytest.raises(ValueError, match="is the table of A Test Device, not of Another: choose another --output"):
        _table.write(path, "Another", {}, [first])
    path.write_text("{")
    _table.entries.cache_clear()
    with pytest.raises(ValueError, match="cannot be read .*write it again with python -m fastgan.tune, or delete it"):
        _table.backend("reflection_pad_conv2d", x, "a")


def test_the_choice_without_a_table():
    with fastgan.backend("auto"):
        if _dispatch.EXTENSION_LOADED:
            assert _dispatch.serving("reflection_pad_conv2d", "cpu", torch.float32) == "halo"
        if _dispatch.TRITON_FOUND:
            refusals = _dispatch.refusals("reflection_pad_conv2d", "cuda", torch.float32)
            assert refusals["triton"].startswith("not yet measured on this device")
            assert _dispatch.serving("reflection_pad_conv2d", "cuda", torch.float32) == "halo"


def test_winograd_by_shape():
    """The rule takes wide 3x3 convolutions of float32; forced, Winograd says what it does not take."""
    with using("winograd"), fastgan.backend("auto"):
        narrow = module._WINOGRAD_CHANNELS - 1
        for channels, size, kernel, stride, dtype, pays in (
            (256, 32, 3, 1, torch.float32, True),
            (narrow + 1, 32, 3, 1, torch.float32, True),
            (narrow, 32, 3, 1, torch.float32, False),
            (256, 17, 3, 1, torch.float32, False),
            (256, 32, 5, 1, torch.float32, False),
            (256, 32, 3, 2, torch.float32, False),
            (256, 32, 3, 1, torch.float16, False),
            (256, 32, 3, 1, torch.bfloat16, torch.bfloat16 in module._WINOGRAD_DTYPES),
        ):
            x = torch.empty(1, channels, size, size, dtype=dtype)
            weight = torch.empty(channels, channels, kernel, kernel)
            call = _dispatch.Call("cpu", dtype, None, x, weight, (stride, stride), (1, 1))
            assert (_dispatch.choose(module.OP, call).name == "winograd") is pays
    with using("winograd"), pytest.raises(RuntimeError, match="the kernel is 3x2 with stride .1, 1. and dilation"):
        reflection_pad_conv2d(torch.zeros(1, 2, 5, 5), torch.zeros(2, 2, 3, 2))


@pytest.mark.parametrize(
    "dtype, size, chosen",
    [
        (torch.float32, (24, 22), True),
        (torch.bfloat16, (24, 22), False),
        (torch.bfloat16, (64, 61), True),
    ],
    ids=["float32", "small bfloat16", "bfloat16"],
)
@pytest.mark.parametrize("layout", ["nchw", "nhwc"])
def test_winograd_is_chosen(layout, dtype, size, chosen, monkeypatch):
    """For all passes; under autocast and of a small image for the weight gradient alone, which comes in float32."""
    calls = []
    with using("winograd", dtype):
        pass
    low = dtype == torch.bfloat16
    if low:
        monkeypatch.setattr(module, "_WINOGRAD_DTYPES", (torch.float32, torch.bfloat16))
    watch(
        monkeypatch, module.OP.name, lambda name, direction, launch, *a: calls.append((name, direction)) or launch(*a)
    )
    with fastgan.backend("auto"):
        x, weight, bias = operands((1, 64, *size), 64, (3, 3), layout, torch.float32, weights=layout)
        x, weight, bias = (t.requires_grad_() for t in (x.to(dtype).float(), (weight / 24).to(dtype).float(), bias))
        with torch.autocast("cpu", torch.bfloat16, enabled=low):
            y = reflection_pad_conv2d(x, weight, bias, padding=1)
        expected = reference(x, weight, bias, (1, 1), (1, 1), (1, 1), 1)
        dy = draw(y.shape, dtype=dtype)
        grads, plain = (torch.autograd.grad(t, (x, weight, bias), dy.to(t.dtype)) for t in (y, expected))
    assert y.dtype == dtype and dense_layout(y) == dense_layout(grads[0]) == layout
    for name, a, b in zip(("y", "dx", "dweight", "dbias"), (y, *grads), (expected, *plain), strict=True):
        coarse = low and name != "dweight"
        assert (a - b).abs().max() <= (2.0**-7 if coarse else 1e-5) * b.abs().max(), name
    one = "winograd" if chosen else "halo"
    assert calls == [(one, "forward"), (one, "input_gradient"), ("winograd", "weight_gradient")]


def test_winograd_under_autocast(monkeypatch):
    """Images are lowered, parameters are read as they are; y has autocast's dtype, gradients have their owners'."""
    seen = []
    with using("winograd", torch.bfloat16):
        spy = lambda _name, _direction, launch, *a: seen.append((a[0].dtype, a[1].dtype)) or launch(*a)  # noqa: E731
        watch(monkeypatch, module.OP.name, spy)
        x, weight, bias = (t.requires_grad_() for t in operands((2, 5, 6, 9), 4, (3, 3), "nhwc", torch.float32))
        with torch.autocast("cpu", torch.bfloat16):
            y = reflection_pad_conv2d(x, weight, bias, padding=1)
        grads = torch.autograd.grad(y.float().square().sum(), (x, weight, bias))
    low, wide = torch.bfloat16, torch.float32
    assert seen == [(low, wide), (low, wide), (low, low)]
    assert y.dtype == low and all(g.dtype == wide for g in grads)
    leaves = tuple(t.detach().to(t.dtype if t is not x else low).double().requires_grad_() for t in (x, weight, bias))
    exact = reference(*leaves, (1, 1), (1, 1), (1, 1), 1)
    exact_grads = torch.autograd.grad(exact, leaves, 2 * y.double())
    for a, b in zip((y, *grads), (exact, *exact_grads), strict=True):
        torch.testing.assert_close(a.double(), b, rtol=2.0**-7, atol=2.0**-8 * b.abs().max().item())


def test_winograd_in_bfloat16():
    with using("winograd", torch.bfloat16):
        for layout, weights in (("nhwc", "nhwc"), ("nchw", "transposed"), ("interior", "nchw")):
            check(operands((2, 4, 6, 5), 3, (3, 3), layout, torch.bfloat16, weights=weights), (1, 1), (2, 1), (1, 1))


@pytest.mark.parametrize("layout", ["nchw", "interior"])
def test_winograd_to_any_order(layout):
    """y, its gradients, and the gradients of a penalty on them, against stock torch in float64."""
    with using("winograd"):
        tensors = operands((2, 5, 6, 9), 4, (3, 3), layout, torch.float32, weights="nhwc")

        def orders(function, dtype):
            x, weight, bias = (t.detach().to(dtype).requires_grad_() for t in tensors)
            y = function(x, weight, bias, (1, 1), (2, 1), (1, 1), 1)
            first = torch.autograd.grad(y.square().sum(), (x, weight, bias), create_graph=True)
            penalty = sum(g.square().mean() for g in first)
            return [y, *first, *torch.autograd.grad(penalty, (x, weight, bias))]

        ours, exact = orders(reflection_pad_conv2d, torch.float32), orders(reference, torch.float64)
        for a, b in zip(ours, exact, strict=True):
            torch.testing.assert_close(a.double(), b, rtol=0, atol=3e-5 * b.abs().max().item())


BOTH = dict(reflection_pad_conv2d="triton", instance_norm="triton")


def with_moments(x, weight, bias=None):
    return module.convolve(x, weight, bias, 1, 1, 1, 1, with_moments=True)


def convolution_and_norm(x, weight, bias, halo=1, moments=True):
    """The mean of the convolution keeps its bias, which the norm cancels, in the result."""
    y, given = with_moments(x, weight, bias) if moments else (reflection_pad_conv2d(x, weight, bias, padding=1), None)
    return instance_norm(y, activation="leaky_relu", halo=halo, moments=given) + y.mean()


@pytest.mark.parametrize("layout", ["nchw", "nhwc"])
def test_moments_change_no_gradient(layout):
    """Output, gradients and the gradients of a penalty on them, with moments and from stock torch, in float64."""
    with using("triton", torch.float64) as device, fastgan.backend(**BOTH):
        tensors = operands((1, 9, 8, 8), 10, (3, 3), layout, torch.float64, device)
        _, moments = with_moments(*tensors)
        assert moments.shape == ((2, 1, 10, 1) if layout == "nchw" else (2, 1, 1, 10)) and not moments.requires_grad

        def orders(function):
            leaves = [t.detach().clone().requires_grad_() for t in tensors]
            y = function(*leaves)
            first = torch.autograd.grad(y.square().sum() + y.pow(3).sum(), leaves, create_graph=True)
            return [y, *first, *torch.autograd.grad(sum(g.square().sum() for g in first), leaves)]

        ours = orders(convolution_and_norm)
    with fastgan.backend("reference"):
        expected = orders(functools.partial(convolution_and_norm, moments=False))
    for a, b in zip(ours, expected, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-8, atol=1e-10 * b.abs().max().item())


def test_the_norm_reads_the_moments(monkeypatch):
    """A kernel that needs two launches without them makes one: the first would read what is not a number here."""
    with using("triton") as device, fastgan.backend(**BOTH):
        from fastgan.kernels import instance_norm as kernels

        x, weight, _ = operands((1, 9, 16, 16), 32, (3, 3), "nhwc", torch.float32, device)
        y, moments = with_moments(x, weight)
        assert moments is not None
        config = kernels.Config(16, 16, 1, 4, 4, 1)
        monkeypatch.setattr(kernels, "default_config", lambda *_: config)
        monkeypatch.setattr(kernels, "_nhwc_statistics", None)
        torch.testing.assert_close(instance_norm(y, moments=moments), torch.nn.functional.instance_norm(y))
        with pytest.raises(TypeError):
            instance_norm(y)


@pytest.mark.parametrize("backend", ["reference", "halo", "plain"])
def test_backends_without_moments(backend):
    """None stands for them, for the norm as well; a foreign norm leaves moments unread."""
    with using(backend) as device:
        x, weight, _ = operands((2, 3, 8, 8), 4, (3, 3), "nhwc", torch.float32, device)
        y, moments = with_moments(x, weight)
        assert moments is None and torch.equal(y, reflection_pad_conv2d(x, weight, padding=1))
        assert torch.equal(instance_norm(y, moments=None), instance_norm(y))
        assert torch.equal(instance_norm(y, moments=torch.zeros(2, 2, 1, 4, device=device)), instance_norm(y))
    y, moments = with_moments(x[0], weight)
    assert y.shape == (4, 8, 8) and moments is None


def test_moments_under_the_compiler():
    """One graph; the norm takes its own statistics there."""
    with using("triton") as device, fastgan.backend(**BOTH):
        tensors = operands((1, 9, 8, 8), 9, (3, 3), "nhwc", torch.float32, device)
        torch._dynamo.reset()
        compiled = torch.compile(convolution_and_norm, fullgraph=True, backend="aot_eager")
        y, grads = gradients(compiled, tensors)
        expected, others = gradients(convolution_and_norm, tensors)
        torch._dynamo.reset()
    for a, b in zip((y, *grads), (expected, *others), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-4)


def test_unbatched():
    x, weight = draw((3, 4, 5), dtype=torch.float32), draw((2, 3, 3, 3), dtype=torch.float32)
    assert reflection_pad_conv2d(x, weight, padding=1).shape == (2, 4, 5)
