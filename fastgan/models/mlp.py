"""Fully connected generator and discriminator: plain (Goodfellow et al. 2014), told a class (Mirza, Osindero 2014)."""

import itertools

import torch
from torch import Tensor, nn

from fastgan import nn as fnn

SLOPE = 0.2
EPS = 0.8  # of every batch norm in these generators: a large eps, as the common reference has it, not a momentum


class MLPGenerator(nn.Module):
    """Embedding(classes, classes) ++ z -> 128 -> 256 -> 512 -> 1024 -> image, leaky ReLU 0.2, tanh.

    Input (N, latent_size), and where `classes` is not 0 labels (N,) int64, or mixtures of classes (N, classes) float;
    output (N, channels, image_size, image_size) in [-1, 1]. Batch norm (eps 0.8) from the second layer on, in one pass
    with its activation; the layers before it have no bias, which the norm would take out again.
    """

    def __init__(self, latent_size: int = 100, channels: int = 1, image_size: int = 28, classes: int = 0):
        super().__init__()
        self.embedding = nn.Embedding(classes, classes) if classes else None
        self.shape = (channels, image_size, image_size)
        layers = [nn.Linear(latent_size + classes, 128), nn.LeakyReLU(SLOPE)]
        for width in (128, 256, 512):
            layers += [
                nn.Linear(width, 2 * width, bias=False),
                fnn.BatchNorm1d(2 * width, eps=EPS, activation="leaky_relu", negative_slope=SLOPE),
            ]
        layers += [nn.Linear(1024, channels * image_size**2), nn.Tanh()]
        self.model = nn.Sequential(*layers)

    def forward(self, z: Tensor, labels: Tensor | None = None) -> Tensor:
        if self.embedding is not None:
            assert labels is not None
            mixed = labels.is_floating_point()
            z = torch.cat([labels @ self.embedding.weight if mixed else self.embedding(labels), z], 1)
        return self.model(z).unflatten(1, self.shape)


class MLPDiscriminator(nn.Module):
    """Image, ++ Embedding(classes, classes) -> `widths` -> 1 logit, leaky ReLU 0.2.

    Input (N, channels, image_size, image_size), and labels (N,) int64 where `classes` is not 0; output (N, 1). Dropout
    stands before the activation of every hidden layer but the first.
    """

    def __init__(
        self,
        channels: int = 1,
        image_size: int = 28,
        classes: int = 0,
        widths: tuple[int, ...] = (512, 512, 512),
        dropout: float = 0.4,
    ):
        super().__init__()
        self.embedding = nn.Embedding(classes, classes) if classes else None
        layers = [nn.Linear(channels * image_size**2 + classes, widths[0]), nn.LeakyReLU(SLOPE)]
        for width, wider in itertools.pairwise(widths):
            layers += [nn.Linear(width, wider), nn.Dropout(dropout), nn.LeakyReLU(SLOPE)]
        layers.append(nn.Linear(widths[-1], 1))
        self.model = nn.Sequential(*layers)

    def forward(self, images: Tensor, labels: Tensor | None = None) -> Tensor:
        input = images.flatten(1)
        return self.model(input if self.embedding is None else torch.cat([input, self.embedding(labels)], 1))


__all__ = ["MLPDiscriminator", "MLPGenerator"]
