"""The README's lines for a reader's own model run as they stand: eager, under autocast, compiled in one graph."""

import re
from pathlib import Path

import pytest
import torch

from .twins import cyclegan

README = Path(__file__).resolve().parent.parent / "README.md"


def run_block(name, **defined):
    """What the README's lines between <!-- name --> and <!-- /name --> define, by running them."""
    block = rf"<!-- {name} -->\s*```python\n(.*?)```\s*<!-- /{name} -->"
    found = re.findall(block, README.read_text(encoding="utf-8"), re.DOTALL)
    assert len(found) == 1, f"README.md needs one python block between <!-- {name} --> and <!-- /{name} -->"
    assert "fastgan" in found[0] and len(found[0].strip().splitlines()) <= 16
    torch.manual_seed(0)
    exec(compile(found[0], f"{README.name} ({name})", "exec"), defined)
    return defined


@pytest.fixture(scope="module")
def names():
    return run_block("own-project")


def test_a_model_of_stock_layers(capsys):
    generator = cyclegan.Generator(4, 1)
    images = torch.rand(1, 3, 16, 16)
    expected = generator(images)
    run_block("own-model", generator=generator)
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "model.0, model.1: ReflectionPad2d, Conv2d -> fastgan.functional.reflection_pad_conv2d"
    assert len(lines) > 8
    torch.testing.assert_close(generator(images), expected, rtol=1e-4, atol=1e-4)


def backward(model, y):
    model.zero_grad(set_to_none=True)
    y.float().square().mean().backward()
    grads = [p.grad for p in model.parameters()]
    assert all(g is not None and g.isfinite().all() for g in grads)
    return grads


def test_the_model_is_fused(names):
    kinds = {type(module).__module__.split(".")[0] for module in names["model"].modules()}
    assert "fastgan" in kinds and isinstance(names["images"], torch.Tensor)


def test_eager(names):
    y = names["model"](names["images"])
    assert y.isfinite().all()
    backward(names["model"], y)


def test_autocast(names):
    model, images = names["model"], names["images"]
    with torch.autocast(images.device.type, dtype=torch.bfloat16):
        y = model(images)
    assert y.dtype == torch.bfloat16
    torch.testing.assert_close(y.float(), model(images), rtol=0.1, atol=0.1)
    backward(model, y)


@pytest.mark.parametrize("autocast", [False, True], ids=["", "autocast"])
def test_compiled(names, autocast):
    model, images = names["model"], names["images"]
    torch._dynamo.reset()
    compiled = torch.compile(model, fullgraph=True, backend="aot_eager" if autocast else "inductor")
    with torch.autocast(images.device.type, dtype=torch.bfloat16, enabled=autocast):
        expected, y = model(images), compiled(images)
    tolerance = 0.05 if autocast else 1e-4
    torch.testing.assert_close(y, expected, rtol=tolerance, atol=tolerance)
    grads, compiled_grads = backward(model, expected), backward(model, y)
    for a, b in zip(compiled_grads, grads):
        torch.testing.assert_close(a, b, rtol=tolerance, atol=tolerance)
    torch._dynamo.reset()
