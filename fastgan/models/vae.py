"""Encoder and decoder of a variational autoencoder for small images (Kingma, Welling 2014), plain or told a class."""

import torch
from torch import Tensor, nn

from fastgan import nn as fnn

SLOPE = 0.2
CHANNELS = 32  # of the planes between encoder and decoder, a quarter of the image's side


class Encoder(nn.Module):
    """conv 3x3 -> 16 stride 2, -> 32 stride 2, -> 32, each batch norm and leaky ReLU; heads for mean and log-sigma.

    Input images (N, channels, image_size, image_size), and with `classes` also a one-hot (N, classes), which comes to
    the image as planes of ones and zeros; output (mean, log_sigma), each (N, latent_size), from one pass. Convolutions
    have no bias, which the norm would take out again.
    """

    def __init__(self, channels: int = 1, image_size: int = 28, latent_size: int = 2, classes: int = 0):
        super().__init__()
        _check_side(image_size)
        layers = []
        for inputs, outputs, stride in ((channels + classes, 16, 2), (16, CHANNELS, 2), (CHANNELS, CHANNELS, 1)):
            layers += [
                nn.Conv2d(inputs, outputs, 3, stride=stride, padding=1, bias=False),
                fnn.BatchNorm2d(outputs, activation="leaky_relu", negative_slope=SLOPE),
            ]
        self.features = nn.Sequential(*layers, nn.Flatten())
        size = CHANNELS * (image_size // 4) ** 2
        self.mean = nn.Linear(size, latent_size)
        self.log_sigma = nn.Linear(size, latent_size)

    def forward(self, images: Tensor, one_hot: Tensor | None = None) -> tuple[Tensor, Tensor]:
        if one_hot is not None:
            planes = one_hot.to(images.dtype)[:, :, None, None].expand(-1, -1, *images.shape[-2:])
            images = torch.cat([images, planes], 1)
        features = self.features(images)
        return self.mean(features), self.log_sigma(features)


class Decoder(nn.Module):
    """Linear to 32 x 7 x 7, transposed conv 4x4 stride 2 -> 16, ReLU, transposed conv 4x4 stride 2 -> `channels`.

    Input codes (N, latent_size), and with `classes` also a one-hot (N, classes); output logits (N, channels,
    image_size, image_size), of which the sigmoid is the picture in [0, 1]. The first transposed convolution brings its
    ReLU in the same pass; an Identity keeps the index.
    """

    def __init__(self, channels: int = 1, image_size: int = 28, latent_size: int = 2, classes: int = 0):
        super().__init__()
        _check_side(image_size)
        side = image_size // 4
        self.model = nn.Sequential(
            nn.Linear(latent_size + classes, CHANNELS * side**2),
            nn.Unflatten(1, (CHANNELS, side, side)),
            fnn.ConvTranspose2d(CHANNELS, 16, 4, stride=2, padding=1, activation="relu"),
            nn.Identity(),
            fnn.ConvTranspose2d(16, channels, 4, stride=2, padding=1),
        )

    def forward(self, z: Tensor, one_hot: Tensor | None = None) -> Tensor:
        return self.model(z if one_hot is None else torch.cat([z, one_hot.to(z.dtype)], 1))


def _check_side(image_size: int) -> None:
    if image_size % 4:
        raise ValueError(
            f"images of {image_size}x{image_size} do not fit the autoencoder, which halves them twice: "
            "the side must be a multiple of 4"
        )


__all__ = ["Decoder", "Encoder"]
