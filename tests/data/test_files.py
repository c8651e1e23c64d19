import struct
import tracemalloc
import zlib

import numpy as np
import pytest
import tifffile
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, ImageFile

from fastgan.data.files import Header, ImageError, decode, read_header, read_pixels, save_image, suffix_for, suffixes
from fastgan.data.images import to_pixels, to_tensor

from .common import picture, truncated_jpeg


def random_pixels(shape, dtype=np.uint16, seed=0):
    return np.random.default_rng(seed).integers(0, np.iinfo(dtype).max, shape, dtype=dtype, endpoint=True)


def write_tiff(
    path,
    pixels,
    *,
    order="<",
    compress=False,
    planar=False,
    predictor=False,
    tiled=False,
    sample_format=1,
    orientation=1,
):
    """A TIFF file as the standard describes it, two rows of pixels to a strip."""
    height, width, channels = pixels.shape
    values = pixels.astype(pixels.dtype.newbyteorder(order))
    if predictor:
        values = np.concatenate([pixels[:, :1], np.diff(pixels, axis=1)], axis=1).astype(values.dtype)
    planes = [values[..., band] for band in range(channels)] if planar else [values]
    strips = [plane[row : row + 2].tobytes() for plane in planes for row in range(0, height, 2)]
    strips = [zlib.compress(strip) if compress else strip for strip in strips]
    tags = {
        256: [width],
        257: [height],
        258: [8 * pixels.itemsize] * channels,
        259: [8 if compress else 1],
        262: [1],
        274: [orientation],
        277: [channels],
        278: [2],
        284: [2 if planar else 1],
        317: [2 if predictor else 1],
        339: [sample_format] * channels,
        (324 if tiled else 273): None,
        (325 if tiled else 279): None,
    }
    start = 8 + 2 + 12 * len(tags) + 4
    extra = b""
    offsets_at = []

    def place(values):
        nonlocal extra
        body = struct.pack(f"{order}{len(values)}I", *values)
        if len(values) == 1:
            return body
        extra += body
        return struct.pack(f"{order}I", start + len(extra) - len(body))

    lengths = [len(strip) for strip in strips]
    data_at = start + sum(4 * len(values) for values in tags.values() if values and len(values) > 1)
    data_at += 8 * len(strips) if len(strips) > 1 else 0
    offsets_at = [data_at + sum(lengths[:number]) for number in range(len(strips))]
    entries = b""
    for tag, values in sorted(tags.items()):
        values = {273: offsets_at, 324: offsets_at, 279: lengths, 325: lengths}.get(tag, values)
        entries += struct.pack(f"{order}HHI", tag, 4, len(values)) + place(values)
    path.write_bytes(
        {"<": b"II*\0", ">": b"MM\0*"}[order]
        + struct.pack(f"{order}IH", 8, len(tags))
        + entries
        + struct.pack(f"{order}I", 0)
        + extra
        + b"".join(strips)
    )


def png(rows, depth=16, kind=2, interlaced=0, before=(), after=()):
    """A PNG file of filtered rows [(filter, bytes), ...], 3 channels wide, with chunks before and after its pixels."""
    width = len(rows[0][1]) * 8 // (3 * depth)
    chunks = (
        (b"IHDR", struct.pack(">IIBBBBB", width, len(rows), depth, kind, 0, 0, interlaced)),
        *before,
        (b"IDAT", zlib.compress(b"".join(bytes([number]) + body for number, body in rows))),
        *after,
        (b"IEND", b""),
    )
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body)) for name, body in chunks
    )


def test_save_and_read_are_inverse(tmp_path):
    pixels = torch.from_numpy(np.array(picture()))
    save_image(to_tensor(pixels), tmp_path / "image.png")
    read, kind = read_pixels(tmp_path / "image.png")
    assert kind is None and torch.equal(read, pixels)
    assert Image.open(tmp_path / "image.png").mode == "RGB"


@pytest.mark.parametrize("channels", [1, 2, 3, 4])
@pytest.mark.parametrize("shape", [(7, 5), (1, 1), (1, 9), (9, 1)])
def test_16_bits_are_written_and_read_back(tmp_path, channels, shape):
    pixels = torch.from_numpy(random_pixels((*shape, channels)))
    save_image(to_tensor(pixels), tmp_path / "deep.png", deep=True)
    read, kind = read_pixels(tmp_path / "deep.png", channels)
    assert kind is None and read.dtype == torch.uint16 and torch.equal(read, pixels)
    assert read_header(tmp_path / "deep.png") == Header(shape[1], shape[0], channels, True)
    with Image.open(tmp_path / "deep.png") as image:  # another reader, which keeps the upper byte of each value
        image.load()
        assert image.size == (shape[1], shape[0])
        if channels > 1:
            assert np.array_equal(
                np.asarray(image.convert(("L", "LA", "RGB", "RGBA")[channels - 1])).reshape(-1),
                (pixels.numpy() >> 8).reshape(-1),
            )


def reference_unfilter(rows, size):
    """PNG specification, section 9.2, byte by byte."""
    done, above = [], [0] * len(rows[0][1])
    for kind, body in rows:
        line = []
        for position, value in enumerate(body):
            a = line[position - size] if position >= size else 0
            b = above[position]
            c = above[position - size] if position >= size else 0
            p = a + b - c
            paeth = min((abs(p - a), 0, a), (abs(p - b), 1, b), (abs(p - c), 2, c))[2]
            line.append((value + (0, a, b, (a + b) // 2, paeth)[kind]) % 256)
        done.append(line)
        above = line
    return done


@given(filters=st.lists(st.integers(0, 4), min_size=1, max_size=6), width=st.integers(1, 5), seed=st.integers(0, 99))
def test_every_filter_of_png(tmp_path_factory, filters, width, seed):
    generator = np.random.default_rng(seed)
    rows = [(kind, generator.integers(0, 256, 6 * width, dtype=np.uint8).tobytes()) for kind in filters]
    path = tmp_path_factory.mktemp("png") / "deep.png"
    path.write_bytes(png(rows))
    expected = np.array(reference_unfilter(rows, 6), dtype=np.uint8).view(">u2").reshape(len(rows), width, 3)
    assert np.array_equal(read_pixels(path)[0].numpy(), expected)


def test_faults_of_deep_png_files_are_named(tmp_path):
    content = png([(1, bytes(range(12)))] * 2)
    path = tmp_path / "deep.png"

    def fails(content, said):
        path.write_bytes(content)
        with pytest.raises(ImageError, match=rf"deep\.png: {said}"):
            read_pixels(path)

    fails(content[:-14], "truncated$")
    fails(content[:60] + b"?" + content[61:], "damaged: IDAT: ")
    fails(png([(7, bytes(12))]), "damaged: bad adaptive filter value$")


def test_interlaced_png_files_keep_16_bits(tmp_path):
    """Of 2x2 pixels three passes (PNG, section 8.2) have any: the first one, the one on its right, the row below."""
    pixels = random_pixels((2, 2, 3))
    big = pixels.astype(">u2")
    passes = b"".join(b"\0" + part.tobytes() for part in (big[0, 0], big[0, 1], big[1]))
    chunks = (
        (b"IHDR", struct.pack(">IIBBBBB", 2, 2, 16, 2, 0, 0, 1)),
        (b"IDAT", zlib.compress(passes)),
        (b"IEND", b""),
    )
    (tmp_path / "a.png").write_bytes(
        b"\x89PNG\r\n\x1a\n"
        + b"".join(struct.pack(">I", len(b)) + n + b + struct.pack(">I", zlib.crc32(n + b)) for n, b in chunks)
    )
    assert np.array_equal(read_pixels(tmp_path / "a.png")[0].numpy(), pixels)


def test_a_transparent_colour_of_16_bits_is_a_channel(tmp_path):
    pixels = random_pixels((1, 3, 3))
    clear = pixels[0, 1].astype(">u2").tobytes()
    (tmp_path / "a.png").write_bytes(png([(0, pixels[0].astype(">u2").tobytes())], before=[(b"tRNS", clear)]))
    assert read_header(tmp_path / "a.png") == Header(3, 1, 4, True)
    read = read_pixels(tmp_path / "a.png", 4)[0].numpy()
    assert np.array_equal(read[..., :3], pixels) and read[0, :, 3].tolist() == [65535, 0, 65535]


@pytest.mark.parametrize("dtype, channels", [(np.uint8, 5), (np.uint8, 8), (np.uint16, 3), (np.uint16, 5)])
@pytest.mark.parametrize(
    "options",
    [{}, {"order": ">"}, {"compress": True, "predictor": True}, {"planar": True, "compress": True, "order": ">"}],
)
def test_tiff_files_of_many_channels_or_bits(tmp_path, dtype, channels, options):
    pixels = random_pixels((5, 7, channels), dtype)
    path = tmp_path / "bands.tif"
    write_tiff(path, pixels, **options)
    read, kind = read_pixels(path, channels)
    assert kind is None and np.array_equal(read.numpy(), pixels)
    assert read_header(path) == Header(7, 5, channels, dtype == np.uint16)


def test_faults_of_tiff_files_are_named(tmp_path):
    pixels = random_pixels((4, 4, 5))
    path = tmp_path / "bands.tif"

    def fails(said):
        with pytest.raises(ImageError, match=rf"bands\.tif: {said}"):
            read_pixels(path, 5)

    write_tiff(path, pixels)
    path.write_bytes(path.read_bytes()[:-3])
    fails("truncated$")
    tifffile.imwrite(path, pixels, compression="jpeg2000", photometric="minisblack", planarconfig="contig")
    fails("a TIFF of 5 channels of uint16 numbers is read uncompressed, or packed by LZW, deflate, PackBits, LZMA or")
    write_tiff(path, pixels, sample_format=5)
    fails("a TIFF of 5 channels is read with 8, 16, 32 or 64 bits in each, whole numbers or floating-point$")
    tifffile.imwrite(path, pixels[..., :4], photometric="separated", planarconfig="contig")
    fails("a TIFF of 4 channels of uint16 numbers is grey or RGB, not SEPARATED$")
    write_tiff(path, pixels)
    with pytest.raises(ImageError, match="it has 5 channels, and 3 are wanted: only 1"):
        read_pixels(path, 3)


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
@pytest.mark.parametrize("channels", [1, 3, 6])
def test_arrays(tmp_path, dtype, channels):
    pixels = random_pixels((4, 6, channels), dtype)
    path = tmp_path / "array.npy"
    np.save(path, pixels)
    read, kind = read_pixels(path, channels)
    assert kind is None and np.array_equal(read.numpy(), pixels)
    assert read_header(path) == Header(6, 4, channels, dtype == np.uint16)
    save_image(to_tensor(read), tmp_path / "again.npy", deep=dtype == np.uint16)
    assert np.array_equal(np.load(tmp_path / "again.npy"), pixels)


def test_arrays_without_channels_and_of_floats(tmp_path):
    path = tmp_path / "array.npy"
    np.save(path, np.array([[0, 0.5, 1]], dtype=np.float32))
    read, kind = read_pixels(path, 1)
    assert kind == "floating-point" and read.flatten().tolist() == [0, 32768, 65535]
    assert read_header(path) == Header(3, 1, 1, True)

    def fails(array, said):
        np.save(path, array)
        with pytest.raises(ImageError, match=rf"array\.npy: {said}"):
            read_pixels(path)

    fails(np.array([[0, 1.5]]), r"floating-point pixels of an array lie in \[0, 1\]")
    fails(np.array([[0, np.nan]]), r"floating-point pixels of an array lie in \[0, 1\]")
    fails(np.zeros((2, 2), dtype=np.int32), "int32 numbers from 0 to 0, and no range")
    fails(np.zeros((2, 2), dtype=bool), "an array of bool: images are whole numbers, or floating-point")
    fails(np.zeros(4, dtype=np.uint8), r"an array of shape \(4,\): an image is \(height, width\)")
    fails(np.array([[None]]), "an array of python objects")
    path.write_bytes(b"text")
    with pytest.raises(ImageError, match="not an array of numpy"):
        read_pixels(path)
    np.save(path, np.zeros((40, 40), np.uint8))
    path.write_bytes(path.read_bytes()[:-9])
    with pytest.raises(ImageError, match="truncated"):
        read_pixels(path)


def test_files_for_channels():
    assert [suffix_for(channels) for channels in (1, 3, 4, 5)] == [".png", ".png", ".png", ".npy"]


def test_grey_becomes_three_equal_channels_and_rgb_one(tmp_path):
    picture().convert("L").save(tmp_path / "grey.png")
    pixels, kind = read_pixels(tmp_path / "grey.png")
    assert kind == "grey" and torch.equal(pixels[..., 0], pixels[..., 2])
    picture().save(tmp_path / "colour.png")
    pixels, kind = read_pixels(tmp_path / "colour.png", channels=1)
    assert kind is None and np.array_equal(pixels[..., 0], np.asarray(picture().convert("L")))


def test_16_bit_grey_keeps_its_bits(tmp_path):
    values = np.array([[0, 25700, 12345, 65535]], dtype=np.uint16)
    Image.fromarray(values).save(tmp_path / "deep.png")
    pixels, kind = read_pixels(tmp_path / "deep.png", 1)
    assert kind is None and np.array_equal(pixels[..., 0].numpy(), values)
    pixels, kind = read_pixels(tmp_path / "deep.png", 3)
    assert kind == "16-bit grey" and np.array_equal(pixels[..., 2].numpy(), values)


def test_palette_keeps_its_colours(tmp_path):
    image = Image.new("P", (2, 1))
    image.putpalette([255, 0, 0, 0, 0, 255])
    image.putpixel((1, 0), 1)
    image.save(tmp_path / "palette.png")
    pixels, kind = read_pixels(tmp_path / "palette.png")
    assert kind == "palette" and pixels[0].tolist() == [[255, 0, 0], [0, 0, 255]]
    image.save(tmp_path / "clear.png", transparency=1)
    assert read_header(tmp_path / "clear.png").channels == 4
    pixels, kind = read_pixels(tmp_path / "clear.png", 4)
    assert kind == "palette" and pixels[0].tolist() == [[255, 0, 0, 255], [0, 0, 255, 0]]
    assert read_pixels(tmp_path / "clear.png")[0][0].tolist() == [[255, 0, 0], [255, 255, 255]]


def test_transparency_is_kept_where_there_are_channels_for_it_and_else_put_on_white(tmp_path):
    image = Image.new("RGBA", (3, 1), (0, 0, 0, 0))
    image.putpixel((1, 0), (10, 20, 30, 255))
    image.save(tmp_path / "icon.png")
    pixels, kind = read_pixels(tmp_path / "icon.png")
    assert kind == "RGB with transparency"
    assert pixels[0].tolist() == [[255, 255, 255], [10, 20, 30], [255, 255, 255]]
    pixels, kind = read_pixels(tmp_path / "icon.png", 4)
    assert kind is None and pixels[0].tolist() == [[0, 0, 0, 0], [10, 20, 30, 255], [0, 0, 0, 0]]
    save_image(to_tensor(pixels), tmp_path / "again.png")
    assert torch.equal(read_pixels(tmp_path / "again.png", 4)[0], pixels)


def test_other_kinds_are_named(tmp_path):
    picture().convert("1").save(tmp_path / "bw.png")
    pixels, kind = read_pixels(tmp_path / "bw.png", 1)
    assert kind == "black and white" and set(pixels.unique().tolist()) == {0, 255}
    picture().convert("CMYK").save(tmp_path / "print.tif")
    assert read_pixels(tmp_path / "print.tif")[1] == "CMYK" and read_header(tmp_path / "print.tif").channels == 3


TURNED = {
    1: lambda a: a,
    2: np.fliplr,
    3: lambda a: np.rot90(a, 2),
    4: np.flipud,
    5: lambda a: a.swapaxes(0, 1),
    6: lambda a: np.rot90(a, -1),
    7: lambda a: np.rot90(a, 2).swapaxes(0, 1),
    8: np.rot90,
}  # of EXIF 2.3, 4.6.4

XMP = b'<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:Description tiff:Orientation="%d"/></x:xmpmeta>'


def write_turned(path, kind, pixels, orientation):
    """uint8 (H, W, 3) as a file of some kind that carries an orientation."""
    exif = Image.Exif()
    exif[0x0112] = orientation
    if kind.startswith("png"):
        depth = 16 if "16" in kind else 8
        values = (pixels.astype(np.uint16) * 257).astype(">u2") if depth == 16 else pixels
        rows = [(0, row.tobytes()) for row in values]
        chunk = (
            (b"iTXt", b"XML:com.adobe.xmp\0\0\0\0\0" + XMP % orientation)
            if "xmp" in kind
            else (b"eXIf", exif.tobytes()[6:])
        )
        path.write_bytes(png(rows, depth, **{"after" if "late" in kind else "before": [chunk]}))
    elif kind == "tiff of bands":
        write_tiff(path, np.concatenate([pixels, pixels], 2), orientation=orientation)
    elif kind == "tiff of 16 bits":
        write_tiff(path, pixels.astype(np.uint16) * 257, orientation=orientation, order=">", compress=True)
    elif kind == "tiff of grey":
        write_tiff(path, pixels[..., :1].astype(np.uint16) * 257, orientation=orientation, order=">")
    elif kind == "tiff of int16":
        write_tiff(path, (pixels[..., :1] * 257.0 - 32768).astype(np.int16), orientation=orientation, sample_format=2)
    else:
        Image.fromarray(pixels).save(
            path, exif=exif, **{"tif": {}, "webp": {"lossless": True}, "jpg": {"quality": 100}}[kind]
        )


@pytest.mark.parametrize("orientation", TURNED)
@pytest.mark.parametrize(
    "kind, suffix, channels",
    [
        ("png", "png", 3),
        ("png 16", "png", 3),
        ("png late", "png", 3),
        ("png 16 late", "png", 3),
        ("png xmp", "png", 3),
        ("png 16 xmp", "png", 3),
        ("tif", "tif", 3),
        ("tiff of bands", "tif", 6),
        ("tiff of 16 bits", "tif", 3),
        ("tiff of grey", "tif", 1),
        ("tiff of int16", "tif", 1),
        ("jpg", "jpg", 3),
        ("webp", "webp", 3),
    ],
)
def test_pictures_that_are_stored_turned_are_read_upright(tmp_path, kind, suffix, channels, orientation):
    stored = np.array(picture((24, 20)))
    path = tmp_path / f"photo.{suffix}"
    write_turned(path, kind, stored, orientation)
    expected = np.concatenate([TURNED[orientation](stored)] * 2, 2)[..., :channels]
    pixels, _ = read_pixels(path, channels)
    if pixels.dtype == torch.uint16:
        pixels = pixels.to(torch.int32) // 257
    error = np.abs(pixels.numpy().astype(int) - expected).max() if pixels.shape == expected.shape else pixels.shape
    assert error == 0 if kind != "jpg" else np.all(error < 12)  # JPEG halves the resolution of colours
    header = read_header(path)
    assert (header.height, header.width, header.channels) == expected.shape


@pytest.mark.parametrize("orientation", TURNED)
@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "I;16", "RGB", "RGBA", "RGBX", "CMYK"])
@pytest.mark.parametrize("compression", ["raw", "tiff_lzw"])
def test_a_tiff_file_of_any_mode_is_read_upright(tmp_path, mode, compression, orientation):
    stored = (
        picture((24, 20)).convert(mode)
        if mode != "I;16"
        else Image.fromarray(np.array(picture((24, 20)).convert("L")).astype(np.uint16) * 257)
    )
    stored.save(tmp_path / "plain.tif", compression=compression)
    stored.save(tmp_path / "turned.tif", compression=compression, tiffinfo={0x0112: orientation})
    plain, turned = (read_pixels(tmp_path / f"{name}.tif", 4)[0].numpy() for name in ("plain", "turned"))
    assert np.array_equal(turned, TURNED[orientation](plain))
    header = read_header(tmp_path / "turned.tif")
    assert (header.height, header.width) == turned.shape[:2]


@pytest.mark.parametrize("kind, suffix", [("png", "png"), ("png 16", "png"), ("tif", "tif"), ("jpg", "jpg")])
@pytest.mark.parametrize("orientation", [0, 9, 65535])
def test_an_orientation_without_meaning_turns_nothing(tmp_path, kind, suffix, orientation):
    write_turned(tmp_path / f"photo.{suffix}", kind, np.array(picture((24, 20))), orientation)
    assert read_header(tmp_path / f"photo.{suffix}").width == 24
    assert read_pixels(tmp_path / f"photo.{suffix}")[0].shape == (20, 24, 3)


def test_headers_are_read_without_decoding(tmp_path, monkeypatch):
    for kind, suffix in (("png", "png"), ("png 16", "png"), ("png xmp", "png"), ("tif", "tif"), ("jpg", "jpg")):
        write_turned(tmp_path / f"{kind}.{suffix}", kind, np.array(picture((24, 20))), 6)
    picture((20, 24)).save(tmp_path / "plain.png")
    monkeypatch.setattr(ImageFile.ImageFile, "load", lambda self: pytest.fail("decoded"))
    for path in tmp_path.iterdir():
        assert (read_header(path).width, read_header(path).height) == (20, 24)


KINDS = {"u": 1, "i": 2, "f": 3}


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize(
    "dtype", ["int8", "int16", "int32", "int64", "uint32", "uint64", "float16", "float32", "float64"]
)
@pytest.mark.parametrize("options", [{}, {"order": ">"}, {"compress": True}, {"order": ">", "compress": True}])
def test_tiff_files_of_other_numbers(tmp_path, dtype, channels, options):
    """All of their values are told apart, as far as 16 bits go, or the file is refused."""
    path, dtype = tmp_path / "scan.tif", np.dtype(dtype)
    least = 0 if dtype.kind == "u" else -100
    numbers = np.arange(least, least + 15 * channels, dtype=dtype).reshape(5, 3, channels)
    write_tiff(path, numbers, sample_format=KINDS[dtype.kind], **options)
    top = least + 15 * channels - 1
    read, kind = read_pixels(path, channels, range=(least, top))
    expected = np.rint((numbers.astype(float) - least) / (top - least) * 65535)
    assert kind is None and np.array_equal(read.numpy(), expected)
    assert read_header(path) == Header(3, 5, channels, dtype.itemsize > 1)
    if dtype in (np.int8, np.int16):
        read, _, span = decode(path, channels)
        assert np.array_equal(read.numpy(), numbers.astype(int) - np.iinfo(dtype).min)
        assert span == (dtype.name, least, top)
    else:
        with pytest.raises(ImageError, match=rf"numbers from {least} to {top}, and no range \(--range LOW HIGH"):
            read_pixels(path, channels)


def test_a_range_clips_and_leaves_8_bits_alone(tmp_path):
    path = tmp_path / "depth.npy"
    np.save(path, np.array([[-np.inf, -1, 0, 0.5, 1, 7, np.inf, np.nan]], np.float32))
    assert read_pixels(path, 1, (0, 1))[0].flatten().tolist() == [0, 0, 0, 32768, 65535, 65535, 65535, 0]
    np.save(path, np.array([[0, 2048, 4095]], np.uint16))
    assert read_pixels(path, 1, (0, 4095))[0].flatten().tolist() == [0, 32776, 65535]
    np.save(path, np.array([[0, 100]], np.uint8))
    assert read_pixels(path, 1, (0, 4095))[0].flatten().tolist() == [0, 100]


@pytest.mark.parametrize("order", "<>")
@pytest.mark.parametrize("compression", [None, "lzw", "deflate", "packbits", "lzma", "zstd"])
@pytest.mark.parametrize("dtype, channels", [("uint8", 1), ("uint16", 1), ("int16", 1), ("float32", 1), ("uint16", 3)])
@pytest.mark.parametrize("shape", [{"rowsperstrip": 3}, {"tile": (16, 16)}])
def test_tiff_files_of_another_writer(tmp_path, order, compression, dtype, channels, shape):
    """Some of which Pillow reads, some with bytes swapped, and some not at all."""
    numbers = np.arange(20 * 17 * channels).reshape(20, 17, channels).astype(dtype)
    options = {"byteorder": order, "compression": compression, "photometric": "rgb" if channels == 3 else "minisblack"}
    if compression in ("lzw", "deflate"):
        options["predictor"] = True
    tifffile.imwrite(tmp_path / "scan.tif", numbers if channels > 1 else numbers[..., 0], **options, **shape)
    expected, range = numbers, (0, 65535)
    if dtype in ("uint8", "uint16"):
        range = None
    read = read_pixels(tmp_path / "scan.tif", channels, range)[0]
    assert np.array_equal(read.numpy(), expected)


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_tiff_files_in_which_0_is_white(tmp_path, dtype):
    numbers = random_pixels((5, 7), dtype)
    tifffile.imwrite(tmp_path / "scan.tif", numbers, photometric="miniswhite")
    assert np.array_equal(read_pixels(tmp_path / "scan.tif", 1)[0].numpy()[..., 0], np.iinfo(dtype).max - numbers)


def test_images_past_the_limit_are_refused_with_a_remedy(tmp_path, monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 50)
    picture((20, 10)).save(tmp_path / "8.png")
    (tmp_path / "16.png").write_bytes(png([(0, bytes(120))] * 10))
    write_tiff(tmp_path / "bands.tif", np.zeros((10, 20, 5), np.uint8))
    for path in tmp_path.iterdir():
        for reader in (read_pixels, read_header):
            with pytest.raises(ImageError, match="200 pixels, and at most 100 are read: make it smaller, or cut it"):
                reader(path)


def test_files_that_unpack_to_more_than_their_header_says_take_no_more_memory(tmp_path):
    tracemalloc.start()
    bomb = zlib.compress(bytes(50 * 2**20))
    content = png([(0, bytes(12))])
    start, end = content.index(b"IDAT") - 4, content.index(b"IEND") - 4
    tracemalloc.clear_traces()
    (tmp_path / "a.png").write_bytes(
        content[:start]
        + struct.pack(">I", len(bomb))
        + b"IDAT"
        + bomb
        + struct.pack(">I", zlib.crc32(b"IDAT" + bomb))
        + content[end:]
    )
    assert read_pixels(tmp_path / "a.png")[0].shape == (1, 2, 3)
    assert tracemalloc.get_traced_memory()[1] < 5 * 2**20
    tracemalloc.stop()


def test_what_is_read_is_what_the_library_reads_without_running_programs():
    assert {".jfif", ".jpe", ".tga", ".jp2", ".png", ".npy", ".pgm", ".webp", ".tif"} <= set(suffixes())
    assert not {".eps", ".ps", ".wmf", ".h5", ".mpg", ".fits", ".pdf"} & set(suffixes())


def test_programs_of_eps_are_not_run_whatever_the_suffix(tmp_path):
    (tmp_path / "a.png").write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n%%EndComments\nshowpage\n")
    for reader in (read_pixels, read_header):
        with pytest.raises(ImageError, match="not an image"):
            reader(tmp_path / "a.png")


def test_broken_files_are_named_with_the_reason(tmp_path):
    truncated_jpeg(tmp_path / "half.jpg", (200, 200))
    with pytest.raises(ImageError, match=r"half\.jpg: truncated$"):
        read_pixels(tmp_path / "half.jpg")
    (tmp_path / "text.png").write_text("not an image at all")
    for reader in (read_pixels, read_header):
        with pytest.raises(ImageError, match=r"text\.png: not an image$"):
            reader(tmp_path / "text.png")
        with pytest.raises(ImageError, match=r"gone\.png: No such file"):
            reader(tmp_path / "gone.png")
    Image.fromarray(np.ones((4, 4), dtype=np.float32)).save(tmp_path / "float.tif")
    with pytest.raises(ImageError, match="floating-point"):
        read_pixels(tmp_path / "float.tif")


def test_to_pixels_of_what_was_read(tmp_path):
    picture().save(tmp_path / "image.png")
    pixels, _ = read_pixels(tmp_path / "image.png")
    assert torch.equal(to_pixels(to_tensor(pixels)), pixels)
