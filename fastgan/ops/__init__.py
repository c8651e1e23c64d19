"""The fused ops: one file each, with its reference, its autograd Functions and its backends.

Importing this package defines the low-level ops in torch.library under ``fastgan::``.
"""

from . import _backend, batch_norm, conv_transpose2d, instance_norm, losses, reflection_pad, reflection_pad_conv2d

_backend.read_environment()

__all__ = ["batch_norm", "conv_transpose2d", "instance_norm", "losses", "reflection_pad", "reflection_pad_conv2d"]
