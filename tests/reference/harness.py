"""Training a recipe beside its reference model, and how far apart rounding alone may drive the two.

Two right implementations of a step differ by rounding, and training makes such differences grow: units change sides,
Adam's first steps are signs. How fast depends on the network, the data and the processor, so no constant bounds it.
It is measured in the same test: the reference model also trains in other ways that are just as right (``WAYS``), and
the recipe may be ``SLACK`` times as far from it as the farthest of them.
"""

import contextlib
import itertools
from dataclasses import dataclass, field

import torch
from torch import nn

CLASSES = 10
STEPS = 12
SLACK = 3.0

# Winograd's convolutions are the least exact of our kernels: tests/ops holds their error below 3e-6 of the result's
# spread, as weights with such an error have it. Of other dtypes by their own unit. The images stay: equal pixels are
# ties of the pooling, which rounding does not break.
ROUNDING = {torch.float32: 2.0**-18, torch.float64: 2.0**-47}
WAYS = ("without oneDNN", "weights off by rounding")  # not channels_last: stock norms of one image are wrong there


def start(recipe, model, dtype=torch.float32):
    """Give a reference model the recipe's weights, and its image pools the recipe's generators; both in `dtype`."""
    assert recipe.networks.keys() == model.networks.keys()
    assert recipe.optimizers.keys() == model.optimizers.keys()
    for name, network in model.networks.items():
        network.load_state_dict(recipe.networks[name].state_dict())
        recipe.networks[name].to(dtype)
        network.to(dtype)
    for name, pool in getattr(model, "pools", {}).items():
        pool.generator.set_state(recipe.pools[name].generator.get_state())
    return recipe, model


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


class Way:
    """A reference model that trains in one of WAYS."""

    def __init__(self, name, model):
        self.name, self.model, self.networks, self.optimizers = name, model, model.networks, model.optimizers

    def step(self, batch):
        if self.name == "without oneDNN":
            context = torch.backends.mkldnn.flags(enabled=False)
        else:
            context = contextlib.nullcontext()
            put_off(self.networks.values(), torch.initial_seed())
        with context:
            return self.model.step(batch)


def put_off(networks, seed=0):
    """Put every weight off by up to ROUNDING of itself."""
    generator = torch.Generator().manual_seed(seed)
    for network in networks:
        for parameter in network.parameters():
            noise = 2 * torch.rand(parameter.shape, generator=generator, dtype=parameter.dtype) - 1
            parameter.data.mul_(1 + ROUNDING[parameter.dtype] * noise)


@dataclass
class Distance:
    """How far a training is from the reference model's.

    Attributes:
        loss: the largest difference of a loss of any step, beside 1 + its size.
        gradients: for each step, the difference of all gradients beside their size, as root mean squares.
        weights, largest_weight: of the final weights: root mean square and largest difference.
        buffers: the largest difference of a final buffer, beside 1 + its size.
    """

    loss: float = 0.0
    gradients: list[float] = field(default_factory=list)
    weights: float = 0.0
    largest_weight: float = 0.0
    buffers: float = 0.0

    def measures(self):
        """The numbers that are compared. ReLU units that change sides make single steps' gradients jump: their largest
        difference, and the one that a quarter of the steps stays below, are judged apart."""
        ordered = sorted(self.gradients)
        return {
            "loss": self.loss,
            "gradients of a calm step": ordered[len(ordered) // 4],
            "gradients of the worst step": ordered[-1],
            "weights": self.weights,
            "largest weight": self.largest_weight,
            "buffers": self.buffers,
        }


def distances(recipe, model, others, batches, followed):
    """(the recipe's distance from the model, that of each of ``others`` by name) after training on ``batches``.

    With ``followed`` all take over its weights and optimizer states after each step, so that no difference
    grows from step to step.
    """
    runners = {"ours": recipe, **{other.name: other for other in others}}
    found = {name: Distance() for name in runners}
    updates = {name: _recorded(runner) for name, runner in runners.items()}
    expected_updates = _recorded(model)
    count = 0
    for batch in batches:
        torch.manual_seed(count)
        expected = model.step(batch)
        after = torch.get_rng_state()
        for name, runner in runners.items():
            torch.manual_seed(count)
            losses = runner.step(batch)
            assert torch.equal(after, torch.get_rng_state()), f"step {count}: {name} draws other random numbers"
            assert losses.keys() == expected.keys()
            found[name].loss = max([found[name].loss, *(_beside(losses[key], expected[key]) for key in expected)])
            found[name].gradients.append(_gradients_apart(runner, updates[name], model, expected_updates))
            updates[name].clear()
            if followed:
                follow(runner, model)
        expected_updates.clear()
        count += 1
    assert count == STEPS
    for name, runner in runners.items():
        flat = torch.cat([(one - other).detach().double().flatten() for one, other in parameters(runner, model)])
        found[name].weights, found[name].largest_weight = flat.square().mean().sqrt().item(), flat.abs().max().item()
        found[name].buffers = max((_beside(one, other) for one, other in buffers(runner, model)), default=0.0)
    return found.pop("ours"), found


def assert_rounding_explains(ours, stock):
    """The recipe's distance is that of the others, and theirs is small enough to tell a mistake from rounding."""
    by_way = {name: distance.measures() for name, distance in stock.items()}
    for measure, value in ours.measures().items():
        most = max(measures[measure] for measures in by_way.values())
        assert value <= SLACK * most, f"{measure}: {value:.2g} from the model, itself {most:.2g} by other ways"
    return {measure: max(measures[measure] for measures in by_way.values()) for measure in ours.measures()}


def _beside(one, other):
    other = other.detach().double()
    return ((one.detach().double() - other).abs() / (1 + other.abs())).max().item()


def _recorded(runner):
    """A list to which every update adds the gradients that it applies, by parameter."""
    updates = []

    def record(optimizer, *_):
        updates.append(
            {
                parameter: parameter.grad.detach().clone()
                for group in optimizer.param_groups
                for parameter in group["params"]
                if parameter.grad is not None
            }
        )

    for optimizer in runner.optimizers.values():
        optimizer.register_step_pre_hook(record)
    return updates


def _gradients_apart(runner, updates, model, expected_updates):
    error = scale = 0.0
    for gradients, expected in zip(updates, expected_updates, strict=True):
        for one, other in parameters(runner, model):
            assert (one in gradients) == (other in expected)
            if other in expected:
                error += (gradients[one] - expected[other]).double().square().sum().item()
                scale += expected[other].double().square().sum().item()
    return (error / scale) ** 0.5


def parameters(runner, model):
    """(its parameter, the model's) for each one that matters: the gradients of idle biases are rounding alone."""
    for name, network in model.networks.items():
        idle = idle_biases(network)
        its = network.named_parameters()
        for one, (key, other) in zip(runner.networks[name].parameters(), its, strict=True):
            if key not in idle:
                yield one, other


def buffers(runner, model):
    """(its buffer, the reference model's) for every floating-point buffer."""
    for name, network in model.networks.items():
        for one, other in zip(runner.networks[name].buffers(), network.buffers(), strict=True):
            if other.is_floating_point():
                yield one, other


def follow(runner, model):
    """Give a runner the reference model's weights, buffers and optimizer states."""
    with torch.no_grad():
        for one, other in (*parameters(runner, model), *buffers(runner, model)):
            one.copy_(other)
            for name, optimizer in model.optimizers.items():
                for key, value in optimizer.state.get(other, {}).items():
                    runner.optimizers[name].state[one][key].copy_(value)


def idle_biases(network):
    """Names of the biases that feed an instance norm: their true gradient is zero, Adam follows its rounding noise."""
    names = set()
    for prefix, sequence in network.named_modules():
        if isinstance(sequence, nn.Sequential):
            names |= {
                f"{prefix}.{name}.bias"
                for (name, _), (_, following) in itertools.pairwise(sequence.named_children())
                if isinstance(following, nn.InstanceNorm2d)
            }
    return names
