"""PatchGAN discriminators (Isola et al. 2017, section 6.1.2): one logit per overlapping patch, or per pixel."""

from collections.abc import Mapping

from torch import Tensor, nn

from ._layers import check_norm, conv_before_norm, norm_and_activation
from ._published import PublishedNetwork, norm_between, plain_keys

SLOPE = 0.2


class NLayerDiscriminator(PublishedNetwork):
    """4x4 convolutions: n_layers of stride 2, two of stride 1, LeakyReLU 0.2; the first has no norm.

    Input (N, input_nc, H, W), output (N, 1, H', W') logits (no sigmoid). n_layers=3 is the 70x70 PatchGAN: 128 -> 14,
    256 -> 30, 286 -> 33, 512 -> 62, and 2,764,737 parameters (ndf 64, instance norm, 3 channels) or 2,768,705 (batch
    norm, 6 channels). Instance norm and LeakyReLU run in one pass; the biases before it are frozen, and added
    only once unfrozen.

    State-dict keys are the published ones (`model.0.weight`, `model.2.weight`, ...); see PublishedNetwork.
    """

    def __init__(self, input_nc: int = 3, ndf: int = 64, n_layers: int = 3, norm: str = "instance"):
        super().__init__()
        if n_layers < 1:
            raise ValueError(f"a PatchGAN needs at least one strided layer, got n_layers={n_layers}")
        check_norm(norm)
        self.n_layers = n_layers
        layers = [nn.Conv2d(input_nc, ndf, 4, stride=2, padding=1), nn.LeakyReLU(SLOPE)]
        channels = ndf
        for depth in range(1, n_layers + 1):
            wider = ndf * min(2**depth, 8)
            layers += [
                conv_before_norm(norm, channels, wider, 4, stride=2 if depth < n_layers else 1, padding=1),
                *norm_and_activation(norm, wider, "leaky_relu", SLOPE),
            ]
            channels = wider
        layers.append(nn.Conv2d(channels, 1, 4, stride=1, padding=1))
        self.model = nn.Sequential(*layers)

    def forward(self, input: Tensor) -> Tensor:
        return self.model(input)

    def check_images(self, height: int, width: int) -> None:
        """Raises ValueError for images too small to give a single logit."""
        least = 3 * 2**self.n_layers
        if min(height, width) < least:
            raise ValueError(
                f"images of {height}x{width} (height x width) are too small for a PatchGAN with "
                f"n_layers={self.n_layers}, which needs {least} pixels each way; "
                "use larger images or fewer layers"
            )

    @classmethod
    def from_state_dict(cls, state_dict: Mapping[str, Tensor]) -> "NLayerDiscriminator":
        """The discriminator that a published state dict describes, with its weights loaded."""
        state = plain_keys(state_dict)
        convolutions = sorted(
            int(key.split(".")[1])
            for key, value in state.items()
            if key.startswith("model.") and key.endswith(".weight") and value.dim() == 4
        )
        if len(convolutions) < 3 or convolutions != [0, *range(2, 3 * len(convolutions) - 3, 3)]:
            raise ValueError(
                f"this is not the state dict of an n-layer PatchGAN: its convolutions are model.{convolutions}"
            )
        norm = norm_between(state, "model.2", "model.3")
        ndf, input_nc = state["model.0.weight"].shape[:2]
        network = cls(input_nc, ndf, len(convolutions) - 2, norm)
        network.load_state_dict(state_dict)
        return network


class PixelDiscriminator(PublishedNetwork):
    """1x1 convolutions only: one logit per pixel, (N, input_nc, H, W) -> (N, 1, H, W).

    State-dict keys are the published ones (`net.0.weight`, `net.2.weight`, `net.5.weight`).
    """

    def __init__(self, input_nc: int = 3, ndf: int = 64, norm: str = "instance"):
        super().__init__()
        check_norm(norm)
        self.net = nn.Sequential(
            nn.Conv2d(input_nc, ndf, 1),
            nn.LeakyReLU(SLOPE),
            conv_before_norm(norm, ndf, 2 * ndf, 1),
            *norm_and_activation(norm, 2 * ndf, "leaky_relu", SLOPE),
            nn.Conv2d(2 * ndf, 1, 1, bias=norm == "instance"),
        )

    def forward(self, input: Tensor) -> Tensor:
        return self.net(input)

    def check_images(self, height: int, width: int) -> None:
        """Every image of more than one pixel fits."""
        if height * width < 2:
            raise ValueError(f"images of {height}x{width} have nothing to normalise; use larger ones")

    @classmethod
    def from_state_dict(cls, state_dict: Mapping[str, Tensor]) -> "PixelDiscriminator":
        """The discriminator that a published state dict describes, with its weights loaded."""
        state = plain_keys(state_dict)
        if any(f"net.{i}.weight" not in state for i in (0, 2, 5)):
            raise ValueError(
                "this is not the state dict of a pixel discriminator: "
                "it lacks net.0.weight, net.2.weight or net.5.weight"
            )
        norm = norm_between(state, "net.2", "net.3")
        ndf, input_nc = state["net.0.weight"].shape[:2]
        network = cls(input_nc, ndf, norm)
        network.load_state_dict(state_dict)
        return network


__all__ = ["NLayerDiscriminator", "PixelDiscriminator"]
