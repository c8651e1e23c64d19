"""Image data: unaligned folders, and a built-in unaligned pair whose true translation is known."""

from .dataset import UnalignedDataset
from .images import ImageError, make_grid, read_image, save_png, to_image, to_tensor
from .options import DataOptions
from .unaligned import open_pairs, open_unaligned

__all__ = ["DataOptions", "ImageError", "UnalignedDataset", "make_grid", "open_pairs", "open_unaligned", "read_image",
           "save_png", "to_image", "to_tensor"]
