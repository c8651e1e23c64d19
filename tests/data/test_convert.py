import numpy as np
import pytest
from PIL import Image

from fastgan.data.convert import convert, deepen, resize


def random_pixels(channels, dtype=np.uint8):
    return np.random.default_rng(0).integers(0, np.iinfo(dtype).max, (9, 7, channels), dtype=dtype, endpoint=True)


@pytest.mark.parametrize("there", [1, 2, 3, 4])
@pytest.mark.parametrize("wanted", [1, 2, 3, 4])
def test_8_bits_are_converted_as_pillow_does(there, wanted):
    modes = ("L", "LA", "RGB", "RGBA")
    pixels = random_pixels(there)
    image = Image.fromarray(pixels[..., 0] if there == 1 else pixels)
    if there in (2, 4) and wanted in (1, 3):
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image.convert("RGBA"))
    expected = np.asarray(image.convert(modes[wanted - 1])).reshape(9, 7, wanted).astype(int)
    assert np.abs(convert(pixels, wanted).astype(int) - expected).max() <= (there in (2, 4) and wanted in (1, 3))


@pytest.mark.parametrize("there", [1, 2, 3, 4])
@pytest.mark.parametrize("wanted", [1, 2, 3, 4])
def test_16_bits_are_converted_as_8_are(there, wanted):
    pixels = random_pixels(there)
    converted = convert(deepen(pixels), wanted)
    assert converted.dtype == np.uint16 and converted.shape == (9, 7, wanted)
    assert np.abs(converted / 257 - convert(pixels, wanted)).max() <= 1
    assert (converted[..., -1] == 65535).all() or there in (2, 4) or wanted in (1, 3)


def test_other_numbers_of_channels_stay_what_they_are():
    pixels = random_pixels(6)
    assert convert(pixels, 6) is pixels
    for there, wanted in ((6, 3), (3, 6)):
        with pytest.raises(ValueError, match=f"has {there} channels, and {wanted} are wanted"):
            convert(random_pixels(there), wanted)


@pytest.mark.parametrize("channels", [1, 3, 4, 6])
def test_every_channel_is_resized_by_itself_with_pillows_bicubic(channels):
    pixels = random_pixels(channels) // 2 + 64  # nothing overshoots, which 8 bits would clamp between the two passes
    resized = resize(pixels, (12, 5))
    deep = resize(deepen(pixels), (12, 5))
    assert resized.shape == deep.shape == (5, 12, channels) and deep.dtype == np.uint16
    for band in range(channels):
        expected = np.asarray(Image.fromarray(pixels[..., band]).resize((12, 5), Image.Resampling.BICUBIC))
        assert (resized[..., band] == expected).all()
        assert np.abs(deep[..., band] / 257 - expected).max() <= 1.25, "8 bits are rounded twice"
    assert resize(pixels, (7, 9)) is pixels


def test_deepen():
    assert deepen(np.array([0, 1, 255], np.uint8)).tolist() == [0, 257, 65535]
    assert deepen(np.array([7], np.uint16)).tolist() == [7]
