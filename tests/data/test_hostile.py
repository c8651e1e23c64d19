"""Files from strangers: each gives the right pixels or an error that names it, in bounded time and memory."""

import errno
import gzip
import logging
import os
import re
import struct
import subprocess
import sys
import tracemalloc
import zlib

import numpy as np
import pytest
import tifffile
import torch
from PIL import Image

from fastgan.data import DataOptions, bounds, extra, idx, open_dataset
from fastgan.data.files import ImageError, read_header, read_pixels
from fastgan.data.folders import ImageFolder, find_images, look_through, passed_over
from fastgan.data.idx import find_idx, read_idx
from fastgan.data.labelled import open_gallery
from fastgan.data.transforms import Transform

from .common import idx_bytes, picture, write_idx, write_images
from .test_files import png, write_tiff

WHOLE = Transform.of(DataOptions(preprocess="none"), "train")


def messages(caplog):
    return [record.getMessage() for record in caplog.records if record.name == "fastgan.data"]


def zeros(count):
    """So many zero bytes, deflated."""
    packer = zlib.compressobj(9)
    parts = [packer.compress(bytes(2**20)) for _ in range(count >> 20)]
    return b"".join([*parts, packer.compress(bytes(count & (2**20 - 1))), packer.flush()])


def plain_png(width, height, depth, kind, data, before=()):
    header = struct.pack(">IIBBBBB", width, height, depth, kind, 0, 0, 0)
    chunks = ((b"IHDR", header), *before, (b"IDAT", data), (b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body)) for name, body in chunks
    )


def plain_tiff(data, **tags):
    """A little-endian TIFF file of one strip or tile, with tags by their numbers as t256=..."""
    tags = {256: 16, 257: 16, 258: 8, 259: 8, 262: 1, 277: 1} | {int(name[1:]): value for name, value in tags.items()}
    tags |= {(324 if 322 in tags else 273): 8 + 2 + 12 * (len(tags) + 2) + 4, (325 if 322 in tags else 279): len(data)}
    entries = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in sorted(tags.items()))
    return b"II*\0" + struct.pack("<IH", 8, len(tags)) + entries + struct.pack("<I", 0) + data


LARGE = r"\d+x\d+ pixels of \d+ bytes are [\d,]+ MiB, and at most 512 MiB are read: make it smaller, or cut it into"


def bombs(folder):
    """Small files that take much to decode, and what is said of them read as RGB."""
    side = 13376  # squared, just below what Pillow refuses
    second = struct.pack(">IIBBBBB", side, side, 16, 2, 0, 0, 0)
    files = {
        "16.png": (plain_png(side, side, 16, 2, zeros(2**20)), LARGE),
        "second-header.png": (plain_png(4, 4, 16, 2, zeros(2**20), [(b"IHDR", second)]), LARGE),
        "more-pixels.png": (plain_png(4, 4, 8, 2, zeros(2**26)), (4, 4, 3)),
        "text.png": (plain_png(4, 4, 8, 2, zeros(52), [(b"zTXt", b"a\0\0" + zeros(2**26))]), "Decompressed data too"),
        "profile.png": (plain_png(4, 4, 8, 2, zeros(52), [(b"iCCP", b"a\0\0" + zeros(2**26))]), "Decompressed data"),
        "tile.tif": (plain_tiff(zeros(2**20), t322=32768, t323=32768), LARGE),
        "tile-16.tif": (plain_tiff(zeros(2**20), t258=16, t277=3, t322=32768, t323=32768), LARGE),
        "more-pixels.tif": (plain_tiff(zeros(2**26), t278=10**8), (16, 16, 3)),
        "doubles.tif": (plain_tiff(zeros(2**20), t256=12000, t257=12000, t258=64, t339=3), LARGE),
        "channels.tif": (plain_tiff(zeros(2**20), t256=9000, t257=9000, t277=60000), LARGE),
        "array.npy": (b"", LARGE),
    }
    for name, (content, _) in files.items():
        (folder / name).write_bytes(content)
    with open(folder / "array.npy", "wb") as file:
        np.lib.format.write_array_header_1_0(file, {"descr": "|u1", "fortran_order": False, "shape": (2**14, 2**14, 3)})
        file.truncate(file.tell() + 3 * 2**28)
    return {name: expected for name, (_, expected) in files.items()}


def test_images_that_decode_to_much_get_a_sentence_and_take_no_memory(tmp_path):
    expected = bombs(tmp_path)
    script = (
        "import sys, resource; from fastgan.data.files import *\n"
        "resource.setrlimit(resource.RLIMIT_AS, (2**31, 2**31))\n"
        "def most(): return int(open('/proc/self/status').read().split('VmHWM:')[1].split()[0])\n"
        "for path in sys.argv[1:]:\n"
        "    before = most()\n"
        "    try: said = tuple(read_pixels(path)[0].shape)\n"
        "    except ImageError as error: said = str(error)\n"
        "    print(repr((path, said, (most() - before) >> 10)))\n"
    )
    ran = subprocess.run(
        [sys.executable, "-c", script, *map(str, tmp_path.iterdir())],
        capture_output=True,
        text=True,
        timeout=60,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )
    assert ran.returncode == 0, ran.stderr
    told = {os.path.basename(path): (said, taken) for path, said, taken in map(eval, ran.stdout.splitlines())}
    assert told.keys() == expected.keys()
    for name, wanted in expected.items():
        said, taken = told[name]
        assert said == wanted if isinstance(wanted, tuple) else re.search(rf"{name}: {wanted}", said), (name, said)
        assert taken < 64, name


def test_the_rest_of_the_folder_goes_on(tmp_path, caplog, monkeypatch):
    folder = write_images(tmp_path / "a", 2)
    monkeypatch.setattr(bounds, "MOST_BYTES", 3000)
    picture((40, 40)).save(folder / "large.png")
    picture((40, 40)).convert("L").save(folder / "grey.png")  # fits as it is, and not in three channels
    for cache in ("memory", "none"):
        caplog.clear()
        opened = ImageFolder(folder, WHOLE, cache=cache)
        assert all(opened.load(index).shape == (20, 24, 3) for index in range(len(opened)))
        assert any("large.png (40x40 pixels of 3 bytes are" in line for line in messages(caplog))


def test_images_that_become_large_are_left_out(tmp_path, caplog):
    folder = write_images(tmp_path / "a", 1)
    Image.new("L", (1, 60000)).save(folder / "thin.png")
    transform = Transform.of(DataOptions(preprocess="scale_width", load_size=286), "train")
    assert ImageFolder(folder, transform).names == ["0.png"]
    (line,) = messages(caplog)
    assert line.startswith(
        f"skipped 1 of 2 images in {folder}: thin.png (1x60000 become 286x17160000 pixels of 3 bytes"
    )


def test_memory_that_ends_leaves_out_the_image(tmp_path, caplog, monkeypatch):
    folder = write_images(tmp_path / "a", 2)
    whole = Transform.resize

    def resize(self, pixels):
        if pixels[0, 0, 2] == 37:
            raise MemoryError
        return whole(self, pixels)

    monkeypatch.setattr(Transform, "resize", resize)
    assert ImageFolder(folder, WHOLE).names == ["0.png"]
    assert "1.png (more than memory holds (make it smaller, or cut it into pieces))" in messages(caplog)[0]


def test_large_images_wait_for_each_other(monkeypatch):
    monkeypatch.setattr(bounds, "_LARGE", 10)
    with bounds.Room(3) as room:
        room.take(2, 2, 1)
        assert bounds._large_image.locked()
        with bounds.Room(3) as other:
            other.take(1, 1, 1)
    assert not bounds._large_image.locked()
    with pytest.raises(OSError), bounds.Room(3) as room:
        room.take(2**20, 2**20, 1)
    assert not bounds._large_image.locked()


@pytest.mark.parametrize("rows", [1, 3, 64])
def test_bands_of_rows_change_no_pixel(tmp_path, monkeypatch, rows):
    image = picture((24, 20)).convert("RGBA")
    image.putalpha(picture((24, 20), 3).convert("L"))
    for name, kind in (("a.png", image), ("p.png", image.convert("P")), ("c.tif", image.convert("CMYK"))):
        kind.save(tmp_path / name)
        expected = [read_pixels(tmp_path / name, channels)[0] for channels in (1, 2, 3, 4)]
        with monkeypatch.context() as patched:
            patched.setattr(bounds, "_ROWS_BYTES", 24 * 4 * rows)
            patched.setattr("fastgan.data.files._BAND", 24 * rows)
            for channels in (1, 2, 3, 4):
                assert torch.equal(read_pixels(tmp_path / name, channels)[0], expected[channels - 1])


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no pipes on this system")
@pytest.mark.parametrize("name", ["a.png", "a.npy", "a.tif", "device.png"])
def test_pipes_and_devices_are_not_opened(tmp_path, name):
    path = tmp_path / name
    path.symlink_to("/dev/zero") if name == "device.png" else os.mkfifo(path)
    for read in (read_pixels, read_header):
        with pytest.raises(ImageError, match=rf"{name}: a pipe or a device, which may never end: only files are read$"):
            read(path)
    with pytest.raises(OSError, match="a pipe or a device"):
        read_idx(path)


def test_without_the_libraries_only_files_that_need_them_are_left_out(tmp_path, caplog, monkeypatch):
    def missing(name, package=None):
        raise ImportError(name)

    folder = tmp_path / "a"
    folder.mkdir()
    grey = np.arange(480, dtype=np.uint16).reshape(20, 24)
    Image.fromarray(grey).save(folder / "grey.png")
    for order in "<>":
        write_tiff(folder / f"grey{ord(order)}.tif", grey[..., None], order=order)
        write_tiff(folder / f"ct{ord(order)}.tif", grey[..., None].astype(np.int16), order=order, sample_format=2)
    picture().save(folder / "plain.tif", compression="tiff_lzw")
    (folder / "deep.png").write_bytes(png([(0, bytes(24 * 6))] * 20))
    write_tiff(folder / "deep.tif", np.zeros((20, 24, 3), np.uint16))
    assert len(ImageFolder(folder, WHOLE)) == 8
    caplog.clear()
    monkeypatch.setattr(extra.importlib, "import_module", missing)
    assert len(ImageFolder(folder, WHOLE)) == 6
    (line,) = [line for line in messages(caplog) if line.startswith("skipped")]
    install = "pip install 'fastgan[images16]'"
    assert line == (
        f"skipped 2 of 8 images in {folder}: deep.png (a PNG of 16 bits in colour or with transparency needs "
        f"imagecodecs: {install}), deep.tif (a TIFF of 3 channels of uint16 numbers needs tifffile: {install})"
    )


def corpus(folder):
    """Files by what is right of them: RGB pixels (H, W, 3), or the sentence."""
    folder.mkdir()
    image, pixels = picture((24, 20)), np.array(picture((24, 20)))
    good = {}

    def add(name, expected, save):
        save(folder / name)
        good[name] = expected

    add("plain.png", pixels, image.save)
    add("wrong-extension.jpg", pixels, lambda path: image.save(path, format="PNG"))
    add("no-alpha.webp", pixels, lambda path: image.save(path, lossless=True))
    clear = image.copy()
    clear.putalpha(0)
    add("alpha.png", np.full_like(pixels, 255), clear.save)
    cmyk = image.convert("CMYK")
    add("cmyk.tif", np.array(cmyk.convert("RGB")), cmyk.save)
    add("deep.png", pixels.astype(np.uint16) * 257, lambda path: path.write_bytes(
        png([(0, row.tobytes()) for row in (pixels.astype(np.uint16) * 257).astype(">u2")])
    ))  # fmt: skip
    exif = Image.Exif()
    exif[0x0112] = 6
    add("turned.png", np.rot90(pixels, -1), lambda path: image.save(path, exif=exif))
    frames = [picture((24, 20), seed).convert("P") for seed in (1, 2)]
    first = np.array(picture((24, 20), 1).convert("P").convert("RGB"))
    add("animated.gif", first, lambda path: frames[0].save(path, save_all=True, append_images=frames[1:]))
    add("pages.tif", pixels, lambda path: image.save(path, save_all=True, append_images=[picture((9, 9))]))
    add("deep-pages.tif", pixels.astype(np.uint16), lambda path: tifffile.imwrite(
        path, np.stack([pixels.astype(np.uint16)] * 2), photometric="rgb"
    ))  # fmt: skip
    add("animated.png", pixels, lambda path: image.save(path, save_all=True, append_images=[picture((24, 20), 5)]))
    add("animated.webp", pixels, lambda path: image.save(
        path, lossless=True, save_all=True, append_images=[picture((24, 20), 5)]
    ))  # fmt: skip
    content = (folder / "plain.png").read_bytes()
    bad = {
        "empty.png": (b"", "not an image"),
        "empty.tif": (b"", "not an image"),
        "empty.npy": (b"", "not an array of numpy"),
        "cut.png": (content[: len(content) // 2], "truncated"),
        "text.jpg": (b"<html>404</html>", "not an image"),
        "cut.tif": ((folder / "pages.tif").read_bytes()[:200], None),
        "cut-deep.tif": ((folder / "deep-pages.tif").read_bytes()[:2000], "truncated"),
        "cut-deep.png": ((folder / "deep.png").read_bytes()[:80], "truncated"),
        "big.tif": (b"MM\0+\0\x08\0\0" + bytes(40), "a big-endian BigTIFF, which is not read"),
        "no-size.tif": (plain_tiff(b"", t256=0), "damaged: a TIFF without a size"),
        "pickle.npy": (b"\x93NUMPY\1\0v\0{'descr': '|O', 'fortran_order': False, 'shape': (1, 1)}".ljust(200), None),
        "zip.npy": (b"PK\x03\x04" + bytes(40), None),
    }
    for name, (body, _) in bad.items():
        (folder / name).write_bytes(body)
    return good, {name: said for name, (_, said) in bad.items()}


def test_a_corpus_gives_the_right_pixels_or_a_sentence(tmp_path, caplog):
    good, bad = corpus(tmp_path / "a")
    for name, expected in good.items():
        read = read_pixels(tmp_path / "a" / name)[0].numpy()
        assert read.dtype == expected.dtype and np.array_equal(read, expected), name
    for name, said in bad.items():
        with pytest.raises(ImageError) as caught:
            read_pixels(tmp_path / "a" / name)
        assert str(caught.value).startswith(f"{tmp_path / 'a' / name}: ") and "\n" not in str(caught.value)
        assert said is None or caught.value.reason == said, name
    several = {name for name in good if read_header(tmp_path / "a" / name).several}
    assert several == {name for name in good if name.startswith(("animated", "pages", "deep-pages"))}
    opened = ImageFolder(tmp_path / "a", WHOLE)
    assert sorted(opened.names) == sorted(good)
    assert (
        f"5 of {len(good)} images in {tmp_path / 'a'} hold further frames or pages, of which the first is read: "
        "animated.gif, animated.png, animated.webp and 2 more"
    ) in messages(caplog)


def test_control_characters_of_names_are_not_printed(tmp_path, caplog):
    folder = write_images(tmp_path / "a", 1)
    (folder / "\x1b[2J\u202egnp\n.png").write_text("text")
    ImageFolder(folder, WHOLE)
    (line,) = messages(caplog)
    assert line == rf"skipped 1 of 2 images in {folder}: \x1b[2J\u202egnp\n.png (not an image)"
    with pytest.raises(ImageError) as caught:
        read_pixels(folder / "\x1b[2J\u202egnp\n.png")
    assert str(caught.value) == rf"{folder}/\x1b[2J\u202egnp\n.png: not an image"


def test_a_folder_that_cannot_be_opened_is_named(tmp_path, caplog, monkeypatch):
    folder = write_images(tmp_path / "a", 2)
    write_images(folder / "locked", 2)
    scandir = os.scandir

    def denied(path):
        if os.fspath(path) == str(folder / "locked"):
            raise PermissionError(errno.EACCES, "Permission denied", str(path))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", denied)
    assert len(ImageFolder(folder, WHOLE)) == 2
    assert messages(caplog) == [
        f"passed over 1 folder in {folder} that no image is read from: 1 folder that cannot be opened "
        "(locked: Permission denied)"
    ]
    (folder / "a.txt").write_text("")
    caplog.clear()
    ImageFolder(folder, WHOLE)
    assert messages(caplog)[0].startswith(f"passed over 2 files and folders in {folder} that no image is read from: 1 ")


def domains(root, elsewhere):
    for name in ("trainA", "trainB"):
        write_images(root / name, 2)
    write_images(elsewhere, 3)
    (root / "trainA" / "more").symlink_to(elsewhere, target_is_directory=True)
    return DataOptions(dataroot=str(root), load_size=16, crop_size=16)


def test_links_do_not_lead_out_of_the_data(tmp_path, caplog):
    root, elsewhere = tmp_path / "data", tmp_path / "elsewhere"
    options = domains(root, elsewhere)
    with caplog.at_level(logging.WARNING):
        assert len(open_dataset("unaligned", options).A) == 2
    assert messages(caplog) == [
        f"passed over 1 folder in {root / 'trainA'} that no image is read from: 1 folders elsewhere by links "
        "(--follow-links reads them)"
    ]
    followed = DataOptions(dataroot=str(root), load_size=16, crop_size=16, follow_links=True)
    assert len(open_dataset("unaligned", followed).A) == 5
    (root / "trainA" / "more").unlink()
    (root / "trainA" / "more").symlink_to(root / "trainB", target_is_directory=True)  # stays inside
    assert len(open_dataset("unaligned", options).A) == 4
    (root / "trainA" / "loop").symlink_to(root, target_is_directory=True)
    assert len(open_dataset("unaligned", options).A) == 4
    names, others = look_through(root / "trainA")  # which is all of the data, without a folder around it
    assert len(names) == 2 and passed_over(others, root) is not None


def test_a_domain_that_lies_elsewhere_is_named_with_the_flag(tmp_path):
    root, elsewhere = tmp_path / "data", tmp_path / "elsewhere"
    options = domains(root, elsewhere)
    (root / "trainB").rename(tmp_path / "moved")
    (root / "trainB").symlink_to(tmp_path / "moved", target_is_directory=True)
    with pytest.raises(ValueError, match=r"trainB is a link to a folder outside of .*data: --follow-links reads it"):
        open_dataset("unaligned", options)
    root.rename(tmp_path / "real")
    root.symlink_to(tmp_path / "real", target_is_directory=True)  # the data folder itself may be a link
    (root / "trainB").unlink()
    (tmp_path / "moved").rename(root / "trainB")
    assert len(open_dataset("unaligned", options).B) == 2


def test_classes_and_idx_files_elsewhere_are_left_out(tmp_path):
    root = tmp_path / "classes"
    for name in ("ant", "bee"):
        write_images(root / name, 12, (8, 8))
    write_images(tmp_path / "elsewhere", 4, (8, 8))
    (root / "cat").symlink_to(tmp_path / "elsewhere", target_is_directory=True)
    options = {"dataroot": str(root), "image_size": 8}
    assert open_dataset("labelled", DataOptions(**options)).names == ("ant", "bee")
    assert open_dataset("labelled", DataOptions(**options, follow_links=True)).names == ("ant", "bee", "cat")
    assert len(open_gallery(root, 3, 8)) == 24 and len(open_gallery(root, 3, 8, follow_links=True)) == 28
    write_idx(tmp_path / "idx", 4)
    (tmp_path / "set").mkdir()
    (tmp_path / "set" / "raw").symlink_to(tmp_path / "idx", target_is_directory=True)
    assert find_idx(tmp_path / "set") == {} and find_idx(tmp_path / "set", tmp_path) != {}


def test_a_link_to_the_root_ends(tmp_path):
    folder = write_images(tmp_path / "a", 1)
    (folder / "all").symlink_to("/", target_is_directory=True)
    assert find_images(folder) == ["0.png"]


def test_gzipped_idx_files_that_unpack_to_much_are_refused(tmp_path, monkeypatch):
    path = tmp_path / "train-images-idx3-ubyte.gz"
    packed = gzip.compress(idx_bytes(np.zeros((2, 3, 3), np.uint8)) + bytes(2**26))

    def fails(said):
        with pytest.raises(ValueError, match=rf"{path.name} {said}") as caught:
            read_idx(path)
        assert "\n" not in str(caught.value)

    path.write_bytes(packed)
    tracemalloc.start()
    fails("is too long: its header says 2 x 3 x 3 = 18 bytes and more follow")
    assert tracemalloc.get_traced_memory()[1] < 2**22
    tracemalloc.stop()
    path.write_bytes(gzip.compress(idx_bytes(np.zeros((0,), np.uint8))[:4] + bytes(0)))
    fails("is cut short: it ends within its header")
    header = bytes((0, 0, 8, 3)) + np.asarray((2**18, 128, 128), ">u4").tobytes()
    path.write_bytes(gzip.compress(header + bytes(100)))
    fails("unpacks to 4.0 GiB, and at most 1 GiB are unpacked here: unpack it with gunzip")
    monkeypatch.setattr(idx, "MOST_UNPACKED", 2**33)
    path.write_bytes(header)
    fails("is cut short: its header says 262144 x 128 x 128 = 4294967296 bytes and 0 follow")


@pytest.mark.parametrize(
    "shape, said",
    [
        ((0, 2**32 - 1, 2**32 - 1, 2**32 - 1), "is damaged: its header says 0 x 4294967295"),
        ((2**32 - 1,) * 4, "is damaged: its header says 4294967295 x"),
        ((1,) * 5, "is not an IDX file"),
    ],
)
def test_headers_of_idx_files_that_make_no_sense(tmp_path, shape, said):
    path = tmp_path / "train-images-idx3-ubyte"
    path.write_bytes(bytes((0, 0, 8, len(shape))) + np.asarray(shape, ">u4").tobytes())
    with pytest.raises(ValueError, match=f"{path.name} {said}"):
        read_idx(path)
