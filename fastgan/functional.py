"""The public functions: fused ops with the argument order of ``torch.nn.functional``.

Every function is differentiable twice and more, keeps the dtype and the memory layout of its input (NCHW or
channels_last), and runs under autocast, ``torch.compile(fullgraph=True)`` and ``torch.export``. Sums and statistics are
taken in float32 (float64 for float64 input), without atomics: two runs give the same bits.

torch.fx records a function as one call where it is called by this module, as ``fastgan.functional.conv2d``; a module
that imports it by name says ``torch.fx.wrap("conv2d")``.
"""

from __future__ import annotations

from torch import fx

from .ops._norm import ACTIVATIONS as ACTIVATIONS
from .ops.batch_norm import batch_norm
from .ops.conv2d import conv2d
from .ops.conv_norm_act import NORMS as NORMS
from .ops.conv_norm_act import PADDING_MODES as PADDING_MODES
from .ops.conv_norm_act import conv_norm_act
from .ops.conv_transpose2d import conv_transpose2d
from .ops.instance_norm import instance_norm
from .ops.losses import bce_with_logits, l1_loss, mse_loss
from .ops.reflection_pad import reflection_pad2d
from .ops.reflection_pad_conv2d import reflection_pad_conv2d

__all__ = [
    "batch_norm",
    "bce_with_logits",
    "conv2d",
    "conv_norm_act",
    "conv_transpose2d",
    "instance_norm",
    "l1_loss",
    "mse_loss",
    "reflection_pad2d",
    "reflection_pad_conv2d",
]

for _name in __all__:
    fx.wrap(_name)  # torch.fx records a call as a whole
