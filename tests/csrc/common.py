"""Layouts, fp64 references and accuracy bounds for the compiled ops."""

import torch
import torch.nn.functional as F

FORMATS = {"nchw": torch.contiguous_format, "nhwc": torch.channels_last}
FLOATS = (torch.float32, torch.bfloat16, torch.float64)
# One unit in the last place of numbers around 1, with some room for a result that is off by several roundings.
ROUNDING = {torch.float32: 1e-6, torch.bfloat16: 8e-3, torch.float16: 1e-3, torch.float64: 2e-15}


def laid_out(x, layout):
    return x.contiguous(memory_format=FORMATS[layout])


def activate(z, activation, slope):
    if activation == "relu":
        return F.relu(z)
    return F.leaky_relu(z, slope) if activation == "leaky_relu" else z


def norm_reference(x, weight=None, bias=None, residual=None, eps=1e-5, activation="none", slope=0.2, halo=0):
    """instance_norm from its definition, in x's dtype (float64 for a reference), contiguous throughout."""
    centred = x - x.mean((2, 3), keepdim=True)
    z = centred * torch.rsqrt((centred * centred).mean((2, 3), keepdim=True) + eps)
    if weight is not None:
        z = z * weight.view(1, -1, 1, 1)
    if bias is not None:
        z = z + bias.view(1, -1, 1, 1)
    y = activate(z, activation, slope)
    if residual is not None:
        y = y + residual
    return F.pad(y, (halo,) * 4, mode="reflect") if halo else y


def wide(t):
    """A contiguous float64 leaf with t's values, or None."""
    return None if t is None else t.detach().double().contiguous().clone().requires_grad_()


def close(actual, expected, rounding, *, scale=None):
    """Whether actual is expected up to ``rounding`` of the largest number that went into it."""
    scale = max(1.0, expected.abs().max().item()) if scale is None else scale
    error = (actual.double() - expected.double()).abs().max().item()
    assert error <= rounding * scale, f"error {error:.3g} exceeds {rounding:.1g} of {scale:.3g}"
