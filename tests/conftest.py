"""Settings of every test: Triton's interpreter where there is no GPU, hypothesis profiles, poisoned allocations.

After the tests, the table of how many of torch's own samples passed.
"""

import os

from fastgan import _process

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
def one_thread():
    """Small networks: one thread is as fast as many, repeatable everywhere, and does not suffer from a busy machine."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(autouse=True)
def small_networks(request):
    """Tests in these folders run small networks."""
    if request.path.parent.name in ("cli", "commands", "evaluation", "models", "recipes", "reference", "training"):
        request.getfixturevalue("one_thread")


@pytest.fixture
def seed():
    torch.manual_seed(0)


def pytest_terminal_summary(terminalreporter):
    """What passed tests wish to be read of them, from whichever process ran them."""
    passed = [(name, value) for test in terminalreporter.getreports("passed") for name, value in test.user_properties]
    _write_samples(terminalreporter, [value for name, value in passed if name == "torch's samples"])
    for title, *lines in [value.splitlines() for name, value in passed if name == "report"]:
        terminalreporter.section(title)
        for line in lines:
            terminalreporter.write_line(line)


def _write_samples(terminalreporter, counts):
    samples = {}  # (suite, name, device): samples compared, and left out by reason, over all dtypes and backends
    for suite, name, device, compared, left in counts:
        before, reasons = samples.setdefault((suite, name, device), (0, {}))
        for reason, count in left.items():
            reasons[reason] = reasons.get(reason, 0) + count
        samples[suite, name, device] = (before + compared, reasons)
    if not samples:
        return
    terminalreporter.section("torch's own samples, in every dtype and by every backend")
    for (suite, name, device), (compared, left) in sorted(samples.items()):
        reasons = "".join(f"; left out {count}: {reason}" for reason, count in left.items())
        terminalreporter.write_line(f"{suite:10} {name:48} {device:4} {compared:4} passed{reasons}")
    for suite in sorted({key[0] for key in samples}):
        total = sum(compared for key, (compared, _) in samples.items() if key[0] == suite)
        terminalreporter.write_line(f"{suite:10} {'all':53} {total:4} passed")
