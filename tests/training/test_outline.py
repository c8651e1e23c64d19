"""Files that hold code, or say that they hold more than there is, are told by what they are before torch reads them."""

import os
import pickle
import re
import subprocess
import sys
import zipfile

import pytest
import torch
from torch import nn

from fastgan._errors import UserError
from fastgan.training import checkpoint
from fastgan.training.outline import TensorOutline, outline

HEADER = [torch.serialization.MAGIC_NUMBER, 1001, {"little_endian": True}]


def legacy(content, keys=()):
    """The form of torch before 1.6 around a pickle."""
    return b"".join(pickle.dumps(each, 2) for each in HEADER) + content + pickle.dumps(list(keys), 2)


def write_zip(path, content, data=b"", compression=zipfile.ZIP_STORED):
    with zipfile.ZipFile(path, "w", compression) as archive:
        for name, value in (("data.pkl", content), ("byteorder", b"little"), ("version", b"3\n"), ("data/0", data)):
            archive.writestr(f"archive/{name}", value)


class Calls:
    """Whose pickle calls a function when it is opened."""

    def __init__(self, function, *arguments):
        self.call = function, arguments

    def __reduce__(self):
        return self.call


CALLS = {
    "system": Calls(os.system, "touch opened"),
    "eval": Calls(eval, "open('opened', 'w')"),
    "exec": Calls(exec, "open('opened', 'w')"),
    "Popen": Calls(subprocess.Popen, ["touch", "opened"]),
    "import": Calls(__import__, "os"),
}
OPCODES = {
    "INST": b"(S'touch opened'\nios\nsystem\n.",
    "OBJ": b"(cos\nsystem\nS'touch opened'\no.",
    "NEWOBJ": b"\x80\x02cos\nsystem\n)\x81.",
    "STACK_GLOBAL": b"\x80\x04\x8c\x02os\x8c\x06system\x93\x8c\x0ctouch opened\x85R.",
    "in a dict": b"\x80\x02}X\x01\x00\x00\x00wcos\nsystem\nX\x0c\x00\x00\x00touch opened\x85Rs.",
    "cut off": b"\x80\x02cos\nsystem\nX\x0c\x00\x00\x00touch opened\x85R",
}
CODE = OPCODES | {
    f"{name}, protocol {protocol}": pickle.dumps({"model.1.weight": value}, protocol)
    for name, value in CALLS.items()
    for protocol in range(6)
}


@pytest.mark.parametrize("form", ["a pickle", "zipped", "before 1.6"])
@pytest.mark.parametrize("name", CODE)
def test_a_file_that_holds_code_is_called_that(tmp_path, monkeypatch, name, form):
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "network.pth"
    if form == "zipped":
        write_zip(path, CODE[name])
    else:
        path.write_bytes(CODE[name] if form == "a pickle" else legacy(CODE[name]))
    with pytest.raises(
        UserError, match=r"network.pth holds python objects besides tensors \(\w+\.\w+\), which could run"
    ):
        checkpoint.read_tensors(path)
    assert os.listdir() == ["network.pth"]


def test_a_pickle_that_is_not_of_torch_is_called_that(tmp_path):
    path = tmp_path / "network.pth"
    for protocol in range(6):
        path.write_bytes(pickle.dumps({"a": 1, "b": [1.0, "text", None, {2}]}, protocol))
        with pytest.raises(UserError, match="it is a pickle that torch.save did not write"):
            checkpoint.read_tensors(path)


def storage(length, form):
    """Opcodes for a storage of so many numbers."""
    view = b"N" if form == "before 1.6" else b""
    name, key, place = (b"X" + len(word).to_bytes(4, "little") + word for word in (b"storage", b"0", b"cpu"))
    return b"(" + name + b"ctorch\nFloatStorage\n" + key + place + b"J" + length.to_bytes(4, "little") + view + b"tQ"


def tensor(length, size, stride, form):
    sizes = b"J" + size.to_bytes(4, "little") + b"\x85J" + stride.to_bytes(4, "little") + b"\x85"
    return (
        b"ctorch._utils\n_rebuild_tensor_v2\n(" + storage(length, form) + b"K\x00" + sizes
        + b"\x89ccollections\nOrderedDict\n)RtR"
    )  # fmt: skip


MANY = 700_000_000  # 2.6 GiB of float32
HARMFUL = {
    "a storage": lambda form: storage(MANY, form),
    "a tensor beyond its storage": lambda form: tensor(1, MANY, 1, form),
    "a tensor of one number": lambda form: tensor(1, MANY, 0, form),
    "bytes": lambda form: b"cbuiltins\nbytearray\nJ" + MANY.to_bytes(4, "little") + b"\x85R",
    "an old tensor": lambda form: b"ctorch\nFloatTensor\nJ" + MANY.to_bytes(4, "little") + b"\x85R",
    "a bytearray": lambda form: b"\x96" + MANY.to_bytes(8, "little"),
    "a name": lambda form: b"X" + MANY.to_bytes(4, "little"),
    "a list of itself": lambda form: b"]q\x00h\x00a",
    "many lists": lambda form: b"Nq\x00" + b"".join(b"h%ch%c\x86q%c" % (i, i, i + 1) for i in range(60)),
    "lists in lists": lambda form: b"N" + 100_000 * b"\x85",
}


READ = """
import resource, sys, time
import torch
from fastgan._errors import UserError
from fastgan.training import checkpoint
resource.setrlimit(resource.RLIMIT_DATA, (3 << 28, 3 << 28))
for path in sys.argv[1:]:
    began = time.process_time()
    try:
        checkpoint.read_tensors(path)
    except UserError as error:
        print(error)
    assert time.process_time() - began < 5
"""


def test_small_files_take_little_memory_and_time(tmp_path):
    """Three quarters of a GiB, of which torch itself takes a quarter."""
    paths = []
    for name, harmful in HARMFUL.items():
        for form in ("zipped", "before 1.6"):
            paths.append(tmp_path / f"{name}, {form}.pth")
            content = b"\x80\x02" + harmful(form) + b"."
            if form == "zipped":
                write_zip(paths[-1], content, bytes(4))
            else:
                paths[-1].write_bytes(legacy(content))
    paths.append(tmp_path / "packed.pth")
    write_zip(paths[-1], pickle.dumps({}, 2), bytes(1_000_000_000), zipfile.ZIP_DEFLATED)
    assert max(path.stat().st_size for path in paths) < 1_000_000
    done = subprocess.run([sys.executable, "-c", READ, *paths], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert len(lines) == len(paths) and all(str(path) in line for path, line in zip(paths, lines)), done.stdout


def test_what_torch_writes_is_read(tmp_path):
    network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4))
    shared = torch.arange(12.0)
    content = {
        "network": network.state_dict(),
        "parameters": dict(network.named_parameters()),
        "views": [shared[:6], shared.view(3, 4).t(), shared[11]],
        "kinds": [torch.zeros(2, dtype=dtype) for dtype in (torch.bfloat16, torch.int64, torch.bool, torch.complex64)],
        "new kinds": [torch.zeros(2, dtype=torch.uint16), torch.zeros(2).to(torch.float8_e4m3fn)],
        "plain": [1, 2.5, "text", None, True, (), {3: 4}, {5}, b"bytes", 2**70, 1j, torch.float16, torch.Size([1, 2])],
        "empty": torch.zeros(0, 3),
        "device": torch.device("cpu"),
    }
    path = tmp_path / "file.pt"
    for new in (True, False):
        if not new:
            del content["new kinds"]  # which torch does not read in the old form
        torch.save(content, path, _use_new_zipfile_serialization=new)
        read = checkpoint.read_tensors(path)
        assert read.keys() == content.keys() and read["plain"] == content["plain"]
        assert torch.equal(read["network"]["0.weight"], network[0].weight)
        assert torch.equal(read["views"][1], content["views"][1])
        with open(path, "rb") as file:
            seen = outline(file)
        assert seen["network"]["0.weight"] == TensorOutline((4, 3, 3, 3))
        assert [each.shape for each in seen["views"]] == [(6,), (4, 3), ()]


def test_the_step_is_seen_without_reading_the_tensors(tmp_path, monkeypatch):
    path = tmp_path / "checkpoint.pt"
    torch.save({"progress": {"step": 7}, "state": torch.zeros(1000)}, path)
    monkeypatch.setattr(torch, "load", None)
    assert checkpoint.step_of(path) == 7
    for content in (b"", b"text", path.read_bytes()[:-100]):
        path.write_bytes(content)
        assert checkpoint.step_of(path) is None
    assert checkpoint.step_of(tmp_path / "missing") is None


def test_names_of_what_could_run_are_full(tmp_path):
    path = tmp_path / "file.pt"
    torch.save({"network": nn.Linear(1, 1)}, path)
    with pytest.raises(UserError, match=re.escape("(torch.nn.modules.linear.Linear)")):
        checkpoint.read_tensors(path)
