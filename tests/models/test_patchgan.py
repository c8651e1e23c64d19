"""PatchGAN discriminators: counts, sizes, published keys, loading, compile and autocast."""

import copy
import pickle

import pytest
import torch

from fastgan.models import NLayerDiscriminator, PixelDiscriminator

BATCH_STATE = ["weight", "bias", "running_mean", "running_var", "num_batches_tracked"]


def published_keys(n_layers, norm):
    bias = ["weight", "bias"] if norm == "instance" else ["weight"]
    keys = {"model.0.weight", "model.0.bias"}
    for index in range(2, 2 + 3 * n_layers, 3):
        keys |= {f"model.{index}.{leaf}" for leaf in bias}
        keys |= {f"model.{index + 1}.{leaf}" for leaf in BATCH_STATE if norm == "batch"}
    return keys | {f"model.{2 + 3 * n_layers}.weight", f"model.{2 + 3 * n_layers}.bias"}


@pytest.mark.parametrize("norm, channels, count", [("instance", 3, 2_764_737), ("batch", 6, 2_768_705)])
def test_parameter_count(norm, channels, count):
    assert sum(p.numel() for p in NLayerDiscriminator(channels, norm=norm).parameters()) == count


@pytest.mark.parametrize("size, patches", [(128, 14), (256, 30), (286, 33), (512, 62)])
def test_one_logit_per_patch(size, patches):
    assert NLayerDiscriminator(ndf=2)(torch.randn(1, 3, size, size)).shape == (1, 1, patches, patches)


@pytest.mark.parametrize("n_layers", [1, 2, 3, 5])
@pytest.mark.parametrize("norm", ["instance", "batch", "none"])
def test_state_dict_keys_are_the_published_ones(n_layers, norm):
    assert set(NLayerDiscriminator(ndf=2, n_layers=n_layers, norm=norm).state_dict()) == published_keys(n_layers, norm)


@pytest.mark.parametrize("norm", ["instance", "batch", "none"])
def test_pixel_discriminator(norm):
    network = PixelDiscriminator(ndf=4, norm=norm)
    bias = {"net.2.bias", "net.5.bias"} if norm == "instance" else set()
    state = {f"net.3.{leaf}" for leaf in BATCH_STATE if norm == "batch"}
    assert set(network.state_dict()) == {"net.0.weight", "net.0.bias", "net.2.weight", "net.5.weight"} | bias | state
    assert network(torch.randn(2, 3, 9, 7)).shape == (2, 1, 9, 7)
    network.check_images(9, 7)
    with pytest.raises(ValueError, match="1x1"):
        network.check_images(1, 1)


def test_widths_stop_at_eight_times_ndf():
    state = NLayerDiscriminator(ndf=2, n_layers=5).state_dict()
    widths = [state[f"model.{index}.weight"].shape[0] for index in (0, 2, 5, 8, 11, 14, 17)]
    assert widths == [2, 4, 8, 16, 16, 16, 1]


@pytest.mark.parametrize("n_layers", [1, 3])
def test_check_images(n_layers):
    network = NLayerDiscriminator(ndf=2, n_layers=n_layers)
    least = 3 * 2**n_layers
    network.check_images(least, least)
    assert network(torch.randn(1, 3, least, least)).shape == (1, 1, 1, 1)
    with pytest.raises(ValueError, match=f"{least - 1}x{least}.*n_layers={n_layers}.*{least} pixels"):
        network.check_images(least - 1, least)


def test_errors_name_the_choices():
    with pytest.raises(ValueError, match="'group'.*instance, batch, none"):
        NLayerDiscriminator(norm="group")
    with pytest.raises(ValueError, match="n_layers=0"):
        NLayerDiscriminator(n_layers=0)


@pytest.mark.parametrize("make", [lambda: NLayerDiscriminator(ndf=2, n_layers=2), lambda: PixelDiscriminator(ndf=2)])
@pytest.mark.parametrize("prefix", ["", "module.", "_orig_mod.module."])
def test_loads_published_files_strictly(make, prefix):
    source, target = make(), make()
    norm = "model.3" if isinstance(source, NLayerDiscriminator) else "net.3"
    state = {prefix + key: value for key, value in source.state_dict().items()}
    state |= {f"{prefix}{norm}.running_mean": torch.zeros(4), f"{prefix}{norm}.num_batches_tracked": torch.tensor(1)}
    target.load_state_dict(state, strict=True)
    images = torch.randn(1, 3, 16, 16)
    assert torch.equal(target(images), source(images))


@pytest.mark.parametrize("norm", ["instance", "batch", "none"])
def test_from_state_dict_infers_the_architecture(norm):
    for n_layers in (1, 2, 3, 4):
        source = NLayerDiscriminator(4, 6, n_layers, norm)
        rebuilt = NLayerDiscriminator.from_state_dict({"module." + k: v for k, v in source.state_dict().items()})
        assert str(rebuilt) == str(source) and rebuilt.n_layers == n_layers
    source = PixelDiscriminator(4, 6, norm)
    assert str(PixelDiscriminator.from_state_dict(source.state_dict())) == str(source)


def test_from_state_dict_refuses_other_networks():
    with pytest.raises(ValueError, match="not the state dict of an n-layer PatchGAN"):
        NLayerDiscriminator.from_state_dict(PixelDiscriminator(ndf=2).state_dict())
    with pytest.raises(ValueError, match="not the state dict of a pixel discriminator"):
        PixelDiscriminator.from_state_dict(NLayerDiscriminator(ndf=2).state_dict())


def test_deepcopy_pickle_compile_and_autocast():
    torch.manual_seed(0)
    network = NLayerDiscriminator(ndf=4, n_layers=2)
    images = torch.randn(2, 3, 24, 24)
    expected = network(images)
    assert torch.equal(copy.deepcopy(network)(images), expected)
    assert torch.equal(pickle.loads(pickle.dumps(network))(images), expected)
    compiled = torch.compile(network, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(images), expected)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        half = network(images)
    assert half.dtype == torch.bfloat16
    assert (half.float() - expected).abs().max() < 0.05 * expected.abs().max() + 0.02


@pytest.mark.parametrize("norm", ["instance", "batch", "none"])
def test_channels_last_is_kept(norm):
    network = NLayerDiscriminator(ndf=4, n_layers=2, norm=norm).to(memory_format=torch.channels_last)
    seen = []
    for module in network.modules():
        module.register_forward_hook(
            lambda module, inputs, output: seen.append(output.is_contiguous(memory_format=torch.channels_last))
        )
    network(torch.randn(2, 3, 24, 24).to(memory_format=torch.channels_last))
    assert len(seen) > 8 and all(seen)
