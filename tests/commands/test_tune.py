"""The tuner: what it measures, leaves out and writes; on the CPU, by Triton's interpreter and a plain clock."""

import threading
import time

import pytest
import torch

from fastgan import info, tune
from fastgan.models import ResnetGenerator
from fastgan.ops import _dispatch, _table, _tuner, instance_norm, reflection_pad_conv2d

interpreted = pytest.mark.skipif(
    not (_dispatch.TRITON_FOUND and _dispatch.TRITON_INTERPRETED) or torch.cuda.is_available(),
    reason="measures on the CPU, by Triton's interpreter",
)


def host_clock(run, index):
    began = time.perf_counter()
    run(index)
    return time.perf_counter() - began


def test_needs_a_gpu(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(ValueError, match="fastgan.tune measures on a CUDA device, and torch finds none here"):
        tune.main([])


@pytest.mark.parametrize(("arguments", "said"), [
    (["--list"], "unknown argument '--list': python -m fastgan.tune --help lists what there is"),
    (["--layuot", "nchw"], "unknown argument '--layuot': did you mean --layout?"),
    (["--size", "big"], "--size: invalid int value: 'big'"),
    (["--op", "norm"], "--op: invalid choice: 'norm'"),
    (["--batch", "1", "0"], "--batch must be at least 1, got 0"),
    (["--rounds", "-1"], "--rounds must be at least 1, got -1"),
])  # fmt: skip
def test_bad_flags_are_errors(call, arguments, said):
    outcome = call(tune, *arguments)
    assert outcome.code == 2 and outcome.err.startswith(f"error: {said}") and outcome.err.count("\n") == 1


def test_default_shapes_are_those_of_the_generator():
    first, trunk, last, *padded = tune.cases("reflection_pad_conv2d", 16, 256, 64)
    assert first == (16, 3, 256, 64, 7, 3) and trunk == (16, 256, 66, 256, 3, 0) and last == (16, 64, 262, 3, 7, 0)
    assert padded == [(16, 256, 64, 256, 3, 1), (16, 64, 256, 3, 7, 3)]
    assert tune.cases("instance_norm", 1, 256, 64)[0] == (1, 64, 256, 0)


@pytest.mark.parametrize("norm", ["instance", "batch"])
def test_every_call_of_the_generator_is_measured(norm, monkeypatch):
    """What a generator asks the table for, the tuner writes: by shape and padding."""
    asked = {"reflection_pad_conv2d": set(), "instance_norm": set()}
    monkeypatch.setattr(_table, "KINDS", ("cpu",))
    monkeypatch.setattr(_table, "backend", lambda op, x, shape: asked[op].add(shape))
    norm_of = instance_norm.compute
    monkeypatch.setattr(
        instance_norm,
        "compute",
        lambda x, *args: (asked["instance_norm"].add(instance_norm.shape_key(x.shape, args[6])), norm_of(x, *args))[1],
    )
    with torch.no_grad():
        ResnetGenerator(ngf=8, n_blocks=2, norm=norm).train()(torch.randn(2, 3, 32, 32))
    how = ((1, 1), (1, 1))
    written = {
        reflection_pad_conv2d.shape_key((n, c, side, side), (outputs, c, k, k), how[0], (pad, pad), how[1])
        for n, c, side, outputs, k, pad in tune.cases("reflection_pad_conv2d", 2, 32, 8)
    }
    assert len(asked["reflection_pad_conv2d"]) == 3 and asked["reflection_pad_conv2d"] <= written
    norms = {
        instance_norm.shape_key((n, c, side, side), halo) for n, c, side, halo in tune.cases("instance_norm", 2, 32, 8)
    }
    assert asked["instance_norm"] == (norms if norm == "instance" else set())


def test_medians_take_turns():
    calls = []
    runners = {name: (lambda i, name=name: calls.append((name, i))) for name in "ab"}
    seconds = iter([9.0, 9.0] * 2 + [1.0, 4.0, 3.0, 5.0, 2.0, 6.0])

    def clock(run, index):
        run(index)
        return next(seconds)

    assert _tuner.medians(runners, clock, rounds=3) == {"a": 2.0, "b": 5.0}
    assert calls == [(name, i) for i in range(5) for name in "ab"]


@pytest.mark.parametrize("together", [1, 3])
def test_wrong_and_impossible_candidates_are_left_out(together):
    said = []

    def run(config):
        if config == (1,):
            raise RuntimeError("out of resource: shared memory\nmore")
        return torch.full((2,), float(config[0]))

    assert _tuner._usable([(1,), (2,), (3,)], run, torch.full((2,), 2.0), said.append, together) == [(2,)]
    assert said == [
        "left out (1,): RuntimeError: out of resource: shared memory", "left out (3,): its result is wrong",
    ]  # fmt: skip


def test_candidates_are_compiled_together():
    """All of them are under way before the first is done."""
    everybody = threading.Barrier(3, timeout=30)

    def run(config):
        everybody.wait()
        return torch.zeros(1)

    assert _tuner._usable([(1,), (2,), (3,)], run, torch.zeros(1), pytest.fail, 3) == [(1,), (2,), (3,)]


@interpreted
@pytest.mark.parametrize("padding", [0, 1])
@pytest.mark.parametrize("layout", ["nchw", "nhwc"])
def test_an_entry_is_what_the_op_then_follows(layout, padding, tmp_path, monkeypatch):
    from fastgan.kernels import reflection_pad_conv2d as kernels

    all_candidates = kernels.candidates
    monkeypatch.setattr(kernels, "candidates", lambda *args: all_candidates(*args)[:2])
    by_triton = lambda run: reflection_pad_conv2d.OP["triton"] in run.args  # noqa: E731
    clock = lambda run, index: host_clock(run, index) * (1e-6 if by_triton(run) else 1)  # noqa: E731
    said = []
    entry = _tuner.tune_convolution(
        _tuner.Convolution(1, 2, 4, 3, 3, padding), torch.float32, layout, torch.device("cpu"), clock, 1, said.append
    )
    assert not said and entry["backend"] == "triton" and set(entry["configurations"]) == set(kernels.DIRECTIONS)
    monkeypatch.setattr(_table, "FOLDER", tmp_path)
    monkeypatch.setattr(_table, "KINDS", ("cpu",))
    monkeypatch.setattr(_table, "device_name", lambda kind, index: "A Test Device")
    _table.write(tmp_path / "a-test-device.json", "A Test Device", {}, [entry])
    x = torch.zeros(1, 2, 4, 4).contiguous(memory_format=_tuner._FORMATS[layout])
    how = ((1, 1), (padding, padding), (1, 1))
    key = reflection_pad_conv2d.shape_key(x.shape, (3, 2, 3, 3), *how)
    assert _table.backend("reflection_pad_conv2d", x, key) == "triton"
    assert reflection_pad_conv2d.OP.config("forward", x, x.shape, (3, 2, 3, 3), *how) in all_candidates(
        "forward", layout, kernels.geometry(x.shape, (3, 2, 3, 3), *how), 4, "tf32"
    )
    assert info._measured("A Test Device") == "Measured on A Test Device: reflection_pad_conv2d: triton for 1 shapes"
    assert "triton forward" in tune.describe(entry)
    _table.entries.cache_clear()


@interpreted
def test_instance_norm_follows_its_table(tmp_path, monkeypatch):
    from fastgan.kernels import instance_norm as kernels

    monkeypatch.setattr(_table, "FOLDER", tmp_path)
    monkeypatch.setattr(_table, "KINDS", ("cpu",))
    monkeypatch.setattr(_table, "device_name", lambda kind, index: "A Test Device")
    said = []
    entry = _tuner.tune_norm(
        _tuner.Norm(1, 4, 4, 1), torch.float32, "nchw", torch.device("cpu"), host_clock, 1, said.append
    )
    assert not said and entry["backend"] == "triton"
    entry["configurations"]["forward"] = kernels.Config(64, 4, 1, 3, 16, 1)._asdict()
    _table.write(tmp_path / "a-test-device.json", "A Test Device", {}, [entry])
    seen = []
    launch = kernels.forward
    monkeypatch.setattr(kernels, "forward", lambda *args, **rest: seen.append(args[8:]) or launch(*args, **rest))
    x = torch.randn(1, 4, 4, 4)
    y = torch.ops.fastgan.instance_norm(x, None, None, None, None, 1e-5, "relu", 0.0, 1, "triton")[0]
    torch.testing.assert_close(y, instance_norm.reference(x, activation="relu", halo=1))
    torch.ops.fastgan.instance_norm(x, None, None, None, None, 1e-5, "relu", 0.0, 0, "triton")
    assert seen == [(kernels.Config(64, 4, 1, 3, 16, 1),), (None,)]
    _table.entries.cache_clear()


@interpreted
@pytest.mark.parametrize("layout", ["nchw", "nhwc"])
@pytest.mark.parametrize("shape", [(1, 4, 8, 8), (2, 3, 5, 7), (16, 256, 64, 64)])
def test_candidates_of_instance_norm_fit_the_shape(shape, layout):
    from fastgan.kernels import instance_norm as kernels

    for direction in ("forward", "backward"):
        for config in kernels.candidates(direction, layout, shape, 4):
            assert layout == "nhwc" or shape[3] % config.cols == 0
            assert config.splits or layout == "nhwc" or config.rows * config.cols >= shape[2] * shape[3]
            assert config.splits <= config.split_block
