"""How fast can this machine copy memory and multiply, measured here and now?"""

from __future__ import annotations

import torch
import torch.nn.functional as F

from .measure import interleaved, op_clock


def measure(device: torch.device | str, seconds: float) -> dict:
    """Best copy rate (bytes read plus written per second) and multiplication rates (FLOP/s) of ``device``.

    ``flops`` holds, per dtype, a square matrix product and the 3x3 convolution of 256 channels in channels_last, which
    on some CPUs runs several times faster than torch's matrix product. Each takes ``seconds``; rates are of medians.
    """
    device = torch.device(device)
    large = device.type == "cuda"
    elements, side, batch = (1 << 28, 8192, 16) if large else (1 << 25, 1024, 1)
    clock = op_clock(device)

    source = torch.randn(elements, device=device)
    target = torch.empty_like(source)
    timing = interleaved({"copy": lambda _, source=source, target=target: target.copy_(source)}, seconds, clock)[
        "copy"
    ].summary()
    rates = {"copy_bytes_per_second": 2 * source.nbytes / timing["median"], "flops": {}}
    del source, target

    for dtype in (torch.float32, torch.bfloat16):
        a, b = (torch.randn(side, side, device=device, dtype=dtype) for _ in range(2))
        x = torch.randn(batch, 256, 64, 64, device=device, dtype=dtype).to(memory_format=torch.channels_last)
        w = torch.randn(256, 256, 3, 3, device=device, dtype=dtype).to(memory_format=torch.channels_last)
        work = {"matmul": 2 * side**3, "convolution": 2 * 9 * 256 * 256 * 64 * 64 * batch}
        with torch.no_grad():
            timings = interleaved(
                {"matmul": lambda _: a @ b, "convolution": lambda _: F.conv2d(x, w, padding=1)}, 2 * seconds, clock
            )
        name = str(dtype).removeprefix("torch.")
        rates["flops"][name] = {kind: work[kind] / timings[kind].summary()["median"] for kind in work}
    return rates
