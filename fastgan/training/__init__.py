"""A training run: the loop, its state on the disk, and what it reports.

The loop knows a recipe and a data set only as the objects that a command hands to it; see :mod:`fastgan.train`.
"""
