"""The kernels compiled with no GPU, for sm_80, sm_90 and sm_100: no spills, tensor cores, wide loads.

By the triton that is installed, what the heuristics launch. `pytest tests/kernels/test_compile.py -s` prints the
table; compile_worker.py says what is in it. `make tritons` does the same by the oldest supported and the newest
release; `make kernels` (which sets FASTGAN_COMPILE=all) compiles every tile and every candidate of the tuner as well.
"""

import json
import os
import platform
import subprocess
import sys
from pathlib import Path

import pytest

from fastgan.ops import _table

SHARDS = 2
SHARED_LIMIT = {80: 163 * 1024, 90: 227 * 1024, 100: 227 * 1024}
KERNELS = {
    *(
        f"_{layout}_{name}"
        for layout in ("nchw", "nhwc")
        for name in ("statistics", "forward", "backward_sums", "backward", "pad", "fold")
    ),
    *(f"_{layout}_batch_{name}" for layout in ("nchw", "nhwc") for name in ("apply", "sums")),
    "_nchw_batch_statistics",
    "_nchw_batch_backward",
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
EVERYTHING = os.environ.get("FASTGAN_COMPILE") == "all"

pytestmark = pytest.mark.skipif(platform.system() != "Linux", reason="triton ships its NVIDIA compiler for Linux only")


# A table as the tuner writes it, of configurations that no other case has.
TABLE = {
    "device": "A Test Device",
    "environment": {"capability": "9.0"},
    "entries": [
        {
            "op": "reflection_pad_conv2d", "dtype": "bfloat16", "layout": "nhwc", "backend": "triton",
            "shape": "1x64x32x32 to 64x3x3 stride 1x1 padding 1x1 dilation 1x1",
            "configurations": {
                direction: dict(kind="tile", block_m=64, block_n=64, block_k=32, warps=4, stages=5, splits=splits)
                for direction, splits in (("forward", 0), ("input_gradient", 0), ("weight_gradient", 2))
            },
        },
        {
            "op": "instance_norm", "dtype": "bfloat16", "layout": "nhwc", "backend": "triton",
            "shape": "1x64x32x32 halo 1",
            "configurations": {
                direction: dict(rows=32, cols=16, warps=2, splits=8, split_block=8, samples=1)
                for direction in ("forward", "backward")
            },
        },
    ],
}  # fmt: skip


@pytest.fixture(scope="module")
def compiled(tmp_path_factory):
    """Rows of the compile table, from processes without the interpreter (it replaces the compiler at import)."""
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    folder = tmp_path_factory.mktemp("tables")
    (folder / "a-test-device.json").write_text(json.dumps(TABLE))
    command = [sys.executable, "-W", "ignore", "-m", "tests.kernels.compile_worker"]
    further = ["--all"] if EVERYTHING else []
    further += ["--tables", str(_table.FOLDER), str(folder)]
    processes = [
        subprocess.Popen(
            [*command, str(shard), str(SHARDS), *further],
            cwd=REPOSITORY,
            env=environment,
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
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
        f"triton {row['triton']} sm_{row['capability']:<3} {row['kernel']:22} {row['types']:12} {row['warps']:2} warps "
        f"{row['reg']:3} registers {row['stack']} stack {row['local']} local {row['shared']:5} shared, "
        f"wide loads {row['wide_loads']}/{row['loads']} stores {row['wide_stores']}/{row['stores']}  {constants}"
    )


def test_every_kernel_on_every_target(compiled):
    for capability in SHARED_LIMIT:
        assert {row["kernel"] for row in compiled if row["capability"] == capability} == KERNELS


def test_measured_configurations(compiled):
    """Both ops' entries of a table, in every direction."""
    found = {row["kernel"] for row in compiled if row["constants"].get("BLOCK_K") == 32 and row["stages"] == 5}
    found |= {row["kernel"] for row in compiled if row["constants"].get("SPLITS") == 8 and row["warps"] == 2}
    assert found == {"_conv_tile", "_weight_gradient_tile", "_nhwc_forward", "_nhwc_backward"}


def test_no_spills_and_no_local_memory(compiled):
    """But for the tuner's rivals in `make kernels`, which prints those that would spill."""
    spilling = [row for row in compiled if row["stack"] or row["local"]]
    for row in spilling:
        print("would spill:", describe(row))
    assert [describe(row) for row in spilling if not (row["rival"] and EVERYTHING)] == []


def test_shared_memory_and_registers_fit(compiled):
    for row in compiled:
        assert row["shared"] <= SHARED_LIMIT[row["capability"]], describe(row)
        assert row["reg"] * row["warps"] * 32 <= 65536, describe(row)


def test_products_run_on_tensor_cores(compiled):
    """On sm_90 every product of bf16, fp16 or tf32 tiles that fill a warp group's instruction (64 rows) is HGMMA."""
    checked = set()
    for row in compiled:
        if row["tensor_cores"] and row["capability"] == 90:
            assert row["wgmma"] > 0, describe(row)
            if row["hgmma"] is not None:
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
            if stores_planes and (row["kernel"].startswith("_nhwc") or constants.get("HALO", 0) == 0):
                assert row["wide_stores"] > 0, describe(row)
    assert checked > 50
