"""A state that is not of the form that its recipe gives is refused before any of it is used."""

import io
import random

import numpy
import pytest
import torch

from fastgan import recipes
from fastgan._form import FormError, check_form, short
from fastgan.recipes._base import _load_optimizer, make_capturable
from fastgan.training import checkpoint, loop, rng, settings
from fastgan.training.checkpoint import Progress
from fastgan.training.recent_losses import NonFiniteLoss, check_rest, check_weights
from fastgan.training.train_options import TrainOptions
from tests.fuzz.trees import GONE, changed, nodes, wrong
from tests.training.tiny_recipe import CLASSES, TinyDataOptions

PAIRS = dict(netG="resnet_6blocks", ngf=2, netD="n_layers", n_layers_D=1, ndf=2)
SYSTEMS = {
    "cyclegan": ({**PAIRS, "pool_size": 2, "lr_policy": "plateau"}, "fp32"),
    "pix2pix": ({**PAIRS, "pool_size": 2, "lr_policy": "cosine"}, "fp32"),
    "wgan": (dict(image_size=12, n_critic=2), "fp32"),
    "vae": (dict(image_size=12), "fp16"),
}


class Images(torch.utils.data.Dataset):
    fingerprint = None

    def __len__(self):
        return 8


def build(name):
    options, precision = SYSTEMS[name]
    torch.manual_seed(0)
    recipe_class = recipes.get(name)
    return recipe_class(recipe_class.Options(**options), precision=precision).to("cpu")


def trained(name):
    recipe = build(name)
    size, channels = (16, 3) if recipe.directions else (12, 1)
    for _ in range(3):
        images = {
            key: torch.rand(1 if recipe.directions else 4, channels, size, size) * 2 - 1 for key in ("A", "B", "image")
        }
        losses = recipe.step(images | {"label": torch.arange(4)})
    recipe.end_epoch({key: float(value) for key, value in losses.items()})
    return recipe


def content_of(recipe):
    run = settings.Settings(
        recipe.name, "paper", {"train": TrainOptions(), "data": TinyDataOptions(), "recipe": recipe.options}
    )
    progress = Progress(3, 1, 2, 1.5, {"G": 1.0}, {"G": 2}, {"G": 0.5})
    file = io.BytesIO()
    torch.save(
        {
            "format": checkpoint.FORMAT,
            "version": checkpoint.VERSION,
            "recipe": recipe.name,
            "description": run.to_json(),
            "progress": vars(progress),
            "state": recipe.state_dict(),
            "rng": rng.state(),
            "data": {"length": 8, "seed": 0},
            "versions": checkpoint.versions(),
        },
        file,
    )
    return torch.load(io.BytesIO(file.getvalue()), weights_only=True)


# What depends on the version of torch, or is said by options alone, and may be missing or of any kind where None is its
# default: it is not read.
NOT_READ = {"_last_lr", "lr_lambdas", "_is_initial", "_get_lr_called_within_step", "_step_count", "foreach", "versions"}


@pytest.mark.parametrize("name", SYSTEMS)
def test_whatever_is_wrong_in_a_checkpoint_is_an_error(name, tmp_path):
    generator = random.Random(name)
    recipe = trained(name)
    content = content_of(recipe)
    fresh = build(name)
    path = tmp_path / "checkpoint.pt"
    restored(fresh, content, path)  # unchanged, it is taken
    good = checkpoint.load(path)

    refused = 0
    for place in nodes(content):
        if place[0] == "description" or NOT_READ & set(place):
            continue
        value = content
        for key in place:
            value = value[key]
        new = wrong(value, generator)
        optional = {"param_groups", "schedulers"} & set(place) and isinstance(place[-1], str)
        if new is GONE and optional and place[-1] not in ("lr", "params", "last_epoch", "base_lrs"):
            continue  # a torch of another version may have no such option
        if place == ("rng", "python", 2) or ("images" in place and getattr(new, "dtype", None) == torch.float64):
            continue  # half a pair of normals; images of any precision
        before = rng.state()["torch"]
        with pytest.raises(ValueError) as raised:
            if place[0] == "state" and len(place) > 1:
                loop.restore(fresh, Images(), changed(good, place, new))
            else:
                restored(fresh, changed(content, place, new), path)
            pytest.fail(f"{place}: {short(new)} in place of {short(value)} was taken")
        assert "\n" not in str(raised.value) and len(str(raised.value)) < 400, str(raised.value)
        assert torch.equal(before, rng.state()["torch"])
        refused += 1
    assert refused > 50


def restored(recipe, content, path):
    torch.save(content, path)
    read = checkpoint.load(path)
    checkpoint.check_recipe(read, recipe.name, path)
    return loop.restore(recipe, Images(), read)


@pytest.mark.parametrize("name", ["wgan", "pix2pix"])
def test_options_of_another_kind_are_errors(name):
    recipe = build(name)
    description = content_of(recipe)["description"]
    classes = CLASSES | {"recipe": recipe.Options}
    generator = random.Random(name)
    settings.resume(description, classes, {})
    for group, options in description["options"].items():
        for option, value in options.items():
            if option == "input_nc":
                continue  # an option of two groups
            new = wrong(value, generator)
            if new is GONE:
                continue  # a version that had no such option
            with pytest.raises(ValueError) as raised:
                settings.resume(changed(description, ("options", group, option), new), classes, {})
                pytest.fail(f"{option} = {new!r} was taken")
            assert option in str(raised.value).replace("-", "_") and "\n" not in str(raised.value)


@pytest.mark.parametrize(
    "optimizer",
    [
        lambda weights: torch.optim.Adam(weights, amsgrad=True),
        lambda weights: torch.optim.Adam(weights, fused=True),
        lambda weights: torch.optim.RMSprop(weights, momentum=0.9, centered=True),
        lambda weights: torch.optim.SGD(weights, lr=0.1, momentum=0.9),
        lambda weights: torch.optim.AdamW(weights),
    ],
)
def test_every_moment_of_every_optimizer_is_checked(optimizer):
    weights = [torch.nn.Parameter(torch.randn(4, 3)), torch.nn.Parameter(torch.randn(5))]
    trained, fresh = optimizer(weights), optimizer(weights)
    _load_optimizer(fresh, trained.state_dict(), "it")  # before the first step there are none
    assert not fresh.state
    for weight in weights:
        weight.grad = torch.randn_like(weight)
    trained.step()
    state = trained.state_dict()
    for index, moments in state["state"].items():
        for key, value in moments.items():
            for new in (GONE, value[None].expand(2, *value.shape), value.double(), torch.full_like(value, torch.nan)):
                with pytest.raises(ValueError, match=f"^it.state.{index}.*{key}"):
                    _load_optimizer(fresh, changed(state, ("state", index, key), new), "it")
    with pytest.raises(FormError, match="^it.state has no 1$"):
        _load_optimizer(fresh, changed(state, ("state", 1), GONE), "it")
    _load_optimizer(fresh, state, "it")
    for weight in weights:
        for key, value in trained.state[weight].items():
            assert torch.equal(fresh.state[weight][key], value)
            assert fresh.state[weight][key].data_ptr() != value.data_ptr()


@pytest.mark.parametrize("name", ["cyclegan", "wgan"])
def test_rates_that_were_saved_on_a_gpu_are_tensors(name):
    recipe, fresh = trained(name), build(name)
    for optimizer in recipe.optimizers.values():
        make_capturable(optimizer)
    state = recipe.state_dict()
    for new in (torch.zeros(2), torch.tensor(float("nan")), torch.tensor(-1.0), torch.tensor(1), None):
        with pytest.raises(ValueError, match=r"optimizers.D.param_groups.0.lr is"):
            fresh.load_state_dict(changed(state, ("optimizers", "D", "param_groups", 0, "lr"), new))
    fresh.load_state_dict(state)
    lr = recipe.options.lr
    for optimizer in fresh.optimizers.values():
        assert optimizer.param_groups[0]["lr"] == pytest.approx(lr, rel=2**-23)
        make_capturable(optimizer)
    rates = [optimizer.param_groups[0]["lr"] for optimizer in fresh.optimizers.values()]
    fresh.change_lr(lr, lr / 3)
    for optimizer, rate in zip(fresh.optimizers.values(), rates):  # in place, where a recorded step reads it
        assert optimizer.param_groups[0]["lr"] is rate and float(rate) == pytest.approx(lr / 3, rel=2**-22)


def test_a_position_beyond_numpys_words_is_refused():
    state = rng.state()
    name, words, _, *rest = state["numpy"]
    for position in (-1, 625, 10**7):  # numpy itself takes these, and then reads what lies behind its words
        with pytest.raises(ValueError, match="the checkpoint's state of the random generators.numpy is damaged"):
            rng.restore(state | {"numpy": (name, words, position, *rest)})
    with pytest.raises(ValueError, match="random generators is damaged"):
        rng.restore(state | {"torch": torch.zeros_like(state["torch"])})
    before = numpy.random.get_state()[1]
    rng.restore(state)
    assert (numpy.random.get_state()[1] == before).all()


@pytest.mark.parametrize("name", ["cyclegan", "wgan"])
def test_what_would_be_refused_is_not_saved(name):
    recipe = trained(name)
    check_weights(recipe.networks, recipe.optimizers, 1)
    for key, optimizer in recipe.optimizers.items():
        for moment in ("exp_avg_sq", "square_avg"):
            for state in list(optimizer.state.values())[-1:]:
                if moment in state:
                    state[moment].flatten()[0] = float("inf")
                    with pytest.raises(NonFiniteLoss, match=f"the moments {moment} of the optimizer {key} are not fin"):
                        check_weights(recipe.networks, {key: optimizer}, 7)


def test_statistics_and_pools_that_would_be_refused_are_not_saved():
    recipe = trained("pix2pix")
    statistics = next(key for key in recipe.networks["G"].state_dict() if key.endswith("running_mean"))
    recipe.networks["G"].state_dict()[statistics][0] = float("nan")
    with pytest.raises(NonFiniteLoss, match=f"the weights {statistics} of G are not finite after step 7"):
        check_weights(recipe.networks, recipe.optimizers, 7)
    check_rest(recipe.state_dict(), 7)
    recipe = trained("cyclegan")
    state = recipe.state_dict()
    check_rest(state, 7)
    pool = next(iter(state["pools"]))
    state["pools"][pool]["images"][0].view(-1)[0] = float("inf")
    with pytest.raises(NonFiniteLoss, match=f"pools.{pool}.images.0 is not finite after step 7"):
        check_rest(state, 7)


@pytest.mark.parametrize(
    ("value", "like"),
    [
        (1, 2.0),
        (True, False),
        ({}, dict),
        ([1, 2], [0, 0]),
        ((), ()),
        (None, None),
        (float("inf"), float("inf")),
        (torch.ones(2), torch.zeros(2)),
        ({"a": [1.0]}, {"a": [float]}),
    ],
)
def test_forms_that_fit(value, like):
    check_form(value, like, "it")


@pytest.mark.parametrize(
    ("value", "like", "sentence"),
    [
        (True, 1, "it is True, where an int belongs"),
        (1, True, "it is 1, where a bool belongs"),
        ([1], (1,), "it is a list of 1, where a tuple of 1 belongs"),
        ({"a": 1, "b": 2}, {"a": 1}, "it has 'b', which"),
        ({"a": {}}, {"a": {"b": 1}}, "it.a has no 'b'"),
        (float("nan"), 1.0, "it is nan, where a finite number belongs"),
        (10**400, 1.0, "where a finite number belongs"),
        (2**64, 1, "where a finite number belongs"),
        (
            torch.ones(3),
            torch.ones(2),
            r"it is a float32 tensor of shape \(3,\), where a float32 tensor of shape \(2,\)",
        ),
        (torch.ones(2, device="meta"), torch.ones(2), "it is a float32 tensor"),
    ],
)
def test_forms_that_do_not_fit(value, like, sentence):
    with pytest.raises(ValueError, match=sentence):
        check_form(value, like, "it")
