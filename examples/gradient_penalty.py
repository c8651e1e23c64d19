"""A gradient penalty through fused ops, against stock torch: python examples/gradient_penalty.py

The penalty of WGAN-GP is a loss on a gradient: training differentiates the backward pass of each op.
"""

import copy

import torch
from torch import Tensor, nn

import fastgan
import fastgan.nn as fnn


def critic(width: int = 8) -> nn.Module:
    return nn.Sequential(
        fnn.ReflectionPadConv2d(3, width, 3, padding=1),
        fnn.InstanceNorm2d(width, affine=True, activation="leaky_relu"),
        fnn.Conv2d(width, 1, 4, stride=2, padding=1),
    )


def gradient_penalty(network: nn.Module, images: Tensor) -> Tensor:
    images = images.detach().requires_grad_()
    (gradient,) = torch.autograd.grad(network(images).mean((1, 2, 3)).sum(), images, create_graph=True)
    return ((gradient.flatten(1).norm(dim=1) - 1) ** 2).mean()


def main() -> dict[str, float]:
    """By parameter, the relative difference of the penalty's gradient from that of stock torch."""
    torch.manual_seed(0)
    fused, images = critic(), torch.randn(4, 3, 16, 16)
    stock = fastgan.unfuse(copy.deepcopy(fused))
    gradients = []
    for network in (fused, stock):
        parameters = dict(network.named_parameters())
        del parameters["2.bias"]  # the gradient of the images does not depend on it
        found = torch.autograd.grad(gradient_penalty(network, images), list(parameters.values()), allow_unused=True)
        gradients.append(dict(zip(parameters, found)))
    ours, expected = gradients
    return {
        name: ((ours[name] - value).norm() / value.norm()).item()
        for name, value in expected.items()
        if value is not None and value.norm() > 1e-6
    }


if __name__ == "__main__":
    for name, difference in main().items():
        print(f"{name}: {difference:.1e}")
