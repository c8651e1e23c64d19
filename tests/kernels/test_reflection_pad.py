"""The reflection padding launchers against index lists and their adjoint."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fastgan.kernels import reflection_pad as kernels

from . import oracle


@st.composite
def problems(draw):
    batch, channels = draw(st.integers(1, 3)), draw(st.sampled_from((1, 3, 5, 8)))
    height, width = draw(st.integers(1, 7)), draw(st.integers(1, 9))
    left, right = (draw(st.integers(0, width - 1)) for _ in range(2))
    top, bottom = (draw(st.integers(0, height - 1)) for _ in range(2))
    config = draw(st.sampled_from((None, kernels.Config(16, 4, 1), kernels.Config(4, 16, 1))))
    return (batch, channels, height, width), (left, right, top, bottom), config


@pytest.mark.parametrize("dtype", oracle.DTYPES, ids=str)
@pytest.mark.parametrize("layout", ("nchw", "nhwc"))
def test_matches_index_lists(layout, dtype, device):
    @settings(max_examples=6 if dtype == torch.float32 else 3, phases=oracle.PHASES)
    @given(problems())
    def check(problem):
        shape, padding, config = problem
        generator = torch.Generator().manual_seed(0)
        x = torch.randn(shape, generator=generator).to(device=device, dtype=dtype)
        x = x.contiguous(memory_format=oracle.FORMATS[layout])
        y = kernels.forward(x, *padding, config)
        expected = oracle.reflect_pad(x, *padding)
        assert torch.equal(y, expected) and y.is_contiguous(memory_format=oracle.FORMATS[layout])

        dy = torch.randn(y.shape, generator=generator).to(device=device, dtype=dtype)
        dy = dy.contiguous(memory_format=oracle.FORMATS[layout])
        dx = kernels.backward(dy, *padding, config)
        expected = oracle.fold(dy.double(), *padding)
        unit, largest = oracle.epsilon(oracle.accumulator(dtype)), 1 + expected.abs().max().item()
        assert dx.dtype == dtype and dx.is_contiguous(memory_format=oracle.FORMATS[layout])
        oracle.assert_within(dx, expected, (8 * unit + oracle.epsilon(dtype)) * largest, "dx")

    check()


@pytest.mark.parametrize("layout", ("nchw", "nhwc"))
def test_wide_numbers(layout, device, monkeypatch):
    """The 64-bit line numbers of outputs with 2^31 lines and more, on a small image."""
    x = torch.randn((2, 3, 4, 5), device=device).contiguous(memory_format=oracle.FORMATS[layout])
    kernel = kernels._nchw_pad if layout == "nchw" else kernels._nhwc_pad
    y = torch.empty((2, 3, 6, 9), device=device).contiguous(memory_format=oracle.FORMATS[layout])
    counts = (2 * 3 * 6,) if layout == "nchw" else (2 * 6 * 9, 3)
    kernel[(-(-counts[0] // 8),)](x, y, *counts, 4, 5, 2, 2, 1, 1, ROWS=8, COLS=16, WIDE=True)
    assert torch.equal(y, oracle.reflect_pad(x, 2, 2, 1, 1))


@pytest.mark.parametrize("shape", [(0, 3, 4, 4), (2, 0, 4, 4)])
def test_nothing_to_do(shape, device):
    x = torch.zeros(shape, device=device)
    y = kernels.forward(x, 1, 2, 3, 0)
    assert y.shape == (*shape[:2], 7, 7)
    assert kernels.backward(y, 1, 2, 3, 0).shape == shape


@given(st.sampled_from(("forward", "backward")), st.sampled_from(("nchw", "nhwc")), st.integers(1, 10000))
def test_config(direction, layout, inner):
    assert kernels.default_config(direction, layout, inner) in kernels.configurations(direction, layout)


@pytest.mark.parametrize("padding", [(5, 0, 0, 0), (0, 0, 4, 0), (-1, 0, 0, 0)])
def test_refusals(padding):
    with pytest.raises(ValueError, match="less than the side that it extends of the 4x5 image"):
        kernels.forward(torch.ones(1, 1, 4, 5), *padding)
