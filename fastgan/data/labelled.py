"""Opening labelled images: IDX files, a folder with a sub-folder for each class, or the built-in glyphs."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path, PurePosixPath

import numpy as np
import torch
from torch import Tensor

from .convert import CHANNELS, resize
from .dataset import LabelledDataset, SemiLabelledDataset, Source
from .files import read_pixels
from .folders import ImageFolder, Listing, find_images, look_through
from .idx import PARTS, find_idx, read_labelled
from .images import MOST_CHANNELS, to_tensor
from .layout import check_classes, find_parts
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

    IDX files lie in the folder, or in a folder in it, as torchvision leaves them (MNIST/raw). Training and test images
    lie in folders as :func:`fastgan.data.layout.find_parts` says. Where the data has no test part, its last tenth is
    held out: of an IDX set by index, of a folder that of each class. Images stay as they are unless ``image_size`` says
    otherwise; nothing is cropped or mirrored. Where some have colours and others not, all become RGB unless
    ``input_nc`` says otherwise. ``max_dataset_size`` shortens the training part.

    Raises:
        ValueError: nothing of the kind there, several IDX sets, a file that cannot be read, folders that are the
            domains of an unpaired set, images of different sizes and no ``image_size``, or channels that the images do
            not have.
    """
    return LabelledDataset(*_open(options, split))


def open_semi_labelled(options: DataOptions, split: str = "train", seed: int = 0) -> LabelledDataset:
    """As :func:`open_labelled`, with ``options.n_labels`` labelled images beside the training part."""
    if split == "test":
        return open_labelled(options, split, seed)
    return SemiLabelledDataset(*_open(options, split), n_labels=options.n_labels, seed=seed)


def open_gallery(
    folder: str | Path,
    channels: int,
    size: int,
    range: Sequence[float] | None = None,
    *,
    follow_links: bool = False,
) -> LabelledDataset:
    """All images of a folder that :func:`open_labelled` opens, training and test part, as ``channels`` x size x size.

    Raises:
        ValueError: as :func:`open_labelled`.
    """
    options = DataOptions(
        dataroot=str(folder),
        input_nc=channels,
        image_size=size,
        range=None if range is None else list(range),
        follow_links=follow_links,
    )
    root = check_dataroot(str(folder), _WANTED)
    files = find_idx(root, options.inside)
    if files:
        parts = [
            _array(*read_labelled(paths), _count_classes(files), str(paths["images"]), options, "test")
            for _, paths in sorted(files.items())
        ]
    else:
        found = _Folders(root, options.inside)
        parts = [
            _read(listing, found.classes, options, size, channels)
            for listing in (found.training(), found.testing())
            if listing is not None
        ]
    return LabelledDataset(
        _Joined([source for source, _, _ in parts]), torch.cat([labels for _, labels, _ in parts]), parts[0][2]
    )


def read_square(path: str | Path, channels: int, size: int, range: Sequence[float] | None = None) -> Tensor:
    """An image file as networks of labelled images take it: (channels, size, size) float32 in [-1, 1].

    A conversion of its channels is told in a line. Raises ImageError, a ValueError, as :func:`read_pixels`.
    """
    pixels, kind = read_pixels(path, channels, range)
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
    files = find_idx(root, options.inside)
    if files:
        return _open_idx(files, options, split)
    return _open_folder(root, options, split)


def _open_idx(
    files: dict[str, dict[str, Path]], options: DataOptions, split: str
) -> tuple[Source, Tensor, Sequence[str]]:
    part = PARTS[split == "test"] if len(files) == len(PARTS) else next(iter(files))
    images, labels = read_labelled(files[part])
    if len(files) < len(PARTS):
        if len(images) < 2:
            raise ValueError(f"{files[part]['images']} holds one image: training and testing need one each at least")
        start = len(images) - max(1, len(images) // HELD_OUT)
        images, labels = (array[start:] if split == "test" else array[:start] for array in (images, labels))
    return _array(images, labels, _count_classes(files), str(files[part]["images"]), options, split)


def _count_classes(files: dict[str, dict[str, Path]]) -> int:
    return 1 + max(int(read_labelled(paths)[1].max()) for paths in files.values())


def _array(
    images: np.ndarray, labels: np.ndarray, classes: int, name: str, options: DataOptions, split: str
) -> tuple[Source, Tensor, Sequence[str]]:
    if split == "train":
        images, labels = images[: options.max_dataset_size], labels[: options.max_dataset_size]
    channels = options.input_nc or images.shape[3]
    if images.shape[3] == 1:
        images = np.broadcast_to(images, (*images.shape[:3], channels))
    elif images.shape[3] != channels:
        raise ValueError(
            f"--input-nc is {channels} and the images of {name} have {images.shape[3]} channels: leave the flag out"
        )
    if options.image_size is not None and images.shape[1:3] != (options.image_size, options.image_size):
        images = np.stack([resize(image, (options.image_size, options.image_size)) for image in images])
    pixels = torch.from_numpy(np.require(images, requirements=["C", "W"]))
    return PixelArray(pixels, name), torch.from_numpy(np.array(labels)), [str(label) for label in range(classes)]


class _Folders:
    """A folder of images, with or without a folder for each class: which of them are for training, and for the test.

    Attributes:
        classes: the names of the folders of the training images; none where these lie in no folders.
    """

    def __init__(self, root: Path, inside: Path | None):
        self._inside = root if inside is None else inside
        self.folder, self._tests = find_parts(root, self._inside)
        self._names, self._others = look_through(self.folder, _WANTED, self._inside)
        self.classes = _classes(self.folder, self._names)
        check_classes(self.folder, self.classes)
        self._test, self._strangers = self._find_test()

    @property
    def apart(self) -> bool:
        """Whether the test images are apart from the training images."""
        return self._test is not None

    def training(self) -> Listing:
        return Listing.of_names(self.folder, self._names, self._others)

    def testing(self) -> Listing | None:
        """None where no images are apart for the test. Tells of those that could not be."""
        if self._strangers and not self.apart:
            folder, _ = self._strangers[0]
            notice(
                f"the images in {folder} are left out: they lie in no folders of the classes in {self.folder} "
                f"({some(self.classes)}), of which a tenth is held out for the test instead"
            )
        elif self._strangers:
            for folder, names in self._strangers:
                notice(
                    f"{len(names)} images in {folder} are left out: they are of no class that training images have "
                    f"({some(names)})"
                )
        return None if self._test is None else Listing.of_names(*self._test)

    def _find_test(self) -> tuple[tuple[Path, list[str]] | None, list[tuple[Path, list[str]]]]:
        """(folder and names of the test images, folder and names of images that are of no class)."""
        strangers = []
        for folder in self._tests:
            try:
                names = find_images(folder, inside=self._inside)
            except ValueError:  # an empty folder is no reason to stop
                continue
            fit = [name for name in names if not self.classes or _class(name) in self.classes]
            if len(fit) < len(names):
                strangers.append((folder, [name for name in names if _class(name) not in self.classes]))
            if fit:
                return (folder, fit), strangers[-1:] if len(fit) < len(names) else []
        return None, strangers


def _open_folder(root: Path, options: DataOptions, split: str) -> tuple[Source, Tensor, Sequence[str]]:
    found = _Folders(root, options.inside)
    testing = found.testing() if split == "test" else None
    decided = options.image_size is not None and options.input_nc is not None
    training = None if testing is not None and decided else found.training()
    size, channels = _size_and_channels([listing for listing in (training, testing) if listing is not None], options)
    listing = training if testing is None else testing
    assert listing is not None
    source, labels, classes = _read(listing, found.classes, options, size, channels)
    kept = list(range(len(labels))) if found.apart else _part(labels.tolist(), split, found.folder)
    if split == "train" and options.max_dataset_size is not None:
        # Files are in the order of their classes: take them from all of these, not the first so many.
        count = min(options.max_dataset_size, len(kept))
        kept = [kept[index * len(kept) // count] for index in range(count)]
    source.keep(kept)
    return source, labels[kept], classes


def _read(
    listing: Listing, classes: Sequence[str], options: DataOptions, size: int, channels: int
) -> tuple[ImageFolder, Tensor, Sequence[str]]:
    source = ImageFolder(
        listing,
        Transform("resize_and_crop", size, size, flip=False, random=False),
        channels=channels,
        cache=options.cache,
        substitute=False,
        range=options.range,
    )
    return source, torch.tensor([classes.index(_class(name)) if classes else 0 for name in source.names]), classes


def _class(name: str) -> str | None:
    """The folder in which a file lies, of which its class has the name; None for one that lies in none."""
    return PurePosixPath(name).parts[0] if "/" in name else None


def _classes(folder: Path, names: list[str]) -> list[str]:
    """The names of the sub-folders that hold the files. Files beside no sub-folder have no classes."""
    tops = [_class(name) for name in names]
    if set(tops) == {None}:
        return []
    if None in tops:
        raise ValueError(
            f"{folder} holds images beside folders of images ({names[tops.index(None)]}): "
            "put them into the folder of their class"
        )
    return list(dict.fromkeys(top for top in tops if top is not None))


def _part(labels: list[int], split: str, folder: Path) -> list[int]:
    """The indices of a split: of each class, the last tenth is the test part, one image at least where it has two."""
    kept = []
    for label in sorted(set(labels)):
        items = [index for index, each in enumerate(labels) if each == label]
        start = max(1, len(items) - max(1, len(items) // HELD_OUT))
        kept += items[start:] if split == "test" else items[:start]
    if not kept:
        notice(f"{folder} has no image to spare for the test, which takes those of the training")
        return list(range(len(labels)))
    return kept


def _size_and_channels(listings: Sequence[Listing], options: DataOptions) -> tuple[int, int]:
    """The side of the images, which all files have, and their channels, unless options say otherwise.

    The first listing, of the training images where they are looked at, decides on the channels: colours are kept where
    any image has colours, and transparency where all have it. Of other numbers of channels, most images have these.
    """
    first: dict[tuple[int, int], Path] = {}
    for listing in listings:
        for name, header in listing.headers.items():
            first.setdefault((header.width, header.height), listing.folder / name)
    sizes = list(first) or [(glyphs.SIZE, glyphs.SIZE)]
    if options.image_size is None and (len(sizes) > 1 or sizes[0][0] != sizes[0][1]):
        seen = " and ".join(f"{first[size]} is {size[0]}x{size[1]}" for size in sizes[:2])
        raise ValueError(
            f"images with labels are square and of one size, but {seen}: --image-size 64, or another "
            "number, resizes them"
        )
    counts = Counter(header.channels for header in listings[0].headers.values())
    channels = 1
    if counts and max(counts) > MOST_CHANNELS:
        channels = counts.most_common(1)[0][0]
    elif counts:
        channels = (3 if max(counts) >= 3 else 1) + (set(counts) <= {2, 4})
    for listing in listings[1:] if options.input_nc is None and channels < 3 else ():
        colours = sum(header.channels in (3, 4) for header in listing.headers.values())
        if colours:
            notice(
                f"{colours} of {len(listing.headers)} images in {listing.folder} have colours, and become grey as "
                "the training images are"
            )
    return options.image_size or sizes[0][0], options.input_nc or channels
