"""Plain lines, the bar on a terminal, and the loss file."""

import io
import json

import pytest
import torch

from fastgan.training import log
from fastgan.training.checkpoint import Progress
from fastgan.training.recent_losses import NonFiniteLoss, RecentLosses

LOSSES = {"G_A": 0.31249, "cycle_A": 1.5}
LR = {"G": 2e-4, "D": 1e-4}


def test_plain_lines(monkeypatch):
    now = [100.0]
    monkeypatch.setattr(log.time, "monotonic", lambda: now[0])
    stream = io.StringIO()
    lines = log.PlainLines(500, 0, stream)
    now[0] += 20
    assert not lines.advance(9)
    lines.show(10, 1, LR, LOSSES)
    now[0] += 1
    lines.show(30, 2, {"G": 2e-4}, LOSSES)
    assert stream.getvalue().splitlines() == [
        "step 10/500  epoch 1  2.00 s/step  ETA 0:16:20  lr 0.0001/0.0002  G_A 0.312  cycle_A 1.500",
        "step 30/500  epoch 2  20.0 steps/s  ETA 0:00:24  lr 0.0002  G_A 0.312  cycle_A 1.500",
    ]
    now[0] += 31  # nobody should wait longer than half a minute for a sign of life
    assert lines.advance(31)


def test_without_an_end_there_is_no_eta():
    stream = io.StringIO()
    log.PlainLines(None, 0, stream).show(3, 1, LR, LOSSES)
    assert stream.getvalue().startswith("step 3  epoch 1  ") and "ETA" not in stream.getvalue()


def test_a_pipe_gets_plain_lines_and_a_terminal_a_bar(monkeypatch, capsys):
    assert isinstance(log.progress_display(10, 0), log.PlainLines)
    monkeypatch.setenv("LINES", "40")
    monkeypatch.setenv("COLUMNS", "120")
    monkeypatch.setattr("sys.stdout.isatty", lambda: True, raising=False)
    monkeypatch.setattr("sys.stderr.isatty", lambda: True, raising=False)
    bar = log.progress_display(10, 4)
    assert isinstance(bar, log.ProgressBar) and bar.every_step
    bar.advance(5)
    bar.show(5, 2, LR, LOSSES)
    bar.close()
    shown = capsys.readouterr().err
    assert "epoch 2" in shown and "5/10" in shown and "G_A 0.312  cycle_A 1.500" in shown and "step" in shown


@pytest.mark.parametrize(
    "damage",
    [
        b"",
        b"\xff\xfe\n",
        b"\0\0\0",
        b"5\n",
        b"null\n",
        b"[1]\n",
        b"{}\n",
        b'{"step": "x"}\n',
        b'{"step": null}\n',
        b'{"step": 1e999}\n',
        b'{"step": NaN}\n',
        b"[" * 100_000,
        b'{"step": 2, "lo',
    ],
)
def test_damaged_lines_of_losses_are_dropped(tmp_path, damage):
    path = tmp_path / "losses.jsonl"
    file = log.LossFile(path, 0)
    for step in (1, 2, 3):
        file.write(Progress(step=step), 1, LR, LOSSES)
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(lines[0] + damage + (b"" if damage.endswith(b"\n") else b"\n") + lines[1].rstrip())
    log.LossFile(path, 2).write(Progress(step=3), 1, LR, LOSSES)
    assert [json.loads(line)["step"] for line in path.read_bytes().splitlines()] == [1, 2, 3]


def test_loss_file(tmp_path):
    file = log.LossFile(tmp_path / "losses.jsonl", 0)
    file.write(Progress(step=3, seconds=1.23456), 1, LR, LOSSES)
    assert json.loads((tmp_path / "losses.jsonl").read_text()) == {  # there already, for whoever looks on
        "step": 3,
        "epoch": 1,
        "lr": LR,
        "seconds": 1.235,
        "losses": LOSSES,
    }


def steps(path):
    return [json.loads(line)["step"] for line in path.read_text().splitlines()]


def test_lines_that_cannot_be_written_come_later(tmp_path):
    path = tmp_path / "losses.jsonl"
    file = log.LossFile(path, 0)
    file.write(Progress(step=1), 1, LR, LOSSES)
    path.rename(tmp_path / "old")
    path.mkdir()
    for step in (2, 3):
        with pytest.raises(OSError, match="losses.jsonl"):
            file.write(Progress(step=step), 1, LR, LOSSES)
    path.rmdir()
    file.write(Progress(step=4), 1, LR, LOSSES)
    assert steps(path) == [2, 3, 4]
    path.unlink()  # by somebody who wanted the room
    file.write(Progress(step=5), 1, LR, LOSSES)
    assert steps(path) == [5]


def test_a_line_that_a_full_disk_cuts_is_completed(tmp_path):
    resource = pytest.importorskip("resource")
    path = tmp_path / "losses.jsonl"
    file = log.LossFile(path, 0)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (200, hard))  # what a full disk does, without one
    try:
        with pytest.raises(OSError):
            for step in range(1, 5):
                file.write(Progress(step=step), 1, LR, LOSSES)
        assert path.stat().st_size == 200
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    file.write(Progress(step=5), 1, LR, LOSSES)
    assert steps(path) == list(range(1, step + 1)) + [5]


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_the_first_bad_step_is_named(bad):
    progress = Progress()
    recent = RecentLosses(progress)
    for step, value in enumerate([1.0, 2.0, bad, bad], start=1):
        recent.add(step, {"G": torch.tensor(value), "D": torch.tensor(float(step))})
    with pytest.raises(NonFiniteLoss, match=f"the loss G is {bad} at step 3"):
        recent.fetch()


def test_sums_do_not_depend_on_when_one_looks():
    sums = []
    for looks in ({1, 2, 3, 4}, {4}, {2, 4}):
        progress = Progress()
        recent = RecentLosses(progress)
        for step in (1, 2, 3, 4):
            recent.add(step, {"G": torch.tensor(0.1 * step), "D": torch.tensor(1.0)})
            if step in looks:
                latest = recent.fetch()
        assert latest["G"] == pytest.approx(0.4) and recent.fetch() == latest
        assert progress.loss_counts == {"G": 4, "D": 4}
        sums.append(progress.loss_sums)
    assert sums[0] == sums[1] == sums[2]


def test_losses_may_change_their_names():
    progress = Progress()
    recent = RecentLosses(progress)
    recent.add(1, {"G": torch.tensor(1.0)})
    recent.add(2, {"G": torch.tensor(2.0), "D": torch.tensor(3.0)})
    assert recent.fetch() == {"G": 2.0, "D": 3.0}
    recent.add(3, {"D": torch.tensor(4.0)})
    assert recent.fetch() == {"G": 2.0, "D": 4.0}  # a loss that this step does not make is shown as it was
    assert progress.loss_sums == {"G": 3.0, "D": 7.0} and progress.loss_counts == {"G": 2, "D": 2}
