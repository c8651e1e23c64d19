"""The image transformation network of Johnson, Alahi and Fei-Fei 2016 (supplementary, table 1), on fused operations."""

from torch import Tensor, nn

from fastgan import nn as fnn

from ._layers import check_norm, conv_before_norm, norm_and_activation, upsampling_before_norm

BLOCKS = 5
BORDER = 40  # what five blocks of two valid 3x3 convolutions at a quarter of the resolution eat: 4 * 5 * 2 pixels


class ValidBlock(nn.Module):
    """Two 3x3 convolutions without padding, and the identity's centre added: (N, C, H, W) -> (N, C, H - 4, W - 4)."""

    def __init__(self, channels: int, norm: str):
        super().__init__()
        self.conv_block = nn.Sequential(
            conv_before_norm(norm, channels, channels, 3),
            *norm_and_activation(norm, channels),
            conv_before_norm(norm, channels, channels, 3),
        )
        self.norm = norm_and_activation(norm, channels, "none")[0]

    def forward(self, input: Tensor) -> Tensor:
        hidden, centre = self.conv_block(input), input[..., 2:-2, 2:-2]
        if isinstance(self.norm, fnn.InstanceNorm2d):
            return self.norm(hidden, residual=centre)
        return self.norm(hidden) + centre


class JohnsonGenerator(nn.Module):
    """Reflected border of 40; 9x9 to `width` filters, 3x3 stride 2 to 2 and 4 widths; five blocks; up again; tanh.

    Input (N, input_nc, H, W), output (N, output_nc, H, W) in [-1, 1]: the blocks eat exactly the border. H and W must
    be multiples of 4 and larger than the border (`check_images`). The paper has width 32 and batch norm.
    """

    size_multiple = 4
    minimum_size = BORDER + 4

    def __init__(self, input_nc: int = 3, output_nc: int = 3, width: int = 32, norm: str = "batch"):
        super().__init__()
        check_norm(norm)
        layers = [
            fnn.ReflectionPad2d(BORDER),
            conv_before_norm(norm, input_nc, width, 9, padding=4),
            *norm_and_activation(norm, width),
        ]
        for channels in (width, 2 * width):
            layers += [
                conv_before_norm(norm, channels, 2 * channels, 3, stride=2, padding=1),
                *norm_and_activation(norm, 2 * channels),
            ]
        layers += [ValidBlock(4 * width, norm) for _ in range(BLOCKS)]
        for channels in (4 * width, 2 * width):
            layers += [upsampling_before_norm(norm, channels, channels // 2), *norm_and_activation(norm, channels // 2)]
        layers += [nn.Conv2d(width, output_nc, 9, padding=4), nn.Tanh()]
        self.model = nn.Sequential(*layers)

    def forward(self, input: Tensor) -> Tensor:
        return self.model(input)

    def check_images(self, height: int, width: int) -> None:
        """Raises ValueError for sizes that the border or the halvings do not fit."""
        multiple, least = self.size_multiple, self.minimum_size
        if height % multiple or width % multiple or min(height, width) < least:
            raise ValueError(
                f"images of {height}x{width} (height x width) do not fit the generator johnson_5blocks: "
                f"both must be multiples of {multiple} and at least {least}; crop or resize them"
            )


__all__ = ["JohnsonGenerator", "ValidBlock"]
