"""The public functions: they agree with torch.nn.functional where it has the same, and refuse what they cannot take."""

import re

import numpy as np
import pytest
import torch
import torch.nn.functional as F

import fastgan
from fastgan import functional as ours

X = torch.zeros(2, 3, 4, 5)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: ours.batch_norm(X[0, 0, 0], None, None), r"at least 2 dimensions \(N, C, ...\), got shape \(5,\)"),
        (lambda: ours.batch_norm(X.int(), None, None), r"floating-point input, got torch.int32"),
        (
            lambda: ours.batch_norm(X[:1, :, 0, 0], None, None, training=True),
            r"Expected more than 1 value per channel when training, got input size \(1, 3\)",
        ),
        (lambda: ours.batch_norm(X, None, None), r"running_mean and running_var together, and both when training is"),
        (lambda: ours.batch_norm(X, X[0, :, 0, 0], None, training=True), r"running_mean and running_var together"),
        (lambda: ours.batch_norm(X, torch.ones(4), torch.ones(4)), r"running_mean must have shape \(3,\).*got \(4,\)"),
        (lambda: ours.batch_norm(X, None, None, torch.ones(4), training=True), r"weight must have shape \(3,\)"),
        (lambda: ours.batch_norm(X, None, None, training=True, activation="elu"), r"unknown activation 'elu'"),
        (lambda: ours.batch_norm(X, None, None, training=True, eps=0), r"an eps of at least 0, and above 0 .* got 0"),
        (lambda: ours.instance_norm(X[0, 0]), r"at least 3 dimensions \(N, C, ...\), got shape \(4, 5\)"),
        (lambda: ours.instance_norm(X.int()), r"floating-point input, got torch.int32"),
        (
            lambda: ours.instance_norm(X[:, :, :1, :1]),
            r"more than one spatial element a channel, got shape \(2, 3, 1, 1\)",
        ),
        (
            lambda: ours.instance_norm(X, activation="gelu"),
            r"unknown activation 'gelu': choose from none, relu, leaky_relu",
        ),
        (lambda: ours.instance_norm(X, use_input_stats=False), r"needs running_mean and running_var together"),
        (lambda: ours.instance_norm(X, X[0, :, 0, 0]), r"needs running_mean and running_var together"),
        (
            lambda: ours.instance_norm(X, weight=torch.ones(4)),
            r"weight must have shape \(3,\), one value a channel, got \(4,\)",
        ),
        (
            lambda: ours.instance_norm(X, bias=torch.ones(3, 1)),
            r"bias must have shape \(3,\), one value a channel, got \(3, 1\)",
        ),
        (
            lambda: ours.instance_norm(X, residual=X[:1]),
            r"residual must have the input's shape \(2, 3, 4, 5\), got \(1, 3, 4, 5\)",
        ),
        (lambda: ours.instance_norm(X, eps=-1e-5), r"an eps of at least 0, got -1e-05"),
        (lambda: ours.instance_norm(X, eps=float("nan")), r"an eps of at least 0, got nan"),
        (lambda: ours.reflection_pad2d(X[0, 0], 1), r"shape \(N, C, H, W\) or \(C, H, W\), got \(4, 5\)"),
        (lambda: ours.reflection_pad2d(X, -1), r"a padding of at least 0, got left -1, right -1, top -1, bottom -1"),
        (
            lambda: ours.reflection_pad2d(X, (1, 5, 0, 0)),
            r"smaller than the image, 4 x 5; got left 1, right 5, top 0, bottom 0",
        ),
        (lambda: ours.reflection_pad2d(X, (1, 1)), r"padding must be a whole number or 4 of them, got \(1, 1\)"),
        (lambda: ours.reflection_pad_conv2d(X, X, padding="same"), r"padding must be .* 2 of them, got 'same'"),
        (lambda: ours.conv_transpose2d(X, X, stride=(1, 1, 1)), r"stride must be .* 2 of them, got \(1, 1, 1\)"),
        (
            lambda: ours.reflection_pad_conv2d(X, X, padding=(4, 0)),
            r"smaller than the image, 4 x 5; got left 0, right 0, top 4",
        ),
        (
            lambda: ours.conv_transpose2d(X, torch.zeros(4, 2, 3, 3)),
            r"weight of shape \(3, O / groups.*, got \(4, 2, 3, 3\)",
        ),
        (
            lambda: ours.conv_transpose2d(X, torch.zeros(3, 2, 3)),
            r"weight of shape \(3, O / groups.*, got \(3, 2, 3\)",
        ),
        (lambda: ours.conv_transpose2d(X, X[0, :, None], groups=2), r"needs a weight|cannot split"),
        (
            lambda: ours.conv_transpose2d(X, torch.zeros(3, 2, 3, 3), groups=2),
            r"cannot split 3 input channels into 2 groups",
        ),
        (
            lambda: ours.conv_transpose2d(X, torch.zeros(3, 2, 3, 3), torch.zeros(3)),
            r"bias must have shape \(2,\), got \(3,\)",
        ),
        (
            lambda: ours.conv_transpose2d(X, torch.zeros(3, 2, 3, 3), stride=0),
            r"stride and dilation >= 1.*got \(0, 0\)",
        ),
        (
            lambda: ours.conv_transpose2d(X, torch.zeros(3, 2, 3, 3), stride=2, output_padding=(0, 2)),
            r"smaller than stride or dilation, got 2 for the width with stride 2 and dilation 1",
        ),
        (
            lambda: ours.conv_transpose2d(X, torch.zeros(3, 2, 3, 3), stride=2, output_padding=1, output_size=(9, 11)),
            r"either output_size or output_padding, got \(9, 11\) and \(1, 1\)",
        ),
        (
            lambda: ours.conv_transpose2d(X, torch.zeros(3, 2, 1, 1), padding=3),
            r"4 x 5 input would give \(-2, -1\).*less padding",
        ),
        (lambda: ours.l1_loss(X, X, reduction="average"), r"unknown reduction 'average': choose from mean, sum, none"),
        (lambda: ours.mse_loss(X, None), r"mse_loss needs a tensor or a number as target, got NoneType"),
        (lambda: ours.batch_norm(X, None, None, training=True, eps=float("nan")), r"an eps of at least 0, .* got nan"),
        (lambda: ours.batch_norm(X, VECTOR, VECTOR, eps=float("nan")), r"an eps of at least 0, .* got nan"),
        (lambda: ours.batch_norm(X, None, None, training=True, momentum=None), r"a tensor of one number as momentum"),
        (lambda: ours.instance_norm(X, eps=float("nan")), r"an eps of at least 0, got nan"),
        (lambda: ours.bce_with_logits(X, X[:1]), r"target of the input's shape \(2, 3, 4, 5\), got \(1, 3, 4, 5\)"),
    ],
)
def test_bad_input_is_an_error(call, message):
    with pytest.raises(ValueError, match=message) as caught:
        call()
    assert "\n" not in str(caught.value)


ELSEWHERE = torch.zeros(3, 3, 3, 3, device="meta")
VECTOR = ELSEWHERE[0, 0, 0]


@pytest.mark.parametrize(
    ("call", "name"),
    [
        (lambda: ours.batch_norm(X, None, None, VECTOR, training=True), "weight"),
        (lambda: ours.batch_norm(X, VECTOR, VECTOR), "running_mean"),
        (lambda: ours.instance_norm(X, bias=VECTOR), "bias"),
        (lambda: ours.instance_norm(X, residual=X.to("meta")), "residual"),
        (lambda: ours.reflection_pad_conv2d(X, ELSEWHERE, padding=1), "weight"),
        (lambda: ours.conv_transpose2d(X, ELSEWHERE), "weight"),
        (lambda: ours.conv_transpose2d(X, torch.zeros(3, 3, 3, 3), VECTOR), "bias"),
        (lambda: ours.l1_loss(X, X.to("meta")), "target"),
        (lambda: ours.bce_with_logits(X, X.to("meta")), "target"),
        (lambda: ours.mse_loss(X[0, 0, 0, 0], VECTOR[0]), "target"),
    ],
)
def test_tensors_on_several_devices_are_refused(call, name):
    """The meta device stands for any other; the shape rule must not answer with memory that nobody wrote."""
    with pytest.raises(ValueError, match=f"^{name} is on meta and input on cpu: they must be on one device$"):
        call()


def test_whole_numbers_are_read_as_in_torch():
    weight = torch.randn(3, 3, 3, 3)
    for one in (np.int64(1), (1,), [1, 1]):
        torch.testing.assert_close(
            ours.reflection_pad_conv2d(X, weight, None, one, one, one),
            ours.reflection_pad_conv2d(X, weight, None, 1, 1, 1),
        )
        assert ours.conv_transpose2d(X, weight, None, one, one).shape == X.shape
    assert ours.reflection_pad2d(X, np.int32(2)).shape == (2, 3, 8, 9)


def test_output_size_names_what_is_possible():
    with pytest.raises(ValueError, match=re.escape("(12, 12) cannot be had from a 6 x 6 input") + ".*heights 15 to 17"):
        ours.conv_transpose2d(torch.zeros(1, 1, 6, 6), torch.zeros(1, 1, 2, 2), None, 3, 1, output_size=(12, 12))


@pytest.mark.parametrize("shape", [(2, 3, 7), (2, 3, 2, 3, 4), (2, 3, 4, 5)])
def test_instance_norm_of_other_ranks(shape, seed):
    x = torch.randn(shape, requires_grad=True)
    weight, bias = torch.randn(3), torch.randn(3)
    y = ours.instance_norm(x, weight=weight, bias=bias, residual=x, activation="relu")
    expected = F.relu(F.instance_norm(x, weight=weight, bias=bias)) + x
    torch.testing.assert_close(y, expected)
    torch.testing.assert_close(*[torch.autograd.grad(out.square().sum(), x)[0] for out in (y, expected)])


def test_instance_norm_of_channels_last_volumes(seed):
    x = torch.randn(2, 3, 2, 3, 4).contiguous(memory_format=torch.channels_last_3d)
    torch.testing.assert_close(ours.instance_norm(x), F.instance_norm(x))


@pytest.mark.parametrize("backend", ["auto", "reference"])
@pytest.mark.parametrize("momentum", [0.0, 0.1, 1.0])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16], ids=str)
def test_running_statistics(backend, momentum, dtype, seed):
    """As stock torch updates them, also for constant planes, where the variance drowns in eps, and for far means."""
    for x in (torch.randn(3, 4, 5, 6), torch.full((3, 4, 5, 6), 0.7), 1e3 + torch.randn(3, 4, 5, 6)):
        x = x.to(dtype)
        wide = torch.float64 if dtype == torch.float64 else torch.float32
        mine = [torch.randn(4, dtype=wide), torch.rand(4, dtype=wide)]
        stock = [t.clone() for t in mine]
        with fastgan.backend(backend):
            y = ours.instance_norm(x, *mine, momentum=momentum, activation="relu")
        expected = F.instance_norm(x.to(wide), *stock, momentum=momentum)
        if dtype != torch.bfloat16:  # stock torch's own bfloat16 result is far off where the mean is
            torch.testing.assert_close(y, F.relu(expected), rtol=1e-3, atol=1e-3)
        for a, b in zip(mine, stock):
            torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-5)


def test_evaluation_with_running_statistics(seed):
    x = torch.randn(2, 3, 4, 5, requires_grad=True)
    mean, var, weight, bias = torch.randn(3), torch.rand(3), torch.randn(3), torch.randn(3)
    y = ours.instance_norm(x, mean, var, weight, bias, False, activation="leaky_relu", residual=x)
    expected = F.leaky_relu(F.instance_norm(x, mean, var, weight, bias, False), 0.2) + x
    torch.testing.assert_close(y, expected)
    one = torch.randn(2, 3, 1, 1)
    arguments = (one, mean, var, None, None, False)
    torch.testing.assert_close(ours.instance_norm(*arguments), F.instance_norm(*arguments))


def test_nothing_writes_to_its_input(seed):
    x = torch.randn(2, 3, 4, 5)
    before = x.clone()
    ours.instance_norm(x, activation="relu", residual=x)
    ours.bce_with_logits(x, 1.0)
    ours.reflection_pad2d(x, 1)
    assert torch.equal(x, before)


def test_an_integer_or_bool_label_is_a_number(seed):
    x = torch.randn(3, 4)
    for label in (0, 1, True, False):
        torch.testing.assert_close(ours.mse_loss(x, label), F.mse_loss(x, torch.full_like(x, float(label))))
    torch.testing.assert_close(ours.l1_loss(x, torch.ones(3, 4, dtype=torch.int64)), F.l1_loss(x, torch.ones(3, 4)))
