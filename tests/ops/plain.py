"""The launchers' contracts in plain torch: a backend for tests, and the answer that every kernel is compared with.

It computes in float64 (in steps that differ from the stock ops'), keeps layouts, and knows nothing of autograd; behind
the low-level ops it proves the closed formulas of the autograd Functions on machines that have no kernels at all.
"""

import torch
from torch import Tensor

from fastgan.ops._layout import accumulate_dtype, empty, is_channels_last


def like(value: Tensor, pattern: Tensor) -> Tensor:
    """``value`` in the dense layout and the dtype of ``pattern``."""
    return empty(pattern, tuple(value.shape)).copy_(value)


def assert_dense(x: Tensor) -> None:
    assert x.is_contiguous() or x.is_contiguous(memory_format=torch.channels_last), x.stride()


def mirror(size: int, low: int, high: int) -> Tensor:
    """For each position of a padded row, the position that it shows."""
    index = torch.arange(-low, size + high).abs()
    return (size - 1) - ((size - 1) - index).abs()


class reflection_pad:
    @staticmethod
    def forward(x: Tensor, left: int, right: int, top: int, bottom: int) -> Tensor:
        assert_dense(x)
        rows, columns = mirror(x.shape[2], top, bottom), mirror(x.shape[3], left, right)
        return like(x[:, :, rows][:, :, :, columns], x)

    @staticmethod
    def backward(dy: Tensor, left: int, right: int, top: int, bottom: int) -> Tensor:
        assert_dense(dy)
        n, c, wide_h, wide_w = dy.shape
        h, w = wide_h - top - bottom, wide_w - left - right
        rows = torch.zeros(n, c, h, wide_w, dtype=torch.float64).index_add_(2, mirror(h, top, bottom), dy.double())
        dx = torch.zeros(n, c, h, w, dtype=torch.float64).index_add_(3, mirror(w, left, right), rows)
        return like(dx, dy)


class instance_norm:
    @staticmethod
    def slope(z: Tensor, activation: str, negative_slope: float) -> Tensor:
        below = {"none": 1.0, "relu": 0.0, "leaky_relu": negative_slope}[activation]
        return torch.ones_like(z).masked_fill(z <= 0, below)

    @staticmethod
    def affine(n: Tensor, weight: Tensor | None, bias: Tensor | None) -> Tensor:
        n = n if weight is None else n * weight.double().view(1, -1, 1, 1)
        return n if bias is None else n + bias.double().view(1, -1, 1, 1)

    @classmethod
    def forward(cls, x, weight, bias, residual, eps, activation, negative_slope, halo):
        assert_dense(x)
        if residual is not None:  # rows of x's inner layout, at free strides
            inner = ((3, 1),) if x.is_contiguous() else ((1, 1), (3, x.shape[1]))
            assert residual.dtype == x.dtype and all(residual.stride(i) == s for i, s in inner), residual.stride()
        wide = x.double()
        mean = wide.mean((2, 3))
        centred = wide - mean[:, :, None, None]
        square = centred.square().mean((2, 3)) + eps
        rstd = torch.where(square == 0, 0.0, square.rsqrt())
        z = cls.affine(centred * rstd[:, :, None, None], weight, bias)
        below = torch.zeros_like(z) if activation == "relu" else z * cls.slope(z, activation, negative_slope)
        y = torch.where(z <= 0, below, z)
        if residual is not None:
            y = y + residual.double()
        if halo:
            y = reflection_pad.forward(y, halo, halo, halo, halo)
        statistics = accumulate_dtype(x.dtype)
        return like(y, x), mean.to(statistics), rstd.to(statistics)

    @classmethod
    def backward(
        cls, dy, x, mean, rstd, weight, bias, activation, negative_slope, halo, need_dresidual, dy_interior=None
    ):
        assert_dense(x)
        assert dy_interior is None or halo and dy_interior.shape == x.shape and dy_interior.stride() == x.stride()
        assert dy.dtype == x.dtype and is_channels_last(dy) == is_channels_last(x)
        mean, rstd = mean.double()[:, :, None, None], rstd.double()[:, :, None, None]
        n = (x.double() - mean) * rstd
        g0 = reflection_pad.backward(dy.double(), halo, halo, halo, halo) if halo else dy.double()
        g0 = g0 if dy_interior is None else g0 + dy_interior.double()
        g = g0 * cls.slope(cls.affine(n, weight, bias), activation, negative_slope)
        along = (g * n).mean((2, 3), keepdim=True)
        dx = rstd * (g - g.mean((2, 3), keepdim=True) - n * along)
        if weight is not None:
            dx = dx * weight.double().view(1, -1, 1, 1)
        return (
            like(dx, x),
            torch.empty(0) if weight is None else (g * n).sum((0, 2, 3)).to(weight.dtype),
            torch.empty(0) if bias is None else g.sum((0, 2, 3)).to(bias.dtype),
            like(g0, x) if need_dresidual and halo else x.new_empty((0,)),
        )


class batch_norm:
    @staticmethod
    def channels(statistic: Tensor) -> Tensor:
        return statistic.double().view(1, -1, 1, 1)

    @classmethod
    def apply(cls, x, mean, rstd, weight, bias, activation, negative_slope):
        assert_dense(x)
        z = instance_norm.affine((x.double() - cls.channels(mean)) * cls.channels(rstd), weight, bias)
        below = torch.zeros_like(z) if activation == "relu" else z * instance_norm.slope(z, activation, negative_slope)
        return like(torch.where(z <= 0, below, z), x)

    @classmethod
    def forward(cls, x, weight, bias, eps, activation, negative_slope):
        channels = x.double().transpose(0, 1).flatten(1)
        if not x.numel():
            channels = torch.full((x.shape[1], 2), torch.nan, dtype=torch.float64)
        mean = channels.mean(1)
        square = (channels - mean[:, None]).square()
        rstd = (square.mean(1) + eps).rsqrt()
        statistics = accumulate_dtype(x.dtype)
        y = cls.apply(x, mean, rstd, weight, bias, activation, negative_slope)
        variance = square.sum(1) / (channels.shape[1] - 1)
        return y, mean.to(statistics), rstd.to(statistics), variance.to(statistics)

    @classmethod
    def backward(cls, dy, x, mean, rstd, weight, bias, activation, negative_slope, training):
        assert_dense(x)
        assert dy.dtype == x.dtype and is_channels_last(dy) == is_channels_last(x)
        n = (x.double() - cls.channels(mean)) * cls.channels(rstd)
        g = dy.double() * instance_norm.slope(instance_norm.affine(n, weight, bias), activation, negative_slope)
        over = (0, 2, 3)
        dx = g
        if training and x.numel():
            dx = g - g.mean(over, keepdim=True) - n * (g * n).mean(over, keepdim=True)
        dx = dx * cls.channels(rstd) * (cls.channels(weight) if weight is not None else 1.0)
        return (
            like(dx, x),
            torch.empty(0) if weight is None else (g * n).sum(over).to(weight.dtype),
            torch.empty(0) if bias is None else g.sum(over).to(bias.dtype),
        )


class losses:
    @staticmethod
    def forward(x, target, label, kind, reduction, want_grad):
        assert torch.empty_like(x).stride() == x.stride() and (target is None or target.stride() == x.stride())
        wide, t = x.double(), label if target is None else target.double()
        if kind == "l1":
            value = (wide - t).abs()
            slope = torch.where((wide - t).isnan(), torch.nan, torch.sign(wide - t))
        elif kind == "mse":
            value, slope = (wide - t).square(), 2 * (wide - t)
        else:
            value = wide.clamp_min(0) - wide * t + torch.log1p(torch.exp(-wide.abs()))
            slope = torch.sigmoid(wide) - t
        if reduction != "none":
            value = (value.sum() if reduction == "sum" else value.mean()).to(accumulate_dtype(x.dtype))
        else:
            value = torch.empty_like(x).copy_(value)
        return value, torch.empty_like(x).copy_(slope) if want_grad else x.new_empty((0,))


class reflection_pad_conv2d:
    """One product a tap, on slices of the padded image."""

    @staticmethod
    def taps(kernel, size, stride, dilation):
        """((kh, kw), the slices of the padded image that the tap sees)."""
        for kh in range(kernel[0]):
            for kw in range(kernel[1]):
                rows, columns = (
                    slice(k * d, k * d + (n - 1) * s + 1, s) for k, d, n, s in zip((kh, kw), dilation, size, stride)
                )
                yield (kh, kw), (slice(None), slice(None), rows, columns)

    @classmethod
    def forward(cls, x, weight, bias, stride, padding, dilation, precision, config):
        assert_dense(x)
        assert x.dtype == weight.dtype and precision in ("tf32", "ieee") and config is None
        (top, left), kernel = padding, weight.shape[2:]
        padded = reflection_pad.forward(x.double(), left, left, top, top)
        size = [(padded.shape[2 + i] - dilation[i] * (kernel[i] - 1) - 1) // stride[i] + 1 for i in (0, 1)]
        y = torch.zeros(x.shape[0], weight.shape[0], *size, dtype=torch.float64)
        for (kh, kw), seen in cls.taps(kernel, size, stride, dilation):
            y += torch.einsum("nchw,oc->nohw", padded[seen], weight[:, :, kh, kw].double())
        return like(y if bias is None else y + bias.double().view(1, -1, 1, 1), x)

    @classmethod
    def input_gradient(cls, dy, weight, size, stride, padding, dilation, precision, channels_last, config):
        format = torch.channels_last if channels_last else torch.contiguous_format
        assert dy.is_contiguous(memory_format=format), dy.stride()
        (top, left), shape = padding, (dy.shape[0], weight.shape[1], size[0] + 2 * padding[0], size[1] + 2 * padding[1])
        padded = torch.zeros(shape, dtype=torch.float64)
        for (kh, kw), seen in cls.taps(weight.shape[2:], dy.shape[2:], stride, dilation):
            padded[seen] += torch.einsum("nohw,oc->nchw", dy.double(), weight[:, :, kh, kw].double())
        dx = reflection_pad.backward(padded, left, left, top, top)
        return dx.to(dtype=dy.dtype).contiguous(memory_format=format)

    @classmethod
    def weight_gradient(cls, dy, x, kernel, stride, padding, dilation, precision, channels_last, config):
        assert dy.dtype == x.dtype and (dy.is_contiguous() or not x.is_contiguous())
        (top, left) = padding
        padded = reflection_pad.forward(x.double(), left, left, top, top)
        dweight = torch.zeros(dy.shape[1], x.shape[1], *kernel, dtype=torch.float64)
        for (kh, kw), seen in cls.taps(kernel, dy.shape[2:], stride, dilation):
            dweight[:, :, kh, kw] = torch.einsum("nohw,nchw->oc", dy.double(), padded[seen])
        format = torch.channels_last if channels_last else torch.contiguous_format
        return dweight.to(x.dtype).contiguous(memory_format=format)
