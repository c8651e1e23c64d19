"""The U-Net generator: sizes, parameter counts, published keys, and what the fused form must not change."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from fastgan import nn as fnn
from fastgan.models import UnetGenerator, generator

NORMS = ("batch", "instance", "none", "syncbatch")


def count(network):
    return sum(parameter.numel() for parameter in network.parameters())


def test_parameter_counts():
    assert count(UnetGenerator(num_downs=8)) == 54_413_955
    assert count(UnetGenerator(num_downs=7)) == 41_828_995


@pytest.mark.parametrize(("name", "downs"), [("unet_256", 8), ("unet_128", 7)])
def test_by_name(name, downs):
    network = generator(name, 1, 2, ngf=2, norm="batch", dropout=True)
    assert network.num_downs == downs
    assert sum(isinstance(module, nn.Dropout) for module in network.modules()) == downs - 5
    size = 2**downs
    assert network.eval()(torch.zeros(1, 1, size, size)).shape == (1, 2, size, size)


def test_published_keys():
    state = UnetGenerator(num_downs=6, ngf=2).state_dict()
    assert "model.model.0.weight" in state and "model.model.0.bias" not in state
    assert state["model.model.3.weight"].shape == (4, 3, 4, 4) and state["model.model.3.bias"].shape == (3,)
    second = "model.model.1.model."
    assert state[second + "1.weight"].shape == (4, 2, 4, 4)
    assert {
        second + "2." + leaf for leaf in ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")
    } <= set(state)
    assert state[second + "5.weight"].shape == (8, 2, 4, 4) and second + "6.running_mean" in state
    innermost = "model.model." + "1.model." + 4 * "3.model."
    assert state[innermost + "1.weight"].shape == (16, 16, 4, 4)
    assert state[innermost + "3.weight"].shape == (16, 16, 4, 4) and innermost + "4.running_mean" in state
    assert not any(key.startswith(innermost + "5") for key in state)
    instance = UnetGenerator(num_downs=6, ngf=2, norm="instance").state_dict()
    assert innermost + "1.bias" in instance and second + "5.bias" in instance
    assert "model.model.0.bias" in instance


class PlainBlock(nn.Module):
    """The published block, with stock modules."""

    def __init__(self, outer, inner, inside, norm, bias, dropout, outermost=False, input_nc=None):
        super().__init__()
        down = nn.Conv2d(outer if input_nc is None else input_nc, inner, 4, 2, 1, bias=bias)
        self.outermost = outermost
        if outermost:
            layers = [down, inside, nn.ReLU(), nn.ConvTranspose2d(2 * inner, outer, 4, 2, 1), nn.Tanh()]
        elif inside is None:
            layers = [
                nn.LeakyReLU(0.2),
                down,
                nn.ReLU(),
                nn.ConvTranspose2d(inner, outer, 4, 2, 1, bias=bias),
                norm(outer),
            ]
        else:
            layers = [
                nn.LeakyReLU(0.2),
                down,
                norm(inner),
                inside,
                nn.ReLU(),
                nn.ConvTranspose2d(2 * inner, outer, 4, 2, 1, bias=bias),
                norm(outer),
            ]
            layers += [nn.Dropout(0.5)] if dropout else []
        self.model = nn.Sequential(*layers)

    def forward(self, x):
        return self.model(x) if self.outermost else torch.cat([x, self.model(x)], 1)


def plain(downs, ngf, norm, dropout=False):
    layer = {
        "batch": nn.BatchNorm2d,
        "instance": nn.InstanceNorm2d,
        "none": lambda _: nn.Identity(),
        "syncbatch": nn.BatchNorm2d,
    }[norm]
    bias = norm == "instance"
    block = PlainBlock(8 * ngf, 8 * ngf, None, layer, bias, False)
    for _ in range(downs - 5):
        block = PlainBlock(8 * ngf, 8 * ngf, block, layer, bias, dropout)
    for outer, inner in ((4, 8), (2, 4), (1, 2)):
        block = PlainBlock(outer * ngf, inner * ngf, block, layer, bias, False)
    network = nn.Module()
    network.model = PlainBlock(3, ngf, block, layer, bias, False, outermost=True, input_nc=3)
    network.forward = network.model.forward
    return network


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("dropout", [False, True])
def test_output_and_gradients_are_the_published_networks(norm, dropout):
    torch.manual_seed(0)
    ours = UnetGenerator(num_downs=6, ngf=2, norm=norm, dropout=dropout).double()
    its = plain(6, 2, norm, dropout).double()
    its.load_state_dict(ours.state_dict())
    results = []
    for network in (ours, its):
        torch.manual_seed(1)
        images = torch.randn(2, 3, 128, 64, dtype=torch.float64, requires_grad=True)
        torch.manual_seed(2)
        output = network(images)
        (output * torch.linspace(-1, 1, output.numel(), dtype=torch.float64).view_as(output)).sum().backward()
        results.append((output, images.grad, dict(network.named_parameters())))
    (ours_out, ours_grad, ours_parameters), (out, grad, parameters) = results
    torch.testing.assert_close(ours_out, out, rtol=0, atol=1e-12)
    torch.testing.assert_close(ours_grad, grad, rtol=1e-9, atol=1e-12)
    assert ours_parameters.keys() == parameters.keys()
    for name, parameter in parameters.items():
        if ours_parameters[name].requires_grad:
            scale = parameter.grad.abs().max().item()
            torch.testing.assert_close(
                ours_parameters[name].grad, parameter.grad, rtol=1e-9, atol=1e-9 * scale, msg=name
            )
    for name, buffer in its.named_buffers():
        torch.testing.assert_close(dict(ours.named_buffers())[name], buffer, rtol=1e-12, atol=1e-12, msg=name)


def test_norm_and_activation_run_in_one_pass():
    network = UnetGenerator(num_downs=6, ngf=2)
    norms = [module for module in network.modules() if isinstance(module, fnn.BatchNorm2d)]
    assert sorted({norm.activation for norm in norms}) == ["leaky_relu", "relu"]
    assert not any(
        isinstance(module, nn.ConvTranspose2d) and not isinstance(module, fnn.ConvTranspose2d)
        for module in network.modules()
    )
    # The first block's input and the innermost convolution's output come from no norm.
    assert sum(isinstance(module, nn.LeakyReLU) for module in network.modules()) == 1
    assert sum(isinstance(module, nn.ReLU) for module in network.modules()) == 1


@pytest.mark.parametrize("norm", ["batch", "instance", "none"])
def test_rebuilt_from_a_state_dict(norm):
    network = UnetGenerator(1, 2, 6, 3, norm).eval()
    state = {f"module.{key}": value for key, value in network.state_dict().items()}
    again = UnetGenerator.from_state_dict(state).eval()
    images = torch.randn(1, 1, 64, 64)
    assert torch.equal(again(images), network(images))
    with pytest.raises(ValueError, match="not the state dict of a U-Net"):
        UnetGenerator.from_state_dict({"model.1.weight": torch.zeros(1)})


def test_sizes_that_do_not_fit():
    network = UnetGenerator(num_downs=7, ngf=1)
    network.check_images(128, 256)
    with pytest.raises(ValueError, match="100x128 .* multiples of 128; crop or resize to 128x128, say"):
        network.check_images(100, 128)
    with pytest.raises(ValueError, match="at least 5 times, got num_downs=4"):
        UnetGenerator(num_downs=4)


def test_skips_carry_both_signs():
    """The joined half is the ReLU of what came in, however the input was activated before."""
    values = torch.linspace(-2, 2, 9)
    assert torch.equal(F.relu(F.leaky_relu(values, 0.2)), F.relu(values))
