"""What the op tests share: which backends to try, how to draw hostile inputs, and when a result is accurate."""

import contextlib
import functools
from collections.abc import Callable, Iterator, Sequence

import hypothesis.strategies as st
import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

import fastgan
from fastgan.ops import _dispatch
from fastgan.ops import instance_norm as norm

KERNELS = ("plain", "cpp", "triton")  # "plain" is tests/ops/plain.py
BACKENDS = ("reference", *KERNELS)
DTYPES = (torch.float32, torch.bfloat16, torch.float16, torch.float64)


def device_of(backend: str) -> str:
    return "cuda" if backend in ("triton", "cuda", "halo") and torch.cuda.is_available() else "cpu"


def slow(backend: str) -> bool:
    """Triton's interpreter: a thousand times slower than a kernel, so it gets the small cases only."""
    return backend == "triton" and device_of(backend) == "cpu"


@contextlib.contextmanager
def using(op: str, backend: str, *dtypes: torch.dtype) -> Iterator[str]:
    """Force ``backend`` for ``op``, skipping with its own reason where it cannot serve; gives the device."""
    device = device_of(backend)
    for dtype in dtypes or (torch.float32,):
        reason = _dispatch.refusal(op, backend, device, dtype)
        if reason:
            pytest.skip(f"{op} by {backend} in {dtype}: {reason}")
    with fastgan.backend(**{op: backend}):
        yield device


def watch(monkeypatch: pytest.MonkeyPatch, op: str, around: Callable) -> None:
    """While a test runs, call ``around(backend, direction, launch, *arguments)`` in place of each launcher of an op."""

    class Watched:
        def __init__(self, backend: _dispatch.Backend) -> None:
            self.backend = backend

        def __getattr__(self, direction: str) -> Callable:
            return functools.partial(around, self.backend.name, direction, getattr(self.backend._load(), direction))

    for backend in _dispatch.OPS[op].backends:
        monkeypatch.setitem(vars(backend), "launchers", Watched(backend))


def instance_norm(
    x: Tensor,
    running_mean: Tensor | None = None,
    running_var: Tensor | None = None,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    use_input_stats: bool = True,
    momentum: float = 0.1,
    eps: float = 1e-5,
    *,
    activation: str = "none",
    negative_slope: float = 0.2,
    residual: Tensor | None = None,
    halo: int = 0,
    interior: bool = False,
    moments: Tensor | None = None,
) -> Tensor | tuple[Tensor, Tensor | None]:
    """The op with what only blocks ask it for: a halo, the view inside it, moments that the convolution left."""
    if not halo and not interior and moments is None:
        return fastgan.functional.instance_norm(
            x,
            running_mean,
            running_var,
            weight,
            bias,
            use_input_stats,
            momentum,
            eps,
            activation=activation,
            negative_slope=negative_slope,
            residual=residual,
        )
    norm.check(x, running_mean, running_var, weight, bias, use_input_stats, eps, activation, residual)
    y, inner = norm.normalise(
        x,
        running_mean,
        running_var,
        weight,
        bias,
        use_input_stats,
        momentum,
        eps,
        activation,
        negative_slope,
        residual,
        halo,
        interior,
        moments,
    )
    return (y, inner) if interior else y


LAYOUTS = ("nchw", "nhwc", "interior", "sliced", "expanded", "transposed")
VALUES = ("normal", "off-centre", "far", "constant", "ties", "tiny")


def draw(
    shape: Sequence[int], layout: str = "nchw", values: str = "normal", dtype=torch.float64, device="cpu", seed=0
) -> Tensor:
    """A tensor of ``shape`` with hostile strides and values, the same on every device."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(tuple(shape), generator=generator, dtype=torch.float64)
    if values == "off-centre":
        x = -2.3 + 0.5 * x
    elif values == "far":
        x = 1e4 + x
    elif values == "constant":
        x = torch.full_like(x, 0.3)
    elif values == "ties":
        x = (1.5 * x).round()
    elif values == "tiny":
        x = 1e-30 * x
    x = x.to(device=device, dtype=dtype)
    if layout == "nhwc":
        return x.contiguous(memory_format=torch.channels_last)
    if layout == "interior":
        wide = torch.nn.functional.pad(x, (1, 2, 1, 2), value=float("nan"))
        return wide[:, :, 1 : 1 + x.shape[2], 1 : 1 + x.shape[3]]
    if layout == "sliced":
        return torch.stack((x, torch.full_like(x, float("nan"))), dim=-1)[..., 0]
    if layout == "expanded":
        return x[:1].expand(x.shape)
    if layout == "transposed":
        return x.transpose(2, 3).contiguous().transpose(2, 3)
    return x


def views(x: Tensor) -> Iterator[Tensor]:
    """x (N, C, H, W) in other strides: of dimensions of size 1, of one image as (H, W, C), reordered, with gaps."""
    yield x
    for format in (torch.contiguous_format, torch.channels_last):
        dense = x.contiguous(memory_format=format)
        yield dense.as_strided(x.shape, [7 if n == 1 else s for n, s in zip(x.shape, dense.stride())])
    if x.shape[0] == 1:
        yield x[0].permute(1, 2, 0).contiguous().permute(2, 0, 1).unsqueeze(0)
    for order in ((0, 1, 3, 2), (1, 0, 2, 3), (3, 2, 1, 0)):
        yield x.permute(order).contiguous().permute(order)
    yield torch.stack((x, x), -1)[..., 0]


def images(least: int = 1, most: int = 9) -> st.SearchStrategy[tuple[int, int, int, int]]:
    """Shapes (N, C, H, W)."""
    return st.tuples(st.integers(1, 3), st.integers(1, 5), st.integers(least, most), st.integers(least, most))


def dense_layout(x: Tensor) -> str:
    """ "nchw", "nhwc", "both" (one channel, say) or "other"."""
    nchw, nhwc = x.is_contiguous(), x.is_contiguous(memory_format=torch.channels_last)
    return {(True, True): "both", (True, False): "nchw", (False, True): "nhwc"}.get((nchw, nhwc), "other")


def gradients(function: Callable[..., Tensor], tensors: Sequence[Tensor | None], dy: Tensor | None = None):
    """(output, its gradients with respect to all ``tensors`` that are there), as autograd gives them."""
    leaves = [t.detach().requires_grad_() if t is not None else None for t in tensors]
    y = function(*leaves)
    present = [t for t in leaves if t is not None]
    if dy is None:
        dy = torch.ones_like(y)
    return y, torch.autograd.grad(y, present, dy.to(y.dtype))


# What a result may differ by when stock torch happens to be exact, in units of its largest value.
ROUNDING = {torch.float64: 1e-11, torch.float32: 2e-6, torch.bfloat16: 2**-8, torch.float16: 2**-11}


def assert_accurate(ours: Tensor, stock: Tensor, exact: Tensor, what: str = "", scale: float = 0.0) -> None:
    """Our largest error against ``exact`` (float64) is at most twice that of ``stock`` in our dtype, plus a rounding of
    the largest value, or of ``scale``, the size of the terms that cancel in it."""
    assert ours.shape == exact.shape, (what, ours.shape, exact.shape)
    assert ours.dtype == stock.dtype, (what, ours.dtype, stock.dtype)
    ours, stock, exact = (t.detach().cpu() for t in (ours, stock, exact))
    rounding = ROUNDING[ours.dtype]
    ours, stock, exact = ours.double(), stock.double(), exact.double()
    assert torch.equal(ours.isnan(), stock.isnan()), f"{what}: NaN in other places than stock torch"
    finite = exact.isfinite() & stock.isfinite()
    if not finite.any():
        return
    error, allowed = (ours - exact)[finite].abs().max(), (stock - exact)[finite].abs().max()
    bound = 2 * allowed + rounding * max(scale, exact[finite].abs().max().item())
    assert error <= bound, f"{what or 'result'}: error {error:.3g}, stock torch {allowed:.3g}, bound {bound:.3g}"


def assert_same(first, second) -> None:
    """Equal, bit for bit (NaN included)."""
    for a, b in zip(first, second, strict=True):
        assert a.dtype == b.dtype and torch.equal(a.nan_to_num(nan=12345.0), b.nan_to_num(nan=12345.0))


class Kernels(TorchDispatchMode):
    """``with Kernels() as seen:`` the names of the torch ops that run inside."""

    def __enter__(self) -> list[str]:
        self.names = []
        super().__enter__()
        return self.names

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        self.names.append(function.name())
        return function(*args, **(kwargs or {}))
