import random

import numpy as np
import pytest
import torch
from PIL import Image

from fastgan.data import DataOptions
from fastgan.data.images import to_tensor
from fastgan.data.transforms import Transform

from .common import picture


def transform(preprocess, load_size=32, crop_size=16, split="train", flip=True):
    return Transform.of(DataOptions(preprocess=preprocess, load_size=load_size, crop_size=crop_size, flip=flip), split)


@pytest.mark.parametrize(
    "preprocess, resized, result",
    [
        ("resize_and_crop", (32, 32), (16, 16)),
        ("crop", (50, 40), (16, 16)),
        ("scale_width", (32, 25), (32, 25)),
        ("scale_width_and_crop", (32, 25), (16, 16)),
        ("none", (52, 40), (52, 40)),
    ],
)
def test_sizes(preprocess, resized, result):
    steps = transform(preprocess)
    size = (51, 40) if preprocess == "none" else (50, 40)
    pixels = steps.resize(np.array(picture(size)))
    assert steps.resized(*size) == resized == (pixels.shape[1], pixels.shape[0])
    tensor = steps(torch.from_numpy(pixels), random.Random(0))
    assert steps.result(*size) == result == (tensor.shape[2], tensor.shape[1])


def test_the_resize_is_pillows_bicubic():
    image = picture((50, 40), 3)
    expected = np.asarray(image.resize((32, 32), Image.Resampling.BICUBIC))
    assert (transform("resize_and_crop").resize(np.array(image)) == expected).all()


def test_scale_width_keeps_an_image_of_the_right_width_and_never_falls_below_the_crop():
    steps = transform("scale_width")
    assert steps.resized(32, 400) == (32, 400)
    assert steps.resized(320, 40) == (32, 16)


def test_crops_reach_every_place_and_flips_are_half():
    steps = transform("crop", crop_size=16)
    pixels = torch.from_numpy(np.array(picture((18, 17))))
    places, flips = set(), 0
    for seed in range(400):
        crop = steps(pixels, random.Random(seed))
        flipped = bool(crop[0, 0, 0] > crop[0, 0, -1])
        flips += flipped
        crop = crop.flip(-1) if flipped else crop
        places.add((round(crop[0, 0, 0].item(), 4), round(crop[1, 0, 0].item(), 4)))
    assert len(places) == 3 * 2
    assert 150 < flips < 250


def test_no_flip():
    steps = transform("crop", flip=False)
    pixels = torch.from_numpy(np.array(picture((16, 16))))
    assert all(torch.equal(steps(pixels, random.Random(seed)), to_tensor(pixels)) for seed in range(10))


def test_test_images_are_whole_and_not_random():
    steps = transform("resize_and_crop", split="test")
    image = picture((50, 40))
    resized = torch.from_numpy(steps.resize(np.array(image)))
    outputs = [steps(resized, random.Random(seed)) for seed in range(5)]
    assert all(torch.equal(output, outputs[0]) for output in outputs)
    expected = np.array(image.resize((16, 16), Image.Resampling.BICUBIC))
    assert torch.equal(outputs[0], to_tensor(torch.from_numpy(expected)))


def test_test_crops_are_central():
    pixels = torch.from_numpy(np.array(picture((20, 18))))
    crop = transform("crop", split="test")(pixels, random.Random(1))
    assert torch.equal(crop, to_tensor(pixels[1:17, 2:18]))


def test_a_crop_larger_than_the_image_is_named_with_the_remedy():
    with pytest.raises(ValueError) as caught:
        transform("crop", crop_size=64).check(50, 40, "trainA/small.png")
    assert str(caught.value) == (
        "trainA/small.png is 50x40, smaller than the crop of 64x64: give "
        "--crop-size 40 or less, or --preprocess resize_and_crop"
    )
    transform("scale_width_and_crop").check(50, 4, "wide.png")
    transform("none", crop_size=64).check(50, 40, "any.png")
