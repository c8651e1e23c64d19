"""Every test here runs the compiled ops directly, under each instruction set that this processor has."""

import pytest
import torch

from fastgan.ops import _extension

LOADED, STATUS = _extension.load()
LEVELS = ("avx512_bf16", "avx512", "avx2", "default")


def pytest_collection_modifyitems(items):
    if not LOADED:
        for item in items:
            if "tests/csrc" in item.path.as_posix():
                item.add_marker(pytest.mark.skip(reason=f"the extension is {STATUS}"))


@pytest.fixture
def ops():
    return torch.ops.fastgan_csrc


def _limited(request, ops):
    before = ops.cpu_capability()
    ops.limit_cpu_capability(request.param)
    if ops.cpu_capability() != request.param:
        ops.limit_cpu_capability(before)
        pytest.skip(f"this processor has no {request.param}")
    yield request.param
    ops.limit_cpu_capability(before)


@pytest.fixture(params=LEVELS[1:])
def level(request, ops):
    """One instruction set at a time; restores the choice afterwards."""
    yield from _limited(request, ops)


@pytest.fixture(params=LEVELS)
def product_level(request, ops):
    """The same for what has kernels of its own for bfloat16: products of matrices, norms."""
    yield from _limited(request, ops)


@pytest.fixture
def threads():
    """Restores torch's number of threads."""
    before = torch.get_num_threads()
    yield torch.set_num_threads
    torch.set_num_threads(before)
