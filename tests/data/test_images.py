import numpy as np
import pytest
import torch
from PIL import Image

from fastgan.data.images import (ImageError, image_size, make_grid, read_image, save_png, to_image, to_pixels,
                                 to_tensor)

from .common import picture, truncated_jpeg


def test_pixels_go_to_tensor_and_back_unchanged():
    pixels = torch.arange(256, dtype=torch.uint8).repeat(3).reshape(16, 16, 3)
    tensor = to_tensor(pixels)
    assert tensor.shape == (3, 16, 16) and tensor.dtype == torch.float32 and tensor.is_contiguous()
    assert tensor.min() == -1 and tensor.max() == 1
    assert torch.equal(to_pixels(to_image(tensor)), pixels)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_to_image_takes_any_float_dtype(dtype):
    image = to_image(torch.tensor([-1.0, 0.0, 1.0], dtype=dtype).reshape(1, 1, 3))
    assert image.mode == "L" and np.asarray(image).tolist() == [[0, 128, 255]]


def test_to_image_rounds_and_clamps_and_blackens_nan():
    values = torch.tensor([-1.5, -1 + 2 * 0.6 / 255, 2.0, float("nan"), float("inf")]).reshape(1, 1, 5)
    assert np.asarray(to_image(values)).tolist() == [[0, 1, 255, 0, 255]]


def test_to_image_refuses_other_shapes():
    with pytest.raises(ValueError, match=r"not \(2, 4, 4\)"):
        to_image(torch.zeros(2, 4, 4))


def test_save_png_and_read_image_are_inverse(tmp_path):
    tensor = to_tensor(to_pixels(picture()))
    save_png(tensor, tmp_path / "image.png")
    image, kind = read_image(tmp_path / "image.png")
    assert kind is None and torch.equal(to_tensor(to_pixels(image)), tensor)


def test_grey_becomes_three_equal_channels_and_rgb_one(tmp_path):
    picture().convert("L").save(tmp_path / "grey.png")
    image, kind = read_image(tmp_path / "grey.png")
    assert kind == "grey" and image.mode == "RGB"
    assert torch.equal(to_pixels(image)[..., 0], to_pixels(image)[..., 2])
    picture().save(tmp_path / "colour.png")
    image, kind = read_image(tmp_path / "colour.png", channels=1)
    assert kind is None and to_pixels(image).shape == (20, 24, 1)


def test_16_bit_grey_is_scaled_not_clipped(tmp_path):
    Image.fromarray(np.array([[0, 257 * 100, 65535]], dtype=np.uint16)).save(tmp_path / "deep.png")
    image, kind = read_image(tmp_path / "deep.png")
    assert kind == "16-bit grey" and to_pixels(image)[0, :, 0].tolist() == [0, 100, 255]


def test_palette_keeps_its_colours(tmp_path):
    image = Image.new("P", (2, 1))
    image.putpalette([255, 0, 0, 0, 0, 255])
    image.putpixel((1, 0), 1)
    image.save(tmp_path / "palette.png")
    image, kind = read_image(tmp_path / "palette.png")
    assert kind == "palette" and to_pixels(image)[0].tolist() == [[255, 0, 0], [0, 0, 255]]


def test_transparency_is_put_on_white(tmp_path):
    image = Image.new("RGBA", (3, 1), (0, 0, 0, 0))
    image.putpixel((1, 0), (10, 20, 30, 255))
    image.save(tmp_path / "icon.png")
    image, kind = read_image(tmp_path / "icon.png")
    assert kind == "RGB with transparency"
    assert to_pixels(image)[0].tolist() == [[255, 255, 255], [10, 20, 30], [255, 255, 255]]


def test_a_photo_on_its_side_is_turned_upright(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    picture((24, 20)).save(tmp_path / "photo.jpg", exif=exif)
    assert image_size(tmp_path / "photo.jpg") == (20, 24)
    assert read_image(tmp_path / "photo.jpg")[0].size == (20, 24)


def test_broken_files_are_named_with_the_reason(tmp_path):
    truncated_jpeg(tmp_path / "half.jpg", (200, 200))
    with pytest.raises(ImageError, match=r"half\.jpg: truncated$"):
        read_image(tmp_path / "half.jpg")
    (tmp_path / "text.png").write_text("not an image at all")
    for reader in (read_image, image_size):
        with pytest.raises(ImageError, match=r"text\.png: not an image$"):
            reader(tmp_path / "text.png")
        with pytest.raises(ImageError, match=r"gone\.png: No such file"):
            reader(tmp_path / "gone.png")
    Image.fromarray(np.ones((4, 4), dtype=np.float32)).save(tmp_path / "float.tif")
    with pytest.raises(ImageError, match="floating-point"):
        read_image(tmp_path / "float.tif")


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
        (4, 4)) == (255, 0, 0)


def test_grid_does_not_shrink_or_enlarge_large_images():
    assert make_grid([[torch.zeros(3, 200, 300)]], gap=1).size == (302, 202)


def test_an_empty_grid_is_an_error():
    with pytest.raises(ValueError, match="at least one image"):
        make_grid([[]])
