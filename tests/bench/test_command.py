"""The bench command, exactly as typed: it times, checks, prints and records; without its flag it does none of that."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from bench import record

ROOT = Path(__file__).resolve().parents[2]
PYTEST = shutil.which("pytest", path=str(Path(sys.executable).parent)) or "pytest"


def run(*command: str) -> subprocess.CompletedProcess:
    ours = ("TRITON_INTERPRET", "OMP_NUM_THREADS")  # settings of this test run, and of pytest itself, are not a user's
    env = {name: value for name, value in os.environ.items() if name not in ours and not name.startswith("PYTEST_")}
    return subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, timeout=600)


@pytest.fixture(scope="module")
def timed(tmp_path_factory):
    """One small run of the command, and the path of its record."""
    path = tmp_path_factory.mktemp("bench") / "new" / "record.json"
    selection = "test_losses and mse_loss-label"
    done = run(
        PYTEST,
        "bench",
        "--benchmark",
        "-k",
        selection,
        "--benchmark-budget",
        "0.002",
        "--benchmark-device",
        "cpu",
        "--benchmark-record",
        str(path),
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout, path


def test_the_command_prints_a_table_of_what_it_timed(timed):
    output, path = timed
    assert "| mse_loss label " in output and "3 passed" in output
    assert str(path) in output
    assert "--benchmark-full" in output


def test_the_record_says_what_was_timed_where_and_with_what(timed):
    run = record.read(timed[1])
    assert {case["direction"] for case in run["cases"]} == {"forward", "backward", "both"}
    assert run["failed"] == []
    for case in run["cases"]:
        assert record.title(case) == f"mse_loss label 1x1x30x30 float32 {case['direction']}"
        assert set(case["providers"]) == {"eager nchw", "ours nchw"} == set(case["deviation"])
        assert case["backend"]["name"] and isinstance(case["backend"]["passed_over"], dict)
        for timing in case["providers"].values():
            assert 0 < timing["min"] <= timing["q20"] <= timing["median"] <= timing["q80"]
            assert timing["samples"] >= 5 and 0 <= timing["preempted"] <= 1
        assert set(case["speedup"]) == {"ours nchw"}
    environment = run["environment"]
    assert all(environment[key] for key in ("device", "cores", "threads", "python", "torch", "fastgan"))
    assert {"triton", "commit"} <= set(environment)
    assert run["ceilings"]["copy_bytes_per_second"] > 0
    assert all(rate > 0 for kinds in run["ceilings"]["flops"].values() for rate in kinds.values())


def test_the_report_command_renders_the_record(timed, tmp_path):
    table = tmp_path / "table.md"
    done = run(sys.executable, "-m", "bench.report", str(timed[1]), "--output", str(table))
    assert done.returncode == 0, done.stderr
    assert "| mse_loss label " in table.read_text(encoding="utf-8")


def test_without_the_flag_nothing_is_timed_and_a_line_says_so():
    before = set(record.RESULTS.glob("*.json"))
    done = run(PYTEST, "bench", "-k", "mse_loss-label")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "nothing was timed: add --benchmark" in done.stdout
    assert "passed" not in done.stdout
    assert set(record.RESULTS.glob("*.json")) == before


def test_a_budget_of_nothing_is_an_error():
    done = run(PYTEST, "bench", "--benchmark", "--benchmark-budget", "0")
    assert done.returncode == 4
    assert "--benchmark-budget is 0.0: give seconds above 0" in done.stderr
