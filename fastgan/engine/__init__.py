"""What every recipe shares: options, the training loop, checkpoints, logging, evaluation.

The engine knows a recipe and a data set only as the objects that a command hands to it; see :mod:`fastgan.train`.
"""
