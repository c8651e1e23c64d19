"""What a call has to give, how far rounding may lead from it, and whether a subject keeps to that.

The truth is the definition in float64 on plain copies of the arguments. A result is accepted where its largest error is
at most

    2 e + 8 f + 2 u |result|

with e the error of stock torch in the same dtype on plain copies, u the unit roundoff of the result's dtype, and f what
the exact result changes by when every number that goes into it is changed by so many roundoffs of the accumulation as a
sum of n terms in blocks can lose, 2 sqrt(n) + 4 (Higham, 2002, "Accuracy and Stability of Numerical Algorithms",
sections 1.5 and 4.2): the condition of the call, times the roundoff. Where rounding to the arguments' own dtype at
every step does not explain the error of stock torch, torch is wrong, and e is left out.
"""

import contextlib
import dataclasses
import math
import warnings
from collections.abc import Callable, Iterator

import torch
from torch import Tensor

import fastgan
import fastgan.functional

from .calls import DEFINITIONS, HALF, STOCK, Call, rounding

Results = dict[str, Tensor]


@dataclasses.dataclass
class Verdict:
    fault: str = ""  # what is wrong, or the empty string
    refused: str = ""  # why there was nothing to judge: what the subject or torch said
    stock_fault: str = ""  # what is wrong with stock torch's result on plain copies
    of_allowed: float = 0.0  # the largest error over the largest allowed one
    of_stock: float = (
        0.0  # the largest error over that of stock torch, or over a roundoff of the result if that is larger
    )
    second: bool = False  # second gradients were compared, too


PLAIN = "stock torch on plain copies"


def enter(stage: str) -> None:
    """Told what runs next, so that who follows knows what a crash ended."""


def judge(call: Call, subject: str = "fastgan") -> Verdict:
    """Call ``subject``, which is "fastgan" or "torch", and compare."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return _judge(call, subject)


def _judge(call: Call, subject: str) -> Verdict:
    plan = _Plan(call)
    definition, stock = DEFINITIONS[call.op], STOCK[call.op]
    try:
        plan.complete(definition)
        exact = plan.run(definition, plan.exact)
    except Exception as error:  # torch refuses the call: so may we
        return Verdict(refused=f"torch: {_first_line(error)}")
    verdict = Verdict(second=plan.second)
    floors, limits = plan.floors(definition, exact)
    enter(PLAIN)
    try:
        errors = _errors(plan.run(stock, plan.plain), exact)
    except Exception:
        errors = {}
    overflow = {name for name in errors if name.startswith("d2") and call.dtype == torch.float16}
    stray = [name for name, error in errors.items() if not error <= limits[name] and name not in overflow]
    verdict.stock_fault = ", ".join(f"{name} is off by {errors[name]:.3g}" for name in stray)
    stock_error = {name: errors.get(name, 0.0) if name not in stray else 0.0 for name in exact}

    enter(subject)
    function = function_of(call.op, subject)
    with _threads(plan.threads), _uninitialised(plan.poisoned):
        try:
            ours = _called(plan, function, subject)
            again = _called(plan, function, subject) if plan.repeated else None
        except Exception as error:
            text = _first_line(error)
            if call.exact_input and "eps" in text:
                return dataclasses.replace(verdict, refused=text)
            return dataclasses.replace(verdict, fault=f"raises {type(error).__name__}: {text}")
    verdict.fault = _compare(plan, verdict, ours, exact, floors, stock_error)
    if not verdict.fault and again is not None and any(not _same_bits(ours[name], again[name]) for name in ours):
        verdict.fault = "two runs differ"
    if not verdict.fault and subject == "fastgan":
        verdict.fault = _layout_fault(call, ours)
    return verdict


def function_of(op: str, subject: str) -> Callable:
    return STOCK[op] if subject == "torch" else getattr(fastgan.functional, op)


def _called(plan: "_Plan", function: Callable, subject: str) -> Results:
    """The results of the subject; by the automatic choice where the backend that was drawn cannot serve the call."""
    plan.litter()
    if subject == "fastgan" and plan.call.backend != "auto":
        try:
            with fastgan.backend(**{plan.call.op: plan.call.backend}):
                return plan.run(function, plan.given)
        except RuntimeError as error:
            if "cannot serve" not in str(error):
                raise
    return plan.run(function, plan.given)


class _Plan:
    """A call with all that is drawn beside it: incoming gradients, and the weights of the second gradients."""

    def __init__(self, call: Call):
        self.call = call
        draws = call.draws
        self.second = bool(call.wanted) and draws.chance(0.3)
        self.repeated = draws.chance(0.2)
        self.poisoned = draws.chance(0.5)
        self.threads = draws.one((1, 1, 1, 2, 3))
        self.incoming: list[Tensor] = []
        self.directions: dict[str, Tensor] = {}
        self.kinks: list[Tensor] = []

    def complete(self, definition: Callable) -> None:
        """Draw the incoming gradients. They are 0 where rounding alone says on which side of an activation's kink."""
        call, draws = self.call, self.call.draws
        with torch.no_grad():
            outputs = _outputs(definition, {k: self.exact(t) for k, t in call.tensors.items()}, call.arguments)
        self.kinks = self._kinks(definition, outputs)
        for y, kink in zip(outputs, self.kinks):
            dy = draws.values(
                y.shape, draws.one(("normal", "normal", "off-centre", "constant")), self._dtype_of_result()
            )
            layout = draws.layout(dy)
            if kink.any():
                dy, layout = dy.masked_fill(kink, 0), "plain" if layout == "expanded" else layout
            self.incoming.append(draws.lay(dy, layout))
        for name in call.wanted:
            v = draws.values(call.tensors[name].shape, "normal", call.tensors[name].dtype)
            self.directions[name] = draws.lay(v, draws.layout(v))

    def _dtype_of_result(self) -> torch.dtype:
        target = self.call.tensors.get("target")
        return torch.promote_types(self.call.dtype, target.dtype) if target is not None else self.call.dtype

    def _kinks(self, definition: Callable, outputs: list[Tensor]) -> list[Tensor]:
        call = self.call
        if call.arguments.get("activation", "none") == "none":
            return [torch.zeros_like(y, dtype=torch.bool) for y in outputs]
        linear = call.arguments | {"activation": "none"}
        # Of a convolution in half precision torch adds parts that are rounded.
        level = torch.finfo(call.dtype).eps if call.half else None
        tensors = {name: t for name, t in call.tensors.items() if name != "residual"}
        with torch.no_grad():
            exact = _outputs(definition, {k: self.exact(t) for k, t in tensors.items()}, linear)
            changed = [
                _outputs(definition, {k: self.changed(t, level) for k, t in tensors.items()}, linear) for _ in range(2)
            ]
            near = [
                16 * torch.stack([c[i] - z for c in changed]).abs().amax() if z.numel() else 0
                for i, z in enumerate(exact)
            ]
            return [z.abs() <= bound for z, bound in zip(exact, near)]

    # What a tensor is turned into, for a run.

    def given(self, t: Tensor) -> Tensor:
        return t.detach()

    def plain(self, t: Tensor) -> Tensor:
        return t.detach().contiguous().clone(memory_format=torch.contiguous_format)

    def exact(self, t: Tensor) -> Tensor:
        return self.plain(t).double()

    def changed(self, t: Tensor, roundoff: float | None = None, together: bool = False) -> Tensor:
        """In float64, every number, or all ``together``, larger or smaller by what its dtype's sums lose."""
        if self.call.exact_input and t is self.call.tensors["input"]:
            return self.exact(t)
        return self.exact(t) * self.change(t, roundoff, together)

    def change(self, t: Tensor, roundoff: float | None, together: bool = False) -> Tensor:
        if roundoff is None:
            roundoff = (2 * math.sqrt(self.call.terms) + 4) * _accumulation(self.call.dtype)
        shape = () if together else t.shape
        sign = torch.randint(0, 2, shape, generator=self.call.draws.generator).double() * 2 - 1
        return 1 + roundoff * sign

    def litter(self) -> None:
        """Leave large numbers in memory that the next allocations get."""
        numbers = {t.numel() * t.element_size() // 4 for t in (*self.call.tensors.values(), *self.incoming)}
        kept = [torch.full((n,), 1e20) for n in numbers for _ in range(3) if 0 < n < 1 << 20]
        kept += [torch.full((n,), math.nan) for n in (16, 64, 256, 1024)]
        del kept

    def run(self, function: Callable, cast: Callable[[Tensor], Tensor]) -> Results:
        """All results of a call by name: outputs, running statistics, first and second gradients."""
        call = self.call
        tensors = {name: cast(t) for name, t in call.tensors.items()}
        for name in call.updated:
            tensors[name] = _rebuilt(tensors[name])
        for name in call.wanted:
            tensors[name] = tensors[name].detach().requires_grad_()
        outputs = _outputs(function, tensors, call.arguments)
        results = {f"output {i}" if i else "output": y.detach() for i, y in enumerate(outputs)}
        results |= {name: tensors[name].detach() for name in call.updated}
        if not call.wanted:
            return results
        incoming = [cast(dy).to(y.dtype).detach().requires_grad_() for dy, y in zip(self.incoming, outputs)]
        leaves = [tensors[name] for name in call.wanted]
        first = torch.autograd.grad(outputs, leaves, incoming, create_graph=self.second, allow_unused=True)
        results |= {f"d {name}": _or_zeros(g, t) for name, g, t in zip(call.wanted, first, leaves)}
        if self.second:
            pairs = [
                (g, cast(self.directions[name]).to(g.dtype)) for name, g in zip(call.wanted, first) if g is not None
            ]
            pairs = [(g, v) for g, v in pairs if g.requires_grad]
            sources = [*leaves, *incoming]
            names = [*call.wanted, *(f"dy {i}" if i else "dy" for i in range(len(incoming)))]
            second = [None] * len(sources)
            if pairs:
                gradients, directions = zip(*pairs)
                second = torch.autograd.grad(gradients, sources, directions, allow_unused=True)
            for name, g, t in zip(names, second, sources):
                g = _or_zeros(g, t)
                if name.startswith("dy"):
                    g = g.masked_fill(self.kinks[names.index(name) - len(leaves)], 0)
                results[f"d2 {name}"] = g
        return results

    def floors(self, definition: Callable, exact: Results) -> tuple[dict[str, float], dict[str, float]]:
        """8 f + 2 u |result| for each result; as much where each step is rounded to the arguments' dtype."""
        call = self.call
        fine = self._conditions(definition, exact, None)
        coarse = self._conditions(definition, exact, torch.finfo(call.dtype).eps) if call.half else fine
        floors, limits = {}, {}
        for name, value in exact.items():
            dtype = self._dtype(name)
            condition = fine[name]
            # The first gradients may be rounded before they are differentiated, and so is what one op gives another.
            if name.startswith("d2") or call.op == "conv_norm_act":
                condition = coarse[name]
            elif "norm" in call.op and dtype in HALF:  # as may be what lies between norm, activation and sum, once
                condition = max(condition, coarse[name] / 16)
            final = torch.finfo(dtype).eps * _size(value) + torch.finfo(dtype).tiny * max(call.terms, 1)
            final *= 2 if dtype == torch.float64 else 1  # the truth is rounded, too
            # exp and log1p, each within two units in the last place, are off alike at equal elements.
            final *= 4 if call.op == "bce_with_logits" else 1
            floors[name] = 8 * call.amplification * condition + final
            limits[name] = 8 * (8 * call.amplification * max(coarse[name], condition) + final)
            if floors[name] > torch.finfo(dtype).max / 4:  # the dtype does not hold what lies between
                floors[name] = limits[name] = math.inf
        return floors, limits

    def _conditions(self, definition: Callable, exact: Results, level: float | None) -> dict[str, float]:
        """The largest change of each result of a few runs in which everything is changed by ``level``."""
        conditions = dict.fromkeys(exact, 0.0)
        for together in (False, False, False, False, True, True):
            with rounding(lambda t, together=together: t * self.change(t, level, together)):
                other = self.run(definition, lambda t, together=together: self.changed(t, level, together))
            for name, error in _errors(other, exact).items():
                conditions[name] = max(conditions[name], error if math.isfinite(error) else 0.0)
        return conditions

    def _dtype(self, name: str) -> torch.dtype:
        """Of a result."""
        base = name.removeprefix("d2 ").removeprefix("d ")
        if base in self.call.tensors:
            return self.call.tensors[base].dtype
        return self._dtype_of_result()


def _outputs(function: Callable, tensors: dict[str, Tensor], arguments: dict) -> list[Tensor]:
    y = function(**tensors, **arguments)
    return [each for each in (y if isinstance(y, tuple) else (y,)) if each is not None]


def _accumulation(dtype: torch.dtype) -> float:
    """Unit roundoff of sums."""
    return torch.finfo(torch.float32 if dtype in HALF else dtype).eps / 2


def _or_zeros(g: Tensor | None, t: Tensor) -> Tensor:
    return torch.zeros_like(t, memory_format=torch.contiguous_format) if g is None else g.detach()


def _rebuilt(t: Tensor) -> Tensor:
    """A copy with the strides of ``t``."""
    return torch.empty_strided(t.shape, t.stride(), dtype=t.dtype).copy_(t)


def _errors(results: Results, exact: Results) -> dict[str, float]:
    """The largest error of each result, where the exact one is a finite number of its dtype; NaN counts as infinite."""
    errors = {}
    for name, value in results.items():
        want = exact[name]
        if value.shape != want.shape:
            errors[name] = math.inf
            continue
        known = want.abs() < torch.finfo(value.dtype).max / 4
        error = (value.double() - want)[known].abs()
        errors[name] = error.nan_to_num(nan=math.inf, posinf=math.inf).max().item() if error.numel() else 0.0
    return errors


def _compare(
    plan: _Plan, verdict: Verdict, ours: Results, exact: Results, floors: dict[str, float], stock: dict[str, float]
) -> str:
    faults = []
    for name, error in _errors(ours, exact).items():
        dtype, want = plan._dtype(name), exact[name]
        if ours[name].shape != want.shape:
            faults.append(f"{name} has shape {tuple(ours[name].shape)}, not {tuple(want.shape)}")
        elif ours[name].dtype != dtype:
            faults.append(f"{name} is {ours[name].dtype}, not {dtype}")
        if plan.call.dtype == torch.float16 and name.startswith("d2") and error == math.inf:
            continue  # numbers that float16 does not hold lie between
        allowed = floors[name] + 2 * stock[name]
        if math.isfinite(allowed):
            verdict.of_allowed = max(verdict.of_allowed, error / allowed)
            verdict.of_stock = max(verdict.of_stock, error / max(stock[name], floors[name] / 8))
        if not error <= allowed:
            faults.append(
                f"{name} is off by {error:.3g} where {allowed:.3g} is allowed, for values of up to {_size(want):.3g}"
            )
    return "; ".join(faults)


def _size(x: Tensor) -> float:
    """The largest absolute value."""
    return x.abs().nan_to_num(0, 0, 0).max().item() if x.numel() else 0.0


def _layout_fault(call: Call, ours: Results) -> str:
    x = call.tensors["input"]
    if x.dim() != 4 or x.numel() == 0:
        return ""
    last = x.is_contiguous(memory_format=torch.channels_last)
    if x.is_contiguous() == last:  # neither, or both
        return ""
    format = torch.channels_last if last else torch.contiguous_format
    for name, y in ours.items():
        if name.startswith("output") and y.dim() == 4 and not y.is_contiguous(memory_format=format):
            return f"{name} has strides {y.stride()} for an input that is {'channels_last' if last else 'NCHW'}"
    return ""


def _same_bits(a: Tensor, b: Tensor) -> bool:
    return a.dtype == b.dtype and torch.equal(a.nan_to_num(nan=12345.0), b.nan_to_num(nan=12345.0))


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:200]


@contextlib.contextmanager
def _threads(count: int) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@contextlib.contextmanager
def _uninitialised(poisoned: bool) -> Iterator[None]:
    """What torch.empty gives holds NaN, if ``poisoned``."""
    before = torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled()
    torch.use_deterministic_algorithms(poisoned, warn_only=True)
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before[0], warn_only=before[1])
