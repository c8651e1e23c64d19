"""What a recipe can do beside being trained; a caller says which of these it needs."""

from typing import Protocol, runtime_checkable

import torch
from torch import Tensor


@runtime_checkable
class Translates(Protocol):
    """Turns images of one domain into images of another."""

    @property
    def directions(self) -> tuple[str, ...]:
        """ "AtoB", "BtoA"."""

    def translate(self, images: Tensor, direction: str) -> Tensor:
        """Images (N, C, H, W) in [-1, 1] of one domain, in the other."""


@runtime_checkable
class Generates(Protocol):
    """Makes images of latent codes."""

    @property
    def name(self) -> str: ...
    @property
    def classes(self) -> int:
        """The classes that images can be asked of; 0 where the system is not conditional."""

    def latents(self, count: int, generator: torch.Generator | None = None) -> Tensor:
        """(count, latent_size) codes from N(0, 1)."""

    def decode(self, z: Tensor, labels: Tensor | None = None) -> Tensor:
        """Images (N, C, S, S) in [-1, 1] of codes."""


@runtime_checkable
class Reconstructs(Protocol):
    """Finds the codes of images, where `encodes` says so, and makes images of codes."""

    @property
    def encodes(self) -> bool: ...
    @property
    def classes(self) -> int: ...

    def encode(self, images: Tensor, labels: Tensor | None = None) -> Tensor:
        """Mean codes (N, latent_size) of images (N, C, S, S) in [-1, 1]."""

    def decode(self, z: Tensor, labels: Tensor | None = None) -> Tensor:
        """Images (N, C, S, S) in [-1, 1] of codes."""


@runtime_checkable
class Classifies(Protocol):
    """Names the class of an image."""

    def classify(self, images: Tensor) -> Tensor:
        """Logits (N, K) of the classes, of images (N, C, S, S) in [-1, 1]."""


__all__ = ["Classifies", "Generates", "Reconstructs", "Translates"]
