"""python -m fastgan.train, as a user meets it."""

import gc
import io
import json
import os
import re
import signal
import subprocess
import sys
import threading
import time

import pytest
import torch
from PIL import Image

from fastgan import evaluate, generate, interpolate, recipes, retrieve, train, translate
from fastgan._errors import UserError
from fastgan.recipes.cyclegan import CycleGAN
from fastgan.training.folder import RunFolder
from fastgan.training.networks import load_networks, load_recipe
from tests.commands.tiny_command import TINY


def losses(path):
    lines = [json.loads(line) for line in (path / "losses.jsonl").read_text().splitlines()]
    return [{key: line[key] for key in ("step", "epoch", "lr", "losses")} for line in lines]


def test_a_run_from_start_to_end(tiny_train, tmp_path):
    outcome = tiny_train("--max-steps", 3, "--print-freq", 2, "--eval-pairs", 3)
    assert outcome.code == 0, outcome.err
    said = outcome.out
    assert "preset    laptop: built-in data on a CPU; --preset paper or --preset gpu chooses another" in said
    assert re.search(r"device    cpu \(1 thread, .*\), fp32, channels_last", said)
    assert re.search(r"backends  .*instance_norm", said)
    assert re.search(r"networks  G_A [\d,]+, G_B [\d,]+, D_A [\d,]+, D_B [\d,]+ parameters", said)
    count = CycleGAN.presets["laptop"]["max_dataset_size"]
    assert f"{count} + {count} images, 64 test pairs" in said
    assert re.search(r"run       .*cyclegan: 3 steps, 4 epochs", said)
    assert re.findall(r"^step (\d)/3  epoch 1  .*ETA .*G_A ", said, re.M) == ["1", "2", "3"]
    assert "\r" not in said and "\x1b" not in said
    assert "distance to the truth over 3 held-out pairs" in said

    run = tmp_path / "checkpoints" / "cyclegan"
    assert sorted(path.relative_to(run).as_posix() for path in run.rglob("*")) == [
        "checkpoint.previous.pt",
        "checkpoint.pt",
        "losses.jsonl",
        "metrics.json",
        "networks.safetensors",
        "options.json",
        "samples",
        "samples/step_000001.png",
        "samples/step_000002.png",
        "samples/step_000003.png",
    ]
    assert [line["step"] for line in losses(run)] == [1, 2, 3]
    assert list(losses(run)[0]["losses"]) == ["G_A", "cycle_A", "idt_A", "D_A", "G_B", "cycle_B", "idt_B", "D_B"]
    assert losses(run)[0]["lr"] == {"G": 1e-3, "D": 1e-3}
    metrics = json.loads((run / "metrics.json").read_text())
    assert metrics["recipe"] == "cyclegan" and metrics["step"] == 3 and metrics["pairs"] == 3
    for direction in ("AtoB", "BtoA"):
        assert 0 < metrics[direction]["affine"] < 1 and 0 < metrics[direction]["identity"] < 1
    grid = Image.open(run / "samples" / "step_000003.png")
    assert grid.width > 6 * 128 and grid.height > 2 * 128
    options = json.loads((run / "options.json").read_text())
    assert options["recipe"] == "cyclegan" and options["options"]["recipe"]["ngf"] == 2
    assert set(load_networks(run).networks) == {"G_A", "G_B", "D_A", "D_B"}


def test_stopping_changes_nothing(tiny_train, tmp_path):
    always = ["--print-freq", 1, "--eval-pairs", 0, "--pool-size", 2, "--dropout", "--max-dataset-size", 4]
    assert tiny_train("--name", "whole", "--max-steps", 6, *always).code == 0
    assert tiny_train("--name", "parts", "--max-steps", 3, *always).code == 0
    outcome = tiny_train("--name", "parts", "--max-steps", 6, "--resume")
    assert outcome.code == 0, outcome.err
    assert "going on after step 3" in outcome.out and "preset    laptop: as the run was started" in outcome.out
    whole, parts = (tmp_path / "checkpoints" / name for name in ("whole", "parts"))
    assert losses(whole) == losses(parts)
    one, other = (torch.load(path / "checkpoint.pt", weights_only=True) for path in (whole, parts))
    assert_equal(one["state"], other["state"])
    assert_equal(one["rng"], other["rng"])
    one, other = (load_networks(path / "networks.safetensors").networks["G_B"].state_dict() for path in (whole, parts))
    assert_equal(dict(one), dict(other))


def assert_equal(one, other, where="state"):
    assert type(one) is type(other), where
    if isinstance(one, torch.Tensor):
        assert torch.equal(one, other), where
    elif isinstance(one, dict):
        assert one.keys() == other.keys(), where
        for key in one:
            assert_equal(one[key], other[key], f"{where}.{key}")
    elif isinstance(one, (list, tuple)):
        assert len(one) == len(other), where
        for number, (first, second) in enumerate(zip(one, other)):
            assert_equal(first, second, f"{where}.{number}")
    else:
        assert one == other, where


def test_nothing_is_overwritten_without_being_asked(tiny_train, tmp_path):
    short = ["--max-steps", 1, "--eval-pairs", 0]
    assert tiny_train(*short).code == 0
    before = (tmp_path / "checkpoints" / "cyclegan" / "checkpoint.pt").read_bytes()
    outcome = tiny_train(*short)
    assert outcome.code == 2 and "already holds a run" in outcome.err and outcome.err.count("\n") == 1
    assert (tmp_path / "checkpoints" / "cyclegan" / "checkpoint.pt").read_bytes() == before
    outcome = tiny_train(*short, "--resume")
    assert outcome.code == 2 and "is complete; a larger --max-steps" in outcome.err
    assert tiny_train(*short, "--overwrite").code == 0
    said = tiny_train(*short, "--name", "a b").out
    assert "\n  python -m fastgan.translate 'checkpoints/a b' DIR\n" in said  # can be pasted
    # What goes wrong before training leaves the earlier run alone, even with --overwrite.
    before = (tmp_path / "checkpoints" / "cyclegan" / "checkpoint.pt").read_bytes()
    assert tiny_train(*short, "--overwrite", "--dataroot", "nowhere").code == 2
    assert tiny_train(*short, "--overwrite", "--n-epochs", 0, "--n-epochs-decay", 0).code == 2
    assert (tmp_path / "checkpoints" / "cyclegan" / "checkpoint.pt").read_bytes() == before
    (tmp_path / "checkpoints" / "thesis").mkdir()
    (tmp_path / "checkpoints" / "thesis" / "thesis.tex").write_text("years of work")
    outcome = tiny_train(*short, "--overwrite", "--name", "thesis")
    assert outcome.code == 2 and "is not a run of ours" in outcome.err


def test_own_data_takes_the_papers_preset(tiny_train, images, tmp_path):
    for seed, folder in enumerate(("trainA", "trainB", "testA", "testB")):
        images(tmp_path / "data" / folder, sizes=[(16, 16)] * 3, seed=seed)
    outcome = tiny_train("--dataroot", "data", "--max-steps", 1, "--eval-pairs", 64)
    assert outcome.code == 0, outcome.err
    assert "preset    paper: --dataroot is given" in outcome.out
    assert "data: 3 + 3 images, 3 test pairs" in outcome.out
    assert (tmp_path / "checkpoints" / "cyclegan" / "metrics.json").exists()
    (tmp_path / "data" / "testA" / "0.png").rename(tmp_path / "data" / "testA" / "other.png")
    outcome = tiny_train("--dataroot", "data", "--max-steps", 1, "--overwrite")
    assert outcome.code == 0 and "no test pairs" in outcome.out and "distance to the truth" not in outcome.out
    assert not (tmp_path / "checkpoints" / "cyclegan" / "metrics.json").exists()


@pytest.mark.parametrize(
    ("where", "sizes", "said"),
    [
        ("trainB", [(16, 16)] * 2 + [(16, 18)], r"trainB.2\.png: images of 18x16 .* do not fit"),
        ("testA", [(16, 18)], r"testA.0\.png: images of 18x16 .* do not fit"),
        ("testB", [(16, 20)], r"testA.0\.png and .*testB.0\.png are a test pair, and would be 16x16 and 16x20"),
    ],
)
def test_images_that_do_not_fit_are_named_before_the_first_step(tiny_train, images, tmp_path, where, sizes, said):
    for seed, folder in enumerate(("trainA", "trainB", "testA", "testB")):
        own = sizes if folder == where else [(16, 16)] * (3 if "train" in folder else 1)
        images(tmp_path / "data" / folder, sizes=own, seed=seed)
    how = ("--preprocess", "scale_width", "--load-size", 16, "--eval-pairs", 1, "--max-steps", 2)
    outcome = tiny_train("--dataroot", "data", *how)
    assert outcome.code == 2 and re.search(said, outcome.err), outcome.err
    assert not (tmp_path / "checkpoints" / "cyclegan" / "losses.jsonl").exists()


@pytest.mark.parametrize(
    ("argv", "sentence"),
    [
        ([], "name a recipe first"),
        (["--max-steps", "3"], "name a recipe first"),
        (["cyclegann"], "unknown recipe 'cyclegann' (did you mean cyclegan?): choose from gan, dcgan"),
        (["CycleGan"], "unknown recipe 'CycleGan' (did you mean cyclegan?)"),
        (["cyclegan", "--seed", str(2**64)], "--seed is 18446744073709551616: it must be 18446744073709551615 or less"),
        (["cyclegan", "--batchsize", "3"], "unknown argument '--batchsize': did you mean --batch-size?"),
        (["cyclegan", "--lr", "fast"], "--lr: 'fast' is not a number"),
        (["cyclegan", "--preset", "huge"], "unknown preset 'huge': choose from paper, laptop, gpu"),
        (["cyclegan", "--device", "tpu"], "unknown device 'tpu'"),
        (["cyclegan", "--dataroot", "nowhere"], "--dataroot nowhere is missing"),
        (["cyclegan", "--resume"], "--resume: there is no run in"),
        (["cyclegan", "--resume", "--overwrite"], "--resume goes on with a run and --overwrite replaces it"),
        (["cyclegan", "--name", "../up"], "--name '../up' is not a name for a folder inside"),
        (["cyclegan", "--backend", "fpga", "--device", "cpu"], "unknown backend 'fpga'"),
        (["cyclegan", *TINY, "--load-size", "18", "--crop-size", "18"], "images of 18x18"),
        (["cyclegan", *TINY, "--crop-size", "17"], "--crop-size 17 is larger than --load-size 16"),
    ],
)
def test_bad_input_is_an_error(call, tmp_path, argv, sentence):
    outcome = call(train, *argv)
    assert outcome.code == 2
    assert outcome.err.startswith(f"error: {sentence}") and outcome.err.count("\n") == 1
    assert not (tmp_path / "checkpoints").exists()


def test_resume_sentences(tiny_train, tmp_path):
    assert tiny_train("--max-steps", 1, "--eval-pairs", 0).code == 0
    outcome = tiny_train("--resume", "--preset", "gpu")
    assert outcome.code == 2 and "--preset gpu: the run was started with laptop" in outcome.err
    outcome = tiny_train("--resume", "--ngf", 4)
    assert outcome.code == 2 and "--ngf 4: the run was started with 2, which is fixed" in outcome.err
    path = tmp_path / "checkpoints" / "cyclegan" / "checkpoint.pt"
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])
    outcome = tiny_train("--resume", "--max-steps", 2)
    assert outcome.code == 2 and "checkpoint.pt is damaged" in outcome.err
    other = torch.load(io.BytesIO(content), weights_only=True) | {"recipe": "pix2pix"}
    torch.save(other, path)
    outcome = tiny_train("--resume", "--max-steps", 2)
    assert outcome.code == 2 and "is a checkpoint of pix2pix, not of cyclegan" in outcome.err


def test_help_and_list(call):
    outcome = call(train, "--list")
    assert outcome.code == 0 and re.search(r"cyclegan +unpaired", outcome.out)
    outcome = call(train, "--help")
    assert outcome.code == 0 and "python -m fastgan.train RECIPE [options]" in outcome.out
    outcome = call(train, "cyclegan", "--help")
    assert outcome.code == 0
    for group in ("run:", "data:", "the recipe cyclegan:", "presets"):
        assert group in outcome.out


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_saves_before_it_leaves(tiny_train, tmp_path, number):
    command = [sys.executable, "-m", "fastgan.train", "cyclegan", *TINY, "--print-freq", "1", "--num-threads", "1"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(
        command,
        cwd=tmp_path,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        preexec_fn=lambda: signal.signal(signal.SIGHUP, signal.SIG_DFL),
    )  # also under nohup
    for line in process.stdout:
        if line.startswith("step 3/"):
            break
    os.killpg(process.pid, number)  # as a terminal does: the workers get it too
    out, err = process.communicate(timeout=60)
    assert process.returncode == 130, err
    assert "Traceback" not in err and f"{number.name}: finishing this step, then saving" in err
    step = int(re.search(r"stopped after (\d+) steps", out)[1])
    assert 3 <= step < 3000
    assert "go on with:\n  python -m fastgan.train cyclegan --resume\n" in out
    saved = torch.load(tmp_path / "checkpoints" / "cyclegan" / "checkpoint.pt", weights_only=True)
    assert saved["progress"]["step"] == step

    outcome = tiny_train("--resume", "--max-steps", step + 1, "--eval-pairs", 0)
    assert outcome.code == 0 and f"going on after step {step}" in outcome.out


def test_a_reader_that_ends_does_not_end_the_run(tmp_path):
    """``| head``: the run makes all its steps, and is measured."""
    command = [
        sys.executable,
        "-m",
        "fastgan.train",
        "cyclegan",
        *TINY,
        "--print-freq",
        "1",
        "--max-steps",
        "4",
        "--eval-pairs",
        "1",
    ]
    process = subprocess.Popen(
        command,
        cwd=tmp_path,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    process.stdout.readline()
    process.stdout.close()
    err = process.stderr.read()
    process.stderr.close()
    assert process.wait(60) == 0 and err.count("the run goes on without it") == 1, err
    run = tmp_path / "checkpoints" / "cyclegan"
    assert [line["step"] for line in losses(run)] == [1, 2, 3, 4]
    assert json.loads((run / "metrics.json").read_text())["step"] == 4


def test_help_loads_little_besides_torch():
    code = (
        "import sys, torch\nbefore = set(sys.modules)\nfrom fastgan import train\n"
        "print(len(set(sys.modules) - before))\n"
        "print(*sorted({name.split('.')[0] for name in set(sys.modules) - before}))\n"
        "print(*[name for name in sys.modules if name in ('torch._dynamo', 'torch._inductor', 'sympy', 'triton')])"
    )
    said = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout.splitlines()
    assert said[2] == "", said
    assert int(said[0]) < 200, said


SMALL = ["--image-size", 12, "--max-dataset-size", 60, "--batch-size", 4, "--eval-images", 8]
PAIRS = [
    "--load-size",
    16,
    "--crop-size",
    16,
    "--netG",
    "resnet_6blocks",
    "--ngf",
    2,
    "--netD",
    "n_layers",
    "--n-layers-D",
    1,
    "--ndf",
    2,
    "--eval-pairs",
    2,
]


@pytest.mark.parametrize("name", recipes.RECIPES)
def test_every_recipe_trains_resumes_and_is_rebuilt(call, tmp_path, name):
    tiny = (PAIRS if recipes.get(name).directions else SMALL) + ["--device", "cpu", "--sample-count", 2]
    tiny += ["--n-labels", 10] if name == "sgan" else []
    outcome = call(train, name, *tiny, "--max-steps", 2)
    assert outcome.code == 0, outcome.err
    assert "preset    laptop: built-in data on a CPU" in outcome.out
    outcome = call(train, name, "--resume", "--max-steps", 3)
    assert outcome.code == 0, outcome.err
    assert "going on after step 2" in outcome.out
    run = tmp_path / "checkpoints" / name
    assert [line["step"] for line in losses(run)] == [1, 2, 3]
    assert (run / "samples" / "step_000003.png").exists()
    figures = json.loads((run / "metrics.json").read_text()) if (run / "metrics.json").exists() else {}
    assert ("reconstruction_mse" in figures) == (name in ("vae", "cvae", "cvae_gan"))
    assert ("accuracy" in figures) == (name in ("sgan", "cvae_gan"))
    assert ("AtoB" in figures) == (name in ("pix2pix", "cyclegan")) and ("BtoA" in figures) == (name == "cyclegan")

    state = torch.get_rng_state()
    for path in (run, run / "checkpoint.pt", run / "networks.safetensors"):
        recipe = load_recipe(path)
        assert recipe.name == name and torch.equal(state, torch.get_rng_state())
        stored = torch.load(run / "checkpoint.pt", weights_only=True)["state"]["networks"]
        for key, network in load_networks(path).networks.items():
            assert not network.training
            for other in (network, recipe.networks[key]):
                assert_equal(dict(other.state_dict()), dict(stored[key]))
    if not recipe.directions:
        assert recipe.options.image_size == 12 and recipe.options.input_nc == 1
        assert f"make images with:\n  python -m fastgan.generate checkpoints/{name}" in outcome.out
        assert f"measure such images with:\n  python -m fastgan.evaluate checkpoints/{name}" in outcome.out


def test_data_that_does_not_fit_the_recipe(call, images, tmp_path):
    images(tmp_path / "flat", sizes=[(12, 12)] * 20)
    outcome = call(train, "cgan", "--dataroot", "flat", "--batch-size", 2)
    assert outcome.code == 2 and "cgan needs images of two classes or more" in outcome.err
    outcome = call(train, "dcgan", "--dataroot", "flat")
    assert outcome.code == 2 and "--batch-size is 128 and there are 18 images" in outcome.err
    outcome = call(train, "gan", "--dataroot", "flat", "--batch-size", 4, "--device", "cpu", "--max-steps", 1)
    assert outcome.code == 0 and "fastgan.evaluate" not in outcome.out  # without classes there is nothing to judge by
    outcome = call(train, "dcgan", "--crop-size", 32)
    assert outcome.code == 2 and "unknown argument '--crop-size'" in outcome.err  # no flag of labelled images
    outcome = call(train, "cyclegan", "--n-labels", 10)
    assert outcome.code == 2 and "unknown argument '--n-labels'" in outcome.err


def test_a_run_of_a_recipe_that_translates_nothing(call, images, tmp_path):
    assert call(train, "gan", *SMALL, "--max-steps", 1).code == 0
    images(tmp_path / "photos")
    outcome = call(translate, "checkpoints/gan", "photos", "--device", "cpu")
    assert outcome.code == 2 and "was trained by gan, which translates no images" in outcome.err


@pytest.mark.parametrize("module", [train, translate, generate, interpolate, retrieve, evaluate])
def test_help_says_what_the_exit_codes_are(call, module):
    for argv in (["--help"], ["gan", "--help"]) if module is train else (["--help"],):
        outcome = call(module, *argv)
        line = outcome.out.splitlines()[-1]
        assert outcome.code == 0 and line.startswith("exit codes: 0 done,") and "2 an error" in line and "130" in line
        assert (" 1 images were left out," in line) == (module is translate)


def test_a_run_that_ends_while_another_opens_its_data_is_kept(call, tmp_path, monkeypatch):
    """The folder was free when the second one looked first."""
    options = ["gan", "--image-size", 12, "--max-dataset-size", 8, "--batch-size", 4, "--eval-images", 0]
    options += ["--device", "cpu", "--max-steps", 2]
    opened, real = [], train.data.open_dataset

    def open_dataset(*arguments):
        if not opened:
            opened.append(True)
            assert call(train, *options).code == 0
            gc.collect()  # its process has ended: nothing holds the folder
            opened.append((tmp_path / "checkpoints" / "gan" / "checkpoint.pt").read_bytes())
        return real(*arguments)

    monkeypatch.setattr(train.data, "open_dataset", open_dataset)
    outcome = call(train, *options)
    assert outcome.code == 2 and "checkpoints/gan already holds a run: go on with it (--resume)" in outcome.err
    assert (tmp_path / "checkpoints" / "gan" / "checkpoint.pt").read_bytes() == opened[1]


@pytest.mark.parametrize("what", ["moments", "statistics"])
@pytest.mark.parametrize("at", [2, 3])
def test_a_state_that_is_not_finite_ends_the_run_and_the_last_good_one_is_kept(call, tmp_path, monkeypatch, what, at):
    """Even at the last step, where no loss shows it any more."""
    name = "wgan_gp" if what == "moments" else "dcgan"
    recipe_class, made = recipes.get(name), []
    step = recipe_class.compute

    def compute(self, *arguments):
        losses = step(self, *arguments)
        made.append(losses)
        if len(made) == at:
            if what == "moments":
                self.optimizers["D"].state[next(self.networks["D"].parameters())]["exp_avg_sq"].fill_(float("inf"))
            else:
                next(value for key, value in self.networks["G"].state_dict().items() if "running_mean" in key).fill_(
                    float("nan")
                )
        return losses

    monkeypatch.setattr(recipe_class, "compute", compute)
    options = ["--image-size", 12, "--max-dataset-size", 16, "--eval-images", 0, "--device", "cpu", "--batch-size", 4]
    outcome = call(train, name, *options, "--max-steps", 3, "--save-every", 1)
    says = "the moments exp_avg_sq of the optimizer D" if what == "moments" else "the weights .*running_mean of G"
    assert outcome.code == 2 and outcome.err.count("\n") == 1
    assert re.search(
        f"{says} are not finite after step {at}: .*the checkpoint of step {at - 1} in .* is kept", outcome.err
    )
    content = torch.load(tmp_path / "checkpoints" / name / "checkpoint.pt", weights_only=True)
    assert content["progress"]["step"] == at - 1
    monkeypatch.undo()
    monkeypatch.chdir(tmp_path)
    assert call(train, name, "--resume").code == 0
    (spoilt,) = [key for key in content["state"]["networks"]["G"] if key.endswith("weight")][:1]
    content["state"]["networks"]["G"][spoilt].fill_(float("nan"))
    del content["checksum"]
    torch.save(content, "spoilt.pt")
    outcome = call(generate, "spoilt.pt")
    assert outcome.code == 2 and "spoilt.pt: " in outcome.err and "holds NaN or infinite values" in outcome.err
    assert not (tmp_path / "generated.png").exists()


@pytest.mark.skipif(not os.path.exists("/proc/self/stat"), reason="looks at /proc")
@pytest.mark.parametrize("what", ["damaged", "gone"])
def test_images_that_go_while_others_load_them_end_the_run(images, tmp_path, what):
    """Without a cache they are read at every use, in two processes."""
    for seed, side in enumerate(("trainA", "trainB")):
        images(tmp_path / "data" / side, sizes=[(16, 16)] * 3, seed=seed)
    command = [sys.executable, "-m", "fastgan.train", "cyclegan", *TINY, "--dataroot", "data", "--print-freq", "1"]
    process = subprocess.Popen(
        [*command, "--num-threads", "2", "--cache", "none", "--eval-pairs", "0", "--n-epochs", "10000"],
        cwd=tmp_path,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        for line in process.stdout:
            if line.startswith("step 3/"):
                break
        if what == "gone":
            (tmp_path / "data").rename(tmp_path / "moved")
        else:
            for path in (tmp_path / "data" / "trainB").iterdir():
                path.write_bytes(b"no image")
        began = time.monotonic()
        threading.Thread(target=process.stdout.read, daemon=True).start()
        said = process.stderr.read()
        assert process.wait(20) == 2 and time.monotonic() - began < 20
    finally:
        process.kill()
        process.wait()
    assert "holds no readable image: training stopped after step" in said.splitlines()[-1]
    assert "which is saved in" in said.splitlines()[-1] and "Traceback" not in said


@pytest.mark.skipif(sys.platform != "linux", reason="looks at locks")
def test_the_folder_of_a_killed_run_with_workers_is_free_at_once(tmp_path):
    command = [sys.executable, "-m", "fastgan.train", "cyclegan", *TINY, "--print-freq", "1", "--num-threads", "3"]
    process = subprocess.Popen(
        command, cwd=tmp_path, env=os.environ | {"OMP_NUM_THREADS": "1"}, stdout=subprocess.PIPE, text=True
    )
    folder = RunFolder(tmp_path / "checkpoints", "cyclegan")
    for line in process.stdout:
        if line.startswith("step 3/"):
            break
    with pytest.raises(UserError, match="another process is training"):
        folder.claim()
    process.kill()
    process.wait()
    began = time.monotonic()
    folder.claim()
    assert time.monotonic() - began < 0.5
    process.stdout.close()
