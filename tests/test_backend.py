"""The choice of a backend: automatic, forced, refused with the reason, restored."""

import asyncio
import os
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch

import fastgan
from fastgan import functional
from fastgan.functional import conv_transpose2d, instance_norm, l1_loss
from fastgan.ops import _dispatch

from .ops.common import watch

X = torch.zeros(1, 2, 4, 4)


@pytest.fixture(autouse=True)
def automatic():
    fastgan.set_backend("auto")
    yield
    fastgan.set_backend("auto")


@pytest.fixture
def seen(monkeypatch):
    """The names of the backends whose launchers instance_norm calls."""
    names = []
    watch(
        monkeypatch,
        "instance_norm",
        lambda name, _direction, launch, *a, **rest: (names.append(name), launch(*a, **rest))[1],
    )
    return names


def only(monkeypatch, op, name):
    """Of the kernels of an op, let only those of one backend serve."""
    for backend in _dispatch.OPS[op].backends[:-1]:
        reason = "" if backend.name == name else f"{backend.name} is not there today"
        monkeypatch.setattr(backend, "refuses", lambda call, reason=reason: reason)


def forced():
    """The ops whose backend is forced, here and now."""
    return {op: name for op in _dispatch.OPS if (name := _dispatch.forced(op)) is not None}


WITH_BACKENDS = sorted(set(functional.__all__) - {"conv_norm_act"})  # which calls others: each by its own backends


def test_every_public_function_is_an_op_with_backends():
    assert sorted(_dispatch.OPS) == WITH_BACKENDS
    names = {name: op.names() for name, op in _dispatch.OPS.items()}
    assert all(each[-1] == "reference" and len(each) > 1 for each in names.values())


@pytest.mark.parametrize("whole", [True, False], ids=["one name", "pairs"])
def test_every_op_follows_the_environment_and_a_block_and_is_in_the_report(whole):
    """In a process that imports nothing before: the order of imports leaves no op out."""
    code = """
import fastgan
with fastgan.backend("auto"):  # the first thing that happens, before any function is imported
    pass
from fastgan import info
from fastgan.ops import _dispatch
import torch
for op in fastgan.ops._dispatch.OPS:
    assert _dispatch.serving(op, "cpu", torch.float32) == "reference", op
    assert f"  {op}: reference\\n" in info.report(), op
    with fastgan.backend("auto"):
        assert _dispatch.forced(op) is None, op
        with fastgan.backend(**{op: "reference"}):
            assert [o for o in _dispatch.OPS if _dispatch.forced(o)] == [op]
        with fastgan.backend("reference"):
            assert _dispatch.forced(op) == "reference", op
print("all of", len(_dispatch.OPS))
"""
    name = "reference" if whole else ",".join(f"{op}=reference" for op in WITH_BACKENDS)
    result = in_a_subprocess(code, FASTGAN_BACKEND=name)
    assert result.stdout.strip() == f"all of {len(WITH_BACKENDS)}", result.stderr


def test_the_first_that_can_serve_is_taken(monkeypatch):
    for name, expected in (("cpp", "cpp"), ("triton", "triton"), ("none", "reference")):
        only(monkeypatch, "instance_norm", name)
        assert _dispatch.serving("instance_norm", "cpu", torch.float32) == expected


def test_refusals_say_why():
    for op in _dispatch.OPS:
        refusals = _dispatch.refusals(op, "cpu", torch.float16)
        assert refusals.pop("reference") == ""
        assert all(isinstance(reason, str) for reason in refusals.values())
    cpp, triton = _dispatch.Cpp(), _dispatch.Triton("losses")
    if _dispatch.EXTENSION_LOADED:
        assert cpp.refuses(_dispatch.Call("cpu", torch.float16)) == "its kernels take float32, bfloat16, float64"
    assert cpp.refuses(_dispatch.Call("cuda", torch.float32)) == "the C++ kernels take CPU tensors"
    assert "CUDA" in triton.refuses(_dispatch.Call("mps", torch.float32, "triton")) or not _dispatch.TRITON_FOUND


def test_the_interpreter_serves_only_when_asked():
    if not (_dispatch.TRITON_FOUND and _dispatch.TRITON_INTERPRETED):
        pytest.skip("Triton's interpreter is not in use")
    triton = _dispatch.Triton("losses")
    assert "only when asked" in triton.refuses(_dispatch.Call("cpu", torch.float32))
    assert triton.refuses(_dispatch.Call("cpu", torch.float32, "triton")) == ""


def test_a_forced_backend_computes(seen):
    names = ("cpp", "triton")
    name = next((n for n in names if not _dispatch.refusal("instance_norm", n, "cpu", torch.float32)), None)
    if name is None:
        pytest.skip("no kernel serves instance_norm on the CPU here")
    with fastgan.backend(name):
        instance_norm(X)
    with fastgan.backend("reference"):
        instance_norm(X)
    assert seen == [name]


def test_a_forced_backend_that_cannot_serve_raises_with_the_reason(monkeypatch):
    only(monkeypatch, "instance_norm", "none")
    message = "instance_norm: the backend 'cpp' .* cpp is not there today"
    with fastgan.backend("cpp"), pytest.raises(RuntimeError, match=message):
        instance_norm(X)
    assert instance_norm(X).shape == X.shape


def test_unsupported_calls_take_the_reference_unless_forced(monkeypatch, seen):
    only(monkeypatch, "instance_norm", "cpp")
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
    assert not forced()


def test_a_bare_name_binds_the_ops_that_have_it():
    with fastgan.backend("cuda"):
        assert forced() == {"conv_transpose2d": "cuda"}
        with pytest.raises(RuntimeError, match="cannot serve torch.float32 on cpu: the CUDA kernels take CUDA tensors"):
            conv_transpose2d(X, torch.ones(2, 1, 3, 3), None, 2)
    with fastgan.backend("reference", l1_loss="auto", mse_loss="triton"):
        assert "l1_loss" not in forced() and forced()["mse_loss"] == "triton"
        assert set(forced()) == set(_dispatch.OPS) - {"l1_loss"}


def test_the_choice_is_restored():
    fastgan.set_backend("reference")
    before = forced()
    with pytest.raises(ZeroDivisionError), fastgan.backend("triton"):
        with fastgan.backend(instance_norm="reference"):
            assert forced() == {"instance_norm": "reference"}
        assert forced()["l1_loss"] == "triton"
        1 / 0  # noqa: B018
    assert forced() == before
    with pytest.raises(ValueError), fastgan.backend("nonsense"):
        pass
    assert forced() == before
    fastgan.set_backend()
    assert not forced()


def test_a_block_goes_before_what_is_set_for_the_process():
    fastgan.set_backend(mse_loss="reference")
    with fastgan.backend(l1_loss="reference"):
        assert forced() == {"l1_loss": "reference"}
        with ThreadPoolExecutor(1) as pool:
            assert pool.submit(forced).result() == {"mse_loss": "reference"}
            pool.submit(fastgan.set_backend, conv2d="reference").result()
        with fastgan.backend("auto"):
            assert not forced()
        assert forced() == {"l1_loss": "reference"}
        fastgan.set_backend(l1_loss="triton")  # here, to the end of the block
        assert forced() == {"l1_loss": "triton"}
    assert forced() == {"conv2d": "reference"}


@pytest.mark.parametrize("last", [True, False], ids=["first in, last out", "first in, first out"])
def test_blocks_that_overlap_in_threads(last):
    """Each thread sees its own; after both, in whatever order they end, nothing is forced in any thread."""
    entered, leave = [threading.Event() for _ in range(2)], [threading.Event() for _ in range(2)]

    def work(index, name):
        if index:
            entered[0].wait()
        with fastgan.backend(l1_loss=name):
            entered[index].set()
            leave[index].wait()
            inside = forced()
        return inside, forced()

    with ThreadPoolExecutor(2) as pool:
        results = [pool.submit(work, index, name) for index, name in enumerate(("triton", "reference"))]
        entered[1].wait()
        assert not forced()
        for index in (1, 0) if last else (0, 1):
            leave[index].set()
            results[index].result()
    assert [result.result() for result in results] == [({"l1_loss": "triton"}, {}), ({"l1_loss": "reference"}, {})]
    assert not forced()


def test_blocks_that_overlap_in_tasks():
    async def work(name, steps):
        with fastgan.backend(l1_loss=name):
            for _ in range(steps):
                await asyncio.sleep(0)
                assert forced() == {"l1_loss": name}
            assert await asyncio.to_thread(forced) == {"l1_loss": name}
        assert not forced()

    async def both():
        await asyncio.gather(work("triton", 1), work("reference", 2), work("cpp", 0))

    asyncio.run(both())
    assert not forced()


@pytest.mark.parametrize("order", [(0, 1, 2), (1, 0, 2), (2, 0, 1), (1, 2, 0), (2, 1, 0)])
@pytest.mark.parametrize("elsewhere", [False, True], ids=["here", "by another thread"])
def test_blocks_of_generators_end_in_any_order(order, elsewhere):
    """What is forced is always what the last entered of the open ones asks for; after all, nothing."""
    names = ("triton", "reference", "cpp")

    def generate(name):
        with fastgan.backend(l1_loss=name):
            yield forced()
            yield

    generators = [generate(name) for name in names]
    assert [next(each) for each in generators] == [{"l1_loss": name} for name in names]
    still_open = list(range(3))
    for index in order:
        with ThreadPoolExecutor(1) as pool:
            pool.submit(generators[index].close).result() if elsewhere else generators[index].close()
        still_open.remove(index)
        assert forced() == ({"l1_loss": names[still_open[-1]]} if still_open else {})
        with fastgan.backend(mse_loss="reference"):
            assert forced() == {"mse_loss": "reference"}
        assert forced() == ({"l1_loss": names[still_open[-1]]} if still_open else {})


def test_a_task_that_outlives_the_block_it_was_created_in():
    async def child(started, leave):
        assert forced() == {"l1_loss": "reference"}
        fastgan.set_backend(l1_loss="triton")  # in this task, to the end of the block
        assert forced() == {"l1_loss": "triton"}
        started.set()
        await leave.wait()
        return forced()

    async def parent():
        started, leave = asyncio.Event(), asyncio.Event()
        with fastgan.backend(l1_loss="reference"):
            task = asyncio.create_task(child(started, leave))
            await started.wait()
            assert forced() == {"l1_loss": "reference"}
        leave.set()
        return await task

    assert asyncio.run(parent()) == {}


def test_backward_uses_what_forward_used(seen):
    if _dispatch.serving("instance_norm", "cpu", torch.float32) == "reference":
        pytest.skip("no kernel serves instance_norm on the CPU here")
    x = torch.randn(1, 2, 4, 4, requires_grad=True)
    y = instance_norm(x)
    with fastgan.backend("reference"):
        y.sum().backward()
    assert len(seen) == 2 and seen[0] == seen[1]


def in_a_subprocess(code, **environment):
    environment = {**os.environ, "FASTGAN_BACKEND": "", **environment}
    return subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True)


class Slow(_dispatch.Backend):
    """A backend that somebody adds to an op: all there is to it."""

    name = "slow"

    def refuses(self, call):
        return "" if call.device == "cpu" else "it is slow on CPUs only"

    def pays(self, call):
        return call.asked == "slow"


def test_one_more_backend_is_one_more_object(monkeypatch, seen):
    """In an op's list it can be forced, by name, in blocks and by the environment; info and the errors know it."""
    from types import SimpleNamespace

    from fastgan import info

    def forward(x, weight, bias, residual, eps, activation, negative_slope, halo):
        return x + 41, x.new_zeros(x.shape[:2]), x.new_ones(x.shape[:2])

    op = _dispatch.OPS["instance_norm"]
    slow = Slow(lambda: SimpleNamespace(forward=forward), "for nothing but tests")
    monkeypatch.setattr(op, "backends", (slow, *op.backends))
    assert _dispatch.serving("instance_norm", "cpu", torch.float32) != "slow" and not (instance_norm(X) == 41).any()
    assert "      slow: for nothing but tests\n" in info.report()
    for block in (fastgan.backend("slow"), fastgan.backend(instance_norm="slow")):
        with block:
            assert forced() == {"instance_norm": "slow"} and (instance_norm(X) == 41).all()
            assert "  instance_norm: slow\n" in info.report()
            with pytest.raises(RuntimeError, match="'slow' was asked for but cannot serve this call: residual is"):
                instance_norm(X, residual=X.double())
            with pytest.raises(RuntimeError, match="cannot serve torch.float32 on meta: it is slow on CPUs only"):
                instance_norm(X.to("meta"))
    monkeypatch.setenv("FASTGAN_BACKEND", "instance_norm=slow")
    _dispatch.read_environment()
    assert (instance_norm(X) == 41).all()
    with pytest.raises(ValueError, match="instance_norm has no backend 'fast': choose auto, slow, cpp, triton, ref"):
        fastgan.set_backend(instance_norm="fast")


def test_environment_variable():
    show = (
        "from fastgan.ops._dispatch import OPS, forced; print([(op, forced(op)) for op in sorted(OPS) if forced(op)])"
    )
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
        _dispatch.read_environment()
        assert all(_dispatch.forced(op) for op in _dispatch.OPS)  # no short cut goes by a choice that is mistaken
        with pytest.raises(ValueError, match=message):
            l1_loss(X, X[:, :1])
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
from fastgan.ops import _dispatch
x = torch.randn(1, 2, 4, 4, requires_grad=True)
y = fastgan.functional.instance_norm(x, activation="relu")
fastgan.functional.mse_loss(y, 1.0).backward()
for op in _dispatch.OPS:
    assert _dispatch.serving(op, "cpu", torch.float32) == "reference", op
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
    only(monkeypatch, "l1_loss", "none")
    with fastgan.backend(l1_loss="cpp"), pytest.raises(RuntimeError, match="l1_loss: the backend 'cpp'"):
        l1_loss(X, 1.0)


def test_import_alone_is_light_and_gives_everything():
    """The commands set up the process between `import fastgan` and torch's own import."""
    missing = "[n for n in dir(fastgan) if not hasattr(fastgan, n)]"
    code = f"import sys, fastgan; assert 'torch' not in sys.modules; print({missing}, fastgan.models.ResnetGenerator)"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert result.returncode == 0 and result.stdout.startswith("[] <class"), result.stderr
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        fastgan.nothing  # noqa: B018
