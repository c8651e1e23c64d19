"""The CUDA kernels compiled by nvcc alone, without torch and without a GPU: no spills, and tensor cores in use.

The run's summary says what every kernel takes of a multiprocessor.
"""

import importlib.util
import re
import shutil
import subprocess
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[2]
FOLDER = REPOSITORY / "csrc/cuda/conv_transpose2d"
SOURCES = [source for source in sorted(FOLDER.glob("*.cu")) if source.stem != "launchers"]
TARGETS = {80: "80", 90: "90a", 100: "100"}
# float16 differs from bfloat16 in one instruction: one target is enough for it.
ONLY_90 = "float16"
KERNELS = {"data_kernel", "weight_gradient_kernel", "sum_kernel"}
# The instruction that multiplies, by arithmetic (the name is part of the kernel's).
INSTRUCTIONS = {
    "TensorHalf": r"HMMA\.16816\.F32(\.BF16)?",
    "TensorTf32": r"HMMA\.1688\.F32\.TF32",
    "SimtFloat": r"FFMA",
    "TensorDouble": r"DMMA",
}
WORKERS = 2

pytestmark = pytest.mark.skipif(shutil.which("nvcc") is None, reason="no CUDA compiler was found (nvcc)")


def run(command):
    """What the command prints; its failure is the test's."""
    result = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    assert result.returncode == 0, result.stdout[-4000:]
    return result.stdout


def disassembler():
    """cuobjdump of the toolkit, or the one that triton ships; None where there is neither."""
    found = shutil.which("cuobjdump")
    if found is None and importlib.util.find_spec("triton") is not None:
        folder = Path(importlib.util.find_spec("triton").origin).parent
        found = next(map(str, folder.glob("backends/nvidia/bin/cuobjdump")), None)
    return found


@pytest.fixture(scope="module")
def compiled(tmp_path_factory):
    """The device code of every source for every target: (binaries, rows of the resource report)."""
    folder = tmp_path_factory.mktemp("cubins")
    known = run(["nvcc", "--list-gpu-code"]).split()
    targets = {
        key: f"-gencode=arch=compute_{name},code=sm_{name}" for key, name in TARGETS.items() if f"sm_{key}" in known
    }

    def compile(source):
        chosen = [targets[90]] if source.stem == ONLY_90 else targets.values()
        command = [
            "nvcc",
            "-O3",
            "-std=c++17",
            "-Werror=all-warnings",
            "-Xptxas=-v",
            f"-I{REPOSITORY / 'csrc'}",
            *chosen,
        ]
        return run([*command, "-fatbin", str(source), "-o", str(folder / f"{source.stem}.fatbin")])

    with ThreadPoolExecutor(WORKERS) as pool:
        reports = list(pool.map(compile, SOURCES))
    rows = [row for report in reports for row in rows_of(report)]
    return sorted(folder.iterdir()), sorted(rows, key=lambda row: (row["capability"], row["kernel"], row["mangled"]))


def rows_of(report):
    """What ptxas says of each kernel; the dynamic shared memory is the last number of a kernel's name."""
    pattern = (
        r"Compiling entry function '(?P<mangled>\w+)' for 'sm_(?P<capability>\d+)a?'\n.*\n"
        r"\s*(?P<stack>\d+) bytes stack frame, (?P<stores>\d+) bytes spill stores, (?P<loads>\d+) bytes spill loads\n"
        r".*Used (?P<registers>\d+) registers"
    )
    for match in re.finditer(pattern, report):
        row = {key: value if key == "mangled" else int(value) for key, value in match.groupdict().items()}
        row["kernel"] = next(kernel for kernel in KERNELS if kernel in row["mangled"])
        numbers = [int(number) for number in re.findall(r"L[ib](\d+)E", row["mangled"])]
        row["shape"] = numbers[:6]  # rows and columns of a block, of a warp, stages, blocks of a multiprocessor
        row["shared"] = numbers[-1] if numbers else 0
        row["threads"] = numbers[0] // numbers[2] * (numbers[1] // numbers[3]) * 32 if numbers else 256
        yield row


def describe(row):
    kind = next((kind for kind in INSTRUCTIONS if kind in row["mangled"]), "")
    kind += next((f" {name}" for name in ("BFloat16", "Half") if name in row["mangled"].replace("TensorHalf", "")), "")
    passed = " forward" if "ELb1E" in row["mangled"] else " input gradient" if "ELb0E" in row["mangled"] else ""
    shape = "{}x{} of {}x{}, {} stages".format(*row["shape"]) if row["shape"] else ""
    return (
        f"sm_{row['capability']:<3} {row['kernel'] + passed:27} {kind:20} {shape:28} {row['threads']:3} threads "
        f"{row['registers']:3} registers {row['shared']:6} bytes shared {row['stack']} stack "
        f"{row['stores'] + row['loads']} spilled"
    )


def test_every_kernel_on_every_target(compiled, record_property):
    record_property("report", "\n".join(["what nvcc reports of each CUDA kernel", *map(describe, compiled[1])]))
    expected = KERNELS - {"sum_kernel"}
    compiled_for = {row["capability"] for row in compiled[1]}
    assert {80, 90} <= compiled_for  # compilers before CUDA 12.8 do not know 100
    for capability in compiled_for:
        names = {row["mangled"] for row in compiled[1] if row["capability"] == capability}
        for kind in INSTRUCTIONS:
            assert {kernel for kernel in KERNELS if any(kernel in name and kind in name for name in names)} == expected
        assert any("sum_kernel" in name for name in names)
    assert any("TensorHalfINS_4HalfE" in row["mangled"] for row in compiled[1])


def test_no_spills_and_no_stack(compiled):
    assert [describe(row) for row in compiled[1] if row["stack"] or row["stores"] or row["loads"]] == []


def test_blocks_fit_the_multiprocessors(compiled):
    """As many blocks as each kernel asks for are resident together, by registers and by shared memory."""
    shared = {80: 164 * 1024, 90: 228 * 1024, 100: 228 * 1024}
    for row in compiled[1]:
        blocks = row["shape"][5] if row["shape"] else 1
        registers = -(-row["registers"] // 8) * 8 * row["threads"]
        assert blocks * registers <= 65536, describe(row)
        assert blocks * (row["shared"] + 1024) <= shared[row["capability"]], describe(row)


def test_products_run_on_tensor_cores(compiled):
    """Each kernel multiplies with its instruction and copies asynchronously (LDGSTS)."""
    tool = disassembler()
    if tool is None:
        pytest.skip("no cuobjdump: neither the toolkit nor triton has it here")
    with ThreadPoolExecutor(WORKERS) as pool:
        listings = list(pool.map(lambda binary: run([tool, "-sass", str(binary)]), compiled[0]))
    checked = 0
    for code in listings:
        for function in code.split("Function : ")[1:]:
            name = function.split(None, 1)[0]
            if "sum_kernel" in name:
                continue
            kind = next(kind for kind in INSTRUCTIONS if kind in name)
            wanted = [INSTRUCTIONS[kind], r"LDGSTS\.E\.128"]
            if kind == "TensorHalf" or kind == "TensorTf32" and "data_kernel" in name:
                wanted.append(r"LDSM")
            for instruction in wanted:
                assert re.search(instruction, function), f"{name} has no {instruction}"
            assert not re.search(r"\b(LDL|STL)\b", function), f"{name} uses local memory"
            checked += 1
    assert checked == sum(row["kernel"] != "sum_kernel" for row in compiled[1])
