"""What the kernel files share: memory layouts, the launch device, and reflected indices."""

import contextlib

import torch
import triton
import triton.language as tl

MOST_PARTS = 64  # of a plane: every program that normalises it reads the partial sums of all of them
MOST_PIXELS = 2**30  # an image has fewer, so that the sum of two positions in it is a 32-bit number


def dense_layout(tensor: torch.Tensor, name: str) -> str:
    """ "nchw" or "nhwc", the layout of a dense 4-d tensor; ValueError for any other strides."""
    if tensor.dim() == 4:
        if tensor.is_contiguous():
            return "nchw"
        if tensor.is_contiguous(memory_format=torch.channels_last):
            return "nhwc"
    raise ValueError(
        f"{name} must be a dense (N, C, H, W) tensor, contiguous or channels_last, "
        f"not of shape {tuple(tensor.shape)} with strides {tensor.stride()}: call .contiguous() first"
    )


def check_dtype(tensor: torch.Tensor, name: str) -> None:
    """TypeError unless the tensor holds fp32, bf16, fp16 or fp64."""
    if tensor.dtype not in (torch.float32, torch.bfloat16, torch.float16, torch.float64):
        raise TypeError(f"{name} must be float32, bfloat16, float16 or float64, not {tensor.dtype}")


def memory_format(layout: str) -> torch.memory_format:
    return torch.contiguous_format if layout == "nchw" else torch.channels_last


def accumulator_dtype(dtype: torch.dtype) -> torch.dtype:
    """The dtype of sums and statistics: fp64 for fp64, else fp32."""
    return torch.float64 if dtype == torch.float64 else torch.float32


def shape_of_moments(layout: str, batch: int, parts: int, channels: int) -> tuple[int, int, int, int]:
    """Of a convolution's moments: first the means of each sample's parts, then the sums of squared deviations."""
    return (2, batch, channels, parts) if layout == "nchw" else (2, batch, parts, channels)


def on_device(tensor: torch.Tensor):
    """Context in which a kernel launch goes to the tensor's device."""
    return torch.cuda.device(tensor.device) if tensor.is_cuda else contextlib.nullcontext()


def launch_options(warps: int, registers: int | None = None) -> dict:
    """Compiler options of a launch; contraction to fused multiply-add is asked for, since triton's default changes.

    registers: at most so many to a thread. Left alone, the compiler chooses how many programs shall fit on a
    multiprocessor, and for one more may spill a register; told what it may take, it makes do.
    """
    return {"num_warps": warps, "enable_fp_fusion": True, **({"maxnreg": registers} if registers else {})}


def division_magic(divisor: int) -> tuple[int, int]:
    """(magic, shift) by which `divide` divides numbers in [0, 2^31) by `divisor`; magic is wrapped to 32 signed bits.

    Granlund and Montgomery 1994, "Division by invariant integers using multiplication", figure 4.1.
    """
    shift = (divisor - 1).bit_length()
    magic = ((1 << 32) * ((1 << shift) - divisor)) // divisor + 1
    return (magic - (1 << 32) if magic >= 1 << 31 else magic), shift


@triton.jit
def divide(number, magic, shift):
    """number // divisor for int32 numbers >= 0, by one multiplication; see `division_magic`."""
    n = number.to(tl.uint32)
    return ((tl.umulhi(n, tl.zeros_like(n) + magic.to(tl.uint32, bitcast=True)) + n) >> shift).to(tl.int32)


@triton.jit
def reflect(index, size):
    """The position in [0, size) that `index` in [1 - size, 2 * size - 2] mirrors; edges are not repeated."""
    return (size - 1) - tl.abs((size - 1) - tl.abs(index))


@triton.jit
def mirror(index, size, low, high, SIDE: tl.constexpr):
    """Where element `index` shows up in a row padded by `low` and `high`, and whether it does.

    SIDE 0 is the element itself, 1 its mirror image in the low padding, 2 in the high padding.
    """
    if SIDE == 0:
        position = index + low
        valid = index < size
    elif SIDE == 1:
        position = low - index
        valid = (index >= 1) & (index <= low)
    else:
        position = 2 * size - 2 + low - index
        valid = (index >= size - 1 - high) & (index <= size - 2)
    return position, valid


@triton.jit
def position(first, period, COUNT: tl.constexpr):
    """(number, image, position in the image) of items first, first + 1, ..., with `period` of them to an image."""
    image = first // period
    local = (first - image * period).to(tl.int32) + tl.arange(0, COUNT)
    step = local // period
    return first.to(tl.int64) + tl.arange(0, COUNT), image.to(tl.int64) + step, local - step * period
