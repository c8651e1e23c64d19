"""What stands in for a CUDA graph on the CPU: a tape of the operators that a call runs, played again without python.

As in a graph, nothing but tensors is alive in a replay: numbers, branches and decisions are those of the recording, and
every operator reads and writes the very tensors that it did then. Reading a value on the host fails.
"""

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten

aten = torch.ops.aten
HOST_READS = {
    aten._local_scalar_dense,
    aten.item,
    aten.nonzero,
    aten.masked_select,
    aten._unique2,
    aten.unique_dim,
    aten.unique_consecutive,
    aten.equal,
    aten.is_nonzero,
    aten.bincount,
    aten.repeat_interleave,
}


class NoHostReads(TorchDispatchMode):
    """Fails on every operator after which the host waits for a device."""

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if func.overloadpacket in HOST_READS and func is not aten.repeat_interleave.self_int:
            raise RuntimeError(f"{func} reads a value on the host")
        return func(*args, **(kwargs or {}))


class Tape(NoHostReads):
    """Records operators while they run; `play` runs them again."""

    def __init__(self):
        super().__init__()
        self.calls = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = super().__torch_dispatch__(func, types, args, kwargs)
        if not (func.is_view or func in (aten.detach.default, aten.lift_fresh.default)):
            self.calls.append((func, args, kwargs or {}, result))
        return result

    def play(self):
        for func, args, kwargs, result in self.calls:
            for old, new in zip(tree_flatten(result)[0], tree_flatten(func(*args, **kwargs))[0]):
                if isinstance(old, torch.Tensor) and old is not new and old.numel():
                    old.copy_(new)


class TapeRecorder:
    """Records on tapes. The recording itself runs the call, so the replay that comes first does nothing."""

    def __init__(self, failing=False):
        self.recorded, self.replays, self.failing = 0, 0, failing

    def warm_up(self, call):
        return call()

    def record(self, call):
        if self.failing:
            raise RuntimeError("operation not permitted when stream is capturing\nmore of it")
        self.recorded += 1
        tape, fresh = Tape(), [True]
        with tape:
            result = call()

        def replay():
            self.replays += 1
            if fresh:
                fresh.clear()
                return
            with torch.no_grad():
                tape.play()

        return replay, result
