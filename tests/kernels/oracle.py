"""What the launchers compute, in plain torch and fp64, written from the formulas and without the code under test."""

import torch
import torch.nn.functional as F
from hypothesis import Phase

FORMATS = {"nchw": torch.contiguous_format, "nhwc": torch.channels_last}
# The interpreter is too slow for hypothesis to shrink a failure.
PHASES = (Phase.explicit, Phase.generate)
DTYPES = (torch.float32, torch.bfloat16, torch.float16, torch.float64)


def epsilon(dtype):
    return torch.finfo(dtype).eps


def accumulator(dtype):
    return torch.float64 if dtype == torch.float64 else torch.float32


def activate(z, activation, slope):
    return {"none": lambda: z, "relu": lambda: F.relu(z), "leaky_relu": lambda: F.leaky_relu(z, slope)}[activation]()


def per_channel(parameter, default):
    return default if parameter is None else parameter.double()[None, :, None, None]


def reflect_pad(x, left, right, top, bottom):
    """Reflection padding by index lists, of any size below the side."""
    height, width = x.shape[2:]
    rows = list(range(top, 0, -1)) + list(range(height)) + list(range(height - 2, height - 2 - bottom, -1))
    cols = list(range(left, 0, -1)) + list(range(width)) + list(range(width - 2, width - 2 - right, -1))
    return x[:, :, rows][:, :, :, cols]


def fold(dy, left, right, top, bottom):
    """The adjoint of `reflect_pad`, as autograd has it."""
    height, width = dy.shape[2] - top - bottom, dy.shape[3] - left - right
    x = torch.zeros((*dy.shape[:2], height, width), dtype=dy.dtype, device=dy.device, requires_grad=True)
    with torch.enable_grad():
        return torch.autograd.grad(reflect_pad(x, left, right, top, bottom), x, dy)[0]


def norm_forward(x, weight, bias, residual, eps, activation, slope, halo):
    x = x.double()
    mean = x.mean((2, 3))
    rstd = 1 / torch.sqrt((x - mean[..., None, None]).square().mean((2, 3)) + eps)
    n = (x - mean[..., None, None]) * rstd[..., None, None]
    y = activate(n * per_channel(weight, 1) + per_channel(bias, 0), activation, slope)
    if residual is not None:
        y = y + residual.double()
    return reflect_pad(y, halo, halo, halo, halo), mean, rstd


def norm_backward(dy, x, mean, rstd, weight, bias, activation, slope, halo, dy_interior=None):
    """(dx, dweight, dbias, dresidual) for the given statistics; dy_interior: of the pixels without their halo, too."""
    dresidual = fold(dy.double(), halo, halo, halo, halo)
    if dy_interior is not None:
        dresidual = dresidual + dy_interior.double()
    n = (x.double() - mean.double()[..., None, None]) * rstd.double()[..., None, None]
    z = n * per_channel(weight, 1) + per_channel(bias, 0)
    below = {"none": 1.0, "relu": 0.0, "leaky_relu": slope}[activation]
    g = torch.where(z > 0, dresidual, dresidual * below)
    average = g.mean((2, 3), keepdim=True) + n * (g * n).mean((2, 3), keepdim=True)
    dx = rstd.double()[..., None, None] * per_channel(weight, 1) * (g - average)
    return dx, (g * n).sum((0, 2, 3)), g.sum((0, 2, 3)), dresidual


def loss(x, t, kind):
    """Elementwise value and derivative; t broadcasts."""
    x = x.double()
    t = torch.as_tensor(t, dtype=torch.float64, device=x.device).expand(x.shape)
    if kind == "l1":
        return (x - t).abs(), torch.sign(x - t)
    if kind == "mse":
        return (x - t).square(), 2 * (x - t)
    # (1 - t) softplus(x) + t softplus(-x): no cancellation where t is 0 or 1
    zero = torch.zeros_like(x)
    return torch.logaddexp(x, zero) * (1 - t) + torch.logaddexp(-x, zero) * t, torch.sigmoid(x) - t


def assert_within(actual, expected, bound, what):
    """Every finite expectation met to within `bound`, and NaN exactly where expected."""
    assert actual.shape == expected.shape, f"{what}: shape {tuple(actual.shape)}, not {tuple(expected.shape)}"
    actual, expected = actual.double(), expected.double()
    assert torch.equal(actual.isnan(), expected.isnan()), f"{what}: NaN in the wrong places"
    error = (actual - expected).abs().nan_to_num(0.0)
    worst = error.max().item() if error.numel() else 0.0
    assert worst <= bound, f"{what}: error {worst:.3g} above {bound:.3g}"
