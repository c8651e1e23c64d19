"""Where the launchers can run: on a GPU, else on CPU tensors under Triton's interpreter."""

import os

import pytest
import torch

pytest.importorskip("triton", reason="the Triton kernels need triton")


@pytest.fixture(scope="session")
def device():
    if torch.cuda.is_available():
        return torch.device("cuda")
    if os.environ.get("TRITON_INTERPRET") != "1":
        pytest.skip("no GPU, and TRITON_INTERPRET=1 was not set before the kernels were imported")
    return torch.device("cpu")
