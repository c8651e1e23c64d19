"""fastgan: generative adversarial networks from fused operations."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from ._version import __version__

if TYPE_CHECKING:
    from . import data, functional, models, nn, recipes
    from ._fuse import fuse
    from ._unfuse import unfuse
    from .evaluation.translation import load_generator
    from .ops._dispatch import backend, set_backend

__all__ = [
    "__version__", "backend", "data", "functional", "fuse", "load_generator", "models", "nn", "recipes", "set_backend",
    "unfuse",
]  # fmt: skip

# Imported at first use: the commands set how OpenMP's threads wait, which counts only before torch is imported.
_HOMES = {
    **dict.fromkeys(("data", "functional", "models", "nn", "recipes")),
    **dict.fromkeys(("backend", "set_backend"), "ops._dispatch"),
    "fuse": "_fuse",
    "load_generator": "evaluation.translation",
    "unfuse": "_unfuse",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'fastgan' has no attribute {name!r}")
    home = _HOMES[name]
    value = import_module(f".{name}", __name__) if home is None else getattr(import_module(f".{home}", __name__), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
