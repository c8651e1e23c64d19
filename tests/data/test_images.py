import numpy as np
import pytest
import torch

from fastgan.data.images import MOST_PIXELS, grid_holds, make_grid, to_image, to_pixels, to_tensor


@pytest.mark.parametrize("dtype, levels", [(torch.uint8, 256), (torch.uint16, 65536)])
def test_pixels_go_to_tensor_and_back_unchanged(dtype, levels):
    pixels = torch.arange(levels).reshape(16, -1, 1).expand(-1, -1, 3).to(dtype)
    tensor = to_tensor(pixels)
    assert tensor.shape == (3, 16, levels // 16) and tensor.dtype == torch.float32 and tensor.is_contiguous()
    assert tensor.min() == -1 and tensor.max() == 1
    back = to_pixels(tensor, deep=dtype == torch.uint16)
    assert back.dtype == dtype and torch.equal(back, pixels)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_to_image_takes_any_float_dtype(dtype):
    image = to_image(torch.tensor([-1.0, 0.0, 1.0], dtype=dtype).reshape(1, 1, 3))
    assert image.mode == "L" and np.asarray(image).tolist() == [[0, 128, 255]]


@pytest.mark.parametrize("deep, one", [(False, 1), (True, 154)])
def test_pixels_are_rounded_and_clamped_and_nan_is_black(deep, one):
    values = torch.tensor([-1.5, -1 + 2 * 0.6 / 255, 2.0, float("nan"), float("inf")]).reshape(1, 1, 5)
    most = 65535 if deep else 255
    assert to_pixels(values, deep=deep).flatten().tolist() == [0, one, most, 0, most]


@pytest.mark.parametrize("channels, mode", [(1, "L"), (2, "LA"), (3, "RGB"), (4, "RGBA")])
def test_modes_of_images(channels, mode):
    tensor = to_tensor(torch.arange(48, dtype=torch.uint8).reshape(3, 4, 4)[..., :channels])
    image = to_image(tensor)
    assert image.mode == mode and image.size == (4, 3)
    assert np.array_equal(np.asarray(image).reshape(3, 4, channels), to_pixels(tensor))


def test_to_image_refuses_other_shapes():
    with pytest.raises(ValueError, match=r"not \(5, 4, 4\)"):
        to_image(torch.zeros(5, 4, 4))


def test_grid_places_images_captions_and_labels():
    red, blue = (torch.full((3, 64, 64), -1.0) for _ in range(2))
    red[0], blue[2] = 1, 1
    grey = torch.zeros(1, 64, 64)
    plain = make_grid([[red, blue], [grey]], gap=4, least=128)
    assert plain.size == (4 + 2 * 132, 4 + 2 * 132)
    assert plain.getpixel((4, 4)) == (255, 0, 0) and plain.getpixel((4 + 132, 4 + 127)) == (0, 0, 255)
    assert plain.getpixel((10, 140)) == (128, 128, 128)
    assert plain.getpixel((140, 140)) == (255, 255, 255), "a shorter row leaves its last cell empty"
    captioned = make_grid([[red, blue], [grey]], columns=("real", "fake"), labels=("one", "two"))
    assert captioned.width > plain.width and captioned.height > plain.height
    assert captioned.crop((captioned.width - plain.width, captioned.height - plain.height, *captioned.size)).getpixel(
        (4, 4)
    ) == (255, 0, 0)


def test_grid_does_not_shrink_or_enlarge_large_images():
    assert make_grid([[torch.zeros(3, 200, 300)]], gap=1).size == (302, 202)


def test_an_empty_grid_is_an_error():
    with pytest.raises(ValueError, match="at least one image"):
        make_grid([[]])


def test_a_grid_shows_the_first_three_of_many_channels():
    red = torch.full((5, 64, 64), -1.0)
    red[0] = 1
    assert make_grid([[red]], gap=4).getpixel((4, 4)) == (255, 0, 0)


def test_lines_under_images():
    tensor = torch.zeros(1, 64, 64)
    plain = make_grid([[tensor, tensor], [tensor]])
    lined = make_grid([[tensor, tensor], [tensor]], captions=[["0.1", "0.2"], ["0.3"]])
    assert lined.width == plain.width and lined.height > plain.height
    under = (lined.height - plain.height) // 2
    line = np.asarray(lined.convert("L"))[4 + 128 : 4 + 128 + under]
    assert line[:, 4:132].min() < 128 and line[:, 136:264].min() < 128
    last = np.asarray(lined.convert("L"))[-under:]
    assert last[:, 4:132].min() < 128 and last[:, 136:264].min() == 255, "a shorter row has fewer lines"


@pytest.mark.parametrize("side", [28, 64, 100])
def test_a_grid_of_all_that_it_holds_has_as_many_pixels(side, monkeypatch):
    monkeypatch.setattr("fastgan.data.images.MOST_PIXELS", MOST_PIXELS // 100)
    columns = int(grid_holds(side, least=64) ** 0.5)
    width, height = make_grid([[torch.zeros(1, side, side)] * columns] * columns, least=64).size
    assert 0.7 * MOST_PIXELS < 100 * width * height < 1.1 * MOST_PIXELS
