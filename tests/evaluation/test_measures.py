"""What a finished run is measured by, against values worked out by hand."""

import pytest
import torch

from fastgan.evaluation.measures import accuracy, measure, reconstruction_mse


class Items(list):
    classes = 2


def items(levels):
    """Images of 1 x 2 x 2 of one level each, in [-1, 1], class 1 where the level is positive."""
    return Items({"image": torch.full((1, 2, 2), level), "label": torch.tensor(int(level > 0))} for level in levels)


class Told:
    """Rebuilds an image at half its level, and takes every image above -0.5 for class 1."""

    directions = ()
    encodes = True
    classes = 2

    def classify(self, images):
        return torch.stack([torch.zeros(len(images)), images.mean((1, 2, 3)) + 0.5], 1)

    def encode(self, images, labels=None):
        assert labels.tolist() == (images.mean((1, 2, 3)) > 0).long().tolist()
        return images.flatten(1)[:, :1]

    def decode(self, z, labels=None):
        return (z / 2)[:, :, None, None].expand(-1, 1, 2, 2)


def test_by_hand():
    test = items([-1.0, -0.2, 0.6, 1.0])
    assert accuracy(Told(), test, 4) == 0.75
    # Half of every level is missing: on the [0, 1] scale a quarter of it.
    expected = (1 + 0.04 + 0.36 + 1) / 16 / 4
    assert reconstruction_mse(Told(), test, 4) == pytest.approx(expected)
    figures, text = measure(Told(), test, limit=1000)
    assert figures == {"images": 4, "accuracy": 0.75, "reconstruction_mse": pytest.approx(expected)}
    assert "accuracy 75.00 % on 4 test images" in text and "0.0375 on 4 test images" in text


def test_a_limit_spreads_over_the_images():
    test = items([-1.0, -0.2, 0.6, 1.0])
    assert measure(Told(), test, limit=2)[0]["accuracy"] == 1.0  # the first and the third


def test_many_batches():
    test = items([-1.0, 0.6] * 300)
    assert accuracy(Told(), test, 600) == 1.0


def test_a_recipe_with_nothing_to_measure():
    class Plain:
        directions = ()

    assert measure(Plain(), items([1.0]), limit=10) is None
