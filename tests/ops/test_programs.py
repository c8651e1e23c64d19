"""Our ops in programs that were exported or traced and are then trained: gradients as in eager mode, or an error.

A program consists of low-level ops, so each of them has the derivative of what it computes, to second order too.
"""

import copy
import io
import warnings

import pytest
import torch
from torch import nn
from torch.fx.experimental.proxy_tensor import make_fx

import fastgan
from fastgan import functional as ours
from fastgan.ops import _dispatch, _library

from .common import draw, instance_norm
from .test_library import fresh_compiler  # noqa: F401


def filters(x, outputs=2, size=3):
    """A weight (O, C, size, size) made of x, which then gets a gradient through it."""
    return x[:1, :, :size, :size].expand(outputs, -1, -1, -1) * torch.arange(1.0, outputs + 1).to(x).view(-1, 1, 1, 1)


# Each public function, of x (2, 3, 4, 5), w and b (3,): all tensors that it takes are made of them.
FUNCTIONS = {
    "batch_norm": lambda x, w, b: ours.batch_norm(x, None, None, w, b, True, activation="leaky_relu"),
    "batch_norm in evaluation": lambda x, w, b: ours.batch_norm(x, torch.zeros(3).to(x), torch.ones(3).to(x), w, b),
    "instance_norm": lambda x, w, b: instance_norm(
        x, weight=w, bias=b, activation="leaky_relu", residual=x.sin(), halo=1
    ),
    "instance_norm and its interior": lambda x, w, b: sum(
        y.square().mean() for y in instance_norm(x, weight=w, bias=b, halo=1, interior=True)
    ),
    "reflection_pad2d": lambda x, w, b: ours.reflection_pad2d(x, (1, 2, 3, 0)),
    "reflection_pad_conv2d": lambda x, w, b: ours.reflection_pad_conv2d(x, filters(x), b[:2], padding=1),
    "conv2d": lambda x, w, b: ours.conv2d(x, filters(x), b[:2], padding=1),
    "conv_norm_act": lambda x, w, b: ours.conv_norm_act(
        x, filters(x), b[:2], padding=1, padding_mode="reflect", norm_weight=w[:2], activation="leaky_relu"
    ),
    "conv2d by columns": lambda x, w, b: ours.conv2d(x, filters(x, 2, 4), b[:2], padding=2),
    "conv_transpose2d": lambda x, w, b: ours.conv_transpose2d(
        x, filters(x).transpose(0, 1), b[:2], 2, 1, activation="leaky_relu"
    ),
    "l1_loss": lambda x, w, b: ours.l1_loss(x, 0.5),
    "l1_loss of two": lambda x, w, b: ours.l1_loss(x, x.sin(), reduction="sum"),
    "mse_loss": lambda x, w, b: ours.mse_loss(x, 0.5),
    "mse_loss of two": lambda x, w, b: ours.mse_loss(x, x.sin(), reduction="none"),
    "bce_with_logits": lambda x, w, b: ours.bce_with_logits(x, 0.9),
    "bce_with_logits of two": lambda x, w, b: ours.bce_with_logits(x, 0.1 * x, reduction="none"),
}


class Program(nn.Module):
    """A function of an input and two parameters."""

    def __init__(self, function):
        super().__init__()
        self.function = function
        self.weight = nn.Parameter(1 + 0.1 * draw((3,), seed=1))
        self.bias = nn.Parameter(draw((3,), seed=2))

    def forward(self, x):
        return self.function(x, self.weight, self.bias)


def example():
    return draw((2, 3, 4, 5))


def exported(model, strict=False, decomposed=False):
    program = torch.export.export(model, (example(),), strict=strict)
    return (program.run_decompositions() if decomposed else program).module()


def traced(model, gradients):
    with torch.set_grad_enabled(gradients), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of Python values in shapes, and of torch.jit's age
        return torch.jit.trace(model, example())


def recorded(model, mode="real", **how):
    """The graph that make_fx gives, as a module with the model's parameters."""
    names = [name for name, _ in model.named_parameters()]

    def call(x, *parameters):
        return torch.func.functional_call(model, dict(zip(names, parameters)), (x,))

    with torch.no_grad():
        graph = make_fx(call, tracing_mode=mode, **how)(example(), *(p.detach() for p in model.parameters()))
    return lambda x: graph(x, *model.parameters())


ROUTES = {
    "export": exported,
    "strict export": lambda model: exported(model, strict=True),
    "decomposed export": lambda model: exported(model, decomposed=True),
    "export without gradients": torch.no_grad()(exported),
    "jit.trace": lambda model: traced(model, True),
    "jit.trace without gradients": lambda model: traced(model, False),
    "make_fx": recorded,
    "make_fx of fakes": lambda model: recorded(model, "fake"),
    "make_fx before autograd": lambda model: recorded(model, pre_dispatch=True),
}


def derivatives(call, parameters):
    """Value; gradients of a function of it; gradients of a function of those: of the input and the parameters."""
    x = example().requires_grad_()
    y = call(x)
    first = torch.autograd.grad(y.sin().sum(), [x, *parameters], create_graph=True, allow_unused=True)
    first = [torch.zeros_like(t) if g is None else g for g, t in zip(first, [x, *parameters])]
    along = sum((g * g.detach().cos()).sum() for g in first)
    second = torch.autograd.grad(along, [x, *parameters], allow_unused=True)
    return [y, *first, *(torch.zeros_like(t) if g is None else g for g, t in zip(second, [x, *parameters]))]


def assert_trains_alike(call, model, parameters, reference):
    results, expected = derivatives(call, parameters), derivatives(reference, list(model.parameters()))
    for result, other in zip(results, expected, strict=True):
        torch.testing.assert_close(result, other, rtol=1e-8, atol=1e-10)


def test_every_function_is_tried():
    assert {name.split(" ")[0] for name in FUNCTIONS} == set(ours.__all__)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize("route", ROUTES)
@pytest.mark.parametrize("function", FUNCTIONS)
def test_programs_are_trained_as_the_model(function, route, fresh_compiler):  # noqa: F811
    model = Program(FUNCTIONS[function])
    forced = {"conv2d": "columns"} if function == "conv2d by columns" else {"conv2d": "cpp"}
    with fastgan.backend("plain", **(forced if _dispatch.EXTENSION_LOADED else {})):
        program = ROUTES[route](model)
    with fastgan.backend("reference"):  # what the program is made of was chosen when it was made
        own = dict(program.named_parameters()) if isinstance(program, nn.Module) else {}
        parameters = [
            own.get(name, parameter) for name, parameter in model.named_parameters()
        ]  # unused ones may be lost
        assert_trains_alike(program, model, parameters, model)


@pytest.mark.parametrize("name", FUNCTIONS)
def test_a_program_that_holds_a_backward_pass_is_differentiated_again(name):
    """make_fx of a gradient: a graph of the ops of both passes, whose gradient is the second derivative."""
    parameters = [p.detach() for p in Program(None).parameters()]

    def gradient(x):
        return torch.autograd.grad(FUNCTIONS[name](x, *parameters).sin().sum(), x)[0]

    with fastgan.backend("plain"):
        graph = make_fx(gradient)(example().requires_grad_())
        results = []
        for function in (
            graph,
            lambda x: torch.autograd.grad(FUNCTIONS[name](x, *parameters).sin().sum(), x, create_graph=True)[0],
        ):
            x = example().requires_grad_()
            g = function(x)
            results.append([g, *torch.autograd.grad((g * g.detach().cos()).sum(), x)])
    for result, other in zip(*results, strict=True):
        torch.testing.assert_close(result, other, rtol=1e-8, atol=1e-10)


LAYERS = {
    "BCEWithLogitsLoss": lambda: fastgan.nn.BCEWithLogitsLoss(),
    "BatchNorm1d": lambda: nn.Sequential(nn.Flatten(2), fastgan.nn.BatchNorm1d(3, activation="relu")),
    "BatchNorm2d": lambda: fastgan.nn.BatchNorm2d(3, activation="relu"),
    "Conv2d": lambda: fastgan.nn.Conv2d(3, 2, 3),
    "ConvNormAct2d": lambda: fastgan.nn.ConvNormAct2d(3, 2, 3, padding=1, affine=True, activation="leaky_relu"),
    "ConvTranspose2d": lambda: fastgan.nn.ConvTranspose2d(3, 2, 3, 2, activation="leaky_relu"),
    "InstanceNorm2d": lambda: fastgan.nn.InstanceNorm2d(3, affine=True),
    "InstanceNorm2d, running": lambda: fastgan.nn.InstanceNorm2d(3, affine=True, track_running_stats=True),
    "L1Loss": lambda: fastgan.nn.L1Loss(),
    "MSELoss": lambda: fastgan.nn.MSELoss(),
    "ReflectionPad2d": lambda: fastgan.nn.ReflectionPad2d(2),
    "ReflectionPadConv2d": lambda: fastgan.nn.ReflectionPadConv2d(3, 2, 3, padding=1),
    "Sequential": lambda: fastgan.fuse(
        nn.Sequential(nn.ReflectionPad2d(1), nn.Conv2d(3, 2, 3), nn.InstanceNorm2d(2), nn.ReLU())
    ),
}


def test_every_layer_is_among_them():
    assert set(fastgan.nn.__all__) <= set(LAYERS)


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::torch.jit.TracerWarning")
@pytest.mark.parametrize("training", [True, False], ids=["training", "evaluation"])
@pytest.mark.parametrize("name", LAYERS)
def test_layers_in_programs_are_trained_as_themselves(name, training):
    """By the backends that serve here, written to a file and read again."""

    class Loss(nn.Module):
        def __init__(self, layer):
            super().__init__()
            self.layer = layer

        def forward(self, x):
            return self.layer(x, 0.25) + self.layer(x, 2 * x) if name.endswith("Loss") else self.layer(x)

    model = Loss(LAYERS[name]()).double().train(training)
    for make in (exported_file, traced_file):
        program = make(model)
        own = dict(program.named_parameters())
        state = {key: value.clone() for key, value in model.state_dict().items()}
        assert_trains_alike(program, model, [own[n] for n, _ in model.named_parameters()], model)
        model.load_state_dict(state)


def exported_file(model):
    file = io.BytesIO()
    torch.export.save(torch.export.export(copy.deepcopy(model), (example(),)), file)
    file.seek(0)
    return torch.export.load(file).module()


def traced_file(model):
    file = io.BytesIO()
    torch.jit.save(torch.jit.trace(copy.deepcopy(model), example(), check_trace=False), file)
    file.seek(0)
    return torch.jit.load(file)


def names(namespace):
    return {
        name.removeprefix(f"{namespace}::")
        for name in torch._C._dispatch_get_all_op_names()
        if name.startswith(f"{namespace}::")
    }


def test_every_low_level_op_has_a_derivative():
    assert names("fastgan") == set(_library._derivatives)
    for name in names("fastgan"):
        assert torch._C._dispatch_has_kernel_for_dispatch_key(f"fastgan::{name}", "Autograd")


def test_a_low_level_op_without_a_derivative_refuses(monkeypatch):
    monkeypatch.delitem(_library._derivatives, "reflection_pad2d")
    x = example().requires_grad_()
    call = lambda: torch.ops.fastgan.reflection_pad2d(x, 1, 1, 1, 1, "plain")  # noqa: E731
    with pytest.raises(
        NotImplementedError, match="fastgan::reflection_pad2d has no derivative: call it under torch.no_"
    ):
        call()
    with torch.no_grad():
        assert call().shape == (2, 3, 6, 7)


@pytest.mark.skipif(not _dispatch.EXTENSION_LOADED, reason=_dispatch.EXTENSION_STATUS)
def test_compiled_ops_refuse_to_lose_a_derivative():
    """The ops of the C++ extension have none; ours in Python, which call them, have."""
    ops = torch.ops.fastgan_csrc
    of_tensors = {name for name in names("fastgan_csrc") if "Tensor" in str(getattr(ops, name).default._schema)}
    assert len(of_tensors) >= 14
    for name in of_tensors:
        assert torch._C._dispatch_has_kernel_for_dispatch_key(f"fastgan_csrc::{name}", "Autograd"), name
    x = example().requires_grad_()
    for y in (ops.reflection_pad2d(x, 1, 1, 1, 1), ops.instance_norm(x, None, None, None, 1e-5, "none", 0.0, 0)[0]):
        with pytest.raises(RuntimeError, match="derivative for fastgan_csrc::.* is not implemented"):
            (y.sum() + x.sum()).backward()


def test_forward_mode_through_a_low_level_op_is_refused():
    with torch.autograd.forward_ad.dual_level():
        x = torch.autograd.forward_ad.make_dual(example(), example())
        with pytest.raises(NotImplementedError, match="forward-mode differentiation"):
            torch.ops.fastgan.reflection_pad2d(x, 1, 1, 1, 1, "plain")


@pytest.mark.parametrize("name", ["instance_norm", "conv_transpose2d", "mse_loss"])
def test_functional_gradients_of_a_recorded_program(name):
    model = Program(FUNCTIONS[name])
    with fastgan.backend("plain"):
        graph = recorded(model)

    def once(function):
        return torch.func.grad(lambda x: function(x).sin().sum())

    def twice(function):
        return torch.func.grad(lambda x: once(function)(x).sin().sum())

    for derivative in (once, twice):
        with fastgan.backend("reference"):
            expected = derivative(model)(example())
        torch.testing.assert_close(derivative(graph)(example()), expected)
