"""Recipes on small images: their contract, who learns from what, and the faults that such systems are known for."""

import io

import pytest
import torch
from torch import nn

from fastgan import nn as fnn
from fastgan import recipes
from fastgan.recipes._latent import LatentRecipe

LATENT = ("gan", "dcgan", "cgan", "wgan", "wgan_gp", "sgan", "vae", "cvae", "cvae_gan")
CONDITIONAL = ("cgan", "cvae", "cvae_gan")
ENCODING = ("vae", "cvae", "cvae_gan")
SMALL = dict(latent_size=5, image_size=12)


def make(name, seed=0, precision="fp32", **options):
    torch.manual_seed(seed)
    recipe_class = recipes.get(name)
    return recipe_class(recipe_class.Options(**SMALL | options), precision=precision)


def batches(count=1, n=6, channels=1, size=12):
    generator = torch.Generator().manual_seed(0)
    return [
        {
            "image": 2 * torch.rand(n, channels, size, size, generator=generator) - 1,
            "label": torch.randint(10, (n,), generator=generator),
            "labelled_image": 2 * torch.rand(n, channels, size, size, generator=generator) - 1,
            "labelled_label": torch.randint(10, (n,), generator=generator),
        }
        for _ in range(count)
    ]


def copy_of(network):
    return {key: value.detach().clone() for key, value in network.state_dict().items()}


def moved(network, before):
    """Whether a parameter changed."""
    return any(not torch.equal(value, before[key]) for key, value in network.named_parameters())


@pytest.mark.parametrize(
    "name, options",
    [
        ("cgan", {}),
        ("dcgan", dict(upsample="transposed")),
        ("dcgan", {}),
        ("wgan", dict(upsample="transposed")),
        ("wgan_gp", dict(upsample="transposed")),
    ],
)
def test_a_new_generator_shows_the_code_and_is_not_saturated(name, options):
    recipe = make(name, latent_size=100, image_size=28, **options)
    z = torch.randn(64, 100, generator=torch.Generator().manual_seed(0))
    recipe.networks["G"].train()
    with torch.no_grad():
        images = recipe._generate(z, torch.arange(64) % 10 if recipe.classes else None)
    assert images.std(0).mean() > 0.1
    assert (images.abs() > 0.95).float().mean() < 0.01


@pytest.mark.parametrize("name", LATENT)
def test_contract(name):
    recipe = make(name)
    recipe_class = type(recipe)
    assert recipe_class.name == name and issubclass(recipe_class, LatentRecipe)
    assert recipe_class.summary and "\n" not in recipe_class.summary
    assert set(recipe_class.presets) == {"paper", "laptop", "gpu"}
    assert recipe_class.data_kind == ("semi_labelled" if name == "sgan" else "labelled")
    assert recipe.latent_size == 5 and recipe.directions == ()
    assert recipe.classes == (10 if name in CONDITIONAL else 0)
    assert recipe.encodes == (name in ENCODING)
    losses = recipe.step(batches()[0])
    assert all(loss.dim() == 0 and not loss.requires_grad and loss.isfinite() for loss in losses.values())

    z = recipe.latents(4, torch.Generator().manual_seed(1))
    assert z.shape == (4, 5) and torch.equal(z, recipe.latents(4, torch.Generator().manual_seed(1)))
    labels = torch.tensor([0, 3, 9, 3]) if recipe.classes else None
    images = recipe.decode(z, labels)
    assert images.shape == (4, 1, 12, 12) and images.dtype == torch.float32
    assert images.min() >= -1 and images.max() <= 1 and not images.requires_grad
    if recipe.encodes:
        codes = recipe.encode(images, labels)
        assert codes.shape == (4, 5) and torch.equal(codes, recipe.encode(images, labels)) and not codes.requires_grad
    else:
        with pytest.raises(ValueError, match=f"{name} has no encoder"):
            recipe.encode(images, labels)
    if name in ("sgan", "cvae_gan"):
        logits = recipe.classify(images)
        assert logits.shape == (4, 10) and not logits.requires_grad


@pytest.mark.parametrize("name", LATENT)
def test_decoding_depends_on_nothing_but_its_code(name):
    """Evaluation mode: a batch norm that took statistics of the asked codes, or dropout, would show here."""
    recipe = make(name)
    for batch in batches(3):
        recipe.step(batch)
    z = recipe.latents(4, torch.Generator().manual_seed(1))
    labels = torch.tensor([0, 3, 9, 3]) if recipe.classes else None
    before = {network_name: copy_of(network) for network_name, network in recipe.networks.items()}
    together = recipe.decode(z, labels)
    alone = torch.cat([recipe.decode(z[i : i + 1], None if labels is None else labels[i : i + 1]) for i in range(4)])
    torch.testing.assert_close(together, alone, rtol=1e-4, atol=1e-5)
    for network_name, network in recipe.networks.items():
        assert network.training
        assert all(torch.equal(value, before[network_name][key]) for key, value in network.state_dict().items())


@pytest.mark.parametrize("name", LATENT)
def test_a_run_continues_bit_for_bit(name):
    steps = batches(6)
    whole = make(name)
    torch.manual_seed(7)
    seen = [whole.step(batch) for batch in steps]
    first = make(name)
    torch.manual_seed(7)
    for batch in steps[:3]:
        first.step(batch)
    rng = torch.get_rng_state()
    file = io.BytesIO()
    torch.save(first.state_dict(), file)
    file.seek(0)
    second = make(name, seed=99)
    second.load_state_dict(torch.load(file, weights_only=True))
    torch.set_rng_state(rng)
    for batch, losses in zip(steps[3:], seen[3:]):
        again = second.step(batch)
        assert again.keys() == losses.keys() and all(torch.equal(again[key], losses[key]) for key in losses)
    for network_name, network in whole.networks.items():
        for key, value in network.state_dict().items():
            assert torch.equal(value, second.networks[network_name].state_dict()[key]), f"{network_name}.{key}"


@pytest.mark.parametrize("name", LATENT)
def test_bf16_and_channels_and_sizes(name):
    recipe = make(name, precision="bf16", input_nc=3, image_size=16)
    for batch in batches(6, channels=3, size=16):
        losses = recipe.step(batch)
    assert all(loss.isfinite() for loss in losses.values())
    labels = torch.zeros(2, dtype=torch.int64) if recipe.classes else None
    images = recipe.decode(recipe.latents(2), labels)
    assert images.shape == (2, 3, 16, 16) and images.dtype == torch.float32


class Spy:
    """Records the arguments of a network's forward calls, and lets them pass."""

    def __init__(self, network):
        self.calls, self.forward = [], network.forward
        network.forward = self

    def __call__(self, *arguments):
        self.calls.append(arguments)
        return self.forward(*arguments)


@pytest.mark.parametrize("name", ["gan", "dcgan", "cgan", "wgan", "wgan_gp", "sgan", "cvae_gan"])
def test_no_gradient_crosses_between_generator_and_discriminator(name):
    """D's steps leave no gradient in G; G's step asks D for none, and D's next step begins from zero."""
    options = {"n_critic": 1} if name.startswith("wgan") else {}
    recipe = make(name, **options)
    G = "VAE" if name == "cvae_gan" else "G"
    generator, D = recipe.networks["G"], recipe.networks["D"]
    clean = []
    plain_update = recipe.update

    def update(optimizer, loss):
        grads_of_D = [None if p.grad is None else p.grad.clone() for p in D.parameters()]
        grads_of_G = [None if p.grad is None else p.grad.clone() for p in generator.parameters()]
        plain_update(optimizer, loss)
        if optimizer == G:
            assert all(
                p.grad is None and q is None or torch.equal(p.grad, q) for p, q in zip(D.parameters(), grads_of_D)
            ), "G's step changed D's gradients"
            assert all(p.requires_grad for p in D.parameters())
        else:
            assert all(
                p.grad is None and q is None or torch.equal(p.grad, q)
                for p, q in zip(generator.parameters(), grads_of_G)
            ), f"{optimizer} sent gradients into G"
        clean.append(optimizer)

    recipe.update = update
    first, second = batches(2)
    before = copy_of(generator)
    recipe.step(first)
    recipe.step(second)
    assert G in clean and any(optimizer != G for optimizer in clean)
    assert moved(generator, before)


@pytest.mark.parametrize("name", LATENT)
def test_every_network_learns_and_only_from_its_own_optimizer(name):
    options = {"n_critic": 1} if name.startswith("wgan") else {}
    recipe = make(name, **options)
    before = {network_name: copy_of(network) for network_name, network in recipe.networks.items()}
    recipe.step(batches()[0])
    for network_name, network in recipe.networks.items():
        assert moved(network, before[network_name]), network_name
    owned = [
        parameter
        for optimizer_name, optimizer in recipe.optimizers.items()
        if optimizer_name != "D_fake"
        for group in optimizer.param_groups
        for parameter in group["params"]
    ]
    everything = [parameter for network in recipe.networks.values() for parameter in network.parameters()]
    assert {id(p) for p in owned} == {id(p) for p in everything} and len(owned) == len(everything)


@pytest.mark.parametrize("name", LATENT)
def test_norms_and_transposed_convolutions_are_ours(name):
    recipe = make(name, **({"upsample": "transposed"} if name in ("dcgan", "wgan", "wgan_gp", "sgan") else {}))
    stock = (nn.modules.batchnorm._BatchNorm, nn.ConvTranspose2d, nn.InstanceNorm2d, nn.ReflectionPad2d)
    ours = (fnn.BatchNorm1d, fnn.BatchNorm2d, fnn.ConvTranspose2d, fnn.InstanceNorm2d, fnn.ReflectionPad2d)
    found = [
        module for network in recipe.networks.values() for module in network.modules() if isinstance(module, stock)
    ]
    assert found and all(isinstance(module, ours) for module in found)


def test_labels_fill_their_slots():
    """D sees each real image with its own label, and each generated one with the class that G was asked for."""
    recipe = make("cgan")
    G, D = Spy(recipe.networks["G"]), Spy(recipe.networks["D"])
    batch = batches()[0]
    recipe.step(batch)
    asked = G.calls[0][1]
    (fake, fooled), (real, truth), (again, told) = D.calls
    assert torch.equal(real, batch["image"]) and torch.equal(truth, batch["label"])
    assert torch.equal(fooled, asked) and torch.equal(told, asked)
    assert torch.equal(fake, again) and fake.requires_grad and not again.requires_grad


@pytest.mark.parametrize("name", ENCODING)
def test_one_pass_of_the_encoder(name):
    recipe = make(name)
    spy = Spy(recipe.networks["E"])
    recipe.step(batches()[0])
    assert len(spy.calls) == 1


def test_turns():
    recipe = make("wgan", n_critic=3)
    assert ["G" in recipe.step(batch) for batch in batches(7)] == [False, False, True, False, False, True, False]
    again = make("wgan", n_critic=3)
    again.load_state_dict(recipe.state_dict())
    assert ["G" in again.step(batch) for batch in batches(2)] == [False, True]
    with pytest.raises(ValueError, match="takes turns every 3 steps, this recipe every 4"):
        make("wgan", n_critic=4).load_state_dict(recipe.state_dict())
    recipe = make("gan", d_steps=2)
    assert ["G" in recipe.step(batch) for batch in batches(3)] == [False, True, False]


def test_wgan_clips_the_critic_and_nothing_else():
    recipe = make("wgan")
    recipe.step(batches()[0])
    assert max(parameter.abs().max() for parameter in recipe.networks["D"].parameters()) <= 0.01 + 1e-9
    assert max(parameter.abs().max() for parameter in recipe.networks["G"].parameters()) > 0.05


def test_the_penalty_moves_the_critic():
    """A penalty whose gradient were lost on the way would leave the same weights as no penalty."""
    weights = []
    for lambda_gp in (0.0, 10.0):
        recipe = make("wgan_gp", lambda_gp=lambda_gp)
        torch.manual_seed(1)
        losses = recipe.step(batches()[0])
        weights.append(recipe.networks["D"].features[0].weight.detach().clone())
    assert losses["gp"] > 0 and not torch.equal(*weights)
    torch.testing.assert_close(losses["D"], losses["gp"] - losses["distance"])


def test_sgan_does_not_look_at_hidden_labels():
    seen = []
    for shift in (0, 1):
        recipe = make("sgan")
        torch.manual_seed(1)
        batch = batches()[0]
        batch["label"] = (batch["label"] + shift) % 10
        seen.append(recipe.step(batch))
    assert all(torch.equal(seen[0][key], seen[1][key]) for key in seen[0])


def test_discriminators_that_must_not_mix_images_have_no_batch_norm():
    for name in ("sgan", "wgan_gp"):
        D = make(name).networks["D"]
        assert not any(isinstance(module, nn.modules.batchnorm._BatchNorm) for module in D.modules())


@pytest.mark.parametrize("norm", ["instance", "none"])
@pytest.mark.parametrize("optimizers", [1, 2])
def test_a_dcgan_without_batch_norm_in_d_judges_generated_images_whatever_the_real_ones(norm, optimizers):
    fakes = []
    for brightness in (0.0, 0.5):
        recipe = make("dcgan", d_norm=norm, d_optimizers=optimizers, lr=0.0)
        torch.manual_seed(1)
        losses = recipe.step({"image": batches()[0]["image"] + brightness})
        fakes.append((losses["D_fake"], losses["G"]))
    for one, other in zip(*fakes):
        torch.testing.assert_close(one, other, rtol=1e-6, atol=0)


def test_a_dcgan_of_one_optimizer_sees_generated_images_beside_the_real_ones():
    losses = []
    for brightness in (0.0, 0.5):
        recipe = make("dcgan", d_optimizers=1, lr=0.0)
        torch.manual_seed(1)
        losses.append(recipe.step({"image": batches()[0]["image"] + brightness}))
    assert not torch.allclose(losses[0]["D_fake"], losses[1]["D_fake"], rtol=1e-3)
    assert not torch.allclose(losses[0]["G"], losses[1]["G"], rtol=1e-3)


@pytest.mark.parametrize("name", ["cvae", "cvae_gan"])
def test_the_class_reaches_encoder_and_decoder(name):
    recipe = make(name)
    batch = batches()[0]
    recipe.step(batch)
    z = recipe.latents(2)
    one, other = (recipe.decode(z, torch.full((2,), k)) for k in (1, 2))
    assert not torch.equal(one, other)
    one, other = (recipe.encode(batch["image"], torch.full((6,), k)) for k in (1, 2))
    assert not torch.equal(one, other)
    if name == "cvae":
        recipe = make(name, decoder_only=True)
        one, other = (recipe.encode(batch["image"], torch.full((6,), k)) for k in (1, 2))
        assert torch.equal(one, other)


def test_noise_follows_the_device_and_the_dtype():
    recipe = make("vae")
    for network in recipe.networks.values():
        network.double()
    assert recipe.latents(2).dtype == torch.float64
    if torch.cuda.is_available():
        recipe.to("cuda")
        assert recipe.latents(2).device.type == "cuda"
        recipe.step({"image": torch.zeros(4, 1, 12, 12, device="cuda", dtype=torch.float64)})


def test_samples_are_of_the_same_codes_for_life():
    for name, columns in (
        ("dcgan", ["real"] + [f"sample {k + 1}" for k in range(8)]),
        ("cgan", ["real", *map(str, range(10))]),
        ("vae", ["real", "rebuilt"] + [f"sample {k + 1}" for k in range(8)]),
    ):
        recipe = make(name)
        batch = batches(n=3)[0]
        state = torch.get_rng_state()
        one, other = recipe.sample(batch), recipe.sample(batch)
        assert torch.equal(state, torch.get_rng_state())
        assert list(one) == columns and all(image.shape == (3, 1, 12, 12) for image in one.values())
        assert all(torch.equal(one[key], other[key]) for key in one)


@pytest.mark.parametrize(
    ("name", "options", "sentence"),
    [
        ("dcgan", dict(upsample="bilinear"), "--upsample is 'bilinear': choose from resize, transposed"),
        ("dcgan", dict(d_optimizers=3), "--d-optimizers is 3: choose from 1, 2"),
        (
            "dcgan",
            dict(r1_gamma=1.0),
            "r1_gamma 1 penalises each image's own gradient, which batch norm mixes; use d_norm instance or none",
        ),
        ("dcgan", dict(r1_gamma=-1.0, d_norm="none"), "--r1-gamma is -1.0: it must be 0 or more"),
        ("dcgan", dict(d_norm="layer"), "--d-norm is 'layer': choose from batch, instance, none"),
        ("gan", dict(d_steps=0), "--d-steps is 0: it must be 1 or more"),
        ("gan", dict(lr=-1.0), "--lr is -1.0: it must be 0 or more"),
        ("cvae", dict(n_classes=1), "n_classes is 1: it must be 2 or more"),
        ("vae", dict(recon_loss="l1"), "--recon-loss is 'l1': choose from bce, mse"),
        ("dcgan", dict(image_size=30), "30x30 do not fit the DCGAN generator"),
    ],
)
def test_options_that_cannot_be(name, options, sentence):
    with pytest.raises(ValueError, match=sentence):
        make(name, **options)


def test_calls_that_do_not_fit():
    plain, told = make("gan"), make("cgan")
    z = plain.latents(2)
    for call, sentence in (
        (lambda: plain.decode(z, torch.tensor([1, 2])), "gan is not conditional on a class"),
        (lambda: plain.decode(z[:, :3]), r"codes of gan are \(N, 5\), got \(2, 3\)"),
        (lambda: told.decode(z), "needs a class for each of 2 images"),
        (lambda: told.decode(z, torch.tensor([1, 10])), r"classes run from 0 to 9, got \[1, 10\]"),
        (lambda: plain.step(batches(size=16)[0]), "images of 16x16 .* built for 12x12"),
        (lambda: make("vae").encode(torch.zeros(1, 1, 8, 8)), "images of 8x8 .* built for 12x12"),
    ):
        with pytest.raises(ValueError, match=sentence):
            call()


def test_every_option_says_what_it_is_for():
    for name in recipes.RECIPES:
        for field in recipes.get(name).Options.__dataclass_fields__.values():
            assert field.metadata["help"] and field.default is not None, f"{name}.{field.name}"
