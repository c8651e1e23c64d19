"""Where decoded pixels are kept."""

import errno
import os
import tempfile
from types import SimpleNamespace

import pytest
import torch

from fastgan._errors import sentence
from fastgan.data import cache

GIB = 2**30


@pytest.mark.parametrize(
    "size, asked, free, where",
    [
        (GIB, "auto", 0, "memory"),
        (GIB + 1, "auto", 3 * GIB, "file"),
        (GIB + 1, "auto", 2 * GIB, "none"),
        (1, "file", 0, "file"),
        (9 * GIB, "memory", 0, "memory"),
        (1, "none", 9 * GIB, "none"),
    ],
)
def test_choice(size, asked, free, where, monkeypatch):
    monkeypatch.setattr(cache.shutil, "disk_usage", lambda path: SimpleNamespace(free=free))
    assert cache.choose(size, asked) == where


@pytest.mark.parametrize("dtype", [torch.uint8, torch.uint16])
@pytest.mark.parametrize("where", ["memory", "file"])
def test_buffers_keep_what_is_written(where, dtype):
    pixels = cache.buffer(1000, dtype, where)
    assert pixels.shape == (1000,) and pixels.dtype == dtype
    pixels[990:] = torch.arange(10).to(dtype)
    assert pixels[990:].to(torch.int64).tolist() == list(range(10))
    assert cache.buffer(0, dtype, where).numel() == 0


def test_the_file_has_no_name_and_is_shared_with_forks(tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    assert cache.folder() == str(tmp_path)
    pixels = cache.buffer(4096, torch.uint8, "file")
    assert not list(tmp_path.iterdir()), "what has no name vanishes with the process, however that ends"
    child = os.fork()
    if child == 0:
        pixels[7] = 77
        os._exit(0)
    assert os.waitpid(child, 0)[1] == 0 and pixels[7] == 77


def test_a_full_disk_is_named_with_the_remedy(monkeypatch):
    def full(file, start, size):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(cache.os, "posix_fallocate", full, raising=False)
    with pytest.raises(OSError) as caught:
        cache.buffer(GIB, torch.uint8, "file")
    assert sentence(caught.value) == (
        f"{cache.folder()}: No space left on device, for a file of 1.0 GiB; --cache none does without, TMPDIR names "
        "another folder"
    )
