"""What systems share that make small images out of a latent code."""

from abc import abstractmethod
from collections.abc import Mapping
from typing import ClassVar, TypeVar

import torch
from torch import Tensor

from ._base import Batch, Recipe
from ._options import LatentOptions

LatentT = TypeVar("LatentT", bound=LatentOptions)

SHOWN = 8  # pictures of each row of a sample grid, where there are no classes to show


class LatentRecipe(Recipe[LatentT]):
    """A recipe with a latent space: `decode` makes images of codes, and where `encodes` is true, `encode` codes of
    images.

    A subclass gives `_generate` (and `_encode`). Batches have "image" (N, C, S, S) in [-1, 1] and "label" (N,) int64.
    """

    data_kind = "labelled"
    drop_last = True
    encodes: ClassVar[bool] = False

    @property
    def latent_size(self) -> int:
        """The length of a code."""
        return self.options.latent_size

    @property
    def classes(self) -> int:
        """The classes that images can be asked of; 0 where the system is not conditional."""
        return 0

    def latents(self, count: int, generator: torch.Generator | None = None) -> Tensor:
        """(count, latent_size) codes from N(0, 1), on the networks' device.

        Drawn there, by torch's global generator; or by `generator`, where that is: a seed of a CPU generator gives the
        same codes on every device.
        """
        weight = self._weight()
        place = weight.device if generator is None else generator.device
        return torch.randn(count, self.latent_size, generator=generator, device=place).to(weight)

    def decode(self, z: Tensor, labels: Tensor | None = None) -> Tensor:
        """Images (N, C, S, S) in [-1, 1] of codes (N, latent_size); evaluation mode, no gradients, fp32.

        `labels` (N,) int64 are the classes to show, which a conditional system needs and another one takes none of;
        (N, classes) float are mixtures of them. Raises ValueError for codes or labels that do not fit.
        """
        if z.dim() != 2 or z.shape[1] != self.latent_size:
            raise ValueError(f"codes of {self.name} are (N, {self.latent_size}), got {tuple(z.shape)}")
        weight = self._weight()
        with self.evaluating(), self.precision.autocast(weight.device):
            return self._generate(z.to(weight), self._checked(labels, len(z))).float()

    def encode(self, images: Tensor, labels: Tensor | None = None) -> Tensor:
        """Mean codes (N, latent_size) of images (N, C, S, S) in [-1, 1]; evaluation mode, no gradients, fp32.

        `labels` (N,) int64 are the images' classes, which a conditional system needs. Raises ValueError where
        the system has no encoder, and for images or labels that do not fit.
        """
        if not self.encodes:
            raise ValueError(f"{self.name} has no encoder: it makes images of codes, not codes of images")
        self.check_images(*images.shape[-2:])
        weight = self._weight()
        with self.evaluating(), self.precision.autocast(weight.device):
            return self._encode(images.to(weight), self._checked(labels, len(images))).float()

    @abstractmethod
    def _generate(self, z: Tensor, labels: Tensor | None) -> Tensor:
        """Images in [-1, 1] of codes, in whatever mode the networks are."""

    def _encode(self, images: Tensor, labels: Tensor | None) -> Tensor:
        raise NotImplementedError

    def sample(self, batch: Batch) -> dict[str, Tensor]:
        """The images of the batch, what an encoder makes of them, and images of codes that stay the same for the run's
        life: one of each class for each row's code, or eight codes a row."""
        real = batch["image"]
        count = len(real)
        pictures = {"real": real}
        if self.encodes:
            labels = batch["label"] if self.classes else None
            pictures["rebuilt"] = self.decode(self.encode(real, labels), labels)
        fixed = torch.Generator().manual_seed(0)
        if self.classes:
            z = self.latents(count, fixed)
            shown = {str(k): self.decode(z, torch.full((count,), k)) for k in range(self.classes)}
        else:
            z = self.latents(count * SHOWN, fixed).unflatten(0, (SHOWN, count))
            shown = {f"sample {k + 1}": self.decode(z[k]) for k in range(SHOWN)}
        return pictures | shown

    def check_images(self, height: int, width: int) -> None:
        side = self.options.image_size
        if (height, width) != (side, side):
            raise ValueError(
                f"images of {height}x{width} (height x width) do not fit {self.name}, whose networks were "
                f"built for {side}x{side}; give it images of that size"
            )

    def _checked(self, labels: Tensor | None, count: int) -> Tensor | None:
        if not self.classes:
            if labels is not None:
                raise ValueError(f"{self.name} is not conditional on a class: call it without labels")
            return None
        if labels is not None and labels.is_floating_point() and labels.shape == (count, self.classes):
            return labels.to(self._weight())
        if labels is None or labels.is_floating_point() or labels.shape != (count,):
            shape = "none" if labels is None else str(tuple(labels.shape))
            raise ValueError(
                f"{self.name} needs a class for each of {count} images, labels of shape ({count},), got {shape}"
            )
        if count and not (int(labels.min()) >= 0 and int(labels.max()) < self.classes):
            raise ValueError(f"classes run from 0 to {self.classes - 1}, got {sorted(set(labels.tolist()))}")
        return labels.to(self._weight().device)

    def _weight(self) -> Tensor:
        """A weight, whose device and dtype codes and images take."""
        return next(next(iter(self.networks.values())).parameters())


def small_images(
    batch_size: int, *, laptop: Mapping[str, object], gpu: Mapping[str, object] | None = None
) -> dict[str, dict[str, object]]:
    """The presets of a recipe on small images: what all of them share, and what the built-in set changes."""
    paper: dict[str, object] = {"batch_size": batch_size, "sample_count": 8}
    return {"paper": paper, "laptop": paper | dict(laptop), "gpu": paper | dict(gpu or {})}


__all__ = ["LatentRecipe", "LatentT", "small_images"]
