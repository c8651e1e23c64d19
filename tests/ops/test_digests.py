"""The digests that `make gpu-check` compares between two processes: same inputs, same lines, one for every op."""

import pytest
import torch

from fastgan.ops import _dispatch

from . import digests

SMALL = ["--device", "cpu", "--side", "8", "--channels", "5"]


@pytest.mark.skipif(not _dispatch.EXTENSION_LOADED, reason="the C++ kernels are not built")
def test_two_runs_print_the_same(capsys):
    outputs = []
    for _ in range(2):
        digests.main(SMALL)
        outputs.append(capsys.readouterr().out.splitlines())
    assert outputs[0] == outputs[1]
    shown = {line.split()[0] for line in outputs[0]}
    assert shown == {f.__name__ for f, op in digests.PROGRAMS.items() if op != "reflection_pad_conv2d"}


def test_a_bit_changes_the_digest():
    x = torch.ones(3)
    assert digests.digest([x]) != digests.digest([torch.nextafter(x, 2 * x)])
