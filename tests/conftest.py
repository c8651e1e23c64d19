"""Settings of every test: Triton's interpreter where there is no GPU, hypothesis profiles, poisoned allocations."""

import os

from fastgan import _process  # noqa: I001

_process.settle()  # before torch is imported

if "PYTEST_XDIST_WORKER_COUNT" in os.environ:
    cores = (os.cpu_count() or 1) // int(os.environ["PYTEST_XDIST_WORKER_COUNT"])
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, cores)))

import torch

if not torch.cuda.is_available():
    # Before any kernel module is imported: the interpreter replaces the compiler at decoration time.
    os.environ.setdefault("TRITON_INTERPRET", "1")

import hypothesis
import pytest

hypothesis.settings.register_profile(
    "ci",
    deadline=None,
    derandomize=True,
    max_examples=25,
    suppress_health_check=[hypothesis.HealthCheck.too_slow, hypothesis.HealthCheck.function_scoped_fixture],
)
hypothesis.settings.register_profile(
    "thorough", parent=hypothesis.settings.get_profile("ci"), derandomize=False, max_examples=300
)
hypothesis.settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "ci"))


@pytest.fixture(autouse=True)
def poisoned_empties():
    """Uninitialised memory, of Python or C++, holds NaN, so that an element that no kernel writes cannot pass."""
    torch.use_deterministic_algorithms(True, warn_only=True)
    torch.utils.deterministic.fill_uninitialized_memory = True
    yield
    torch.use_deterministic_algorithms(False)


@pytest.fixture
def seed():
    torch.manual_seed(0)


def pytest_terminal_summary(terminalreporter):
    """Prints what tests recorded as their "report", a title and lines, in whichever process they ran."""
    for test in terminalreporter.getreports("passed"):
        for name, text in test.user_properties:
            if name == "report":
                title, *lines = text.splitlines()
                terminalreporter.section(title)
                for line in lines:
                    terminalreporter.write_line(line)
