"""Recorded steps make, bit for bit, what steps that run as they are make. On the CPU a tape stands in for the graph."""

import contextlib
import copy
import inspect
import json
from unittest.mock import create_autospec

import pytest
import torch
from torch import nn

from fastgan import recipes
from fastgan.data import DataOptions, ResidentDataset, open_dataset
from fastgan.recipes._base import make_capturable
from fastgan.training import checkpoint, graphs, rng, settings
from fastgan.training.folder import RunFolder
from fastgan.training.graphs import WARM_UP, GraphedStep
from fastgan.training.loop import Loop, restore
from fastgan.training.train_options import TrainOptions
from tests.training.tape import TapeRecorder
from tests.training.tiny_recipe import Silence

SMALL = dict(latent_size=5, image_size=12)
TRANSLATION = dict(netG="resnet_6blocks", ngf=2, netD="n_layers", n_layers_D=1, ndf=2, pool_size=3)
CASES = {name: (name, {}) for name in recipes.RECIPES} | {
    "cyclegan-wgangp": ("cyclegan", dict(gan_mode="wgangp", norm="none", pool_size=0, lambda_identity=0.0)),
    "pix2pix-pool": ("pix2pix", dict(pool_size=2, norm="instance")),
    "gan-2-steps": ("gan", dict(d_steps=2)),
}
KINDS_OF_STEPS = {"wgan": 2, "wgan_gp": 2, "gan-2-steps": 2}


def make(case, seed=0, **changes):
    name, options = CASES[case]
    recipe_class = recipes.get(name)
    torch.manual_seed(seed)
    sizes = TRANSLATION if recipe_class.directions else SMALL
    turns = {"n_critic": 2} if name.startswith("wgan") else {}
    recipe = recipe_class(recipe_class.Options(**sizes | turns | options | changes))
    for optimizer in recipe.optimizers.values():
        if isinstance(optimizer, torch.optim.Adam):  # torch's RMSprop cannot be capturable on the CPU
            make_capturable(optimizer)
    return recipe


def make_batches(recipe, lengths, size=16):
    generator = torch.Generator().manual_seed(0)
    for count in lengths:

        def image(channels, side):
            return 2 * torch.rand(count, channels, side, side, generator=generator) - 1

        if recipe.directions:
            yield {"A": image(3, size), "B": image(3, size), "A_path": ["a"] * count}
        else:
            labels = [torch.randint(10, (count,), generator=generator) for _ in range(2)]
            yield {
                "image": image(1, 12),
                "label": labels[0],
                "labelled_image": image(1, 12),
                "labelled_label": labels[1],
            }


def train(recipe, step, lengths, spoil=False):
    """The losses of every step, from the same random numbers. `spoil` overwrites each batch after its step."""
    torch.manual_seed(7)
    seen = []
    for batch in make_batches(recipe, lengths):
        seen.append({name: loss.clone() for name, loss in step(batch).items()})
        if spoil:
            for value in batch.values():
                if isinstance(value, torch.Tensor) and value.is_floating_point():
                    value.fill_(float("nan"))
        if len(seen) % 4 == 0:
            recipe.end_epoch({"loss": 1.0})
    return seen


def assert_same(one, other):
    """The same losses, or the same states."""
    if isinstance(one, dict):
        assert one.keys() == other.keys()
        for key in one:
            assert_same(one[key], other[key])
    elif isinstance(one, (list, tuple)):
        assert len(one) == len(other)
        for a, b in zip(one, other):
            assert_same(a, b)
    else:
        assert torch.equal(one, other) if isinstance(one, torch.Tensor) else one == other


@pytest.mark.parametrize("case", CASES)
def test_recorded_steps_are_the_steps(case):
    lengths = [2] * 5 + [1] + [2] * 3  # the last batch of an epoch is smaller
    if not recipes.get(CASES[case][0]).directions:
        lengths = [3 * length for length in lengths + lengths[:3]]
    plain, recorded = make(case), make(case)
    recorder = TapeRecorder()
    expected = train(plain, plain.step, lengths)
    losses = train(recorded, GraphedStep(recorded, max(lengths), recorder), lengths, spoil=True)
    assert_same(losses, expected)
    assert_same(recorded.state_dict(), plain.state_dict())
    kinds = KINDS_OF_STEPS.get(case, 1)
    assert recorder.recorded == kinds and recorder.replays == len(lengths) - 1 - kinds * WARM_UP


@pytest.mark.parametrize("lr_policy", ["linear", "step", "plateau", "cosine"])
def test_schedules_reach_recorded_steps(lr_policy):
    options = dict(lr_policy=lr_policy, n_epochs=2, n_epochs_decay=2, lr_decay_iters=1)
    plain, recorded = make("pix2pix-pool", **options), make("pix2pix-pool", **options)
    expected = train(plain, plain.step, [1] * 9)
    losses = train(recorded, GraphedStep(recorded, 1, TapeRecorder()), [1] * 9)
    assert_same(losses, expected)
    assert_same(recorded.state_dict(), plain.state_dict())


def test_the_tape_would_see_a_rate_that_stayed_behind():
    """A learning rate that is a number is recorded as it was: the comparison above can fail."""
    options = dict(lr_policy="step", lr_decay_iters=1)
    outcomes = []
    for wrap in (lambda recipe: recipe.step, lambda recipe: GraphedStep(recipe, 1, TapeRecorder())):
        recipe = make("pix2pix-pool", **options)
        for optimizer in recipe.optimizers.values():
            for group in optimizer.param_groups:
                group["lr"] = float(group["lr"])
        outcomes.append(train(recipe, wrap(recipe), [1] * 8))
    assert outcomes[0][:4] == outcomes[1][:4] and outcomes[0][7] != outcomes[1][7]


def test_the_rate_on_the_device_is_the_rate():
    """But for the rounding of the rate itself, to float32."""
    one, other = make("vae"), make("vae")
    for group in one.optimizers["VAE"].param_groups:
        group["lr"] = float(group["lr"])
    for ours, its in zip(train(one, one.step, [4] * 5), train(other, other.step, [4] * 5)):
        torch.testing.assert_close(ours, its, rtol=1e-5, atol=1e-6)
    assert other.optimizers["VAE"].param_groups[0]["lr"].item() == pytest.approx(1e-3)


@pytest.mark.parametrize("pool_size, replays", [(0, 6), (3, 1)])
def test_images_of_other_sizes_run_as_they_are(pool_size, replays, caplog):
    """Then all steps do, where pools keep images of several sizes: the buffer of the recorded ones is gone."""
    plain, recorded = make("cyclegan", pool_size=pool_size), make("cyclegan", pool_size=pool_size)
    recorder = TapeRecorder()
    step = GraphedStep(recorded, 1, recorder)
    for size in [16] * 4 + [20, 16] * 5:
        (batch,) = make_batches(plain, [1], size)
        assert_same(step(batch), plain.step(batch))
    assert recorder.recorded == 1 and recorder.replays == replays
    lines = [record.getMessage() for record in caplog.records]
    assert len(lines) == 1 and lines[0].startswith("the images differ in size")


def test_a_smaller_batch_may_come_first():
    """As at a resume: the pools of a recorded step have room for all that larger batches will bring."""
    plain, recorded = make("pix2pix-pool", pool_size=20), make("pix2pix-pool", pool_size=20)
    step = GraphedStep(recorded, 4, TapeRecorder())
    assert_same(train(recorded, step, [1] + [4] * 8), train(plain, plain.step, [1] + [4] * 8))
    assert not step._failed


def test_a_smaller_batch_is_told_once(caplog):
    recipe = make("gan")
    train(recipe, GraphedStep(recipe, 6, TapeRecorder()), [6, 3, 6, 3, 6])
    assert [record.getMessage() for record in caplog.records] == [
        "batches of 3 instead of 6 are too rare to be recorded: their steps run kernel by kernel"
    ]


def test_what_cannot_be_recorded_goes_on_without(caplog):
    plain, recorded = make("cyclegan"), make("cyclegan")
    step = GraphedStep(recorded, 1, TapeRecorder(failing=True))
    assert_same(train(recorded, step, [1] * 7), train(plain, plain.step, [1] * 7))
    (line,) = [record.getMessage() for record in caplog.records]
    assert line == (
        "the step could not be recorded in a CUDA graph (operation not permitted when stream is capturing)"
        ": it goes on kernel by kernel; --no-graph does so from the start"
    )


def test_a_read_on_the_host_cannot_be_recorded():
    recipe = make("gan")
    compute = recipe.compute
    recipe.compute = lambda batch, decided: {name: loss + loss.item() for name, loss in compute(batch, decided).items()}
    step = GraphedStep(recipe, 3, TapeRecorder())
    train(recipe, step, [3] * 5)
    assert step._failed


@pytest.mark.parametrize(
    "precision, wrapped, device, reason",
    [
        ("fp32", False, "cpu", "graphs are CUDA's, and the run is on the cpu"),
        ("fp16", False, "cuda", "fp16 scales losses by what overflowed before"),
        ("bf16", True, "cuda", "DistributedDataParallel"),
        ("bf16", False, "cuda", None),
    ],
)
def test_why_not(precision, wrapped, device, reason, monkeypatch):
    class Wrapped(nn.Module):
        """Stands in for DistributedDataParallel, which needs other processes."""

    monkeypatch.setattr(graphs, "DistributedDataParallel", Wrapped)
    recipe_class = recipes.get("gan")
    recipe = recipe_class(recipe_class.Options(**SMALL), precision=precision)
    if wrapped:
        recipe.networks["G"] = Wrapped()
    why = graphs.why_not(recipe, torch.device(device))
    assert why is None if reason is None else reason in why


def test_without_a_gpu_or_against_it_the_step_is_the_recipes():
    recipe = make("gan")
    assert graphs.make_step(recipe, 4, torch.device("cpu")) == (
        recipe.step,
        "none: graphs are CUDA's, and the run is on the cpu",
    )
    assert graphs.make_step(recipe, 4, torch.device("cuda"), wanted=False) == (recipe.step, "none: --no-graph")


def test_a_checkpoint_of_a_gpu_goes_on_without_one():
    """There the rate is a number again, and the steps are the same."""
    first = make("cyclegan", lr_policy="step", lr_decay_iters=1)
    train(first, first.step, [1] * 4)
    second = make("cyclegan", seed=9, lr_policy="step", lr_decay_iters=1)
    second.load_state_dict(copy.deepcopy(first.state_dict()))
    for optimizer in second.optimizers.values():
        for group in optimizer.param_groups:
            assert isinstance(group["lr"], float) and group["lr"] == pytest.approx(2e-5) and not group["capturable"]
    assert_same(train(second, second.step, [1] * 4), train(first, first.step, [1] * 4))


class FakeCuda:
    """Stands in for torch.cuda and notes what is asked of it. Arguments are those that torch's own functions take."""

    def __init__(self, monkeypatch, ending_fails=False):
        self.current, self.notes = "main", []
        fake = self

        class Stream:
            def __init__(self, device, name="own"):
                self.name = name

            def wait_stream(self, other):
                fake.notes.append(f"{self.name} waits for {other.name}")

        class Graph:
            def __init__(self):
                self.replay = lambda: fake.notes.append("replay")

        class Capture:
            def __init__(self, *args, **kwargs):
                given = signature.bind(None, *args, **kwargs).arguments
                assert given["capture_error_mode"] == "thread_local" and given["pool"] == "pool"
                self.stream = given["stream"]

            def __enter__(self):
                fake.current = self.stream

            def __exit__(self, *error):
                if ending_fails:
                    raise RuntimeError("capture failed")
                fake.current = main

        main = Stream(None, "main")
        self.current = main
        self.generator = create_autospec(torch.Generator, instance=True)
        signature = inspect.signature(torch.cuda.graph.__init__)
        for name, value in {
            "Stream": Stream,
            "CUDAGraph": Graph,
            "graph": Capture,
            "graph_pool_handle": lambda: "pool",
            "current_stream": lambda device=None: self.current,
            "stream": self.inside,
            "set_stream": lambda stream: setattr(self, "current", stream),
            "device": contextlib.nullcontext,
            "current_device": lambda: 0,
            "default_generators": (self.generator,),
        }.items():
            monkeypatch.setattr(torch.cuda, name, value)

    @contextlib.contextmanager
    def inside(self, stream):
        outer, self.current = self.current, stream
        yield
        self.current = outer


def test_what_is_asked_of_cuda(monkeypatch):
    cuda = FakeCuda(monkeypatch)
    recorder = graphs.CudaRecorder(torch.device("cuda", 0))
    assert recorder.warm_up(lambda: cuda.current.name) == "own"
    assert cuda.notes == ["own waits for main", "main waits for own"]
    replay, result = recorder.record(lambda: cuda.current.name)
    replay()
    assert result == "own" and cuda.notes[2:] == ["replay"] and cuda.current.name == "main"


def test_a_capture_that_fails_leaves_stream_and_random_numbers_as_they_were(monkeypatch):
    def call():
        raise RuntimeError("the first error")

    cuda = FakeCuda(monkeypatch, ending_fails=True)
    with pytest.raises(RuntimeError, match="^the first error$"):
        graphs.CudaRecorder(torch.device("cuda", 0)).record(call)
    assert cuda.current.name == "main"
    # A state of before: numbers alone would leave the generator in the capture, and the next draw would fail.
    cuda.generator.graphsafe_set_state.assert_called_once_with(cuda.generator.clone_state.return_value)


OPTIONS = {"train": TrainOptions, "data": DataOptions, "recipe": recipes.get("cyclegan").Options}
RUN = dict(
    **TRANSLATION,
    load_size=18,
    crop_size=16,
    max_dataset_size=3,
    n_epochs=1,
    n_epochs_decay=3,
    print_freq=2,
    save_freq=5,
    lr=1e-3,
)


def run(path, graphed, steps, resume=False):
    """A run of CycleGAN on three pairs of the built-in set, in the loop as the command makes it."""
    made = settings.resolve("cyclegan", "paper", OPTIONS, RUN | dict(max_steps=steps))
    rng.seed_everything(0 if not resume else 99)
    dataset = open_dataset("unaligned", made.groups["data"])
    recipe = recipes.get("cyclegan")(made.groups["recipe"]).to("cpu", torch.channels_last)
    folder = RunFolder(path.parent, path.name)
    progress = None
    if resume:
        progress = restore(recipe, dataset, checkpoint.load(folder.checkpoint))
    else:
        folder.start()
    for optimizer in recipe.optimizers.values():
        make_capturable(optimizer)
    on = torch.device("cpu")
    step = GraphedStep(recipe, 1, TapeRecorder()) if graphed else None
    batches = ResidentDataset(dataset, on).batch if graphed else None
    display = Silence()
    Loop(recipe, dataset, folder, made, on, step=step, batches=batches, progress=progress, display=display).run()
    return recipe, [(step, epoch, dict(losses)) for step, epoch, _, losses in display.shown]


def test_the_loop_with_recorded_steps_and_resident_images(tmp_path):
    """Losses, epochs' means, schedules, checkpoints in the middle and resumes: all as without, also with images that
    lie on the device."""
    plain, shown = run(tmp_path / "plain", False, 11)
    recorded, same = run(tmp_path / "recorded", True, 11)
    assert same == shown and len(shown) > 4
    assert_same(recorded.state_dict(), plain.state_dict())
    run(tmp_path / "parts", True, 6)
    resumed, _ = run(tmp_path / "parts", True, 11, resume=True)
    assert_same(resumed.state_dict(), plain.state_dict())
    lines = (tmp_path / "recorded" / "losses.jsonl").read_text().splitlines()
    rates = [json.loads(line)["lr"]["G"] for line in lines]
    assert rates[0] == pytest.approx(1e-3) and rates[-1] < 6e-4


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
class TestOnTheGPU:
    @pytest.mark.parametrize("precision", ["fp32", "bf16"])
    @pytest.mark.parametrize("case", CASES)
    def test_recorded_steps_are_the_steps(self, case, precision, caplog):
        outcomes = []
        for graphed in (False, True):
            recipe = make(case, lr=1e-5)
            recipe.precision = type(recipe.precision)(precision)
            recipe.to("cuda", torch.channels_last)
            step = recipe.step
            if graphed:
                step, how = graphs.make_step(recipe, 6, torch.device("cuda"))
                assert how.startswith("the whole step")
            losses = []
            torch.manual_seed(7)
            for batch in make_batches(recipe, [6] * 10 + [2] + [6] * 3):
                batch = {name: value.cuda() for name, value in batch.items() if isinstance(value, torch.Tensor)}
                losses.append({name: loss.clone() for name, loss in step(batch).items()})
            outcomes.append(losses)
            assert not graphed or not step._failed, caplog.text
        for number, (ours, its) in enumerate(zip(*outcomes)):
            torch.testing.assert_close(ours, its, rtol=1e-2, atol=1e-3, msg=lambda text: f"step {number}: {text}")

    @pytest.mark.parametrize("case", CASES)
    def test_a_replay_waits_for_nothing(self, case):
        recipe = make(case).to("cuda", torch.channels_last)
        step, _ = graphs.make_step(recipe, 6, torch.device("cuda"))
        batch = {
            name: value.cuda()
            for name, value in next(make_batches(recipe, [6])).items()
            if isinstance(value, torch.Tensor)
        }
        for _ in range(2 * WARM_UP + 2):
            step(batch)
        torch.cuda.synchronize()
        torch.cuda.set_sync_debug_mode("error")
        try:
            for _ in range(4):
                step(batch)
        finally:
            torch.cuda.set_sync_debug_mode("default")
        assert not step._failed

    def test_a_step_that_reads_a_value_goes_on_without_a_graph(self, caplog):
        """The capture fails; what is drawn afterwards continues as if it had not been tried."""
        plain, recorded = make("gan").to("cuda"), make("gan").to("cuda")
        compute = recorded.compute

        def reading(batch, decided):
            losses = compute(batch, decided)
            losses["D"].item()
            return losses

        recorded.compute = reading
        step, _ = graphs.make_step(recorded, 6, torch.device("cuda"))
        outcomes = []
        for call in (plain.step, step):
            torch.manual_seed(7)
            outcomes.append(
                [
                    {name: loss.clone() for name, loss in call({"image": batch["image"].cuda()}).items()}
                    for batch in make_batches(plain, [6] * 8)
                ]
            )
        assert step._failed and "could not be recorded in a CUDA graph" in caplog.text
        for ours, its in zip(*outcomes):
            torch.testing.assert_close(ours, its, rtol=1e-3, atol=1e-4)

    def test_a_schedule_moves_recorded_steps(self):
        recipe = make("cyclegan", lr_policy="step", lr_decay_iters=1).to("cuda", torch.channels_last)
        step, _ = graphs.make_step(recipe, 1, torch.device("cuda"))
        batch = {name: value.cuda() for name, value in next(make_batches(recipe, [1])).items() if name in "AB"}
        for _ in range(WARM_UP + 2):
            step(batch)
        weight = recipe.networks["G_A"].model[1].weight
        moves = []
        for _ in range(3):
            before = weight.detach().clone()
            step(batch)
            moves.append((weight.detach() - before).abs().mean().item())
            recipe.end_epoch({})
        assert moves[1] < moves[0] / 3 and moves[2] < moves[1] / 3
