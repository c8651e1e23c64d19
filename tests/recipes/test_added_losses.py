"""A loss that a subclass of a recipe adds is logged like those that were there, in its place."""

import io
import json

import pytest
import torch

from fastgan import recipes
from fastgan.training.log import PlainLines
from tests.recipes.test_no_waiting import CASES, make, make_batch
from tests.test_docs import ROOT
from tests.training.tiny_recipe import new_loop

HOOKED = {"cyclegan": ["G_A", "cycle_A", "idt_A", "mine", "D_A", "G_B", "cycle_B", "idt_B", "D_B"]}
HOOKED |= {"pix2pix": ["G_GAN", "G_L1", "mine", "D_real", "D_fake"], "dcgan": ["D_real", "D_fake", "G", "mine"]}
ORDER = {
    "cyclegan-wgangp": ["G_A", "cycle_A", "idt_A", "D_A", "gp_A", "G_B", "cycle_B", "idt_B", "D_B", "gp_B"],
    "dcgan-r1": ["D_real", "D_fake", "r1", "G"],
    "dcgan-1-optimizer": ["D_real", "D_fake", "G"],
    "pix2pix-batch": ["G_GAN", "G_L1", "D_real", "D_fake"],
    "wgan_gp": ["D", "distance", "gp", "G"],
}


class Items(torch.utils.data.Dataset):
    """One batch, item by item."""

    fingerprint = None

    def __init__(self, batch):
        self.batch = batch

    def __len__(self):
        return len(next(iter(self.batch.values())))

    def __getitem__(self, key):
        return {name: values[key[1]] for name, values in self.batch.items()}


def with_loss(name):
    """A subclass of the recipe with a loss more: among those of the generators where these are to be extended."""
    base = recipes.get(name)

    class Mine(base):
        def generator_losses(self, *given):
            losses = super().generator_losses(*given)
            fake = given[1]["fake"] if name == "cyclegan" else given[2] if name == "pix2pix" else given[1]
            if not isinstance(given[0], str) or given[0] == "A":  # of CycleGAN's two directions, the one from A
                losses["mine"] = 100 * fake.square().mean()
            return losses

        def compute(self, batch, decided):
            losses = super().compute(batch, decided)
            return losses if name in HOOKED else losses | {"mine": losses[next(iter(losses))] * 2}

    return Mine


@pytest.mark.parametrize("name", recipes.RECIPES)
def test_a_loss_more_is_logged(name, tmp_path):
    plain = make(name)
    torch.manual_seed(1)
    batch = make_batch(plain)
    torch.manual_seed(0)
    recipe = with_loss(name)(plain.options)
    printed = io.StringIO()
    loop = new_loop(
        tmp_path / "run",
        recipe=recipe,
        dataset=Items(batch),
        display=PlainLines(1, 0, printed),
        max_steps=1,
        batch_size=4,
        print_freq=1,
    )
    loop.run()
    (line,) = (tmp_path / "run" / "losses.jsonl").read_text().splitlines()
    losses = json.loads(line)["losses"]
    expected = HOOKED.get(name) or [*plain.step(batch), "mine"]
    assert list(losses) == expected
    assert [part.split()[0] for part in printed.getvalue().strip().split("  ")[-len(losses) :]] == expected
    assert f"mine {losses['mine']:.3f}" in printed.getvalue()


@pytest.mark.parametrize("name", HOOKED)
def test_a_loss_more_of_the_generators_trains_them(name):
    weights = []
    for recipe_class in (recipes.get(name), with_loss(name)):
        options = make(name).options
        torch.manual_seed(0)
        recipe = recipe_class(options)
        torch.manual_seed(1)
        recipe.step(make_batch(recipe))
        weights.append({key: [p.detach().clone() for p in part.parameters()] for key, part in recipe.networks.items()})
    changed = {
        key
        for key, plain in weights[0].items()
        if not all(torch.equal(one, other) for one, other in zip(plain, weights[1][key]))
    }
    assert changed == {"G_A" if name == "cyclegan" else "G"}, "the one whose images the loss is of"


@pytest.mark.parametrize("case", ORDER)
def test_the_order_of_the_losses(case):
    assert case in CASES
    recipe = make(case)
    assert list(recipe.step(make_batch(recipe))) == ORDER[case]


def test_the_critic_of_wgan_gp_minimises_what_the_paper_writes():
    recipe = make("wgan_gp")
    losses = recipe.step(make_batch(recipe))
    assert torch.equal(losses["D"], -losses["distance"] + losses["gp"])


def test_the_loss_of_the_docs():
    text = (ROOT / "docs" / "extending.md").read_text(encoding="utf-8")
    code = text.split("<!-- own-loss -->")[1].split("<!-- /own-loss -->")[0].strip().removeprefix("```python")
    names = {}
    exec(code.removesuffix("```"), names)
    recipe = names["Smooth"](make("pix2pix").options)
    losses = recipe.step(make_batch(recipe))
    assert list(losses) == ["G_GAN", "G_L1", "smooth", "D_real", "D_fake"] and losses["smooth"] > 0
