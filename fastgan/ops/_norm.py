"""What instance norm and batch norm share: activations, running statistics, and the derivative of the backward pass."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from ._layout import accumulate_dtype

ACTIVATIONS = ("none", "relu", "leaky_relu")


def activate(z: Tensor, activation: str, negative_slope: float) -> Tensor:
    """The activations that the kernels fuse, in plain torch."""
    if activation == "relu":
        return F.relu(z)
    if activation == "leaky_relu":
        return F.leaky_relu(z, negative_slope)
    return z


def per_channel(v: Tensor, x: Tensor) -> Tensor:
    """(C,) as (1, C, 1, 1) in the accumulation dtype of x."""
    return v.to(accumulate_dtype(x.dtype)).view(1, -1, 1, 1)


def reciprocal_deviation(variance: Tensor, eps: float) -> Tensor:
    """1 / sqrt(variance + eps), and 0 where that is 1 / 0: a constant plane without eps is 0, as in torch."""
    square = variance + eps
    if eps > 0:
        return torch.rsqrt(square)
    constant = square == 0
    return torch.rsqrt(square.masked_fill(constant, 1.0)).masked_fill(constant, 0.0)


def update_running(running: Tensor, new: Tensor, momentum: float | Tensor) -> None:
    """running = (1 - momentum) running + momentum new, in place, rounded once, and without a derivative.

    An exported program with blocks of no_grad cannot be written to a file, so the tensors are detached.
    """
    running = running.detach()
    wide = running.to(new.dtype)
    wide.lerp_(new.detach(), momentum.to(new.dtype) if isinstance(momentum, Tensor) else momentum)
    if wide is not running:
        running.copy_(wide)


def unsupported_parameters(x: Tensor, weight: Tensor | None, bias: Tensor | None) -> str:
    """Why no kernel takes these parameters beside x, or the empty string."""
    for name, parameter in (("weight", weight), ("bias", bias)):
        if parameter is not None and parameter.dtype not in (x.dtype, torch.float32):
            return f"{name} is {parameter.dtype} beside an input of {x.dtype}"
    return ""


def differentiate_backward(
    u: Tensor | None,
    u_weight: Tensor | None,
    u_bias: Tensor | None,
    g0: Tensor,
    x: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    activation: str,
    negative_slope: float,
    over: tuple[int, ...],
    eps: float,
    fixed: tuple[Tensor, Tensor] | None = None,
) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
    """Gradients with respect to (g0, x, weight) of the backward pass, for those of its results (dx, dweight, dbias).

    With n = (x - mean) r, g = g0 act'(z) and the projection P(v) = v - mean(v) - n mean(n v), means taken ``over``
    these dimensions, the backward pass is dx = r w P(g), dweight = sum g n, dbias = sum g. P is symmetric, dn/dx = r P
    and dr/dx = -r^2 n / count; what follows is its transposed derivative, in torch ops, so that it can be
    differentiated again. act'' = 0 for the piecewise linear activations. With ``fixed`` mean and r, P is the identity
    and dr/dx = 0.

    g0 in the accumulation dtype; so are the first two results, which may have fewer elements than x (and are then to be
    expanded).
    """

    def mean(v: Tensor) -> Tensor:
        return v.mean(over, keepdim=True)

    def project(v: Tensor) -> Tensor:
        return v - mean(v) - n * mean(n * v) if fixed is None else v

    centred = x.to(g0.dtype)
    if fixed is None:
        centred = centred - mean(centred)
        centred = centred - mean(centred)  # what rounding left of a mean that is large beside the deviations
        r = reciprocal_deviation(mean(centred * centred), eps)
    else:
        centred = centred - fixed[0]
        r = fixed[1]
    n = centred * r
    w: Tensor | float = per_channel(weight, x) if weight is not None else 1.0
    slope: Tensor | float
    if activation == "none":
        slope = 1.0
    else:
        z = n.detach() * w + (per_channel(bias, x) if bias is not None else 0.0)
        slope = torch.ones_like(z).masked_fill(z <= 0, 0.0 if activation == "relu" else negative_slope)
    g = g0 * slope

    grad_g: Tensor | float = 0.0
    grad_n: Tensor | None = None
    grad_x: Tensor | None = None
    grad_weight: Tensor | None = None
    if u is not None:
        u = u.to(g0.dtype)
        projected = project(g)
        grad_g = r * w * project(u)
        if fixed is None:
            grad_n = -r * w * (u * mean(n * g) + g * mean(n * u))
            grad_x = -r * r * n * mean(u * w * projected)
        if weight is not None:
            grad_weight = (r * projected * u).sum((0, 2, 3)).to(weight.dtype)
    if u_weight is not None and weight is not None:
        grad_g = grad_g + per_channel(u_weight, x) * n
        grad_n = per_channel(u_weight, x) * g + (0.0 if grad_n is None else grad_n)
    if u_bias is not None and bias is not None:
        grad_g = grad_g + per_channel(u_bias, x)
    if grad_n is not None:
        through_n = r * project(grad_n)
        grad_x = through_n if grad_x is None else grad_x + through_n
    grad_g0 = grad_g * slope
    return grad_g0 if isinstance(grad_g0, Tensor) else None, grad_x, grad_weight
