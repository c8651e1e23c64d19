"""Somebody else's model, computed by fastgan and given back: python examples/fuse_a_model.py"""

import copy

import torch
from torch import nn

import fastgan


class Residual(nn.Module):
    def __init__(self, width: int):
        super().__init__()
        self.body = nn.Sequential(
            nn.ReflectionPad2d(1),
            nn.Conv2d(width, width, 3),
            nn.InstanceNorm2d(width),
            nn.ReLU(),
            nn.ReflectionPad2d(1),
            nn.Conv2d(width, width, 3),
            nn.InstanceNorm2d(width),
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.body(x)


def somebody_elses_model(width: int = 8) -> nn.Module:
    return nn.Sequential(nn.Conv2d(3, width, 3, padding=1), Residual(width), Residual(width), nn.Conv2d(width, 3, 1))


def main() -> tuple[float, float]:
    """How far the fused model, and the model after unfuse, are from the original."""
    torch.manual_seed(0)
    original, images = somebody_elses_model(), torch.rand(1, 3, 32, 32)
    model = copy.deepcopy(original)
    optimizer = torch.optim.SGD(model.parameters(), 0.1)  # stays valid: fuse keeps the parameters

    fastgan.fuse(model, report=print)
    fused = model(images)
    fastgan.unfuse(model)
    stock = model(images)

    assert type(model[0]) is nn.Conv2d and optimizer.param_groups[0]["params"][0] is model[0].weight
    expected = original(images)
    return (fused - expected).abs().max().item(), (stock - expected).abs().max().item()


if __name__ == "__main__":
    print("differences: fused {:.1e}, after unfuse {:.1e}".format(*main()))
