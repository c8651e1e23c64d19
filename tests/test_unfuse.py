"""fastgan.unfuse: stock layers, the same parameters under the same keys, the same results; fuse and back is nothing."""

import copy

import pytest
import torch
from torch import nn

import fastgan
from fastgan import models
from fastgan import nn as fnn

NORMS = ("instance", "batch", "none")
NETWORKS = {
    **{
        f"{name} {norm}{' dropout' if dropout else ''}": (network, norm, dropout)
        for norm in NORMS
        for dropout in (False, True)
        for name, network in {
            "resnet": lambda norm, dropout: models.ResnetGenerator(3, 2, 4, norm, dropout, 3),
            "unet": lambda norm, dropout: models.UnetGenerator(3, 2, 5, 4, norm, dropout),
        }.items()
    },
    **{
        f"{name} {norm}": (network, norm, False)
        for norm in NORMS
        for name, network in {
            "johnson": lambda norm, dropout: models.JohnsonGenerator(3, 3, 4, norm),
            "patchgan": lambda norm, dropout: models.NLayerDiscriminator(3, 4, 2, norm),
            "dcgan discriminator": lambda norm, dropout: models.DCGANDiscriminator(3, 32, norm=norm),
        }.items()
    },
    "dcgan generator": (lambda norm, dropout: models.DCGANGenerator(upsample="transposed"), "batch", False),
    "mlp generator": (lambda norm, dropout: models.MLPGenerator(), "batch", False),
    "encoder": (lambda norm, dropout: models.Encoder(3, 32), "batch", False),
    "decoder": (lambda norm, dropout: models.Decoder(), "none", False),
}
CODES = {"dcgan generator": 100, "mlp generator": 100, "decoder": 2}


def build(name):
    network, norm, dropout = NETWORKS[name]
    torch.manual_seed(0)
    return network(norm, dropout).double()


def inputs(name):
    torch.manual_seed(1)
    side = 48 if name.startswith("johnson") else 32
    return (
        torch.randn(2, CODES[name]) if name in CODES else torch.randn(2, 3, side, 2 * side if "net" in name else side)
    )


def results(network, x):
    """Outputs, and gradients of the input and of each parameter that takes one."""
    x = x.double().requires_grad_()
    torch.manual_seed(2)  # dropout
    outputs = network(x)
    outputs = outputs if isinstance(outputs, tuple) else (outputs,)
    loss = sum((output * torch.linspace(-1, 1, output.numel()).view_as(output)).sum() for output in outputs)
    taken = {key: value for key, value in network.named_parameters() if value.requires_grad}
    return dict(enumerate(outputs)) | dict(zip(["x", *taken], torch.autograd.grad(loss, [x, *taken.values()])))


def kinds(model):
    return [type(module) for module in model.modules()]


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("name", NETWORKS)
def test_networks_become_stock_and_compute_what_they_computed(name, training):
    ours = build(name).train(training)
    stock = copy.deepcopy(ours)
    held = {**dict(stock.named_parameters()), **dict(stock.named_buffers())}
    assert fastgan.unfuse(stock) is stock

    layers = [module for module in stock.modules() if not list(module.children()) and module is not stock]
    assert layers and all(type(layer).__module__.startswith("torch.nn.") for layer in layers)
    assert not [kind for kind in kinds(stock) if kind.__module__ == "fastgan.nn"]
    assert list(stock.state_dict()) == list(ours.state_dict())
    now = {**dict(stock.named_parameters()), **dict(stock.named_buffers())}
    assert all(now[key] is value for key, value in held.items()) and len(now) == len(held)
    assert all(module.training is training for module in stock.modules())

    expected, found = results(ours, inputs(name)), results(stock, inputs(name))
    assert expected.keys() == found.keys()
    for key, value in expected.items():
        torch.testing.assert_close(found[key], value, rtol=1e-9, atol=1e-9 * max(1, value.abs().max().item()), msg=key)
    assert kinds(fastgan.unfuse(stock)) == kinds(stock), "a second call finds nothing more to do"


class Named(nn.Sequential):
    pass


def stock_model():
    return nn.Sequential(
        nn.ReflectionPad2d(3),
        nn.Conv2d(3, 4, 7),
        nn.InstanceNorm2d(4, affine=True),
        nn.ReLU(),
        Named(nn.Conv2d(4, 4, 3, padding=1, padding_mode="reflect"), nn.BatchNorm2d(4), nn.LeakyReLU(0.1)),
        nn.ConvTranspose2d(4, 3, 4, 2, 1),
        nn.ReLU(),
        nn.L1Loss(),
    )


def test_fuse_and_unfuse_give_the_same_classes_and_attributes():
    model = stock_model()
    before = [(type(module), {*vars(module)}) for module in model.modules()]
    fused = kinds(fastgan.fuse(model))
    assert fastgan.unfuse(model) is model
    assert [(type(module), {*vars(module)}) for module in model.modules()] == before
    assert fused == kinds(fastgan.fuse(model)) != [kind for kind, _ in before]


def test_activations_become_layers_without_a_change_of_keys():
    model = nn.Sequential(fnn.BatchNorm2d(2, activation="leaky_relu", negative_slope=0.3), nn.Conv2d(2, 2, 1))
    x, keys = torch.randn(3, 2, 5, 5), list(model.state_dict())
    expected = copy.deepcopy(model)(x)
    fastgan.unfuse(model)
    assert kinds(model)[1:] == [nn.BatchNorm2d, nn.LeakyReLU, nn.Conv2d] and list(model.state_dict()) == keys
    torch.testing.assert_close(model(x), expected)


class Holder(nn.Module):
    def __init__(self, layer):
        super().__init__()
        self.layer = layer


@pytest.mark.parametrize(
    "layer, sentence",
    [
        (fnn.InstanceNorm2d(2, activation="relu"), "layer brings its relu.* outside an nn.Sequential"),
    ],
)
def test_what_has_no_stock_form_is_named_and_nothing_is_changed(layer, sentence):
    model = nn.Sequential(fnn.Conv2d(2, 2, 1), Holder(layer))
    before = kinds(model)
    with pytest.raises(ValueError, match=sentence):
        fastgan.unfuse(model)
    assert kinds(model) == before


def test_only_modules_are_taken():
    with pytest.raises(ValueError, match="unfuse takes a model"):
        fastgan.unfuse([nn.ReLU()])


def test_subclasses_of_ours_are_left_alone():
    class Mine(fnn.Conv2d):
        pass

    assert kinds(fastgan.unfuse(nn.Sequential(Mine(1, 1, 1)))) == [nn.Sequential, Mine]


@pytest.mark.parametrize("norm", ["instance", "batch", "none"])
@pytest.mark.parametrize("kind", [{}, {"padding_mode": "reflect"}, {"transposed": True}])
def test_a_block_becomes_its_parts(norm, kind):
    torch.manual_seed(0)
    block = fnn.ConvNormAct2d(3, 4, 3, padding=1, norm=norm, activation="leaky_relu", negative_slope=0.3, **kind)
    model = nn.Sequential(block, nn.Conv2d(4, 2, 1)).double()
    x, state = torch.randn(2, 3, 6, 7, dtype=torch.double), model.state_dict()
    expected = model(x)
    assert fastgan.unfuse(model)[0] is block and type(block) is nn.Sequential
    assert all(type(module).__module__.startswith("torch.") for module in model.modules())
    torch.testing.assert_close(model(x), expected)
    assert model.state_dict().keys() == state.keys()
