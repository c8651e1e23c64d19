"""fastgan.reference as a whole: it is plain torch, and each model has its recipe's options, weights and training."""

import ast
import copy
import inspect
import sys
from pathlib import Path

import pytest
import torch

import fastgan
from fastgan import recipes, reference, train
from fastgan.cli import command

from .harness import STEPS, WAYS, Way, assert_rounding_explains, distances, start

TRANSLATION = dict(ngf=2, ndf=2)
LATENT = dict(latent_size=5, image_size=12)
SIZES = {"cyclegan": TRANSLATION, "pix2pix": TRANSLATION}
NETWORKS = {"resnet_9blocks": {"n_blocks": 9}, "resnet_6blocks": {"n_blocks": 6}} | {
    "unet_256": {"num_downs": 8},
    "unet_128": {"num_downs": 7},
}
# A step takes milliseconds, and at this rate rounding grows little in STEPS steps. At WGAN's it does not: glyphs have
# constant pixels, whose rounding the critic's batch norms enlarge.
SHORT = ["--lr", "1e-6", "--max-steps", str(STEPS), "--no-channels-last", "--device", "cpu", "--backend", "reference"]
FLAGS = {
    "cyclegan": "--netG resnet_6blocks --ngf 4 --ndf 4 --pool-size 4 --load-size 36 --crop-size 32 --eval-pairs 0",
    "pix2pix": "--netG unet_128 --ngf 4 --ndf 4 --load-size 144 --crop-size 128 --batch-size 1 --eval-pairs 0",
}
OF_GLYPHS = "--image-size 12 --latent-size 8 --batch-size 8 --max-dataset-size 256 --sample-count 1 --eval-images 0"


def model_like(name, options):
    """The reference model of a recipe with these options."""
    named = {key: getattr(options, key, None) for key in inspect.signature(reference.get(name)).parameters}
    return reference.get(name)(**named | NETWORKS.get(getattr(options, "netG", ""), {}))


def small(name):
    """A small recipe and its reference model, made one after the other under the same seed."""
    kind = recipes.get(name)
    torch.manual_seed(0)
    recipe = kind(kind.Options(**SIZES.get(name, LATENT)))
    torch.manual_seed(0)
    return recipe, model_like(name, recipe.options)


def test_it_imports_torch_alone():
    files = list(Path(reference.__file__).parent.glob("*.py"))
    assert len(files) == len(reference.MODELS) + 2
    for path in files:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                names = [each.name for each in node.names]
            elif isinstance(node, ast.ImportFrom):
                assert node.level <= 1, f"{path.name} imports from above its folder"
                names = [] if node.level else [node.module]
            else:
                continue
            assert {name.split(".")[0] for name in names} <= {"torch", *sys.stdlib_module_names}, path.name


def test_every_recipe_has_a_model():
    assert list(reference.MODELS) == list(recipes.RECIPES)
    for name in recipes.RECIPES:
        assert reference.get(name).__name__ == recipes.get(name).__name__
    with pytest.raises(ValueError, match="unknown reference model 'nogan'; choose one of gan, dcgan"):
        reference.get("nogan")


@pytest.mark.parametrize("name", recipes.RECIPES)
def test_arguments_have_the_names_and_defaults_of_the_options(name):
    options = recipes.get(name).Options()
    defaults = {key: each.default for key, each in inspect.signature(reference.get(name)).parameters.items()}
    network = NETWORKS.get(getattr(options, "netG", ""), {})
    assert defaults == {key: getattr(options, key, None) for key in defaults} | network


@pytest.mark.parametrize("name", recipes.RECIPES)
def test_under_one_seed_both_begin_with_the_same_weights_and_pools(name):
    recipe, model = small(name)
    for key, network in recipe.networks.items():
        ours, its = network.state_dict(), model.networks[key].state_dict()
        assert all(torch.equal(value, its[entry]) for entry, value in ours.items())
    for key, pool in getattr(model, "pools", {}).items():
        assert torch.equal(pool.generator.get_state(), recipe.pools[key].generator.get_state())


@pytest.mark.parametrize("name", recipes.RECIPES)
def test_state_dicts_load_strictly_both_ways(name):
    recipe, model = small(name)
    assert recipe.networks.keys() == model.networks.keys()
    for key, ours in recipe.networks.items():
        its = model.networks[key]
        assert list(ours.state_dict()) == list(its.state_dict())
        for source, target in ((ours, its), (its, ours)):
            state = {entry: torch.rand(value.shape).to(value) for entry, value in source.state_dict().items()}
            source.load_state_dict(state)
            target.load_state_dict(source.state_dict(), strict=True)
            assert all(torch.equal(value, state[entry]) for entry, value in target.state_dict().items())


@pytest.mark.parametrize("name", recipes.RECIPES)
def test_the_train_command_by_backend_reference_trains_the_same(name, monkeypatch, tmp_path):
    """The recipe repeats the run bit for bit; in float64 it and the model do the same on the batches of the run."""
    kind = recipes.get(name)
    step, first, batches, losses = kind.step, [], [], []

    def recorded(recipe, batch):
        if not batches:
            first.append((recipe.options, copy.deepcopy(recipe.state_dict())))
        torch.manual_seed(len(batches))
        batches.append({key: value.clone() for key, value in batch.items() if isinstance(value, torch.Tensor)})
        losses.append(step(recipe, batch))
        return losses[-1]

    with fastgan.backend("auto"), monkeypatch.context() as patch:
        patch.setattr(kind, "step", recorded)
        flags = FLAGS.get(name, OF_GLYPHS).split()
        assert command.run(train.main, [name, *SHORT, *flags, "--checkpoints-dir", str(tmp_path)]) == 0
    assert len(batches) == STEPS
    ((options, state),) = first

    def again():
        recipe = kind(options)
        recipe.load_state_dict(state)
        return recipe

    with fastgan.backend("reference"):
        recipe = again()
        for number, (batch, expected) in enumerate(zip(batches, losses)):
            torch.manual_seed(number)
            found = recipe.step(batch)
            assert found.keys() == expected.keys() and all(torch.equal(found[key], expected[key]) for key in found)
        recipe, ways = again(), WAYS[1:]
        model, *others = [start(recipe, model_like(name, options), torch.float64)[1] for _ in range(1 + len(ways))]
        wide = [
            {key: value.double() if value.is_floating_point() else value for key, value in batch.items()}
            for batch in batches
        ]
        others = [Way(way, other) for way, other in zip(ways, others)]
        drift = assert_rounding_explains(*distances(recipe, model, others, wide, followed=False))
    assert drift["loss"] < 1e-6, "rounding would hide a mistake"
