"""What torch's FLOP counter counts of our low-level ops: the products of the direct convolution, as of torch's own.

``torch.utils.flop_counter`` takes 0.1 s to import, which most programs do not: our formulas are registered when an op
of ours first meets a counter.
"""

from __future__ import annotations

import sys
from math import prod

import torch


def _products(images, weight) -> int:
    """Multiplications and additions where each element of the weight meets each pixel of (N, C, H, W) images."""
    return 2 * images[0] * prod(images[2:]) * prod(weight)


# Of shapes; the images are those on the side of a convolution that has been strided: the smaller ones.
_FORMULAS = {
    "conv_transpose2d": lambda x, weight, *_, out_shape, **__: _products(x, weight),
    "conv_transpose2d_input_gradient": lambda dy, weight, *_, out_shape, **__: _products(out_shape, weight),
    "conv_transpose2d_weight_gradient": lambda dy, x, *_, out_shape, **__: _products(x, out_shape),
    "reflection_pad_conv2d": lambda x, weight, *_, out_shape, **__: _products(out_shape, weight),
    "reflection_pad_conv2d_and_moments": lambda x, weight, *_, out_shape, **__: _products(out_shape[0], weight),
    "reflection_pad_conv2d_input_gradient": lambda dy, weight, *_, out_shape, **__: _products(dy, weight),
    "reflection_pad_conv2d_weight_gradient": lambda dy, x, *_, out_shape, **__: _products(dy, out_shape),
}
_told = False


def counters() -> list:
    """The FLOP counters of torch that are in force."""
    counting = sys.modules.get("torch.utils.flop_counter")
    if counting is None or torch.compiler.is_compiling() or not torch._C._len_torch_dispatch_stack():
        return []
    modes = torch.utils._python_dispatch._get_current_dispatch_mode_stack()
    return [mode for mode in modes if isinstance(mode, counting._FlopCounterMode)]


def tell_counters() -> None:
    """Give the formulas to the counters that are in force, and to those to come; called while a dispatch mode is."""
    global _told
    counting = sys.modules.get("torch.utils.flop_counter")
    if _told or counting is None:
        return
    _told = True
    for name, formula in _FORMULAS.items():
        counting.register_flop_formula(getattr(torch.ops.fastgan, name))(formula)
    for mode in counters():  # whose formulas are a copy, with the user's own before ours
        mode.counter.flop_registry = {**counting.flop_registry, **mode.counter.flop_registry}
