"""The pool of generated images that a discriminator is trained on (Shrivastava et al. 2017, section 2.3)."""

import functools
from typing import cast

import torch
from torch import Tensor

from fastgan._form import check_form


class ImagePool:
    """Keeps `size` generated images; `query` trades new images for old ones.

    Until the pool is full, each image is stored and returned. From then on each one is returned itself with probability
    1/2; otherwise it replaces a stored image, chosen uniformly, which is returned. size=0 returns what it is given.

    Who trades with whom is decided on the host, by `draw`: one integer per image from [0, 2 * size), of a CPU generator
    of the pool's own; below `size` it is the slot to trade with. On the device images lie in the rows of one buffer:
    those in the slots, and as many more as a batch has images. A batch is written into the free rows, then the rows
    that were drawn are read: two operations of fixed shape, which wait for nobody and can be recorded in a graph. Which
    row is which slot only the host knows.

    `state_dict` carries all that a bit-exact resume needs. The generator is seeded from torch's global one unless
    `seed` is given.
    """

    def __init__(self, size: int = 50, seed: int | None = None):
        if size < 0:
            raise ValueError(f"an image pool cannot hold {size} images; use 0 to switch it off")
        self.size = size
        self.generator = torch.Generator()
        self.generator.manual_seed(int(torch.randint(2**62, (), device="cpu")) if seed is None else seed)
        self._begin_with([])

    def _begin_with(self, images: list[Tensor]) -> None:
        self._slots = list(range(len(images)))  # the row of each slot that is filled
        self._free: list[int] = []
        self._rows = len(images)
        self._buffer: Tensor | None = None  # (rows, C, H, W); without it, images lie one by one
        self._apart: list[Tensor | None] = list(images)  # (1, C, H, W), by row

    @property
    def images(self) -> list[Tensor]:
        """The stored images by slot, each (1, C, H, W)."""
        if self._buffer is not None:
            return [self._buffer[row : row + 1] for row in self._slots]
        return [cast(Tensor, self._apart[row]) for row in self._slots]  # a slot's row has been written

    def draw(self, count: int) -> Tensor:
        """The decisions on the next `count` images: int64 (2, count) on the CPU, rows to write and rows to read."""
        missing = max(0, count - len(self._free))
        self._free += range(self._rows, self._rows + missing)
        self._rows += missing
        written, self._free = self._free[:count], self._free[count:]
        read = []
        for row in written:
            if len(self._slots) < self.size:
                self._slots.append(row)
            else:
                slot = int(torch.randint(2 * self.size, (), generator=self.generator)) if self.size else 0
                if slot < self.size:
                    self._slots[slot], row = row, self._slots[slot]
                self._free.append(row)
            read.append(row)
        return torch.tensor([written, read], dtype=torch.int64)

    def query(self, images: Tensor, rows: Tensor | None = None) -> Tensor:
        """(N, C, H, W) -> (N, C, H, W) on the same device, in the same dtype and memory format; never a gradient.

        `rows` are the decisions of `draw`, on the images' device, in the order in which they were drawn; without them
        they are drawn here. Sizes may change from call to call only at N = 1 (else ValueError): a returned image keeps
        the size it was stored with, and to learn which one it is takes a wait for the device.
        """
        images = images.detach()
        if self.size == 0:
            return images
        if rows is None:
            rows = self.draw(len(images)).to(images.device)
        self._make_room(images)
        if self._buffer is None:
            (written,), (read,) = rows.tolist()
            self._apart[written] = images.clone()
            return self._apart[read].to(images)
        written, read = rows
        _flat(self._buffer).index_copy_(0, written, _flat(_laid_out(images.to(self._buffer.dtype), self._buffer)))
        chosen = torch.empty_like(self._buffer[: len(images)])
        torch.index_select(_flat(self._buffer), 0, read, out=_flat(chosen))
        return _laid_out(chosen.to(images.dtype), images)

    def _make_room(self, images: Tensor) -> None:
        """Keep a row of the images' size, on their device, for every one that `draw` will hand out to such batches."""
        buffer, size = self._buffer, images.shape[1:]
        rows = max(self._rows, self.size + len(images))
        if (
            buffer is not None
            and buffer.shape[1:] == size
            and len(buffer) >= rows
            and buffer.device == images.device
            and torch.promote_types(images.dtype, buffer.dtype) == buffer.dtype
        ):
            return
        kept = self._apart if buffer is None else list(buffer.split(1))
        kept += [None] * (rows - len(kept))
        stored = {row: image for row, image in enumerate(kept) if image is not None}
        if any(image.shape[1:] != size for image in stored.values()):
            if len(images) != 1:
                raise ValueError(
                    f"an image pool takes images of another size one by one, got {len(images)} of "
                    f"{tuple(size)}; use a batch of 1, or images of one size"
                )
            self._buffer, self._apart = None, kept
            return
        dtype = functools.reduce(torch.promote_types, (image.dtype for image in stored.values()), images.dtype)
        self._apart = []
        self._buffer = _laid_out(torch.empty(len(kept), *size, dtype=dtype, device=images.device), images)
        for row, image in stored.items():
            self._buffer[row : row + 1] = image

    def state_dict(self) -> dict:
        """Stored images and the generator's state; loadable with torch.load(weights_only=True)."""
        return {
            "size": self.size,
            "images": [image.clone() for image in self.images],
            "generator": self.generator.get_state(),
        }

    def load_state_dict(self, state: dict) -> None:
        """Continue from `state`. ValueError when it is from a pool of another size, or is no such state."""
        name = "the checkpoint's image pool"
        check_form(state, {"size": int, "images": list, "generator": self.generator.get_state()}, name)
        if state["size"] != self.size:
            raise ValueError(
                f"the saved image pool holds {state['size']} images, this one {self.size}; "
                f"continue with pool_size={state['size']}"
            )
        images = state["images"]
        if len(images) > self.size:
            raise ValueError(f"{name} holds {len(images)} images, of {self.size} at most")
        for index, image in enumerate(images):
            check_form(image, Tensor, f"{name}.images.{index}")
            if (
                image.dim() != 4
                or len(image) != 1
                or image.numel() == 0
                or not image.is_floating_point()
                or image.shape[1] != images[0].shape[1]
            ):
                raise ValueError(
                    f"{name}.images.{index} is {tuple(image.shape)} {image.dtype}, which is no image "
                    "(1, C, H, W) of its kind"
                )
            check_form(image, image, f"{name}.images.{index}")
        try:
            self.generator.set_state(state["generator"].cpu())
        except RuntimeError as error:
            raise ValueError(f"{name}.generator is damaged ({str(error).splitlines()[0]})") from None
        self._begin_with([image.clone() for image in images])


def _flat(images: Tensor) -> Tensor:
    """(N, C, H, W), contiguous or channels_last, as (N, C * H * W) in the order of memory; a view."""
    return (images if images.is_contiguous() else images.permute(0, 2, 3, 1)).view(len(images), -1)


def _laid_out(images: Tensor, like: Tensor) -> Tensor:
    """The images in the memory format of others."""
    plain = like.is_contiguous() or not like.is_contiguous(memory_format=torch.channels_last)
    return images.contiguous(memory_format=torch.contiguous_format if plain else torch.channels_last)


__all__ = ["ImagePool"]
