"""What the kernels of the norms share, in both layouts: statistics of a lane, affine map, activation."""

import triton
import triton.language as tl


@triton.jit
def activate(z, slope, ACTIVATION: tl.constexpr):
    if ACTIVATION == "relu":
        z = tl.where(z <= 0, 0.0, z)
    elif ACTIVATION == "leaky_relu":
        z = tl.where(z <= 0, z * tl.full((), slope, z.dtype), z)
    return z


@triton.jit
def activation_gradient(gradient, z, slope, ACTIVATION: tl.constexpr):
    if ACTIVATION == "relu":
        gradient = tl.where(z > 0, gradient, 0.0)
    elif ACTIVATION == "leaky_relu":
        gradient = tl.where(z > 0, gradient, gradient * tl.full((), slope, gradient.dtype))
    return gradient


@triton.jit
def affine(n, weight, bias, HAS_WEIGHT: tl.constexpr, HAS_BIAS: tl.constexpr):
    if HAS_WEIGHT:
        n = n * weight
    if HAS_BIAS:
        n = n + bias
    return n


@triton.jit
def parameter(ptr, c, mask, PRESENT: tl.constexpr, DTYPE: tl.constexpr):
    """weight[c] or bias[c]; 1 stands in for an absent one and is never used in arithmetic."""
    if PRESENT:
        value = tl.load(ptr + c, mask=mask).to(DTYPE)
    else:
        value = tl.full((), 1.0, DTYPE)
    return value


@triton.jit
def welford(x, mask, t, mean, square, lanes):
    """Adds the t-th tile, counted from 0, to each lane's mean, sum of squared deviations and count."""
    deviation = tl.where(mask, x - mean, 0.0)
    mean += deviation * (tl.full((), 1.0, mean.dtype) / (t + 1))
    square += deviation * tl.where(mask, x - mean, 0.0)
    return mean, square, lanes + tl.where(mask, 1.0, 0.0)


@triton.jit
def rstd_of(square, count, eps, DTYPE: tl.constexpr):
    """0 for a constant plane without eps, whose deviations then are 0, too."""
    total = square / count + tl.full((), eps, DTYPE)
    return tl.where(total == 0, 0.0, tl.rsqrt(total)).to(DTYPE)
