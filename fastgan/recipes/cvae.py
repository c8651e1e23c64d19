"""CVAE: a VAE conditioned on the class (Sohn, Lee, Yan 2015; Kingma et al. 2014, arXiv 1406.5298)."""

from dataclasses import dataclass
from typing import TypeVar

import torch
from torch import Tensor

from fastgan._options import option

from ._latent import small_images
from .vae import VAE, VAEOptions


@dataclass(frozen=True)
class CVAEOptions(VAEOptions):
    """Options of the recipe. Raises ValueError for values that cannot be."""

    n_classes: int = option(10, "classes of the images", least=2, from_data=True)
    decoder_only: bool = option(False, "tell the class to the decoder only")


CVAEOptionsT = TypeVar("CVAEOptionsT", bound=CVAEOptions)


class CVAE(VAE[CVAEOptionsT]):
    """The class comes one-hot to the encoder's input and to the code; the code keeps what the class does not say."""

    name = "cvae"
    summary = "variational autoencoder told the class (Sohn et al. 2015)"
    Options = CVAEOptions
    presets = small_images(128, laptop={"n_epochs": 10})

    @property
    def classes(self) -> int:
        return self.options.n_classes

    def _posterior(self, images: Tensor, labels: Tensor | None) -> tuple[Tensor, Tensor]:
        return self.networks["E"](images, None if self.options.decoder_only else self._mixture(labels))

    def _logits(self, z: Tensor, labels: Tensor | None) -> Tensor:
        return self.networks["G"](z, self._mixture(labels))

    def _mixture(self, labels: Tensor | None) -> Tensor:
        assert labels is not None  # of a recipe with classes there are some
        if labels.is_floating_point():
            return labels
        return labels[:, None] == torch.arange(self.classes, device=labels.device)  # F.one_hot asks for their range

    def _encoder_classes(self) -> int:
        return 0 if self.options.decoder_only else self.classes


__all__ = ["CVAE", "CVAEOptions", "CVAEOptionsT"]
