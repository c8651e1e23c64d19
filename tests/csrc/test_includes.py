"""What the files of csrc include: one header for each name, and no code of another device."""

import re
from collections import Counter
from pathlib import Path

CSRC = Path(__file__).resolve().parents[2] / "csrc"
EMULATED = "cuda_emulation.h"  # in place of a CUDA compiler: tests/csrc/emulation
INCLUDES = {
    file.relative_to(CSRC).as_posix(): re.findall(r'^#include "(.+)"$', file.read_text(), re.MULTILINE)
    for file in CSRC.rglob("*")
    if file.is_file()
}


def test_headers_are_named_from_csrc_on():
    """A path says which folder a header is in, and no two headers of csrc have the same name."""
    missing = {(file, name) for file, names in INCLUDES.items() for name in names if name not in INCLUDES}
    assert missing == {("cuda/ptx.cuh", EMULATED)}
    headers = Counter(Path(file).name for file in INCLUDES if file.endswith((".h", ".cuh")))
    assert [name for name, count in headers.items() if count > 1] == []


def test_devices_share_only_what_is_above_them():
    for device, other in (("cpu/", "cuda/"), ("cuda/", "cpu/")):
        for file, names in INCLUDES.items():
            if file.startswith(device):
                assert not [name for name in names if name.startswith(other)], file
