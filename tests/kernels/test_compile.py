"""The kernels compiled with no GPU: every tile for sm_90, every kernel for sm_80 and sm_100. No spills, wide loads.

`pytest tests/kernels/test_compile.py -s` prints the table. The table of what is compiled is `compile_worker.cases`.
"""

import json
import os
import platform
import subprocess
import sys
from pathlib import Path

import pytest

SHARDS = 2
SHARED_LIMIT = {80: 163 * 1024, 90: 227 * 1024, 100: 227 * 1024}
KERNELS = {
    *(
        f"_{layout}_{name}"
        for layout in ("nchw", "nhwc")
        for name in (
            "forward", "statistics", "forward_apply", "backward", "backward_sums", "backward_apply", "pad", "fold"
        )
    ),
    "_pointwise_loss",
    "_sum_partial",
    "_conv_tile",
    "_conv_thin_input",
    "_conv_thin_output",
    "_weight_gradient_tile",
    "_weight_gradient_thin",
    "_sum_parts",
}
REPOSITORY = Path(__file__).resolve().parents[2]

pytestmark = pytest.mark.skipif(platform.system() != "Linux", reason="triton ships its NVIDIA compiler for Linux only")


@pytest.fixture(scope="module")
def compiled():
    """Rows of the compile table, from processes without the interpreter (it replaces the compiler at import)."""
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    command = [sys.executable, "-W", "ignore", "-m", "tests.kernels.compile_worker"]
    processes = [
        subprocess.Popen(
            [*command, str(shard), str(SHARDS)],
            cwd=REPOSITORY, env=environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        )
        for shard in range(SHARDS)
    ]
    rows = []
    for process in processes:
        output, errors = process.communicate()
        assert process.returncode == 0, errors[-4000:]
        rows += [json.loads(line) for line in output.splitlines()]
    rows.sort(key=lambda row: (row["capability"], row["kernel"], row["types"]))
    for row in rows:
        print(describe(row))
    return rows


def describe(row):
    constants = " ".join(f"{name}={value}" for name, value in row["constants"].items())
    return (
        f"sm_{row['capability']:<3} {row['kernel']:22} {row['types']:12} {row['warps']:2} warps "
        f"{row['reg']:3} registers {row['stack']} stack {row['local']} local {row['shared']:5} shared, "
        f"wide loads {row['wide_loads']}/{row['loads']} stores {row['wide_stores']}/{row['stores']}  {constants}"
    )


def test_every_kernel_on_every_target(compiled):
    for capability in SHARED_LIMIT:
        assert {row["kernel"] for row in compiled if row["capability"] == capability} == KERNELS


def test_no_spills_and_no_local_memory(compiled):
    assert [describe(row) for row in compiled if row["stack"] or row["local"]] == []


def test_shared_memory_and_registers_fit(compiled):
    for row in compiled:
        assert row["shared"] <= SHARED_LIMIT[row["capability"]], describe(row)
        assert row["reg"] * row["warps"] * 32 <= 65536, describe(row)


def test_products_run_on_tensor_cores(compiled):
    """On sm_90 every product of bf16, fp16 or tf32 tiles that fill a warp group's instruction (64 rows) is HGMMA."""
    checked = set()
    for row in compiled:
        exact = "fp64" in row["types"] or row["constants"].get("PRECISION") == "ieee" and "16" not in row["types"]
        if row["multiplies"] and row["capability"] == 90 and not exact:
            checked.add(row["kernel"])
            assert row["hgmma"] > 0, describe(row)
    assert checked == {name for name in KERNELS if name.startswith(("_conv", "_weight"))}


def test_the_big_readers_load_128_bits(compiled):
    """Dense rows of a multiple of 16 bytes are read, and without a halo in NCHW also written, by vectors."""
    checked = 0
    for row in compiled:
        constants = row["constants"]
        whole = constants.get("EVEN") is True or constants.get("COLS", 1) > 1 and row["kernel"].startswith("_nchw")
        if row["kernel"].endswith(("_statistics", "_forward", "_apply", "_sums", "_backward")) and whole:
            checked += 1
            assert row["wide_loads"] > 0, describe(row)
            stores_planes = not row["kernel"].endswith(("_statistics", "_sums"))
            if stores_planes and (row["kernel"].startswith("_nhwc") or constants["HALO"] == 0):
                assert row["wide_stores"] > 0, describe(row)
    assert checked > 50
