"""python -m fastgan.train RECIPE --resume, as a user meets it: other lengths and rates, other data, damaged files."""

import json
import re
import time

import pytest
import torch

from fastgan import generate, recipes, train, translate
from fastgan.training import networks
from fastgan.training.checksum import checksum
from fastgan.training.networks import load_networks
from tests.commands.tiny_command import TINY

PAIRS = [*TINY, "--dataroot", "data", "--eval-pairs", 0, "--print-freq", 1]
SMALL = [
    "--image-size",
    12,
    "--max-dataset-size",
    8,
    "--batch-size",
    4,
    "--eval-images",
    0,
    "--device",
    "cpu",
    "--sample-count",
    1,
    "--print-freq",
    1,
]


@pytest.fixture
def pictures(images, tmp_path):
    for seed, folder in enumerate(("trainA", "trainB")):
        images(tmp_path / "data" / folder, sizes=[(16, 16)] * 2, seed=seed)


def rates(run):
    return [json.loads(line)["lr"] for line in (run / "losses.jsonl").read_text().splitlines()]


@pytest.mark.parametrize("policy", ["linear", "cosine"])
def test_another_length(call, pictures, tmp_path, policy):
    common = ["cyclegan", *PAIRS, "--lr-policy", policy]
    length = ["--n-epochs", 2, "--n-epochs-decay", 2]
    assert call(train, *common, "--name", "run", "--n-epochs", 1, "--n-epochs-decay", 1).code == 0
    outcome = call(train, "cyclegan", "--name", "run", "--resume", *length)
    assert outcome.code == 0, outcome.err
    assert re.search(
        r"changed +n_epochs 2 instead of 1, n_epochs_decay 2 instead of 1; the learning rates go on as if", outcome.out
    )
    assert call(train, *common, "--name", "whole", *length).code == 0
    resumed, whole = (rates(tmp_path / "checkpoints" / name) for name in ("run", "whole"))
    assert len(resumed) == len(whole) == 8 and resumed[4:] == whole[4:]
    outcome = call(train, "cyclegan", "--name", "run", "--resume", "--n-epochs", 1, "--n-epochs-decay", 1)
    assert outcome.code == 2 and "is complete; a larger --max-steps or --n-epochs" in outcome.err
    assert "8 steps and 4 epochs are made" in outcome.err and outcome.err.count("\n") == 1


@pytest.mark.parametrize("name", ["wgan", "vae"])
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_another_learning_rate_and_precision(call, tmp_path, name, precision):
    assert call(train, name, *SMALL, "--precision", "bf16", "--max-steps", 2).code == 0
    outcome = call(train, name, "--resume", "--lr", 1e-6, "--precision", precision, "--max-steps", 4)
    assert outcome.code == 0, outcome.err
    assert re.search(r"changed .*lr 1e-06 instead of .*: \w+ 1e-06", outcome.out)
    run = tmp_path / "checkpoints" / name
    assert {rate for line in rates(run)[2:] for rate in line.values()} == {1e-6}
    content = torch.load(run / "checkpoint.pt", weights_only=True)
    groups = [group for optimizer in content["state"]["optimizers"].values() for group in optimizer["param_groups"]]
    assert {group["lr"] for group in groups} == {1e-6}
    assert content["description"]["options"]["recipe"]["lr"] == 1e-6


def test_a_run_that_diverged_goes_on_with_a_lower_rate(call, pictures, tmp_path):
    assert call(train, "cyclegan", *PAIRS, "--max-steps", 2, "--lr", 1e-4).code == 0
    outcome = call(train, "cyclegan", "--resume", "--max-steps", 9, "--lr", 1e30, "--save-every", 0)
    assert outcome.code == 2 and "training stopped, the checkpoint of step 2 in" in outcome.err
    outcome = call(train, "cyclegan", "--resume", "--max-steps", 4, "--lr", 1e-5)
    assert outcome.code == 0, outcome.err
    assert [line["G"] for line in rates(tmp_path / "checkpoints" / "cyclegan")] == [1e-4, 1e-4, 1e-5, 1e-5]


def test_other_data(call, pictures, images, tmp_path):
    assert call(train, "cyclegan", *PAIRS, "--max-steps", 1).code == 0
    (tmp_path / "data").rename(tmp_path / "moved")
    assert call(train, "cyclegan", "--resume", "--dataroot", "moved", "--max-steps", 2).code == 0
    images(tmp_path / "moved" / "trainB", sizes=[(16, 16)] * 2, seed=7)
    outcome = call(train, "cyclegan", "--resume", "--max-steps", 3)
    assert outcome.code == 2 and "the data is not what the run of this checkpoint was trained on" in outcome.err
    assert call(train, "cyclegan", "--resume", "--max-steps", 3, "--accept-other-data").code == 0
    assert call(train, "cyclegan", "--resume", "--max-steps", 4).code == 0
    for side in ("trainA", "trainB"):
        images(tmp_path / "moved" / side, sizes=[(16, 16)] * 3, seed=8)
    outcome = call(train, "cyclegan", "--resume", "--max-steps", 5)
    assert outcome.code == 2 and "was trained on 2 images and the data now has 3" in outcome.err
    assert call(train, "cyclegan", "--resume", "--max-steps", 9, "--accept-other-data").code == 0


def test_a_damaged_checkpoint_is_set_aside_for_the_one_before(call, pictures, tmp_path):
    run = tmp_path / "checkpoints" / "cyclegan"
    assert call(train, "cyclegan", *PAIRS, "--max-steps", 3, "--save-freq", 2).code == 0
    whole = checksum(torch.load(run / "checkpoint.pt", weights_only=True)["state"])
    content = bytearray((run / "checkpoint.pt").read_bytes())
    content[len(content) // 2] ^= 4
    (run / "checkpoint.pt").write_bytes(content)
    outcome = call(train, "cyclegan", "--resume", "--dataroot", "nowhere")
    assert outcome.code == 2 and not (run / "checkpoint.damaged.pt").exists()  # nothing is moved before it trains
    outcome = call(train, "cyclegan", "--resume")
    assert outcome.code == 0, outcome.err
    assert re.search(
        r"resume +.*checkpoint.pt is damaged: .*; the one before it is taken, .*previous.pt of step 2", outcome.out
    )
    assert "going on after step 2" in outcome.out
    assert (run / "checkpoint.damaged.pt").read_bytes() == content
    assert checksum(torch.load(run / "checkpoint.pt", weights_only=True)["state"]) == whole


def test_networks_older_than_the_checkpoint_are_told_and_written_anew(call, pictures, images, tmp_path, caplog):
    """As a run leaves them that is killed between the two files of a save."""
    run = tmp_path / "checkpoints" / "cyclegan"
    assert call(train, "cyclegan", *PAIRS, "--max-steps", 1).code == 0
    older = (run / "networks.safetensors").read_bytes()
    assert call(train, "cyclegan", "--resume", "--max-steps", 2).code == 0
    newer = load_networks(run / "networks.safetensors").networks
    images(tmp_path / "photos", sizes=[(8, 8)])
    outcome = call(translate, run, "photos", "--output", "right")
    assert outcome.code == 0 and not caplog.records

    (run / "networks.safetensors").write_bytes(older)
    outcome = call(translate, run, "photos", "--output", "killed")
    assert outcome.code == 0
    (told,) = [record.getMessage() for record in caplog.records]
    assert "networks.safetensors is of step 1 and checkpoint.pt of step 2" in told and "checkpoint.pt is taken" in told
    assert (tmp_path / "killed" / "0.png").read_bytes() == (tmp_path / "right" / "0.png").read_bytes()

    for damage in (lambda path: None, lambda path: path.unlink(), lambda path: path.write_bytes(older[:100])):
        damage(run / "networks.safetensors")
        outcome = call(train, "cyclegan", "--resume")
        assert outcome.code == 2 and "is complete" in outcome.err
        assert re.search("networks +.*networks.safetensors is written anew, of step 2", outcome.out)
        assert networks.step_of(run / "networks.safetensors") == 2
        again = load_networks(run / "networks.safetensors").networks
        assert checksum({name: network.state_dict() for name, network in again.items()}) == checksum(
            {name: network.state_dict() for name, network in newer.items()}
        )
    outcome = call(train, "cyclegan", "--resume")
    assert outcome.code == 2 and "written anew" not in outcome.out


@pytest.mark.parametrize(
    ("name", "option", "says"),
    [
        ("cyclegan", "n_layers_D", "--n-layers-D is 1000000: it must be 16 or less"),
        ("cyclegan", "num_threads", "--num-threads is 1000000: it must be 256 or less"),
        ("cyclegan", "ngf", "network G_A is of another kind or size .* use the options it was trained with"),
        ("wgan_gp", "latent_size", "network G is of another kind or size .* use the options it was trained with"),
    ],
)
def test_huge_options_in_a_checkpoint_are_refused_before_they_take_memory(
    call, pictures, images, tmp_path, name, option, says
):
    run = tmp_path / "checkpoints" / name
    assert call(train, name, *(PAIRS if name == "cyclegan" else SMALL), "--max-steps", 1).code == 0
    content = torch.load(run / "checkpoint.pt", weights_only=True)
    del content["checksum"]
    for group in content["description"]["options"].values():
        group.update({option: 10**6} if option in group else {})
    torch.save(content, run / "checkpoint.pt")
    (run / "networks.safetensors").unlink()
    images(tmp_path / "photos", sizes=[(8, 8)])
    before = time.process_time()
    calls = [call(train, name, "--resume", "--max-steps", 2)]
    if option != "num_threads":  # which the networks do not have
        calls.append(call(translate, run, "photos") if name == "cyclegan" else call(generate, run))
    assert time.process_time() - before < 20
    for outcome in calls:
        assert outcome.code == 2 and re.search(says, outcome.err) and outcome.err.count("\n") == 1, outcome.err


@pytest.mark.parametrize("name", recipes.RECIPES)
def test_every_optimizer_of_every_recipe_has_all_its_moments(name):
    """A state without the moments of a parameter is refused: so each parameter must get a gradient in every step."""
    torch.manual_seed(0)
    recipe_class = recipes.get(name)
    pairs = dict(netG="resnet_6blocks", ngf=1, netD="n_layers", n_layers_D=1, ndf=1)
    recipe = recipe_class(recipe_class.Options(**pairs if recipe_class.directions else {"image_size": 12}))
    size, channels = (16, 3) if recipe_class.directions else (12, 1)
    images = {key: torch.rand(4, channels, size, size) * 2 - 1 for key in ("A", "B", "image", "labelled_image")}
    for _ in range(5):
        recipe.step(images | {key: torch.arange(4) for key in ("label", "labelled_label")})
    for optimizer in recipe.optimizers.values():
        assert all(weight in optimizer.state for group in optimizer.param_groups for weight in group["params"])
    recipe.load_state_dict(recipe.state_dict())
