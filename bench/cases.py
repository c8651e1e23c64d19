"""What is timed: one op with its inputs, and the providers that compute it."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from fastgan.ops import _dispatch

from . import record
from .measure import Clock, Runner, copies_beyond_cache, op_clock

NCHW, NHWC = torch.contiguous_format, torch.channels_last
LAYOUTS = {"nchw": NCHW, "channels_last": NHWC}
DIRECTIONS = ("forward", "backward")
DTYPES = (torch.float32, torch.bfloat16)


@dataclass(frozen=True)
class Provider:
    """One way to compute an op: ``name`` begins with "eager" or "ours" and names the layout of inputs and weights."""

    name: str
    compute: Callable[..., Tensor]

    @property
    def layout(self) -> str:
        return record.layout(self.name)


def providers(
    eager: Callable[..., Tensor],
    ours: Callable[..., Tensor],
    in_place: Callable[..., Tensor] | None = None,
    layouts: tuple[str, ...] = tuple(LAYOUTS),
) -> list[Provider]:
    """Eager (and eager with an in-place activation, where that makes a difference) and ours, in each layout."""
    entries = []
    for layout in layouts:
        entries.append(Provider(f"eager {layout}", eager))
        if in_place is not None:
            entries.append(Provider(f"eager {layout} in-place", in_place))
    return entries + [Provider(f"ours {layout}", ours) for layout in layouts]


def dtype_name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def parameters(cases: list[tuple], full: list[tuple] = (), cuda: list[tuple] = ()) -> list:
    """pytest parameters with readable ids, those of ``full`` and ``cuda`` marked so."""

    def text(value) -> str:
        return "x".join(map(str, value)) if isinstance(value, tuple) else str(value)

    groups = ((cases, ()), (full, pytest.mark.full), (cuda, pytest.mark.cuda))
    return [pytest.param(*case, id="-".join(map(text, case)), marks=marks) for group, marks in groups for case in group]


def deviation(actual: Tensor, reference: Tensor) -> float:
    """Deviation from ``reference``, relative to its largest element; one element in 100,000 may be further off."""
    if actual.shape != reference.shape:
        return math.inf
    apart = (actual.to(reference) - reference).abs().flatten()
    if not bool(torch.isfinite(apart).all()):
        return math.inf
    largest = apart.topk(apart.numel() // 100_000 + 1).values[-1].item()
    return largest / (reference.abs().max().item() or 1.0)


def worst(deviations: Iterable[float]) -> float:
    """The largest deviation; infinity where one is not a number."""
    found = list(deviations)
    return max(found) if all(map(math.isfinite, found)) else math.inf


@dataclass
class OpCase:
    """One op at one shape, dtype and direction.

    ``make`` returns fresh random NCHW inputs; the first ``leaves`` of them get gradients. ``bytes_moved`` and ``flops``
    are those of one pass that reads every operand and writes every result once, and wastes no multiplication.
    """

    op: str
    variant: str
    shape: tuple[int, ...]
    dtype: torch.dtype
    direction: str
    device: torch.device
    make: Callable[[], tuple[Tensor, ...]]
    providers: list[Provider]
    bytes_moved: int
    flops: int = 0
    leaves: int = 1
    times_eager: float = 2.0  # the deviation from float64 that is allowed, in that of the worst eager provider
    least_rounds: int = 5
    warm_up_rounds: int = 2
    errors: dict[str, float] = field(default_factory=dict)
    served: dict[str, dict[str, list[str]]] = field(default_factory=dict)

    def describe(self) -> dict:
        """The case's entry in a record, without its times."""
        return {
            "op": self.op,
            "variant": self.variant,
            "shape": "x".join(map(str, self.shape)),
            "dtype": dtype_name(self.dtype),
            "direction": self.direction,
            "bytes": self.bytes_moved,
            "flops": self.flops,
            "backend": {
                "name": self._backend_name(),
                "served": self.served,
                "passed_over": passed_over(self.op, self.device, self.dtype),
            },
            "deviation": record.finite(self.errors),
        }

    def _backend_name(self) -> str:
        """Who computed the direction; by layout where the layouts differ."""
        names = {name.removeprefix("ours "): self._computed_by(calls) for name, calls in self.served.items()}
        if len(set(names.values())) < 2:
            return next(iter(names.values()), "")
        return ", ".join(f"{name}: {backend}" for name, backend in names.items())

    def _computed_by(self, calls: dict[str, list[str]]) -> str:
        if self.direction == "backward":  # the forward op ran too, but untimed; some ops have no other
            calls = {op: backends for op, backends in calls.items() if op != self.op} or calls
        own = {op: backends for op, backends in calls.items() if op.startswith(self.op) or op == "pointwise_loss"}
        parts = [" and ".join(dict.fromkeys(backend for backends in own.values() for backend in backends))]
        parts += [f"{op} by {' and '.join(backends)}" for op, backends in calls.items() if op not in own]
        return ", ".join(filter(None, parts)) or "reference"

    def speedups(self, timings: dict[str, dict]) -> dict[str, dict[str, float]]:
        return record.speedups(timings)

    @property
    def clock(self) -> Clock:
        return op_clock(self.device)

    def _inputs(self, made: tuple[Tensor, ...], layout: str) -> tuple[Tensor, ...]:
        copies = []
        for i, tensor in enumerate(made):
            format = LAYOUTS[layout] if tensor.dim() == 4 else NCHW
            copies.append(tensor.clone(memory_format=format).requires_grad_(i < self.leaves))
        return tuple(copies)

    def _results(self, compute: Callable[..., Tensor], inputs: tuple[Tensor, ...], seed: Tensor | None) -> list[Tensor]:
        """What the timed direction yields: the output, the gradients of the leaves, or both."""
        out = compute(*inputs)
        results = [] if self.direction == "backward" else [out.detach()]
        if self.direction != "forward":
            results += torch.autograd.grad(out, inputs[: self.leaves], seed.to(out.dtype))
        return results

    def check(self) -> None:
        """Raise AssertionError unless every provider of ours is as close to float64 as torch in the same dtype.

        As close: at most ``times_eager`` times the deviation of the worst eager provider, plus four units of the
        dtype's precision.
        """
        made = self.make()
        exact = self._inputs(tuple(t.double() if t.is_floating_point() else t for t in made), "nchw")
        stock = self.providers[0].compute
        with torch.no_grad():
            seed = torch.randn_like(stock(*exact)).to(self.dtype).double()
        expected = self._results(stock, exact, seed)
        for provider in self.providers:
            with Served() as served:
                results = self._results(provider.compute, self._inputs(made, provider.layout), seed)
            if provider.name.startswith("ours"):
                self.served[provider.name] = served.backends
            self.errors[provider.name] = worst(map(deviation, results, expected))
        eager = max(error for name, error in self.errors.items() if name.startswith("eager"))
        allowed = self.times_eager * eager + 4 * torch.finfo(self.dtype).eps
        wrong = {name: error for name, error in self.errors.items() if not error <= allowed}
        assert not wrong, f"not timed, because the {self.direction} result is wrong: {wrong} (allowed: {allowed:.2g})"

    @staticmethod
    def _seed(out: Tensor, layout: str) -> Tensor:
        """A random gradient in the layout that the next layer's backward hands over, whatever the layout of ``out``.

        Eager instance norm turns channels_last into NCHW; a channels_last convolution behind it still returns a
        channels_last gradient.
        """
        seed = torch.randn_like(out)
        return seed.contiguous(memory_format=LAYOUTS[layout]) if seed.dim() == 4 else seed

    def runners(self) -> dict[str, Runner]:
        """For each provider a function of the round's number that runs the timed direction once."""
        sets = [self.make() for _ in range(copies_beyond_cache(self.bytes_moved, self.device))]
        return {provider.name: self._runner(provider, sets) for provider in self.providers}

    def _runner(self, provider: Provider, sets: list[tuple[Tensor, ...]]) -> Runner:
        compute, leaves = provider.compute, self.leaves
        inputs = [self._inputs(made, provider.layout) for made in sets]
        if self.direction == "forward":
            return lambda number: compute(*inputs[number % len(inputs)])
        seeds = [self._seed(compute(*one).detach(), provider.layout) for one in inputs]
        if self.direction == "backward":
            outs = [compute(*one) for one in inputs]

            def backward(number: int) -> tuple[Tensor, ...]:
                i = number % len(inputs)
                return torch.autograd.grad(outs[i], inputs[i][:leaves], seeds[i], retain_graph=True)

            return backward

        def both(number: int) -> tuple[Tensor, ...]:
            i = number % len(inputs)
            return torch.autograd.grad(compute(*inputs[i]), inputs[i][:leaves], seeds[i])

        return both


class Served(TorchDispatchMode):
    """Inside, ``backends`` collects who computes each low-level op of fastgan that has a choice, backward included.

    An op that is missing was computed by stock torch throughout.
    """

    def __init__(self) -> None:
        super().__init__()
        self.backends: dict[str, list[str]] = {}

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if func.namespace == "fastgan" and any(argument.name == "backend" for argument in func._schema.arguments):
            found = self.backends.setdefault(func._schema.name.removeprefix("fastgan::"), [])
            backend = (kwargs or {}).get("backend") or args[-1]
            if backend not in found:
                found.append(backend)
        return func(*args, **(kwargs or {}))


def passed_over(op: str, device: torch.device, dtype: torch.dtype) -> dict[str, str]:
    """Why the automatic choice passes over backends of ``op``, whatever the shape."""
    return {name: reason for name, reason in _dispatch.refusals(op, device.type, dtype).items() if reason}


def away_from_ties(x: Tensor, distance: float = 2e-3, over: tuple[int, ...] = (2, 3)) -> Tensor:
    """``x`` without elements so near to the mean over these dimensions that rounding decides which side of a ReLU they
    take."""
    mean = x.double().mean(over, keepdim=True)
    return torch.where((x.double() - mean).abs() < distance, x + 10 * distance, x).to(x.dtype)
