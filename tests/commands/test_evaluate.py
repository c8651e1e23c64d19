"""python -m fastgan.evaluate, as a user meets it."""

import json

import pytest

from fastgan import evaluate
from fastgan.evaluation import quality


@pytest.fixture(autouse=True)
def short(monkeypatch, tmp_path_factory):
    """One cache for all tests here, and a short training of sgan's baseline."""
    monkeypatch.setenv("FASTGAN_CACHE", str(tmp_path_factory.getbasetemp() / "cache"))
    monkeypatch.setattr(quality, "BASELINE_STEPS", 2)


def measure(call, run, *arguments, count=100):
    outcome = call(evaluate, run, "--count", count, "--device", "cpu", *arguments)
    assert outcome.code == 0, outcome.err
    return outcome.out, json.loads((run / "metrics.json").read_text())


GENERATION = {
    "generated",
    "frechet_distance",
    "frechet_distance_of_test_images",
    "class_shares",
    "rarest_class",
    "classifier_accuracy",
}


@pytest.mark.parametrize(
    "name, more",
    [
        ("dcgan", set()),
        ("cgan", {"asked_class_accuracy"}),
        ("vae", {"images", "reconstruction_mse"}),
        ("cvae_gan", {"asked_class_accuracy", "images", "reconstruction_mse", "accuracy"}),
        ("sgan", {"images", "accuracy", "labels", "accuracy_of_labels_alone"}),
    ],
)
def test_figures_of_what_a_recipe_can_do(call, runs, name, more):
    out, figures = measure(call, runs(name))
    assert set(figures) == {"recipe"} | GENERATION | more
    assert figures["recipe"] == name and figures["generated"] == 100 and len(figures["class_shares"]) == 10
    assert figures["frechet_distance"] > figures["frechet_distance_of_test_images"] >= 0
    assert 0.3 < figures["classifier_accuracy"] <= 1
    assert f"Frechet distance {figures['frechet_distance']:.2f} of 100 generated images" in out
    assert "judged by a classifier that names" in out
    assert out.endswith(f"these figures are in {runs(name) / 'metrics.json'}\n")
    if "labels" in more:
        assert figures["labels"] == 100 and "of the same network trained on its 100 labels alone" in out


def test_the_seed_decides_and_figures_are_repeatable(call, runs):
    one = measure(call, runs("dcgan"), "--seed", 1)[1]
    assert measure(call, runs("dcgan"), "--seed", 1)[1] == one
    assert measure(call, runs("dcgan"), "--seed", 2)[1]["frechet_distance"] != one["frechet_distance"]


def test_translations_are_held_against_the_mean_image(call, trained):
    outcome = call(evaluate, trained, "--output", "figures/metrics.json", "--device", "cpu")
    assert outcome.code == 0, outcome.err
    assert "AtoB: the mean training image gets 0." in outcome.out
    figures = json.loads(open("figures/metrics.json").read())  # noqa: SIM115
    assert figures["pairs"] == 64
    for direction in ("AtoB", "BtoA"):
        assert {"translation", "identity", "mean_image"} <= set(figures[direction])
        assert 0 < figures[direction]["mean_image"] < 0.5


def test_numbered_test_images_are_no_pairs_unless_that_is_said(call, tiny_train, images, tmp_path, caplog):
    for seed, folder in enumerate(("trainA", "trainB", "testA", "testB")):
        images(tmp_path / "data" / folder, sizes=[(16, 16)] * 3, seed=seed)
    small = ("--dataroot", "data", "--max-steps", 1)
    plain, told = (
        tiny_train(*small, "--name", name, *more) for name, *more in (("plain",), ("told", "--eval-pairs", 2))
    )
    assert plain.code == told.code == 0, plain.err + told.err
    assert "distance to the truth" not in plain.out and "no test pairs" in plain.out
    assert any("hold files of the same names" in record.getMessage() for record in caplog.records)
    assert "distance to the truth over 2 held-out pairs" in told.out
    outcome = call(evaluate, "checkpoints/plain", "--device", "cpu")
    assert outcome.code == 2 and "are pairs, --eval-pairs 64 says so" in outcome.err
    for run, more, pairs in (("plain", ("--eval-pairs", 1), 1), ("told", (), 3)):
        outcome = call(evaluate, f"checkpoints/{run}", *more, "--device", "cpu")
        assert outcome.code == 0 and f"over {pairs} held-out pairs" in outcome.out
    outcome = call(evaluate, "checkpoints/plain", "--eval-pairs", 0)
    assert outcome.code == 2 and "--eval-pairs is 0: it must be 1 or more" in outcome.err


def test_figures_of_training_are_kept_and_files_of_others_are_not_touched(call, runs, tmp_path):
    path = tmp_path / "metrics.json"
    path.write_text(json.dumps({"recipe": "dcgan", "step": 7, "generated": 1}))
    assert call(evaluate, runs("dcgan"), "--count", 50, "--output", path).code == 0
    assert json.loads(path.read_text())["step"] == 7 and json.loads(path.read_text())["generated"] == 50
    for content in ('{"recipe": "vae"}', "[1]", "text"):
        path.write_text(content)
        outcome = call(evaluate, runs("dcgan"), "--count", 50, "--output", path)
        assert outcome.code == 2 and "holds something else than figures of dcgan: give another --output" in outcome.err
        assert path.read_text() == content


def test_other_data_becomes_what_the_networks_take(call, runs, images, tmp_path):
    """Colours and another size, of a run on grey digits of 28 x 28."""
    for name in "ab":
        images(tmp_path / "letters" / name, sizes=((30, 30),) * 12)
    outcome = call(evaluate, runs("vae"), "--dataroot", "letters", "--count", 20, "--output", "figures.json")
    assert outcome.code == 0, outcome.err
    assert json.loads((tmp_path / "figures.json").read_text())["images"] == 2
    outcome = call(evaluate, runs("cvae"), "--dataroot", "letters", "--count", 20, "--output", "more.json")
    assert outcome.code == 2 and "cvae was trained on 10 classes and these images have 2" in outcome.err


def test_bad_requests_are_errors(call, runs, tmp_path):
    for arguments, said in (
        (("--count", "1"), "--count is 1: it must be 2 or more"),
        (("--seed", "-1"), "--seed: '-1' is not a whole number from 0 to"),
        (("--dataroot", "nowhere"), "nowhere is missing: it should hold IDX files"),
    ):
        outcome = call(evaluate, runs("dcgan"), *arguments)
        assert outcome.code == 2 and said in outcome.err and outcome.err.count("\n") == 1
    assert "example: python -m fastgan.evaluate" in call(evaluate, "--help").out
