"""Image data: folders, aligned pairs, IDX files, and built-in sets that need none of these.

:func:`open_dataset` opens what a recipe trains on by its kind.
"""

from .dataset import AlignedDataset, LabelledDataset, PairDataset, SemiLabelledDataset, UnalignedDataset
from .images import ImageError, make_grid, read_image, save_png, to_image, to_tensor
from .opening import open_dataset, open_pairs
from .options import DataOptions

__all__ = ["AlignedDataset", "DataOptions", "ImageError", "LabelledDataset", "PairDataset", "SemiLabelledDataset",
           "UnalignedDataset", "make_grid", "open_dataset", "open_pairs", "read_image", "save_png", "to_image",
           "to_tensor"]
