"""One call of a network in place of several: fewer and larger convolutions on the same weights."""

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.dropout import _DropoutNd


def each_alone(network: nn.Module) -> bool:
    """Whether what a network makes of an image depends on nothing but the image and the weights: no batch norm mixes it
    with others, and no dropout draws for it."""
    return not any(isinstance(module, (_BatchNorm, _DropoutNd)) for module in network.modules())


def together(network: nn.Module, *batches: Tensor) -> tuple[Tensor, ...]:
    """What `network` makes of each of the batches (N, C, H, W).

    One call on all of them where each image is seen alone and they are of one size: the same values and gradients, but
    for rounding. Otherwise a call for each, in order, so that batch statistics and dropout's draws are those of
    separate batches.
    """
    if len({images.shape[1:] for images in batches}) == 1 and each_alone(network):
        return network(torch.cat(batches)).split([len(images) for images in batches])
    return tuple(network(images) for images in batches)


__all__ = ["each_alone", "together"]
