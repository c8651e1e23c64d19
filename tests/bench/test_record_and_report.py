"""Records are complete, never overwrite one another, and render as Markdown, in pages, and as plots."""

import importlib.util
import re

import pytest

from bench import plots, record, report, tables


def timing(median):
    quantiles = {"min": 0.9 * median, "q20": 0.95 * median, "median": median, "q80": 1.1 * median}
    return quantiles | {"samples": 9, "preempted": 0.0}


def case(**times):
    providers = {name.replace("_", " ", 1): timing(median) for name, median in times.items()}
    return {
        "op": "instance_norm",
        "variant": "relu",
        "shape": "1x256x64x64",
        "dtype": "float32",
        "direction": "forward",
        "bytes": 8_388_608,
        "flops": 0,
        "backend": {"name": "cpp", "passed_over": {}},
        "deviation": {},
        "providers": providers,
        "speedup": record.speedups(providers),
    }


@pytest.fixture
def won():
    entry = case(eager_nchw=6e-3, eager_channels_last=9e-3, ours_nchw=1e-3, ours_channels_last=2e-3)
    entry["providers"]["eager nchw in-place"] = timing(5e-3)
    return entry | {"speedup": record.speedups(entry["providers"])}


@pytest.fixture
def run(won):
    lost = case(eager_nchw=1e-3, ours_nchw=2e-3) | {"direction": "backward"}
    ceilings = {"copy_bytes_per_second": 2e10, "flops": {"float32": {"matmul": 1e11, "convolution": 4e11}}}
    failed = [{**lost, "op": "l1_loss", "reason": "the result is wrong"}]
    return record.content(record.environment("cpu"), ceilings, "instance_norm", [won, lost], failed)


def test_ratios_are_against_the_better_eager_form_of_the_layout_and_of_all(won):
    assert won["speedup"]["ours nchw"]["same_layout"] == pytest.approx(5)
    assert won["speedup"]["ours channels_last"]["same_layout"] == pytest.approx(4.5)
    assert won["speedup"]["ours channels_last"]["best_eager"] == pytest.approx(2.5)
    assert won["speedup"]["ours nchw"]["best_eager_by_minima"] == pytest.approx(5)


def test_losing_cases_are_named_and_ties_are_not(run):
    assert [(x["provider"], x["ratio"]) for x in run["losing"]] == [("ours nchw", pytest.approx(0.5))]
    assert record.losses(case(eager_nchw=1.0, ours_nchw=1.02)) == []


def test_the_environment_says_where_and_with_what(run):
    environment = run["environment"]
    assert environment["device"] and environment["device_type"] == "cpu" and environment["cores"] >= 1
    assert set(environment["commit"]) == {"id", "dirty"}


def test_a_record_survives_writing_and_reading(run, tmp_path):
    path = tmp_path / "folder" / "record.json"
    record.write(path, run)
    assert record.read(path) == run


@pytest.mark.parametrize(
    "text, reason", [(None, "cannot be read"), ("{", "is not JSON"), ("[]", "is not a bench record")]
)
def test_what_is_no_record_is_an_error(text, reason, tmp_path):
    path = tmp_path / "record.json"
    if text is not None:
        path.write_text(text)
    with pytest.raises(ValueError, match=reason):
        record.read(path)


def test_a_new_path_names_date_device_commit_and_selection_and_is_never_taken(tmp_path):
    environment = {"device": "Some CPU @ 2 GHz", "commit": {"id": "abc1234", "dirty": False}}
    first = record.new_path(environment, "instance_norm and relu", tmp_path)
    assert first.name.endswith("-some-cpu-2-ghz-abc1234-instance-norm-and-relu.json")
    first.write_text("{}")
    second = record.new_path(environment, "instance_norm and relu", tmp_path)
    assert second.name == f"{first.stem}-2.json"


def test_the_table_holds_medians_ratios_and_the_share_of_the_ceiling(run):
    text = tables.markdown([run])
    row = next(line for line in text.splitlines() if "| forward " in line)
    cells = [cell.strip() for cell in row.strip("|").split("|")]
    assert cells == [
        "instance_norm relu",
        "1x256x64x64",
        "float32",
        "forward",
        "6 ms / 5 ms",
        "9 ms",
        "1 ms",
        "2 ms",
        "5.00 / 4.50",
        "5.00 / 2.50",
        "8.39 GB/s (42%)",
        "419 µs",
        "cpp",
    ]
    assert "Slower than eager in the same layout" in text and "instance_norm relu 1x256x64x64 float32 backward" in text
    assert "Not timed: l1_loss relu 1x256x64x64 float32 backward: the result is wrong." in text
    assert "20 GB/s" in text and "400 GFLOP/s (convolution)" in text


def test_a_busy_machine_is_told(run):
    assert "busy" not in tables.markdown([run])
    for entry in run["cases"]:
        for values in entry["providers"].values():
            values["preempted"] = 0.5
    assert "The machine was busy: other processes cut into 50% of the samples" in tables.markdown([run])


def test_gains_are_the_fastest_of_ours_beside_the_fastest_of_eager(run, won):
    larger = won | {"shape": "1x64x256x256", "providers": won["providers"] | {"ours nchw": timing(2.5e-3)}}
    run["cases"].append(larger)
    assert cells(tables.gains([run]), "instance_norm relu") == ["instance_norm relu", "2.50 to 5.00", "0.50"]


def test_a_busy_run_is_not_quoted(run):
    for entry in run["cases"]:
        for values in entry["providers"].values():
            values["preempted"] = 0.5
    with pytest.raises(ValueError, match="'instance_norm' of .* is not to be quoted: the machine was busy"):
        tables.gains([run])


@pytest.mark.parametrize("value, text", [(1.234, "1.23 s"), (0.5, "500 ms"), (1e-3, "1 ms"), (9.87e-6, "9.87 µs")])
def test_times_have_three_digits(value, text):
    assert tables.seconds(value) == text


def test_the_report_command(run, tmp_path, capsys):
    path = tmp_path / "record.json"
    record.write(path, run)
    assert report.main([str(path)]) == 0
    assert "| instance_norm relu |" in capsys.readouterr().out
    with pytest.raises(SystemExit):
        report.main([str(tmp_path / "missing.json")])
    assert "missing.json cannot be read" in capsys.readouterr().err


@pytest.fixture
def stepped():
    """A run with one step, timed in four variants, that failed to compile; a loader that feeds it; a training."""
    times = {
        "eager fp32 nchw": 6.0,
        "eager bf16 nchw": 4.0,
        "compile bf16 channels_last": 3.0,
        "ours fp32 nchw": 3.0,
        "ours bf16 channels_last": 2.0,
    }
    providers = {name: timing(median) for name, median in times.items()}
    trials = {name: {"first_step": 1.5 * median, "peak_bytes": 3 << 30} for name, median in times.items()}
    step = case(eager_nchw=1.0, ours_nchw=1.0) | {
        "op": "cyclegan",
        "variant": "",
        "shape": "1x3x256x256",
        "dtype": "",
        "direction": "step",
        "bytes": 0,
        "flops": 10**12,
        "trials": trials,
        "not_timed": {"compile fp32 nchw": "RuntimeError: no compiler."},
        "providers": providers,
        "speedup": record.step_speedups(providers),
        "backend": {"name": "", "passed_over": {}},
    }
    loading = step | {
        "op": "loader",
        "variant": "JPEG",
        "direction": "load",
        "feeds": "cyclegan",
        "batches": 10,
        "images": 20,
        "providers": {"ours 0 workers": timing(0.1)},
        "speedup": {},
    }
    trained = step | {
        "direction": "training",
        "losses": {"G_A": {"spread": 0.25, "apart": 0.125}},
        "providers": {},
        "speedup": {},
    }
    ceilings = {"copy_bytes_per_second": 2e10, "flops": {"float32": {"matmul": 4e11}, "bfloat16": {"matmul": 8e11}}}
    return record.content(record.environment("cpu"), ceilings, "steps", [step, loading, trained], [])


def cells(text, start):
    row = next(line for line in text.splitlines() if line.startswith(f"| {start} "))
    return [cell.strip() for cell in row.strip("|").split("|")]


def test_steps_are_set_beside_eager_float32_and_the_best_of_torch_in_their_precision(stepped):
    speedup = stepped["cases"][0]["speedup"]
    assert speedup["ours fp32 nchw"]["eager_fp32"] == speedup["ours fp32 nchw"]["same_precision"] == pytest.approx(2)
    assert speedup["ours bf16 channels_last"]["eager_fp32"] == pytest.approx(3)
    assert speedup["ours bf16 channels_last"]["same_precision"] == pytest.approx(1.5)
    assert cells(tables.summary([stepped]), "cyclegan") == [
        "cyclegan",
        "1x3x256x256",
        "6 s",
        "4 s",
        "",
        "3 s",
        "3 s",
        "2 s",
        "2.00",
        "3.00",
        "1.50",
        "2.5 s",
        "1.25 s",
    ]
    assert cells(tables.steps([stepped]), "ours bf16 channels_last") == [
        "ours bf16 channels_last",
        "2 s",
        "1.9 s to 2.2 s",
        "3.00",
        "500 (62%)",
        "1.25 s",
        "3 GiB",
        "3 s",
    ]
    assert "cyclegan 1x3x256x256 step: compile fp32 nchw was not timed: RuntimeError: no compiler." in tables.remarks(
        stepped
    )


def test_a_step_that_loses_to_torch_in_its_precision_is_named(stepped):
    assert stepped["losing"] == []
    lost = stepped["cases"][0]
    lost["providers"]["eager fp32 nchw"] = timing(2.0)
    lost["speedup"] = record.step_speedups(lost["providers"])
    assert [(x["provider"], x["ratio"]) for x in record.losses(lost)] == [("ours fp32 nchw", pytest.approx(2 / 3))]


def test_loaders_are_set_beside_what_the_step_takes(stepped):
    assert cells(tables.loader([stepped]), "JPEG")[2:] == ["ours 0 workers", "200", "1.0 (200 times)"]
    stepped["cases"].pop(0)
    assert cells(tables.loader([stepped]), "JPEG")[2:] == ["ours 0 workers", "200", ""]


def test_trainings_show_how_far_losses_part(stepped):
    assert cells(tables.training([stepped]), "cyclegan")[2:] == ["G_A", "0.25", "0.125"]


def test_a_page_quotes_its_records(stepped, tmp_path, monkeypatch):
    monkeypatch.setattr(record, "ROOT", tmp_path)
    record.write(tmp_path / "one.json", stepped)
    page = "# Speed\n\n<!-- bench.report: summary loader | one.json -->\nold\n<!-- /bench.report -->\nend\n"
    text = report.quoted(page)
    assert tables.summary([stepped]) in text and tables.loader([stepped]) in text
    assert text.startswith("# Speed\n\n<!-- bench.report: summary loader | one.json -->\n| step of")
    assert text.endswith("<!-- /bench.report -->\nend\n") and "old" not in text
    assert report.quoted(text) == text
    path = tmp_path / "page.md"
    path.write_text(page, encoding="utf-8")
    assert report.main(["--update", str(path)]) == 0 and path.read_text(encoding="utf-8") == text


@pytest.mark.parametrize("quote, reason", [
    ("summery | one.json", "there is no table 'summery': choose from gains, ops, summary"),
    ("ops | one.json", "one.json hold nothing for the table ops"),
    ("steps | two.json", "two.json cannot be read"),
])  # fmt: skip
def test_a_page_that_quotes_what_there_is_not_is_an_error(quote, reason, stepped, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(record, "ROOT", tmp_path)
    record.write(tmp_path / "one.json", stepped)
    page = tmp_path / "page.md"
    page.write_text(f"<!-- bench.report: {quote} -->\n<!-- /bench.report -->\n")
    with pytest.raises(SystemExit):
        report.main(["--update", str(page)])
    assert reason in capsys.readouterr().err


@pytest.mark.parametrize("page", ["README.md", "docs/performance.md"])
def test_the_tables_of_the_pages_are_those_of_the_committed_records(page):
    text = (record.ROOT / page).read_text(encoding="utf-8")
    assert report.quoted(text) == text, f"run python -m bench.report --update {page}"
    assert text.count("<!-- bench.report: ") == len(report.BLOCK.findall(text)), "a comment is not well formed"


def test_every_committed_record_is_cited():
    pages = [record.ROOT / "README.md", *record.ROOT.glob("docs/*.md")]
    text = "".join(page.read_text(encoding="utf-8") for page in pages)
    names = [re.search(r"[0-9a-f]{7}-.+", path.stem)[0] for path in record.ROOT.glob("bench/results/*")]
    assert names and [name for name in names if name not in text] == []


def test_the_plots(run, stepped, tmp_path, capsys):
    paths = [tmp_path / "ops.json", tmp_path / "steps.json"]
    for path, content in zip(paths, (run, stepped)):
        record.write(path, content)
    command = [*map(str, paths), "--plots", str(tmp_path / "plots"), "--output", str(tmp_path / "tables.md")]
    if importlib.util.find_spec("matplotlib"):
        assert report.main(command) == 0
        for name in ("speedups", "roofline", "steps"):
            assert (tmp_path / "plots" / f"{name}.png").read_bytes().startswith(b"\x89PNG")
        with pytest.raises(ValueError, match="nothing to draw"):
            plots.draw([stepped | {"cases": []}], tmp_path)
    else:
        with pytest.raises(SystemExit):
            report.main(command)
        assert "--plots needs matplotlib (pip install matplotlib)" in capsys.readouterr().err
