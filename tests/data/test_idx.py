import gzip

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fastgan.data.idx import find_idx, read_idx, read_labelled

from .common import idx_bytes, write_idx


@given(shape=st.lists(st.integers(0, 5), min_size=1, max_size=4), gzipped=st.booleans())
def test_what_was_written_is_read(tmp_path_factory, shape, gzipped):
    array = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
    path = tmp_path_factory.mktemp("idx") / "any name"
    path.write_bytes(gzip.compress(idx_bytes(array)) if gzipped else idx_bytes(array))
    read = read_idx(path)
    assert read.dtype == np.uint8 and read.shape == array.shape and (read == array).all()


GOOD = idx_bytes(np.zeros((2, 3, 3), dtype=np.uint8))
COMPRESSED = gzip.compress(GOOD)  # holds the time, so that it may not name a test


@pytest.mark.parametrize(
    "content, said",
    [
        (b"", "is not an IDX file: it begins with nothing, not with 00 00 08"),
        (b"\x89PNG....", "is not an IDX file: it begins with 89 50 4e 47"),
        (b"\0\0\x08\0", "is not an IDX file: it begins with 00 00 08 00"),
        (b"\0\0\x0d" + GOOD[3:], r"holds floats: only IDX files of unsigned bytes \(00 00 08\) are read"),
        (GOOD[:10], "is cut short: it ends within its header"),
        (GOOD[:-1], "is cut short: its header says 2 x 3 x 3 = 18 bytes and 17 follow"),
        (GOOD + b"\0\0", "is too long: its header says 2 x 3 x 3 = 18 bytes and 20 follow"),
        (COMPRESSED[:-12], r"is damaged: it ends too early for a gzip file \(was a copy cut short\?\)"),
        (COMPRESSED[:-8] + bytes(8), "is damaged: its checksum or structure is wrong"),
        (COMPRESSED[:10] + b"\xff" * 20, "is damaged"),
    ],
    ids=[
        "empty",
        "png",
        "no type",
        "floats",
        "header",
        "short",
        "long",
        "gzip short",
        "gzip checksum",
        "gzip structure",
    ],
)
def test_faults_are_errors_that_name_the_file(tmp_path, content, said):
    path = tmp_path / "train-images-idx3-ubyte"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=f"train-images-idx3-ubyte {said}") as caught:
        read_idx(path)
    assert "\n" not in str(caught.value)


def test_files_are_found_by_their_names(tmp_path):
    write_idx(tmp_path, 4)
    write_idx(tmp_path, 2, "t10k", gzipped=True)
    (tmp_path / "train-labels-idx1-ubyte").rename(tmp_path / "train-labels.idx1-ubyte")
    (tmp_path / "train-images-idx3-ubyte.gz").write_bytes(b"a plain file is there too")
    (tmp_path / "readme.txt").write_text("")
    found = find_idx(tmp_path)
    assert {part: {kind: path.name for kind, path in paths.items()} for part, paths in found.items()} == {
        "train": {"images": "train-images-idx3-ubyte", "labels": "train-labels.idx1-ubyte"},
        "t10k": {"images": "t10k-images-idx3-ubyte.gz", "labels": "t10k-labels-idx1-ubyte.gz"},
    }
    images, labels = read_labelled(found["train"])
    assert images.shape == (4, 6, 6, 1) and images[:, 0, 0, 0].tolist() == [0, 1, 2, 3]
    assert labels.dtype == np.int64 and labels.tolist() == [0, 1, 2, 0]


def test_images_with_channels(tmp_path):
    write_idx(tmp_path, 4, size=(6, 5, 2))
    assert read_labelled(find_idx(tmp_path)["train"])[0].shape == (4, 6, 5, 2)


def test_images_and_labels_that_do_not_belong_together_are_errors(tmp_path):
    write_idx(tmp_path, 4)
    labels = tmp_path / "train-labels-idx1-ubyte"

    def fails(said):
        with pytest.raises(ValueError, match=said) as caught:
            read_labelled(find_idx(tmp_path)["train"])
        assert "\n" not in str(caught.value)

    labels.write_bytes(idx_bytes(np.zeros(3, dtype=np.uint8)))
    fails("train-images-idx3-ubyte holds 4 images and train-labels-idx1-ubyte 3 labels: they belong to different sets")
    labels.write_bytes(idx_bytes(np.zeros((4, 1), dtype=np.uint8)))
    fails("train-labels-idx1-ubyte holds 2 dimensions: labels have one")
    labels.unlink()
    fails("holds train-images-idx3-ubyte but no labels for it: put train-labels-idx1-ubyte beside it, plain or as .gz")
    write_idx(tmp_path, 0)
    fails("holds no image")
    (tmp_path / "train-images-idx3-ubyte").write_bytes(idx_bytes(np.zeros(4, dtype=np.uint8)))
    fails("holds 1 dimensions: images have 3")
