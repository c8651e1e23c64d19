"""Measured tables, one JSON file a GPU model; ``python -m fastgan.tune`` writes them, ``fastgan.ops`` reads them."""
