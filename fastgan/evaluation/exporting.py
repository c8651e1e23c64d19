"""A trained generator as a program in stock torch: for torch.export and ONNX, compared with what it was made of."""

from __future__ import annotations

import copy
import importlib.util
import io
import logging
import math
import warnings
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.fx.experimental import _config as export_config

from fastgan._errors import UserError
from fastgan._unfuse import unfuse
from fastgan.data.images import to_tensor
from fastgan.data.synthetic.shapes import Scenes
from fastgan.evaluation.translation import input_channels, translate
from fastgan.recipes._latent import LatentRecipe

OPSET = 18
ONNX_PACKAGES = ("onnx", "onnxscript", "onnxruntime")
COUNT = 2  # random images or codes that a program is compared on, and as many of the built-in pair
LEAST_SIDE = 64  # pixels of those images
DRAWS = 4  # of rounding errors

Run = Callable[..., Tensor]


@dataclass
class Program:
    """A generator in stock torch, in evaluation mode, with what it takes.

    Attributes:
        module: holds no layer of fastgan.
        dynamic: by the name of each input, the dimensions that may vary.
        traced: the inputs that the program is traced on.
        batches: the inputs that it is compared on, by what they are ("random images").
        ours: what fastgan computes.
        output: what comes out, in a word.
        note: which inputs fit.
    """

    module: nn.Module
    dynamic: dict[str, dict[int, object]]
    traced: tuple[Tensor, ...]
    batches: dict[str, tuple[Tensor, ...]]
    ours: Run
    output: str
    note: str


@dataclass
class Agreement:
    """How far a program is from fastgan, and how far rounding in float32 may take two programs from each other.

    The tolerance is twice the largest change of the result in float64, in DRAWS draws, when each sum of n numbers is
    off by sqrt(n) units of float32's rounding, at random: the outputs of convolutions and linear layers, and the means
    of instance norms.
    """

    error: float
    tolerance: float

    @property
    def good(self) -> bool:
        return self.error <= self.tolerance  # not of NaN


def translator(network: nn.Module, running_statistics: bool = False) -> Program:
    """The program of a network that translates images; batch norms as for :func:`.translation.translate`."""
    stock = unfuse(copy.deepcopy(network)).eval().requires_grad_(False)
    if not running_statistics:
        _normalise_each_image(stock)
    multiple: int = getattr(network, "size_multiple", 1)
    least: int = getattr(network, "minimum_size", 1)
    side = -(-max(least, LEAST_SIDE) // multiple) * multiple
    channels = input_channels(network)
    random = torch.Generator().manual_seed(0)
    noise = torch.rand(COUNT, channels, side, side + multiple, generator=random) * 2 - 1
    scenes = Scenes("A", "test", count=COUNT, size=side)
    samples = torch.stack([to_tensor(scenes.load(index)) for index in range(COUNT)])[:, torch.arange(channels) % 3]
    traced = torch.zeros(COUNT, channels, 2 * side, 2 * side + multiple)  # twice a multiple, as 1 would be a constant
    height, width = (torch.export.Dim(name, min=-(-least // multiple)) for name in ("height", "width"))
    return Program(
        stock,
        {"images": {0: torch.export.Dim("batch", min=1), 2: multiple * height, 3: multiple * width}},
        (traced,),
        {"random images": (noise,), "sample images": (samples,)},
        lambda images: translate(network, images, running_statistics=running_statistics),
        "translated",
        f"images are (batch, {channels}, height, width) in [-1, 1], height and width multiples of {multiple} and at "
        f"least {least}",
    )


def latent_generator(recipe: LatentRecipe) -> Program:
    """The program that makes images of codes, and of classes where the recipe is conditional on them."""
    stock = copy.deepcopy(recipe)
    for network in stock.networks.values():
        unfuse(network).eval().requires_grad_(False)
    random = torch.Generator().manual_seed(0)
    batch = torch.export.Dim("batch", min=1)
    inputs: tuple[Tensor, ...] = (recipe.latents(2 * COUNT, random),)
    dynamic: dict[str, dict[int, object]] = {"codes": {0: batch}}
    note = f"codes are (batch, {recipe.latent_size}) from N(0, 1)"
    if recipe.classes:
        inputs += (torch.arange(2 * COUNT) % recipe.classes,)
        dynamic["labels"] = {0: batch}
        note += f", labels (batch,) int64 from 0 to {recipe.classes - 1}"
    return Program(
        _Decoder(stock),
        dynamic,
        inputs,
        {"random codes": inputs},
        recipe.decode,
        "images",
        f"{note}; images are in [-1, 1]",
    )


class _Decoder(nn.Module):
    def __init__(self, recipe: LatentRecipe):
        super().__init__()
        self.networks = nn.ModuleDict(recipe.networks)
        self._generate = recipe._generate

    def forward(self, codes: Tensor, labels: Tensor | None = None) -> Tensor:
        return self._generate(codes, labels)


def export_torch(program: Program) -> torch.export.ExportedProgram:
    """The program as torch.export.save writes it."""
    with torch.no_grad(), _sizes_of_one():
        return torch.export.export(program.module, program.traced, dynamic_shapes=tuple(program.dynamic.values()))


def export_onnx(program: Program) -> bytes:
    """The program as the content of an ONNX file of opset OPSET.

    Raises:
        UserError: a package that this needs is not installed.
    """
    missing = [name for name in ONNX_PACKAGES if importlib.util.find_spec(name) is None]
    if missing:
        raise UserError(f"ONNX needs {' and '.join(missing)}: pip install {' '.join(ONNX_PACKAGES)}")
    with torch.no_grad(), _sizes_of_one(), _quiet():
        exported = torch.onnx.export(
            program.module,
            program.traced,
            dynamo=True,
            opset_version=OPSET,
            input_names=list(program.dynamic),
            output_names=[program.output],
            dynamic_shapes=tuple(program.dynamic.values()),
            verbose=False,
        )
    assert exported is not None
    return exported.model_proto.SerializeToString()


def onnx_session(content: bytes) -> Run:
    """What onnxruntime computes of the content of an ONNX file, on the CPU."""
    import onnxruntime

    session = onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])
    names = [each.name for each in session.get_inputs()]

    def run(*inputs: Tensor) -> Tensor:
        values = {name: value.numpy() for name, value in zip(names, inputs)}
        return torch.from_numpy(session.run(None, values)[0])

    return run


def agreement(program: Program, run: Run) -> Agreement:
    """How ``run`` agrees with fastgan on all batches of a program, and on the first image of each alone."""
    error = rounding = 0.0
    for inputs in program.batches.values():
        one = tuple(each[:1] for each in inputs)
        error = _larger(error, *(_distance(run(*some), program.ours(*some)) for some in (inputs, one)))
        rounding = max(rounding, _effect_of_rounding(program, inputs))
    return Agreement(error, 2 * rounding)


def _effect_of_rounding(program: Program, inputs: tuple[Tensor, ...]) -> float:
    """The largest change of what a program computes in float64 when its sums are rounded as in float32."""
    exact = copy.deepcopy(program.module).double()
    wide = tuple(each.double() if each.is_floating_point() else each for each in inputs)
    random = torch.Generator().manual_seed(0)

    def round_off(layer: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor:
        unit = torch.finfo(torch.float32).eps / 2
        noise = unit * torch.randn(output.shape, generator=random, dtype=output.dtype) * output.abs().max()
        if isinstance(layer, nn.InstanceNorm2d):
            (planes,) = inputs
            deviation = (planes.var((2, 3), correction=0, keepdim=True) + layer.eps).sqrt()
            shift = torch.randn(deviation.shape, generator=random, dtype=output.dtype)
            summed = math.sqrt(planes[0, 0].numel()) * planes.abs().amax((2, 3), keepdim=True) / deviation
            return output + noise + unit * shift * summed * (1 if layer.weight is None else layer.weight[:, None, None])
        weight = getattr(layer, "weight", None)
        summands = weight.numel() // output.shape[1] if isinstance(weight, Tensor) and weight.dim() > 1 else 1
        return output + math.sqrt(summands) * noise

    with torch.no_grad():
        truth = exact(*wide)
        for layer in exact.modules():
            if not list(layer.children()) and not isinstance(layer, nn.Embedding):
                layer.register_forward_hook(round_off)
        return max(_distance(exact(*wide), truth) for _ in range(DRAWS))


def to_bytes(exported: torch.export.ExportedProgram) -> bytes:
    """The content of the file that torch.export.save writes."""
    file = io.BytesIO()
    torch.export.save(exported, file)
    return file.getvalue()


def _distance(one: Tensor, other: Tensor) -> float:
    if one.shape != other.shape:
        return float("nan")
    return (one.double() - other.double()).abs().max().item()


def _larger(*values: float) -> float:
    return max(values) if all(value == value for value in values) else float("nan")


def _normalise_each_image(stock: nn.Module) -> None:
    """Let batch norms be instance norms with their weights, as translators with batch norm are meant to be run."""
    for layer in stock.modules():
        if type(layer) is nn.BatchNorm2d:
            layer.__class__ = nn.InstanceNorm2d  # type: ignore[assignment]
            layer.track_running_stats = False
            layer.running_mean = layer.running_var = None


def _sizes_of_one() -> AbstractContextManager[object]:
    """Let programs be right for planes of one pixel, too: by default they are only for larger ones, as a U-Net has them
    in its middle for all images but the smallest."""
    return export_config.patch(backed_size_oblivious=True)  # type: ignore[attr-defined]


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep torch.onnx from telling which packages it could do without, and which names it gives."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)


__all__ = [
    "ONNX_PACKAGES",
    "OPSET",
    "Agreement",
    "Program",
    "agreement",
    "export_onnx",
    "export_torch",
    "latent_generator",
    "onnx_session",
    "to_bytes",
    "translator",
]
