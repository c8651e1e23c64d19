"""The public layers stand in for the stock ones: constructors, parameters, state dicts, copies, behaviour."""

import copy
import inspect
import pickle

import pytest
import torch
from torch import nn

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
        "fused": lambda: fastgan.nn.InstanceNorm2d(3, affine=True, activation="leaky_relu", negative_slope=0.3, halo=2),
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
        3, affine=True, track_running_stats=True, activation="leaky_relu", negative_slope=0.3, halo=2
    )
    nn.init.normal_(ours.weight), nn.init.normal_(ours.bias)
    stock = nn.InstanceNorm2d(3, affine=True, track_running_stats=True)
    stock.load_state_dict(ours.state_dict(), strict=True)
    rest = nn.LeakyReLU(0.3)
    for training in (True, False):
        ours.train(training), stock.train(training)
        for shape in ((2, 3, 6, 5), (3, 6, 5)):
            x, residual = torch.randn(shape), torch.randn(shape)
            expected = nn.functional.pad(rest(stock(x)) + residual, (2,) * 4, mode="reflect")
            torch.testing.assert_close(ours(x, residual), expected)
    assert "activation='leaky_relu', negative_slope=0.3, halo=2" in repr(ours)
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
        (lambda: fastgan.nn.InstanceNorm2d(3, halo=-1), "halo must be a whole number of at least 0, got -1"),
        (lambda: fastgan.nn.InstanceNorm2d(3, halo=0.5), "halo must be a whole number of at least 0, got 0.5"),
        (lambda: fastgan.nn.ReflectionPadConv2d(3, 3, 3, padding_mode="zeros"), "must be 'reflect', got 'zeros'"),
        (lambda: fastgan.nn.ConvTranspose2d(3, 3, 3, activation="elu"), "unknown activation 'elu'"),
        (lambda: fastgan.nn.InstanceNorm2d(3)(torch.zeros(2, 4, 5, 5)), r"expected 3 channels, got .* \(2, 4, 5, 5\)"),
        (lambda: fastgan.nn.InstanceNorm2d(3)(torch.zeros(3, 5)), "expected 3D or 4D input"),
        (lambda: fastgan.nn.InstanceNorm2d(3)(torch.zeros(3, 1, 1)), "more than one spatial element"),
        (lambda: fastgan.nn.BatchNorm2d(3, activation="elu"), "unknown activation 'elu'"),
        (lambda: fastgan.nn.BatchNorm2d(3)(torch.zeros(2, 4, 5, 5)), r"expected 3 channels, got .* \(2, 4, 5, 5\)"),
        (lambda: fastgan.nn.BatchNorm2d(3)(torch.zeros(3, 5, 5)), "expected 4D input"),
        (lambda: fastgan.nn.BatchNorm1d(3)(torch.zeros(1, 3)), "more than 1 value per channel"),
    ],
)
def test_bad_input_gets_a_sentence(call, message):
    with pytest.raises(ValueError, match=message):
        call()
