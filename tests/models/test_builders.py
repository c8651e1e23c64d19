"""Building networks by name, and their initial weights."""

import pytest
import torch
from torch import nn

from fastgan import models


def test_generators_by_name():
    for name, blocks in (("resnet_9blocks", 9), ("resnet_6blocks", 6)):
        network = models.generator(name, 3, 1, ngf=2)
        assert sum("conv_block.1.weight" in key for key in network.state_dict()) == blocks
        assert network.model[-2].out_channels == 1
    assert models.GENERATORS == ("resnet_9blocks", "resnet_6blocks", "unet_256", "unet_128", "johnson_5blocks")


def test_discriminators_by_name():
    assert models.discriminator("basic", ndf=2, n_layers=5).n_layers == 3
    assert models.discriminator("n_layers", ndf=2, n_layers=5).n_layers == 5
    assert isinstance(models.discriminator("pixel", 6, ndf=2), models.PixelDiscriminator)


def test_unknown_names_list_the_choices():
    with pytest.raises(ValueError, match="'unet'.*resnet_9blocks, resnet_6blocks, unet_256"):
        models.generator("unet")
    with pytest.raises(ValueError, match="'big'.*basic, n_layers, pixel"):
        models.discriminator("big")
    with pytest.raises(ValueError, match="'zeros'.*normal, xavier, kaiming, orthogonal"):
        models.generator("resnet_6blocks", ngf=2, init_type="zeros")


@pytest.mark.parametrize("init_type", models.INIT_TYPES)
def test_initial_weights(init_type):
    torch.manual_seed(0)
    network = nn.Sequential(
        nn.Conv2d(16, 64, 3),
        nn.BatchNorm2d(64),
        nn.ConvTranspose2d(64, 32, 3),
        nn.Linear(256, 128),
        nn.InstanceNorm2d(4, affine=True),
    )
    assert models.init_weights(network, init_type, 0.02) is network
    convolution, batch, transposed, linear, instance = network
    fan_in, fan_out = 16 * 9, 64 * 9
    expected = {
        "normal": 0.02,
        "xavier": 0.02 * (2 / (fan_in + fan_out)) ** 0.5,
        "kaiming": (2 / fan_in) ** 0.5,
        "orthogonal": 0.02 / fan_in**0.5,
    }[init_type]
    assert convolution.weight.std().item() == pytest.approx(expected, rel=0.05)
    if init_type == "orthogonal":
        rows = linear.weight @ linear.weight.T
        torch.testing.assert_close(rows, 0.02**2 * torch.eye(128), rtol=0, atol=1e-7)
    for layer in (convolution, transposed, linear, batch, instance):
        assert not layer.bias.any()
    assert batch.weight.mean().item() == pytest.approx(1, abs=0.01) and 0.01 < batch.weight.std() < 0.03
    assert (instance.weight == 1).all()


def test_initial_weights_follow_the_global_seed():
    torch.manual_seed(3)
    first = models.generator("resnet_6blocks", ngf=2)
    torch.manual_seed(3)
    second = models.generator("resnet_6blocks", ngf=2)
    assert all(torch.equal(a, b) for a, b in zip(first.parameters(), second.parameters()))
    assert first.model[1].weight.std().item() == pytest.approx(0.02, rel=0.2)


EVERY = {
    **{f"{name}, {norm}": lambda name=name, norm=norm: models.generator(name, ngf=4, norm=norm)
       for name in ("resnet_6blocks", "unet_128", "johnson_5blocks") for norm in ("instance", "batch", "none")},
    **{f"{name}, {norm}": lambda name=name, norm=norm: models.discriminator(name, ndf=4, norm=norm)
       for name in ("basic", "pixel") for norm in ("instance", "batch", "none")},
}  # fmt: skip


@pytest.mark.parametrize("name", EVERY)
def test_what_asks_for_a_gradient_gets_one(name):
    """As built, and after a helper has frozen and unfrozen all parameters, as DistributedDataParallel needs it. The
    output is the same, but for rounding."""
    torch.manual_seed(0)
    network, images = EVERY[name]().double(), torch.randn(1, 3, 128, 128, dtype=torch.double)
    for p in network.parameters():
        torch.nn.init.normal_(p, 0, 0.1)
    outputs = []
    for unfreeze in (False, True):
        if unfreeze:
            network.requires_grad_(False).requires_grad_(True)
        outputs.append(network(images))
        outputs[-1].square().mean().backward()
        assert not [name for name, p in network.named_parameters() if p.requires_grad and p.grad is None]
        network.zero_grad(set_to_none=True)
    torch.testing.assert_close(*outputs, rtol=1e-6, atol=1e-8)


@pytest.mark.skipif(not torch.distributed.is_available(), reason="torch was built without distributed")
def test_distributed_data_parallel_after_unfreezing():
    network = models.generator("resnet_6blocks", ngf=2).requires_grad_(False).requires_grad_(True)
    torch.distributed.init_process_group("gloo", store=torch.distributed.HashStore(), rank=0, world_size=1)
    try:
        model = torch.nn.parallel.DistributedDataParallel(network)
        for _ in range(2):
            model(torch.randn(1, 3, 16, 16)).square().mean().backward()
    finally:
        torch.distributed.destroy_process_group()
