"""The compiled extension: what it was built for, and whether it can be loaded.

``FASTGAN_EXTENSION_FOLDER`` names a folder with another build of it than the installed one (``make sanitize``).
"""

from __future__ import annotations

import functools
import json
import os
from pathlib import Path

FOLDER = Path(os.environ.get("FASTGAN_EXTENSION_FOLDER") or Path(__file__).parent.parent).resolve()
REINSTALL = "pip install --no-build-isolation --no-deps"
_CAPABILITY_NAMES = {
    "avx512_bf16": "AVX-512 with BF16 products",
    "avx512": "AVX-512",
    "avx2": "AVX2",
    "default": "baseline vector code",
}


def build_info() -> dict:
    """What the last install recorded: ``{"built": True, "torch", "cuda", "compiler", "flags", "file"}``, or
    ``{"built": False, "reason"}``."""
    try:
        return json.loads((FOLDER / "_build_info.json").read_text())
    except FileNotFoundError:
        return {"built": False, "reason": f"this copy was never installed (run: {REINSTALL} -e . in its folder)"}
    except (OSError, ValueError) as error:
        return {"built": False, "reason": f"its build record {FOLDER / '_build_info.json'} cannot be read: {error}"}


@functools.cache
def load() -> tuple[bool, str]:
    """Load the extension once. Returns whether its ops can be called, and why (or why not).

    Never raises: without the extension the other backends serve.
    """
    info = build_info()
    if not info.get("built"):
        return False, f"not built: {info.get('reason', 'its build record gives no reason')}"
    import torch

    built_for, running = info.get("torch"), torch.__version__
    if built_for != running:
        return False, f"built for torch {built_for} but running {running}: reinstall fastgan with {REINSTALL}"
    try:
        torch.ops.load_library(FOLDER / info["file"])
        capability = torch.ops.fastgan_csrc.cpu_capability()
    except Exception as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        return False, f"failed to load: {reason}"
    return True, f"built for torch {built_for} with {info['compiler']}, {_CAPABILITY_NAMES[capability]} in use"
