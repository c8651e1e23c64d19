"""Transposed convolutions to try, their float64 reference, and the error that each arithmetic may have."""

import dataclasses

import torch
import torch.nn.functional as F

ACTIVATIONS = ("none", "relu", "leaky_relu")
# (dtype, TF32 allowed), the rounding of a result, and of a sum relative to the sum of magnitudes that went into it.
ARITHMETICS = {
    "bf16": (torch.bfloat16, False, 2**-8, 1e-6),
    "fp16": (torch.float16, False, 2**-11, 1e-6),
    "tf32": (torch.float32, True, 0.0, 2**-10),
    "fp32": (torch.float32, False, 2**-24, 1e-6),
    "fp64": (torch.float64, False, 2**-53, 4e-15),
}


@dataclasses.dataclass(frozen=True)
class Case:
    n: int = 1
    c: int = 8
    o: int = 8
    size: tuple[int, int] = (4, 5)
    kernel: tuple[int, int] = (3, 3)
    stride: tuple[int, int] = (2, 2)
    padding: tuple[int, int] = (1, 1)
    output_padding: tuple[int, int] = (1, 1)
    dilation: tuple[int, int] = (1, 1)
    groups: int = 1

    def arguments(self):
        return self.stride, self.padding, self.output_padding, self.groups, self.dilation

    def output(self):
        return tuple(
            (self.size[i] - 1) * self.stride[i]
            - 2 * self.padding[i]
            + self.dilation[i] * (self.kernel[i] - 1)
            + self.output_padding[i]
            + 1
            for i in (0, 1)
        )


# What the systems use, then what torch accepts: phases without taps, strides that share a factor with the dilation,
# output padding of a whole stride, kernels smaller than the stride, single pixels, channels that fill no vector.
CASES = (
    Case(n=2, c=24, o=40, size=(5, 9)),
    Case(c=16, o=8, kernel=(4, 4), output_padding=(0, 0)),
    Case(c=16, o=3, kernel=(4, 4), output_padding=(0, 0)),
    Case(n=3, c=10, o=16, size=(1, 1), kernel=(4, 4), stride=(1, 1), padding=(0, 0), output_padding=(0, 0)),
    Case(c=8, o=16, kernel=(2, 1), stride=(3, 4), padding=(0, 0), output_padding=(2, 3)),
    Case(c=8, o=8, kernel=(3, 2), stride=(4, 2), dilation=(2, 2), padding=(0, 1)),
    Case(c=5, o=7, kernel=(2, 3), stride=(2, 1), dilation=(3, 4), padding=(0, 2), output_padding=(2, 3)),
    Case(n=2, c=32, o=16, groups=2, size=(3, 6), kernel=(5, 3), stride=(3, 2), padding=(2, 1), output_padding=(0, 1)),
    Case(c=6, o=9, groups=3, size=(7, 2), kernel=(1, 4), stride=(1, 3), padding=(0, 3), output_padding=(0, 2)),
    Case(n=2, c=4, o=4, groups=4, size=(3, 3)),
    Case(c=72, o=136, size=(6, 13), kernel=(2, 2), padding=(0, 0), output_padding=(0, 0)),
)


def drawn(draw):
    """A random geometry that has an output."""
    while True:
        pairs = {
            "size": (draw.randint(1, 7), draw.randint(1, 7)),
            "kernel": (draw.randint(1, 5), draw.randint(1, 5)),
            "stride": (draw.randint(1, 4), draw.randint(1, 4)),
            "dilation": (draw.randint(1, 3), draw.randint(1, 3)),
            "padding": (draw.randint(0, 4), draw.randint(0, 4)),
        }
        largest = [max(pairs["stride"][i], pairs["dilation"][i]) - 1 for i in (0, 1)]
        pairs["output_padding"] = (draw.randint(0, largest[0]), draw.randint(0, largest[1]))
        groups = draw.choice((1, 1, 2, 3))
        case = Case(
            n=draw.randint(1, 3), c=groups * draw.randint(1, 20), o=groups * draw.randint(1, 20), groups=groups, **pairs
        )
        if min(case.output()) >= 1:
            return case


def passes(case, x, weight, bias, dy):
    """(y, dx, dweight) by torch, in the precision of the arguments."""
    x, weight = x.clone().requires_grad_(), weight.clone().requires_grad_()
    y = F.conv_transpose2d(x, weight, bias, *case.arguments())
    return y.detach(), *torch.autograd.grad(y, (x, weight), dy)


def activated(z, activation, slope):
    if activation == "relu":
        return F.relu(z)
    return F.leaky_relu(z, slope) if activation == "leaky_relu" else z


def check(actual, expected, magnitude, rounding, sum_rounding, what):
    """Every element within its own bound: the rounding of the result and of the sum that gave it."""
    bound = rounding * expected.abs() + sum_rounding * magnitude + (1e-7 if actual.dtype == torch.float16 else 1e-30)
    error = (actual.double() - expected).abs()
    wrong = ~(error <= bound)
    assert not wrong.any(), (
        f"{what}: {int(wrong.sum())} of {wrong.numel()} elements are wrong, the first at {wrong.nonzero()[0].tolist()}"
    )
