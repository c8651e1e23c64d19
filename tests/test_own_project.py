"""The lines of README and docs for a reader's own model run as they stand: eager, under autocast, in one graph."""

import re
import sys
from pathlib import Path
from types import ModuleType

import pytest
import torch

from fastgan import recipes
from fastgan.reference import cyclegan

ROOT = Path(__file__).resolve().parent.parent


def run_block(page, name, **defined):
    """What a page's lines between <!-- name --> and <!-- /name --> define, by running them."""
    block = rf"<!-- {name} -->\s*```python\n(.*?)```\s*<!-- /{name} -->"
    found = re.findall(block, (ROOT / page).read_text(encoding="utf-8"), re.DOTALL)
    assert len(found) == 1, f"{page} needs one python block between <!-- {name} --> and <!-- /{name} -->"
    assert "fastgan" in found[0] and len(found[0].strip().splitlines()) <= 16
    torch.manual_seed(0)
    exec(compile(found[0], f"{page} ({name})", "exec"), defined)
    return defined


@pytest.fixture(scope="module")
def names():
    return run_block("docs/layers.md", "own-project")


def test_a_model_of_stock_layers(capsys):
    generator = cyclegan.Generator(4, 1)
    images = torch.rand(1, 3, 16, 16)
    expected = generator(images)
    run_block("README.md", "own-model", generator=generator)
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "model.0, model.1: ReflectionPad2d, Conv2d -> fastgan.functional.reflection_pad_conv2d"
    assert len(lines) > 8
    torch.testing.assert_close(generator(images), expected, rtol=1e-4, atol=1e-4)


def test_a_reference_model():
    defined = run_block("docs/recipes.md", "reference-model")
    assert set(defined["losses"]) == {"D_real", "D_fake", "G"} and defined["images"].shape == (8, 1, 28, 28)
    assert all(loss.isfinite() for loss in defined["losses"].values())


def test_a_recipe(monkeypatch):
    module = ModuleType("mine")
    monkeypatch.setitem(sys.modules, "mine", module)
    monkeypatch.setattr(recipes, "RECIPES", dict(recipes.RECIPES))
    vars(module).update(run_block("docs/extending.md", "own-recipe", __name__="mine"))
    recipe_class = recipes.get("lsgan")
    assert recipe_class is module.LSGAN
    recipe = recipe_class(recipe_class.Options(latent_size=4, image_size=12))
    losses = recipe.step({"image": torch.rand(2, 1, 12, 12) * 2 - 1, "label": torch.zeros(2, dtype=torch.int64)})
    torch.testing.assert_close(recipe.gan_loss(torch.tensor([3.0, 1.0]), True), torch.tensor(2.0))
    assert set(losses) == {"D_real", "D_fake", "G"} and all(loss.isfinite() for loss in losses.values())


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
