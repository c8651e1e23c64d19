"""Images of any size through a generator, and the device of a run."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

import fastgan
from fastgan._errors import UserError
from fastgan.evaluation.translation import generator_for, input_channels, reflect_to_fit, translate
from fastgan.models import ResnetGenerator, generator
from fastgan.training import device
from fastgan.training.networks import Networks


@given(st.integers(1, 25), st.integers(1, 25))
def test_reflection_to_fit(height, width):
    x = torch.arange(height * width, dtype=torch.float32).reshape(1, 1, height, width)
    y = reflect_to_fit(x, 4, 8)
    for size, given_size in zip(y.shape[2:], (height, width)):
        assert size % 4 == 0 and max(8, given_size) <= size < max(9, given_size + 4)
    assert torch.equal(y[..., :height, :width], x)
    if y.shape[2] < 2 * height and y.shape[3] < 2 * width:  # what torch's own reflection can do
        padding = (0, y.shape[3] - width, 0, y.shape[2] - height)
        assert torch.equal(y, torch.nn.functional.pad(x, padding, mode="reflect"))


@pytest.mark.parametrize("size", [(16, 16), (17, 23), (1, 1), (2, 9), (5, 40)])
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_any_size_comes_back(size, precision):
    torch.manual_seed(0)
    network = ResnetGenerator(3, 3, 4, n_blocks=1).eval()
    images = torch.rand(2, 3, *size) * 2 - 1
    result = translate(network, images, precision)
    assert result.shape == images.shape and result.dtype == torch.float32 and result.isfinite().all()
    if size == (16, 16) and precision == "fp32":
        with torch.no_grad():
            torch.testing.assert_close(result, network(images))


def test_batch_norms_go_by_each_image_unless_asked():
    torch.manual_seed(0)
    network = generator("resnet_6blocks", ngf=4, norm="batch").eval()
    images = torch.rand(2, 3, 16, 16) * torch.tensor([1.0, 0.1]).view(2, 1, 1, 1)
    first = translate(network, images[:1])
    torch.testing.assert_close(translate(network, images)[:1], first, rtol=0, atol=1e-5)
    with torch.no_grad():
        assert torch.equal(translate(network, images, running_statistics=True), network(images))
    assert (translate(network, images, running_statistics=True)[:1] - first).abs().max() > 0.01
    assert translate(network, torch.rand(1, 3, 1, 1)).shape == (1, 3, 1, 1)


def test_the_generator_of_a_direction():
    a, b = nn.Identity(), nn.Identity()
    assert generator_for(Networks({"G_A": a, "G_B": b}), "AtoB") is a
    assert generator_for(Networks({"G_A": a, "G_B": b}), "BtoA") is b
    assert generator_for(Networks({"G": a}), "AtoB") is a
    with pytest.raises(UserError, match="one generator of one direction: translate with it as --direction AtoB"):
        generator_for(Networks({"G": a}), "BtoA")
    with pytest.raises(UserError, match=r"holds no G_B, which translates BtoA \(it holds D_A, G_A\)"):
        generator_for(Networks({"G_A": a, "D_A": b}), "BtoA")


def test_input_channels():
    assert input_channels(ResnetGenerator(1, 3, 4, n_blocks=1)) == 1


@pytest.mark.parametrize("name", ["tpu", "cuda:x", "cpu:0", ""])
def test_unknown_devices(name):
    with pytest.raises(UserError, match="unknown device .*: choose auto, cpu, cuda or cuda:N"):
        device.pick_device(name)


def test_devices():
    assert device.pick_device("cpu") == torch.device("cpu")
    assert device.pick_device("auto").type == ("cuda" if torch.cuda.is_available() else "cpu")
    if not torch.cuda.is_available():
        with pytest.raises(UserError, match="--device cuda:0: torch .* use --device cpu"):
            device.pick_device("cuda:0")
    else:
        with pytest.raises(UserError, match="there are"):
            device.pick_device("cuda:99")
    assert device.describe_device(torch.device("cpu")).startswith("cpu (")


def test_backends_are_forced_and_described():
    with fastgan.backend("auto"):
        device.set_backend("auto")
        device.set_backend("reference")
        assert device.describe_backends(torch.device("cpu"), "fp32").startswith("reference: ")
        device.set_backend("instance_norm=reference, l1_loss=reference")
        with pytest.raises(ValueError, match="2 backends for all ops"):
            device.set_backend("cpp,reference")
        with pytest.raises(ValueError, match="unknown backend 'fpga'"):
            device.set_backend("fpga")


def test_batches_move_in_the_layout_asked_for():
    batch = {"A": torch.rand(2, 3, 4, 4), "label": torch.tensor([1, 2]), "A_path": ["a", "b"]}
    moved = device.move_batch(batch, torch.device("cpu"), torch.channels_last)
    assert moved["A"].is_contiguous(memory_format=torch.channels_last)
    assert list(moved) == ["A", "label"], "a recipe is given tensors alone"
