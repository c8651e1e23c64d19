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
    ("nn.functional.batch_norm", ""): (F.batch_norm, ours.batch_norm, "batch_norm"),
    ("nn.functional.batch_norm", "without_cudnn"): (F.batch_norm, ours.batch_norm, "batch_norm"),
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
    if name == "nn.functional.batch_norm" and sample.input.dim() < 2:
        return "has no channels"
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
            given = (*arguments[1:], *keywords.values())
            statistics = [t for t in given if isinstance(t, torch.Tensor) and not t.requires_grad]
            results.append([y, *(g if g is not None else torch.zeros(()) for g in used), *statistics])
        for a, b in zip(*results, strict=True):
            torch.testing.assert_close(a, b, rtol=tolerance, atol=tolerance)
        compared += 1
    assert compared
    if name == "nn.functional.pad":
        assert left == {"pads one or three dimensions": 8, "crops, by a negative padding": 1}
    elif name == "nn.functional.batch_norm":
        assert left == {"has no channels": 2}
    else:
        assert not left


def modules():
    module_db = pytest.importorskip(
        "torch.testing._internal.common_modules", reason="this torch ships without its sample modules",
        exc_type=ImportError,
    ).module_db  # fmt: skip
    return {info.name: info for info in module_db}


@pytest.mark.parametrize("backend", ["auto", "plain"])
@pytest.mark.parametrize("training", [True, False], ids=["training", "evaluation"])
@pytest.mark.parametrize("name", ["BatchNorm1d", "BatchNorm2d"])
def test_modules(name, training, backend):
    """Outputs, gradients and buffers after two steps."""
    info = modules()[f"nn.{name}"]
    samples = info.module_inputs_func(
        info, device="cpu", dtype=torch.float64, requires_grad=True, training=training
    )
    for sample in samples:
        arguments, keywords = sample.constructor_input.args, sample.constructor_input.kwargs
        layers = [getattr(nn, name)(*arguments, **keywords).double() for nn in (torch.nn, fastgan.nn)]
        layers[1].load_state_dict(layers[0].state_dict(), strict=True)
        (x,) = sample.forward_input.args
        for _ in range(2):
            results = []
            for layer in layers:
                layer.train(training)
                leaves = [x.detach().requires_grad_(), *layer.parameters()]
                with fastgan.backend(batch_norm=backend):
                    y = layer(leaves[0])
                    results.append((y, *torch.autograd.grad(y.square().sum(), leaves)))
            for a, b in zip(*results, strict=True):
                torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-9)
        layers[0].load_state_dict(layers[1].state_dict(), strict=True)
        for a, b in zip(*(layer.buffers() for layer in layers), strict=True):
            torch.testing.assert_close(a, b)
