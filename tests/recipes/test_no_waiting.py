"""What a step computes on the device never waits for the host, nor the host for it."""

import contextlib
from importlib import import_module

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from fastgan import recipes
from tests.training.tape import NoHostReads

SMALL = dict(latent_size=5, image_size=12)
TRANSLATION = dict(netG="resnet_6blocks", ngf=2, netD="n_layers", n_layers_D=1, ndf=2, pool_size=2, norm="instance")
CHOICES = {
    "cyclegan-wgangp": ("cyclegan", dict(gan_mode="wgangp")),
    "pix2pix-batch": ("pix2pix", dict(norm="batch")),
    "dcgan-1-optimizer": ("dcgan", dict(d_optimizers=1, upsample="transposed")),
    "dcgan-no-norm": ("dcgan", dict(d_optimizers=1, d_norm="none")),
    "dcgan-r1": ("dcgan", dict(d_norm="none", r1_gamma=1.0)),
    "sgan-vanilla": ("sgan", dict(g_loss="vanilla")),
    "cvae-decoder-only": ("cvae", dict(decoder_only=True)),
}
CASES = {name: (name, {}) for name in recipes.RECIPES} | CHOICES


def make(case, precision="fp32"):
    name, options = CASES[case]
    recipe_class = recipes.get(name)
    torch.manual_seed(0)
    sizes = TRANSLATION if recipe_class.directions else SMALL
    turns = {"n_critic": 1} if name.startswith("wgan") else {}
    return recipe_class(recipe_class.Options(**sizes | turns | options), precision=precision)


def make_batch(recipe, device="cpu", count=4):
    if recipe.directions:
        return {name: (2 * torch.rand(count, 3, 16, 16) - 1).to(device) for name in "AB"}
    images = {name: (2 * torch.rand(count, 1, 12, 12) - 1).to(device) for name in ("image", "labelled_image")}
    return images | {name: torch.randint(10, (count,)).to(device) for name in ("label", "labelled_label")}


@pytest.fixture
def no_reads_by_other_ways(monkeypatch):
    """These read memory without asking an operator."""

    def refuse(*args, **kwargs):
        raise RuntimeError("reads a tensor on the host")

    for name in ("tolist", "numpy", "__array__"):
        monkeypatch.setattr(torch.Tensor, name, refuse)


@pytest.mark.parametrize(
    "case, precision", [(case, "fp32") for case in CASES] + [("cyclegan", "bf16"), ("dcgan", "bf16")]
)
def test_nothing_is_read_on_the_host(case, precision, no_reads_by_other_ways):
    recipe = make(case, precision)
    for _ in range(2):  # the pools are full after the first
        batch = make_batch(recipe)
        decided = recipe.decide(batch)
        with NoHostReads():
            recipe.compute(batch, decided)


def test_the_mode_sees_a_read():
    for read in (torch.Tensor.item, bool, float, torch.nonzero, lambda x: x[x > 0]):
        with NoHostReads(), pytest.raises(RuntimeError, match="on the host"):
            read(torch.ones(()) if read is not torch.nonzero else torch.ones(2))


class OneDevice(TorchDispatchMode):
    """Fails where a tensor of the host takes part in what a device computes, or comes out of it."""

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if func.overloadpacket is torch.ops.aten._fused_adam_:
            result = None  # the meta device has none
        else:
            result = func(*args, **(kwargs or {}))
        for value in tree_leaves((args, kwargs, result)):
            if isinstance(value, torch.Tensor) and value.device.type != "meta":
                raise RuntimeError(f"{func} meets a tensor of the host: {tuple(value.shape)} {value.dtype}")
        return result


def on_meta(recipe, monkeypatch):
    """The recipe on the device "meta", which computes shapes alone, with optimizers as they are on a GPU."""
    monkeypatch.setattr(torch, "autocast", lambda *_, **__: contextlib.nullcontext())
    for name in ("torch.optim.rmsprop", "torch.optim.adam"):
        monkeypatch.setattr(import_module(name), "_get_capturable_supported_devices", lambda *_, **__: ["meta"])
    for network in recipe.networks.values():
        network.to("meta")
    for optimizer in recipe.optimizers.values():
        for group in optimizer.param_groups:
            group["capturable"] = True
    return recipe


@pytest.mark.parametrize("case", CASES)
def test_nothing_comes_from_the_host(case, monkeypatch):
    """On a GPU such a copy would make the host wait, and could not be recorded."""
    recipe = on_meta(make(case), monkeypatch)
    batch = make_batch(recipe, "meta")
    decided = recipe.decide(batch)
    with OneDevice():
        losses = recipe.compute(batch, decided)
    assert losses and all(loss.device.type == "meta" for loss in losses.values())


def test_the_mode_sees_a_copy(monkeypatch):
    recipe = on_meta(make("gan"), monkeypatch)
    batch = make_batch(recipe, "meta")
    recipe.latents = lambda count: torch.randn(count, 5).to("meta")
    with OneDevice(), pytest.raises(RuntimeError, match="meets a tensor of the host"):
        recipe.compute(batch, recipe.decide(batch))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("case", CASES)
def test_no_step_waits_for_the_gpu(case, precision):
    recipe = make(case, precision).to("cuda", torch.channels_last)
    batch = make_batch(recipe, "cuda")
    for _ in range(3):
        recipe.step(batch)  # kernels are compiled, optimizer states made
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error")
    try:
        for _ in range(3):
            recipe.step(batch)
    finally:
        torch.cuda.set_sync_debug_mode("default")
