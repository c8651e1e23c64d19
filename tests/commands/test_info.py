"""python -m fastgan.info, as a user meets it; and python -m fastgan, which lists the commands."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

import fastgan
from fastgan import __main__ as commands
from fastgan import info
from fastgan.ops import _dispatch


def test_every_op_is_in_the_report(call):
    outcome = call(info)
    assert outcome.code == 0 and not outcome.err
    for op in _dispatch.OPS:
        assert re.search(rf"^  {op}: \w", outcome.out, re.M), op


def test_a_forced_backend_that_cannot_serve_is_reported_not_raised(call, monkeypatch):
    monkeypatch.setattr(_dispatch, "TRITON_INTERPRETED", False)
    with fastgan.backend(instance_norm="triton", reflection_pad2d="triton"):
        outcome = call(info)
    assert outcome.code == 0, outcome.err
    said = "  instance_norm: nothing\n      not triton (forced): Triton kernels need a CUDA device\n  l1_loss"
    assert "cuda" in outcome.out or said in outcome.out
    assert "reflection_pad_conv2d: an error: reflection_pad2d: the backend 'triton' was asked for" in outcome.out


@pytest.mark.parametrize(
    ("variable", "argv", "sentence"),
    [
        ("", ["--list"], "unknown argument '--list': python -m fastgan.info --help lists what there is"),
        ("quick", [], "FASTGAN_BACKEND='quick': unknown backend 'quick': choose auto"),
    ],
)
def test_bad_input_is_an_error(call, monkeypatch, variable, argv, sentence):
    monkeypatch.setenv("FASTGAN_BACKEND", variable)
    try:
        _dispatch.read_environment()
        outcome = call(info, *argv)
    finally:
        fastgan.set_backend("auto")
    assert outcome.code == 2 and outcome.err.startswith(f"error: {sentence}") and outcome.err.count("\n") == 1


def test_every_command_is_listed(call):
    outcome = call(commands)
    assert outcome.code == 0 and not outcome.err
    folder = Path(fastgan.__file__).parent
    names = {path.stem for path in folder.glob("[a-z]*.py") if "command.run(main)" in path.read_text(encoding="utf-8")}
    assert {line.split(".")[1].split()[0].rstrip(":") for line in outcome.out.splitlines()} == names
    assert call(commands, "train", "vae").err.endswith("write a point, not a space: python -m fastgan.train vae\n")


def test_a_reader_that_goes_away():
    process = subprocess.Popen([sys.executable, "-m", "fastgan.info"], stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    process.stdout.close()
    assert process.stderr.read() == b""
    process.stderr.close()
    assert process.wait() == 141
