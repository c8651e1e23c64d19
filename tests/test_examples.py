"""Every file in examples runs, and does what it says."""

import importlib.util
import json
import math
import re
from pathlib import Path

import pytest
import torch

import fastgan

ROOT = Path(__file__).resolve().parent.parent
EXAMPLES = ROOT / "examples"


@pytest.fixture(autouse=True)
def as_it_was():
    """Training puts a backend and a seed in force."""
    with fastgan.backend("auto"), torch.random.fork_rng(devices=[]):
        yield


def load(name):
    specification = importlib.util.spec_from_file_location(f"example_{name}", EXAMPLES / f"{name}.py")
    module = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(module)
    return module


def cells(kind):
    notebook = json.loads((EXAMPLES / "readme.ipynb").read_text(encoding="utf-8"))
    return ["".join(cell["source"]) for cell in notebook["cells"] if cell["cell_type"] == kind]


def test_all_are_tested_here():
    text = Path(__file__).read_text(encoding="utf-8")
    scripts = {path.stem for path in EXAMPLES.glob("*.py")}
    assert scripts == set(re.findall(r'load\("(\w+)"\)', text)) and len(scripts) == 4


def test_own_training_script():
    script = EXAMPLES / "train_own_gan.py"
    losses = load("train_own_gan").main(steps=5)
    assert len(losses) == 5 and all(map(math.isfinite, losses)) and len(set(losses)) == 5
    assert len([line for line in script.read_text().splitlines() if line.strip()]) <= 50


def test_fusing_somebody_elses_model(capsys):
    fused, stock = load("fuse_a_model").main()
    assert fused < 1e-5 and stock == 0.0
    assert capsys.readouterr().out.count("-> fastgan.functional.reflection_pad_conv2d") == 4


def test_gradient_penalty():
    differences = load("gradient_penalty").main()
    assert {"0.weight", "1.weight", "2.weight"} <= differences.keys()
    assert max(differences.values()) < 1e-5


def test_onnx(tmp_path):
    pytest.importorskip("onnxruntime")
    assert load("export_onnx").main(tmp_path) < 1e-4


def test_the_notebook_follows_the_readme():
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    headings = re.findall(r"^## (.*)$", readme, re.MULTILINE)
    assert (
        re.findall(r"^## (.*)$", "\n".join(cells("markdown")), re.MULTILINE) == headings[: headings.index("Leave") + 1]
    )
    assert re.search(r"<!-- own-model -->\n```python\n(.*?)\n```", readme, re.DOTALL)[1] in cells("code")


def test_the_notebook_runs(capsys):
    """Its cells in order, as a notebook's kernel runs them."""
    names = {}
    for cell in cells("code"):
        exec(compile(cell, "readme.ipynb", "exec"), names)
    out = capsys.readouterr().out
    assert "finished 4 steps" in out and "G_A.pt2: torch.export agrees with fastgan" in out
    assert (names["folder"] / "cgan" / "generated.png").stat().st_size > 1000
