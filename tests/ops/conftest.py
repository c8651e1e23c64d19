"""Registers tests/ops/plain.py as the backend "plain" while the tests of the ops run; counts torch's samples."""

import pytest
import torch

from fastgan.ops import _backend, batch_norm, instance_norm, losses, reflection_pad, reflection_pad_conv2d

from . import plain


def _serves(device, dtype, asked):
    return "" if asked and device == "cpu" else "plain torch launchers for tests on the CPU"


@pytest.fixture(autouse=True, scope="module")
def plain_backend():
    with pytest.MonkeyPatch.context() as patch:
        ops = (
            "batch_norm",
            "instance_norm",
            "reflection_pad2d",
            "reflection_pad_conv2d",
            "conv_transpose2d",
            "l1_loss",
            "mse_loss",
            "bce_with_logits",
        )
        for op in ops:
            patch.setitem(_backend._verifiers[op], "plain", _serves)

        def launchers(kernels, others):
            return lambda backend: kernels if backend == "plain" else others(backend)

        for module, kernels in (
            (instance_norm, (plain.instance_norm.forward, plain.instance_norm.backward)),
            (reflection_pad, (plain.reflection_pad.forward, plain.reflection_pad.backward)),
            (batch_norm, (plain.batch_norm.forward, plain.batch_norm.apply, plain.batch_norm.backward)),
        ):
            patch.setattr(module, "_launchers", launchers(kernels, module._launchers))
        products = plain.reflection_pad_conv2d
        others = reflection_pad_conv2d._launchers
        patch.setattr(
            reflection_pad_conv2d,
            "_launchers",
            lambda backend: (
                (products.forward, products.input_gradient, products.weight_gradient)
                if backend == "plain"
                else others(backend)
            ),
        )
        other = losses._launcher
        launcher = lambda backend: plain.losses.forward if backend == "plain" else other(backend)  # noqa: E731
        patch.setattr(losses, "_launcher", launcher)
        yield


@pytest.fixture(autouse=True, scope="module")
def full_precision():
    """Convolutions of float32 in float32 on a GPU: theirs and ours then round alike, whichever uses tensor cores."""
    # The context manager: torch's own test material forbids to assign the flag.
    with torch.backends.cudnn.flags(enabled=torch.backends.cudnn.enabled, allow_tf32=False):
        yield


@pytest.fixture
def torch_samples(request):
    """A function that adds to the table of torch's samples that the run prints (tests/conftest.py)."""

    def add(suite, name, device, compared, left):
        request.node.user_properties.append(("torch's samples", (suite, name, device, compared, left)))

    return add
