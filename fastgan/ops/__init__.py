"""The fused ops: one file each, with its reference, its autograd Functions and its backends.

Importing this package defines the low-level ops in torch.library under ``fastgan::``, and registers the backends of
all.
"""

import importlib
import pkgutil

from . import _dispatch

__all__ = [module.name for module in pkgutil.iter_modules(__path__) if not module.name.startswith("_")]

for _name in __all__:  # every file, so that FASTGAN_BACKEND and fastgan.info know every op
    importlib.import_module(f".{_name}", __name__)
_dispatch.read_environment()
