"""One call on two batches against two calls: exact where images are seen alone, two calls where they are not."""

import copy

import pytest
import torch
from torch import nn

from fastgan.models import discriminator, generator
from fastgan.recipes._together import each_alone, together

NETWORKS = {  # and the sides of its images
    "resnet": (lambda: generator("resnet_6blocks", ngf=4), 24),
    "johnson": (lambda: generator("johnson_5blocks", ngf=4), 44),
    "unet": (lambda: generator("unet_128", ngf=2), 128),
    "patchgan": (lambda: discriminator("n_layers", ndf=4, n_layers=2), 32),
    "patchgan-no-norm": (lambda: discriminator("n_layers", ndf=4, n_layers=2, norm="none"), 32),
    "pixel": (lambda: discriminator("pixel", ndf=4), 16),
}


def batches(dtype, size, count=2):
    generator = torch.Generator().manual_seed(1)
    return [
        (2 * torch.rand(count, 3, size, size, generator=generator, dtype=torch.float64) - 1).to(dtype) for _ in range(2)
    ]


def outcome(network, call, size, dtype=torch.float64):
    """Outputs, and gradients by name, of a loss that weighs every output differently."""
    network = copy.deepcopy(network).to(dtype)
    images = [each.requires_grad_() for each in batches(dtype, size)]
    outputs = call(network, *images)
    loss = sum(
        (output * torch.linspace(-1, 2, output.numel(), dtype=dtype).view_as(output)).mean() for output in outputs
    )
    loss.backward()
    gradients = [image.grad for image in images] + [p.grad for p in network.parameters() if p.grad is not None]
    return [output.detach() for output in outputs] + gradients


def separately(network, *images):
    return tuple(network(each) for each in images)


def worst(results, truth):
    return max(
        ((result - exact).abs().max() / exact.abs().max().clamp(min=1e-8)).item()
        for result, exact in zip(results, truth, strict=True)
    )


@pytest.fixture(params=NETWORKS)
def network_and_size(request):
    torch.manual_seed(0)
    make, size = NETWORKS[request.param]
    return make(), size


def test_one_call_is_exact(network_and_size):
    network, size = network_and_size
    assert each_alone(network)
    truth, results = outcome(network, separately, size), outcome(network, together, size)
    assert worst(results[:2], truth[:2]) < 1e-12 and worst(results, truth) < 1e-8
    calls = []
    network.register_forward_hook(lambda *_: calls.append(1))
    together(network, *batches(torch.float32, size))
    assert len(calls) == 1


def test_one_call_rounds_no_worse(network_and_size):
    network, size = network_and_size
    truth = outcome(network, separately, size)
    apart = worst(outcome(network, separately, size, torch.float32), truth)
    assert worst(outcome(network, together, size, torch.float32), truth) <= 2 * apart + 1e-5


@pytest.mark.parametrize(
    "build",
    [lambda: generator("unet_128", ngf=2, norm="batch"), lambda: discriminator("n_layers", ndf=4, norm="batch")],
)
def test_batch_norm_takes_two_calls(build):
    """Its statistics are of a batch: one call on both would give other images."""
    torch.manual_seed(0)
    one = build()
    other = copy.deepcopy(one)
    images = batches(torch.float32, 128)
    assert not each_alone(one)
    for result, expected in zip(together(one, *images), separately(other, *images)):
        assert torch.equal(result, expected)
    assert all(torch.equal(a, b) for a, b in zip(one.state_dict().values(), other.state_dict().values()))
    joined, _ = other(torch.cat(images)).split(2)
    assert not torch.allclose(joined, other(images[0]), atol=1e-3)


def test_dropout_takes_two_calls_and_draws_as_they_do():
    torch.manual_seed(0)
    network = generator("resnet_6blocks", ngf=4, dropout=True)
    images = batches(torch.float32, 16)
    assert not each_alone(network)
    results = []
    for call in (together, separately):
        torch.manual_seed(1)
        results.append(call(network, *images))
    assert all(torch.equal(a, b) for a, b in zip(*results))


def test_sizes_that_differ_take_two_calls():
    network = discriminator("n_layers", ndf=2, n_layers=1)
    outputs = together(network, torch.zeros(1, 3, 16, 16), torch.zeros(1, 3, 20, 24))
    assert [tuple(output.shape[-2:]) for output in outputs] == [(6, 6), (8, 10)]


def test_batches_may_differ_in_length():
    network = nn.Conv2d(3, 2, 3)
    one, other = torch.rand(3, 3, 8, 8), torch.rand(1, 3, 8, 8)
    first, second = together(network, one, other)
    torch.testing.assert_close(first, network(one))
    torch.testing.assert_close(second, network(other))
