"""The choice of the instruction set."""

import os
import subprocess
import sys

import pytest

from .conftest import LEVELS

PRINT = "from fastgan.ops import _extension; print(*_extension.load())"


def status(capability):
    environment = os.environ | {"FASTGAN_CPU_CAPABILITY": capability}
    return subprocess.run([sys.executable, "-c", PRINT], env=environment, capture_output=True, text=True).stdout


def test_the_widest_is_taken_and_limits_hold(ops, product_level):
    assert ops.cpu_capability() == product_level


def test_environment_limits_the_choice(ops):
    assert "baseline vector code in use" in status("default")


def test_unknown_names_are_refused_by_name(ops):
    with pytest.raises(ValueError, match="must be avx512_bf16, avx512, avx2 or default, got 'sse9'"):
        ops.limit_cpu_capability("sse9")
    text = status("sse9")
    assert text.startswith("False failed to load: FASTGAN_CPU_CAPABILITY must be avx512_bf16, avx512, avx2 or default, got 'sse9'")


def test_one_of_the_known_levels(ops):
    assert ops.cpu_capability() in LEVELS
