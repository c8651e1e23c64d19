"""The judge of generated images: a small classifier of the training images, of stock layers, on the CPU.

Its labels say what an image shows, and the activations before its last layer are the space in which distributions of
images are compared. The same images give the same classifier: it is kept in the user's cache folder, under a hash of
them, and trained only when it is not there.
"""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fastgan._errors import UserError
from fastgan._files import write_atomically
from fastgan.training.checkpoint import read_tensors

VERSION = 1  # of the layers and of their training; a classifier of another version is trained anew
FEATURES = 64
EPOCHS, BATCH, RATE, SHIFT = 8, 128, 5e-3, 2
_AT_ONCE = 500


class Classifier(nn.Module):
    """Images (N, C, S, S) in [-1, 1], S from 4, to logits (N, classes)."""

    def __init__(self, channels: int, size: int, classes: int):
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(channels, 16, 3, padding=1),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Conv2d(16, 32, 3, padding=1),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Flatten(),
            nn.Linear(32 * (size // 4) ** 2, FEATURES),
            nn.ReLU(),
        )
        self.head = nn.Linear(FEATURES, classes)

    def forward(self, images: Tensor) -> Tensor:
        return self.head(self.body(images))

    @torch.inference_mode()
    def judge(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """(features (N, 64) float32, labels (N,) int64) of images on any device."""
        features = torch.cat([self.body(part.float().cpu()) for part in images.split(_AT_ONCE)])
        return features, self.head(features).argmax(1)


def classifier_of(images: Tensor, labels: Tensor, classes: int, *, cache: Path | None = None) -> Classifier:
    """The classifier of these training images, from the cache or trained now (seconds for 10,000 images of 28x28).

    Args:
        images: (N, C, S, S) in [-1, 1].
        labels: (N,) int64.
        cache: folder; default :func:`cache_folder`. Where it cannot be written to, nothing is kept.
    """
    if classes < 2 or images.shape[-1] != images.shape[-2] or images.shape[-1] < 4:
        raise UserError(
            f"generated images are judged by a classifier, and {classes} classes of images "
            f"{images.shape[-1]}x{images.shape[-2]} make none: it needs two classes, of square images"
        )
    path = (cache_folder() if cache is None else cache) / f"classifier-{_digest(images, labels, classes)}.pt"
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        classifier = Classifier(images.shape[1], images.shape[-1], classes)
        try:
            classifier.load_state_dict(read_tensors(path))
        except (UserError, RuntimeError, TypeError):  # none there, or a damaged one
            _train(classifier, images, labels)
            _keep(classifier, path)
    return classifier.eval()


def cache_folder() -> Path:
    """FASTGAN_CACHE, or else the folder fastgan in XDG_CACHE_HOME, or in ~/.cache."""
    own = os.environ.get("FASTGAN_CACHE")
    return Path(own) if own else Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "fastgan"


def _digest(images: Tensor, labels: Tensor, classes: int) -> str:
    made = (VERSION, FEATURES, EPOCHS, BATCH, RATE, SHIFT, classes, tuple(images.shape))
    digest = hashlib.sha256(repr(made).encode())
    for tensor in (images, labels):
        digest.update(tensor.contiguous().numpy().tobytes())
    return digest.hexdigest()[:32]


def _train(classifier: Classifier, images: Tensor, labels: Tensor) -> None:
    """Adam with a learning rate that falls to zero; each batch is shifted by up to two pixels."""
    steps = EPOCHS * -(-len(images) // BATCH)
    optimizer = torch.optim.Adam(classifier.parameters(), lr=RATE)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=RATE, total_steps=steps)
    size = images.shape[-1]
    for _ in range(EPOCHS):
        for chosen in torch.randperm(len(images)).split(BATCH):
            x, y = torch.randint(0, 2 * SHIFT + 1, (2,)).tolist()
            shifted = F.pad(images[chosen], (SHIFT,) * 4, mode="replicate")[..., y : y + size, x : x + size]
            optimizer.zero_grad()
            F.cross_entropy(classifier(shifted), labels[chosen]).backward()
            optimizer.step()
            schedule.step()


def _keep(classifier: Classifier, path: Path) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(path, lambda temporary: torch.save(classifier.state_dict(), temporary))
    except OSError:  # a home that is read-only costs the time to train again, no more
        pass
