"""The ResNet generator: counts, published keys, loading, sizes; deepcopy, pickle, compile and autocast."""

import copy
import pickle

import pytest
import torch
import torch.nn.functional as F
from torch.utils._python_dispatch import TorchDispatchMode

import fastgan
from fastgan.models import ResnetGenerator
from fastgan.models.resnet import ResnetBlock
from fastgan.ops import _dispatch, instance_norm, reflection_pad_conv2d


def published_keys(n_blocks, norm="instance", dropout=False):
    """By rule: the convolutions of the published Sequential (biases with instance norm only) and batch norm's state."""
    bias = ["weight", "bias"] if norm == "instance" else ["weight"]
    batch = ["weight", "bias", "running_mean", "running_var", "num_batches_tracked"] if norm == "batch" else []
    first_up, last = 10 + n_blocks, 10 + n_blocks + 7
    convolutions = ["model.1", "model.4", "model.7"]
    norms = ["model.2", "model.5", "model.8"]
    second = 6 if dropout else 5
    for block in range(10, 10 + n_blocks):
        convolutions += [f"model.{block}.conv_block.1", f"model.{block}.conv_block.{second}"]
        norms += [f"model.{block}.conv_block.2", f"model.{block}.conv_block.{second + 1}"]
    convolutions += [f"model.{first_up}", f"model.{first_up + 3}"]
    norms += [f"model.{first_up + 1}", f"model.{first_up + 4}"]
    keys = {f"{name}.{leaf}" for name in convolutions for leaf in bias}
    keys |= {f"{name}.{leaf}" for name in norms for leaf in batch}
    return keys | {f"model.{last}.weight", f"model.{last}.bias"}


@pytest.mark.parametrize("n_blocks, count", [(9, 11_378_179), (6, 7_837_699)])
def test_parameter_count(n_blocks, count):
    assert sum(p.numel() for p in ResnetGenerator(n_blocks=n_blocks).parameters()) == count


@pytest.mark.parametrize("n_blocks", [2, 6, 9])
@pytest.mark.parametrize("norm", ["instance", "batch", "none"])
@pytest.mark.parametrize("dropout", [False, True])
def test_state_dict_keys_are_the_published_ones(n_blocks, norm, dropout):
    network = ResnetGenerator(ngf=2, n_blocks=n_blocks, norm=norm, dropout=dropout)
    assert set(network.state_dict()) == published_keys(n_blocks, norm, dropout)


def test_transposed_convolution_weights_are_in_out_height_width():
    state = ResnetGenerator(ngf=4).state_dict()
    assert state["model.19.weight"].shape == (16, 8, 3, 3)
    assert state["model.22.weight"].shape == (8, 4, 3, 3)
    assert state["model.26.weight"].shape == (3, 4, 7, 7)


@pytest.mark.parametrize("norm", ["instance", "batch", "none"])
@pytest.mark.parametrize("dropout", [False, True])
@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
def test_shape_range_and_memory_format(norm, dropout, memory_format):
    network = ResnetGenerator(input_nc=4, output_nc=2, ngf=4, n_blocks=2, norm=norm, dropout=dropout)
    images = torch.randn(2, 4, 20, 32)
    output = network.to(memory_format=memory_format)(images.to(memory_format=memory_format))
    assert output.shape == (2, 2, 20, 32)
    assert output.is_contiguous(memory_format=memory_format)
    assert output.abs().max() <= 1


def test_channels_last_stays_through_every_layer():
    network = ResnetGenerator(ngf=4, n_blocks=2).to(memory_format=torch.channels_last)
    seen = []

    def check(module, inputs, output):
        seen.append(output.is_contiguous(memory_format=torch.channels_last))

    for module in network.modules():
        module.register_forward_hook(check)
    network(torch.randn(1, 3, 16, 24).to(memory_format=torch.channels_last))
    assert len(seen) > 20 and all(seen)


def test_only_the_first_convolution_pads(monkeypatch):
    """With instance norm every later reflection is written by the norm before it."""
    network = ResnetGenerator(ngf=4, n_blocks=2)
    convolve, norm = reflection_pad_conv2d.convolve, instance_norm.compute
    paddings, halos = [], []
    monkeypatch.setattr(
        reflection_pad_conv2d, "convolve", lambda *args, **more: paddings.append(args[4]) or convolve(*args, **more)
    )
    monkeypatch.setattr(instance_norm, "compute", lambda *args: halos.append(args[7]) or norm(*args))
    y = network(torch.randn(1, 3, 16, 16))
    assert halos == [0, 0, 1, 1, 1, 1, 0, 0, 3]
    assert paddings == [(3, 3), *[0] * 4]
    assert y.shape == (1, 3, 16, 16)


def test_hooks_see_one_tensor_and_change_nothing():
    """A hook on any layer, also between two that run as one, sees what comes in and goes out by the layer's own."""
    torch.manual_seed(0)
    network, x = ResnetGenerator(ngf=4, n_blocks=2).double(), torch.randn(1, 3, 16, 16, dtype=torch.double)
    expected = network(x)
    for module in network.modules():
        seen = []
        with_hook = module.register_forward_hook(lambda _, inputs, output, seen=seen: seen.append((*inputs, output)))
        torch.testing.assert_close(network(x), expected, rtol=1e-9, atol=1e-9)
        with_hook.remove()
        assert len(seen) == 1 and all(type(each) is torch.Tensor for each in seen[0])
    features = []
    network.model[10].register_forward_hook(lambda _, inputs, output: features.append(output))
    y = network(x)
    (gradient,) = torch.autograd.grad(y.square().sum(), features[0])
    torch.testing.assert_close(y, expected, rtol=1e-9, atol=1e-9)
    leaf = features[0].detach().requires_grad_()
    (truth,) = torch.autograd.grad(network.model[11:](leaf).square().sum(), leaf)
    torch.testing.assert_close(gradient, truth, rtol=1e-9, atol=1e-12)


def test_gradients_of_residuals_are_added_inside_the_norms():
    """No backward pass pads the gradient of a residual with zeros, or adds it to that of the halo'd tensor."""
    seen = []

    class Watch(TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            shape = tuple(args[0].shape) if isinstance(args[0], torch.Tensor) else None
            seen.append((func.overloadpacket.__name__, shape))
            return func(*args, **(kwargs or {}))

    network = ResnetGenerator(ngf=4, n_blocks=2)
    loss = network(torch.randn(1, 3, 16, 16)).sum()
    with Watch():
        loss.backward()
    assert "instance_norm_backward" in [name for name, _ in seen]
    halod = (1, 16, 6, 6)
    assert not [name for name, shape in seen if name in ("slice_backward", "add", "add_") and shape == halod]


def test_norms_of_a_block_take_the_moments_of_its_convolutions(monkeypatch):
    """By Triton, in its interpreter without a GPU; the result is that of the layers one by one, in plain torch."""
    pytest.importorskip("triton")
    device = "cuda" if torch.cuda.is_available() else "cpu"
    if _dispatch.refusal("reflection_pad_conv2d", "triton", device, torch.float32):
        pytest.skip("Triton runs on a GPU or in its interpreter (TRITON_INTERPRET=1)")
    torch.manual_seed(0)
    block = ResnetBlock(16).to(device)
    x = torch.randn(1, 16, 8, 8, device=device)
    with fastgan.backend("reference"):
        expected = block(x)
    seen = []
    norm = instance_norm.compute
    monkeypatch.setattr(instance_norm, "compute", lambda *args: seen.append(args[-1]) or norm(*args))
    with fastgan.backend(reflection_pad_conv2d="triton", instance_norm="triton"):
        torch.testing.assert_close(block(x), expected, rtol=1e-3, atol=1e-3)
    assert [moments.shape for moments in seen] == [(2, 1, 16, 1)] * 2


def test_dropout_acts_in_training_only_and_halos_mirror_it():
    torch.manual_seed(0)
    plain, dropping = ResnetGenerator(ngf=4, n_blocks=1), ResnetGenerator(ngf=4, n_blocks=1, dropout=True)
    state = {key.replace("conv_block.5", "conv_block.6"): value for key, value in plain.state_dict().items()}
    dropping.load_state_dict(state)
    images = torch.randn(1, 3, 16, 16)
    torch.testing.assert_close(dropping.eval()(images), plain(images))
    assert not torch.allclose(dropping.train()(images), plain(images))

    block = dropping.model[10]
    hidden = F.pad(torch.randn(1, 16, 8, 8), (1, 1, 1, 1), mode="reflect")
    torch.manual_seed(1)
    ours = block(hidden[..., 1:-1, 1:-1])
    torch.manual_seed(1)
    x = F.relu(F.instance_norm(F.conv2d(hidden, block.conv_block[1].weight)))
    x = F.pad(F.dropout(x, 0.5), (1, 1, 1, 1), mode="reflect")
    x = F.instance_norm(F.conv2d(x, block.conv_block[6].weight)) + hidden[..., 1:-1, 1:-1]
    torch.testing.assert_close(ours, x)


@pytest.mark.parametrize("prefix", ["", "module.", "_orig_mod.", "module._orig_mod.", "_orig_mod.module."])
def test_loads_published_files_strictly(prefix):
    torch.manual_seed(0)
    source, target = ResnetGenerator(ngf=4, n_blocks=2), ResnetGenerator(ngf=4, n_blocks=2)
    state = {prefix + key: value for key, value in source.state_dict().items()}
    for norm in ("model.2", "model.10.conv_block.2", "model.10.conv_block.6", "model.13"):
        state |= {
            f"{prefix}{norm}.running_mean": torch.zeros(4),
            f"{prefix}{norm}.running_var": torch.ones(4),
            f"{prefix}{norm}.num_batches_tracked": torch.tensor(7),
        }
    given = dict(state)
    result = target.load_state_dict(state, strict=True)
    assert not result.missing_keys and not result.unexpected_keys
    assert state.keys() == given.keys()
    assert all(torch.equal(value, target.state_dict()[key]) for key, value in source.state_dict().items())


def test_loads_as_part_of_a_larger_module():
    source = torch.nn.ModuleDict({"G": ResnetGenerator(ngf=2, n_blocks=1), "head": torch.nn.Linear(2, 2)})
    state = {key.replace("G.", "G.module.", 1): value for key, value in source.state_dict().items()}
    state["G.module.model.2.running_mean"] = torch.zeros(2)
    copy.deepcopy(source).load_state_dict(state, strict=True)


def test_loading_is_strict_about_everything_else():
    network = ResnetGenerator(ngf=2, n_blocks=1)
    state = network.state_dict()
    with pytest.raises(RuntimeError, match="Unexpected key"):
        network.load_state_dict({**state, "model.0.weight": torch.zeros(1)})
    with pytest.raises(RuntimeError, match="Missing key"):
        network.load_state_dict({key: value for key, value in state.items() if key != "model.1.weight"})
    with pytest.raises(RuntimeError, match="size mismatch"):
        network.load_state_dict(ResnetGenerator(ngf=3, n_blocks=1).state_dict())
    with pytest.raises(RuntimeError, match="Unexpected key"):
        network.load_state_dict({**state, "model.1.running_mean": torch.zeros(2)})


def test_batch_norm_keeps_its_statistics_on_load():
    source = ResnetGenerator(ngf=2, n_blocks=1, norm="batch")
    source(torch.randn(2, 3, 8, 8))
    target = ResnetGenerator(ngf=2, n_blocks=1, norm="batch")
    target.load_state_dict(source.state_dict())
    assert torch.equal(target.model[2].running_mean, source.model[2].running_mean)
    assert target.model[2].num_batches_tracked == 1


@pytest.mark.parametrize("norm", ["instance", "batch", "none"])
@pytest.mark.parametrize("dropout", [False, True])
@pytest.mark.parametrize("n_blocks", [1, 6])
def test_from_state_dict_infers_the_architecture(norm, dropout, n_blocks):
    source = ResnetGenerator(4, 1, 6, norm, dropout, n_blocks).eval()
    state = {"module." + key: value for key, value in source.state_dict().items()}
    rebuilt = ResnetGenerator.from_state_dict(state).eval()
    assert str(rebuilt) == str(source)
    images = torch.randn(1, 4, 16, 16)
    assert torch.equal(rebuilt(images), source(images))


def test_from_state_dict_refuses_other_networks():
    with pytest.raises(ValueError, match="not the state dict of a ResNet generator"):
        ResnetGenerator.from_state_dict({"model.0.weight": torch.zeros(1)})
    with pytest.raises(ValueError, match="not the state dict of a ResNet generator"):
        ResnetGenerator.from_state_dict({})


@pytest.mark.parametrize("height, width", [(8, 8), (8, 12), (256, 100)])
def test_check_images_accepts_what_comes_out_as_it_went_in(height, width):
    network = ResnetGenerator(ngf=2, n_blocks=1)
    network.check_images(height, width)
    assert network(torch.randn(1, 3, height, width)).shape[-2:] == (height, width)


@pytest.mark.parametrize("height, width", [(30, 32), (32, 29), (4, 8), (0, 0)])
def test_check_images_says_what_is_wrong(height, width):
    with pytest.raises(ValueError, match=f"{height}x{width}.*multiples of 4 and at least 8"):
        ResnetGenerator(ngf=2, n_blocks=1).check_images(height, width)


def test_errors_name_the_choices():
    with pytest.raises(ValueError, match="'group'.*instance, batch, none"):
        ResnetGenerator(norm="group")
    with pytest.raises(ValueError, match="n_blocks=0"):
        ResnetGenerator(n_blocks=0)


def gradients(network, images):
    network.zero_grad()
    network(images).square().sum().backward()
    return [p.grad.clone() for p in network.parameters() if p.requires_grad]


def test_deepcopy_and_pickle():
    network = ResnetGenerator(ngf=2, n_blocks=1)
    images = torch.randn(1, 3, 16, 16)
    for other in (copy.deepcopy(network), pickle.loads(pickle.dumps(network))):
        assert torch.equal(other(images), network(images))
        assert [p.requires_grad for p in other.parameters()] == [p.requires_grad for p in network.parameters()]
        other.load_state_dict({"module." + key: value for key, value in network.state_dict().items()})


@pytest.mark.parametrize("norm", ["instance", "batch"])
def test_compiles_as_one_graph(norm):
    torch.manual_seed(0)
    network = ResnetGenerator(ngf=2, n_blocks=1, norm=norm)
    compiled = torch.compile(copy.deepcopy(network), fullgraph=True, backend="aot_eager")
    images = torch.randn(1, 3, 16, 16)
    torch.testing.assert_close(compiled(images), network(images))
    for ours, other in zip(gradients(compiled, images), gradients(network, images)):
        torch.testing.assert_close(ours, other, rtol=1e-4, atol=1e-4 * other.abs().max().item())
    network.load_state_dict(compiled.state_dict())


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
def test_autocast(memory_format):
    torch.manual_seed(0)
    network = ResnetGenerator(ngf=8, n_blocks=2).to(memory_format=memory_format)
    for parameter in network.parameters():
        torch.nn.init.normal_(parameter, 0, 0.02)
    images = torch.randn(1, 3, 32, 32).to(memory_format=memory_format)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        output = network(images)
        output.float().square().mean().backward()
    assert output.dtype == torch.bfloat16 and output.is_contiguous(memory_format=memory_format)
    assert (output.float() - network(images)).abs().max() < 0.05
    for parameter in network.parameters():
        if parameter.requires_grad:
            assert parameter.grad.dtype == torch.float32 and parameter.grad.isfinite().all()


def test_forward_leaves_its_input_alone_and_can_run_twice_before_backward():
    network = ResnetGenerator(ngf=2, n_blocks=2)
    images = torch.randn(1, 3, 16, 16)
    before = images.clone()
    first = network(images)
    second = network(first)
    (first.sum() + second.sum()).backward()
    assert torch.equal(images, before)


def test_double_backward():
    network = ResnetGenerator(ngf=2, n_blocks=1).double()
    images = torch.randn(1, 3, 8, 8, dtype=torch.float64, requires_grad=True)
    (gradient,) = torch.autograd.grad(network(images).square().sum(), images, create_graph=True)
    gradient.square().sum().backward()
    assert all(p.grad is not None for p in network.model[10].parameters() if p.requires_grad)
