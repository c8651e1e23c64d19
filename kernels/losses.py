"""L1, mean squared and binary cross-entropy (on logits) loss: value and gradient in one pass.

    l1   |x - t|
    mse  (x - t)^2
    bce  max(x, 0) - x t + log1p(exp(-|x|))

Sums are staged: every lane adds its elements, every program its lanes, and one program the programs' sums in fp64, each
in a fixed order. Nothing is atomic: results repeat bitwise.
"""

from typing import NamedTuple

import torch
import triton
import triton.language as tl

from ._common import accumulator_dtype, check_dtype, launch_options, on_device


@triton.jit
def _loss(x, t, KIND: tl.constexpr):
    """Value and derivative with respect to x of one element's loss."""
    difference = x - t
    if KIND == "l1":
        value = tl.abs(difference)
        gradient = tl.where(difference > 0, 1.0, tl.where(difference < 0, -1.0, difference))
    elif KIND == "mse":
        value = difference * difference
        gradient = 2 * difference
    else:
        small = tl.exp(-tl.abs(x))
        whole = 1 + small
        # log1p(small): the quotient cancels the rounding of 1 + small.
        log1p = tl.where(whole == 1, small, tl.log(whole) * (small / tl.where(whole == 1, 1.0, whole - 1)))
        value = tl.where(x < 0, 0.0, x) - x * t + log1p
        # sigmoid(x) - t over one denominator: no cancellation near a saturated, right answer.
        positive = (1 - t) - t * small
        negative = (1 - t) * small - t
        gradient = tl.where(x < 0, negative, positive) / whole
    return value, gradient


@triton.jit
def _loss_tile(
    input_ptr,
    target_ptr,
    value_ptr,
    grad_ptr,
    start,
    left,
    label,
    DTYPE: tl.constexpr,
    KIND: tl.constexpr,
    HAS_TARGET: tl.constexpr,
    WANT_VALUE: tl.constexpr,
    WANT_GRAD: tl.constexpr,
    MASKED: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """Values of BLOCK elements from `start` on; those at `left` and beyond do not exist and count 0."""
    offsets = tl.arange(0, BLOCK)
    mask = offsets < left
    if not MASKED:
        mask = tl.full((BLOCK,), True, tl.int1)
    x = tl.load(input_ptr + start + offsets, mask=mask, other=0.0).to(DTYPE)
    if HAS_TARGET:
        t = tl.load(target_ptr + start + offsets, mask=mask, other=0.0).to(DTYPE)
    else:
        t = tl.full((BLOCK,), label, DTYPE)
    value, gradient = _loss(x, t, KIND)
    if WANT_VALUE:
        tl.store(value_ptr + start + offsets, value, mask=mask)
    if WANT_GRAD:
        tl.store(grad_ptr + start + offsets, gradient, mask=mask)
    if MASKED:
        value = tl.where(mask, value, 0.0)
    return value


@triton.jit(do_not_specialize=["numel", "tiles"])
def _pointwise_loss(
    input_ptr,
    target_ptr,
    value_ptr,
    grad_ptr,
    sum_ptr,
    numel,
    tiles,
    label: tl.float64,
    scale: tl.float64,
    DTYPE: tl.constexpr,
    KIND: tl.constexpr,
    REDUCE: tl.constexpr,
    HAS_TARGET: tl.constexpr,
    WANT_GRAD: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """Each program takes `tiles` tiles of BLOCK elements. REDUCE: "none", "partial" (a sum per program) or "final"."""
    start = tl.program_id(0).to(tl.int64) * tiles * BLOCK
    left = tl.minimum(numel - start, (tiles * BLOCK).to(tl.int64))
    total = tl.zeros((BLOCK,), DTYPE)
    for _ in range(0, (left // BLOCK).to(tl.int32)):
        total += _loss_tile(
            input_ptr,
            target_ptr,
            value_ptr,
            grad_ptr,
            start,
            BLOCK,
            label,
            DTYPE,
            KIND,
            HAS_TARGET,
            REDUCE == "none",
            WANT_GRAD,
            False,
            BLOCK,
        )
        start += BLOCK
    rest = (left % BLOCK).to(tl.int32)
    if rest > 0:
        total += _loss_tile(
            input_ptr,
            target_ptr,
            value_ptr,
            grad_ptr,
            start,
            rest,
            label,
            DTYPE,
            KIND,
            HAS_TARGET,
            REDUCE == "none",
            WANT_GRAD,
            True,
            BLOCK,
        )
    if REDUCE == "partial":
        tl.store(sum_ptr + tl.program_id(0), tl.sum(total, axis=0))
    elif REDUCE == "final":
        tl.store(sum_ptr, tl.sum(total, axis=0).to(tl.float64) * tl.full((), scale, tl.float64))


@triton.jit(do_not_specialize=["count"])
def _sum_partial(partial_ptr, sum_ptr, count, scale: tl.float64, BLOCK: tl.constexpr):
    """Scaled sum, in fp64, of at most BLOCK partial sums; one program."""
    offsets = tl.arange(0, BLOCK)
    partial = tl.load(partial_ptr + offsets, mask=offsets < count, other=0.0).to(tl.float64)
    tl.store(sum_ptr, tl.sum(partial, axis=0) * tl.full((), scale, tl.float64))


class Config(NamedTuple):
    """Elements per tile, warps, tiles per program, programs."""

    block: int
    warps: int
    tiles: int
    programs: int


_MAX_PROGRAMS = 1056  # 8 on each of 132 multiprocessors; a constant, so that results do not depend on the card
_PARTIAL_BLOCK = 2048
_SINGLE = 4096  # up to here one program, and one launch, does it all


def default_config(numel: int, itemsize: int, reduction: str) -> Config:
    """The configuration for a number of elements: a plain function of its arguments, the same on every card."""
    block = 2048 if itemsize < 8 else 1024  # 8 or 4 elements per lane: more of them spill
    tiles = max(1, triton.cdiv(numel, block))
    if reduction == "none":
        return Config(block, 8, 1, tiles)
    if numel <= _SINGLE:
        return Config(block, 8, tiles, 1)
    each = triton.cdiv(tiles, _MAX_PROGRAMS)
    return Config(block, 8, each, triton.cdiv(tiles, each))


def forward(
    input: torch.Tensor,
    target: torch.Tensor | None,
    label: float,
    kind: str,
    reduction: str,
    want_grad: bool,
    config: Config | None = None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """(value, grad) of a pointwise loss.

    input: fp32, bf16, fp16 or fp64, dense in any order of dimensions. target: a tensor with the input's shape, strides
    and dtype, or None for the scalar `label`. kind: "l1", "mse" or "bce". value: for reduction "none" the losses, as
    the input; for "sum" and "mean" 0-d fp32 (fp64 for fp64 input); of no elements, 0 and NaN. grad: d loss / d input of
    every element, not divided by anything, as the input; an empty tensor unless asked for. config: None for the choice
    of `default_config`.
    """
    check_dtype(input, "input")
    if kind not in ("l1", "mse", "bce"):
        raise ValueError(f"kind must be 'l1', 'mse' or 'bce', not {kind!r}")
    if reduction not in ("none", "sum", "mean"):
        raise ValueError(f"reduction must be 'none', 'sum' or 'mean', not {reduction!r}")
    if not torch.ops.aten.is_non_overlapping_and_dense(input):
        raise ValueError(f"input must be dense in memory, not strided as {input.stride()}: call .contiguous() first")
    if target is not None:
        same_strides = all(a == b for a, b, n in zip(input.stride(), target.stride(), input.shape) if n > 1)
        if target.shape != input.shape or target.dtype != input.dtype or not same_strides:
            raise ValueError(
                f"target must have the input's shape, dtype and strides ({tuple(input.shape)}, {input.dtype}, "
                f"{input.stride()}), not {tuple(target.shape)}, {target.dtype}, {target.stride()}"
            )
    numel = input.numel()
    total = accumulator_dtype(input.dtype)
    grad = torch.empty_like(input) if want_grad else torch.empty(0, dtype=input.dtype, device=input.device)
    if reduction == "none":
        value = torch.empty_like(input)
    else:
        value = torch.empty((), dtype=total, device=input.device)
    if numel == 0:
        if reduction != "none":
            value.fill_(0.0 if reduction == "sum" else float("nan"))
        return value, grad

    config = config or default_config(numel, input.element_size(), reduction)
    scale = 1.0 / numel if reduction == "mean" else 1.0
    if reduction == "none":
        stage, sums = "none", value
    elif config.programs == 1:
        stage, sums = "final", value
    else:
        stage, sums = "partial", torch.empty(config.programs, dtype=total, device=input.device)
    with on_device(input):
        _pointwise_loss[(config.programs,)](
            input_ptr=input,
            target_ptr=input if target is None else target,
            value_ptr=value if reduction == "none" else input,
            grad_ptr=grad if want_grad else input,
            sum_ptr=sums,
            numel=numel,
            tiles=config.tiles,
            label=float(label),
            scale=scale,
            DTYPE=tl.float64 if total == torch.float64 else tl.float32,
            KIND=kind,
            REDUCE=stage,
            HAS_TARGET=target is not None,
            WANT_GRAD=want_grad,
            BLOCK=config.block,
            **launch_options(config.warps),
        )
        if stage == "partial":
            _sum_partial[(1,)](sums, value, config.programs, scale, BLOCK=_PARTIAL_BLOCK, **launch_options(8))
    return value, grad
