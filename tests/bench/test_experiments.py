import json
import subprocess

import pytest

from bench import experiments
from fastgan import recipes, train


@pytest.fixture
def perform(monkeypatch, tmp_path):
    """Commands are not run but noted, and every evaluation gives the figures of ``given``, in turn."""
    monkeypatch.chdir(tmp_path)
    for name in ("mnist", "facades_aligned"):
        (tmp_path / "data" / name).mkdir(parents=True)
    ran, given = [], []

    def run(command, arguments):
        ran.append((command, *arguments))
        if command == "evaluate":
            path = tmp_path / arguments[arguments.index("--output") + 1]
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(json.dumps(given.pop(0)))
        if "fail" in given:
            raise subprocess.CalledProcessError(2, command)

    monkeypatch.setattr(experiments, "_run", run)

    def call(*arguments, figures=()):
        ran.clear()
        given[:] = figures
        code = experiments.main([*arguments, "--data", str(tmp_path / "data"), "--record", "record.json"])
        found = tmp_path / "record.json"
        return code, list(ran), json.loads(found.read_text()) if found.exists() else None

    return call


def test_an_experiment_in_two_parts(perform):
    code, ran, kept = perform(
        "dcgan",
        figures=[{"frechet_distance": 100.0, "rarest_class": 0.01}, {"frechet_distance": 49.0, "rarest_class": 0.02}],
    )
    assert code == 0
    assert [command[0] for command in ran] == ["train", "evaluate"] * 2
    assert ran[0][-4:] == ("--n-epochs", "1", "--eval-images", "0") and "--overwrite" in ran[0]
    assert "--resume" in ran[2] and ran[2][-4:-2] == ("--n-epochs", str(experiments.EXPERIMENTS["dcgan"].last))
    (experiment,) = kept["experiments"]
    assert [check["passed"] for check in experiment["checks"]] == [True, True, True]
    assert experiment["checks"][0]["must_be"] == "<= 50" and experiment["first_figures"]["frechet_distance"] == 100
    assert experiment["commands"][0].startswith(
        "python -m fastgan.train dcgan --name learn-dcgan --checkpoints-dir checkpoints --dataroot DATA/mnist --"
    )
    assert all(flag in ran[0] for flag in experiments.EXPERIMENTS["dcgan"].flags.split())
    assert kept["missed"] == [] and kept["kind"] == "learn" and "torch" in kept["environment"]


@pytest.mark.parametrize(
    "name, figures, passed",
    [
        ("dcgan", [{"frechet_distance": 100.0}, {"frechet_distance": 51.0, "rarest_class": 0.019}], [False, False]),
        ("cgan", [{"asked_class_accuracy": 0.9}], [True]),
        ("cvae_gan", [{"asked_class_accuracy": 0.899}], [False]),
        ("vae-z2", [{"reconstruction_mse": 0.048}], [True]),
        ("vae-z16", [{"reconstruction_mse": 0.0141}], [False]),
        ("sgan", [{"accuracy": 0.93, "accuracy_of_labels_alone": 0.899}], [True]),
        ("sgan", [{"accuracy": 0.93, "accuracy_of_labels_alone": 0.901}], [False]),
        ("pix2pix", [{"AtoB": {"translation": 0.3}}, {"AtoB": {"translation": 0.2, "mean_image": 0.2}}], [False, True]),
    ],
)
def test_thresholds(perform, name, figures, passed):
    code, _, kept = perform(name, figures=figures)
    assert [check["passed"] for check in kept["experiments"][0]["checks"]][:-1] == passed
    assert code == (0 if all(passed) else 1) and kept["missed"] == ([] if all(passed) else [name])


def test_experiments_are_chosen_by_name_or_recipe(perform, capsys):
    figures = [{"reconstruction_mse": 0.01}] * 2
    code, ran, kept = perform("vae", "--length", "3", figures=figures)
    assert code == 0 and [experiment["experiment"] for experiment in kept["experiments"]] == ["vae-z2", "vae-z16"]
    assert ran[0][-3:] == ("3", "--eval-images", "0")
    with pytest.raises(SystemExit):
        perform("gan")
    assert "there is no experiment 'gan': choose from dcgan, wgan_gp" in capsys.readouterr().err


def test_minutes_by_the_clock_or_by_the_processor_where_others_run(perform, monkeypatch):
    clock, processor = iter(range(0, 100000, 1200)), iter(range(0, 100000, 540))
    monkeypatch.setattr(experiments.time, "monotonic", lambda: next(clock))
    monkeypatch.setattr(experiments, "_cpu_seconds", lambda: next(processor))
    monkeypatch.setattr(experiments.torch, "get_num_threads", lambda: 1)
    figures = {"asked_class_accuracy": 0.95}
    code, _, kept = perform("cgan", figures=[figures])
    assert code == 1 and kept["experiments"][0]["checks"][-1]["value"] == 20 and not kept["experiments"][0]["shared"]
    code, _, kept = perform("cgan", "--shared", figures=[figures])
    assert code == 0 and kept["experiments"][0]["checks"][-1]["value"] == 9
    assert kept["experiments"][0]["train_minutes"] == 20 and kept["experiments"][0]["train_cpu_minutes"] == 9


def test_what_is_missing_is_skipped_and_what_fails_is_said(perform, tmp_path, capsys):
    (tmp_path / "data" / "mnist").rmdir()
    code, ran, kept = perform("cgan")
    assert (code, ran, kept) == (0, [], None) and "cgan: skipped, there is no" in capsys.readouterr().out
    code, ran, kept = perform("cgan", "pix2pix", figures=["fail"])
    assert code == 1 and kept["experiments"] == [] and kept["skipped"][0]["experiment"] == "cgan"
    assert kept["failed"][0]["experiment"] == "pix2pix" and kept["failed"][0]["reason"] == "exit status 2"


@pytest.mark.parametrize("name", experiments.EXPERIMENTS)
def test_every_experiment_can_be_typed(name):
    experiment = experiments.EXPERIMENTS[name]
    given = vars(
        train.parser_of(recipes.get(experiment.recipe)).parse(
            [*experiment.flags.split(), experiment.length, str(experiment.last)]
        )
    )
    assert given[experiment.length.removeprefix("--").replace("-", "_")] == experiment.last
