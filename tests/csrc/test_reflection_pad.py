"""The C++ reflection padding and its adjoint."""

import pytest
import torch
import torch.nn.functional as F

from .common import FORMATS, ROUNDING, close, laid_out

DTYPES = (torch.float32, torch.bfloat16, torch.float16, torch.float64)
# (left, right, top, bottom): none, uneven, as wide as the image allows, past the middle on both sides.
CASES = [
    ((2, 3, 5, 7), (0, 0, 0, 0)),
    ((2, 3, 5, 7), (1, 2, 3, 4)),
    ((1, 20, 4, 6), (5, 5, 3, 3)),
    ((1, 2, 1, 9), (8, 8, 0, 0)),
    ((2, 1, 3, 1), (0, 0, 2, 1)),
    ((1, 5, 40, 37), (3, 3, 3, 3)),
]


@pytest.mark.parametrize("shape, padding", CASES)
@pytest.mark.parametrize("layout", FORMATS)
@pytest.mark.parametrize("dtype", DTYPES)
def test_forward_and_adjoint(ops, level, dtype, layout, shape, padding):
    generator = torch.Generator().manual_seed(0)
    x = laid_out(torch.randn(shape, generator=generator).to(dtype), layout)
    y = ops.reflection_pad2d(x, *padding)
    leaf = x.detach().double().contiguous().clone().requires_grad_()
    expected = F.pad(leaf, padding, mode="reflect")
    assert y.is_contiguous(memory_format=FORMATS[layout]) and torch.equal(y.double(), expected)

    dy = laid_out(torch.randn(y.shape, generator=generator).to(dtype), layout)
    dx = ops.reflection_pad2d_backward(dy, *padding)
    assert dx.dtype == dtype and dx.is_contiguous(memory_format=FORMATS[layout])
    close(dx, torch.autograd.grad(expected, leaf, dy.double().contiguous())[0], ROUNDING[dtype])


@pytest.mark.parametrize("dtype", (torch.float16, torch.bfloat16))
def test_sixteen_bit_values_are_rounded_as_torch_rounds(ops, level, dtype):
    # Without padding the adjoint widens and rounds every value: all bit patterns must survive.
    bits = torch.arange(2**16, dtype=torch.int32).to(torch.int16)
    x = bits.view(dtype).view(1, 1, 256, 256)
    same = ops.reflection_pad2d_backward(x, 0, 0, 0, 0)
    finite = ~x.isnan()
    assert torch.equal(same.view(torch.int16)[finite], x.view(torch.int16)[finite]) and same[~finite].isnan().all()

    # With padding 1 on a width of 2, pairs are summed in float and rounded once.
    generator = torch.Generator().manual_seed(0)
    scales = torch.tensor([1e-8, 1e-6, 1e-4, 1.0, 3e4]).view(1, 1, -1, 1)
    dy = (torch.randn(1, 500, 5, 4, generator=generator) * scales).to(dtype)
    wide = dy.float()
    expected = torch.stack((wide[..., 1] + wide[..., 3], wide[..., 2] + wide[..., 0]), dim=-1).to(dtype)
    assert torch.equal(ops.reflection_pad2d_backward(dy, 1, 1, 0, 0), expected)


def test_empty_inputs(ops):
    assert ops.reflection_pad2d(torch.empty(0, 3, 4, 4), 1, 1, 1, 1).shape == (0, 3, 6, 6)
    assert ops.reflection_pad2d_backward(torch.empty(2, 0, 6, 6), 1, 1, 1, 1).shape == (2, 0, 4, 4)


def test_results_do_not_depend_on_the_number_of_threads(ops, level, threads):
    dy = torch.randn(2, 20, 70, 66, generator=torch.Generator().manual_seed(0))
    results = []
    for count in (1, 2, 3):
        threads(count)
        results.append(ops.reflection_pad2d_backward(dy, 3, 3, 3, 3))
    assert torch.equal(results[0], results[1]) and torch.equal(results[0], results[2])


def test_bad_arguments_are_errors(ops):
    x = torch.randn(1, 2, 4, 5)
    for error, words, call in (
        (ValueError, "padding right .* got 5 for a width of 5", lambda: ops.reflection_pad2d(x, 0, 5, 0, 0)),
        (ValueError, "padding top .* got 4 for a height of 4", lambda: ops.reflection_pad2d(x, 0, 0, 4, 0)),
        (ValueError, "padding left .* got -1", lambda: ops.reflection_pad2d(x, -1, 0, 0, 0)),
        (ValueError, "got 3 for a height of -2", lambda: ops.reflection_pad2d_backward(x, 0, 0, 3, 3)),
        (ValueError, "four dimensions", lambda: ops.reflection_pad2d(x[0], 1, 1, 1, 1)),
        (ValueError, r"must be dense.*dy\.contiguous", lambda: ops.reflection_pad2d_backward(x[..., ::2], 0, 0, 1, 1)),
        (TypeError, "float16 and float64 tensors, got Int", lambda: ops.reflection_pad2d(x.int(), 1, 1, 1, 1)),
    ):
        with pytest.raises(error, match=words):
            call()
