"""The pool of generated images that a discriminator is trained on (Shrivastava et al. 2017, section 2.3)."""

import torch
from torch import Tensor


class ImagePool:
    """Keeps `size` generated images; `query` trades new images for old ones.

    Until the pool is full, each image is stored and returned. From then on each one is returned itself with probability
    1/2; otherwise it replaces a stored image, chosen uniformly, which is returned. size=0 returns what it is given.

    Decisions come from one integer per image, drawn from [0, 2 * size) by a CPU generator of the pool's own: below
    `size` it is the slot to trade with. So nothing waits for the device that holds the images, and `state_dict` carries
    all that a bit-exact resume needs. The generator is seeded from torch's global one unless `seed` is given.
    """

    def __init__(self, size: int = 50, seed: int | None = None):
        if size < 0:
            raise ValueError(f"an image pool cannot hold {size} images; use 0 to switch it off")
        self.size = size
        self.images: list[Tensor] = []
        self.generator = torch.Generator()
        self.generator.manual_seed(int(torch.randint(2 ** 62, ())) if seed is None else seed)

    def query(self, images: Tensor) -> Tensor:
        """(N, C, H, W) -> (N, C, H, W) on the same device, in the same dtype and memory format; never a gradient.

        Sizes may change from call to call only at N = 1, where a returned image keeps the size it was stored with.
        """
        images = images.detach()
        if self.size == 0:
            return images
        chosen = [self._trade(image) for image in images.split(1)]
        return chosen[0] if len(chosen) == 1 else torch.cat(chosen)

    def _trade(self, image: Tensor) -> Tensor:
        if len(self.images) < self.size:
            self.images.append(image.clone())
            return image
        slot = int(torch.randint(2 * self.size, (), generator=self.generator))
        if slot >= self.size:
            return image
        stored = self.images[slot].to(image)
        self.images[slot] = image.clone()
        return stored

    def state_dict(self) -> dict:
        """Stored images and the generator's state; loadable with torch.load(weights_only=True)."""
        return {"size": self.size, "images": list(self.images), "generator": self.generator.get_state()}

    def load_state_dict(self, state: dict) -> None:
        """Continue from `state`. ValueError when it is from a pool of another size."""
        if state["size"] != self.size:
            raise ValueError(f"the saved image pool holds {state['size']} images, this one {self.size}; "
                             f"continue with pool_size={state['size']}")
        self.images = [image.clone() for image in state["images"]]
        self.generator.set_state(state["generator"].cpu())


__all__ = ["ImagePool"]
