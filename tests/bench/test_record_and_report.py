"""Records are complete, never overwrite one another, and render as Markdown (and as a plot, with matplotlib)."""

import importlib.util

import pytest

from bench import record, report


def timing(median):
    quantiles = {"min": 0.9 * median, "q20": 0.95 * median, "median": median, "q80": 1.1 * median}
    return quantiles | {"samples": 9, "preempted": 0.0}


def case(**times):
    providers = {name.replace("_", " ", 1): timing(median) for name, median in times.items()}
    return {
        "op": "instance_norm", "variant": "relu", "shape": "1x256x64x64", "dtype": "float32", "direction": "forward",
        "bytes": 8_388_608, "flops": 0, "backend": {"name": "cpp", "passed_over": {}}, "deviation": {},
        "providers": providers, "speedup": record.speedups(providers),
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
def test_what_is_no_record_gets_a_sentence(text, reason, tmp_path):
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
    text = report.markdown([run])
    row = next(line for line in text.splitlines() if "| forward " in line)
    cells = [cell.strip() for cell in row.strip("|").split("|")]
    assert cells == [
        "instance_norm relu", "1x256x64x64", "float32", "forward", "6 ms / 5 ms", "9 ms", "1 ms", "2 ms",
        "5.00 / 4.50", "5.00 / 2.50", "8.39 GB/s (42%)", "cpp",
    ]
    assert "Slower than eager in the same layout" in text and "instance_norm relu 1x256x64x64 float32 backward" in text
    assert "Not timed: l1_loss relu 1x256x64x64 float32 backward: the result is wrong." in text
    assert "20 GB/s" in text and "400 GFLOP/s (convolution)" in text


def test_a_busy_machine_is_told(run):
    assert "busy" not in report.markdown([run])
    for entry in run["cases"]:
        for values in entry["providers"].values():
            values["preempted"] = 0.5
    assert "The machine was busy: other processes cut into 50% of the samples" in report.markdown([run])


@pytest.mark.parametrize("value, text", [(1.234, "1.23 s"), (0.5, "500 ms"), (1e-3, "1 ms"), (9.87e-6, "9.87 µs")])
def test_times_have_three_digits(value, text):
    assert report.seconds(value) == text


def test_the_report_command(run, tmp_path, capsys):
    path = tmp_path / "record.json"
    record.write(path, run)
    assert report.main([str(path)]) == 0
    assert "| instance_norm relu |" in capsys.readouterr().out
    with pytest.raises(SystemExit):
        report.main([str(tmp_path / "missing.json")])
    assert "missing.json cannot be read" in capsys.readouterr().err


def test_the_plot(run, tmp_path, capsys):
    path, image = tmp_path / "record.json", tmp_path / "plot.png"
    record.write(path, run)
    if importlib.util.find_spec("matplotlib"):
        assert report.main([str(path), "--plot", str(image)]) == 0
        assert image.read_bytes().startswith(b"\x89PNG")
    else:
        with pytest.raises(SystemExit):
            report.main([str(path), "--plot", str(image)])
        assert "--plot needs matplotlib (pip install matplotlib)" in capsys.readouterr().err
