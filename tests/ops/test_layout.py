"""What the kernels, ours and stock torch's, are given: the strides of a new tensor, whatever views came before."""

import itertools

import pytest
import torch

from fastgan.ops._layout import dense, is_channels_last, like

from .common import views

FORMATS = (torch.contiguous_format, torch.channels_last)
SHAPES = tuple(itertools.product((1, 2), (1, 3), (1, 4), (1, 5))) + ((0, 3, 1, 4), (1, 3, 0, 1), (1, 1, 1, 0))


@pytest.mark.parametrize("shape", SHAPES)
def test_strides_are_those_of_a_new_tensor(shape):
    x = torch.arange(float(torch.Size(shape).numel())).view(shape)
    new = [torch.empty(shape).contiguous(memory_format=format) for format in FORMATS]
    canonical = [torch.empty(shape, memory_format=format).stride() for format in FORMATS]
    for view in views(x):
        y = dense(view)
        assert torch.equal(y, x) and y.stride() in canonical
        assert y.stride() == canonical[is_channels_last(y)]
        if view.is_contiguous() or is_channels_last(view):
            assert y.data_ptr() == view.data_ptr() and is_channels_last(y) == is_channels_last(view)
        for pattern in new:
            z = like(view, pattern)
            assert torch.equal(z, x) and z.stride() == canonical[is_channels_last(pattern)]


def test_the_view_is_differentiable_and_none_where_none_is_needed():
    x = torch.randn(4, 5, 3, requires_grad=True)
    y = dense(x.permute(2, 0, 1).unsqueeze(0))
    assert y.stride() == (60, 1, 15, 3)
    (dx,) = torch.autograd.grad(y.square().sum(), x)
    assert torch.equal(dx, 2 * x)
    for format in FORMATS:
        x = torch.zeros(2, 3, 4, 5).contiguous(memory_format=format)
        assert dense(x) is x and like(x, x) is x
