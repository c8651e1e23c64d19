"""conv_norm_act, and activations that are computed again in the backward pass (fastgan/ops/_recompute.py)."""

import copy
import functools

import hypothesis
import hypothesis.strategies as st
import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.autograd.profiler import profile
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils.checkpoint import checkpoint

import fastgan
from fastgan import functional
from fastgan import nn as fnn
from fastgan.functional import conv_norm_act
from fastgan.models import ResnetGenerator
from fastgan.ops import _recompute
from fastgan.ops._norm import activate
from fastgan.reference import cyclegan

from .common import LAYOUTS, VALUES, dense_layout, draw, gradients
from .test_library import fresh_compiler  # noqa: F401

GEOMETRIES = {
    "plain": dict(stride=2, padding=1),
    "reflected": dict(padding=1, padding_mode="reflect"),
    "transposed": dict(stride=2, padding=1, transposed=True, output_padding=1),
}
NORMS = ("instance", "batch", "none")


@pytest.fixture(autouse=True)
def small_tensors_too(monkeypatch):
    monkeypatch.setattr(_recompute, "_LEAST", 0)


@pytest.fixture
def kept(monkeypatch):
    """All that is saved is kept, as by stock torch."""
    return functools.partial(monkeypatch.setattr, _recompute, "_LEAST")


def exact(x, weight, bias=None, stride=1, padding=0, dilation=1, groups=1, **more):
    """In stock torch."""
    given = dict(
        padding_mode="zeros", transposed=False, output_padding=0, norm="instance", norm_weight=None, norm_bias=None,
        running_mean=None, running_var=None, use_input_stats=True, eps=1e-5, activation="none", negative_slope=0.2,
        residual=None,
    ) | more  # fmt: skip
    if given["transposed"]:
        y = F.conv_transpose2d(x, weight, bias, stride, padding, given["output_padding"], groups, dilation)
    elif given["padding_mode"] == "reflect":
        y = F.conv2d(F.pad(x, (padding,) * 4, mode="reflect"), weight, bias, stride, 0, dilation, groups)
    else:
        y = F.conv2d(x, weight, bias, stride, padding, dilation, groups)
    running = [t.clone() if t is not None else None for t in (given["running_mean"], given["running_var"])]
    if given["norm"] == "instance":
        y = F.instance_norm(
            y, *running, given["norm_weight"], given["norm_bias"], given["use_input_stats"], eps=given["eps"]
        )
    elif given["norm"] == "batch":
        y = F.batch_norm(
            y, *running, given["norm_weight"], given["norm_bias"], given["use_input_stats"], eps=given["eps"]
        )
    y = activate(y, given["activation"], given["negative_slope"])
    return y if given["residual"] is None else y + given["residual"]


def operands(kind, dtype=torch.float64, layout="nchw", values="normal", batch=2, side=6, norm="instance"):
    """(x, weight, bias, norm weight, norm bias, residual) for a geometry."""
    transposed = kind == "transposed"
    x = draw((batch, 3, side, side + 1), layout, values, dtype=dtype)
    weight = draw((3, 4, 3, 3) if transposed else (4, 3, 3, 3), dtype=dtype, seed=1)
    channels = [draw((4,), dtype=dtype, seed=seed) for seed in (2, 3, 4)]
    if norm == "none":
        channels[1:] = None, None
    size = exact(x, weight, norm="none", **GEOMETRIES[kind]).shape
    return x, weight, *channels, draw(size, dtype=dtype, seed=5)


def call(function, kind, x, weight, bias, norm_weight, norm_bias, residual, **more):
    affine = dict(norm_weight=norm_weight, norm_bias=norm_bias)
    return function(x, weight, bias, residual=residual, **GEOMETRIES[kind], **affine, **more)


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("kind", GEOMETRIES)
@pytest.mark.parametrize("layout", ["nchw", "nhwc", "interior"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_matches_stock_torch(kind, norm, layout, dtype):
    for activation in ("none", "relu", "leaky_relu"):
        tensors = operands(kind, dtype, layout, norm=norm)
        more = dict(norm=norm, activation=activation)
        y, grads = gradients(functools.partial(call, conv_norm_act, kind, **more), tensors)
        wide, truth = gradients(
            functools.partial(call, exact, kind, **more), [t.double() if t is not None else None for t in tensors]
        )
        assert y.dtype == dtype
        for a, b in zip((y, *grads), (wide, *truth), strict=True):
            atol = (1e-11 if dtype == torch.float64 else 3e-5) * (1 + b.abs().max().item())
            torch.testing.assert_close(a.double(), b, rtol=0, atol=atol)
        if layout != "interior":
            assert dense_layout(y) in (layout, "both")


@pytest.mark.parametrize("norm", ["instance", "batch"])
def test_running_statistics(norm):
    x, weight, bias, *affine, _ = operands("plain")
    for training in (True, False):
        running = [draw((4,), seed=8), draw((4,), seed=9).abs() + 0.5]
        stock = [t.clone() for t in running]
        more = dict(norm=norm, use_input_stats=training, norm_weight=affine[0], norm_bias=affine[1], momentum=0.3)
        y = conv_norm_act(x, weight, bias, 2, 1, running_mean=running[0], running_var=running[1], **more)
        raw = F.conv2d(x, weight, bias, 2, 1)
        function = F.instance_norm if norm == "instance" else F.batch_norm
        torch.testing.assert_close(y, function(raw, *stock, *affine, training, 0.3, 1e-5))
        for a, b in zip(running, stock, strict=True):
            torch.testing.assert_close(a, b)


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("kind", GEOMETRIES)
def test_gradcheck_of_two_units(kind, norm):
    """The second unit reads what the first one made: recomputed for both orders of differentiation."""
    x, weight, bias, norm_weight, norm_bias, _ = operands(kind, batch=1, side=3)
    second = draw((2, 4, 3, 3), seed=6)
    tensors = [t.requires_grad_() for t in (x, weight, bias, norm_weight, norm_bias, second)]

    def function(x, weight, bias, norm_weight, norm_bias, second):
        y = call(
            conv_norm_act, kind, x, weight, bias, norm_weight, norm_bias, None,
            norm=norm, activation="leaky_relu", eps=0.1,
        )  # fmt: skip
        return conv_norm_act(y, second, None, 1, 1, padding_mode="reflect", norm=norm, eps=0.1)

    used = tensors if norm != "none" else [*tensors[:3], tensors[5]]
    f = function if norm != "none" else lambda x, weight, bias, second: function(x, weight, bias, None, None, second)
    assert torch.autograd.gradcheck(f, used)
    assert torch.autograd.gradgradcheck(f, used, atol=1e-4)


@hypothesis.given(
    kind=st.sampled_from(list(GEOMETRIES)),
    norm=st.sampled_from(NORMS),
    layout=st.sampled_from(LAYOUTS),
    values=st.sampled_from(VALUES[:-1]),
    activation=st.sampled_from(("none", "relu", "leaky_relu")),
    batch=st.integers(1, 3),
    side=st.integers(4, 9),
)
@hypothesis.settings(max_examples=60)
def test_any_input(kind, norm, layout, values, activation, batch, side):
    tensors = operands(kind, layout=layout, values=values, batch=batch, side=side, norm=norm)
    more = dict(norm=norm, activation=activation, eps=0.1)
    y, grads = gradients(functools.partial(call, conv_norm_act, kind, **more), tensors)
    truth, dtruth = gradients(functools.partial(call, exact, kind, **more), tensors)
    for a, b in zip((y, *grads), (truth, *dtruth), strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=1e-7 * (1 + b.abs().max().item()))


def trunk(x, weights, residual=True):
    """A stem, two residual blocks, an upsampling, a last convolution: every kind of reader of an activation."""
    stem, *blocks, up, last = weights
    y = conv_norm_act(x, stem, padding=1, padding_mode="reflect", activation="relu")
    for first, second in zip(blocks[::2], blocks[1::2], strict=True):
        hidden = conv_norm_act(y, first, padding=1, padding_mode="reflect", activation="relu")
        y = conv_norm_act(hidden, second, padding=1, padding_mode="reflect", residual=y if residual else None)
    y = conv_norm_act(y, up, None, 2, 1, transposed=True, output_padding=1, norm="batch", activation="relu")
    return functional.conv2d(y, last, None, 1, 1)


def trunk_operands(dtype=torch.float32, layout="nchw", channels=4, side=8):
    shapes = [(channels, 3, 3, 3), *[(channels, channels, 3, 3)] * 4, (channels, 5, 3, 3), (2, 5, 3, 3)]
    weights = [draw(shape, dtype=dtype, seed=seed).requires_grad_() for seed, shape in enumerate(shapes, 1)]
    return draw((2, 3, side, side + 1), layout, dtype=dtype).requires_grad_(), weights


def orders(function, x, weights):
    """Output, gradients, and the gradients of a penalty on them."""
    y = function(x, weights)
    first = torch.autograd.grad(y.square().sum(), [x, *weights], create_graph=True)
    second = torch.autograd.grad(sum(g.square().sum() for g in first), [x, *weights])
    return [y, *first, *second]


@pytest.mark.parametrize("layout", ["nchw", "nhwc"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64], ids=str)
@pytest.mark.parametrize("channels", [4, 32])
def test_recomputed_activations_change_no_bit(dtype, layout, channels, kept):
    x, weights = trunk_operands(dtype, layout, channels)
    ours = orders(trunk, x, weights)
    again = orders(trunk, x, weights)
    kept(1 << 60)
    expected = orders(trunk, x, weights)
    for a, b, c in zip(ours, expected, again, strict=True):
        assert torch.equal(a, b) and torch.equal(a, c)


def activation_and_reader(weight_requires_grad=True):
    x, weights = trunk_operands()
    y = conv_norm_act(x, weights[0], padding=1, activation="relu")
    weight = weights[1].detach().requires_grad_(weight_requires_grad)
    return x, y, weight, conv_norm_act(y, weight, padding=1)


@pytest.mark.parametrize("frozen", [False, True])
def test_the_activation_is_not_kept(frozen):
    x, y, weight, z = activation_and_reader(not frozen)
    memory = StorageWeakRef(y.untyped_storage())
    wanted = [x] if frozen else [x, weight]
    expected = torch.autograd.grad(z.square().sum(), wanted, retain_graph=True)
    del y
    assert memory.expired()
    for a, b in zip(torch.autograd.grad(z.square().sum(), wanted), expected, strict=True):
        assert torch.equal(a, b)


def bytes_kept(network, x):
    """What a forward pass has allocated and not freed."""
    with profile(profile_memory=True) as profiled:
        y = network(x)
    assert y.requires_grad
    return sum(event.self_cpu_memory_usage for event in profiled.key_averages())


def test_a_generator_keeps_less_than_stock_torch():
    """A ResNet generator: three tensors a block, where stock torch keeps five."""
    x = torch.randn(1, 3, 64, 64)
    ours, stock = ResnetGenerator(ngf=16), cyclegan.Generator(ngf=16)
    assert bytes_kept(ours, x) <= 0.55 * bytes_kept(stock, x)


def test_double_backward_reaches_the_activation_itself():
    """Not only what it was made from: a gradient with respect to the activation of a gradient of the weight."""
    _, y, weight, z = activation_and_reader()
    (dweight,) = torch.autograd.grad(z.square().sum(), weight, create_graph=True)
    (ours,) = torch.autograd.grad(dweight.square().sum(), y)
    leaf = y.detach().requires_grad_()
    (dweight,) = torch.autograd.grad(conv_norm_act(leaf, weight, padding=1).square().sum(), weight, create_graph=True)
    (expected,) = torch.autograd.grad(dweight.square().sum(), leaf)
    torch.testing.assert_close(ours, expected, rtol=1e-4, atol=1e-4)


def test_retained_gradients_and_tensor_hooks_between_units():
    x, weights = trunk_operands(torch.float64)
    y = conv_norm_act(x, weights[0], padding=1, activation="relu")
    y.retain_grad()
    seen = []
    y.register_hook(seen.append)
    conv_norm_act(y, weights[1], padding=1, padding_mode="reflect").square().sum().backward()
    leaf = y.detach().requires_grad_()
    (expected,) = torch.autograd.grad(exact(leaf, weights[1], padding=1, padding_mode="reflect").square().sum(), leaf)
    torch.testing.assert_close(y.grad, expected)
    assert torch.equal(seen[0], y.grad)


def test_changed_in_place_before_the_next_unit():
    """The next unit reads what it was changed to, and its gradients are those of the changed tensor."""

    def program(unit, x, weights):
        y = unit(x, weights[0], padding=1, activation="relu")
        y = y * 1.0 if unit is exact else y
        y.mul_(2).add_(1)
        return unit(y, weights[1], padding=1, padding_mode="reflect")

    x, weights = trunk_operands(torch.float64)
    for a, b in zip(
        orders(functools.partial(program, conv_norm_act), x, weights[:2]),
        orders(functools.partial(program, exact), x, weights[:2]),
        strict=True,
    ):
        torch.testing.assert_close(a, b)


def test_changed_in_place_after_the_next_unit():
    """What is computed again is what was read; what it is computed from must not change, as in stock torch."""
    x, y, weight, z = activation_and_reader()
    expected = torch.autograd.grad(z.square().sum(), [x, weight], retain_graph=True)
    with torch.no_grad():
        y.mul_(2)
    for a, b in zip(torch.autograd.grad(z.square().sum(), [x, weight]), expected, strict=True):
        assert torch.equal(a, b)
    raw = functional.conv2d(x, draw((4, 3, 3, 3), dtype=torch.float32))
    scale = torch.ones(4, requires_grad=True)
    z = functional.conv2d(functional.instance_norm(raw, weight=scale), weight)
    with torch.no_grad():
        scale.mul_(2)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        z.sum().backward()


def test_backward_twice_over_one_graph():
    x, weights = trunk_operands()
    y = trunk(x, weights)
    first = torch.autograd.grad(y.square().sum(), [x, *weights], retain_graph=True)
    second = torch.autograd.grad(y.square().sum(), [x, *weights])
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


@pytest.mark.parametrize("part", range(7))
def test_gradients_of_some_weights(part):
    """Blocks whose convolution is not asked for a gradient do not disturb those that are."""
    x, weights = trunk_operands()
    expected = torch.autograd.grad(trunk(x, weights).square().sum(), weights[part])[0]
    alone = [weight.detach() for weight in weights]
    alone[part].requires_grad_()
    y = trunk(x.detach(), alone)
    assert torch.equal(torch.autograd.grad(y.square().sum(), alone[part])[0], expected)


@pytest.mark.parametrize("reentrant", [False, True])
def test_checkpoint(reentrant):
    x, weights = trunk_operands()
    expected = torch.autograd.grad(trunk(x, weights).square().sum(), [x, *weights])
    y = checkpoint(lambda x, *weights: trunk(x, weights), x, *weights, use_reentrant=reentrant)
    y.square().sum().backward()
    for tensor, b in zip([x, *weights], expected, strict=True):
        assert torch.equal(tensor.grad, b)


def test_saved_tensor_hooks_of_others_see_every_tensor():
    x, weights = trunk_operands()
    expected = torch.autograd.grad(trunk(x, weights).square().sum(), [x, *weights])
    with torch.autograd.graph.saved_tensors_hooks(lambda t: t.clone(), lambda t: t):
        y = trunk(x, weights)
    for a, b in zip(torch.autograd.grad(y.square().sum(), [x, *weights]), expected, strict=True):
        assert torch.equal(a, b)
    with torch.autograd.graph.save_on_cpu():
        y = trunk(x, weights)
    for a, b in zip(torch.autograd.grad(y.square().sum(), [x, *weights]), expected, strict=True):
        assert torch.equal(a, b)


def test_autocast(kept):
    x, weights = trunk_operands(channels=32)
    results = []
    for least in (0, 1 << 60):
        kept(least)
        with torch.autocast("cpu", torch.bfloat16):
            y = trunk(x, weights)
        results.append([y, *torch.autograd.grad(y.float().square().sum(), [x, *weights])])
    assert results[0][0].dtype == torch.bfloat16
    assert all(torch.equal(a, b) for a, b in zip(*results, strict=True))


def test_without_gradients_nothing_is_remembered():
    x, weights = trunk_operands()
    with torch.no_grad():
        y = conv_norm_act(x, weights[0], activation="relu")
    assert _recompute._remembered.get(y) is None
    y = conv_norm_act(x, weights[0], activation="relu")
    assert _recompute._remembered.get(y) is not None
    before = len(_recompute._remembered)
    del y
    assert len(_recompute._remembered) == before - 1


def test_compiles_as_one_graph(fresh_compiler):  # noqa: F811
    x, weights = trunk_operands()
    expected = [trunk(x, weights), *torch.autograd.grad(trunk(x, weights).square().sum(), [x, *weights])]
    compiled = torch.compile(trunk, fullgraph=True, backend="aot_eager")
    y = compiled(x, weights)
    for a, b in zip((y, *torch.autograd.grad(y.square().sum(), [x, *weights])), expected, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-3)


def test_functional_transforms():
    x, weights = trunk_operands(torch.float64)
    expected = torch.autograd.grad(trunk(x, weights).square().sum(), x)[0]
    with fastgan.backend("reference"):
        truth = torch.autograd.grad(trunk(x, weights).square().sum(), x)[0]
    torch.testing.assert_close(expected, truth)
    fixed = [weight.detach() for weight in weights]
    ours = torch.func.grad(lambda x: trunk(x, fixed).square().sum())(x.detach())
    torch.testing.assert_close(ours, expected)


def layer(**more):
    return fnn.ConvNormAct2d(3, 4, 3, **more)


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("kind", GEOMETRIES)
def test_layer_is_a_convolution_and_a_norm(kind, norm):
    """Under the keys conv and norm, whose state is that of stock layers."""
    torch.manual_seed(0)
    ours = layer(**GEOMETRIES[kind], norm=norm, affine=norm != "none", activation="relu").double()
    geometry = dict(GEOMETRIES[kind])
    convolution = nn.ConvTranspose2d if geometry.pop("transposed", False) else nn.Conv2d
    stock = nn.Module()
    stock.conv = convolution(3, 4, 3, **geometry)
    kinds = {"instance": nn.InstanceNorm2d, "batch": nn.BatchNorm2d}
    stock.norm = kinds[norm](4, affine=True) if norm != "none" else nn.Identity()
    stock.double().load_state_dict(ours.state_dict(), strict=True)
    x = torch.randn(2, 3, 6, 7, dtype=torch.double)
    for training in (True, False):
        ours.train(training), stock.train(training)
        expected = F.relu(stock.norm(stock.conv(x)))
        residual = torch.randn_like(expected)
        torch.testing.assert_close(ours(x, residual), expected + residual)
    assert ours.state_dict().keys() == stock.state_dict().keys()
    for a, b in zip(ours.state_dict().values(), stock.state_dict().values(), strict=True):
        torch.testing.assert_close(a, b)
    torch.testing.assert_close(ours(x[0]), ours(x[:1])[0])
    torch.testing.assert_close(torch.func.functional_call(ours, dict(ours.named_parameters()), (x,)), ours(x))
    copied = copy.deepcopy(ours)
    assert torch.equal(copied(x), ours(x)) and repr(copied) == repr(ours)


def test_layers_in_order_are_the_layers_one_by_one():
    """A norm writes the border that the next layer pads with, where nobody looks in between."""
    torch.manual_seed(0)
    network = fnn.Sequential(
        layer(padding=1, padding_mode="reflect", activation="relu"),
        fnn.ConvNormAct2d(4, 5, 5, 2, 2, padding_mode="reflect", norm="batch", activation="leaky_relu"),
        fnn.ConvNormAct2d(5, 4, 3, 2, 1, transposed=True, output_padding=1, activation="relu"),
        nn.Identity(), fnn.ReflectionPadConv2d(4, 2, 7, padding=3), nn.Tanh(),
    ).double()  # fmt: skip
    x = torch.randn(2, 3, 8, 10, dtype=torch.double, requires_grad=True)
    halos, compute = [], fnn.compute_unit
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(fnn, "compute_unit", lambda *args, **more: halos.append(more["halo"]) or compute(*args, **more))
        ours = network(x)
    assert halos == [2, 0, 3]
    expected = x
    for each in network:
        expected = each(expected)
    torch.testing.assert_close(ours, expected)
    wanted = [x, *network.parameters()]
    for a, b in zip(
        torch.autograd.grad(ours.square().sum(), wanted), torch.autograd.grad(expected.square().sum(), wanted)
    ):
        torch.testing.assert_close(a, b)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (dict(norm="layer"), "unknown norm 'layer': choose from instance, batch, none"),
        (dict(padding_mode="circular"), "unknown padding_mode 'circular': choose from zeros, reflect"),
        (dict(activation="elu"), "unknown activation 'elu'"),
        (dict(transposed=True, padding_mode="reflect"), "pads by zeros, got padding_mode='reflect'"),
        (dict(output_padding=1), "only a transposed convolution has an output_padding, got 1"),
    ],
)
def test_errors(arguments, message):
    with pytest.raises(ValueError, match=message):
        layer(**arguments)
    with pytest.raises(ValueError, match=message):
        conv_norm_act(torch.zeros(1, 3, 4, 4), torch.zeros(3, 3, 3, 3), **arguments)


def test_errors_of_a_residual():
    x, weight = torch.zeros(1, 3, 4, 4), torch.zeros(3, 3, 3, 3)
    for norm in NORMS:
        with pytest.raises(ValueError, match=r"residual must have .* shape \(1, 3, 4, 4\), got \(1, 3, 2, 2\)"):
            conv_norm_act(x, weight, padding=1, norm=norm, use_input_stats=True, residual=x[..., :2, :2])
