import time

import pytest
import torch

from fastgan.data import DataOptions, open_dataset
from fastgan.evaluation import classifier
from fastgan.evaluation.classifier import cache_folder, classifier_of


@pytest.fixture(scope="module")
def glyphs():
    train = open_dataset("labelled", DataOptions(max_dataset_size=1500))
    test = open_dataset("labelled", DataOptions(), "test")
    return train.images(), train.labels, test.images(0, 500), test.labels[:500]


def test_it_learns_and_is_kept(glyphs, tmp_path, monkeypatch):
    images, labels, test_images, test_labels = glyphs
    before = torch.get_rng_state()
    judge = classifier_of(images, labels, 10, cache=tmp_path / "new")
    assert torch.equal(before, torch.get_rng_state())
    features, seen = judge.judge(test_images)
    assert features.shape == (500, classifier.FEATURES) and (seen == test_labels).double().mean() > 0.95

    def no_training(*arguments):
        raise AssertionError("trained again")

    monkeypatch.setattr(classifier, "_train", no_training)
    again = classifier_of(images, labels, 10, cache=tmp_path / "new")
    assert torch.equal(again.judge(test_images)[0], features)
    for other in ((images + 0.01, labels, 10), (images, labels.roll(1), 10), (images, labels, 11)):
        with pytest.raises(AssertionError, match="trained again"):
            classifier_of(*other, cache=tmp_path / "new")


def test_the_same_images_give_the_same_classifier(glyphs, tmp_path):
    images, labels = glyphs[0][:200], glyphs[1][:200]
    one, other = (classifier_of(images, labels, 10, cache=tmp_path / name) for name in "ab")
    assert all(torch.equal(a, b) for a, b in zip(one.state_dict().values(), other.state_dict().values()))


def test_a_damaged_or_impossible_cache_is_no_hindrance(glyphs, tmp_path):
    images, labels = glyphs[0][:100], glyphs[1][:100]
    expected = classifier_of(images, labels, 10, cache=tmp_path)
    (kept,) = tmp_path.iterdir()
    kept.write_bytes(kept.read_bytes()[:500])
    (tmp_path / "file").write_text("")
    for folder in (tmp_path, tmp_path / "file" / "below"):
        found = classifier_of(images, labels, 10, cache=folder)
        assert torch.equal(found.head.weight, expected.head.weight)
    assert kept.stat().st_size > 500


def test_where_it_is_kept(monkeypatch, tmp_path):
    monkeypatch.setenv("FASTGAN_CACHE", str(tmp_path / "own"))
    assert cache_folder() == tmp_path / "own"
    monkeypatch.delenv("FASTGAN_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert cache_folder() == tmp_path / "fastgan"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert cache_folder() == tmp_path / ".cache" / "fastgan"


def test_what_no_classifier_can_judge_is_an_error(tmp_path):
    for images, classes in ((torch.zeros(4, 1, 8, 8), 1), (torch.zeros(4, 1, 8, 9), 3), (torch.zeros(4, 1, 2, 2), 3)):
        with pytest.raises(ValueError, match="judged by a classifier, and .* make none: it needs two classes"):
            classifier_of(images, torch.zeros(4).long(), classes, cache=tmp_path)


def test_any_channels_and_size(tmp_path):
    began = time.process_time()
    images = torch.randn(40, 5, 17, 17, generator=torch.Generator().manual_seed(0)).clamp(-1, 1)
    judge = classifier_of(images, torch.arange(40) % 2, 2, cache=tmp_path)
    assert judge.judge(images)[1].shape == (40,) and time.process_time() - began < 10
