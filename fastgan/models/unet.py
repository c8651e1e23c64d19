"""The U-Net generator of pix2pix (Isola, Zhu, Zhou, Efros 2017, section 6.1.1), on fused operations."""

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fastgan import nn as fnn

from ._layers import FUSED_NORMS, check_norm, conv_before_norm, norm_and_activation, upsampling_before_norm
from ._published import PublishedNetwork, norm_between, plain_keys

SLOPE = 0.2


class UnetBlock(nn.Module):
    """Down by a 4x4 convolution, through the block inside, up by a 4x4 transposed one, and joined to what came in.

    (N, outer, H, W) -> (N, 2 outer, H, W): the block's input and its own output side by side, both after the ReLU with
    which every reader of them begins. `activated` says that the input has been through the leaky ReLU of the norm that
    made it; the leaky ReLU stays out then. ReLU after leaky ReLU is ReLU, so the joined input is the published one.

    State-dict keys: `model.1` and `model.5` are the convolutions (`model.3` the second one of the innermost block).
    """

    def __init__(self, outer: int, inner: int, inside: "UnetBlock | None", norm: str, dropout: bool, activated: bool):
        super().__init__()
        down = nn.Identity() if activated else nn.LeakyReLU(SLOPE)
        if inside is None:
            # The innermost convolution is followed by no norm: its bias, where the published network has one, counts.
            layers = [
                down,
                nn.Conv2d(outer, inner, 4, 2, 1, bias=norm == "instance"),
                nn.ReLU(),
                upsampling_before_norm(norm, inner, outer, 4),
            ]
        else:
            layers = [
                down,
                conv_before_norm(norm, outer, inner, 4, 2, 1),
                norm_and_activation(norm, inner, "leaky_relu" if norm in FUSED_NORMS else "none", SLOPE)[0],
                inside,
                nn.Identity(),
                upsampling_before_norm(norm, 2 * inner, outer, 4),
            ]
        normed, activation = norm_and_activation(norm, outer)
        layers.append(normed)
        if dropout:
            layers.append(nn.Dropout(0.5))
        self.model = nn.Sequential(*layers)
        self.up_activation = activation  # torch's own where the norm does not bring it

    def forward(self, input: Tensor) -> Tensor:
        return torch.cat([F.relu(input), self.up_activation(self.model(input))], 1)


class UnetOutermost(nn.Module):
    """The first convolution and the last transposed one, around the blocks; the published `model.model.*`."""

    def __init__(self, input_nc: int, output_nc: int, ngf: int, inside: UnetBlock, norm: str):
        super().__init__()
        self.model = nn.Sequential(
            nn.Conv2d(input_nc, ngf, 4, 2, 1, bias=norm == "instance"),
            inside,
            nn.Identity(),
            fnn.ConvTranspose2d(2 * ngf, output_nc, 4, 2, 1),
            nn.Tanh(),
        )

    def forward(self, input: Tensor) -> Tensor:
        return self.model(input)


class UnetGenerator(PublishedNetwork):
    """C64-C128-C256-C512-...-C512 down and up again, with skips; `num_downs` halvings (8: unet_256, 7: unet_128).

    Input (N, input_nc, H, W), output (N, output_nc, H, W) in [-1, 1]. H and W must be multiples of 2^num_downs
    (`check_images`). 4x4 convolutions of stride 2, leaky ReLU 0.2 down, ReLU up, dropout 0.5 in the middle blocks of
    8 ngf filters (num_downs - 5 of them). Parameters with ngf=64, 3 channels, batch norm: 54,413,955 (8), 41,828,995
    (7).

    Norm and activation of each side run in one pass; the skip takes its ReLU from the leaky one's result. State-dict
    keys are the published ones (`model.model.0.weight`, `model.model.1.model.1.weight`, ...); see PublishedNetwork.
    """

    def __init__(
        self,
        input_nc: int = 3,
        output_nc: int = 3,
        num_downs: int = 8,
        ngf: int = 64,
        norm: str = "batch",
        dropout: bool = False,
    ):
        super().__init__()
        if num_downs < 5:
            raise ValueError(f"a U-Net of these widths halves its images at least 5 times, got num_downs={num_downs}")
        check_norm(norm)
        self.num_downs = num_downs
        self.size_multiple = self.minimum_size = 2**num_downs
        fused = norm in FUSED_NORMS
        block = UnetBlock(8 * ngf, 8 * ngf, None, norm, False, fused)
        for _ in range(num_downs - 5):
            block = UnetBlock(8 * ngf, 8 * ngf, block, norm, dropout, fused)
        for outer, inner in ((4 * ngf, 8 * ngf), (2 * ngf, 4 * ngf), (ngf, 2 * ngf)):
            block = UnetBlock(outer, inner, block, norm, False, fused and outer != ngf)
        self.model = UnetOutermost(input_nc, output_nc, ngf, block, norm)

    def forward(self, input: Tensor) -> Tensor:
        return self.model(input)

    def check_images(self, height: int, width: int) -> None:
        """Raises ValueError for sizes that would not come out as they went in."""
        multiple = self.size_multiple
        if height % multiple or width % multiple or min(height, width) < multiple:
            good = tuple(max(multiple, size - size % multiple) for size in (height, width))
            raise ValueError(
                f"images of {height}x{width} (height x width) do not fit the U-Net generator, which "
                f"halves them {self.num_downs} times: both must be multiples of {multiple}; crop or "
                f"resize to {good[0]}x{good[1]}, say"
            )

    @classmethod
    def from_state_dict(cls, state_dict: Mapping[str, Tensor]) -> "UnetGenerator":
        """The generator that a published state dict describes, with its weights loaded.

        Dropout leaves no trace in a state dict: it is off. ValueError when the dict is not a U-Net generator's.
        """
        state = plain_keys(state_dict)
        first, last = state.get("model.model.0.weight"), state.get("model.model.3.weight")
        if first is None or last is None or last.dim() != 4 or "model.model.1.model.1.weight" not in state:
            raise ValueError(
                "this is not the state dict of a U-Net generator: "
                "it lacks model.model.0.weight, model.model.1.model.1.weight or model.model.3.weight"
            )
        depth, prefix = 1, "model.model.1.model"
        while f"{prefix}.1.weight" in state:
            depth, prefix = depth + 1, f"{prefix}.3.model"
        norm = norm_between(state, "model.model.0", "model.model.1.model.2")
        network = cls(first.shape[1], last.shape[1], depth, first.shape[0], norm)
        network.load_state_dict(state_dict)
        return network


__all__ = ["UnetBlock", "UnetGenerator"]
