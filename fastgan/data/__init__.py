"""Image data: folders, aligned pairs, IDX files, and built-in sets that need none of these.

:func:`open_dataset` opens what a recipe trains on by its kind.
"""

from .dataset import AlignedDataset, LabelledDataset, PairDataset, SemiLabelledDataset, UnalignedDataset
from .files import ImageError, read_pixels, save_image
from .images import make_grid, to_image, to_pixels, to_tensor
from .opening import open_dataset, open_pairs
from .options import DataOptions
from .resident import ResidentDataset, open_resident

__all__ = [
    "AlignedDataset",
    "DataOptions",
    "ImageError",
    "LabelledDataset",
    "PairDataset",
    "ResidentDataset",
    "SemiLabelledDataset",
    "UnalignedDataset",
    "make_grid",
    "open_dataset",
    "open_pairs",
    "open_resident",
    "read_pixels",
    "save_image",
    "to_image",
    "to_pixels",
    "to_tensor",
]
