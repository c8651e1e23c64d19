"""python -m fastgan.export CHECKPOINT --to FORMAT: a trained generator for use without fastgan."""

from __future__ import annotations

if __name__ == "__main__":  # not where the command is imported: the process is then another's
    from fastgan import _process

    _process.settle()  # before torch is imported

import io
import re
import sys
from pathlib import Path

import torch
from torch import nn

from fastgan import recipes
from fastgan._errors import UserError
from fastgan.cli import command
from fastgan.cli.flags import Parser, add_common
from fastgan.cli.pictures import beside, check_free, write
from fastgan.data.images import make_grid
from fastgan.evaluation import exporting
from fastgan.evaluation.exporting import Program, agreement
from fastgan.evaluation.translation import GENERATOR_OF
from fastgan.recipes._latent import LatentRecipe
from fastgan.training.networks import Networks, load_networks, load_recipe, save_folder

SUFFIXES = {"pth": ".pth", "safetensors": ".safetensors", "onnx": ".onnx", "pt2": ".pt2", "folder": ""}
PROGRAMS = ("onnx", "pt2", "folder")  # what needs the inputs, too


def main(argv: list[str]) -> int:
    arguments = _parser().parse(argv)
    loaded = load_networks(arguments.checkpoint)
    names = _chosen(loaded, arguments.network)
    if arguments.to in PROGRAMS:
        for name in names:
            _check_generator(loaded, name, arguments.to)
    targets = _targets(names, arguments.checkpoint, arguments.output, arguments.to)
    check_free(targets, arguments.overwrite)
    for name, target in zip(names, targets):
        network = loaded.networks[name]
        if arguments.to == "pth":
            file = io.BytesIO()
            torch.save(_state(network), file)
            _write(target, file.getvalue())
        elif arguments.to == "safetensors":
            from safetensors.torch import save

            _write(target, save(_state(network), metadata={"format": "pt"}))
        else:
            program = _program(loaded, name, arguments.checkpoint, arguments.eval)
            if arguments.to == "folder":
                _write_folder(target, loaded, name, program, arguments.checkpoint)
            else:
                _write_program(target, program, arguments.to)
        print(f"{name} ({type(network).__name__}) is in {target}")
    return 0


def _parser() -> Parser:
    parser = Parser(
        "python -m fastgan.export",
        description=f"""\
Write trained generators in a form that other programs read:

  pth          the state dict, under the keys of the published networks
  safetensors  the same tensors
  onnx         ONNX of opset {exporting.OPSET}, batch, height and width free, compared with fastgan by onnxruntime
  pt2          torch.export.save of the network in stock torch, compared with fastgan
  folder       config.json, model.safetensors, and README.md with samples, which fastgan.load_generator takes""",
        epilog="example: python -m fastgan.export checkpoints/cyclegan --to onnx --network AtoB",
    )
    parser.add_argument(
        "checkpoint",
        metavar="CHECKPOINT",
        help="a run folder, checkpoint.pt, networks.safetensors, or a published *_net_G*.pth",
    )
    parser.add_argument("--to", choices=tuple(SUFFIXES), required=True, help="the format")
    parser.add_argument(
        "--network", metavar="NAME", help="G_A, D_B, ..., or AtoB, BtoA (default: every generator that is there)"
    )
    parser.add_argument(
        "--output",
        metavar="PATH",
        help="the file, or for several networks the folder of the files (default: the run's folder)",
    )
    parser.add_argument("--overwrite", action="store_true", help="replace what is there already")
    parser.add_argument(
        "--eval",
        action="store_true",
        help="batch norms of translators by their running statistics (default: by those of each image, as "
        "fastgan.translate does)",
    )
    add_common(parser, device=False)
    return parser


def _chosen(loaded: Networks, name: str | None) -> list[str]:
    """The names of the networks that are asked for."""
    if name is None:
        names = [each for each in loaded.networks if each.partition("_")[0] == "G"]
        if not names:
            raise UserError(f"there is no generator, only {', '.join(loaded.networks)}: name one with --network")
        return names
    wanted = GENERATOR_OF.get(name, name)
    if wanted == "G_A" and wanted not in loaded.networks and name == "AtoB" and "G" in loaded.networks:
        wanted = "G"
    if wanted not in loaded.networks:
        raise UserError(f"--network {name}: choose from {', '.join(loaded.networks)}")
    return [wanted]


def _check_generator(loaded: Networks, name: str, form: str) -> None:
    if name.partition("_")[0] != "G":
        raise UserError(f"--to {form} takes generators, not {name}: --to pth or safetensors takes any network")


def _targets(names: list[str], checkpoint: str, output: str | None, form: str) -> list[Path]:
    files = [f"latest_net_{name}.pth" if form == "pth" else f"{name}{SUFFIXES[form]}" for name in names]
    if output is None:
        return [beside(checkpoint, file) for file in files]
    if len(names) > 1:
        return [Path(output) / file for file in files]
    path = Path(output)
    if form != "folder" and path.suffix.lower() != SUFFIXES[form]:
        raise UserError(f"--output {path}: the name of a file of this format ends in {SUFFIXES[form]}")
    return [path]


def _state(network: nn.Module) -> dict[str, torch.Tensor]:
    return {key: value.detach().cpu().contiguous() for key, value in network.state_dict().items()}


def _write(path: Path, content: bytes) -> None:
    write(path, lambda temporary: temporary.write_bytes(content))


def _is_latent(loaded: Networks) -> bool:
    return loaded.recipe in recipes.RECIPES and issubclass(recipes.get(loaded.recipe), LatentRecipe)


def _program(loaded: Networks, name: str, checkpoint: str, running_statistics: bool) -> Program:
    if not _is_latent(loaded):
        return exporting.translator(loaded.networks[name], running_statistics)
    recipe = load_recipe(checkpoint)
    assert isinstance(recipe, LatentRecipe)
    return exporting.latent_generator(recipe)


def _write_program(target: Path, program: Program, form: str) -> None:
    """Write the program as it was found to agree with fastgan."""
    if form == "onnx":
        content = exporting.export_onnx(program)
        run, runner = exporting.onnx_session(content), f"onnxruntime, opset {exporting.OPSET},"
    else:
        exported = exporting.export_torch(program)
        content, run, runner = exporting.to_bytes(exported), exported.module(), "torch.export"
    found = agreement(program, run)
    inputs = " and ".join(f"{len(batch[0])} {kind}" for kind, batch in program.batches.items())
    allowed = f"the tolerance is {found.tolerance:.2g}, what rounding of sums in float32 does to this network"
    if not found.good:
        raise UserError(f"{target.name} is not written: {runner} differs by {found.error:.2g} on {inputs} ({allowed})")
    _write(target, content)
    print(f"{target.name}: {runner} agrees with fastgan within {found.error:.2g} on {inputs}; {allowed}")
    print(f"{target.name}: {program.note}")


def _write_folder(target: Path, loaded: Networks, name: str, program: Program, checkpoint: str) -> None:
    picture = _newest_samples(Path(checkpoint)) or _picture(program)
    save_folder(target, name, loaded.networks[name], loaded.description, _card(loaded, name, target, program), picture)


def _newest_samples(checkpoint: Path) -> bytes | None:
    """The last sample grid of a run, where there is one."""
    grids = sorted(beside(checkpoint, "samples").glob("step_*.png"), key=_step)
    return grids[-1].read_bytes() if grids else None


def _step(path: Path) -> int:
    found = re.fullmatch(r"step_(\d+)", path.stem)
    return int(found[1]) if found else -1


def _picture(program: Program) -> bytes:
    """What a generator makes of the sample images."""
    images = program.batches.get("sample images")
    if images is None:
        rows = [list(program.ours(*next(iter(program.batches.values()))))]
    else:
        rows = [list(pair) for pair in zip(images[0], program.ours(*images))]
    file = io.BytesIO()
    make_grid(rows, columns=("input", "translated") if images else ()).save(file, format="PNG")
    return file.getvalue()


def _card(loaded: Networks, name: str, target: Path, program: Program) -> str:
    network = loaded.networks[name]
    latent = _is_latent(loaded)
    count = sum(parameter.numel() for parameter in network.parameters())
    trained = f"trained by the recipe `{loaded.recipe}`" if loaded.recipe else "read from a published file"
    use = "" if latent else f"python -m fastgan.translate {target.name} IMAGES{_direction(name)}\n"
    return f"""\
---
library_name: fastgan
pipeline_tag: {"unconditional-image-generation" if latent else "image-to-image"}
---

# {target.name}

`{name}`, a {type(network).__name__} of {count:,} parameters, {trained}.

![samples](samples.png)

```python
import fastgan

generator = fastgan.load_generator("{target.name}")  # a torch.nn.Module in evaluation mode
```
{
        f'''
```
{use}```
'''
        if use
        else ""
    }
Of this generator, {program.note}.
"""


def _direction(name: str) -> str:
    return " --direction BtoA" if name == "G_B" else ""


if __name__ == "__main__":
    sys.exit(command.run(main))
