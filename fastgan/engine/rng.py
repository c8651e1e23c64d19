"""The state of every random number generator a run can draw from."""

from __future__ import annotations

import contextlib
import random
from collections.abc import Iterator
from typing import Any

import numpy
import torch


def state() -> dict[str, Any]:
    """The global generators of python, numpy, torch and each GPU, as torch.load(weights_only=True) takes them."""
    name, words, position, has_gauss, gauss = numpy.random.get_state()
    return {
        "python": random.getstate(),
        "numpy": (name, torch.from_numpy(words.astype("int64")), int(position), int(has_gauss), float(gauss)),
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_initialized() else [],
    }


def restore(state: dict[str, Any]) -> None:
    """Set the generators to a :func:`state`. GPUs that this machine or the state lacks are left alone."""
    version, words, gauss = state["python"]
    random.setstate((version, tuple(words), gauss))
    name, words, position, has_gauss, gauss = state["numpy"]
    numpy.random.set_state((name, words.numpy().astype("uint32"), position, has_gauss, gauss))
    torch.set_rng_state(state["torch"])
    if torch.cuda.is_available():
        for index, gpu in enumerate(state["cuda"][:torch.cuda.device_count()]):
            torch.cuda.set_rng_state(gpu, index)


def seed_everything(seed: int) -> None:
    """Seed the global generators of python, numpy, torch and every GPU."""
    random.seed(seed)
    numpy.random.seed(seed % 2 ** 32)
    torch.manual_seed(seed)


@contextlib.contextmanager
def preserved() -> Iterator[None]:
    """Whatever is drawn inside the block, the generators continue after it as if nothing had been drawn."""
    before = state()
    try:
        yield
    finally:
        restore(before)
