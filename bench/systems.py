"""What a training step is timed in: systems, each as our recipe and as its reference model in stock torch; variants."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from fastgan import recipes, reference
from fastgan.recipes import _precision
from fastgan.training import graphs

from .cases import LAYOUTS

BATCHES = 4
Batch = dict[str, Tensor]


@dataclass(frozen=True)
class System:
    """A recipe and its reference model, with the networks of the recipe's defaults unless ``options`` say otherwise.

    Attributes:
        name: of the recipe.
        options: side of the images in pixels -> options of the recipe.
        depth: side of the images -> how many layers the reference model has, where it does not have the option netG.
        paired: a batch is "A" and "B" of 3 channels; otherwise "image" of one channel and "label".
        calls: steps in one turn of the system's schedule; a sample is one turn.
        variant: what a turn is, in words.
        one_region: whether no network is used again after its optimizer's step, so that one autocast region, with its
            cache of cast weights, may span the step.
    """

    name: str
    options: Callable[[int], dict[str, Any]]
    depth: Callable[[int], dict[str, int]] = lambda size: {}
    paired: bool = True
    calls: int = 1
    variant: str = ""
    one_region: bool = False

    def recipe(self, size: int, precision: str = "fp32") -> recipes.Recipe:
        kind = recipes.get(self.name)
        return kind(kind.Options(**self.options(size)), precision=precision)

    def reference_model(self, size: int) -> reference.ReferenceModel:
        options = {name: value for name, value in self.options(size).items() if name != "netG"}
        return reference.get(self.name)(**options, **self.depth(size))

    def batches(self, size: int, count: int) -> list[Batch]:
        """Random batches of ``count`` images of ``size`` x ``size``, on the CPU; always the same ones."""
        generator = torch.Generator().manual_seed(1)

        def images(channels: int) -> Tensor:
            return 2 * torch.rand(count, channels, size, size, generator=generator) - 1

        if self.paired:
            return [{"A": images(3), "B": images(3)} for _ in range(BATCHES)]
        return [{"image": images(1), "label": torch.randint(10, (count,), generator=generator)} for _ in range(BATCHES)]


def cyclegan_system(blocks: int = 9, **widths: int) -> System:
    """CycleGAN with generators of ``blocks`` residual blocks."""
    return System(
        "cyclegan",
        lambda size: {"netG": f"resnet_{blocks}blocks", **widths},
        lambda size: {"n_blocks": blocks},
        one_region=True,
    )


def pix2pix_system(**widths: int) -> System:
    """pix2pix with the U-Net of 256 or 128 pixels."""
    return System(
        "pix2pix",
        lambda size: {"netG": f"unet_{size}", **widths},
        lambda size: {"num_downs": size.bit_length() - 1},
    )


def _small(size: int) -> dict[str, Any]:
    return {"image_size": size}


SYSTEMS = {
    system.name: system
    for system in (
        cyclegan_system(),
        pix2pix_system(),
        System("dcgan", _small, paired=False),
        System("wgan_gp", _small, paired=False, calls=5, variant="5 steps of the critic, 1 of the generator"),
        System("vae", _small, paired=False),
    )
}


@dataclass(frozen=True)
class Variant:
    """One way to run a step.

    Attributes:
        who: "eager" and "compile" run the reference model, "ours" the recipe.
        precision: "fp32", or "bf16" by autocast.
        layout: of images and weights.
        in_place: activations of the reference model overwrite what they are given.
        fused: the reference model's Adams run in one pass, as ours do; torch's default does not.
        how: the mode of torch.compile, or "force-layout" for its option force_layout_optimization.
        graph: the whole step is a CUDA graph: the reference model's captured by hand, ours as a run records it.
    """

    who: str
    precision: str
    layout: str
    in_place: bool = False
    fused: bool = True
    how: str = ""
    graph: bool = False

    @property
    def name(self) -> str:
        flags = {"in-place": self.in_place, "default Adam": not self.fused, self.how: True, "in a graph": self.graph}
        return " ".join(filter(None, (self.who, self.precision, self.layout, *(word for word in flags if flags[word]))))


PLAIN = Variant("eager", "fp32", "nchw")
EAGER = (
    Variant("eager", "fp32", "nchw", in_place=True, fused=False),  # the published code
    Variant("eager", "fp32", "nchw", in_place=True),
    PLAIN,
    Variant("eager", "bf16", "nchw"),
    Variant("eager", "bf16", "channels_last"),
)
COMPILED = (Variant("compile", "fp32", "nchw"), Variant("compile", "bf16", "channels_last"))
COMPILED_ON_CUDA = (
    Variant("compile", "bf16", "channels_last", how="max-autotune-no-cudagraphs"),
    Variant("compile", "bf16", "channels_last", how="force-layout"),
    Variant("eager", "bf16", "channels_last", graph=True),
    Variant("compile", "bf16", "channels_last", graph=True),
    Variant("compile", "bf16", "channels_last", how="max-autotune-no-cudagraphs", graph=True),
    Variant("compile", "bf16", "channels_last", how="force-layout", graph=True),
)
OURS = tuple(Variant("ours", precision, layout) for precision in ("fp32", "bf16") for layout in LAYOUTS)
OURS_ON_CUDA = tuple(Variant("ours", precision, "channels_last", graph=True) for precision in ("fp32", "bf16"))
VARIANTS = {variant.name: variant for variant in EAGER + COMPILED + COMPILED_ON_CUDA + OURS + OURS_ON_CUDA}


class Step:
    """A variant of a system, built and moved: called with a round's number it runs one turn and returns the losses.

    The first weights, which ``seed`` decides, and the batches are the same in every variant and process.
    """

    def __init__(
        self, system: System, size: int, count: int, variant: Variant, device: torch.device, seed: int = 0
    ) -> None:
        self.system, self.variant, self.device = system, variant, device
        torch.manual_seed(seed)
        recipe = system.recipe(size, variant.precision if variant.who == "ours" else "fp32")
        self.networks: dict[str, nn.Module] = recipe.networks
        self.optimizers = recipe.optimizers
        self.format = LAYOUTS[variant.layout]
        if variant.who == "ours":
            recipe.to(device, self.format)
            self._step = graphs.make_step(recipe, count, device)[0] if variant.graph else recipe.step
        else:
            model = system.reference_model(size)
            self.networks, self.optimizers = model.networks, model.optimizers
            for name, network in model.networks.items():
                network.load_state_dict(recipe.networks[name].state_dict())
                network.to(device, memory_format=self.format)
            if variant.in_place:
                _in_place(model.networks)
            for optimizer in model.optimizers.values():
                for group in optimizer.param_groups:
                    group.update(fused=variant.fused, capturable=variant.graph)
            if variant.who == "compile":
                for network in model.networks.values():
                    network.compile(**_compile_arguments(variant.how))
            self._step = self._under_autocast(model.step)
        self.batches = [self.moved(batch) for batch in system.batches(size, count)]
        if variant.graph and variant.who != "ours":
            self._step = _captured(self._step, self.batches[0])

    def __call__(self, number: int) -> dict[str, Tensor]:
        *_, losses = self.turn(number)
        return losses

    def turn(self, number: int) -> Iterator[dict[str, Tensor]]:
        """The losses of each call of a turn, valid until the next one is asked for."""
        for call in range(self.system.calls):
            yield self._step(self.batches[(number * self.system.calls + call) % BATCHES])

    def moved(self, batch: Batch) -> Batch:
        """The tensors of a batch on the device, images in the layout of the variant."""
        return {
            name: value.to(self.device, memory_format=self.format if value.dim() == 4 else torch.preserve_format)
            for name, value in batch.items()
            if isinstance(value, Tensor)
        }

    def on(self, batch: Batch) -> dict[str, Tensor]:
        """One step on a batch that :meth:`moved` gave."""
        return self._step(batch)

    def _under_autocast(self, step: Callable[[Batch], dict[str, Tensor]]) -> Callable[[Batch], dict[str, Tensor]]:
        variant, dtype = self.variant, _precision.PRECISIONS[self.variant.precision]

        def region() -> AbstractContextManager[Any]:
            if variant.precision == "fp32":
                return contextlib.nullcontext()
            return torch.autocast(self.device.type, dtype, cache_enabled=self.system.one_region and not variant.graph)

        def run(batch: Batch) -> dict[str, Tensor]:
            with region():
                return step(batch)

        return run

    @property
    def drops_out(self) -> bool:
        """Whether there are dropout layers: their random masks depend on layout and compiler."""
        return any(isinstance(module, nn.Dropout) for module in _modules(self.networks))

    @contextlib.contextmanager
    def without_dropout(self) -> Iterator[None]:
        """Inside, dropout layers drop nothing."""
        before = {module: module.p for module in _modules(self.networks) if isinstance(module, nn.Dropout)}
        for module in before:
            module.p = 0.0
        try:
            yield
        finally:
            for module, p in before.items():
                module.p = p


def _modules(networks: dict[str, nn.Module]) -> Iterator[nn.Module]:
    return (module for network in networks.values() for module in network.modules())


def _in_place(networks: dict[str, nn.Module]) -> None:
    """Let activations overwrite their input, but where they come first: that input is used elsewhere, too."""
    for module in _modules(networks):
        if isinstance(module, nn.Sequential):
            for layer in list(module)[1:]:
                if isinstance(layer, (nn.ReLU, nn.LeakyReLU)):
                    layer.inplace = True


def _compile_arguments(how: str) -> dict[str, Any]:
    if how == "force-layout":
        return {"options": {"force_layout_optimization": True}}
    return {"mode": how} if how else {}


def _captured(step: Callable[[Batch], dict[str, Tensor]], batch: Batch) -> Callable[[Batch], dict[str, Tensor]]:
    """``step`` recorded once in a CUDA graph, after three ordinary ones that end all compiling and choosing."""
    inputs = {name: value.clone(memory_format=torch.preserve_format) for name, value in batch.items()}
    aside = torch.cuda.Stream()
    aside.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(aside):
        for _ in range(3):
            step(inputs)
    torch.cuda.current_stream().wait_stream(aside)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        losses = step(inputs)

    def replay(batch: Batch) -> dict[str, Tensor]:
        for name, value in batch.items():
            inputs[name].copy_(value)
        graph.replay()
        return losses

    return replay
