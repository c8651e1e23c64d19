"""The ResNet generator of CycleGAN (Zhu et al. 2017, section 7.2; after Johnson et al. 2016), on fused operations."""

from collections.abc import Mapping

from torch import Tensor, nn

from fastgan import nn as fnn

from ._layers import check_norm, conv_before_norm, norm_and_activation, upsampling_before_norm
from ._published import PublishedNetwork, norm_between, plain_keys


class ResnetBlock(fnn.Bordering):
    """Two 3x3 convolutions with reflected padding and a residual addition, no activation after it.

    With instance norm the residual is added inside the second norm's pass. In a generator the norms also write the
    reflected border that the next convolution reads, also across blocks.

    State-dict keys: `conv_block.1` and `conv_block.5` are the convolutions (`conv_block.6` with dropout).
    """

    def __init__(self, channels: int, norm: str = "instance", dropout: bool = False):
        super().__init__()
        layers = [
            nn.Identity(),
            conv_before_norm(norm, channels, channels, 3, padding=1, reflect=True),
            *norm_and_activation(norm, channels),
        ]
        if dropout:
            layers.append(nn.Dropout(0.5))
        layers += [
            nn.Identity(),
            conv_before_norm(norm, channels, channels, 3, padding=1, reflect=True),
            norm_and_activation(norm, channels, "none")[0],
        ]
        self.conv_block = fnn.Sequential(*layers)
        self.reads_border = norm == "instance"

    def forward(self, input: Tensor) -> Tensor:
        return self.through(fnn.Bordered(input), 0).image

    def border(self) -> int:
        return int(self.reads_border)

    def through(self, given: fnn.Bordered, halo: int) -> fnn.Bordered:
        if fnn.observed(self.conv_block):
            return fnn.Bordered(given.image + self.conv_block(given.image))
        return fnn.in_order(list(self.conv_block), given, halo, residual=given.image)


class ResnetGenerator(PublishedNetwork):
    """c7s1-ngf, d(2 ngf), d(4 ngf), R(4 ngf) x n_blocks, u(2 ngf), u(ngf), c7s1-output_nc, tanh.

    Input (N, input_nc, H, W), output (N, output_nc, H, W) in [-1, 1], same dtype and memory format. H and W must be
    multiples of 4 and at least 8 (`check_images`); other sizes come out as 4 * ceil(size / 4).

    Every instance norm runs with its ReLU in one pass, which also adds the residual and writes the reflected halo that
    the next convolution reads; channels_last stays channels_last. Batch norm runs with its ReLU in one pass, too; with
    norm "syncbatch" and "none" norms and activations are torch's own.

    Biases of convolutions that feed an instance norm have no effect on the output: they exist (for state dicts and
    parameter counts), but are frozen, and added only once unfrozen. Parameters with ngf=64, 3 channels: 11,378,179 (9
    blocks), 7,837,699 (6 blocks).

    State-dict keys are those of the published CycleGAN networks (`model.1.weight`, `model.10.conv_block.1.weight`,
    ...); published files load strictly, see PublishedNetwork.
    """

    size_multiple = 4
    minimum_size = 8

    def __init__(
        self,
        input_nc: int = 3,
        output_nc: int = 3,
        ngf: int = 64,
        norm: str = "instance",
        dropout: bool = False,
        n_blocks: int = 9,
    ):
        super().__init__()
        if n_blocks < 1:
            raise ValueError(f"a ResNet generator needs at least one block, got n_blocks={n_blocks}")
        check_norm(norm)
        # Identities stand where the published network has its padding and activation layers, so indices agree.
        layers = [
            nn.Identity(),
            conv_before_norm(norm, input_nc, ngf, 7, padding=3, reflect=True),
            *norm_and_activation(norm, ngf),
        ]
        for channels in (ngf, 2 * ngf):
            layers += [
                conv_before_norm(norm, channels, 2 * channels, 3, stride=2, padding=1),
                *norm_and_activation(norm, 2 * channels),
            ]
        layers += [ResnetBlock(4 * ngf, norm, dropout) for _ in range(n_blocks)]
        for channels in (4 * ngf, 2 * ngf):
            layers += [upsampling_before_norm(norm, channels, channels // 2), *norm_and_activation(norm, channels // 2)]
        layers += [nn.Identity(), fnn.ReflectionPadConv2d(ngf, output_nc, 7, padding=3), nn.Tanh()]
        self.model = fnn.Sequential(*layers)

    def forward(self, input: Tensor) -> Tensor:
        return self.model(input)

    def check_images(self, height: int, width: int) -> None:
        """Raises ValueError for sizes that would not come out as they went in."""
        multiple, least = self.size_multiple, self.minimum_size
        if height % multiple or width % multiple or min(height, width) < least:
            good = tuple(max(least, size - size % multiple) for size in (height, width))
            raise ValueError(
                f"images of {height}x{width} (height x width) do not fit the ResNet generator, which halves them "
                f"twice: both must be multiples of {multiple} and at least {least}; crop or resize to "
                f"{good[0]}x{good[1]}, say"
            )

    @classmethod
    def from_state_dict(cls, state_dict: Mapping[str, Tensor]) -> "ResnetGenerator":
        """The generator that a published state dict describes, with its weights loaded.

        Channels, ngf, number of blocks, norm and dropout are read off keys and shapes. ValueError when the dict is not
        a ResNet generator's, RuntimeError when it is near one and does not fit.
        """
        state = plain_keys(state_dict)
        blocks = sorted({int(key.split(".")[1]) for key in state if ".conv_block." in key})
        last = f"model.{blocks[-1] + 8}.weight" if blocks else None
        if last not in state or "model.1.weight" not in state or state["model.1.weight"].dim() != 4:
            raise ValueError(
                "this is not the state dict of a ResNet generator: "
                "it lacks model.1.weight, the conv_block keys or the last convolution"
            )
        second = state.get(f"model.{blocks[0]}.conv_block.6.weight")
        norm = norm_between(state, "model.1", "model.2")
        ngf, input_nc = state["model.1.weight"].shape[:2]
        network = cls(
            input_nc,
            state[last].shape[0],
            ngf,
            norm,
            dropout=second is not None and second.dim() == 4,
            n_blocks=len(blocks),
        )
        network.load_state_dict(state_dict)
        return network


__all__ = ["ResnetBlock", "ResnetGenerator"]
