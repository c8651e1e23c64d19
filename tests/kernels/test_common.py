"""Division by multiplication, and the reflected indices."""

import numpy as np
import torch
import triton
import triton.language as tl

from fastgan.kernels import _common


def test_magic_numbers():
    """Exact at multiples of the divisor and their neighbours, over the whole range of numbers and divisors."""
    generator = np.random.default_rng(0)
    divisors = [*range(1, 2000), *(2**k + e for k in range(11, 31) for e in (-1, 0, 1)), 2**31 - 1]
    divisors += generator.integers(1, 2**31, 500).tolist()
    for divisor in divisors:
        magic, shift = _common.division_magic(divisor)
        assert -(2**31) <= magic < 2**31 and 0 <= shift <= 31
        multiples = generator.integers(0, (2**31 - 1) // divisor + 1, 50) * divisor
        numbers = np.concatenate([multiples, multiples - 1, multiples + divisor - 1, [0, 1, 2**31 - 1]])
        numbers = np.clip(numbers, 0, 2**31 - 1).astype(np.uint64)
        total = ((numbers * np.uint64(magic % 2**32)) >> np.uint64(32)) + numbers
        assert total.max() < 2**32
        assert np.array_equal(total >> np.uint64(shift), numbers // np.uint64(divisor)), divisor


@triton.jit(do_not_specialize=["magic", "shift"])
def _divide_kernel(number_ptr, quotient_ptr, magic, shift, BLOCK: tl.constexpr):
    offsets = tl.arange(0, BLOCK)
    tl.store(quotient_ptr + offsets, _common.divide(tl.load(number_ptr + offsets), magic, shift))


def test_divide(device):
    numbers = torch.randint(0, 2**31 - 1, (256,), dtype=torch.int32, device=device)
    for divisor in (1, 3, 8, 33, 1000, 2**30 + 1):
        quotient = torch.empty_like(numbers)
        _divide_kernel[(1,)](numbers, quotient, *_common.division_magic(divisor), BLOCK=256)
        assert torch.equal(quotient, numbers // divisor)
