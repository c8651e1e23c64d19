"""The option --benchmark, and the fixture that times one case; what a run measured goes into its record and a table."""

from __future__ import annotations

from fastgan import _process

# As in our commands, before torch is imported: a result then costs its computation, not the page faults of its memory,
# and a neighbour on the machine costs less, whichever thread computes it.
_process.settle()

from pathlib import Path

import pytest
import torch

from . import ceilings, record, tables
from .measure import Comparison, rounds_within

HERE = Path(__file__).resolve().parent
NOTHING_TIMED = "nothing was timed: add --benchmark (pytest bench --benchmark)"


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("bench", "fastgan benches")
    group.addoption("--benchmark", action="store_true", dest="bench", help="time the benches and write a record")
    group.addoption("--benchmark-full", action="store_true", dest="bench_full", help="all shapes and sizes")
    group.addoption(
        "--benchmark-budget",
        type=float,
        default=0.5,
        dest="bench_budget",
        metavar="SECONDS",
        help="seconds of timing for each provider of a case (default: 0.5)",
    )
    group.addoption(
        "--benchmark-device",
        default="auto",
        dest="bench_device",
        metavar="DEVICE",
        help="cpu, cuda, cuda:N or auto: CUDA where there is one (default: auto)",
    )
    group.addoption(
        "--benchmark-variants",
        default="",
        dest="bench_variants",
        metavar="TEXT,...",
        help="of the variants of a training step, only those with one of these names, or parts of names (default: all)",
    )
    group.addoption(
        "--benchmark-record",
        type=Path,
        dest="bench_record",
        metavar="PATH",
        help="write the record there instead of into bench/results",
    )
    group.addoption("--benchmark-no-record", action="store_true", dest="bench_no_record", help="write no record")


class Run:
    """What one pytest run has measured so far."""

    def __init__(self, config: pytest.Config) -> None:
        self.budget: float = config.getoption("bench_budget")
        self.selection = _selection(config)
        name = config.getoption("bench_device")
        self.device = torch.device(("cuda" if torch.cuda.is_available() else "cpu") if name == "auto" else name)
        if self.device.type == "cuda":
            torch.cuda.set_device(self.device)
        self.cases: list[dict] = []
        self.failed: list[dict] = []
        self.left_for_full = self.left_for_compile = 0
        self._environment: dict | None = None
        self._ceilings: dict | None = None

    def measure_machine(self) -> tuple[dict, dict]:
        """Environment and ceilings, taken once, just before the first case; clocks while the machine is warm."""
        if self._environment is None:
            self._ceilings = ceilings.measure(self.device, min(1.0, self.budget))
            self._environment = record.environment(self.device)
        return self._environment, self._ceilings

    def content(self) -> dict:
        env, rates = self.measure_machine()
        return record.content(env, rates, self.selection, self.cases, self.failed)


def _selection(config: pytest.Config) -> str:
    """What was asked for, in words: the -k expression or the files named, the -m expression, whether the full set."""
    keyword, marks = config.getoption("keyword"), config.getoption("markexpr")
    files = [Path(arg.split("::")[0]).stem.removeprefix("test_") for arg in config.args]
    words = [keyword] if keyword else [name for name in files if name != HERE.name]
    return " ".join(words + [marks] * bool(marks) + ["full"] * config.getoption("bench_full")) or "all"


RUN = pytest.StashKey[Run]()
SKIPPED = pytest.StashKey[bool]()


@pytest.hookimpl(tryfirst=True)
def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "full(*device_types): timed only with --benchmark-full (on these devices)")
    config.addinivalue_line("markers", "cuda: timed on CUDA only")
    config.addinivalue_line("markers", "compile: beside torch.compile, which takes minutes; timed only with -m compile")
    if not config.getoption("bench", False):
        return
    if not config.pluginmanager.hasplugin("benchmark"):
        raise pytest.UsageError("--benchmark needs the plugin pytest-benchmark (pip install pytest-benchmark)")
    if config.getoption("bench_budget") <= 0:
        raise pytest.UsageError(f"--benchmark-budget is {config.getoption('bench_budget')}: give seconds above 0")
    # pytest-benchmark builds its session from these in its own, later pytest_configure. Our table replaces its table,
    # which knows one provider of a case only; --benchmark-columns brings that back.
    config.option.benchmark_only = config.option.benchmark_enable = True
    if not config.option.benchmark_columns:
        config.option.benchmark_quiet = True
    config.stash[RUN] = Run(config)


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    benches = [item for item in items if HERE in item.path.parents]
    if RUN not in config.stash:
        config.stash[SKIPPED] = bool(benches)
        for item in benches:
            item.add_marker(pytest.mark.skip(reason=NOTHING_TIMED))
        return
    run, full = config.stash[RUN], config.getoption("bench_full")

    def for_full_only(item: pytest.Item) -> bool:
        mark = item.get_closest_marker("full")
        return mark is not None and (not mark.args or run.device.type in mark.args)

    asked = "compile" in config.getoption("markexpr")
    impossible = {item for item in benches if item.get_closest_marker("cuda") and run.device.type != "cuda"}
    compiled = {item for item in benches if item.get_closest_marker("compile") and not asked} - impossible
    left = {item for item in benches if for_full_only(item) and not full} - impossible - compiled
    run.left_for_compile, run.left_for_full = len(compiled), len(left)
    out = impossible | compiled | left
    config.hook.pytest_deselected(items=[item for item in items if item in out])
    items[:] = [item for item in items if item not in out]


@pytest.fixture
def device(request: pytest.FixtureRequest) -> torch.device:
    """The device to time on (--benchmark-device)."""
    return request.config.stash[RUN].device


@pytest.fixture
def chosen(request: pytest.FixtureRequest):
    """A function that keeps of a step's variants those that --benchmark-variants asks for."""
    texts = [text.strip() for text in request.config.getoption("bench_variants").split(",")]

    def choose(variants: tuple) -> tuple:
        names, wanted = [variant.name for variant in variants], set()
        for text in texts:
            found = {text} & set(names) or {name for name in names if text in name}
            if not found:
                reason = f"--benchmark-variants: no variant has {text!r} in its name: {', '.join(names)}"
                pytest.fail(reason, pytrace=False)
            wanted |= found
        return tuple(variant for variant in variants if variant.name in wanted)

    return choose


@pytest.fixture
def keep(request: pytest.FixtureRequest):
    """A function that puts the entry of a case into the record."""
    run = request.config.stash[RUN]

    def put(entry: dict) -> None:
        run.measure_machine()
        run.cases.append(entry)

    return put


@pytest.fixture
def compare(request: pytest.FixtureRequest, benchmark):
    """A function that checks a case, times all its providers turn by turn, and keeps the result."""
    run = request.config.stash[RUN]

    def run_case(case) -> None:
        run.measure_machine()
        torch.manual_seed(0)
        try:
            case.check()
        except Exception as error:
            run.failed.append({**case.describe(), "reason": f"{type(error).__name__}: {error}"})
            raise
        comparison = Comparison(case.runners(), case.clock)
        round_seconds = comparison.warm_up(run.budget / 2, case.warm_up_rounds)
        rounds = rounds_within(run.budget * len(comparison.runners), round_seconds, least=case.least_rounds)
        names = list(comparison.runners)
        # pytest-benchmark drives the rounds and times one provider of ours; the others take their turns around it.
        ours = next((name for name in names if name.startswith("ours")), names[0])
        try:
            benchmark.pedantic(
                comparison.turn,
                args=(ours,),
                setup=lambda: comparison.before(ours),
                teardown=lambda name: comparison.after(name),
                rounds=rounds,
            )
        finally:  # Ctrl-C keeps the rounds that were timed
            if all(timing.seconds for timing in comparison.timings.values()):
                timings = {name: timing.summary() for name, timing in comparison.timings.items()}
                entry = {**case.describe(), "providers": timings, "speedup": case.speedups(timings)}
                benchmark.extra_info.update(entry)
                run.cases.append(entry)

    return run_case


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    if config.stash.get(SKIPPED, False):
        terminalreporter.write_line(f"bench: {NOTHING_TIMED}")
    run = config.stash.get(RUN, None)
    if run is None:
        return
    if run.cases or run.failed:
        content = run.content()
        terminalreporter.section("bench")
        terminalreporter.write_line(tables.markdown([content]))
        if not config.getoption("bench_no_record"):
            path = config.getoption("bench_record") or record.new_path(content["environment"], run.selection)
            record.write(path, content)
            terminalreporter.write_line(f"record: {path} (python -m bench.report makes tables and plots of records)")
    if run.left_for_compile:
        left = run.left_for_compile
        terminalreporter.write_line(f"bench: {left} cases beside torch.compile were left out: add -m compile")
    if run.left_for_full:
        terminalreporter.write_line(f"bench: {run.left_for_full} larger cases were left out: add --benchmark-full")
