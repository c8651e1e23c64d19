"""Registers tests/ops/plain.py as the backend "plain" while the tests of the ops run."""

import pytest

from fastgan.ops import _backend, instance_norm, losses, reflection_pad

from . import plain


def _serves(device, dtype, asked):
    return "" if asked and device == "cpu" else "plain torch launchers for tests on the CPU"


@pytest.fixture(autouse=True, scope="module")
def plain_backend():
    with pytest.MonkeyPatch.context() as patch:
        losses_ = ("l1_loss", "mse_loss", "bce_with_logits")
        for op in ("instance_norm", "reflection_pad_conv2d", "conv_transpose2d", *losses_):
            patch.setitem(_backend._verifiers[op], "plain", _serves)

        def launchers(kernels, others):
            return lambda backend: (kernels.forward, kernels.backward) if backend == "plain" else others(backend)

        for module, kernels in ((instance_norm, plain.instance_norm), (reflection_pad, plain.reflection_pad)):
            patch.setattr(module, "_launchers", launchers(kernels, module._launchers))
        other = losses._launcher
        launcher = lambda backend: plain.losses.forward if backend == "plain" else other(backend)  # noqa: E731
        patch.setattr(losses, "_launcher", launcher)
        yield
