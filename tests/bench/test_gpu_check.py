"""make gpu-check, where there is no GPU: stages are checked first, and what is missing is told."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from fastgan.ops import _extension

REPOSITORY = Path(__file__).resolve().parents[2]

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="the check is a shell script for Linux")


def check(tmp_path, *stages, python=sys.executable):
    return subprocess.run(
        ["bash", "bench/gpu_check.sh", *stages],
        cwd=REPOSITORY, env=os.environ | {"PYTHON": python, "OUT": str(tmp_path)}, capture_output=True, text=True,
    )  # fmt: skip


def test_an_unknown_stage_is_refused(tmp_path):
    result = check(tmp_path, "kernels", "everything")
    assert result.returncode == 2 and "unknown stage 'everything': choose from " in result.stderr


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_no_gpu_is_said(tmp_path):
    result = check(tmp_path, "correct")
    assert result.returncode == 2
    assert result.stderr == "error: make gpu-check needs a CUDA device, and torch finds none\n"


# Answers the question for the device as a machine with a GPU does, has no pytest-xdist, and runs nothing.
STUB = """#!/bin/bash
if [ "$1" = - ]; then cat > /dev/null; echo nvidia-h200 9.0a; exit; fi
if [ "$1" = -c ]; then [ "$2" != "import xdist" ]; exit; fi
case "$*" in
  *digests*) echo run $RANDOM$RANDOM$RANDOM ;;
  *fastgan.info*) sleep 60 ;;
  *) echo "called: $*" ;;
esac
"""


def test_stages_are_bounded_and_summed_up(tmp_path):
    stub = tmp_path / "python"
    stub.write_text(STUB)
    stub.chmod(0o755)
    script = (REPOSITORY / "bench" / "gpu_check.sh").read_text().replace("run info 60", "run info 2")
    script = script.replace("most < 20", "most < 2").replace('cd "$(dirname "$0")/.."', f"cd {REPOSITORY}")
    (tmp_path / "check.sh").write_text(script)
    result = subprocess.run(
        ["bash", str(tmp_path / "check.sh"), "info", "kernels", "repeat", "tune"],
        env=os.environ | {"PYTHON": str(stub), "OUT": str(tmp_path / "out"), "COMMIT": "abc", "LIMIT": "100"},
        capture_output=True, text=True,
    )  # fmt: skip
    assert result.returncode == 1
    assert "pytest-xdist is missing: tests run one after the other" in result.stdout
    assert "called: -m pytest -q -p no:cacheprovider tests/kernels --ignore" in result.stdout
    summary = result.stdout.split("\n\n")[-1].splitlines()
    states = [line.split(" in ")[0].split(" after ")[0].split() for line in summary if line[:4] not in ("inst", "log:")]
    assert states == [
        ["info", "INTERRUPTED"], ["kernels", "passed"], ["repeat", "FAILED"], ["tune-bf16", "passed"],
        ["tune-fp32", "passed"],
    ]  # fmt: skip
    assert list((tmp_path / "out").glob("gpu-check-*.log"))
    missing = [line for line in summary if line.startswith("installed") and "WITHOUT the CUDA kernels: {" in line]
    assert len(missing) == (not _extension.build_info().get("cuda"))
