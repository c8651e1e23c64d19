"""A run that is stopped and resumed makes, bit for bit, the steps it would have made."""

import itertools
import json
import os
import signal
import time

import pytest
import torch

from fastgan._errors import UserError
from fastgan.training import checkpoint, log
from tests.training.tiny_recipe import Silence, TinyData, TinyRecipe, new_loop, resumed_loop


def records(path):
    lines = [json.loads(line) for line in (path / "losses.jsonl").read_text().splitlines()]
    return [{key: value for key, value in line.items() if key != "seconds"} for line in lines]


def assert_same_state(first, second):
    for name, network in first.networks.items():
        for key, value in network.state_dict().items():
            assert torch.equal(value, second.networks[name].state_dict()[key]), f"{name}.{key}"
    for one, other in zip(first.optimizers["G"].state.values(), second.optimizers["G"].state.values(), strict=True):
        assert all(torch.equal(one[key], other[key]) for key in one)
    assert first.epoch_losses == second.epoch_losses
    assert first.optimizers["G"].param_groups[0]["lr"] == second.optimizers["G"].param_groups[0]["lr"]


@pytest.mark.parametrize("stop", [1, 3, 4, 5])  # an epoch is 3 steps: 2 + 2 + 1 items
def test_resume_is_exact(tmp_path, stop):
    whole = new_loop(tmp_path / "whole", max_steps=7, print_freq=1)
    assert whole.run()
    first = new_loop(tmp_path / "parts", max_steps=stop, print_freq=1)
    assert first.run()
    second = resumed_loop(tmp_path / "parts", max_steps=7)
    assert second.progress.step == stop
    assert second.run()

    assert first.recipe.seen + second.recipe.seen == whole.recipe.seen
    assert records(tmp_path / "parts") == records(tmp_path / "whole")
    assert_same_state(whole.recipe, second.recipe)


def test_sampling_and_saving_change_nothing(tmp_path):
    plain = new_loop(tmp_path / "plain", max_steps=5, sample_freq=0, save_freq=0)
    plain.run()
    busy = new_loop(tmp_path / "busy", max_steps=5, sample_freq=1, save_freq=1, sample=lambda step: torch.randn(7))
    busy.run()
    assert_same_state(plain.recipe, busy.recipe)


def test_workers_change_nothing(tmp_path):
    alone = new_loop(tmp_path / "alone", max_steps=5)
    alone.run()
    helped = new_loop(tmp_path / "helped", max_steps=5, num_threads=1)
    helped.run()
    assert alone.recipe.seen == helped.recipe.seen
    assert_same_state(alone.recipe, helped.recipe)


def test_epochs_end_the_run_and_reach_the_schedule(tmp_path):
    loop = new_loop(tmp_path / "run", n_epochs=2, n_epochs_decay=1, lr=1e-3, print_freq=1)
    assert loop.total == 9
    loop.run()
    lines = records(tmp_path / "run")
    assert [line["epoch"] for line in lines] == [1] * 3 + [2] * 3 + [3] * 3
    assert [line["lr"]["G"] for line in lines] == pytest.approx([1e-3] * 3 + [5e-4] * 3 + [2.5e-4] * 3)
    for epoch, means in enumerate(loop.recipe.epoch_losses):
        for name, mean in means.items():
            assert mean == pytest.approx(sum(line["losses"][name] for line in lines[3 * epoch : 3 * epoch + 3]) / 3)
    for epoch in range(3):
        seen = [key for batch in loop.recipe.seen[3 * epoch : 3 * epoch + 3] for key in batch]
        assert sorted(seen) == [[epoch, index] for index in range(5)]
    assert loop.recipe.seen[0] != [[0, index] for _, index in loop.recipe.seen[3]]  # another order in another epoch


def test_serial_batches(tmp_path):
    loop = new_loop(tmp_path / "run", max_steps=3, serial_batches=True)
    loop.run()
    assert loop.recipe.seen == [[[0, 0], [0, 1]], [[0, 2], [0, 3]], [[0, 4]]]


def test_lines_after_the_checkpoint_are_made_again(tmp_path):
    loop = new_loop(tmp_path / "run", max_steps=4, print_freq=1)
    loop.run()
    with open(tmp_path / "run" / "losses.jsonl", "a") as file:
        file.write(json.dumps({"step": 5, "losses": {"G_A": 99}}) + "\n" + '{"step": 6, "lo')
    resumed_loop(tmp_path / "run", max_steps=6).run()
    lines = records(tmp_path / "run")
    assert [line["step"] for line in lines] == [1, 2, 3, 4, 5, 6]
    assert lines[4]["losses"]["G_A"] != 99


@pytest.mark.parametrize("poisoned", [1, 5])
def test_a_loss_that_is_no_number_stops_the_run(tmp_path, poisoned):
    recipe = TinyRecipe()
    recipe.poison_at = poisoned
    loop = new_loop(tmp_path / "run", recipe=recipe, save_freq=2, max_steps=9)
    with pytest.raises(UserError, match=f"the loss D_A is nan at step {poisoned}: training stopped") as raised:
        loop.run()
    path = tmp_path / "run" / "checkpoint.pt"
    if poisoned == 1:
        assert not path.exists() and "nothing was saved yet" in str(raised.value)
    else:
        assert "the checkpoint of step 4" in str(raised.value)
        content = checkpoint.load(path)
        assert content["progress"].step == 4
        assert all(value.isfinite().all() for value in content["state"]["networks"]["G_A"].values())


def test_weights_that_are_no_numbers_are_not_saved(tmp_path):
    recipe = TinyRecipe()
    recipe.poison_weights_at = 4
    loop = new_loop(tmp_path / "run", recipe=recipe, save_freq=2, max_steps=9)
    with pytest.raises(UserError, match="weights model.0.weight of D_A are not finite after step 4: .* of step 2 in"):
        loop.run()
    assert checkpoint.load(tmp_path / "run" / "checkpoint.pt")["progress"].step == 2


def test_a_second_signal_says_what_is_kept(tmp_path):
    def interrupted(step):
        if step == 3:
            os.kill(os.getpid(), signal.SIGINT)
            os.kill(os.getpid(), signal.SIGINT)

    loop = new_loop(tmp_path / "run", save_freq=2, sample_freq=1, max_steps=9, sample=interrupted)
    with pytest.raises(KeyboardInterrupt, match="left after step 3 without saving; the checkpoint of step 2 in .*"):
        loop.run()


class Failing:
    """Calls ``function``; the call of this number raises first, and once."""

    def __init__(self, function, number, error):
        self.function, self.left, self.error = function, number, error

    def __call__(self, *arguments):
        self.left -= 1
        if self.left == 0:
            raise self.error
        return self.function(*arguments)


@pytest.mark.parametrize("at", [2, 3, 4, 6])  # an epoch is 3 steps
@pytest.mark.parametrize("place", ["data", "step", "show"])
def test_a_run_that_an_error_ends_goes_on_exactly(tmp_path, monkeypatch, place, at):
    whole = new_loop(tmp_path / "whole", max_steps=8, print_freq=1)
    whole.run()
    error = RuntimeError("an accident")
    display = Silence()
    first = new_loop(tmp_path / "parts", max_steps=8, print_freq=1, display=display)
    if place == "data":
        get = Failing(first.dataset.__getitem__, [0, 2, 4, 5, 7, 9][at - 1] + 1, error)
        monkeypatch.setattr(TinyData, "__getitem__", lambda self, key: get(key))
    elif place == "step":
        first._step = Failing(first._step, at, error)
    elif place == "show":
        display.show = Failing(display.show, at, error)
    made = at if place == "show" else at - 1
    with pytest.raises(
        UserError, match=f"an accident: training stopped after step {made}, which is saved in .*--resume"
    ):
        first.run()
    monkeypatch.undo()
    second = resumed_loop(tmp_path / "parts", max_steps=8)
    assert second.progress.step == made and second.run()
    assert records(tmp_path / "parts") == records(tmp_path / "whole")
    assert_same_state(whole.recipe, second.recipe)


def test_a_bug_keeps_its_type_and_the_steps(tmp_path, caplog):
    loop = new_loop(tmp_path / "run", max_steps=8)
    loop._step = Failing(loop._step, 4, KeyError("a bug"))
    with pytest.raises(KeyError, match="a bug"):
        loop.run()
    assert "training stopped after step 3, which is saved in" in caplog.text
    assert resumed_loop(tmp_path / "run").progress.step == 3


def test_an_error_before_the_first_step_saves_nothing(tmp_path):
    loop = new_loop(tmp_path / "run", max_steps=8)
    loop._step = Failing(loop._step, 1, ValueError("no such size"))
    with pytest.raises(UserError, match="no such size: training stopped before the first step was made"):
        loop.run()
    assert not loop.folder.checkpoint.exists()


def test_what_cannot_be_written_beside_the_run_does_not_end_it(tmp_path, caplog):
    """A sample grid and a line of losses are told once, a checkpoint on the way every time, and the last is there."""
    plain = new_loop(tmp_path / "plain", max_steps=5)
    plain.run()

    def unwritable(*arguments):
        raise PermissionError(13, "Permission denied", "a place")

    loop = new_loop(tmp_path / "run", max_steps=5, print_freq=1, sample_freq=1, save_freq=1, sample=unwritable)
    save, loop.save = loop.save, lambda: save() if loop.progress.step == 5 else unwritable()
    path = loop.folder.losses
    path.mkdir()
    with pytest.raises(OSError, match="losses.jsonl"):  # nothing to lose yet
        loop.run()
    path.rmdir()
    write = log.LossFile.write
    monkey = pytest.MonkeyPatch()
    with monkey.context() as patch:
        patch.setattr(log.LossFile, "write", lambda *a: unwritable() if a[1].step < 4 else write(*a))
        assert loop.run()
    for text, times in (
        ("a sample grid cannot be written", 1),
        ("losses cannot be written to", 1),
        ("is not saved (a place: Permission denied): training goes on", 4),
    ):
        assert caplog.text.count(text) == times, caplog.text
    assert checkpoint.load(loop.folder.checkpoint)["progress"].step == 5
    assert_same_state(plain.recipe, loop.recipe)


@pytest.mark.parametrize(
    "error", [OSError(28, "No space left on device"), MemoryError("much"), RuntimeError("too much")]
)
def test_a_sample_grid_that_fails_does_not_end_the_run(tmp_path, caplog, error):
    whole = new_loop(tmp_path / "whole", max_steps=5)
    whole.run()
    sample = Failing(lambda step: None, 2, error)
    loop = new_loop(tmp_path / "run", max_steps=5, sample_freq=1, sample=sample)
    assert loop.run() and sample.left == -3
    (record,) = caplog.records
    assert record.getMessage().startswith("a sample grid cannot be written (")
    assert record.getMessage().endswith("): the run goes on")
    assert_same_state(whole.recipe, loop.recipe)


def test_a_run_is_saved_long_before_its_end(tmp_path):
    """By the defaults, however short it is: one that is killed has lost a quarter at most."""
    steps = {}
    for total in (3, 8, 40):
        loop = new_loop(tmp_path / str(total), max_steps=total, n_epochs=100)
        save, saved = loop.save, []
        loop.save = lambda save=save, saved=saved, loop=loop: (saved.append(loop.progress.step), save())
        loop.run()
        steps[total] = saved
    assert steps == {3: [1, 2, 3], 8: [1, 2, 4, 6, 8], 40: [1, 10, 20, 30, 40]}


def test_a_run_by_the_clock_is_saved_by_the_clock(tmp_path):
    loop = new_loop(tmp_path / "run", max_steps=200, n_epochs=100, save_every="0.05s")
    save, times = loop.save, []
    loop.save = lambda: (times.append(time.monotonic()), save())
    loop.run()
    gaps = [later - earlier for earlier, later in itertools.pairwise(times)]
    assert len(gaps) > 2 and min(gaps[:-1]) >= 0.05


def test_runs_of_earlier_versions_counted_steps(tmp_path):
    loop = new_loop(tmp_path / "run", max_steps=2)
    loop.run()
    content = torch.load(loop.folder.checkpoint, weights_only=True)
    del content["checksum"]
    options = content["description"]["options"]["train"]
    del options["save_every"], options["sample_every"]
    options |= {"save_freq": 7, "sample_freq": 0}
    torch.save(content, loop.folder.checkpoint)
    assert resumed_loop(tmp_path / "run").options.save_every == "7"
    again = resumed_loop(tmp_path / "run", sample_every="5s")
    assert (again.options.save_every, again.options.sample_every) == ("7", "5s")


def test_other_data_is_refused(tmp_path):
    new_loop(tmp_path / "run", max_steps=2).run()
    with pytest.raises(UserError, match="trained on 5 images and the data now has 6"):
        resumed_loop(tmp_path / "run", dataset=TinyData(6))


class Fingerprinted(TinyData):
    def __init__(self, length=5, fingerprint="one"):
        super().__init__(length)
        self.fingerprint = fingerprint


def test_exchanged_data_is_refused_unless_accepted(tmp_path):
    new_loop(tmp_path / "run", max_steps=4, dataset=Fingerprinted()).run()
    resumed_loop(tmp_path / "run", dataset=Fingerprinted())
    for other, sentence in (
        (Fingerprinted(5, "two"), "the data is not what the run of this checkpoint was trained on"),
        (Fingerprinted(8), "was trained on 5 images and the data now has 8"),
    ):
        with pytest.raises(UserError, match=f"{sentence}.*--accept-other-data.*--name"):
            resumed_loop(tmp_path / "run", dataset=other)
    loop = resumed_loop(tmp_path / "run", dataset=Fingerprinted(5, "two"), accept_other_data=True, max_steps=6)
    assert (loop.progress.epoch, loop.progress.position) == (1, 2)
    loop.run()
    resumed_loop(tmp_path / "run", dataset=Fingerprinted(5, "two"))  # this is its data now


def test_runs_of_earlier_versions_have_no_fingerprint(tmp_path):
    new_loop(tmp_path / "run", max_steps=4).run()
    assert resumed_loop(tmp_path / "run", dataset=Fingerprinted()).progress.step == 4


@pytest.mark.parametrize("length", [2, 3, 11])
def test_accepted_data_of_another_length_makes_the_epochs_that_are_left(tmp_path, length):
    new_loop(tmp_path / "run", max_steps=5).run()  # 3 steps an epoch: in the midst of the second of three
    loop = resumed_loop(tmp_path / "run", dataset=TinyData(length), accept_other_data=True, max_steps=None)
    per_epoch = (length + 1) // 2
    assert (loop.progress.epoch, loop.progress.position, loop.total) == (1, 0, 5 + 2 * per_epoch)
    assert loop.run() and loop.progress.epoch == 3
    assert sorted(map(tuple, sum(loop.recipe.seen, []))) == [  # noqa: RUF017
        (epoch, index) for epoch in (1, 2) for index in range(length)
    ]


def test_lines_are_shown_when_due(tmp_path):
    display = Silence()
    new_loop(tmp_path / "run", max_steps=7, print_freq=3, display=display).run()
    assert [step for step, *_ in display.shown] == [1, 3, 6, 7]
    assert [line["step"] for line in records(tmp_path / "run")] == [1, 3, 6, 7]


def test_samples_come_when_due(tmp_path):
    steps = []
    new_loop(tmp_path / "run", max_steps=7, sample_freq=3, sample=steps.append).run()
    assert steps == [1, 3, 6, 7]


def test_a_recipe_may_leave_out_the_last_batch(tmp_path, monkeypatch):
    monkeypatch.setattr(TinyRecipe, "drop_last", True, raising=False)
    whole = new_loop(tmp_path / "whole", n_epochs=1, n_epochs_decay=1)
    assert whole.total == 4 and whole.run()
    assert [len(batch) for batch in whole.recipe.seen] == [2, 2, 2, 2] and whole.progress.epoch == 2
    first = new_loop(tmp_path / "parts", max_steps=3, n_epochs=1, n_epochs_decay=1)
    first.run()
    second = resumed_loop(tmp_path / "parts", max_steps=4)
    second.run()
    assert first.recipe.seen + second.recipe.seen == whole.recipe.seen
    assert_same_state(whole.recipe, second.recipe)
    with pytest.raises(UserError, match="--batch-size is 9 and there are 5 images, which fill no batch"):
        new_loop(tmp_path / "empty", batch_size=9)
