"""The state of every random number generator a run can draw from."""

from __future__ import annotations

import contextlib
import random
from collections.abc import Iterator
from typing import Any

import numpy
import torch

from fastgan._form import check_form

_NAME = "the checkpoint's state of the random generators"


def state() -> dict[str, Any]:
    """The global generators of python, numpy, torch and each GPU, as torch.load(weights_only=True) takes them."""
    numpys: Any = numpy.random.get_state()  # a tuple, or on request a dict
    name, words, position, has_gauss, gauss = numpys
    return {
        "python": random.getstate(),
        "numpy": (name, torch.from_numpy(words.astype("int64")), int(position), int(has_gauss), float(gauss)),
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_initialized() else [],
    }


def restore(state: dict[str, Any]) -> None:
    """Set the generators to a :func:`state`. GPUs that this machine or the state lacks are left alone.

    Raises:
        ValueError: it is none; no generator has changed then.
    """
    _check(state)
    version, words, gauss = state["python"]
    name, keys, *rest = state["numpy"]
    numpys = (name, keys.numpy().astype("uint32"), *rest)
    try:  # whatever else may be wrong, generators of our own notice first
        random.Random().setstate((version, words, gauss))
        numpy.random.RandomState().set_state(numpys)
        torch.Generator().set_state(state["torch"])
    except (TypeError, ValueError, RuntimeError, OverflowError) as error:
        raise ValueError(f"{_NAME} is damaged ({str(error).splitlines()[0]})") from None
    random.setstate((version, words, gauss))
    numpy.random.set_state(numpys)
    torch.set_rng_state(state["torch"])
    if torch.cuda.is_available():
        for index, gpu in enumerate(state["cuda"][: torch.cuda.device_count()]):
            torch.cuda.set_rng_state(gpu, index)


def _check(given: Any) -> None:
    """Raises ValueError unless ``given`` has the form of a state and numpy's part, which numpy takes as it
    is, points into its own words."""
    like = state()
    version, words, _ = like["python"]
    check_form(given, {**like, "python": tuple, "cuda": list}, _NAME)
    python = given["python"]
    check_form(python[:2], (version, words), f"{_NAME}.python")
    if len(python) != 3 or not isinstance(python[2], (float, type(None))):
        raise ValueError(f"{_NAME}.python ends with {python[2:]}, where a float or None belongs")
    for index, gpu in enumerate(given["cuda"]):
        if not isinstance(gpu, torch.Tensor) or gpu.dtype != torch.uint8:
            raise ValueError(f"{_NAME}.cuda.{index} is not a uint8 tensor")
    _, keys, position, has_gauss, _ = given["numpy"]
    if not (0 <= position <= len(keys) and has_gauss in (0, 1) and keys.min() >= 0 and keys.max() < 2**32):
        raise ValueError(f"{_NAME}.numpy is damaged: position {position} of {len(keys)} words")


def seed_everything(seed: int) -> None:
    """Seed the global generators of python, numpy, torch and every GPU."""
    random.seed(seed)
    numpy.random.seed(seed % 2**32)
    torch.manual_seed(seed)


@contextlib.contextmanager
def preserved() -> Iterator[None]:
    """Whatever is drawn inside the block, the generators continue after it as if nothing had been drawn."""
    before = state()
    try:
        yield
    finally:
        restore(before)
