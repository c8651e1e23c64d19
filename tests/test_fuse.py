"""fastgan.fuse: a model of torch's layers computes by ours what it computed; what cannot be fused is left, and told."""

import copy
import io
import pickle
import warnings

import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st
from torch import nn
from torch.nn.utils import parametrizations, spectral_norm, weight_norm

import fastgan
from fastgan import _fuse
from fastgan.models import JohnsonGenerator, NLayerDiscriminator, PixelDiscriminator, ResnetGenerator, UnetGenerator
from fastgan.reference import cyclegan, pix2pix

from .reference.harness import idle_biases


def in_place(model):
    """The model with activations that overwrite what they are given, as published."""
    for module in model.modules():
        if hasattr(module, "inplace"):
            module.inplace = True
    return model


NETWORKS = {
    "generator": (lambda: in_place(cyclegan.Generator(8, 2)), (2, 3, 24, 20)),
    "generator, out of place": (lambda: cyclegan.Generator(8, 2), (2, 3, 24, 20)),
    "discriminator": (lambda: in_place(cyclegan.Discriminator(8)), (2, 3, 40, 32)),
    "unet": (lambda: pix2pix.Generator(6, 2), (2, 3, 64, 64)),
    "unet, in place": (lambda: in_place(pix2pix.Generator(5, 4)), (2, 3, 64, 32)),
    "patchgan": (lambda: in_place(pix2pix.Discriminator(ndf=4)), (2, 6, 40, 32)),
}


@pytest.fixture(params=NETWORKS)
def network(request):
    """A published network in double precision, and images for it."""
    torch.manual_seed(0)
    make, shape = NETWORKS[request.param]
    model = make().double()
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.normal_(module.weight, 1, 0.2), nn.init.normal_(module.bias)
    return model, torch.randn(shape, dtype=torch.double)


def run(model, x):
    """Output, gradients by name and buffers; dropout draws the same in every call."""
    torch.manual_seed(1)
    x = x.clone().requires_grad_()
    y = model(x * 1.0)
    idle = idle_biases(model)
    leaves = {"input": x} | {name: p for name, p in model.named_parameters() if p.requires_grad and name not in idle}
    weights = torch.linspace(-1, 1, y.numel(), dtype=y.dtype).view_as(y)
    gradients = torch.autograd.grad((y * weights).sum(), list(leaves.values()))
    return y.detach(), dict(zip(leaves, gradients)), dict(model.named_buffers())


def assert_same(fused, original, x):
    for a, b in zip(run(fused, x), run(original, x), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-10)


def sentences(model):
    """What a call reports."""
    said = []
    assert fastgan.fuse(model, report=said.append) is model
    return said


def kinds(model):
    return [type(module) for module in model.modules()]


def joined(said):
    return [sentence for sentence in said if " -> fastgan.functional." in sentence]


def passes(model):
    """How many calls of layers a Sequential needs."""
    layers, count = list(model), 0
    while layers:
        del layers[: 2 if isinstance(model, fastgan.nn.Sequential) and fastgan.nn.in_one_pass(*layers[:2]) else 1]
        count += 1
    return count


@pytest.mark.parametrize("training", [True, False], ids=["training", "evaluation"])
def test_published_networks(network, training):
    """Outputs, gradients and running statistics, in double precision."""
    original, x = network
    original.train(training)
    fused = fastgan.fuse(copy.deepcopy(original))
    assert_same(fused, original, x)
    assert_same(fused, original, x)
    ours = [kind for kind in kinds(fused) if kind.__module__ == "fastgan.nn"]
    stock = [kind for kind in kinds(fused) if kind in _fuse.OURS]
    assert len(ours) >= 8 and not stock


def test_nothing_is_computed_between_the_layers_of_the_published_generator(monkeypatch):
    """Neither padding nor activation is called, and each layer is where it was."""
    model = in_place(cyclegan.Generator(8, 2))
    layers, keys, x = list(model.model), list(model.state_dict()), torch.randn(1, 3, 16, 16)
    fastgan.fuse(model)
    assert list(model.model) == layers and list(model.state_dict()) == keys
    for layer in (nn.ReLU, nn.ReflectionPad2d, fastgan.nn.ReflectionPad2d):
        monkeypatch.setattr(layer, "forward", None)  # not called
    model(x)
    pairs = sum(isinstance(layer, (nn.ReLU, nn.ReflectionPad2d)) for layer in layers)
    assert passes(model.model) == len(layers) - pairs


def test_state_dicts_load_strictly_both_ways(network):
    original, x = network
    fused = fastgan.fuse(copy.deepcopy(original))
    assert list(fused.state_dict()) == list(original.state_dict())
    for layer in (original, fused):
        for value in layer.state_dict().values():
            value.copy_(torch.rand_like(value.double()))
    other = copy.deepcopy(original)
    other.load_state_dict(fused.state_dict(), strict=True)
    assert_same(other.eval(), fused.eval(), x)
    fused.load_state_dict(original.state_dict(), strict=True)
    assert_same(original.eval(), fused, x)


def test_parameters_and_buffers_are_the_same_objects(network):
    model, _ = network
    model.eval().requires_grad_(False)
    before = {**dict(model.named_parameters()), **dict(model.named_buffers())}
    fastgan.fuse(model)
    after = {**dict(model.named_parameters()), **dict(model.named_buffers())}
    assert list(before) == list(after) and all(before[name] is after[name] for name in before)
    assert not any(module.training for module in model.modules())
    assert not any(p.requires_grad for p in model.parameters())


def test_an_optimizer_made_before_goes_on():
    torch.manual_seed(0)
    models = [
        nn.Sequential(
            nn.ReflectionPad2d(1),
            nn.Conv2d(3, 4, 3, bias=False),
            nn.BatchNorm2d(4),
            nn.ReLU(True),
            nn.ConvTranspose2d(4, 2, 4, 2, 1),
        ).double()
    ]
    models.append(copy.deepcopy(models[0]))
    optimizers = [torch.optim.Adam(model.parameters(), 0.01) for model in models]
    for step in range(6):
        if step == 3:
            fastgan.fuse(models[0])
        x = torch.randn(2, 3, 8, 8, dtype=torch.double)
        for model, optimizer in zip(models, optimizers):
            optimizer.zero_grad()
            model(x).square().mean().backward()
            optimizer.step()
    for a, b in zip(*(model.state_dict().values() for model in models), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-7, atol=1e-9)


def test_gradient_penalty():
    torch.manual_seed(0)
    original = in_place(cyclegan.Discriminator(4, 2)).double()
    fused = fastgan.fuse(copy.deepcopy(original))
    x = torch.randn(2, 3, 24, 24, dtype=torch.double)
    results = []
    for model in (fused, original):
        leaf = x.clone().requires_grad_()
        (gradient,) = torch.autograd.grad(model(leaf * 1.0).sum(), leaf, create_graph=True)
        weights = [p for name, p in model.named_parameters() if name.endswith("weight")]
        results.append(torch.autograd.grad((gradient.flatten(1).norm(dim=1) - 1).square().mean(), weights))
    torch.testing.assert_close(*results, rtol=1e-8, atol=1e-10)


@pytest.mark.parametrize("make", [
    lambda: ResnetGenerator(ngf=4, n_blocks=1), lambda: ResnetGenerator(ngf=4, n_blocks=1, norm="batch", dropout=True),
    lambda: UnetGenerator(num_downs=5, ngf=2), lambda: UnetGenerator(num_downs=5, ngf=2, norm="none"),
])  # fmt: skip
def test_our_own_networks_compute_the_same(make):
    original = make().double().eval()
    fused = copy.deepcopy(original)
    sentences(fused)
    assert_same(fused, original, torch.randn(1, 3, 32, 32, dtype=torch.double))
    assert list(fused.state_dict()) == list(original.state_dict())


SINGLE = {
    "instance norm": (nn.InstanceNorm2d(3, 1e-3, 0.3, True, True), fastgan.nn.InstanceNorm2d),
    "instance norm, momentum None": (
        nn.InstanceNorm2d(3, momentum=None, track_running_stats=True),
        fastgan.nn.InstanceNorm2d,
    ),
    "batch norm": (nn.BatchNorm2d(3), fastgan.nn.BatchNorm2d),
    "batch norm, cumulative": (nn.BatchNorm2d(3, momentum=None), fastgan.nn.BatchNorm2d),
    "batch norm, not tracking": (nn.BatchNorm2d(3, 0.8, 0.2, False, False), fastgan.nn.BatchNorm2d),
    "padding": (nn.ReflectionPad2d((0, 1, 2, 3)), fastgan.nn.ReflectionPad2d),
    "convolution": (nn.Conv2d(3, 4, 3, 2, (0, 1)), fastgan.nn.Conv2d),
    "reflecting convolution": (
        nn.Conv2d(3, 6, 3, padding=(2, 1), groups=3, padding_mode="reflect"),
        fastgan.nn.ReflectionPadConv2d,
    ),
    "transposed convolution": (nn.ConvTranspose2d(3, 6, 3, 2, 1, 1, 3, True, 2), fastgan.nn.ConvTranspose2d),
}


@pytest.mark.parametrize("training", [True, False], ids=["training", "evaluation"])
@pytest.mark.parametrize("name", SINGLE)
def test_single_layers(name, training):
    """A layer that is the model itself, and the same one with a ReLU behind it."""
    stock, ours = SINGLE[name]
    for original in (stock, nn.Sequential(stock, nn.ReLU())):
        original = copy.deepcopy(original).double().train(training)
        fused = fastgan.fuse(copy.deepcopy(original))
        assert ours in kinds(fused)
        for _ in range(2):
            assert_same(fused, original, torch.randn(2, 3, 8, 7, dtype=torch.double))
    fresh = ours(
        *{fastgan.nn.ReflectionPad2d: (1,)}.get(ours, (3, 6, 3) if issubclass(ours, nn.modules.conv._ConvNd) else (3,))
    )
    assert set(vars(fastgan.fuse(copy.deepcopy(stock)))) == set(vars(fresh))


@pytest.mark.parametrize("pad", [
    nn.ReflectionPad2d((1, 1, 2, 2)), fastgan.nn.ReflectionPad2d(1), nn.ReflectionPad2d(0),
], ids=repr)  # fmt: skip
@pytest.mark.parametrize("conv", [
    nn.Conv2d(4, 2, 3), fastgan.nn.Conv2d(4, 2, 3, bias=False), nn.Conv2d(4, 6, (1, 3), 2),
    nn.Conv2d(4, 8, 3, dilation=(1, 2), groups=4), nn.Conv2d(4, 2, 3, padding="valid"),
    nn.Conv2d(4, 2, 3, padding_mode="circular"),
], ids=repr)  # fmt: skip
def test_padding_and_convolutions(pad, conv):
    original = copy.deepcopy(nn.Sequential(pad, conv)).double()
    fused = fastgan.fuse(copy.deepcopy(original))
    assert passes(fused) == 1
    assert_same(fused, original, torch.randn(2, 4, 7, 6, dtype=torch.double))


@pytest.mark.parametrize(("norm", "shape"), [
    (nn.BatchNorm1d(3), (4, 3)), (nn.BatchNorm1d(3), (4, 3, 5)), (nn.InstanceNorm2d(3), (3, 6, 5)),
])  # fmt: skip
@pytest.mark.parametrize("activation", [nn.ReLU(), nn.ReLU(True), nn.LeakyReLU(), nn.LeakyReLU(0.2, True),
                                        nn.LeakyReLU(-0.5), nn.LeakyReLU(2)], ids=repr)  # fmt: skip
def test_norms_and_activations(norm, shape, activation):
    original = copy.deepcopy(nn.Sequential(norm, activation)).double()
    fused = fastgan.fuse(copy.deepcopy(original))
    assert passes(fused) == 1
    for training in (True, False):
        original.train(training), fused.train(training)
        assert_same(fused, original, torch.randn(shape, dtype=torch.double))


@pytest.mark.parametrize("layers", [
    (nn.ConvTranspose2d(3, 2, 3), nn.ReLU(), nn.Flatten()),
    (nn.ConvTranspose2d(3, 2, 3), nn.LeakyReLU(), nn.Dropout(inplace=True)),
    (nn.InstanceNorm2d(3), nn.LeakyReLU(), nn.Hardtanh(inplace=True)),
    (nn.BatchNorm2d(3), nn.LeakyReLU(), nn.Hardtanh(inplace=True)),
    (nn.ReflectionPad2d(1), nn.LeakyReLU(inplace=True), nn.ReflectionPad2d(1), nn.Conv2d(3, 2, 3)),
], ids=lambda layers: "-".join(type(layer).__name__ for layer in layers))  # fmt: skip
def test_what_follows_may_overwrite_a_result(layers):
    original = copy.deepcopy(nn.Sequential(*layers)).double()
    assert_same(fastgan.fuse(copy.deepcopy(original)), original, torch.randn(2, 3, 6, 5, dtype=torch.double))


@pytest.mark.parametrize("loss", [nn.L1Loss(), nn.MSELoss(reduction="sum"), nn.BCEWithLogitsLoss(reduction="none")],
                         ids=repr)  # fmt: skip
def test_losses(loss):
    fused = copy.deepcopy(loss)
    assert sentences(fused) == [f"the model: {type(loss).__name__} -> fastgan.nn.{type(loss).__name__}"]
    x, t = torch.randn(4, 5), torch.rand(4, 5)
    torch.testing.assert_close(fused(x, t), loss(x, t))
    assert fused(x, 1.0).shape == loss(x, t).shape


def with_hook(layer, register):
    getattr(layer, register)(lambda *_: None)
    return layer


def with_forward(layer):
    layer.forward = layer.forward
    return layer


def compiled(layer):
    layer.compile(backend="eager")
    return layer


class Doubled(nn.Conv2d):
    def forward(self, x):
        return 2 * super().forward(x)


class Named(nn.InstanceNorm2d):
    pass


def norm_by_weight(layer):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return weight_norm(layer)


LEFT = {
    **{register: (lambda register=register: with_hook(nn.InstanceNorm2d(3), register), "it has hooks")
       for register in ("register_forward_hook", "register_forward_pre_hook", "register_full_backward_hook",
                        "register_full_backward_pre_hook")},
    **{register: (lambda register=register: with_hook(nn.BatchNorm2d(3), register), "it has hooks")
       for register in ("register_state_dict_post_hook", "register_state_dict_pre_hook",
                        "register_load_state_dict_pre_hook", "register_load_state_dict_post_hook")},
    "lazy": (lambda: nn.LazyConv2d(4, 3), "it has hooks"),
    "spectral_norm": (lambda: spectral_norm(nn.Conv2d(3, 4, 3)), "it has hooks"),
    "weight_norm": (lambda: norm_by_weight(nn.ConvTranspose2d(3, 4, 3)), "it has hooks"),
    "parametrized": (lambda: parametrizations.spectral_norm(nn.Conv2d(3, 4, 3)), "it is parametrized"),
    "own forward": (lambda: with_forward(nn.BatchNorm2d(3)), "its forward was replaced"),
    "compiled": (lambda: compiled(nn.BatchNorm2d(3)), "it was compiled on its own"),
    "subclass": (lambda: Doubled(3, 4, 3), "it is a subclass of nn.Conv2d"),
    "subclass, same forward": (lambda: Named(3), "it is a subclass of nn.InstanceNorm2d"),
    "eps": (lambda: nn.InstanceNorm2d(3, eps=-1e-3), "eps=-0.001 is below 0"),
    "cropping": (lambda: nn.ReflectionPad2d((1, -1, 0, 0)), r"the padding (1, -1, 0, 0) crops"),
    "named padding": (lambda: nn.Conv2d(3, 4, 3, padding="same"), "padding='same' is left to torch"),
    "named padding, reflecting": (
        lambda: nn.Conv2d(3, 4, 3, padding="same", padding_mode="reflect"), "padding='same' is left to torch"),
    "padding mode": (
        lambda: nn.Conv2d(3, 4, 3, padding=1, padding_mode="circular"), "padding_mode='circular' is left to torch"),
    "groups": (lambda: nn.Conv2d(3, 6, 3, groups=3), "groups=3 is left to torch"),
}  # fmt: skip


@pytest.mark.parametrize("name", LEFT)
def test_left_alone(name):
    make, reason = LEFT[name]
    torch.manual_seed(0)
    model = nn.Sequential(nn.Tanh(), make(), nn.Tanh()).double().eval()
    x = torch.randn(2, 3, 6, 5, dtype=torch.double)
    before, was = kinds(model), list(vars(model[1]))
    said = sentences(model)
    assert said == [f"1: {type(model[1]).__name__} left alone: {reason}"]
    assert kinds(model) == before and list(vars(model[1])) == was
    torch.manual_seed(0)
    again = nn.Sequential(nn.Tanh(), make(), nn.Tanh()).double().eval()
    torch.manual_seed(0)
    y = model(x)
    torch.manual_seed(0)
    assert torch.equal(y, again(x))


def test_weighted_bce_is_left_alone():
    weights = torch.rand(5)
    for loss in (nn.BCEWithLogitsLoss(weights), nn.BCEWithLogitsLoss(pos_weight=weights)):
        assert sentences(loss) == ["the model: BCEWithLogitsLoss left alone: weight and pos_weight are left to torch"]
        assert type(loss) is nn.BCEWithLogitsLoss


APART = {
    "hook on a norm": (
        lambda: (with_hook(nn.InstanceNorm2d(3), "register_forward_hook"), nn.ReLU()), "of 0, it has hooks"),
    "hook on an activation": (
        lambda: (nn.InstanceNorm2d(3), with_hook(nn.ReLU(), "register_forward_hook")), "of 1, it has hooks"),
    "hook on padding": (
        lambda: (with_hook(nn.ReflectionPad2d(1), "register_forward_hook"), nn.Conv2d(3, 2, 3)), "of 0, it has hooks"),
    "hook on a convolution": (
        lambda: (nn.ReflectionPad2d(1), with_hook(nn.Conv2d(3, 2, 3), "register_forward_pre_hook")),
        "of 1, it has hooks"),
    "own forward": (lambda: (nn.BatchNorm2d(3), with_forward(nn.ReLU())), "of 1, its forward was replaced"),
    "eps": (lambda: (nn.InstanceNorm2d(3, eps=-1e-3), nn.ReLU()), "eps=-0.001 is below 0"),
    "unequal padding": (lambda: (nn.ReflectionPad2d((1, 2, 1, 1)), nn.Conv2d(3, 2, 3)),
                        "the padding (1, 2, 1, 1) is not one width on both sides"),
    "cropping": (lambda: (nn.ReflectionPad2d(-1), nn.Conv2d(3, 2, 3)),
                 "the padding (-1, -1, -1, -1) is not one width on both sides"),
    "padding twice": (lambda: (nn.ReflectionPad2d(1), nn.Conv2d(3, 2, 3, padding=1)),
                      "the convolution pads, too: padding=(1, 1)"),
    "padding twice, by name": (lambda: (nn.ReflectionPad2d(1), nn.Conv2d(3, 2, 3, padding="same")),
                               "the convolution pads, too: padding='same'"),
}  # fmt: skip


@pytest.mark.parametrize("name", APART)
def test_not_joined(name):
    make, reason = APART[name]
    torch.manual_seed(0)
    original = nn.Sequential(*make()).double()
    x = torch.randn(2, 3, 6, 5, dtype=torch.double)
    torch.manual_seed(0)
    fused = nn.Sequential(*make()).double()
    names = [type(layer).__name__ for layer in fused]
    said = sentences(fused)
    assert said[0] == f"0, 1: {', '.join(names)} not joined: {reason}" and not joined(said)
    assert passes(fused) == 2
    assert_same(fused, original, x)


@pytest.mark.parametrize("layers", [
    (nn.InstanceNorm2d(3), nn.Identity(), nn.ReLU()), (nn.InstanceNorm2d(3), nn.ELU()),
    (nn.InstanceNorm2d(3), nn.Sequential(nn.ReLU())), (nn.ZeroPad2d(1), nn.Conv2d(3, 3, 3)),
    (nn.Conv2d(3, 3, 3), nn.ReLU()), (nn.GroupNorm(1, 3), nn.ReLU()), (nn.ReLU(), nn.InstanceNorm2d(3)),
    (nn.ConvTranspose2d(3, 3, 3), nn.LeakyReLU()), (fastgan.nn.InstanceNorm2d(3, activation="relu"), nn.ReLU()),
], ids=lambda layers: "-".join(type(layer).__name__ for layer in layers))  # fmt: skip
def test_neighbours_that_are_no_pair(layers):
    original = copy.deepcopy(nn.Sequential(*layers)).double()
    fused = copy.deepcopy(original)
    assert not joined(sentences(fused))
    assert kinds(fused).count(nn.Identity) == kinds(original).count(nn.Identity)
    assert_same(fused, original, torch.randn(2, 3, 6, 5, dtype=torch.double))


class Backwards(nn.Sequential):
    def forward(self, x):
        for layer in reversed(self):
            x = layer(x)
        return x


class Plain(nn.Sequential):
    """Runs as nn.Sequential does."""


def test_only_sequentials_that_run_in_order_are_joined():
    torch.manual_seed(0)
    original = nn.Sequential(Backwards(nn.InstanceNorm2d(3), nn.ReLU()), Plain(nn.InstanceNorm2d(3), nn.ReLU()),
                             with_forward(nn.Sequential(nn.InstanceNorm2d(3), nn.ReLU())),
                             nn.ModuleList([nn.InstanceNorm2d(3), nn.ReLU()])[0]).double()  # fmt: skip
    fused = copy.deepcopy(original)
    fused[2].forward = lambda x: nn.Sequential.forward(fused[2], x)
    assert joined(sentences(fused)) == ["1.0, 1.1: InstanceNorm2d, ReLU -> fastgan.functional.instance_norm"]
    assert isinstance(fused[1], Plain) and isinstance(fused[1], fastgan.nn.Sequential) and passes(fused[1]) == 1
    assert type(fused[0][0]) is type(fused[2][0]) is fastgan.nn.InstanceNorm2d
    assert_same(fused, original, torch.randn(2, 3, 6, 5, dtype=torch.double))


class Shared(nn.Module):
    """A norm in two places, one without activation; padding and activation everywhere; a block that runs twice."""

    def __init__(self):
        super().__init__()
        pad, relu, norm = nn.ReflectionPad2d(1), nn.ReLU(True), nn.InstanceNorm2d(4, affine=True)
        conv = nn.Conv2d(4, 4, 3)
        self.head = nn.Sequential(pad, nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), relu, conv, norm, relu)
        block = nn.Sequential(pad, nn.Conv2d(4, 4, 3), nn.InstanceNorm2d(4), relu)
        self.body = nn.Sequential(block, block, pad, conv, norm)
        self.relu = relu

    def forward(self, x):
        return self.relu(self.body(self.head(x)))


def test_what_is_shared_stays_shared():
    torch.manual_seed(0)
    original = Shared().double()
    fused = copy.deepcopy(original)
    said = sentences(fused)
    assert_same(fused, original, torch.randn(2, 3, 8, 7, dtype=torch.double))
    assert list(fused.state_dict()) == list(original.state_dict())
    assert fused.body[0] is fused.body[1] and fused.head[4] is fused.body[3] and fused.head[5] is fused.body[4]
    assert fused.relu is fused.head[3] is fused.head[6] and type(fused.relu) is nn.ReLU
    assert type(fused.head[5]) is fastgan.nn.InstanceNorm2d and type(fused.head[4]) is fastgan.nn.Conv2d
    assert [passes(each) for each in (fused.head, fused.body, fused.body[0])] == [4, 4, 2] and len(joined(said)) == 6


def test_references_from_elsewhere_see_the_fused_layer():
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.InstanceNorm2d(4, affine=True), nn.ReLU())
    norm = model[1]
    assert fastgan.fuse(model)[1] is norm and isinstance(norm, fastgan.nn.InstanceNorm2d)


def test_hooks_of_containers_stay():
    seen = []
    model = nn.Sequential(nn.Sequential(nn.InstanceNorm2d(3), nn.ReLU()))
    model[0].register_forward_hook(lambda module, inputs, output: seen.append(output))
    y = fastgan.fuse(model)(torch.randn(1, 3, 4, 4))
    assert passes(model[0]) == 1 and seen[0] is y


def test_a_second_call_finds_nothing_more_to_do(network):
    model, _ = network
    assert sentences(model)
    state = [(type(module), vars(module).copy()) for module in model.modules()]
    assert not sentences(model)
    assert [(type(module), vars(module)) for module in model.modules()] == state


def test_a_second_call_goes_on_where_the_first_had_to_stop():
    model = nn.Sequential(nn.ReflectionPad2d(1), nn.Conv2d(3, 3, 3), nn.BatchNorm2d(3), nn.LeakyReLU(0.3))
    handles = [layer.register_forward_hook(lambda *_: None) for layer in (model[0], model[3])]
    assert not joined(sentences(model)) and type(model[1]) is fastgan.nn.Conv2d
    for handle in handles:
        handle.remove()
    original = copy.deepcopy(model).double()
    assert len(joined(sentences(model))) == 2 and passes(model) == 2
    assert_same(model.double(), original, torch.randn(2, 3, 6, 5, dtype=torch.double))


def test_layouts_and_dtypes_stay():
    torch.manual_seed(0)
    original = in_place(cyclegan.Generator(8, 1)).to(torch.bfloat16, memory_format=torch.channels_last)
    fused = fastgan.fuse(copy.deepcopy(original))
    x = torch.randn(2, 3, 24, 20).to(torch.bfloat16, memory_format=torch.channels_last)
    for a, b in zip(fused.parameters(), original.parameters(), strict=True):
        assert a.dtype == b.dtype and a.stride() == b.stride()
    y = fused(x)
    assert y.dtype == torch.bfloat16 and y.is_contiguous(memory_format=torch.channels_last)
    truth = copy.deepcopy(original).double()(x.double())
    ours, theirs = ((each.double() - truth).abs().max() for each in (y, original(x)))
    assert ours <= 2 * theirs + 1e-2


def test_autocast():
    torch.manual_seed(0)
    original = in_place(cyclegan.Generator(8, 1))
    fused = fastgan.fuse(copy.deepcopy(original))
    x = torch.randn(2, 3, 24, 20)
    with torch.autocast("cpu", torch.bfloat16):
        y, expected = fused(x), original(x)
    assert y.dtype == expected.dtype
    assert (y - original(x)).abs().max() <= 2 * (expected - original(x)).abs().max() + 1e-2
    y.float().square().mean().backward()
    assert all(p.grad.isfinite().all() and p.grad.dtype == p.dtype for p in fused.parameters())


@pytest.mark.parametrize("name", ["generator", "unet, in place"])
def test_compiled_in_one_graph(name):
    torch.manual_seed(0)
    torch._dynamo.reset()
    make, shape = NETWORKS[name]
    model, x = make().eval(), torch.randn(shape)
    early = torch.compile(model, backend="aot_eager", fullgraph=True)
    expected = early(x)
    fastgan.fuse(model)
    late = torch.compile(model, backend="aot_eager", fullgraph=True)
    for f in (early, late, model):  # compiled before, compiled since, eager
        torch.testing.assert_close(f(x), expected, rtol=1e-4, atol=1e-5)
    first = next(model.parameters())
    for a, b in zip(*(torch.autograd.grad(f(x).sum(), first) for f in (late, model))):
        torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-3)
    torch._dynamo.reset()


def test_wrapped_models():
    """What torch.compile gave can be fused itself; what torch.jit.script gave has nothing to fuse."""
    torch._dynamo.reset()
    model, x = nn.Sequential(nn.InstanceNorm2d(3), nn.ReLU()), torch.randn(1, 3, 4, 4)
    expected = model(x)
    scripted = torch.jit.script(copy.deepcopy(model))
    wrapped = torch.compile(model, backend="eager")
    assert sentences(wrapped) == ["_orig_mod.0, _orig_mod.1: InstanceNorm2d, ReLU -> fastgan.functional.instance_norm"]
    assert not sentences(scripted)
    torch.testing.assert_close((wrapped(x), scripted(x)), (expected, expected))
    torch._dynamo.reset()


def test_copies(network):
    model, x = network
    fused = fastgan.fuse(model).eval()
    for clone in (copy.deepcopy(fused), pickle.loads(pickle.dumps(fused))):
        assert torch.equal(clone(x), fused(x)) and repr(clone) == repr(fused) and kinds(clone) == kinds(fused)


def seen_in_a_loop(model, x):
    """What a loop over the layers gathers, as for features in the middle."""
    features = []
    for layer in model:
        x = layer(x)
        features.append(x.detach().clone())
    return features


def seen_by_hooks(model, x, every=1):
    """What forward hooks on the layers see, going in and coming out."""
    seen = []
    handles = [
        layer.register_forward_hook(lambda _, inputs, y: seen.append((inputs[0].detach().clone(), y.detach().clone())))
        for layer in list(model)[::every]
    ]
    model(x)
    for handle in handles:
        handle.remove()
    return seen


def looked_at(model, x):
    """Features by every way to look between the layers of a Sequential."""
    half = len(model) // 2
    gradients = []
    handles = [
        layer.register_full_backward_hook(lambda _, dx, dy: gradients.append((dx, dy)))
        for layer in model
        if not getattr(layer, "inplace", False)
    ]
    if not any(getattr(layer, "inplace", False) for layer in model):  # which backward hooks do not take
        model(x.clone().requires_grad_()).square().sum().backward()
    for handle in handles:
        handle.remove()
    everywhere = []
    handle = nn.modules.module.register_module_forward_hook(lambda module, _, y: everywhere.append(y.detach().clone()))
    model(x)
    handle.remove()
    return {
        "loop": seen_in_a_loop(model, x), "hooks": seen_by_hooks(model, x), "some hooks": seen_by_hooks(model, x, 2),
        "gradients": gradients, "hooks of all modules": everywhere,
        "slices": [model[:half](x.clone()), model[half:](model[:half](x.clone())), model[:-1](x.clone())],
        "hooks again": seen_by_hooks(model[:half], x, 2),
    }  # fmt: skip


@pytest.mark.parametrize("layers", [
    lambda: (nn.ReflectionPad2d(1), nn.Conv2d(3, 4, 3), nn.InstanceNorm2d(4, affine=True), nn.ReLU()),
    lambda: (nn.ReflectionPad2d((1, 1, 2, 2)), nn.Conv2d(3, 4, 3, padding="valid"), nn.BatchNorm2d(4),
             nn.LeakyReLU(0.3), nn.Conv2d(4, 4, 3)),
    lambda: (nn.ConvTranspose2d(3, 4, 4, 2, 1), nn.ReLU(), nn.InstanceNorm2d(4), nn.LeakyReLU()),
    lambda: (nn.Conv2d(3, 4, 3), nn.InstanceNorm2d(4), nn.ReLU(True), nn.Conv2d(4, 4, 3), nn.BatchNorm2d(4),
             nn.LeakyReLU(0.2, True)),
    lambda: (nn.Flatten(2), nn.BatchNorm1d(3), nn.ReLU()),
], ids=["instance", "batch", "transposed", "in place", "flat"])  # fmt: skip
@pytest.mark.parametrize("kind", [nn.Sequential, Plain])
@pytest.mark.parametrize("training", [True, False], ids=["training", "evaluation"])
def test_who_looks_between_two_layers_sees_what_he_saw(layers, kind, training):
    torch.manual_seed(0)
    original = kind(*layers()).double().train(training)
    fused = copy.deepcopy(original)
    pairs = len(joined(sentences(fused)))
    x = torch.randn(2, 3, 8, 7, dtype=torch.double)
    once = passes(fused)
    assert pairs and once == len(fused) - pairs
    expected, seen = looked_at(original, x), looked_at(fused, x)
    torch.testing.assert_close(seen, expected, rtol=1e-8, atol=1e-10)
    assert passes(fused) == once  # nobody looks any more
    assert_same(fused, original, x)


def test_layers_that_are_exchanged_or_changed_afterwards():
    """The Sequential takes its layers as they are in each call."""
    torch.manual_seed(0)
    original = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.InstanceNorm2d(4),
                             nn.LeakyReLU()).double()  # fmt: skip
    fused = fastgan.fuse(copy.deepcopy(original))
    x = torch.randn(2, 3, 8, 7, dtype=torch.double)
    for change in (lambda m: setattr(m[4], "negative_slope", 0.4), lambda m: m.__setitem__(2, nn.ELU()),
                   lambda m: m.__setitem__(3, nn.Identity()), lambda m: m.append(nn.Tanh()), lambda m: m.pop(1),
                   lambda m: m.insert(1, nn.ReLU())):  # fmt: skip
        change(original), change(fused)
        assert_same(fused, original, x)


@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize("act", [nn.ReLU(), nn.LeakyReLU(0.3)], ids=repr)
@pytest.mark.parametrize("tool", ["SyncBatchNorm", "fuse_conv_bn_eval", "fuse_linear_bn_eval"])
def test_tools_that_replace_or_fold_batch_norms(tool, act, when):
    torch.manual_seed(0)
    linear = tool == "fuse_linear_bn_eval"
    original = (
        nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), act)
        if linear
        else nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), act)
    )
    nn.init.normal_(original[1].weight), nn.init.normal_(original[1].bias)
    original.double().eval()
    x = torch.randn(2, 3, dtype=torch.double) if linear else torch.randn(2, 3, 6, 5, dtype=torch.double)
    model = copy.deepcopy(original)
    if when == "after":
        fastgan.fuse(model)
    if tool == "SyncBatchNorm":
        model = nn.SyncBatchNorm.convert_sync_batchnorm(model)
    else:
        model[0], model[1] = getattr(torch.nn.utils.fusion, tool)(model[0], model[1]), nn.Identity()
    fastgan.fuse(model)
    torch.testing.assert_close(model(x), original(x), rtol=1e-9, atol=1e-10)


@pytest.mark.parametrize("name", NETWORKS)
def test_traced_by_fx(name):
    torch.manual_seed(0)
    make, shape = NETWORKS[name]
    model, x = fastgan.fuse(make()).eval(), torch.randn(shape)
    expected = model(x)
    traced = torch.fx.symbolic_trace(model)
    for graph in (traced, copy.deepcopy(traced), pickle.loads(pickle.dumps(traced))):
        torch.testing.assert_close(graph(x), expected, rtol=1e-4, atol=1e-4)
    called = [traced.get_submodule(node.target) for node in traced.graph.nodes if node.op == "call_module"]
    assert sum(type(layer).__module__ == "fastgan.nn" for layer in called) > 5


def test_a_traced_model_learns_as_the_model():
    """Running statistics too: tracing itself is no step."""
    torch.manual_seed(0)
    model = fastgan.fuse(
        nn.Sequential(
            nn.ReflectionPad2d(1),
            nn.Conv2d(3, 4, 3),
            nn.BatchNorm2d(4),
            nn.ReLU(),
            nn.ConvTranspose2d(4, 3, 3),
            nn.InstanceNorm2d(3, affine=True),
        )
    ).double()
    traced = torch.fx.symbolic_trace(copy.deepcopy(model))
    assert traced.get_submodule("2").num_batches_tracked == 0
    x = torch.randn(2, 3, 6, 5, dtype=torch.double)
    assert_same(traced, model, x)


@pytest.mark.parametrize("make", [
    lambda: ResnetGenerator(ngf=4, n_blocks=1), lambda: ResnetGenerator(ngf=4, n_blocks=1, norm="batch", dropout=True),
    lambda: UnetGenerator(num_downs=5, ngf=2), lambda: NLayerDiscriminator(ndf=4), lambda: JohnsonGenerator(width=4),
    lambda: PixelDiscriminator(ndf=4), lambda: JohnsonGenerator(width=4, norm="instance"),
])  # fmt: skip
def test_our_own_networks_are_traced_by_fx(make):
    torch.manual_seed(0)
    model, x = make().eval(), torch.randn(1, 3, 64, 64)
    torch.testing.assert_close(torch.fx.symbolic_trace(model)(x), model(x), rtol=1e-4, atol=1e-4)


def test_a_layer_alone_is_not_traced_by_fx_and_says_so():
    layer = fastgan.fuse(nn.InstanceNorm2d(3))
    with pytest.raises(RuntimeError, match=r"InstanceNorm2d is one call that .* trace a model that holds it"):
        torch.fx.symbolic_trace(layer)
    x = torch.randn(2, 3, 4, 4)
    torch.testing.assert_close(torch.fx.symbolic_trace(nn.Sequential(layer))(x), layer(x))


def test_losses_and_functions_are_traced_by_fx():
    class Step(nn.Module):
        def __init__(self):
            super().__init__()
            self.l1, self.pad = fastgan.nn.L1Loss(), fastgan.nn.ReflectionPad2d(1)

        def forward(self, x, t):
            y = fastgan.functional.instance_norm(self.pad(x), activation="relu")
            return self.l1(fastgan.functional.conv2d(y, t[:1]), 1.0) + self.l1(x, target=t)

    x, t = torch.randn(2, 3, 4, 4), torch.randn(2, 3, 4, 4)
    torch.testing.assert_close(torch.fx.symbolic_trace(Step())(x, t), Step()(x, t))


def test_quantized_tensors_are_refused():
    model = fastgan.fuse(nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.BatchNorm2d(4), nn.ReLU()))
    x = torch.quantize_per_tensor(torch.randn(1, 3, 8, 8), 0.1, 0, torch.quint8)
    for layer in (model, model[2], model[2:]):
        with pytest.raises(RuntimeError, match="quantized tensor: quantize the model before fastgan.fuse"):
            layer(x)


def test_what_is_prepared_for_quantization_is_left_alone():
    model = nn.Sequential(torch.ao.nn.intrinsic.ConvReLU2d(nn.Conv2d(3, 4, 3), nn.ReLU()),
                          torch.ao.nn.intrinsic.BNReLU2d(nn.BatchNorm2d(4), nn.ReLU()))  # fmt: skip
    fastgan.fuse(model)
    assert kinds(model)[:1] == [nn.Sequential] and not isinstance(model[1], fastgan.nn.Sequential)
    assert [type(block).__module__.split(".")[0] for block in model] == ["torch", "torch"]


class Blocks(nn.Sequential):
    """A subclass with a constructor of its own, as the blocks of torchvision have."""

    def __init__(self, channels, *, slope):
        super().__init__(nn.Conv2d(3, channels, 3), nn.InstanceNorm2d(channels), nn.LeakyReLU(slope))
        self.slope = slope


def test_subclasses_of_sequential_stay_themselves():
    torch.manual_seed(0)
    original = nn.Sequential(Blocks(4, slope=0.1)).double()
    fused, x = fastgan.fuse(copy.deepcopy(original)), torch.randn(2, 3, 6, 5, dtype=torch.double)
    file = io.BytesIO()
    torch.save(fused, file)
    file.seek(0)
    for model in (fused, copy.deepcopy(fused), pickle.loads(pickle.dumps(fused)), torch.load(file, weights_only=False)):
        block = model[0]
        assert isinstance(block, Blocks) and type(block) is type(fused[0]) and type(block).__name__ == "Blocks"
        assert block.slope == 0.1 and repr(model) == repr(fused) and passes(block) == 2
        assert_same(model, original, x)


def test_exported():
    torch.manual_seed(0)
    model = fastgan.fuse(
        nn.Sequential(
            nn.ReflectionPad2d(1),
            nn.Conv2d(3, 4, 3),
            nn.BatchNorm2d(4),
            nn.ReLU(),
            nn.ConvTranspose2d(4, 3, 3),
            nn.ReLU(),
            Blocks(3, slope=0.2),
        )
    ).eval()
    x = torch.randn(2, 3, 6, 5)
    program = torch.export.export(model, (x,)).module()
    torch.testing.assert_close(program(x), model(x))


def test_report():
    model = nn.Sequential(nn.ReflectionPad2d(1), nn.Conv2d(3, 3, 3), nn.BatchNorm2d(3), nn.LeakyReLU(0.3), nn.Tanh(),
                          spectral_norm(nn.Conv2d(3, 3, 1)), nn.Linear(4, 4))  # fmt: skip
    assert sentences(model) == [
        "0, 1: ReflectionPad2d, Conv2d -> fastgan.functional.reflection_pad_conv2d",
        "2, 3: BatchNorm2d, LeakyReLU -> fastgan.functional.batch_norm",
        "5: Conv2d left alone: it has hooks",
    ]


@pytest.mark.parametrize(("call", "message"), [
    (lambda: fastgan.fuse({"weight": torch.zeros(1)}), "fuse takes a model, a torch.nn.Module, got dict: give it"),
    (lambda: fastgan.fuse(nn.ReLU(), report=True), "report must be a function .* such as print, got True"),
])  # fmt: skip
def test_bad_arguments_are_errors(call, message):
    with pytest.raises(ValueError, match=message):
        call()


@st.composite
def sequentials(draw):
    """A chain of layers for images of 2 x 8 x 7 pixels, some of them shared, with some that cannot be fused."""
    layers, channels, (h, w) = [], 2, (8, 7)
    relu = nn.ReLU()
    after_activation = True  # then nothing may overwrite the result
    for _ in range(draw(st.integers(1, 7))):
        kind = draw(st.sampled_from(["pad", "conv", "norm", "norm", "activation", "activation", "transposed", "other"]))
        whole = st.integers
        if kind == "pad" and max(h, w) < 14:
            padding = draw(whole(0, 1) | st.tuples(*[whole(0, 1)] * 4))
            layers.append(nn.ReflectionPad2d(padding))
            left, right, top, bottom = layers[-1].padding
            h, w = h + top + bottom, w + left + right
        elif kind == "conv":
            kernel, padding, stride = draw(whole(1, 3)), draw(whole(0, 1)), draw(whole(1, 2))
            mode = draw(st.sampled_from(["zeros", "reflect"]))
            outputs = draw(whole(1, 4))
            size = [(n + 2 * padding - kernel) // stride + 1 for n in (h, w)]
            if min(size) < 3:
                continue
            bias = draw(st.booleans())
            layers.append(nn.Conv2d(channels, outputs, kernel, stride, padding, padding_mode=mode, bias=bias))
            channels, (h, w) = outputs, size
        elif kind == "norm":
            norm = draw(st.sampled_from([nn.InstanceNorm2d, nn.BatchNorm2d]))
            layers.append(
                norm(
                    channels,
                    draw(st.sampled_from([1e-5, 1e-2])),
                    draw(st.sampled_from([0.1, 0.7, None])),
                    draw(st.booleans()),
                    draw(st.booleans()),
                )
            )
        elif kind == "activation":
            overwrite = not after_activation and draw(st.booleans())
            slope = draw(st.sampled_from([None, 0.2, -0.3, 0]))
            if slope is None:
                layers.append(nn.ReLU(True) if overwrite else relu)
            else:
                layers.append(nn.LeakyReLU(slope, overwrite and slope >= 0))  # else torch's has no gradient
        elif kind == "transposed" and max(h, w) < 9:
            kernel, stride, outputs = draw(whole(1, 3)), draw(whole(1, 2)), draw(whole(1, 4))
            layers.append(nn.ConvTranspose2d(channels, outputs, kernel, stride))
            channels, h, w = outputs, (h - 1) * stride + kernel, (w - 1) * stride + kernel
        else:
            layers.append(draw(st.sampled_from([nn.Tanh, nn.Identity]))())
        after_activation = isinstance(layers[-1], (nn.ReLU, nn.LeakyReLU, nn.Tanh)) or (
            after_activation and isinstance(layers[-1], nn.Identity)
        )
    return nn.Sequential(*layers)


def regular(module, inputs):
    """Assume planes that vary before a norm, and nothing at the kink of an activation."""
    if isinstance(module, _fuse._NORMS):
        assume(inputs[0].var((2, 3)).min() > 1e-3)
    elif isinstance(module, (nn.ReLU, nn.LeakyReLU)):
        assume(inputs[0].abs().min() > 1e-9)


@given(sequentials(), st.integers(0, 1000))
def test_any_sequential(original, seed):
    torch.manual_seed(seed)
    original.double()
    for p in original.parameters():
        nn.init.normal_(p)
    x = torch.randn(2, 2, 8, 7, dtype=torch.double)
    watched = copy.deepcopy(original)
    for module in watched:
        module.register_forward_pre_hook(regular)
    watched(x * 1.0)
    fused = copy.deepcopy(original)
    tensors = [*fused.parameters(), *fused.buffers()]
    fastgan.fuse(fused)
    assert all(a is b for a, b in zip([*fused.parameters(), *fused.buffers()], tensors, strict=True))
    assert list(fused.state_dict()) == list(original.state_dict()) and len(fused) == len(original)
    assert not any(" -> " in sentence for sentence in sentences(copy.deepcopy(fused)))
    for training in (True, False):
        original.train(training), fused.train(training)
        assert_same(fused, original, x)
