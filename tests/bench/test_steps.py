"""The bench of steps: all variants compute the step that is timed, and what does not is refused or named."""

import json
import os
import subprocess
import sys

import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from bench import steps, systems, trial
from bench.record import ROOT, layout, precision
from bench.systems import EAGER, OURS, PLAIN, VARIANTS, Step, Variant

CPU = torch.device("cpu")
FEW = (PLAIN, VARIANTS["eager bf16 nchw"], *OURS[1:3])
SMALL = {
    "cyclegan": (systems.cyclegan_system(6, ngf=4, ndf=4), 32, 1),
    "pix2pix": (systems.pix2pix_system(ngf=4, ndf=4), 128, 1),
    "wgan_gp": (systems.SYSTEMS["wgan_gp"], 12, 2),
    "vae": (systems.SYSTEMS["vae"], 12, 4),
}
pytestmark = pytest.mark.usefixtures("one_thread")


def case(name, change=lambda variant, found: found):
    """A small case whose trials are made in this process; `change` may alter what they find."""
    system, size, count = SMALL[name]
    return steps.StepCase(
        system,
        size,
        count,
        FEW if name in ("cyclegan", "wgan_gp") else EAGER + OURS,
        CPU,
        trial=lambda variant: change(variant, trial.trial(system, size, count, variant, CPU)),
    )


@pytest.mark.parametrize("name", SMALL)
def test_every_variant_computes_the_same_step(name):
    checked = case(name)
    checked.check()
    assert checked.errors.keys() == checked.variants.keys()
    assert checked.errors[PLAIN.name] == 0 and checked.failed == {} and checked.flops > 0
    runners = checked.runners()
    for found in checked.trials.values():
        assert found["first_step"] > 0
    assert all(torch.isfinite(loss) for runner in runners.values() for loss in runner(1).values())
    json.dumps(checked.describe(), allow_nan=False)


def test_losses_that_are_wrong_are_refused_and_ours_must_run():
    def wrong(variant, found):
        return (
            found | {"losses": {name: 1.05 * value for name, value in found["losses"].items()}}
            if variant.name == "ours bf16 nchw"
            else found
        )

    with pytest.raises(AssertionError, match="the losses of the first step are wrong: {'ours bf16 nchw'"):
        case("vae", wrong).check()

    def broken(variant, found):
        return {"failed": "RuntimeError: no"} if variant.who == "ours" else found

    with pytest.raises(AssertionError, match="does not run: {'ours fp32 nchw': 'RuntimeError: no'"):
        case("vae", broken).check()


def test_a_variant_that_torch_refuses_is_left_out_with_its_reason():
    refused = case(
        "vae",
        lambda variant, found: (
            {"failed": "no"} if variant.layout == "channels_last" and variant.who == "eager" else found
        ),
    )
    refused.check()
    assert refused.failed == {"eager bf16 channels_last": "no"}
    assert "eager bf16 channels_last" not in refused.runners()
    assert refused.describe()["not_timed"] == refused.failed


def test_a_trial_says_why_it_failed(monkeypatch):
    def step(self, number):
        raise RuntimeError("first line\nsecond line")

    monkeypatch.setattr(Step, "__call__", step)
    assert trial.trial(*SMALL["vae"], PLAIN, CPU) == {"failed": "RuntimeError: first line"}


def test_names_tell_variants_apart_with_their_layout_and_precision():
    assert (
        len(VARIANTS)
        == len({(v.who, v.precision, v.layout, v.in_place, v.fused, v.how, v.graph) for v in VARIANTS.values()})
        == 19
    )
    for name, variant in VARIANTS.items():
        assert (layout(name), precision(name)) == (variant.layout, variant.precision)
    assert "eager fp32 nchw in-place default Adam" in VARIANTS
    assert "compile bf16 channels_last force-layout in a graph" in VARIANTS


def test_in_place_activations_spare_what_the_unet_uses_twice():
    system, size, count = SMALL["pix2pix"]
    step = Step(system, size, count, Variant("eager", "fp32", "nchw", in_place=True), CPU)
    kinds = [
        (module.inplace, isinstance(module, nn.LeakyReLU))
        for module in step.networks["G"].modules()
        if isinstance(module, (nn.ReLU, nn.LeakyReLU))
    ]
    assert set(kinds) == {(True, False), (False, True)}
    assert all(module.inplace for module in step.networks["D"].modules() if isinstance(module, nn.LeakyReLU))


@pytest.mark.parametrize("name", SMALL)
def test_no_cast_weight_outlives_an_update(name):
    """One autocast region with a cache spans the eager step only where no network is used after its update."""
    system, size, count = SMALL[name]
    step = Step(system, size, count, Variant("eager", "bf16", "nchw"), CPU)
    updated, stale = set(), []
    for optimizer in step.optimizers.values():
        ids = {id(parameter) for group in optimizer.param_groups for parameter in group["params"]}
        optimizer.register_step_post_hook(lambda *_, ids=ids: updated.update(ids))
    for network in step.networks.values():
        network.register_forward_pre_hook(
            lambda module, _: stale.extend(p for p in module.parameters() if id(p) in updated)
        )
    step.on(step.batches[0])
    assert system.one_region <= (not stale)
    assert updated


def test_work_is_counted_as_torch_counts_it():
    convolution, x = nn.Conv2d(3, 8, 3), torch.randn(2, 3, 9, 9, requires_grad=True)
    with steps.Work() as work, FlopCounterMode(display=False) as counter:
        (convolution(x).flatten(1) @ torch.ones(8 * 7 * 7, 2)).sum().backward()
    assert work.flops == counter.get_total_flops() > 0


@pytest.mark.skipif(not trial.CLEAR_REFS.exists(), reason="the system does not tell the peak of resident memory")
def test_the_peak_holds_what_was_allocated_and_freed():
    code = """if True:
        import torch
        from bench import trial
        peak = trial.Peak(torch.device("cpu"))
        torch.ones(64 << 20)
        peak.reset()
        before = peak.read()
        torch.ones(16 << 20)
        print(before, peak.read())
    """
    # In a process of its own: freed memory that an earlier test had kept would take the tensor without growing.
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    before, after = map(int, done.stdout.split())
    assert after - before >= 60 << 20
    assert before < 128 << 20, "what was freed before the reset does not count"


def test_a_trial_in_a_fresh_process(tmp_path):
    found = trial.in_fresh_process("vae", 12, 2, "ours fp32 nchw", CPU, str(tmp_path))
    assert found["first_step"] > 0 and found["losses"].keys() == {"recon", "kl"}
    assert found["peak_bytes"] is None or found["peak_bytes"] > 0


def test_a_process_that_ends_early_gives_its_last_words(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "executable", str(tmp_path / "python"))
    (tmp_path / "python").write_text("#!/bin/sh\necho first >&2; echo killed >&2; exit 9\n")
    (tmp_path / "python").chmod(0o755)
    found = trial.in_fresh_process("vae", 12, 2, "ours fp32 nchw", CPU, str(tmp_path))
    assert found == {"failed": "its process ended early: killed"}


def test_beside_compile_only_when_asked():
    # Settings of this pytest, of its workers among others, are not a user's.
    env = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST_")}

    def collected(*arguments):
        done = subprocess.run(
            [
                sys.executable,
                "-m",
                "pytest",
                "bench",
                "--benchmark",
                "--collect-only",
                "-q",
                "--benchmark-device",
                "cpu",
                "-k",
                "cyclegan-256x256-batch1",
                *arguments,
            ],
            cwd=ROOT,
            env=env,
            capture_output=True,
            text=True,
        )
        assert done.returncode in (0, pytest.ExitCode.NO_TESTS_COLLECTED), done.stdout + done.stderr
        return [line for line in done.stdout.splitlines() if "::" in line]

    assert collected() == []
    assert collected("-m", "compile") == ["bench/test_steps.py::test_step_beside_compile[cyclegan-256x256-batch1]"]
