"""The public layers stand in for the stock ones: constructors, parameters, state dicts, copies, behaviour."""

import copy
import inspect
import itertools
import pickle
import re
import warnings

import numpy
import pytest
import torch
import torch.ao.quantization
import torch.fx.experimental.optimization
from torch import nn
from torch.nn.utils import fuse_conv_bn_eval, fuse_linear_bn_eval
from torch.utils.mkldnn import to_mkldnn

import fastgan

# ours, stock, how both are built, input shapes
PAIRS = {
    "norm": (fastgan.nn.InstanceNorm2d, nn.InstanceNorm2d, (3,), {}),
    "norm, affine": (fastgan.nn.InstanceNorm2d, nn.InstanceNorm2d, (3,), {"affine": True, "eps": 1e-3}),
    "norm, tracking": (
        fastgan.nn.InstanceNorm2d, nn.InstanceNorm2d, (3, 1e-5, 0.3, True, True), {},
    ),
    "norm, momentum None": (
        fastgan.nn.InstanceNorm2d, nn.InstanceNorm2d, (3,), {"momentum": None, "track_running_stats": True},
    ),
    "pad": (fastgan.nn.ReflectionPad2d, nn.ReflectionPad2d, (2,), {}),
    "pad, uneven": (fastgan.nn.ReflectionPad2d, nn.ReflectionPad2d, ((0, 1, 2, 3),), {}),
    "reflected convolution": (
        fastgan.nn.ReflectionPadConv2d, nn.Conv2d, (3, 6, 3, (2, 1), (1, 2), 1, 3), {"padding_mode": "reflect"},
    ),
    "convolution": (fastgan.nn.Conv2d, nn.Conv2d, (3, 6, 3, 2, 1, 1, 3), {}),
    "convolution, by name": (fastgan.nn.Conv2d, nn.Conv2d, (3, 2, (1, 3)), {"padding": "same", "bias": False}),
    "convolution, reflected": (fastgan.nn.Conv2d, nn.Conv2d, (3, 2, 3), {"padding": 1, "padding_mode": "reflect"}),
    "transposed": (fastgan.nn.ConvTranspose2d, nn.ConvTranspose2d, (3, 6, 3, 2, 1, 1, 3), {"dilation": 2}),
    "transposed, no bias": (
        fastgan.nn.ConvTranspose2d, nn.ConvTranspose2d, (3, 2, (2, 3)), {"stride": (1, 2), "bias": False},
    ),
}  # fmt: skip
WEIGHTS = torch.tensor([0.5, 1, 2, 3, 4])
LOSSES = {
    "l1": (fastgan.nn.L1Loss, nn.L1Loss, {}),
    "mse": (fastgan.nn.MSELoss, nn.MSELoss, {"reduction": "sum"}),
    "bce": (fastgan.nn.BCEWithLogitsLoss, nn.BCEWithLogitsLoss, {"reduction": "none"}),
    "bce, pos_weight": (fastgan.nn.BCEWithLogitsLoss, nn.BCEWithLogitsLoss, {"pos_weight": WEIGHTS}),
    "bce, weight": (fastgan.nn.BCEWithLogitsLoss, nn.BCEWithLogitsLoss, {"weight": WEIGHTS}),
}


def build(name):
    mine, stock, arguments, keywords = PAIRS[name]
    torch.manual_seed(0)
    ours = mine(*arguments, **keywords)
    torch.manual_seed(0)
    return ours, stock(*arguments, **keywords)


@pytest.mark.parametrize("name", PAIRS)
def test_same_as_stock(name):
    """Same random initialisation, same state dict, same result and gradients, in training and in evaluation."""
    ours, stock = build(name)
    assert isinstance(ours, type(stock))
    assert list(ours.state_dict()) == list(stock.state_dict())
    for a, b in zip(ours.state_dict().values(), stock.state_dict().values()):
        assert torch.equal(a, b)
    for shape in ((2, 3, 6, 5), (3, 6, 5)):
        for training in (True, True, False):
            ours.train(training), stock.train(training)
            x = torch.randn(shape, requires_grad=True)
            y, expected = ours(x), stock(x)
            torch.testing.assert_close(y, expected)
            leaves = [[x, *layer.parameters()] for layer in (ours, stock)]
            dy = torch.randn_like(y)
            for a, b in zip(torch.autograd.grad(y, leaves[0], dy), torch.autograd.grad(expected, leaves[1], dy)):
                torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-4)
            for a, b in zip(ours.buffers(), stock.buffers()):
                torch.testing.assert_close(a, b)


@pytest.mark.parametrize("name", PAIRS)
def test_state_dicts_load_strictly_both_ways(name):
    ours, stock = build(name)
    for layer in (ours, stock):
        for p in layer.state_dict().values():
            p.copy_(torch.rand_like(p.float()))
    expected = {key: value.clone() for key, value in ours.state_dict().items()}
    stock.load_state_dict(ours.state_dict(), strict=True)
    ours, _ = build(name)
    ours.load_state_dict(stock.state_dict(), strict=True)
    for key, value in ours.state_dict().items():
        assert torch.equal(value, expected[key])


@pytest.mark.parametrize("name", [*PAIRS, "fused", "convolution"])
def test_copies(name):
    layer = {
        "fused": lambda: fastgan.nn.InstanceNorm2d(3, affine=True, activation="leaky_relu", negative_slope=0.3),
        "convolution": lambda: fastgan.nn.ReflectionPadConv2d(3, 4, 3, padding=1),
    }.get(name, lambda: build(name)[0])()
    x = torch.randn(2, 3, 6, 5)
    expected = layer.eval()(x)
    for clone in (copy.deepcopy(layer), pickle.loads(pickle.dumps(layer))):
        assert torch.equal(clone(x), expected) and repr(clone) == repr(layer)


@pytest.mark.parametrize("name", PAIRS)
def test_constructor_starts_with_the_stock_arguments(name):
    mine, stock, *_ = PAIRS[name]
    ours, theirs = (list(inspect.signature(layer.__init__).parameters.values()) for layer in (mine, stock))
    theirs = [p for p in theirs if p.kind is p.POSITIONAL_OR_KEYWORD]
    assert [p.name for p in ours[: len(theirs)]] == [p.name for p in theirs]
    other = {p.name for a, p in zip(ours, theirs) if a.default != p.default}
    assert other == ({"padding_mode"} if mine is fastgan.nn.ReflectionPadConv2d else set())
    assert all(p.kind is not p.POSITIONAL_OR_KEYWORD for p in ours[len(theirs) :])


def test_norm_takes_the_keywords_of_newer_stock_layers():
    if "bias" not in inspect.signature(nn.InstanceNorm2d).parameters:
        with pytest.raises(TypeError, match="bias"):
            fastgan.nn.InstanceNorm2d(3, affine=True, bias=False)
        return
    ours, stock = (layer(3, affine=True, bias=False) for layer in (fastgan.nn.InstanceNorm2d, nn.InstanceNorm2d))
    assert ours.bias is None and ours.weight is not None
    x = torch.randn(2, 3, 4, 5)
    torch.testing.assert_close(ours(x), stock(x))


BATCH_NORMS = {
    "plain": ((3,), {}),
    "cumulative": ((3,), {"momentum": None}),
    "not affine": ((3, 0.8, 0.3, False), {}),
    "not tracking": ((3,), {"track_running_stats": False}),
}


@pytest.mark.parametrize("name", BATCH_NORMS)
@pytest.mark.parametrize("shape", [(4, 3), (4, 3, 5), (2, 3, 6, 5)])
def test_batch_norm(name, shape):
    """Initialisation, results, gradients and buffers of the stock layer and its activation, over several steps in both
    modes; state dicts load strictly both ways, and copies do the same."""
    arguments, keywords = BATCH_NORMS[name]
    layer = "BatchNorm2d" if len(shape) == 4 else "BatchNorm1d"
    ours = getattr(fastgan.nn, layer)(*arguments, **keywords, activation="leaky_relu", negative_slope=0.3)
    stock = getattr(nn, layer)(*arguments, **keywords)
    assert isinstance(ours, type(stock)) and list(ours.state_dict()) == list(stock.state_dict())
    for p in ours.parameters():
        nn.init.uniform_(p)
    stock.load_state_dict(ours.state_dict(), strict=True)
    for training in (True, True, False, True, False):
        ours.train(training), stock.train(training)
        x = 2 * torch.randn(shape) + 1
        results = []
        for f in (ours, lambda x: nn.functional.leaky_relu(stock(x), 0.3)):
            leaves = [x.clone().requires_grad_(), *(ours if f is ours else stock).parameters()]
            y = f(leaves[0])
            results.append((y, *torch.autograd.grad(y.square().sum(), leaves)))
        for a, b in zip(*results, strict=True):
            torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-4)
        for a, b in zip(ours.buffers(), stock.buffers(), strict=True):
            torch.testing.assert_close(a, b)
    again = getattr(fastgan.nn, layer)(*arguments, **keywords, activation="leaky_relu", negative_slope=0.3).eval()
    again.load_state_dict(stock.state_dict(), strict=True)
    for clone in (again, copy.deepcopy(ours), pickle.loads(pickle.dumps(ours))):
        assert torch.equal(clone(x), ours(x)) and repr(clone) == repr(ours)
    assert "activation='leaky_relu', negative_slope=0.3" in repr(ours)
    assert repr(getattr(fastgan.nn, layer)(*arguments, **keywords)) == repr(stock)


@pytest.mark.parametrize("arguments", [(3, 4, 3, 1, 1), (3, 6, (3, 5), (2, 1), (1, 2), (1, 2), 3, False)])
def test_reflection_pad_convolution(arguments):
    """nn.Conv2d with padding_mode="reflect": its state dict, its numbers."""
    torch.manual_seed(0)
    ours = fastgan.nn.ReflectionPadConv2d(*arguments)
    torch.manual_seed(0)
    stock = nn.Conv2d(*arguments, padding_mode="reflect")
    stock.load_state_dict(ours.state_dict(), strict=True)
    ours.load_state_dict(stock.state_dict(), strict=True)
    assert repr(ours).split("(", 1)[1] == repr(stock).split("(", 1)[1]
    for shape in ((2, 3, 9, 8), (3, 9, 8)):
        x = torch.randn(shape, requires_grad=True)
        torch.testing.assert_close(ours(x), stock(x))
        grads = [torch.autograd.grad(f(x).square().sum(), x)[0] for f in (ours, stock)]
        torch.testing.assert_close(*grads, rtol=1e-4, atol=1e-4)


def test_reflection_pad_convolution_takes_no_named_padding():
    with pytest.raises(ValueError, match="padding must be a number or a pair of numbers, got 'same'"):
        fastgan.nn.ReflectionPadConv2d(3, 4, 3, padding="same")


@pytest.mark.parametrize("name", LOSSES)
def test_losses(name):
    mine, stock, arguments = LOSSES[name]
    ours, theirs = mine(**arguments), stock(**arguments)
    assert isinstance(ours, stock)
    theirs.load_state_dict(ours.state_dict(), strict=True)
    x, t = torch.randn(4, 5), torch.rand(4, 5)
    torch.testing.assert_close(ours(x, t), theirs(x, t))
    for label in (1.0, 0):
        torch.testing.assert_close(ours(x, label), theirs(x, torch.full_like(x, label)))
    assert repr(copy.deepcopy(ours)) == repr(ours)
    assert torch.equal(pickle.loads(pickle.dumps(ours))(x, t), ours(x, t))


def test_fused_norm_is_the_sum_of_its_parts():
    torch.manual_seed(0)
    ours = fastgan.nn.InstanceNorm2d(
        3, affine=True, track_running_stats=True, activation="leaky_relu", negative_slope=0.3
    )
    nn.init.normal_(ours.weight), nn.init.normal_(ours.bias)
    stock = nn.InstanceNorm2d(3, affine=True, track_running_stats=True)
    stock.load_state_dict(ours.state_dict(), strict=True)
    rest = nn.LeakyReLU(0.3)
    for training in (True, False):
        ours.train(training), stock.train(training)
        for shape in ((2, 3, 6, 5), (3, 6, 5)):
            x, residual = torch.randn(shape), torch.randn(shape)
            expected = rest(stock(x)) + residual
            torch.testing.assert_close(ours(x, residual), expected)
    assert "activation='leaky_relu', negative_slope=0.3" in repr(ours)
    assert repr(fastgan.nn.InstanceNorm2d(3)) == repr(nn.InstanceNorm2d(3))


def test_transposed_convolution_output_size():
    ours, stock = build("transposed")
    x = torch.randn(2, 3, 6, 5)
    for size in ([14, 12], (13, 11), (2, 6, 13, 12)):
        torch.testing.assert_close(ours(x, output_size=size), stock(x, output_size=list(size)))
    with pytest.raises(ValueError, match="cannot be had"):
        ours(x, output_size=(20, 20))


def test_device_and_dtype():
    for layer in (
        fastgan.nn.InstanceNorm2d(3, affine=True, dtype=torch.float64, device="cpu"),
        fastgan.nn.ReflectionPadConv2d(3, 3, 3, padding=1, dtype=torch.float64, device="cpu"),
        fastgan.nn.ConvTranspose2d(3, 3, 3, dtype=torch.float64, device="cpu"),
    ):
        assert {p.dtype for p in layer.parameters()} == {torch.float64}
        assert layer(torch.randn(1, 3, 4, 4, dtype=torch.float64)).dtype == torch.float64


def test_old_state_dicts_with_running_statistics_are_refused_as_in_stock():
    """Files from before running statistics were optional carry them by accident; both layers say so."""
    state = nn.InstanceNorm2d(3, track_running_stats=True).state_dict()
    state._metadata = None
    for layer in (nn.InstanceNorm2d(3), fastgan.nn.InstanceNorm2d(3)):
        with pytest.raises(RuntimeError, match="track_running_stats=False"):
            layer.load_state_dict(state)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: fastgan.nn.InstanceNorm2d(3, activation="elu"), "unknown activation 'elu'"),
        (lambda: fastgan.nn.ReflectionPadConv2d(3, 3, 3, padding_mode="zeros"), "must be 'reflect', got 'zeros'"),
        (lambda: fastgan.nn.ConvTranspose2d(3, 3, 3, activation="elu"), "unknown activation 'elu'"),
        (
            lambda: fastgan.nn.InstanceNorm2d(3, affine=True)(torch.zeros(2, 4, 5, 5)),
            r"expected 3 channels, got .* \(2, 4, 5, 5\)",
        ),
        (lambda: fastgan.nn.InstanceNorm2d(3)(torch.zeros(3, 5)), "expected 3D or 4D input"),
        (lambda: fastgan.nn.InstanceNorm2d(3)(torch.zeros(3, 1, 1)), "more than one spatial element"),
        (lambda: fastgan.nn.BatchNorm2d(3, activation="elu"), "unknown activation 'elu'"),
        (lambda: fastgan.nn.BatchNorm2d(3)(torch.zeros(2, 4, 5, 5)), r"expected 3 channels, got .* \(2, 4, 5, 5\)"),
        (lambda: fastgan.nn.BatchNorm2d(3)(torch.zeros(3, 5, 5)), "expected 4D input"),
        (lambda: fastgan.nn.BatchNorm1d(3)(torch.zeros(1, 3)), "more than 1 value per channel"),
    ],
)
def test_bad_input_is_an_error(call, message):
    with pytest.raises(ValueError, match=message):
        call()


# For every kind of input: values that a layer may meet, in shapes that fit some layers and not others.
DTYPES = [torch.float32, torch.float64, torch.bfloat16, torch.float16, torch.complex64, torch.int64, torch.uint8]
SHAPES = [(2, 3, 6, 5), (3, 6, 5), (0, 3, 6, 5), (2, 3, 0, 5), (2, 4, 6, 5), (2, 3, 1, 1), (2, 3), (2, 4), (0, 3),
          (2, 3, 5), (1, 2, 3, 6, 5), (5,), ()]  # fmt: skip
ANY = {
    "pad": lambda kind: kind.ReflectionPad2d([2, 0, 1, 1]),
    "pad, numpy": lambda kind: kind.ReflectionPad2d(numpy.int64(1)),
    "pad that crops": lambda kind: kind.ReflectionPad2d((1, -1, 0, -2)),
    "convolution": lambda kind: kind.Conv2d(3, 4, 3),
    "convolution, lists": lambda kind: kind.Conv2d(3, 4, [3, 2], stride=[2, 1], padding=[1, 0]),
    "convolution, numpy": lambda kind: kind.Conv2d(3, 4, numpy.int64(3), numpy.int64(2), padding=numpy.int64(1)),
    "convolution, same": lambda kind: kind.Conv2d(3, 4, 4, padding="same", dilation=2),
    "convolution, valid": lambda kind: kind.Conv2d(3, 4, 3, padding="valid", padding_mode="circular"),
    "convolution, groups": lambda kind: kind.Conv2d(3, 6, 3, padding=1, dilation=2, groups=3),
    **{f"convolution, {mode}": lambda kind, mode=mode: kind.Conv2d(3, 4, 3, padding=1, padding_mode=mode)
       for mode in ("reflect", "replicate", "circular")},
    "convolution, reflecting nothing": lambda kind: kind.Conv2d(3, 4, 3, padding_mode="reflect"),
    "transposed, lists": lambda kind: kind.ConvTranspose2d(3, 4, [3, 2], [2, 1], [1, 0], [1, 0]),
    "transposed, numpy": lambda kind: kind.ConvTranspose2d(3, 4, numpy.int64(3), stride=numpy.int64(2)),
    **{f"{name}, {keywords}": lambda kind, name=name, keywords=keywords: getattr(kind, name)(3, **keywords)
       for name in ("BatchNorm1d", "BatchNorm2d", "InstanceNorm2d")
       for keywords in ({}, {"affine": False, "track_running_stats": False}, {"affine": True}, {"affine": False},
                        {"affine": True, "track_running_stats": True}, {"momentum": numpy.float32(0.3)})},
}  # fmt: skip


def values(shape, dtype, seed=0):
    x = torch.randn((*shape, 2), generator=torch.Generator().manual_seed(seed))
    return torch.view_as_complex(x).to(dtype) if dtype.is_complex else (2 * x[..., 0]).abs().to(dtype)


def outcome(call, *inputs):
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return call(*inputs)
    except Exception as error:
        return error


def assert_takes_what_stock_takes(ours, stock, what):
    """Where stock has a result ours has it too, in shape, dtype and value."""
    if isinstance(stock, Exception):
        return
    assert not isinstance(ours, Exception), f"{what}: {ours!r}"
    assert ours.shape == stock.shape and ours.dtype == stock.dtype, what
    rounding = 4 * torch.finfo(stock.dtype).eps ** 0.75 if stock.is_floating_point() or stock.is_complex() else 0
    torch.testing.assert_close(ours, stock, rtol=rounding, atol=rounding, equal_nan=True, msg=lambda m: f"{what}: {m}")


@pytest.mark.parametrize("name", ANY)
def test_takes_what_stock_takes(name):
    taken = 0
    for dtype in DTYPES:
        for shape in SHAPES:
            for training in (True, False):
                layers = []
                for kind in (fastgan.nn, nn):
                    torch.manual_seed(0)
                    layers.append(ANY[name](kind))
                    for tensor in (*layers[-1].parameters(), *layers[-1].buffers()):
                        if tensor.is_floating_point() and (dtype.is_floating_point or dtype.is_complex):
                            tensor.data = tensor.data.to(dtype)
                x = values(shape, dtype)
                ours, stock = (outcome(layer.train(training), x) for layer in layers)
                assert_takes_what_stock_takes(ours, stock, f"{name}, {dtype}, {shape}, training={training}")
                taken += not isinstance(stock, Exception)
    assert taken > 10


@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
@pytest.mark.parametrize("name", ["L1Loss", "MSELoss"])
def test_losses_take_what_stock_takes(name, reduction):
    shapes = [((4, 5), (4, 5)), ((4, 5), (5,)), ((0, 5), (0, 5)), ((), ()), ((5,), (4, 5))]
    for dtypes, (first, second) in itertools.product(itertools.product(DTYPES, DTYPES), shapes):
        x, t = values(first, dtypes[0]), values(second, dtypes[1], seed=1)
        ours, stock = (outcome(getattr(kind, name)(reduction=reduction), x, t) for kind in (fastgan.nn, nn))
        assert_takes_what_stock_takes(ours, stock, f"{name}, {dtypes}, {first}, {second}")


def test_a_norm_without_parameters_takes_other_channels_with_a_warning():
    x = torch.randn(2, 4, 5, 5)
    with pytest.warns(UserWarning, match=r"expected 3 channels, got an input of shape \(2, 4, 5, 5\)"):
        y = fastgan.nn.InstanceNorm2d(3)(x)
    torch.testing.assert_close(y, nn.functional.instance_norm(x))


BATCH_NORM_TOOLS = {
    "SyncBatchNorm": lambda model: nn.SyncBatchNorm.convert_sync_batchnorm(model),
    "fuse_conv_bn_eval": lambda model: nn.Sequential(fuse_conv_bn_eval(model[0], model[1]), *model[2:]),
    "fuse_modules": lambda model: torch.ao.quantization.fuse_modules(model, ["0", "1"]),
    "fuse_modules, three": lambda model: torch.ao.quantization.fuse_modules(model, ["0", "1", "2"]),
    "fx": torch.fx.experimental.optimization.fuse,
    "to_mkldnn": lambda model: nn.Sequential(DenseOutside(to_mkldnn(model[:2])), *model[2:]),
}


class DenseOutside(nn.Module):
    def __init__(self, model):
        super().__init__()
        self.model = model

    def forward(self, x):
        return self.model(x.to_mkldnn()).to_dense()


@pytest.mark.parametrize("tool", BATCH_NORM_TOOLS)
@pytest.mark.parametrize("layers", [
    lambda: [nn.Conv2d(3, 4, 3), fastgan.nn.BatchNorm2d(4, activation="relu"), nn.Identity()],
    lambda: [nn.Conv2d(3, 4, 3), fastgan.nn.BatchNorm2d(4, activation="leaky_relu"), nn.Identity()],
    lambda: [fastgan.nn.Conv2d(3, 4, 3), fastgan.nn.BatchNorm2d(4), nn.LeakyReLU(0.3)],
    lambda: [fastgan.nn.Conv2d(3, 4, 3), fastgan.nn.BatchNorm2d(4), nn.ReLU()],
], ids=["relu inside", "leaky inside", "leaky behind", "relu behind"])  # fmt: skip
@pytest.mark.parametrize("sequential", [nn.Sequential, fastgan.nn.Sequential])
def test_tools_that_replace_or_fold_batch_norms_keep_the_activation_or_say_no(tool, layers, sequential):
    torch.manual_seed(0)
    model = sequential(*layers()).eval()
    for p in model.parameters():
        nn.init.normal_(p)
    x = torch.randn(2, 3, 6, 5)
    expected, inside = model(x), model[1].activation != "none"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        changed = outcome(BATCH_NORM_TOOLS[tool], copy.deepcopy(model))
    if not isinstance(changed, Exception):
        torch.testing.assert_close(changed.eval()(x), expected, rtol=1e-4, atol=1e-4)
    elif tool in ("SyncBatchNorm", "fuse_conv_bn_eval", "to_mkldnn"):
        assert inside and re.search(r"would drop the activation of fastgan.nn.BatchNorm2d\(.*LU follow", str(changed))
    else:
        assert "fuse_modules" in tool and isinstance(changed, (NotImplementedError, AssertionError))


def test_eps_of_a_batch_norm_with_activation_is_read_and_set_as_ever():
    layer = fastgan.nn.BatchNorm2d(3, activation="relu")
    layer.eps = 0.5
    assert layer.eps == 0.5 and "eps=0.5" in repr(layer) and copy.deepcopy(layer).eps == 0.5
    x = torch.randn(2, 3, 4, 5)
    expected = nn.functional.batch_norm(x, None, None, training=True, eps=0.5).relu()
    torch.testing.assert_close(layer(x), expected)
    with pytest.raises(RuntimeError, match="fuse_linear_bn_eval would drop the activation of fastgan.nn.BatchNorm1d"):
        fuse_linear_bn_eval(nn.Linear(2, 3).eval(), fastgan.nn.BatchNorm1d(3, activation="relu").eval())
