"""python -m fastgan.translate CHECKPOINT DIR: translate every image of a folder."""

from __future__ import annotations

if __name__ == "__main__":  # not where the command is imported: the process is then another's
    from fastgan import _process

    _process.settle()  # before torch is imported

import argparse
import errno
import sys
import unicodedata
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import TypeVar

import torch
from torch import Tensor, nn
from tqdm import tqdm  # type: ignore[import-untyped]

from fastgan._errors import UserError, sentence
from fastgan._options import check_bounds
from fastgan._printable import printable
from fastgan.cli import command
from fastgan.cli.flags import Parser
from fastgan.cli.pictures import Results, check_free
from fastgan.data import DataOptions
from fastgan.data.convert import CHANNELS
from fastgan.data.files import ImageError, decode, read_header, save_image, suffix_for
from fastgan.data.folders import look_through, passed_over
from fastgan.data.images import to_tensor
from fastgan.data.levels import Span, tell_spans
from fastgan.data.links import ANYWHERE
from fastgan.data.notices import some
from fastgan.evaluation.translation import generator_for, input_channels, is_out_of_memory, output_channels, translate
from fastgan.training.device import pick_device, set_backend
from fastgan.training.networks import load_networks
from fastgan.training.train_options import PRECISIONS

NAMED = 5  # images left out that are named; the rest is counted
INCOMPLETE = 1  # the exit code where images were left out
WAITING_BYTES = 2**28  # of images that wait for others of their size

_UNFIT_NAMES = (errno.ENAMETOOLONG, errno.EINVAL, errno.EILSEQ)  # what a file system says of a name that it cannot have

_Result = TypeVar("_Result")


@dataclass
class _Told:
    """What there is to tell of the images of a folder: what is wrong with those that are left out and, by file, the
    kinds that were converted and the spans of numbers, and which hold further frames or pages."""

    left_out: list[str] = field(default_factory=list)
    conversions: dict[str, str] = field(default_factory=dict)
    spans: dict[str, Span | None] = field(default_factory=dict)
    several: list[str] = field(default_factory=list)


def main(argv: list[str]) -> int:
    arguments = _parser().parse(argv)
    check_bounds("--batch-size", arguments.batch_size, least=1)
    device = pick_device(arguments.device)
    set_backend(arguments.backend)
    folder = Path(arguments.folder)
    files, others = look_through(folder, inside=ANYWHERE if arguments.follow_links else None)
    loaded = load_networks(arguments.checkpoint)
    trained = loaded.description.get("options", {}).get("data", {})
    numbers = DataOptions(range=arguments.range or trained.get("range")).range

    directions = ["AtoB", "BtoA"] if arguments.direction == "both" else [arguments.direction]
    generators = {direction: generator_for(loaded, direction) for direction in directions}
    outputs = {direction: _output(folder, arguments.output, direction, len(directions) > 1) for direction in directions}
    targets = {
        direction: _targets(files, outputs[direction], suffix_for(output_channels(network)))
        for direction, network in generators.items()
    }
    results = {direction: Results(output) for direction, output in outputs.items()}
    left = {path for each in results.values() for path in each.left}
    _check_targets(folder, files, [path for paths in targets.values() for path in paths], left, arguments.overwrite)
    if (line := passed_over(others, folder)) is not None:
        print(printable(line), file=sys.stderr)
    left_out = 0
    for direction, network in generators.items():
        network.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]  # torch's stubs lack it
        told = _translate_files(
            network,
            folder,
            files,
            targets[direction],
            results[direction],
            arguments.batch_size,
            device,
            arguments.precision,
            arguments.eval,
            numbers,
        )
        if direction == directions[0]:
            _tell(told, folder, input_channels(network))
        results[direction].end()
        _report(direction, files, told.left_out, outputs[direction])
        left_out += len(told.left_out)
    return INCOMPLETE if left_out else 0


def _parser() -> Parser:
    parser = Parser(
        "python -m fastgan.translate",
        description="""\
Translate every image of a folder, and of its sub-folders, with trained networks. Any height and width will do; results
are PNG files under the names of their sources, of 16 bits where the source has 16, or arrays (.npy) where images have
more than 4 channels. An image that cannot be read, or that memory does not hold, is left out and named; the exit code
is 1 then, and 2 where nothing was translated.""",
        epilog="example: python -m fastgan.translate checkpoints/cyclegan photos --direction both",
        incomplete="images were left out",
    )
    parser.add_argument(
        "checkpoint",
        metavar="CHECKPOINT",
        help="a run folder, checkpoint.pt, networks.safetensors, or a published *_net_G*.pth",
    )
    parser.add_argument("folder", metavar="DIR", help="folder of images")
    parser.add_argument("--direction", choices=("AtoB", "BtoA", "both"), default="AtoB", help="(default: AtoB)")
    parser.add_argument(
        "--output",
        metavar="DIR",
        help="where results go, those of both directions in AtoB and BtoA (default: beside DIR, as DIR_AtoB)",
    )
    parser.add_argument(
        "--follow-links", action="store_true", help="read folders outside of DIR that links in it lead to"
    )
    parser.add_argument("--overwrite", action="store_true", help="replace results that are there already")
    parser.add_argument(
        "--batch-size", type=int, default=1, metavar="N", help="images of equal size at once (default: 1)"
    )
    parser.add_argument(
        "--eval",
        action="store_true",
        help="batch norms by their running statistics (default: by those of each image, as pix2pix is published)",
    )
    parser.add_argument(
        "--range",
        nargs=2,
        type=float,
        metavar=("LOW", "HIGH"),
        help="numbers that become black and white, of images of other numbers than 8 bits (default: as "
        "the networks were trained)",
    )
    parser.add_argument("--device", default="auto", metavar="TEXT", help="auto, cpu, cuda or cuda:N (default: auto)")
    parser.add_argument("--precision", choices=PRECISIONS, default="fp32", help="(default: fp32)")
    parser.add_argument(
        "--backend",
        default="auto",
        metavar="TEXT",
        help="who computes our ops: auto, a name, or op=name,op=name (default: auto)",
    )
    parser.add_argument(
        "--debug", action="store_true", default=argparse.SUPPRESS, help="show the traceback of an error"
    )
    return parser


def _output(folder: Path, output: str | None, direction: str, both: bool) -> Path:
    if output is None:
        resolved = folder.resolve()
        return (
            resolved.with_name(f"{resolved.name}_{direction}")
            if folder.name in ("", "..")
            else folder.with_name(f"{folder.name}_{direction}")
        )
    return Path(output) / direction if both else Path(output)


def _targets(files: list[str], output: Path, suffix: str) -> list[Path]:
    """Where each file's result goes, each to a place of its own: a.jpg to a.png, or to a.jpg.png where another result
    has the first name, or to a.jpg_2.png, ... where one has both.

    Names are the same here that are the same on some file system: whatever their case, and however accents are coded.
    """
    names = [PurePosixPath(file) for file in files]
    folders = {_key(folder) for name in names for folder in name.parents}
    targets = [name.with_suffix(suffix) for name in names]
    taken = Counter(map(_key, targets))
    for index, name in enumerate(names):
        if taken[_key(targets[index])] > 1 or _key(targets[index]) in folders:
            targets[index] = name.with_name(name.name + suffix)
    # Longer names may meet shorter ones; those that come first keep theirs.
    used = set(folders)
    for index, name in enumerate(names):
        number = 2
        while _key(targets[index]) in used:
            targets[index] = name.with_name(f"{name.name}_{number}{suffix}")
            number += 1
        used.add(_key(targets[index]))
    return [output / target for target in targets]


def _key(name: PurePosixPath) -> str:
    return unicodedata.normalize("NFC", unicodedata.normalize("NFC", str(name)).casefold())


def _check_targets(folder: Path, files: list[str], targets: list[Path], left: set[Path], overwrite: bool) -> None:
    """Refuse to write over the sources, ever, and over earlier results unless asked, or ``left`` by a call that did not
    come to its end."""
    sources = folder.resolve()
    for path in targets:
        if sources in path.resolve().parents:
            raise UserError(f"results would go into {folder} itself, among their sources: give another --output")
    there = [path for path in targets if path.exists()]
    check_free([path for path in there if path not in left], overwrite)
    origins = {_identity(folder / file) for file in files if there and (folder / file).exists()}  # of links, elsewhere
    for path in there:
        if _identity(path) in origins:
            raise UserError(f"{path} is itself one of the images in {folder}, by a link: give another --output")


def _identity(path: Path) -> tuple[int, int]:
    status = path.stat()
    return status.st_dev, status.st_ino


def _translate_files(
    network: nn.Module,
    folder: Path,
    files: list[str],
    targets: list[Path],
    results: Results,
    batch_size: int,
    device: torch.device,
    precision: str,
    running_statistics: bool,
    numbers: Sequence[float] | None,
) -> _Told:
    """Translate ``files`` in batches of equal size. What is wrong with one image does not stop the others."""
    channels = input_channels(network)
    told, places = _Told(), dict(zip(files, targets))

    def read(file: str) -> tuple[Tensor, bool]:
        pixels, kind, told.spans[file] = decode(folder / file, channels, numbers)
        if read_header(folder / file).several and file not in told.several:
            told.several.append(file)
        if kind is not None:
            told.conversions[file] = kind
        return to_tensor(pixels), pixels.dtype == torch.uint16

    def translated(images: list[Tensor]) -> Tensor:
        batch = torch.stack(images).to(device, memory_format=torch.channels_last)
        return translate(network, batch, precision, running_statistics).cpu()

    def save(image: Tensor, file: str, deep: bool) -> bool:
        if not torch.isfinite(image).all():
            advice = "" if precision == "fp32" else f" in {precision} (--precision fp32 may do better)"
            told.left_out.append(f"{folder / file}: the networks make NaN or infinite pixels of it{advice}")
            return True
        try:
            results.write(places[file], lambda temporary: save_image(image, temporary, deep=deep))
        except OSError as error:
            if error.errno not in _UNFIT_NAMES:
                raise
            told.left_out.append(sentence(error))
        return True

    def go_through(todo: Iterable[str], at_once: int) -> dict[str, str]:
        """Translate these files. Gives those that memory did not hold, and their size in words."""
        waiting: dict[torch.Size, list[tuple[Tensor, bool, str]]] = {}
        failed: dict[str, str] = {}

        def flush(group: list[tuple[Tensor, bool, str]]) -> None:
            height, width = group[0][0].shape[1:]
            made = _if_it_fits(lambda: translated([image for image, *_ in group]))
            for index, (_, deep, file) in enumerate(group):
                if made is None or _if_it_fits(lambda: save(made[index], file, deep)) is None:
                    failed[file] = f"{width}x{height} pixels are "
                else:
                    bar.update()

        for file in todo:
            try:
                image_and_depth = _if_it_fits(lambda: read(file))
            except ImageError as error:
                told.left_out.append(str(error))
                bar.update()
                continue
            if image_and_depth is None:
                failed[file] = ""
                continue
            image, deep = image_and_depth
            group = waiting.setdefault(image.shape, [])
            group.append((image, deep, file))
            if len(group) == at_once:
                flush(waiting.pop(image.shape))
            while sum(one.nbytes for group in waiting.values() for one, *_ in group) > WAITING_BYTES:
                flush(waiting.pop(next(iter(waiting))))
        while waiting:
            flush(waiting.pop(next(iter(waiting))))
        return failed

    with tqdm(total=len(files), unit="image", disable=None) as bar:
        failed = go_through(files, batch_size)
        if batch_size > 1:  # once more, with no others in memory
            failed = go_through(failed, 1)
        bar.update(len(failed))
    told.left_out += [
        f"{folder / file}: {size}more than memory holds (make it smaller, or cut it into pieces)"
        for file, size in failed.items()
    ]
    return told


def _if_it_fits(compute: Callable[[], _Result]) -> _Result | None:
    """What ``compute`` gives; None where memory did not hold it."""
    try:
        return compute()
    except (RuntimeError, MemoryError) as error:
        if is_out_of_memory(error):
            return None
        raise


def _tell(told: _Told, folder: Path, channels: int) -> None:
    if told.conversions:
        counted = Counter(told.conversions.values())
        kinds = ", ".join(f"{count} {kind}" for kind, count in sorted(counted.items()))
        wanted = CHANNELS.get(channels, f"{channels} channels")
        print(f"{counted.total()} images were converted to {wanted}: {kinds}", file=sys.stderr)
    if told.several:
        count = len(told.several)
        print(
            printable(f"{count} images hold further frames or pages, of which the first is read: {some(told.several)}"),
            file=sys.stderr,
        )
    for line in tell_spans(told.spans.values(), f"images in {folder}"):
        print(line, file=sys.stderr)


def _report(direction: str, files: list[str], left_out: list[str], output: Path) -> None:
    if left_out:
        more = f" and {len(left_out) - NAMED} more" if len(left_out) > NAMED else ""
        reasons = "; ".join(left_out[:NAMED])
        sentence = f"{len(left_out)} of {len(files)} images could not be translated: {reasons}{more}"
        if len(left_out) == len(files):
            raise UserError(sentence)
        print(printable(f"skipped {sentence}"), file=sys.stderr)
    print(f"{direction}: {len(files) - len(left_out)} images translated into {output}")


if __name__ == "__main__":
    sys.exit(command.run(main))
