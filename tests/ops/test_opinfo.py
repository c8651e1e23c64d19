"""PyTorch's own samples for its ops, put to ours: value and gradients as the stock op gives them."""

import pytest
import torch
import torch.nn.functional as F

import fastgan
from fastgan import functional as ours
from fastgan.ops import _backend

pytest.importorskip("expecttest", reason="torch's sample inputs need the package expecttest")
common_methods_invocations = pytest.importorskip(
    "torch.testing._internal.common_methods_invocations",
    reason="this torch ships without its sample inputs",
    exc_type=ImportError,
)


def pad(x, padding, mode):
    return ours.reflection_pad2d(x, padding)


# stock name, variant: stock function, ours, the op whose backends serve it
OPS = {
    ("nn.functional.conv_transpose2d", ""): (F.conv_transpose2d, ours.conv_transpose2d, "conv_transpose2d"),
    ("nn.functional.instance_norm", ""): (F.instance_norm, ours.instance_norm, "instance_norm"),
    ("nn.functional.l1_loss", ""): (F.l1_loss, ours.l1_loss, "l1_loss"),
    ("nn.functional.mse_loss", ""): (F.mse_loss, ours.mse_loss, "mse_loss"),
    ("nn.functional.binary_cross_entropy_with_logits", ""): (
        F.binary_cross_entropy_with_logits,
        ours.bce_with_logits,
        "bce_with_logits",
    ),
    ("nn.functional.pad", "reflect"): (F.pad, pad, "reflection_pad_conv2d"),
}


def beyond(name, sample):
    """Why a sample is not for our op, or the empty string."""
    if name == "nn.functional.pad":
        padding = sample.args[0]
        if len(padding) != 4:
            return "pads one or three dimensions"
        if min(padding) < 0:
            return "crops, by a negative padding"
    return ""


def copies(sample):
    """Fresh (arguments, keywords, differentiable ones) of a sample: running statistics are written to."""

    def copy(value):
        if not isinstance(value, torch.Tensor):
            return value
        return value.detach().clone().requires_grad_(value.requires_grad)

    arguments = [copy(value) for value in (sample.input, *sample.args)]
    keywords = {name: copy(value) for name, value in sample.kwargs.items()}
    for name in ("running_mean", "running_var"):
        if keywords.get(name) is not None:
            keywords[name].requires_grad_(False)
    both = (*arguments, *keywords.values())
    return arguments, keywords, [t for t in both if isinstance(t, torch.Tensor) and t.requires_grad]


@pytest.mark.parametrize("backend", ["auto", "plain", "cpp"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("op", OPS, ids=lambda op: op[0].removeprefix("nn.functional."))
def test_samples(op, backend, dtype):
    name = op[0]
    stock, mine, registered = OPS[op]
    tolerance = 1e-4 if dtype == torch.float32 else 1e-9
    (info,) = (o for o in common_methods_invocations.op_db if (o.name, o.variant_test_name) == op)
    if backend == "cpp" and not _backend.EXTENSION_LOADED:
        pytest.skip(_backend.EXTENSION_STATUS)
    compared, left = 0, {}
    for sample in info.sample_inputs("cpu", dtype, requires_grad=True):
        reason = beyond(name, sample)
        if reason:
            left[reason] = left.get(reason, 0) + 1
            continue
        forced = {} if backend == "auto" else {registered: backend}
        results = []
        for function in (mine, stock):
            arguments, keywords, leaves = copies(sample)
            with fastgan.backend(**forced):
                y = function(*arguments, **keywords)
                used = torch.autograd.grad(y.square().sum(), leaves, allow_unused=True)
            statistics = [keywords[key] for key in ("running_mean", "running_var") if keywords.get(key) is not None]
            results.append([y, *(g if g is not None else torch.zeros(()) for g in used), *statistics])
        for a, b in zip(*results, strict=True):
            torch.testing.assert_close(a, b, rtol=tolerance, atol=tolerance)
        compared += 1
    assert compared
    if name == "nn.functional.pad":
        assert left == {"pads one or three dimensions": 8, "crops, by a negative padding": 1}
    else:
        assert not left
