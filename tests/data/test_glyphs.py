import hashlib
import time

import numpy as np
import pytest

from fastgan.data.synthetic.glyphs import CLASSES, SIZE, glyphs


def test_glyphs_are_the_same_every_time_and_everywhere():
    images, labels = glyphs("train", 200)
    again, labels_again = glyphs("train", 200)
    assert (images == again).all() and (labels == labels_again).all()
    assert labels[:20].tolist() == [7, 5, 8, 3, 4, 0, 9, 1, 2, 6, 2, 8, 9, 6, 7, 5, 4, 1, 3, 0]
    # Roundings of another processor may move a pixel by a level: the means of 7x7 pixels are the same on all of them.
    coarse = images[3].reshape(4, 7, 4, 7).mean(axis=(1, 3))
    expected = [[3.7, 79.6, 61.7, 3.3], [3.4, 65.7, 67.5, 3.9], [8.5, 61.7, 98.4, 3.7], [3.5, 41.5, 4.0, 3.4]]
    assert np.abs(coarse - expected).max() < 0.5


def test_a_longer_set_begins_with_a_shorter_one():
    images, labels = glyphs("train", 1000)
    for count in (1, 7, 123):
        some, some_labels = glyphs("train", count)
        assert (some == images[:count]).all() and (some_labels == labels[:count]).all()


def test_every_ten_hold_each_class_once():
    images, labels = glyphs("test", 100)
    assert images.shape == (100, SIZE, SIZE) and images.dtype == np.uint8 and labels.dtype == np.int64
    assert (np.sort(labels.reshape(10, 10), axis=1) == np.arange(CLASSES)).all()
    assert len({tuple(ten) for ten in labels.reshape(10, 10).tolist()}) > 1, "always in the same order"


def test_splits_and_glyphs_differ():
    train, test = glyphs("train", 500)[0], glyphs("test", 500)[0]
    seen = {hashlib.sha256(image.tobytes()).digest() for image in np.concatenate([train, test])}
    assert len(seen) == 1000


def test_strokes_stay_inside_and_differ_in_place_thickness_and_slant():
    images, labels = glyphs("train", 2000)
    ink = np.where(images > 64, images, 0).astype(float)
    border = np.concatenate([ink[:, 0], ink[:, -1], ink[:, :, 0], ink[:, :, -1]], axis=1)
    assert (border.max(axis=1) > 0).mean() < 0.02, "glyphs are cut off"
    y, x = np.mgrid[:SIZE, :SIZE]
    mass = ink.sum(axis=(1, 2))
    for label in range(CLASSES):
        own = ink[labels == label]
        weight = mass[labels == label]
        cx, cy = (own * x).sum(axis=(1, 2)) / weight, (own * y).sum(axis=(1, 2)) / weight
        slant = (own * (x - cx[:, None, None]) * (y - cy[:, None, None])).sum(axis=(1, 2)) / weight
        assert cx.std() > 0.8 and cy.std() > 0.8, "place"
        assert weight.std() / weight.mean() > 0.2, "thickness"
        assert slant.std() > 0.5, "slant"
    assert 0 < images[:, 0].std() < 10, "noise"


def test_classes_can_be_told_apart_but_not_by_one_template():
    """The nearest of 2,000 neighbours names most glyphs; the nearest class mean leaves one in seven and more wrong."""
    train, train_labels = glyphs("train", 2000)
    test, test_labels = glyphs("test", 300)
    train, test = (images.reshape(len(images), -1).astype(np.float32) for images in (train, test))

    def accuracy(templates, labels):
        distance = (templates**2).sum(axis=1) - 2 * test @ templates.T
        return (labels[distance.argmin(axis=1)] == test_labels).mean()

    means = np.stack([train[train_labels == label].mean(axis=0) for label in range(CLASSES)])
    nearest, template = accuracy(train, train_labels), accuracy(means, np.arange(CLASSES))
    assert nearest > 0.9 > 0.86 > template > 0.3, (nearest, template)


def test_any_size():
    images, _ = glyphs("test", 20, 64)
    small, _ = glyphs("test", 20, 32)
    assert images.shape == (20, 64, 64)
    assert np.abs(images.reshape(20, 32, 2, 32, 2).mean(axis=(2, 4)) - small).mean() < 6


def test_ten_thousand_take_no_time():
    began = time.process_time()
    glyphs("train", 10_000)
    assert time.process_time() - began < 5


def test_bad_requests_are_errors():
    with pytest.raises(ValueError, match="no split 'val': choose train or test"):
        glyphs("val", 10)
    with pytest.raises(ValueError, match="0 glyphs of 28x28"):
        glyphs("test", 0)
