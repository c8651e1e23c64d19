"""Opening labelled images: IDX files, a folder with a sub-folder for each class, or the built-in glyphs."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path, PurePosixPath

import numpy as np
import torch
from torch import Tensor

from .convert import CHANNELS, resize
from .dataset import LabelledDataset, SemiLabelledDataset, Source
from .files import ImageError, read_header, read_pixels
from .folders import ImageFolder, find_images
from .idx import PARTS, find_idx, read_labelled
from .images import to_tensor
from .notices import notice, some
from .options import DataOptions, check_dataroot
from .synthetic import glyphs
from .transforms import Transform

HELD_OUT = 10  # where a set has no test part, one in so many images is kept from training

_WANTED = "IDX files (train-images-idx3-ubyte, ...) or a folder of images for each class"


class PixelArray:
    """A :class:`Source` of images that lie in one uint8 tensor (N, H, W, C)."""

    def __init__(self, pixels: Tensor, name: str):
        self.pixels, self.name = pixels, name
        self.channels = pixels.shape[3]
        self.sizes = [(pixels.shape[2], pixels.shape[1])] * len(pixels)

    def __len__(self) -> int:
        return len(self.pixels)

    def path(self, index: int) -> str:
        return f"{self.name}/{index:05}"

    def load(self, index: int) -> Tensor:
        return self.pixels[index]


def open_labelled(options: DataOptions, split: str = "train", seed: int = 0) -> LabelledDataset:
    """The labelled images under ``options.dataroot``, or the built-in glyphs without it.

    Where the data has no test part, its last tenth is held out: of an IDX set by index, of a folder that of each
    class. Images stay as they are unless ``image_size`` says otherwise; nothing is cropped or mirrored.
    ``max_dataset_size`` shortens the training part.

    Raises:
        ValueError: nothing of the kind there, a file that cannot be read, images of different sizes and no
            ``image_size``, or channels that the images do not have.
    """
    return LabelledDataset(*_open(options, split))


def open_semi_labelled(options: DataOptions, split: str = "train", seed: int = 0) -> LabelledDataset:
    """As :func:`open_labelled`, with ``options.n_labels`` labelled images beside the training part."""
    if split == "test":
        return open_labelled(options, split, seed)
    return SemiLabelledDataset(*_open(options, split), n_labels=options.n_labels, seed=seed)


def open_gallery(folder: str | Path, channels: int, size: int) -> LabelledDataset:
    """All images of a folder that :func:`open_labelled` opens, training and test part, as ``channels`` x size x size.

    Raises:
        ValueError: as :func:`open_labelled`.
    """
    options = DataOptions(dataroot=str(folder), input_nc=channels, image_size=size)
    root = check_dataroot(options.dataroot, _WANTED)
    files = find_idx(root)
    if not files:
        return LabelledDataset(*_read_folder(root, find_images(root), find_images(root), options))
    parts = [_array(*read_labelled(root, paths), _count_classes(root, files), str(paths["images"]), options, "test")
             for _, paths in sorted(files.items())]
    return LabelledDataset(_Joined([source for source, _, _ in parts]), torch.cat([labels for _, labels, _ in parts]),
                           parts[0][2])


def read_square(path: str | Path, channels: int, size: int) -> Tensor:
    """An image file as networks of labelled images take it: (channels, size, size) float32 in [-1, 1].

    A conversion of its channels is told in a line. Raises ImageError, a ValueError, as :func:`read_pixels`.
    """
    pixels, kind = read_pixels(path, channels)
    if kind is not None:
        notice(f"{path} was converted to {CHANNELS.get(channels, f'{channels} channels')}: it is {kind}")
    return to_tensor(torch.from_numpy(resize(pixels.numpy(), (size, size))))


class _Joined:
    """A :class:`Source` of the images of several, one after the other."""

    def __init__(self, sources: Sequence[Source]):
        self.places = [(source, index) for source in sources for index in range(len(source))]
        self.sizes = [size for source in sources for size in source.sizes]
        self.channels = sources[0].channels

    def __len__(self) -> int:
        return len(self.places)

    def path(self, index: int) -> str:
        source, own = self.places[index]
        return source.path(own)

    def load(self, index: int) -> Tensor:
        source, own = self.places[index]
        return source.load(own)


def _open(options: DataOptions, split: str) -> tuple[Source, Tensor, Sequence[str]]:
    """The images of a split, their labels int64 (N,), and the names of the classes."""
    if options.dataroot is None:
        count = glyphs.TRAIN_GLYPHS if split == "train" else glyphs.TEST_GLYPHS
        if split == "train" and options.max_dataset_size is not None:
            count = min(count, options.max_dataset_size)
        images, labels = glyphs.glyphs(split, count, options.image_size or glyphs.SIZE)
        return _array(images[..., None], labels, glyphs.CLASSES, f"built-in/{split}", options, split)
    root = check_dataroot(options.dataroot, _WANTED)
    files = find_idx(root)
    if files:
        return _open_idx(root, files, options, split)
    return _open_folder(root, options, split)


def _open_idx(root: Path, files: dict[str, dict[str, Path]], options: DataOptions,
              split: str) -> tuple[Source, Tensor, Sequence[str]]:
    part = PARTS[split == "test"] if len(files) == len(PARTS) else next(iter(files))
    images, labels = read_labelled(root, files[part])
    if len(files) < len(PARTS):
        if len(images) < 2:
            raise ValueError(f"{files[part]['images']} holds one image: training and testing need one each at least")
        start = len(images) - max(1, len(images) // HELD_OUT)
        images, labels = (array[start:] if split == "test" else array[:start] for array in (images, labels))
    return _array(images, labels, _count_classes(root, files), str(files[part]["images"]), options, split)


def _count_classes(root: Path, files: dict[str, dict[str, Path]]) -> int:
    return 1 + max(int(read_labelled(root, paths)[1].max()) for paths in files.values())


def _array(images: np.ndarray, labels: np.ndarray, classes: int, name: str, options: DataOptions,
           split: str) -> tuple[Source, Tensor, Sequence[str]]:
    if split == "train":
        images, labels = images[:options.max_dataset_size], labels[:options.max_dataset_size]
    channels = options.input_nc or images.shape[3]
    if images.shape[3] == 1:
        images = np.broadcast_to(images, (*images.shape[:3], channels))
    elif images.shape[3] != channels:
        raise ValueError(f"--input-nc is {channels} and the images of {name} have {images.shape[3]} channels: "
                         "leave the flag out")
    if options.image_size is not None and images.shape[1:3] != (options.image_size, options.image_size):
        images = np.stack([resize(image, (options.image_size, options.image_size)) for image in images])
    pixels = torch.from_numpy(np.array(images))  # a copy of its own: arrays of files cannot be written to
    return PixelArray(pixels, name), torch.from_numpy(np.array(labels)), [str(label) for label in range(classes)]


def _open_folder(root: Path, options: DataOptions, split: str) -> tuple[Source, Tensor, Sequence[str]]:
    training = root / "train" if (root / "train").is_dir() else root
    apart = training != root and (root / "test").is_dir()
    folder = root / "test" if apart and split == "test" else training
    names = find_images(folder)
    own = names if folder == training else find_images(training)
    source, labels, classes = _read_folder(folder, names, own, options)
    kept = list(range(len(labels))) if apart else _part(labels.tolist(), split)
    if split == "train" and options.max_dataset_size is not None:
        # Files are in the order of their classes: take them from all of these, not the first so many.
        count = min(options.max_dataset_size, len(kept))
        kept = [kept[index * len(kept) // count] for index in range(count)]
    source.keep(kept)
    return source, labels[kept], classes


def _read_folder(folder: Path, names: list[str], training: list[str],
                 options: DataOptions) -> tuple[ImageFolder, Tensor, Sequence[str]]:
    """All images of a folder, with the classes that the names of the training images give."""
    size, channels = _size_and_channels(folder, names, options)
    source = ImageFolder(folder, Transform("resize_and_crop", size, size, flip=False, random=False), channels=channels,
                         cache=options.cache, substitute=False, range=options.range)
    classes = _classes(folder, training)
    return source, torch.tensor([_label(folder, name, classes) for name in source.names]), classes


def _classes(folder: Path, names: list[str]) -> list[str]:
    """The names of the sub-folders that hold the files. Files beside no sub-folder have no classes."""
    tops = [PurePosixPath(name).parts[0] if "/" in name else None for name in names]
    if set(tops) == {None}:
        return []
    if None in tops:
        raise ValueError(f"{folder} holds images beside folders of images ({names[tops.index(None)]}): "
                         "put them into the folder of their class")
    return list(dict.fromkeys(tops))


def _label(folder: Path, name: str, classes: list[str]) -> int:
    if not classes:
        return 0
    top = PurePosixPath(name).parts[0]
    if top not in classes:
        raise ValueError(f"{folder / name} is of no class that training images have ({some(classes)})")
    return classes.index(top)


def _part(labels: list[int], split: str) -> list[int]:
    """The indices of a split: of each class, the last tenth is the test part, one image at least."""
    kept = []
    for label in sorted(set(labels)):
        items = [index for index, each in enumerate(labels) if each == label]
        start = len(items) - max(1, len(items) // HELD_OUT)
        kept += items[start:] if split == "test" else items[:start]
    return kept


def _size_and_channels(folder: Path, names: list[str], options: DataOptions) -> tuple[int, int]:
    """The side of the images, which all files have, and the channels of the first, unless options say otherwise."""
    if options.image_size is not None and options.input_nc is not None:
        return options.image_size, options.input_nc
    channels, first = options.input_nc, {}
    for name in names:
        try:
            header = read_header(folder / name)
        except ImageError:
            continue  # opening the folder names broken files
        first.setdefault((header.width, header.height), name)
        channels = channels or header.channels
        if options.image_size is not None:
            break
    sizes = list(first) or [(glyphs.SIZE, glyphs.SIZE)]
    if options.image_size is None and (len(sizes) > 1 or sizes[0][0] != sizes[0][1]):
        seen = " and ".join(f"{folder / first[size]} is {size[0]}x{size[1]}" for size in sizes[:2])
        raise ValueError(f"images with labels are square and of one size, but {seen}: --image-size 64, or another "
                         "number, resizes them")
    return options.image_size or sizes[0][0], channels or 1
