"""Registers tests/ops/plain.py as the backend "plain" while the tests of the ops run, and counts torch's samples."""

import pytest

from fastgan.ops import _backend, instance_norm, losses, reflection_pad, reflection_pad_conv2d

from . import plain


def _serves(device, dtype, asked):
    return "" if asked and device == "cpu" else "plain torch launchers for tests on the CPU"


@pytest.fixture(autouse=True, scope="module")
def plain_backend():
    with pytest.MonkeyPatch.context() as patch:
        ops = ("instance_norm", "reflection_pad2d", "reflection_pad_conv2d", "conv_transpose2d", "l1_loss", "mse_loss",
               "bce_with_logits")
        for op in ops:
            patch.setitem(_backend._verifiers[op], "plain", _serves)

        def launchers(kernels, others):
            return lambda backend: (kernels.forward, kernels.backward) if backend == "plain" else others(backend)

        for module, kernels in ((instance_norm, plain.instance_norm), (reflection_pad, plain.reflection_pad)):
            patch.setattr(module, "_launchers", launchers(kernels, module._launchers))
        products = plain.reflection_pad_conv2d
        others = reflection_pad_conv2d._launchers
        patch.setattr(
            reflection_pad_conv2d,
            "_launchers",
            lambda backend: (products.forward, products.input_gradient, products.weight_gradient)
            if backend == "plain"
            else others(backend),
        )
        other = losses._launcher
        launcher = lambda backend: plain.losses.forward if backend == "plain" else other(backend)  # noqa: E731
        patch.setattr(losses, "_launcher", launcher)
        yield


# (suite, name, device): samples compared, and left out by reason, over all dtypes and backends
_SAMPLES: dict[tuple[str, str, str], tuple[int, dict[str, int]]] = {}


@pytest.fixture
def torch_samples():
    """A function that adds to the table of torch's samples that the run prints."""

    def add(suite, name, device, compared, left):
        before, reasons = _SAMPLES.get((suite, name, device), (0, {}))
        for reason, count in left.items():
            reasons[reason] = reasons.get(reason, 0) + count
        _SAMPLES[suite, name, device] = (before + compared, reasons)

    return add


def pytest_terminal_summary(terminalreporter):
    if not _SAMPLES:
        return
    terminalreporter.section("torch's own samples, in every dtype and by every backend")
    for (suite, name, device), (compared, left) in sorted(_SAMPLES.items()):
        reasons = "".join(f"; left out {count}: {reason}" for reason, count in left.items())
        terminalreporter.write_line(f"{suite:10} {name:48} {device:4} {compared:4} passed{reasons}")
    for suite in sorted({key[0] for key in _SAMPLES}):
        total = sum(compared for key, (compared, _) in _SAMPLES.items() if key[0] == suite)
        terminalreporter.write_line(f"{suite:10} {'all':53} {total:4} passed")
