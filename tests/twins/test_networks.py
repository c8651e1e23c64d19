"""Our networks against the twin's stock ones: same weights, same images, outputs and gradients."""

import copy

import pytest
import torch

from fastgan.models import NLayerDiscriminator, ResnetGenerator

from . import cyclegan as plain

NETWORKS = {
    "generator": (lambda: ResnetGenerator(ngf=8, n_blocks=3), lambda: plain.Generator(8, 3)),
    "discriminator": (lambda: NLayerDiscriminator(ndf=8), lambda: plain.Discriminator(8)),
    "deep discriminator": (lambda: NLayerDiscriminator(ndf=4, n_layers=4), lambda: plain.Discriminator(4, 4)),
}


def run(network, images):
    """Output, and gradients by name, of a loss that weighs every output differently."""
    images = images.clone().requires_grad_()
    output = network(images)
    weights = torch.linspace(-1, 1, output.numel(), dtype=output.dtype).view_as(output)
    (output * weights).sum().backward()
    return output.detach(), {"images": images.grad} | {name: p.grad for name, p in network.named_parameters()}


def errors(result, truth, skip):
    """Largest error of the output, and of each gradient relative to its largest element."""
    worst = (result[0] - truth[0]).abs().max().item()
    relative = {name: ((result[1][name].double() - gradient).abs().max() / gradient.abs().max()).item()
                for name, gradient in truth[1].items() if name not in skip}
    return worst, relative


@pytest.fixture(params=NETWORKS, ids=lambda name: name.replace(" ", "-"))
def networks(request):
    torch.manual_seed(0)
    ours, stock = (make() for make in NETWORKS[request.param])
    stock.load_state_dict(ours.state_dict(), strict=True)
    ours.load_state_dict(stock.state_dict(), strict=True)
    return ours, stock, 2 * torch.rand(2, 3, 64, 48) - 1


def test_output_and_gradients_in_double_precision(networks):
    ours, stock, images = networks
    # With n_layers=3 or 4 the last bias sees weights that sum to zero: its gradient is rounding noise.
    skip = plain.idle_biases(stock) | {"model.11.bias", "model.14.bias"}
    worst, relative = errors(run(ours.double(), images.double()), run(stock.double(), images.double()), skip)
    assert worst < 1e-12
    assert max(relative.values()) < 1e-9, relative


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last], ids=["nchw", "channels_last"])
def test_single_precision_is_no_worse_than_stock(networks, memory_format):
    ours, stock, images = networks
    skip = plain.idle_biases(stock) | {"model.11.bias", "model.14.bias"}
    truth = run(copy.deepcopy(stock).double(), images.double())
    stock_worst, stock_relative = errors(run(stock, images), truth, skip)
    output, gradients = run(ours.to(memory_format=memory_format), images.to(memory_format=memory_format))
    assert output.is_contiguous(memory_format=memory_format)
    worst, relative = errors((output, gradients), truth, skip)
    assert worst <= 2 * stock_worst + 1e-6
    for name, error in relative.items():
        assert error <= 2 * stock_relative[name] + 1e-5, name


def test_idle_biases_receive_no_gradient(networks):
    ours, stock, images = networks
    _, gradients = run(ours, images)
    idle = plain.idle_biases(stock)
    assert idle and {name for name, gradient in gradients.items() if gradient is None} == idle
