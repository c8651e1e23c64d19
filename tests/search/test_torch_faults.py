"""The examples of docs/torch-faults.md: torch still has the fault, or the test is skipped; ours never has it."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

PAGE = Path(__file__).resolve().parents[2] / "docs" / "torch-faults.md"
EXAMPLES = re.findall(r"^```python\n(.*?)^```", PAGE.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE)
NAMES = [
    f"{heading} {number}"
    for heading, text in re.findall(
        r"^## (.*?)\n(.*?)(?=^## |\Z)", PAGE.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE
    )
    for number in range(text.count("```python"))
]
IMPORT = re.compile(r"^from torch\.nn\.functional import (?:\w+ as )?(\w+)$", re.MULTILINE)

# Each example in a fork, so that one that crashes is counted and the next one runs.
RUNNER = """
import json, os, sys
import torch, fastgan.functional
torch.set_num_threads(1)
codes = []
for example in json.load(sys.stdin):
    child = os.fork()
    if child == 0:
        code = 1
        try:
            torch.manual_seed(0)
            exec(example, {})
            code = 0
        except BaseException as error:
            print(f"{type(error).__name__}: {error}", file=sys.stderr, flush=True)
        finally:
            os._exit(code)
    codes.append(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
print(json.dumps(codes))
"""


def run(examples):
    """The exit code of each example, and all that they print."""
    settings = {**os.environ, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-W", "ignore", "-c", RUNNER]
    done = subprocess.run(
        command, input=json.dumps(examples), capture_output=True, text=True, env=settings, cwd=PAGE.parents[1]
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1]), done.stderr


@pytest.fixture(scope="module")
def of_torch():
    return run(EXAMPLES)


@pytest.fixture(scope="module")
def of_fastgan():
    return run([IMPORT.sub(r"from fastgan.functional import \1", example) for example in EXAMPLES])


pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="the examples run in forks")
EACH = pytest.mark.parametrize("number", range(len(EXAMPLES)), ids=NAMES)


@EACH
def test_torch_has_the_fault(number, of_torch):
    if of_torch[0][number] == 0:
        pytest.skip("this torch, on this processor, is free of it")


@EACH
def test_fastgan_is_free_of_it(number, of_fastgan):
    if not IMPORT.search(EXAMPLES[number]):
        pytest.skip("an optimizer of torch's, which no function of ours replaces")
    codes, said = of_fastgan
    assert codes[number] == 0, f"the example ends with code {codes[number]}; the examples say:\n{said}"


def test_the_page_is_short_and_complete():
    """Every section has an example of at most 14 lines, and a line in the table."""
    text = PAGE.read_text(encoding="utf-8")
    assert len(EXAMPLES) == len(NAMES) >= 15
    assert all(len(example.strip().splitlines()) <= 14 for example in EXAMPLES)
    for heading in re.findall(r"^## (.*)$", text, re.MULTILINE):
        anchor = re.sub(r"[^a-z0-9 -]", "", heading.lower()).replace(" ", "-")
        assert f"(#{anchor})" in text, f"no line in the table leads to {heading!r}"
