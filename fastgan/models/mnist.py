"""Convolutional networks for small images: the DCGAN pair of MNIST (after Radford et al. 2016), and a classifier."""

from torch import Tensor, nn

from fastgan import nn as fnn

from ._layers import norm_and_activation

UPSAMPLINGS = ("resize", "transposed")
CRITIC_NORMS = ("batch", "instance", "none")
SLOPE = 0.2


class DCGANGenerator(nn.Module):
    """FC latent -> 1024 BN tanh, FC -> 128 x 7 x 7 BN tanh, and twice up: 64 BN tanh, `channels` tanh.

    Input (N, latent_size), output (N, channels, image_size, image_size) in [-1, 1]. `upsample` "resize": nearest
    neighbour x2 and a 5x5 convolution; "transposed": a transposed convolution of 4x4, stride 2, padding 1. Layers
    before a batch norm have no bias, which the norm would take out again.
    """

    def __init__(self, latent_size: int = 100, channels: int = 1, image_size: int = 28, upsample: str = "resize"):
        super().__init__()
        if upsample not in UPSAMPLINGS:
            raise ValueError(f"unknown upsample {upsample!r}; choose one of {', '.join(UPSAMPLINGS)}")
        if image_size % 4:
            raise ValueError(
                f"images of {image_size}x{image_size} do not fit the DCGAN generator, which doubles them "
                "twice: the side must be a multiple of 4"
            )
        side = image_size // 4
        self.seed = nn.Sequential(
            nn.Linear(latent_size, 1024, bias=False),
            fnn.BatchNorm1d(1024),
            nn.Tanh(),
            nn.Linear(1024, 128 * side**2, bias=False),
            fnn.BatchNorm1d(128 * side**2),
            nn.Tanh(),
            nn.Unflatten(1, (128, side, side)),
        )
        self.up = nn.Sequential(
            *_doubling(upsample, 128, 64, bias=False),
            fnn.BatchNorm2d(64),
            nn.Tanh(),
            *_doubling(upsample, 64, channels, bias=True),
            nn.Tanh(),
        )

    def forward(self, z: Tensor) -> Tensor:
        return self.up(self.seed(z))


def _doubling(upsample: str, in_channels: int, out_channels: int, bias: bool) -> list[nn.Module]:
    if upsample == "transposed":
        return [fnn.ConvTranspose2d(in_channels, out_channels, 4, stride=2, padding=1, bias=bias)]
    return [nn.Upsample(scale_factor=2), nn.Conv2d(in_channels, out_channels, 5, padding=2, bias=bias)]


class DCGANDiscriminator(nn.Module):
    """conv 3x3 `channels` -> 64, norm, ReLU, maxpool 2; 64 -> 128 likewise; FC -> 1024, norm, ReLU; FC -> `outputs`.

    Input (N, channels, image_size, image_size), output (N, outputs) logits; 28x28 goes 26, 13, 11, 5. `features` gives
    the 1024 that the last layer reads. `norm` "batch" is the published one. "instance" normalises each image's own
    planes and leaves the fully connected layer without a norm, so that no image sees another: what a gradient penalty
    per image needs. "none" has no norm. Norm and ReLU run in one pass; layers before a norm have no bias.
    """

    def __init__(self, channels: int = 1, image_size: int = 28, outputs: int = 1, norm: str = "batch"):
        super().__init__()
        if norm not in CRITIC_NORMS:
            raise ValueError(f"unknown norm {norm!r}; choose one of {', '.join(CRITIC_NORMS)}")
        side = ((image_size - 2) // 2 - 2) // 2
        if side < 1:
            raise ValueError(
                f"images of {image_size}x{image_size} are too small for the DCGAN discriminator, which needs 10x10"
            )
        bias = norm == "none"
        self.features = nn.Sequential(
            nn.Conv2d(channels, 64, 3, bias=bias),
            *norm_and_activation(norm, 64),
            nn.MaxPool2d(2),
            nn.Conv2d(64, 128, 3, bias=bias),
            *norm_and_activation(norm, 128),
            nn.MaxPool2d(2),
            nn.Flatten(),
            nn.Linear(128 * side**2, 1024, bias=norm != "batch"),
            fnn.BatchNorm1d(1024, activation="relu") if norm == "batch" else nn.ReLU(),
        )
        self.logits = nn.Linear(1024, outputs)

    def forward(self, images: Tensor) -> Tensor:
        return self.logits(self.features(images))


class ConvClassifier(nn.Module):
    """conv 3x3 `channels` -> 32, leaky ReLU, maxpool 2; 32 -> 64 likewise; FC -> 1024, leaky ReLU; FC -> `outputs`.

    Input (N, channels, image_size, image_size), output (N, outputs) logits: D (1) and C (one per class) of CVAE-GAN.
    """

    def __init__(self, channels: int = 1, image_size: int = 28, outputs: int = 1):
        super().__init__()
        side = image_size // 4
        self.model = nn.Sequential(
            nn.Conv2d(channels, 32, 3, padding=1),
            nn.LeakyReLU(SLOPE),
            nn.MaxPool2d(2),
            nn.Conv2d(32, 64, 3, padding=1),
            nn.LeakyReLU(SLOPE),
            nn.MaxPool2d(2),
            nn.Flatten(),
            nn.Linear(64 * side**2, 1024),
            nn.LeakyReLU(SLOPE),
            nn.Linear(1024, outputs),
        )

    def forward(self, images: Tensor) -> Tensor:
        return self.model(images)


__all__ = ["CRITIC_NORMS", "UPSAMPLINGS", "ConvClassifier", "DCGANDiscriminator", "DCGANGenerator"]
