import math

import numpy as np
import pytest
import torch
from PIL import Image

from fastgan.data import DataOptions, open_dataset
from fastgan.data.synthetic import shapes as drawn
from fastgan.data.synthetic.shapes import GROUND, STROKE, Scenes, Shape, render, scene


def test_scenes_are_the_same_every_time():
    one, other = (Scenes("B", "train", count=3, size=32) for _ in range(2))
    assert all(torch.equal(one.load(index), other.load(index)) for index in range(3))
    assert scene("shapes/test/0") == scene("shapes/test/0") != scene("shapes/test/1")


def test_training_domains_and_test_set_show_different_scenes():
    train = open_dataset("unaligned", DataOptions(load_size=32, crop_size=32))
    assert len(train.A) == len(train.B) == drawn.TRAIN_SCENES
    shapes = [scene(f"shapes/{name}/{index}") for name in ("trainA", "trainB", "test") for index in range(200)]
    assert len(set(shapes)) == len(shapes)


def test_shapes_are_whole_apart_enough_and_of_different_colours():
    for index in range(300):
        shapes = scene(f"shapes/test/{index}")
        assert drawn.FEWEST <= len(shapes) <= drawn.MOST
        assert len({shape.colour for shape in shapes}) == len(shapes)
        for number, shape in enumerate(shapes):
            assert shape.radius <= min(shape.x, shape.y) and max(shape.x, shape.y) <= 1 - shape.radius
            assert all(
                math.hypot(shape.x - other.x, shape.y - other.y) > shape.radius + other.radius
                for other in shapes[:number]
            )


@pytest.mark.parametrize("size", [64, 65, 128, 256])
def test_a_disc_is_filled_in_a_and_a_ring_in_b(size):
    disc = Shape(0.5, 0.5, 0.3, 1, 0.0, (200, 100, 50))
    filled, outlined = (render((disc,), domain, size).astype(float) for domain in "AB")
    assert filled.shape == (size, size, 3)
    middle = size // 2
    assert tuple(filled[middle, middle]) == (200, 100, 50) and tuple(outlined[middle, middle]) == GROUND
    edge = middle + int((0.3 - STROKE / 2) * size)
    assert tuple(outlined[middle, edge]) == (200, 100, 50) and tuple(filled[0, 0]) == tuple(outlined[0, 0]) == GROUND
    covered = [(image[..., 0] - GROUND[0]).sum() / (200 - GROUND[0]) / size**2 for image in (filled, outlined)]
    assert covered[0] == pytest.approx(math.pi * 0.3**2, rel=0.01)
    assert covered[1] == pytest.approx(math.pi * (0.3**2 - (0.3 - STROKE) ** 2), rel=0.01)
    assert len(np.unique(filled[..., 0])) > 10, "edges are anti-aliased"


@pytest.mark.parametrize("corners", [1, 2, 3, 4, 5, 6])
def test_every_form_has_an_inside_and_an_outline_that_add_up(corners):
    shape = Shape(0.5, 0.5, drawn.RADII[0], corners, 0.4, (255, 255, 255))
    filled, outlined = (render((shape,), domain, 64)[..., 0] for domain in "AB")
    assert filled[32, 32] == 255 and outlined[32, 32] == GROUND[0]
    assert (filled >= outlined).all()
    rows, columns = np.nonzero(filled > GROUND[0])
    reach = np.hypot(rows + 0.5 - 32, columns + 0.5 - 32).max() / 64
    assert reach == pytest.approx(shape.radius, abs=0.03)


def test_sizes_show_the_same_scene():
    shapes = scene("shapes/test/3")
    large = Image.fromarray(render(shapes, "A", 256)).resize((64, 64), Image.Resampling.BOX)
    assert np.abs(np.asarray(large, dtype=float) - render(shapes, "A", 64)).mean() < 1


def test_pairs_are_the_same_scene_in_both_domains():
    held_out = open_dataset("aligned", DataOptions(load_size=32, crop_size=32), "test")
    for index in range(3):
        for domain in "AB":
            truth = torch.from_numpy(render(scene(f"shapes/test/{index}"), domain, 32)).permute(2, 0, 1) / 127.5 - 1
            torch.testing.assert_close(held_out[index][domain], truth)


def test_the_truth_is_not_a_map_of_colours():
    """No function of a pixel's colour, affine or not, comes nearer to the truth than half the identity's distance."""
    held_out = open_dataset("aligned", DataOptions(load_size=64, crop_size=64), "test")
    images = {domain: torch.stack([held_out[index][domain] for index in range(8)]) for domain in "AB"}
    identity = (images["A"] - images["B"]).abs().mean()
    assert identity > 0.1, "domains that hardly differ teach nothing"
    for source, target in ("AB", "BA"):
        levels = ((images[source] + 1) * 127.5).round().long()
        best = 0.0
        for channel in range(3):
            at_level, truth = levels[:, channel].flatten(), images[target][:, channel].flatten()
            for level in at_level.unique():
                values = truth[at_level == level]
                best += (values - values.median()).abs().sum().item()
        assert best / images[source].numel() > identity / 2


def test_training_pairs_show_scenes_of_their_own():
    aligned = open_dataset("aligned", DataOptions(load_size=32, crop_size=32, preprocess="none"))
    assert len(aligned) == drawn.TRAIN_SCENES
    for index in (0, 999):
        for name, source in (("A", aligned.A), ("B", aligned.B)):
            assert (source.load(index).numpy() == render(scene(f"shapes/train/{index}"), name, 32)).all()


def test_channels():
    colour, grey, clear = (Scenes("A", "test", count=1, size=16, channels=channels).load(0) for channels in (3, 1, 4))
    assert grey.shape == (16, 16, 1) and torch.equal(clear[..., :3], colour) and (clear[..., 3] == 255).all()
    with pytest.raises(ValueError, match="asked for with 5 channels: it is drawn with 3"):
        Scenes("A", "test", count=1, size=16, channels=5)


@pytest.mark.parametrize("preprocess", ["resize_and_crop", "crop", "scale_width", "scale_width_and_crop", "none"])
@pytest.mark.parametrize("split", ["train", "test"])
def test_every_preprocess_serves(preprocess, split):
    data = DataOptions(load_size=38, crop_size=32, preprocess=preprocess)
    side = 32 if preprocess.endswith("crop") else 40 if preprocess == "none" else 38
    assert open_dataset("unaligned", data, split)[0]["A"].shape == (3, side, side)


def test_bad_requests_are_errors():
    with pytest.raises(ValueError, match="no domain 'C': choose from A, B"):
        Scenes("C", "train", count=1, size=8)
    with pytest.raises(ValueError, match="no split 'val': choose train or test"):
        Scenes("A", "val", count=1, size=8)
    with pytest.raises(ValueError, match="0 images of 8x8"):
        Scenes("A", "test", count=0, size=8)
    with pytest.raises(ValueError, match="the built-in set is 64x64, smaller than the crop of 128x128"):
        open_dataset("unaligned", DataOptions(load_size=64, crop_size=128, preprocess="crop"))
