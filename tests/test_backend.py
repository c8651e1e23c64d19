"""The choice of a backend: automatic, forced, refused with the reason, restored."""

import os
import subprocess
import sys

import pytest
import torch

import fastgan
from fastgan.functional import conv_transpose2d, instance_norm, l1_loss
from fastgan.ops import _backend

X = torch.zeros(1, 2, 4, 4)


@pytest.fixture(autouse=True)
def automatic():
    fastgan.set_backend("auto")
    yield
    fastgan.set_backend("auto")


@pytest.fixture
def seen(monkeypatch):
    """The names of the backends whose launchers instance_norm calls."""
    from fastgan.ops import instance_norm as module

    names = []
    launchers = module._launchers
    monkeypatch.setattr(module, "_launchers", lambda name: names.append(name) or launchers(name))
    return names


def serves(name, **facts):
    """A registration in which only backend ``name`` can serve instance_norm."""
    return {
        other: lambda device, dtype, asked, other=other: "" if other == name else f"{other} is not there today"
        for other in ("cpp", "triton")
    }


def test_every_op_is_listed_with_its_backends():
    known = fastgan.ops._backend.ops()
    losses = {"l1_loss", "mse_loss", "bce_with_logits"}
    assert set(known) == {
        "batch_norm", "conv2d", "conv_transpose2d", "instance_norm", "reflection_pad2d", "reflection_pad_conv2d", *losses
    }
    assert all(backends[-1] == "reference" for backends in known.values())


def test_the_first_that_can_serve_is_taken(monkeypatch):
    for name, expected in (("cpp", "cpp"), ("triton", "triton"), ("none", "reference")):
        monkeypatch.setitem(_backend._verifiers, "instance_norm", serves(name))
        assert _backend.select("instance_norm", "cpu", torch.float32) == expected


def test_refusals_say_why():
    for op in _backend.ops():
        refusals = _backend.refusals(op, "cpu", torch.float16)
        assert refusals.pop("reference") == ""
        assert all(isinstance(reason, str) for reason in refusals.values())
    if _backend.EXTENSION_LOADED:
        verify = _backend.cpp_serves(torch.float32, torch.bfloat16)
        assert verify("cpu", torch.float16, True) == "its kernels take float32, bfloat16"
    assert _backend.cpp_serves(torch.float32)("cuda", torch.float32, True) == "the C++ kernels take CPU tensors"
    assert "CUDA" in _backend.triton_serves(torch.float32)("mps", torch.float32, True) or not _backend.TRITON_FOUND


def test_the_interpreter_serves_only_when_asked():
    if not (_backend.TRITON_FOUND and _backend.TRITON_INTERPRETED):
        pytest.skip("Triton's interpreter is not in use")
    verify = _backend.triton_serves(torch.float32)
    assert "only when asked" in verify("cpu", torch.float32, False)
    assert verify("cpu", torch.float32, True) == ""


def test_a_forced_backend_computes(seen):
    verifiers = _backend._verifiers["instance_norm"]
    name = next((n for n in ("cpp", "triton") if not verifiers[n]("cpu", torch.float32, True)), None)
    if name is None:
        pytest.skip("no kernel serves instance_norm on the CPU here")
    with fastgan.backend(name):
        instance_norm(X)
    with fastgan.backend("reference"):
        instance_norm(X)
    assert seen == [name]


def test_a_forced_backend_that_cannot_serve_raises_with_the_reason(monkeypatch):
    monkeypatch.setitem(_backend._verifiers, "instance_norm", serves("none"))
    message = "instance_norm: the backend 'cpp' .* cpp is not there today"
    with fastgan.backend("cpp"), pytest.raises(RuntimeError, match=message):
        instance_norm(X)
    assert instance_norm(X).shape == X.shape


def test_unserved_calls_take_the_reference_unless_forced(monkeypatch, seen):
    monkeypatch.setitem(_backend._verifiers, "instance_norm", serves("cpp"))
    double = torch.ones(2).double()
    calls = {
        "residual is torch.float64 beside an input of torch.float32": lambda: instance_norm(X, residual=X.double()),
        "weight is torch.float64 beside an input of torch.float32": lambda: instance_norm(X[:0], weight=double),
    }
    for reason, call in calls.items():
        call()
        with fastgan.backend("reference"):
            call()
        message = f"'cpp' was asked for but cannot serve this call: {reason}"
        with fastgan.backend("cpp"), pytest.raises(RuntimeError, match=message):
            call()
    assert not seen


def test_unknown_names():
    known = "auto, columns, cpp, cuda, halo, reference, triton, winograd"
    with pytest.raises(ValueError, match=f"unknown backend 'fast': choose {known}"):
        fastgan.set_backend("fast")
    with pytest.raises(ValueError, match="unknown op 'group_norm': choose from .*instance_norm"):
        fastgan.set_backend(group_norm="cpp")
    with pytest.raises(ValueError, match="conv_transpose2d has no backend 'triton': choose auto, cpp, cuda, reference"):
        fastgan.set_backend(conv_transpose2d="triton")
    assert not _backend._forced


def test_a_bare_name_binds_the_ops_that_have_it():
    with fastgan.backend("cuda"):
        assert _backend._forced == {"conv_transpose2d": "cuda"}
        with pytest.raises(RuntimeError, match="cannot serve torch.float32 on cpu: the CUDA kernels take CUDA tensors"):
            conv_transpose2d(X, torch.ones(2, 1, 3, 3), None, 2)
    with fastgan.backend("reference", l1_loss="auto", mse_loss="triton"):
        assert "l1_loss" not in _backend._forced and _backend._forced["mse_loss"] == "triton"
        assert set(_backend._forced) == set(_backend.ops()) - {"l1_loss"}


def test_the_choice_is_restored():
    fastgan.set_backend("reference")
    before = dict(_backend._forced)
    with pytest.raises(ZeroDivisionError), fastgan.backend("triton"):
        with fastgan.backend(instance_norm="reference"):
            assert _backend._forced == {"instance_norm": "reference"}
        assert _backend._forced["l1_loss"] == "triton"
        1 / 0
    assert _backend._forced == before
    with pytest.raises(ValueError), fastgan.backend("nonsense"):
        pass
    assert _backend._forced == before
    fastgan.set_backend()
    assert not _backend._forced


def test_backward_uses_what_forward_used(seen):
    if _backend.select("instance_norm", "cpu", torch.float32) == "reference":
        pytest.skip("no kernel serves instance_norm on the CPU here")
    x = torch.randn(1, 2, 4, 4, requires_grad=True)
    y = instance_norm(x)
    with fastgan.backend("reference"):
        y.sum().backward()
    assert len(seen) == 2 and seen[0] == seen[1]


def in_a_subprocess(code, **environment):
    environment = {**os.environ, "FASTGAN_BACKEND": "", **environment}
    return subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True)


def test_environment_variable():
    show = "import fastgan; from fastgan.ops._backend import _forced; print(sorted(_forced.items()))"
    result = in_a_subprocess(show, FASTGAN_BACKEND="cuda, l1_loss=reference")
    assert result.stdout.strip() == "[('conv_transpose2d', 'cuda'), ('l1_loss', 'reference')]", result.stderr


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ("quick", "FASTGAN_BACKEND='quick': unknown backend 'quick': choose auto,"),
        ("cpp,triton", "FASTGAN_BACKEND='cpp,triton' names 2 backends for all ops"),
        ("l1=cpp", "FASTGAN_BACKEND='l1=cpp': unknown op 'l1'"),
    ],
)
def test_bad_environment_variable(value, message, monkeypatch):
    """Known at the first call of an op, until a backend is set: an import is in no need of it."""
    monkeypatch.setenv("FASTGAN_BACKEND", value)
    try:
        _backend.read_environment()
        with pytest.raises(ValueError, match=message):
            instance_norm(X)
        with fastgan.backend("reference"):
            instance_norm(X)
        with pytest.raises(ValueError, match=message):
            instance_norm(X)
    finally:
        fastgan.set_backend("auto")
    instance_norm(X)


def test_import_needs_neither_triton_nor_the_extension():
    """A copy that was never built, on a machine without triton: the reference serves; asked, the others say why not."""
    code = """
import sys
sys.modules["triton"] = None
import importlib.util
find = importlib.util.find_spec
importlib.util.find_spec = lambda name, *rest: None if name == "triton" else find(name, *rest)
import torch
import fastgan.ops._extension as extension
"""
    # The extension is hidden by its build record, before the ops are imported.
    code = code.replace(
        "import fastgan.ops._extension as extension",
        "import json; load = json.loads; json.loads = lambda text: {'built': False, 'reason': 'hidden by a test'}",
    )
    code += """
import fastgan.functional
json.loads = load
from fastgan.ops import _backend
x = torch.randn(1, 2, 4, 4, requires_grad=True)
y = fastgan.functional.instance_norm(x, activation="relu", halo=1)
fastgan.functional.mse_loss(y, 1.0).backward()
for op in _backend.ops():
    assert _backend.select(op, "cpu", torch.float32) == "reference", op
try:
    with fastgan.backend("cpp"):
        fastgan.functional.instance_norm(x)
except RuntimeError as error:
    assert "hidden by a test" in str(error), error
else:
    raise AssertionError("a backend that is not there served")
try:
    with fastgan.backend("triton"):
        fastgan.functional.l1_loss(x, 1.0)
except RuntimeError as error:
    assert "triton is not installed" in str(error), error
print("served")
"""
    result = in_a_subprocess(code)
    assert result.stdout.strip() == "served", result.stderr


def test_l1_loss_by_name(monkeypatch):
    """Single ops are bound by their public names."""
    monkeypatch.setitem(_backend._verifiers, "l1_loss", serves("none"))
    with fastgan.backend(l1_loss="cpp"), pytest.raises(RuntimeError, match="l1_loss: the backend 'cpp'"):
        l1_loss(X, 1.0)


def test_import_alone_is_light_and_gives_everything():
    """The commands set up the process between `import fastgan` and torch's own import."""
    missing = "[n for n in dir(fastgan) if not hasattr(fastgan, n)]"
    code = f"import sys, fastgan; assert 'torch' not in sys.modules; print({missing}, fastgan.models.ResnetGenerator)"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert result.returncode == 0 and result.stdout.startswith("[] <class"), result.stderr
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        fastgan.nothing
