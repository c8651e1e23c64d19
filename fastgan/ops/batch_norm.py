"""batch_norm: statistics over the batch (or running ones), affine and activation in one op.

    y = act((x - mean) * rstd * weight + bias)

per channel, over samples and pixels, with the biased variance (Ioffe and Szegedy, 2015, algorithm 1), rstd = 1 /
sqrt(var + eps).
"""

from __future__ import annotations

import math
import numbers
from collections.abc import Iterable

import torch
import torch.nn.functional as F
from torch import Tensor

from . import _recompute, _stock
from ._checks import check_activation, check_devices, check_per_channel
from ._dispatch import Call, Cpp, Op, Triton, choose, extension_ops, forced
from ._layout import accumulate_dtype, dense, empty, holds, is_channels_last, like
from ._library import apply, define, differentiate, run, with_signature
from ._norm import activate, differentiate_backward, per_channel, unsupported_parameters, update_running


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
    """The definition, in stock torch: (N, C, ...) -> (N, C, ...); in training the running statistics are updated.

    torch 2.13's own batch_norm gives wrong gradients on the CPU for some strides of the input, of the parameters and
    statistics, and of the gradient that reaches it (where a dimension of the input has size 1); has no second
    derivative for a bias without a weight; sums gradients of low precision in it; and takes fewer dtypes than our
    kernels. So it is given dense parameters of one dtype, float32 for low precision, and the input as (N, C, L) or in
    channels_last, with the strides of a new tensor, for which all gradients are right.
    """
    if not torch.compiler.is_compiling() and torch._C._are_functorch_transforms_active():  # they do not tell strides
        y = F.batch_norm(x, running_mean, running_var, weight, bias, training, float(momentum), eps)
        return activate(y, activation, negative_slope)
    images = _as_images(x)
    if holds(x.numel() == 0):  # stock torch's backward takes no tensor without channels
        affine = [t.sum().to(x.dtype) for t in (weight, bias) if t is not None]
        return sum(affine, images).view(x.shape)
    stats = [t for t in (running_mean, running_var) if t is not None]
    dtype = _parameter_dtype(x, (weight, bias, *stats))
    if x.device.type == "cpu" and x.dtype in (torch.bfloat16, torch.float16):
        images, dtype = images.float(), torch.float32
    if weight is not None:
        weight = _parameter(weight, x, dtype)
    if bias is not None:
        bias = _parameter(bias, x, dtype)
        if weight is None:
            weight = torch.ones_like(bias)
    own = [t if t.dtype == dtype and t.is_contiguous() else t.detach().to(dtype).contiguous() for t in stats]
    planes = images if is_channels_last(images) else images.flatten(2)
    mean, var = own or (None, None)
    y = F.batch_norm(planes, mean, var, weight, bias, training, float(momentum), eps)
    if training:
        for running, new in zip(stats, own):
            if new is not running:
                running.detach().copy_(new)
    return activate(y.view(x.shape), activation, negative_slope).to(x.dtype)


def _parameter_dtype(x: Tensor, parameters: Iterable[Tensor | None]) -> torch.dtype:
    """The one dtype that stock torch wants of parameters and statistics beside x."""
    if x.dtype in (torch.float32, torch.float64) or all(t is None or t.dtype == x.dtype for t in parameters):
        return x.dtype
    return torch.float32


def _parameter(t: Tensor, x: Tensor, dtype: torch.dtype) -> Tensor:
    """A weight or bias, dense and in ``dtype``; one that our kernels do not take either is left to torch's error."""
    return t.to(dtype).contiguous() if t.dtype in (x.dtype, torch.float32) else t


def _forward(x, weight, bias, eps, activation, negative_slope, backend):
    return OP[backend].launchers.forward(x, weight, bias, eps, activation, negative_slope)


def _forward_fake(x, weight, bias, eps, activation, negative_slope, backend):
    mean = x.new_empty((x.shape[1],), dtype=accumulate_dtype(x.dtype))
    return empty(x, tuple(x.shape)), mean, torch.empty_like(mean), torch.empty_like(mean)


def _apply(x, mean, rstd, weight, bias, activation, negative_slope, backend):
    return OP[backend].launchers.apply(x, mean, rstd, weight, bias, activation, negative_slope)


def _apply_fake(x, mean, rstd, weight, bias, activation, negative_slope, backend):
    return empty(x, tuple(x.shape))


def _backward(dy, x, mean, rstd, weight, bias, training, eps, activation, negative_slope, backend):
    dy = like(dy, x)  # here, as a compiled backward pass may meet another layout of x than was traced
    return OP[backend].launchers.backward(dy, x, mean, rstd, weight, bias, activation, negative_slope, training)


def _backward_fake(dy, x, mean, rstd, weight, bias, training, eps, activation, negative_slope, backend):
    absent = x.new_empty((0,), dtype=torch.float32)
    return (
        empty(x, tuple(x.shape)),
        torch.empty_like(weight) if weight is not None else absent,
        torch.empty_like(bias) if bias is not None else absent.clone(),
    )


# -> y; mean, rstd and the unbiased variance of the batch.
define(
    "batch_norm(Tensor x, Tensor? weight, Tensor? bias, float eps, str activation, float negative_slope, str backend) "
    "-> (Tensor, Tensor, Tensor, Tensor)",
    _forward,
    _forward_fake,
)
# -> y, with statistics that are constants.
define(
    "batch_norm_apply(Tensor x, Tensor mean, Tensor rstd, Tensor? weight, Tensor? bias, str activation, "
    "float negative_slope, str backend) -> Tensor",
    _apply,
    _apply_fake,
)
# -> dx, dweight, dbias; of the first op when training, else of the second.
define(
    "batch_norm_backward(Tensor dy, Tensor x, Tensor mean, Tensor rstd, Tensor? weight, Tensor? bias, "
    "bool training, float eps, str activation, float negative_slope, str backend) -> (Tensor, Tensor, Tensor)",
    _backward,
    _backward_fake,
)


@with_signature
class BatchNorm(torch.autograd.Function):
    """(y, mean, rstd, unbiased variance) of the batch; x dense."""

    @staticmethod
    def forward(x, weight, bias, eps, activation, negative_slope, backend):
        return torch.ops.fastgan.batch_norm.default(x, weight, bias, eps, activation, negative_slope, backend)

    @staticmethod
    def setup_context(ctx, inputs, output):
        x, weight, bias, *ctx.constants = inputs
        _, mean, rstd, variance = output
        ctx.mark_non_differentiable(mean, rstd, variance)
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(x, mean, rstd, weight, bias)

    @staticmethod
    def backward(ctx, dy, *_statistics):
        if dy is None:
            return (None,) * 7
        x, mean, rstd, weight, bias = ctx.saved_tensors
        eps, *rest = ctx.constants
        dx, dweight, dbias = run(BatchNormBackward, dy, x, mean, rstd, weight, bias, True, eps, *rest)
        return dx, dweight if weight is not None else None, dbias if bias is not None else None, *[None] * 4


@with_signature
class BatchNormApply(torch.autograd.Function):
    """y, from statistics that are constants; x dense."""

    @staticmethod
    def forward(x, mean, rstd, weight, bias, activation, negative_slope, backend):
        return torch.ops.fastgan.batch_norm_apply.default(
            x, mean, rstd, weight, bias, activation, negative_slope, backend
        )

    @staticmethod
    def setup_context(ctx, inputs, output):
        x, mean, rstd, weight, bias, *ctx.constants = inputs
        ctx.save_for_backward(x, mean, rstd, weight, bias)

    @staticmethod
    def backward(ctx, dy):
        x, mean, rstd, weight, bias = ctx.saved_tensors
        dx, dweight, dbias = run(BatchNormBackward, dy, x, mean, rstd, weight, bias, False, 0.0, *ctx.constants)
        dweight, dbias = dweight if weight is not None else None, dbias if bias is not None else None
        return dx, None, None, dweight, dbias, *[None] * 3


@with_signature
class BatchNormBackward(torch.autograd.Function):
    """(dx, dweight, dbias), itself differentiable to any order."""

    @staticmethod
    def forward(dy, x, mean, rstd, weight, bias, training, eps, activation, negative_slope, backend):
        return torch.ops.fastgan.batch_norm_backward.default(
            dy, x, mean, rstd, weight, bias, training, eps, activation, negative_slope, backend
        )

    @staticmethod
    def setup_context(ctx, inputs, output):
        *tensors, ctx.training, ctx.eps, ctx.activation, ctx.negative_slope, _backend_name = inputs
        ctx.save_for_backward(*tensors)
        ctx.set_materialize_grads(False)

    @staticmethod
    def backward(ctx, u, u_weight, u_bias):
        dy, x, mean, rstd, weight, bias = ctx.saved_tensors
        fixed = None if ctx.training else (per_channel(mean, x), per_channel(rstd, x))
        grad_dy, grad_x, grad_weight = differentiate_backward(
            u, u_weight, u_bias, dy.to(accumulate_dtype(x.dtype)), x, weight, bias,
            ctx.activation, ctx.negative_slope, (0, 2, 3), ctx.eps, fixed,
        )  # fmt: skip
        grad_dy = grad_dy.expand(x.shape).to(dy.dtype) if grad_dy is not None else None
        grad_x = grad_x.to(x.dtype) if grad_x is not None else None
        return grad_dy, grad_x, None, None, grad_weight, *[None] * 6


differentiate("batch_norm", lambda *args: apply(BatchNorm, *args))
differentiate("batch_norm_apply", lambda *args: apply(BatchNormApply, *args))
differentiate("batch_norm_backward", lambda *args: apply(BatchNormBackward, *args))

# Forward and backward with ReLU on two AVX-512 cores, torch 2.13, medians of stock (the better of in-place and not)
# over ours. NCHW float32: 0.96 at 2^18 elements, 1.11 at 0.4 million, 1.5 to 1.9 from 2^19 on. channels_last and
# bfloat16: 0.7 to 1.0 below 2^20, 0.9 to 1.2 there, 0.96 to 1.6 at 1.6 and 2 million. float64 goes with float32,
# unmeasured.
_LEAST_PLANES, _LEAST = 3 << 17, 3 << 19


class _Cpp(Cpp):
    def pays(self, call: Call) -> bool:
        x = call.x
        if x is None or x.dtype == torch.bfloat16:  # for which reference() computes in float32
            return True
        planes = x.dim() > 2 and x.is_contiguous()
        return holds(x.numel() == 0) or not holds(x.numel() < (_LEAST_PLANES if planes else _LEAST))


OP = Op(
    "batch_norm",
    _Cpp(
        extension_ops(forward="batch_norm", apply="batch_norm_apply", backward="batch_norm_backward"),
        "from 1.5 * 2^20 elements on (1.5 * 2^18 in NCHW, all in bfloat16); below, torch's own was measured as fast",
    ),
    Triton("batch_norm"),
)


def _as_images(x: Tensor) -> Tensor:
    """(N, C, ...) as (N, C, H, W), with strides that a kernel takes; a copy only where it needs one."""
    if x.dim() != 4:
        x = (x.unsqueeze(-1) if x.dim() == 2 else x.flatten(2)).unsqueeze(-1)
    return dense(x)


def compute(
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
    call = Call(x.device.type, x.dtype, forced("batch_norm"), x)
    backend = choose(OP, call, unsupported_parameters(x, weight, bias)).name
    if backend == "reference":
        return reference(
            x, running_mean, running_var, weight, bias, training, momentum, eps, activation, negative_slope
        )
    images = _as_images(x)
    weight = weight.contiguous() if weight is not None else None
    bias = bias.contiguous() if bias is not None else None
    if training:
        arguments = images, weight, bias, eps, activation, negative_slope, backend
        y, mean, _, variance = run(BatchNorm, *arguments)
        _recompute.remember(y, _again, *arguments)
        if running_mean is not None and running_var is not None and x.numel() > 0:
            update_running(running_mean, mean, momentum)
            update_running(running_var, variance, momentum)
    else:
        assert running_mean is not None and running_var is not None
        mean = running_mean.detach().to(accumulate_dtype(x.dtype)).contiguous()
        rstd = torch.rsqrt(running_var.detach().to(accumulate_dtype(x.dtype)).contiguous() + eps)
        y = run(BatchNormApply, images, mean, rstd, weight, bias, activation, negative_slope, backend)
    return y if x.dim() == 4 else y.view(x.shape)


def _again(*arguments) -> Tensor:
    return torch.ops.fastgan.batch_norm.default(*arguments)[0]


def batch_norm(
    input: Tensor,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    training: bool = False,
    momentum: float | Tensor = 0.1,
    eps: float = 1e-5,
    *,
    activation: str = "none",
    negative_slope: float = 0.2,
) -> Tensor:
    """Batch norm and activation in one pass.

    ``y = act((x - mean) / sqrt(var + eps) * weight + bias)`` with, in training, the mean and the biased variance of
    each channel over samples and pixels (Ioffe and Szegedy, 2015, "Batch Normalization", algorithm 1), otherwise the
    running ones.

    Args:
        input: (N, C), (N, C, L), (N, C, H, W) or of further dimensions, any floating dtype.
        running_mean, running_var: (C,), both or neither. In training they are updated in place, the variance with the
            unbiased one of the batch; otherwise they are the statistics used, and both are needed.
        weight, bias: (C,), the input's dtype or float32.
        momentum: weight of the new statistics in the running ones, a number or a tensor of one.
        activation: ``"none"``, ``"relu"`` or ``"leaky_relu"``.
        negative_slope: of the leaky ReLU.

    Returns:
        The shape, dtype and layout of the input.

    Raises:
        ValueError: one value a channel in training; running statistics that are missing; an eps that is not above 0 (in
            evaluation, not at least 0); a momentum that is no number; an unknown activation; parameters of the wrong
            shape or on another device.
    """
    if type(momentum) is float and _goes_to_stock(input, running_mean, running_var, weight, bias, training, eps):
        check_activation(activation)
        # As (N, C, L) where a size is 1 and a gradient may come, see reference().
        derived = input.requires_grad or (
            weight is not None and bias is not None and (weight.requires_grad or bias.requires_grad)
        )
        x = input.flatten(2) if derived and input.dim() > 3 and 1 in input.shape else input
        y = torch.batch_norm(x, weight, bias, running_mean, running_var, training, momentum, eps, False)
        return activate(y if x is input else y.view(input.shape), activation, negative_slope)
    _check_batch_norm(input, running_mean, running_var, weight, bias, training, eps, activation)
    if isinstance(momentum, numbers.Real):  # numpy's, too
        momentum = float(momentum)
    elif not isinstance(momentum, Tensor):
        raise ValueError(f"batch_norm needs a number or a tensor of one number as momentum, got {momentum!r}")
    check_devices(input, weight=weight, bias=bias, running_mean=running_mean, running_var=running_var)
    return compute(input, running_mean, running_var, weight, bias, training, momentum, eps, activation, negative_slope)


def _check_batch_norm(input, running_mean, running_var, weight, bias, training, eps, activation):
    if input.dim() < 2:
        raise ValueError(
            f"batch_norm needs an input of at least 2 dimensions (N, C, ...), got shape {tuple(input.shape)}"
        )
    if not input.is_floating_point():
        raise ValueError(f"batch_norm needs a floating-point input, got {input.dtype}")
    channels = input.shape[1]
    if training and input.shape[0] * math.prod(input.shape[2:]) == 1:
        raise ValueError(f"Expected more than 1 value per channel when training, got input size {tuple(input.shape)}")
    if not (eps > 0 if training else eps >= 0):
        raise ValueError(f"batch_norm needs an eps of at least 0, and above 0 in training; got {eps}")
    check_activation(activation)
    if (running_mean is None) != (running_var is None) or (not training and running_mean is None):
        raise ValueError("batch_norm needs running_mean and running_var together, and both when training is False")
    check_per_channel(channels, weight=weight, bias=bias, running_mean=running_mean, running_var=running_var)


def _goes_to_stock(input, running_mean, running_var, weight, bias, training, eps) -> bool:
    """Whether a call is small, right as it stands, and one that torch's own op answers as compute() does."""
    if not (_stock.plain("batch_norm", input) and 2 <= input.dim() <= 5):
        return False
    if not eps > 0 or (weight is None) != (bias is None):
        return False
    if (running_mean is None) != (running_var is None) or not (training or running_mean is not None):
        return False
    shape = (input.shape[1],)
    dtype = input.dtype
    for t in (weight, bias, running_mean, running_var):
        if t is not None and not (t.dtype is dtype and t.is_cpu and t.shape == shape and t.is_contiguous()):
            return False
    return not training or input.numel() > shape[0]
