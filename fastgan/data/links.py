"""Which links to folders are followed: those that stay inside of the data."""

from __future__ import annotations

import os
from pathlib import Path

ANYWHERE = Path(os.path.abspath(os.sep))
LEFT_OUT = "folders elsewhere by links (--follow-links reads them)"


def leads_out(folder: str | Path, inside: str | Path) -> bool:
    """Whether a folder, its links followed, lies outside of another. Nothing lies outside of ``ANYWHERE``."""
    if inside == ANYWHERE:
        return False
    return not Path(os.path.realpath(folder)).is_relative_to(os.path.realpath(inside))
