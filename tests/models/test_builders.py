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
    network = nn.Sequential(nn.Conv2d(16, 64, 3), nn.BatchNorm2d(64), nn.ConvTranspose2d(64, 32, 3),
                            nn.Linear(256, 128), nn.InstanceNorm2d(4, affine=True))
    assert models.init_weights(network, init_type, 0.02) is network
    convolution, batch, transposed, linear, instance = network
    fan_in, fan_out = 16 * 9, 64 * 9
    expected = {"normal": 0.02, "xavier": 0.02 * (2 / (fan_in + fan_out)) ** 0.5, "kaiming": (2 / fan_in) ** 0.5,
                "orthogonal": 0.02 / fan_in ** 0.5}[init_type]
    assert convolution.weight.std().item() == pytest.approx(expected, rel=0.05)
    if init_type == "orthogonal":
        rows = linear.weight @ linear.weight.T
        torch.testing.assert_close(rows, 0.02 ** 2 * torch.eye(128), rtol=0, atol=1e-7)
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
