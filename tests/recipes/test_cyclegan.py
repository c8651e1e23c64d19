"""The CycleGAN recipe: its contract, the order of updates, resuming, precision, errors."""

import copy
import dataclasses
import io
import math

import pytest
import torch

from fastgan import recipes
from fastgan.recipes.cyclegan import CycleGAN, CycleGANOptions

LOSSES = ["G_A", "cycle_A", "idt_A", "D_A", "G_B", "cycle_B", "idt_B", "D_B"]
TINY = dict(netG="resnet_6blocks", ngf=2, netD="n_layers", n_layers_D=1, ndf=2, pool_size=3)


def make(seed=0, precision="fp32", **kwargs):
    torch.manual_seed(seed)
    return CycleGAN(CycleGANOptions(**(TINY | kwargs)), precision=precision)


def batches(count, size=16, n=1, channels=(3, 3), seed=0):
    generator = torch.Generator().manual_seed(seed)
    return [
        {name: 2 * torch.rand(n, c, size, size, generator=generator) - 1 for name, c in zip("AB", channels)}
        for _ in range(count)
    ]


def weights(recipe, *names):
    return [p.detach().clone() for name in names or recipe.networks for p in recipe.networks[name].parameters()]


def same(first, second):
    return all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


def through_file(state):
    file = io.BytesIO()
    torch.save(state, file)
    file.seek(0)
    return torch.load(file, weights_only=True)


def test_registry():
    assert recipes.get("cyclegan") is CycleGAN and "cyclegan" in recipes.RECIPES
    with pytest.raises(ValueError, match="'stylegan'.*cyclegan"):
        recipes.get("stylegan")


def test_paper_defaults():
    o = CycleGANOptions()
    assert (o.netG, o.netD, o.ngf, o.ndf, o.n_layers_D) == ("resnet_9blocks", "basic", 64, 64, 3)
    assert (o.norm, o.dropout, o.init_type, o.init_gain, o.gan_mode) == ("instance", False, "normal", 0.02, "lsgan")
    assert (o.pool_size, o.lr, o.beta1, o.lr_policy, o.lr_decay_iters) == (50, 2e-4, 0.5, "linear", 50)
    assert (o.n_epochs, o.n_epochs_decay) == (100, 100)
    assert (o.lambda_A, o.lambda_B, o.lambda_identity) == (10.0, 10.0, 0.5)
    assert CycleGAN.presets["paper"] == {}


def test_every_option_says_what_it_is_for():
    for field in dataclasses.fields(CycleGANOptions):
        assert field.metadata["help"], field.name
        if "choices" in field.metadata:
            assert field.default in field.metadata["choices"]


@pytest.mark.parametrize("preset", CycleGAN.presets)
def test_presets_name_options_and_build(preset):
    names = {field.name for field in dataclasses.fields(CycleGANOptions)}
    values = {key: value for key, value in CycleGAN.presets[preset].items() if key in names}
    recipe = CycleGAN(CycleGANOptions(**(values | (dict(ngf=2, ndf=2) if preset == "paper" else {}))))
    size = CycleGAN.presets[preset].get("crop_size", 256)
    recipe.check_images(size, size)


@pytest.mark.parametrize("gan_mode, extra", [("lsgan", []), ("vanilla", []), ("wgangp", ["gp_A", "gp_B"])])
@pytest.mark.parametrize("n", [1, 2])
def test_step_returns_every_loss_by_name(gan_mode, extra, n):
    recipe = make(gan_mode=gan_mode)
    before = weights(recipe)
    losses = recipe.step(batches(1, n=n)[0])
    assert set(losses) == {*LOSSES, *extra}
    assert [name for name in losses if name not in extra] == LOSSES
    assert all(loss.shape == () and not loss.requires_grad and math.isfinite(loss) for loss in losses.values())
    assert not same(before, weights(recipe))


@pytest.mark.parametrize(
    "kwargs",
    [
        dict(norm="batch"),
        dict(norm="none"),
        dict(dropout=True),
        dict(netD="pixel"),
        dict(pool_size=0),
        dict(init_type="orthogonal"),
        dict(lambda_A=0.0),
    ],
)
def test_variants_train(kwargs):
    recipe = make(**kwargs)
    for batch in batches(2, n=2):
        assert all(math.isfinite(loss) for loss in recipe.step(batch).values())


def test_domains_of_different_channels_without_identity_loss():
    recipe = make(input_nc=1, output_nc=4, lambda_identity=0.0)
    losses = recipe.step(batches(1, channels=(1, 4))[0])
    assert list(losses) == [name for name in LOSSES if not name.startswith("idt")]
    assert recipe.translate(torch.zeros(1, 1, 16, 16), "AtoB").shape == (1, 4, 16, 16)


def test_losses_are_the_published_terms():
    """One step at batch 1, written out: G's terms at the old weights, D's at the old weights and the same fakes."""
    recipe = make(lambda_A=7.0, lambda_B=3.0, lambda_identity=0.25)
    nets = copy.deepcopy(recipe.networks)
    (batch,) = batches(1)
    A, B = batch["A"], batch["B"]
    losses = recipe.step(batch)
    with torch.no_grad():
        G_A, G_B, D_A, D_B = nets.values()
        fake_B, fake_A = G_A(A), G_B(B)
        expected = {
            "G_A": (D_A(fake_B) - 1).square().mean(),
            "G_B": (D_B(fake_A) - 1).square().mean(),
            "cycle_A": 7 * (G_B(fake_B) - A).abs().mean(),
            "cycle_B": 3 * (G_A(fake_A) - B).abs().mean(),
            "idt_A": 0.25 * 3 * (G_A(B) - B).abs().mean(),
            "idt_B": 0.25 * 7 * (G_B(A) - A).abs().mean(),
            "D_A": 0.5 * ((D_A(B) - 1).square().mean() + D_A(fake_B).square().mean()),
            "D_B": 0.5 * ((D_B(A) - 1).square().mean() + D_B(fake_A).square().mean()),
        }
    for name, value in expected.items():
        torch.testing.assert_close(losses[name], value, msg=lambda m: f"{name}: {m}")


def test_the_generators_step_leaves_the_discriminators_no_gradient():
    recipe = make()
    (batch,) = batches(1)
    seen = {}
    step_G = recipe.optimizers["G"].step

    def watch(*args, **kwargs):
        seen["D"] = [p.grad for name in ("D_A", "D_B") for p in recipe.networks[name].parameters()]
        seen["G"] = [
            p.grad is not None for name in ("G_A", "G_B") for p in recipe.networks[name].parameters() if p.requires_grad
        ]
        return step_G(*args, **kwargs)

    recipe.optimizers["G"].step = watch
    recipe.step(batch)
    assert all(grad is None for grad in seen["D"])
    assert all(seen["G"])


def test_the_discriminators_gradient_is_their_own_loss_alone():
    """Also on the second step, when gradients of the first are around."""
    recipe = make(pool_size=0)
    first, batch = batches(2)
    recipe.step(first)
    D_A, G_A = copy.deepcopy(recipe.networks["D_A"]), copy.deepcopy(recipe.networks["G_A"])
    recipe.step(batch)
    fake = G_A(batch["A"]).detach()
    loss = 0.5 * ((D_A(batch["B"]) - 1).square().mean() + D_A(fake).square().mean())
    parameters = [p for p in D_A.parameters() if p.requires_grad]
    expected = torch.autograd.grad(loss, parameters)
    ours = [p.grad for p in recipe.networks["D_A"].parameters() if p.requires_grad]
    for gradient, other in zip(ours, expected, strict=True):
        torch.testing.assert_close(gradient, other, rtol=1e-4, atol=1e-5 * other.abs().max().item() + 1e-8)


def test_the_discriminators_step_leaves_the_generators_alone():
    recipe = make()
    (batch,) = batches(1)
    after_G = {}
    step_D = recipe.optimizers["D"].step

    def watch(*args, **kwargs):
        after_G["weights"] = weights(recipe, "G_A", "G_B")
        after_G["grads"] = [p.grad for n in ("G_A", "G_B") for p in recipe.networks[n].parameters() if p.requires_grad]
        return step_D(*args, **kwargs)

    recipe.optimizers["D"].step = watch
    recipe.step(batch)
    assert same(after_G["weights"], weights(recipe, "G_A", "G_B"))


def test_discriminators_are_trained_on_pooled_images():
    recipe = make(pool_size=3)
    seen = []
    recipe.networks["D_A"].register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0].detach().clone()))
    fakes = []
    for batch in batches(12):
        seen.clear()
        recipe.step(batch)
        for_generator, both = seen
        real, for_discriminator = both.split(1)
        assert torch.equal(real, batch["B"])
        fakes.append((for_generator, for_discriminator))
    old = [i for i, (new, pooled) in enumerate(fakes) if not torch.equal(new, pooled)]
    assert old and min(old) >= 3
    assert all(any(torch.equal(fakes[i][1], new) for new, _ in fakes[:i]) for i in old)


def test_frozen_biases_stay_frozen_and_untouched():
    recipe = make()
    frozen = {
        name: [key for key, p in network.named_parameters() if not p.requires_grad]
        for name, network in recipe.networks.items()
    }
    assert all(frozen.values())
    for batch in batches(2):
        recipe.step(batch)
    for name, network in recipe.networks.items():
        assert [key for key, p in network.named_parameters() if not p.requires_grad] == frozen[name]
        assert not any(dict(network.named_parameters())[key].any() for key in frozen[name])


def test_same_seed_same_run():
    first, second = make(seed=5), make(seed=5)
    for batch in batches(5):
        assert first.step(batch) == second.step(batch)
    assert same(weights(first), weights(second))


@pytest.mark.parametrize("lr_policy", ["linear", "plateau"])
@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
def test_resume_continues_bit_exactly(lr_policy, memory_format):
    options = dict(lr_policy=lr_policy, n_epochs=1, n_epochs_decay=3)
    steps = batches(10)
    recipe = make(seed=0, **options).to("cpu", memory_format)
    for batch in steps[:6]:
        losses = recipe.step(batch)
    recipe.end_epoch({name: loss.item() for name, loss in losses.items()})
    state = through_file(recipe.state_dict())
    resumed = make(seed=99, **options).to("cpu", memory_format)
    resumed.load_state_dict(state)
    for batch in steps[6:]:
        assert recipe.step(batch) == resumed.step(batch)
        for each in (recipe, resumed):
            each.end_epoch({"loss": 1.0})
    assert same(weights(recipe), weights(resumed))
    assert recipe.optimizers["G"].param_groups[0]["lr"] == resumed.optimizers["G"].param_groups[0]["lr"]


def test_optimizer_states_follow_their_parameters():
    recipe = make()
    recipe.step(batches(1)[0])
    before = {key: value.clone() for key, value in recipe.optimizers["G"].state_dict()["state"][0].items()}
    assert recipe.to("cpu", torch.channels_last) is recipe
    for optimizer in recipe.optimizers.values():
        for parameter, state in optimizer.state.items():
            assert state["exp_avg"].stride() == parameter.stride()
    after = recipe.optimizers["G"].state_dict()["state"][0]
    assert all(torch.equal(after[key], before[key]) for key in before)


def test_end_epoch_steps_both_learning_rates():
    recipe = make(n_epochs=1, n_epochs_decay=1)
    recipe.step(batches(1)[0])
    rates = []
    for _ in range(2):
        rates.append([optimizer.param_groups[0]["lr"] for optimizer in recipe.optimizers.values()])
        recipe.end_epoch({"G_A": 1.0})
    assert rates == [[2e-4, 2e-4], [1e-4, 1e-4]]


def test_sample_and_translate():
    recipe = make(dropout=True)
    (batch,) = batches(1, n=2)
    images = recipe.sample(batch)
    assert list(images) == ["real_A", "fake_B", "rec_A", "real_B", "fake_A", "rec_B"]
    assert all(image.shape == (2, 3, 16, 16) and not image.requires_grad for image in images.values())
    assert all(network.training for network in recipe.networks.values())
    assert torch.equal(images["fake_B"], recipe.translate(batch["A"], "AtoB"))
    assert torch.equal(images["rec_B"], recipe.translate(images["fake_A"], "AtoB"))
    assert recipe.translate(torch.zeros(1, 3, 12, 20), "BtoA").shape == (1, 3, 12, 20)
    with pytest.raises(ValueError, match="'AB'.*AtoB or BtoA"):
        recipe.translate(batch["A"], "AB")


@pytest.mark.parametrize("precision, dtype", [("bf16", torch.bfloat16), ("fp16", torch.float16)])
def test_mixed_precision_stays_near_single(precision, dtype):
    """Eight bits of mantissa give losses within a few percent for the first steps; weights stay fp32."""
    sizes = dict(ngf=8, ndf=8, n_layers_D=2)
    single, mixed = make(**sizes), make(precision=precision, **sizes)
    for batch in batches(4, size=32):
        expected, losses = single.step(batch), mixed.step(batch)
        assert all(loss.dtype == torch.float32 for loss in losses.values())
        for name in LOSSES:
            assert losses[name].item() == pytest.approx(expected[name].item(), rel=0.1, abs=0.03), name
    assert all(p.dtype == torch.float32 for p in weights(mixed))
    sample = mixed.sample(batch)["fake_B"]
    assert sample.dtype == torch.float32 and sample.isfinite().all()
    assert bool(mixed.state_dict()["precision"]) == (precision == "fp16")


def test_fp16_scales_survive_a_file_and_skip_overflows():
    recipe = make(precision="fp16")
    steps = batches(6)
    for batch in steps[:2]:
        recipe.step(batch)
    resumed = make(seed=9, precision="fp16")
    resumed.load_state_dict(through_file(recipe.state_dict()))
    assert resumed.state_dict()["precision"] == recipe.state_dict()["precision"]
    for batch in steps[2:4]:
        assert recipe.step(batch) == resumed.step(batch)
    before, scale = weights(recipe), recipe.state_dict()["precision"]["G"]["scale"]
    recipe.step({name: images * math.inf for name, images in steps[4].items()})
    assert same(before, weights(recipe))
    assert recipe.state_dict()["precision"]["G"]["scale"] == scale / 2


def test_double_precision_networks_train_in_double():
    recipe = make()
    for network in recipe.networks.values():
        network.double()
    losses = recipe.step({name: images.double() for name, images in batches(1)[0].items()})
    assert all(loss.dtype == torch.float64 for loss in losses.values())


def test_a_wrapped_network_is_used_saved_and_loaded():
    """As the engine may wrap them: compiled or distributed modules put a prefix before every key."""
    recipe = make()
    recipe.networks["G_A"] = torch.compile(recipe.networks["G_A"], backend="eager")
    (batch,) = batches(1)
    expected = make().step(batch)
    losses = recipe.step(batch)
    for name in LOSSES:
        torch.testing.assert_close(losses[name], expected[name])
    other = make(seed=3)
    other.load_state_dict(through_file(recipe.state_dict()))
    assert same(weights(other), weights(recipe))


@pytest.mark.parametrize(
    "kwargs, message",
    [
        (dict(netG="unet"), "--netG is 'unet': choose from resnet_9blocks, resnet_6blocks"),
        (dict(gan_mode="hinge"), "--gan-mode is 'hinge': choose from lsgan, vanilla, wgangp"),
        (dict(norm="group"), "--norm is 'group'"),
        (dict(lr_policy="warm"), "--lr-policy is 'warm'"),
        (dict(init_type="zeros"), "--init-type is 'zeros'"),
        (dict(ngf=0), "--ngf is 0: it must be 1 or more"),
        (dict(pool_size=-1), "--pool-size is -1: it must be 0 or more"),
        (dict(lambda_A=-1.0), "--lambda-A is -1.0: it must be 0 or more"),
        (dict(input_nc=1), "got 1 and 3; set lambda_identity to 0"),
        (dict(gan_mode="wgangp", norm="batch"), "batch norm mixes"),
    ],
)
def test_options_that_cannot_be(kwargs, message):
    with pytest.raises(ValueError, match=message.replace("(", r"\(")):
        CycleGANOptions(**kwargs)


def test_unknown_precision():
    with pytest.raises(ValueError, match="'int8'.*fp32, bf16, fp16"):
        make(precision="int8")


def test_sizes_that_do_not_fit():
    recipe = make()
    with pytest.raises(ValueError, match="18x16.*multiples of 4"):
        recipe.step({"A": torch.zeros(1, 3, 18, 16), "B": torch.zeros(1, 3, 16, 16)})
    with pytest.raises(ValueError, match="8x8.*n_layers=3.*24 pixels"):
        make(netD="basic").check_images(8, 8)
    recipe.check_images(16, 20)


def test_checkpoints_that_do_not_fit():
    recipe = make()
    state = recipe.state_dict()
    with pytest.raises(ValueError, match="made by recipe 'pix2pix', not by 'cyclegan'"):
        recipe.load_state_dict(state | {"recipe": "pix2pix"})
    with pytest.raises(ValueError, match="network G_A is of another kind or size.*options it was trained with"):
        make(ngf=3).load_state_dict(state)
    with pytest.raises(ValueError, match="network D_A is of another kind or size"):
        make(n_layers_D=2).load_state_dict(state)
    with pytest.raises(ValueError, match="no network D_B"):
        networks = {name: each for name, each in state["networks"].items() if name != "D_B"}
        recipe.load_state_dict(state | {"networks": networks})
    with pytest.raises(ValueError, match="pool_size=3"):
        make(pool_size=7).load_state_dict(state)
