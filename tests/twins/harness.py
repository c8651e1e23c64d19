"""Training a recipe and its twin side by side, and what may differ between them."""

import torch

STEPS = 20
CLASSES = 10


def start(recipe, twin, dtype=torch.float32):
    """Give the twin the recipe's weights; both in `dtype`. Tensors correspond by their order."""
    for name, network in twin.networks.items():
        ours, its = recipe.networks[name], network
        for (key, value), (other_key, other) in zip(ours.state_dict().items(), its.state_dict().items(), strict=True):
            assert value.shape == other.shape, f"{name}: {key} {tuple(value.shape)}, {other_key} {tuple(other.shape)}"
            other.copy_(value)
        ours.to(dtype)
        its.to(dtype)
    assert recipe.networks.keys() == twin.networks.keys()
    assert recipe.optimizers.keys() == twin.optimizers.keys()
    return recipe, twin


def labelled(dtype=torch.float32, size=12, count=8, steps=STEPS):
    """One batch for every step: a bright spot whose place depends on the class, and noise."""
    generator = torch.Generator().manual_seed(0)
    rows = torch.arange(size)[:, None]
    for _ in range(steps):
        batch = {}
        for image, label in (("image", "label"), ("labelled_image", "labelled_label")):
            labels = torch.randint(CLASSES, (count,), generator=generator)
            centre = labels[:, None, None] * size / CLASSES
            spot = torch.exp(-((rows - centre) ** 2 + (rows.T - centre) ** 2) / 4)
            noise = 0.1 * torch.randn(count, size, size, generator=generator)
            batch |= {image: (2 * spot - 1 + noise).clamp(-1, 1)[:, None].to(dtype), label: labels}
        yield batch


def aligned(dtype=torch.float32, size=128, steps=STEPS):
    """One pair for every step: smooth colours, and their negative with a little noise."""
    generator = torch.Generator().manual_seed(0)
    for _ in range(steps):
        coarse = 2 * torch.rand(1, 3, 8, 8, generator=generator) - 1
        A = torch.nn.functional.interpolate(coarse, size=(size, size), mode="bilinear")
        B = (-A + 0.1 * torch.randn(A.shape, generator=generator)).clamp(-1, 1)
        yield {"A": A.to(dtype), "B": B.to(dtype)}


def together(recipe, twin, batches):
    """(step, our losses, its losses), both from the same random numbers."""
    for step, batch in enumerate(batches):
        torch.manual_seed(step)
        ours = recipe.step(batch)
        after = torch.get_rng_state()
        torch.manual_seed(step)
        its = twin.step(batch)
        assert torch.equal(after, torch.get_rng_state()), f"step {step} draws other random numbers than the twin"
        assert list(ours) == list(its)
        yield step, ours, its


def same_losses(step, ours, its, rtol, atol):
    for name, value in its.items():
        torch.testing.assert_close(ours[name], value.detach(), rtol=rtol, atol=atol,
                                   msg=lambda message: f"step {step}, {name}: {message}")


def tensors(recipe, twin, kind="state_dict"):
    """(ours, its) for every parameter, buffer, or floating-point tensor of the state dicts."""
    for name, network in twin.networks.items():
        for ours, its in zip(values(recipe.networks[name], kind), values(network, kind), strict=True):
            if its.is_floating_point():
                yield ours, its


def values(network, kind):
    found = getattr(network, kind)()
    return found.values() if isinstance(found, dict) else found


def differences(recipe, twin):
    """(largest, root mean square) difference over all parameters."""
    flat = torch.cat([(one - other).detach().double().flatten() for one, other in tensors(recipe, twin, "parameters")])
    return flat.abs().max().item(), flat.square().mean().sqrt().item()


def same_buffers(recipe, twin, rtol, atol):
    for one, other in tensors(recipe, twin, "buffers"):
        torch.testing.assert_close(one, other, rtol=rtol, atol=atol)


def follow(recipe, twin):
    """Give the recipe the twin's weights and optimizer states, so that errors cannot grow from step to step."""
    with torch.no_grad():
        for one, other in tensors(recipe, twin):
            one.copy_(other)
    for name, optimizer in twin.optimizers.items():
        ours = recipe.optimizers[name]
        of_ours = [parameter for group in ours.param_groups for parameter in group["params"]]
        of_its = [parameter for group in optimizer.param_groups for parameter in group["params"]]
        for one, other in zip(of_ours, of_its, strict=True):
            for key, value in optimizer.state[other].items():
                ours.state[one][key].copy_(value)
