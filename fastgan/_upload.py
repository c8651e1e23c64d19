"""From the host to a device without waiting."""

import torch
from torch import Tensor


def upload(values: Tensor, device: torch.device) -> Tensor:
    """A tensor of the host's on the device; the host does not wait until it is there, and may forget it at once."""
    return values.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else values.to(device)


__all__ = ["upload"]
