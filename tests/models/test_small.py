"""The networks of small images and the Johnson generator, layer by layer."""

import pytest
import torch
from torch import nn

from fastgan import models
from fastgan import nn as fnn
from fastgan.models import (
    ConvClassifier,
    DCGANDiscriminator,
    DCGANGenerator,
    Decoder,
    Encoder,
    JohnsonGenerator,
    MLPDiscriminator,
    MLPGenerator,
)
from fastgan.reference import vae


def count(network):
    return sum(parameter.numel() for parameter in network.parameters())


def shapes(network, *inputs):
    """The output shape of every convolution, pooling and linear layer, in order."""
    seen = []
    layers = (nn.Conv2d, nn.ConvTranspose2d, nn.MaxPool2d, nn.Linear, nn.Upsample)
    hooks = [
        module.register_forward_hook(lambda module, _, output: seen.append(tuple(output.shape[1:])))
        for module in network.modules()
        if isinstance(module, layers)
    ]
    output = network(*inputs)
    for hook in hooks:
        hook.remove()
    return seen, output


def test_dcgan_discriminator():
    network = DCGANDiscriminator()
    seen, logits = shapes(network, torch.randn(2, 1, 28, 28))
    assert seen == [(64, 26, 26), (64, 13, 13), (128, 11, 11), (128, 5, 5), (1024,), (1,)]
    assert logits.shape == (2, 1)
    # 1*64*9 + 64*128*9 + 3200*1024 + 1024 + 1, and two per channel of the three norms; no bias before a norm
    assert count(network) == 576 + 73_728 + 3_276_800 + 1_025 + 2 * (64 + 128 + 1024)
    norms = [module for module in network.modules() if isinstance(module, nn.modules.batchnorm._BatchNorm)]
    assert [norm.activation for norm in norms] == ["relu"] * 3
    assert all(isinstance(norm, kind) for norm, kind in zip(norms, (fnn.BatchNorm2d, fnn.BatchNorm2d, fnn.BatchNorm1d)))
    assert network.features(torch.randn(2, 1, 28, 28)).shape == (2, 1024)


@pytest.mark.parametrize("norm", ["instance", "none"])
def test_a_critic_without_batch_norm_judges_each_image_alone(norm):
    torch.manual_seed(0)
    network = DCGANDiscriminator(norm=norm)
    images = torch.randn(4, 1, 28, 28)
    together = network(images)
    alone = torch.cat([network(image[None]) for image in images])
    torch.testing.assert_close(together, alone, rtol=1e-4, atol=1e-5)
    assert (DCGANDiscriminator()(images)[:1] - DCGANDiscriminator()(images[:2])[:1]).abs() > 1e-4


@pytest.mark.parametrize(
    ("upsample", "middle"),
    [("resize", [(128, 14, 14), (64, 14, 14), (64, 28, 28), (1, 28, 28)]), ("transposed", [(64, 14, 14), (1, 28, 28)])],
)
def test_dcgan_generator(upsample, middle):
    network = DCGANGenerator(upsample=upsample)
    seen, images = shapes(network, torch.randn(2, 100))
    assert seen == [(1024,), (6272,), *middle]
    assert images.shape == (2, 1, 28, 28) and images.abs().max() <= 1
    taps = 25 if upsample == "resize" else 16
    assert count(network) == (100 * 1024 + 1024 * 6272 + 2 * (1024 + 6272) + 128 * 64 * taps + 2 * 64 + 64 * taps + 1)
    assert sum(isinstance(module, nn.Tanh) for module in network.modules()) == 4
    assert sum(isinstance(module, nn.ConvTranspose2d) for module in network.modules()) == 2 * (upsample == "transposed")
    for module in network.modules():
        if isinstance(module, nn.ConvTranspose2d):
            assert isinstance(module, fnn.ConvTranspose2d)
            assert (module.kernel_size, module.stride, module.padding) == ((4, 4), (2, 2), (1, 1))


def test_other_sizes_and_channels():
    for upsample in models.UPSAMPLINGS:
        images = DCGANGenerator(10, 3, 32, upsample)(torch.randn(2, 10))
        assert images.shape == (2, 3, 32, 32)
    assert DCGANDiscriminator(3, 32, 11)(images).shape == (2, 11)
    mean, log_sigma = Encoder(3, 32, 5)(images)
    assert mean.shape == log_sigma.shape == (2, 5)
    assert Decoder(3, 32, 5)(mean).shape == (2, 3, 32, 32)
    assert ConvClassifier(3, 32, 7)(images).shape == (2, 7)
    assert MLPGenerator(10, 3, 9)(torch.randn(2, 10)).shape == (2, 3, 9, 9)


def test_conditional_mlps():
    G, D = MLPGenerator(classes=10), MLPDiscriminator(classes=10)
    labels = torch.tensor([3, 7])
    seen, images = shapes(G, torch.randn(2, 100), labels)
    assert seen == [(128,), (256,), (512,), (1024,), (784,)]
    assert images.shape == (2, 1, 28, 28) and images.abs().max() <= 1
    assert G.embedding.weight.shape == D.embedding.weight.shape == (10, 10)
    assert G.model[0].in_features == 110 and D.model[0].in_features == 794
    norms = [module for module in G.modules() if isinstance(module, nn.BatchNorm1d)]
    assert [norm.num_features for norm in norms] == [256, 512, 1024]
    assert all(
        isinstance(norm, fnn.BatchNorm1d)
        and norm.eps == 0.8
        and norm.momentum == 0.1
        and (norm.activation, norm.negative_slope) == ("leaky_relu", 0.2)
        for norm in norms
    )
    assert count(G) == (
        100 + 110 * 128 + 128 + 128 * 256 + 256 * 512 + 512 * 1024 + 2 * (256 + 512 + 1024) + 1024 * 784 + 784
    )
    seen, logits = shapes(D, images, labels)
    assert seen == [(512,), (512,), (512,), (1,)] and logits.shape == (2, 1)
    assert count(D) == 100 + 794 * 512 + 512 + 2 * (512 * 512 + 512) + 513
    dropouts = [i for i, module in enumerate(D.model) if isinstance(module, nn.Dropout)]
    assert dropouts == [3, 6] and all(
        D.model[i].p == 0.4 and isinstance(D.model[i + 1], nn.LeakyReLU) and D.model[i + 1].negative_slope == 0.2
        for i in dropouts
    )


def test_labels_reach_both_conditional_mlps():
    torch.manual_seed(0)
    G, D = MLPGenerator(classes=10).eval(), MLPDiscriminator(classes=10).eval()
    z = torch.randn(1, 100).expand(2, -1)
    images = G(z, torch.tensor([0, 1]))
    assert (images[0] - images[1]).abs().max() > 1e-3
    logits = D(images[:1].expand(2, -1, -1, -1), torch.tensor([0, 1]))
    assert (logits[0] - logits[1]).abs() > 1e-5


def test_encoder_and_decoder():
    E, G = Encoder(latent_size=2), Decoder(latent_size=2)
    seen, (mean, _log_sigma) = shapes(E, torch.randn(2, 1, 28, 28))
    assert seen == [(16, 14, 14), (32, 7, 7), (32, 7, 7), (2,), (2,)]
    norms = [module for module in E.modules() if isinstance(module, nn.BatchNorm2d)]
    assert [(norm.num_features, norm.activation, norm.negative_slope) for norm in norms] == [
        (16, "leaky_relu", 0.2),
        (32, "leaky_relu", 0.2),
        (32, "leaky_relu", 0.2),
    ]
    assert count(E) == 16 * 9 + 16 * 32 * 9 + 32 * 32 * 9 + 2 * (16 + 32 + 32) + 2 * (1568 * 2 + 2)
    seen, logits = shapes(G, mean)
    assert seen == [(1568,), (16, 14, 14), (1, 28, 28)] and logits.shape == (2, 1, 28, 28)
    assert count(G) == 2 * 1568 + 1568 + 32 * 16 * 16 + 16 + 16 * 16 + 1
    for module in G.modules():
        assert not isinstance(module, nn.ConvTranspose2d) or isinstance(module, fnn.ConvTranspose2d)
    assert G.model[2].activation == "relu" and not any(isinstance(module, nn.ReLU) for module in G.modules())
    plain = vae.Decoder(1, 28, 2)
    plain.load_state_dict(G.state_dict(), strict=True)
    torch.testing.assert_close(G(mean), plain(mean))


def test_classes_are_planes_for_the_encoder_and_entries_for_the_decoder():
    E, G = Encoder(latent_size=2, classes=10), Decoder(latent_size=2, classes=10)
    assert E.features[0].in_channels == 11 and G.model[0].in_features == 12
    one_hot = torch.eye(10)[[3, 4]]
    planes = []
    E.features[0].register_forward_hook(lambda module, inputs, output: planes.append(inputs[0]))
    mean, _ = E(torch.randn(2, 1, 28, 28), one_hot)
    assert torch.equal(planes[0][:, 1:].amax((2, 3)), one_hot) and torch.equal(planes[0][:, 1:].amin((2, 3)), one_hot)
    assert G(mean, one_hot).shape == (2, 1, 28, 28)


def test_classifier():
    network = ConvClassifier(outputs=10)
    seen, _ = shapes(network, torch.randn(2, 1, 28, 28))
    assert seen == [(32, 28, 28), (32, 14, 14), (64, 14, 14), (64, 7, 7), (1024,), (10,)]
    assert count(network) == 320 + 64 * 32 * 9 + 64 + 3136 * 1024 + 1024 + 10_250
    assert sum(isinstance(module, nn.LeakyReLU) and module.negative_slope == 0.2 for module in network.modules()) == 3


def test_johnson_generator():
    network = JohnsonGenerator(width=32).eval()
    seen, images = shapes(network, torch.randn(1, 3, 48, 64))
    assert seen == [
        (32, 128, 144),
        (64, 64, 72),
        (128, 32, 36),
        *[(128, 32 - shrink, 36 - shrink) for shrink in range(2, 21, 2)],
        (64, 24, 32),
        (32, 48, 64),
        (3, 48, 64),
    ]
    assert images.shape == (1, 3, 48, 64) and images.abs().max() <= 1
    kernels = [module.kernel_size[0] for module in network.modules() if isinstance(module, nn.Conv2d)]
    assert kernels == [9, 3, 3, *[3] * 10, 9]
    norms = [module for module in network.modules() if isinstance(module, nn.BatchNorm2d)]
    assert len(norms) == 3 + 10 + 2 and all(isinstance(norm, fnn.BatchNorm2d) for norm in norms)
    assert isinstance(network.model[0], fnn.ReflectionPad2d) and network.model[0].padding == (40, 40, 40, 40)
    assert models.generator("johnson_5blocks", ngf=64, norm="batch").model[1].out_channels == 32


@pytest.mark.parametrize("norm", ["batch", "instance", "none"])
def test_a_johnson_block_adds_the_centre(norm):
    block = models.johnson.ValidBlock(4, norm).double()
    x = torch.randn(2, 4, 9, 11, dtype=torch.float64)
    for layer in (block.conv_block[0], block.conv_block[3]):
        nn.init.zeros_(layer.weight)
    assert torch.equal(block(x), x[:, :, 2:-2, 2:-2])


def test_sizes_that_do_not_fit():
    with pytest.raises(ValueError, match="40x64 .* at least 44"):
        JohnsonGenerator(width=2).check_images(40, 64)
    JohnsonGenerator(width=2).check_images(44, 64)
    for network in (DCGANGenerator, Decoder, Encoder):
        with pytest.raises(ValueError, match="30x30 .* multiple of 4"):
            network(image_size=30)
    with pytest.raises(ValueError, match="8x8 are too small"):
        DCGANDiscriminator(image_size=8)
    with pytest.raises(ValueError, match="unknown upsample 'bilinear'; choose one of resize, transposed"):
        DCGANGenerator(upsample="bilinear")
