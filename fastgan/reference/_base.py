"""What the reference models share: parts by name, one optimizer's step, the loss of a GAN, codes, initial weights."""

from abc import ABC, abstractmethod
from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim import Adam, Optimizer

Batch = Mapping[str, Tensor]
Losses = dict[str, Tensor]


class ReferenceModel(ABC):
    """A system in stock torch, with the arguments, the networks and the losses of the recipe of its name.

    Attributes:
        networks: by name; move them before the first step.
        optimizers: by name.
    """

    networks: dict[str, nn.Module]
    optimizers: dict[str, Optimizer]

    @abstractmethod
    def step(self, batch: Batch) -> Losses:
        """One full update on one batch; the losses by name, detached."""

    def update(self, name: str, loss: Tensor) -> None:
        """One step of the optimizer `name` on the gradients of `loss` alone."""
        self.optimizers[name].zero_grad()
        loss.backward()
        self.optimizers[name].step()


def adams(networks: Mapping[str, nn.Module], lr: float, beta1: float, beta2: float = 0.999) -> dict[str, Optimizer]:
    """An Adam for each network, by the same names."""
    return {name: Adam(network.parameters(), lr, (beta1, beta2)) for name, network in networks.items()}


def bce(logits: Tensor, label: float) -> Tensor:
    """Mean binary cross entropy of D(x) = sigmoid(logit): -log D(x) for label 1, -log(1 - D(x)) for label 0."""
    return F.binary_cross_entropy_with_logits(logits, torch.full_like(logits, label))


def noise(images: Tensor, size: int) -> Tensor:
    """Codes z ~ N(0, 1) of `size` numbers, one for each image."""
    return torch.randn(len(images), size, device=images.device).to(images)


def init_normal(network: nn.Module) -> nn.Module:
    """Weights from N(0, 0.02), scales of batch norm from N(1, 0.02), biases 0 (Radford et al. 2016, section 4)."""
    for module in network.modules():
        if isinstance(module, (nn.Conv2d, nn.ConvTranspose2d, nn.Linear)):
            nn.init.normal_(module.weight, 0.0, 0.02)
        elif isinstance(module, (nn.BatchNorm1d, nn.BatchNorm2d)):
            nn.init.normal_(module.weight, 1.0, 0.02)
        else:
            continue
        if module.bias is not None:
            nn.init.zeros_(module.bias)
    return network


def detached(losses: Losses) -> Losses:
    """The losses without their graphs."""
    return {name: loss.detach() for name, loss in losses.items()}
