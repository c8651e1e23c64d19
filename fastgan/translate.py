"""python -m fastgan.translate CHECKPOINT DIR: translate every image of a folder."""

from __future__ import annotations

if __name__ == "__main__":  # not where the command is imported: the process is then another's
    from fastgan import _process

    _process.settle()  # before torch is imported

import argparse
import sys
from collections import Counter
from pathlib import Path, PurePosixPath

import torch
from torch import Tensor, nn
from tqdm import tqdm

from fastgan.data.folders import find_images
from fastgan.data.convert import CHANNELS
from fastgan.data.files import ImageError, read_pixels, save_image, suffix_for
from fastgan.data.images import to_tensor
from fastgan.engine import command
from fastgan.engine.command import UserError
from fastgan.engine.device import pick_device, set_backend
from fastgan.engine.flags import Parser
from fastgan.engine.networks import load_networks
from fastgan.engine.options import PRECISIONS
from fastgan.engine.translation import generator_for, input_channels, output_channels, translate

NAMED = 5  # broken images that are named; the rest is counted


def main(argv: list[str]) -> int:
    arguments = _parser().parse(argv)
    if arguments.batch_size < 1:
        raise UserError(f"--batch-size is {arguments.batch_size}: it must be 1 or more")
    device = pick_device(arguments.device)
    set_backend(arguments.backend)
    folder = Path(arguments.folder)
    files = find_images(folder)
    loaded = load_networks(arguments.checkpoint)

    directions = ["AtoB", "BtoA"] if arguments.direction == "both" else [arguments.direction]
    generators = {direction: generator_for(loaded, direction) for direction in directions}
    targets = {direction: _targets(files, _output(folder, arguments.output, direction, len(directions) > 1),
                                   suffix_for(output_channels(network)))
               for direction, network in generators.items()}
    _check_targets(folder, [path for paths in targets.values() for path in paths], arguments.overwrite)
    for direction, network in generators.items():
        network.to(device, memory_format=torch.channels_last)
        broken = _translate_files(network, folder, files, targets[direction], arguments.batch_size, device,
                                  arguments.precision, arguments.eval, conversions := Counter())
        if direction == directions[0]:
            _tell_conversions(conversions, input_channels(network))
        _report(direction, files, broken, _output(folder, arguments.output, direction, len(directions) > 1))
    return 0


def _parser() -> Parser:
    parser = Parser("python -m fastgan.translate",
                    description="""\
Translate every image of a folder, and of its sub-folders, with trained networks. Any height and width will do; results
are PNG files under the names of their sources, of 16 bits where the source has 16, or arrays (.npy) where images have
more than 4 channels.""",
                    epilog="example: python -m fastgan.translate checkpoints/cyclegan photos --direction both")
    parser.add_argument("checkpoint", metavar="CHECKPOINT",
                        help="a run folder, checkpoint.pt, networks.safetensors, or a published *_net_G*.pth")
    parser.add_argument("folder", metavar="DIR", help="folder of images")
    parser.add_argument("--direction", choices=("AtoB", "BtoA", "both"), default="AtoB", help="(default: AtoB)")
    parser.add_argument("--output", metavar="DIR",
                        help="where results go, those of both directions in AtoB and BtoA (default: beside DIR, "
                             "as DIR_AtoB)")
    parser.add_argument("--overwrite", action="store_true", help="replace results that are there already")
    parser.add_argument("--batch-size", type=int, default=1, metavar="N",
                        help="images of equal size at once (default: 1)")
    parser.add_argument("--eval", action="store_true",
                        help="batch norms by their running statistics (default: by those of each image, as pix2pix is "
                             "published)")
    parser.add_argument("--device", default="auto", metavar="TEXT", help="auto, cpu, cuda or cuda:N (default: auto)")
    parser.add_argument("--precision", choices=PRECISIONS, default="fp32", help="(default: fp32)")
    parser.add_argument("--backend", default="auto", metavar="TEXT",
                        help="who computes our ops: auto, a name, or op=name,op=name (default: auto)")
    parser.add_argument("--debug", action="store_true", default=argparse.SUPPRESS,
                        help="show the traceback of an error")
    return parser


def _output(folder: Path, output: str | None, direction: str, both: bool) -> Path:
    if output is None:
        resolved = folder.resolve()
        return resolved.with_name(f"{resolved.name}_{direction}") if folder.name in ("", "..") else \
            folder.with_name(f"{folder.name}_{direction}")
    return Path(output) / direction if both else Path(output)


def _targets(files: list[str], output: Path, suffix: str) -> list[Path]:
    """Where each file's result goes: the same name as PNG; a.jpg beside a.png becomes a.jpg.png."""
    stems = Counter(PurePosixPath(file).with_suffix(suffix) for file in files)
    names = [PurePosixPath(file) for file in files]
    return [output / (name.with_suffix(suffix) if stems[name.with_suffix(suffix)] == 1 else
                      name.with_name(name.name + suffix)) for name in names]


def _check_targets(folder: Path, targets: list[Path], overwrite: bool) -> None:
    """Refuse to write over the sources, ever, and over earlier results unless asked."""
    sources = folder.resolve()
    for path in targets:
        if sources in path.resolve().parents:
            raise UserError(f"results would go into {folder} itself, among their sources: give another --output")
    there = [path for path in targets if path.exists()]
    if there and not overwrite:
        more = f" and {len(there) - 1} more" if len(there) > 1 else ""
        raise UserError(f"{there[0]}{more} would be overwritten: give another --output, or --overwrite")


def _translate_files(network: nn.Module, folder: Path, files: list[str], targets: list[Path], batch_size: int,
                     device: torch.device, precision: str, running_statistics: bool,
                     conversions: Counter[str]) -> list[str]:
    """Translate ``files`` in batches of equal size; returns what was wrong with those that are broken.

    ``conversions`` counts the kinds of image that had to be converted.
    """
    channels = input_channels(network)
    waiting: dict[torch.Size, list[tuple[Tensor, bool, Path]]] = {}
    broken = []

    def flush(group: list[tuple[Tensor, bool, Path]]) -> None:
        images = torch.stack([image for image, _, _ in group]).to(device, memory_format=torch.channels_last)
        translated = translate(network, images, precision, running_statistics).cpu()
        for image, (_, deep, path) in zip(translated, group):
            path.parent.mkdir(parents=True, exist_ok=True)
            save_image(image, path, deep=deep)
        bar.update(len(group))

    with tqdm(total=len(files), unit="image", disable=None) as bar:
        for file, path in zip(files, targets):
            try:
                pixels, kind = read_pixels(folder / file, channels)
            except ImageError as error:
                broken.append(str(error))
                bar.update()
                continue
            if kind is not None:
                conversions[kind] += 1
            image = to_tensor(pixels)
            group = waiting.setdefault(image.shape, [])
            group.append((image, pixels.dtype == torch.uint16, path))
            if len(group) == batch_size:
                flush(waiting.pop(image.shape))
        for group in waiting.values():
            flush(group)
    return broken


def _tell_conversions(conversions: Counter[str], channels: int) -> None:
    if conversions:
        kinds = ", ".join(f"{count} {kind}" for kind, count in sorted(conversions.items()))
        wanted = CHANNELS.get(channels, f"{channels} channels")
        print(f"{conversions.total()} images were converted to {wanted}: {kinds}", file=sys.stderr)


def _report(direction: str, files: list[str], broken: list[str], output: Path) -> None:
    if broken:
        more = f" and {len(broken) - NAMED} more" if len(broken) > NAMED else ""
        sentence = f"{len(broken)} of {len(files)} images could not be read: {'; '.join(broken[:NAMED])}{more}"
        if len(broken) == len(files):
            raise UserError(sentence)
        print(f"skipped {sentence}", file=sys.stderr)
    print(f"{direction}: {len(files) - len(broken)} images translated into {output}")


if __name__ == "__main__":
    sys.exit(command.run(main))
