"""The version, read by ``setup.py`` and by ``fastgan.__version__``."""

__version__ = "0.1.0"
