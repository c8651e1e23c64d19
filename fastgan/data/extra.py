"""The libraries of the extra ``images16``, which read what Pillow has no mode for."""

from __future__ import annotations

import importlib
import logging
from types import ModuleType


def library(name: str, what: str) -> ModuleType:
    """One of the libraries. OSError where it is not installed; ``what`` is the kind of file that it would read."""
    try:
        module = importlib.import_module(name)
    except ImportError:
        raise OSError(f"{what} needs {name}: pip install 'fastgan[images16]'") from None
    logging.getLogger(name).addHandler(logging.NullHandler())  # what is wrong with a file is in the error
    return module
