"""What systems share that translate images."""

from typing import TypeVar, cast

from torch import Tensor, nn

from fastgan.models import discriminator, generator, statistics_of_each_image

from ._base import ChecksImages, Recipe
from ._options import TranslationOptions

TranslationT = TypeVar("TranslationT", bound=TranslationOptions)


class TranslationRecipe(Recipe[TranslationT]):
    """A recipe that translates images from one domain to another, with networks that its options name."""

    def make_generator(self, input_nc: int, output_nc: int) -> nn.Module:
        """The generator of the options."""
        o = self.options
        return generator(
            o.netG,
            input_nc,
            output_nc,
            ngf=o.ngf,
            norm=o.norm,
            dropout=o.dropout,
            init_type=o.init_type,
            init_gain=o.init_gain,
        )

    def make_discriminator(self, input_nc: int) -> nn.Module:
        """The discriminator of the options."""
        o = self.options
        return discriminator(
            o.netD,
            input_nc,
            ndf=o.ndf,
            n_layers=o.n_layers_D,
            norm=o.norm,
            init_type=o.init_type,
            init_gain=o.init_gain,
        )

    def translate_by(self, name: str, images: Tensor) -> Tensor:
        """What the network `name` makes of images (N, C, H, W) in [-1, 1]: evaluation mode, no gradients.

        Batch norms go by the statistics of each image; the dtype of the images is kept. Raises ValueError for a size
        that the network cannot take.
        """
        network = self.networks[name]
        height, width = images.shape[-2:]
        _checks_images(network).check_images(height, width)
        with self.evaluating(), statistics_of_each_image(network), self.precision.autocast(images.device):
            return network(images).to(images.dtype)

    def check_images(self, height: int, width: int) -> None:
        for network in self.networks.values():
            _checks_images(network).check_images(height, width)


def _checks_images(network: nn.Module) -> ChecksImages:
    """All networks that `generator` and `discriminator` build do, compiled ones too."""
    return cast(ChecksImages, network)


__all__ = ["TranslationRecipe"]
