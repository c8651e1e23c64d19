"""batch_norm: statistics over the batch (or running ones), affine and activation in one op.

    y = act((x - mean) * rstd * weight + bias)

per channel, over samples and pixels, with the biased variance (Ioffe and Szegedy, 2015, algorithm 1), rstd = 1 /
sqrt(var + eps).
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from .instance_norm import activate


def reference(
    x: Tensor,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    training: bool = False,
    momentum: float | Tensor = 0.1,
    eps: float = 1e-5,
    activation: str = "none",
    negative_slope: float = 0.2,
) -> Tensor:
    """The definition, in stock torch: (N, C, ...) -> (N, C, ...); in training the running statistics are updated."""
    y = F.batch_norm(x, running_mean, running_var, weight, bias, training, float(momentum), eps)
    return activate(y, activation, negative_slope)


def batch_norm(
    x: Tensor,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    weight: Tensor | None,
    bias: Tensor | None,
    training: bool,
    momentum: float | Tensor,
    eps: float,
    activation: str,
    negative_slope: float,
) -> Tensor:
    """The op by the chosen backend; arguments already checked."""
    return reference(
        x, running_mean, running_var, weight, bias, training, momentum, eps, activation, negative_slope
    )
