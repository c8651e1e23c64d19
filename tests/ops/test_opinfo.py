"""PyTorch's own samples for its ops and layers, put to ours: value and gradients as the stock one gives them.

The run prints how many were compared; `beyond` and `module_beyond` give the reason for every sample that is not.
"""

import pytest
import torch
import torch.nn.functional as F

import fastgan
from fastgan import functional as ours
from fastgan.ops import _dispatch

pytest.importorskip("expecttest", reason="torch's sample inputs need the package expecttest")
common_methods_invocations = pytest.importorskip(
    "torch.testing._internal.common_methods_invocations",
    reason="this torch ships without its sample inputs",
    exc_type=ImportError,
)


common_modules = pytest.importorskip(
    "torch.testing._internal.common_modules", reason="this torch ships without its layer samples", exc_type=ImportError
)

DEVICES = ["cpu", pytest.param("cuda", marks=pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU"))]
DTYPES = pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)


def pad(x, padding, mode):
    return ours.reflection_pad2d(x, padding)


def reflected(x, weight, bias=None, stride=1, padding=0, dilation=1, groups=1):
    """What nn.Conv2d(padding_mode="reflect") computes."""
    high, wide = padding if isinstance(padding, tuple) else (padding, padding)
    return F.conv2d(F.pad(x, (wide, wide, high, high), mode="reflect"), weight, bias, stride, 0, dilation, groups)


# stock name, variant, and what else tells it apart: stock function, ours, the op whose backends serve it
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
    ("nn.functional.pad", "reflect"): (F.pad, pad, "reflection_pad2d"),
    ("nn.functional.conv2d", ""): (F.conv2d, ours.conv2d, "conv2d"),
    ("nn.functional.conv2d", "", "reflected"): (reflected, ours.reflection_pad_conv2d, "reflection_pad_conv2d"),
}


def beyond(op, sample):
    """Why a sample is not for our op, or the empty string."""
    name = op[0]
    if name == "nn.functional.batch_norm" and sample.input.dim() < 2:
        return "has no channels"
    if name == "nn.functional.pad":
        padding = sample.args[0]
        if len(padding) != 4:
            return "pads one or three dimensions"
        if min(padding) < 0:
            return "crops, by a negative padding"
    if op[2:] == ("reflected",) and isinstance(sample.kwargs.get("padding"), str):
        return "names its padding, which reflection_pad_conv2d takes in pixels"
    return ""


def forced(op, backend, device, groups=1):
    """For fastgan.backend: our kernels on a device, in C++ or else by the plain launchers and Triton or CUDA."""
    if backend == "auto":
        return {}
    if groups > 1 and op in ("conv2d", "reflection_pad_conv2d"):  # the kernels take one group
        return {op: "halo"} if op == "reflection_pad_conv2d" else {}
    if backend == "cpp":
        if "cpp" not in _dispatch.OPS[op].names():
            pytest.skip(f"{op} has no C++ kernels")
        if reason := _dispatch.refusal(op, "cpp", device, torch.float32):
            pytest.skip(reason)
        return {op: "cpp"}
    if op == "conv2d":
        return {op: "reference"}  # its other kernels are those of reflection_pad_conv2d
    if device == "cpu":
        return {op: "plain"}
    name = "cuda" if op == "conv_transpose2d" else "triton"
    reason = _dispatch.refusal(op, name, device, torch.float32)
    if reason:
        pytest.skip(reason)
    return {op: name}


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


@pytest.mark.parametrize("backend", ["auto", "kernels", "cpp"])
@pytest.mark.parametrize("device", DEVICES)
@DTYPES
@pytest.mark.parametrize("op", OPS, ids=lambda op: "-".join(filter(None, op)).removeprefix("nn.functional."))
def test_samples(op, backend, device, dtype, torch_samples):
    name = op[0]
    stock, mine, registered = OPS[op]
    tolerance = 1e-4 if dtype == torch.float32 else 1e-9
    (info,) = (o for o in common_methods_invocations.op_db if (o.name, o.variant_test_name) == op[:2])
    compared, left = 0, {}
    for sample in info.sample_inputs(device, dtype, requires_grad=True):
        reason = beyond(op, sample)
        if reason:
            left[reason] = left.get(reason, 0) + 1
            continue
        choice = forced(registered, backend, device, sample.kwargs.get("groups", 1))
        results = []
        for function in (mine, stock):
            arguments, keywords, leaves = copies(sample)
            with fastgan.backend(**choice):
                y = function(*arguments, **keywords)
                used = torch.autograd.grad(y.square().sum(), leaves, allow_unused=True)
            given = (*arguments[1:], *keywords.values())
            statistics = [t for t in given if isinstance(t, torch.Tensor) and not t.requires_grad]
            results.append([y, *(g if g is not None else torch.zeros(()) for g in used), *statistics])
        for a, b in zip(*results, strict=True):
            torch.testing.assert_close(a, b, rtol=tolerance, atol=tolerance)
        compared += 1
    assert compared and set(left) <= ALLOWED.get(op, set())
    torch_samples("OpInfo", " ".join((name, *op[2:])), device, compared, left)


ALLOWED = {
    ("nn.functional.batch_norm", ""): {"has no channels"},
    ("nn.functional.batch_norm", "without_cudnn"): {"has no channels"},
    ("nn.functional.pad", "reflect"): {"pads one or three dimensions", "crops, by a negative padding"},
    ("nn.functional.conv2d", "", "reflected"): {"names its padding, which reflection_pad_conv2d takes in pixels"},
}

# our layer: the stock one, further keywords for both, the op whose backends serve it
MODULES = {
    fastgan.nn.Conv2d: (torch.nn.Conv2d, {}, "conv2d"),
    fastgan.nn.ReflectionPadConv2d: (
        torch.nn.Conv2d,
        {"padding": 1, "padding_mode": "reflect"},
        "reflection_pad_conv2d",
    ),
    fastgan.nn.ConvTranspose2d: (torch.nn.ConvTranspose2d, {}, "conv_transpose2d"),
    fastgan.nn.BatchNorm1d: (torch.nn.BatchNorm1d, {}, "batch_norm"),
    fastgan.nn.BatchNorm2d: (torch.nn.BatchNorm2d, {}, "batch_norm"),
    fastgan.nn.InstanceNorm2d: (torch.nn.InstanceNorm2d, {}, "instance_norm"),
    fastgan.nn.ReflectionPad2d: (torch.nn.ReflectionPad2d, {}, "reflection_pad2d"),
    fastgan.nn.L1Loss: (torch.nn.L1Loss, {}, "l1_loss"),
    fastgan.nn.MSELoss: (torch.nn.MSELoss, {}, "mse_loss"),
    fastgan.nn.BCEWithLogitsLoss: (torch.nn.BCEWithLogitsLoss, {}, "bce_with_logits"),
}


def module_beyond(mine, keywords):
    """Why a layer's sample is not for ours, or the empty string."""
    if mine is fastgan.nn.ReflectionPadConv2d and isinstance(keywords.get("padding"), str):
        return "names its padding, which ReflectionPadConv2d takes in pixels"
    return ""


@pytest.mark.parametrize("training", [True, False], ids=["training", "evaluation"])
@pytest.mark.parametrize("backend", ["auto", "kernels", "cpp"])
@pytest.mark.parametrize("device", DEVICES)
@DTYPES
@pytest.mark.parametrize("mine", MODULES, ids=lambda mine: mine.__name__)
def test_module_samples(mine, dtype, device, backend, training, torch_samples):
    """Same state dict, value, gradients and buffers as the stock layer; where it reflects, a pixel."""
    stock, further, op = MODULES[mine]
    (info,) = (m for m in common_modules.module_db if m.module_cls is stock)
    tolerance = 1e-4 if dtype == torch.float32 else 1e-9
    inputs = info.module_inputs_func(info, device=device, dtype=dtype, requires_grad=True, training=training)
    compared, left = 0, {}
    for sample in inputs:
        if sample.forward_input is None:
            continue
        arguments, keywords = sample.constructor_input.args, further | sample.constructor_input.kwargs
        reason = module_beyond(mine, keywords)
        if reason:
            left[reason] = left.get(reason, 0) + 1
            continue
        torch.manual_seed(0)
        other = stock(*arguments, **keywords).to(device, dtype).train(training)
        layer = mine(*arguments, **keywords).to(device, dtype).train(training)
        layer.load_state_dict(other.state_dict(), strict=True)
        results = []
        for module in (layer, other):
            tensors = [t.detach().clone().requires_grad_(t.requires_grad) for t in sample.forward_input.args]
            result = []
            for _ in range(2):  # running statistics go on from the first call
                with fastgan.backend(**forced(op, backend, device, getattr(module, "groups", 1))):
                    y = module(*tensors, **sample.forward_input.kwargs)
                    leaves = [t for t in (*tensors, *module.parameters()) if t.requires_grad]
                    used = torch.autograd.grad(y.square().sum(), leaves, allow_unused=True)
                result += [y, *(g if g is not None else torch.zeros(()) for g in used)]
            results.append([*result, *module.buffers()])
        for a, b in zip(*results, strict=True):
            torch.testing.assert_close(a, b, rtol=tolerance, atol=tolerance)
        compared += 1
    assert compared
    torch_samples("ModuleInfo", f"nn.{mine.__name__}", device, compared, left)
