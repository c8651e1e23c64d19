"""Processes that load batches: what they deliver, and how they end."""

import faulthandler
import gc
import os
import signal
import subprocess
import sys
import time

import pytest
import torch

from fastgan.training.data_order import BatchKeys
from fastgan.training.workers import LostWorker, loader
from tests.training.tiny_recipe import TinyData


class Items(torch.utils.data.Dataset):
    """Items that tell which process made them; what ``act`` does at an index happens there."""

    def __init__(self, length=40, act=None, at=None):
        self.length, self.act, self.at = length, act, at

    def __len__(self):
        return self.length

    def __getitem__(self, key):
        _, index = key
        if self.act is not None and index == self.at:
            self.act()
        return {"value": torch.full((3,), float(index)), "pid": os.getpid(), "path": f"{index}.png" * 100}


def keys(length, batch_size=2, epochs=1):
    return BatchKeys(length, batch_size, seed=3, shuffle=False, epochs=epochs)


def alive(pid):
    try:
        with open(f"/proc/{pid}/stat") as file:
            return file.read().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def all_end(pids, seconds=10):
    until = time.monotonic() + seconds
    while any(map(alive, pids)) and time.monotonic() < until:
        time.sleep(0.02)
    return not any(map(alive, pids))


@pytest.mark.parametrize("workers", [1, 2, 3, 7])
def test_the_same_batches_in_the_same_order(workers):
    state = torch.get_rng_state()
    batches = BatchKeys(5, 2, seed=3, epochs=3)
    alone, helped = (list(loader(TinyData(), batches, number)) for number in (0, workers))
    assert len(alone) == len(helped) == 9
    for one, other in zip(alone, helped):
        assert one.keys() == other.keys() and one["A_path"] == other["A_path"]
        assert all(torch.equal(one[name], other[name]) for name in ("A", "B", "key"))
    assert torch.equal(state, torch.get_rng_state())


def test_no_process_outlives_its_loader():
    for end in ("close", "forget", "exhaust"):
        batches = loader(Items(), keys(40), 2)
        pids = {pid for _ in range(4) for pid in next(batches)["pid"].tolist()}
        assert len(pids) == 2 and all(map(alive, pids))
        if end == "close":
            batches.close()
        elif end == "exhaust":
            assert len(list(batches)) == 16
        else:
            del batches
            gc.collect()
        assert not any(map(alive, pids)), end


@pytest.mark.parametrize("stuck", [False, True])
@pytest.mark.parametrize("code", [signal.SIGKILL, signal.SIGBUS, 3])
def test_a_process_that_ends_is_told_at_once(code, stuck):
    """Whatever the others are doing: they never have to be waited for."""

    def end():
        if code == 3:
            os._exit(3)
        faulthandler.disable()  # pytest's
        os.kill(os.getpid(), code)

    class Stuck(Items):
        def __getitem__(self, key):
            if stuck and key[1] == 10:
                time.sleep(1000)
            return super().__getitem__(key)

    began = time.monotonic()
    batches = loader(Stuck(act=end, at=8), keys(40), 2)
    pids = [worker._process.pid for worker in batches._workers]
    expected = "ended by itself .exit code 3." if code == 3 else f"was killed by {signal.Signals(code).name}"
    delivered = []
    with pytest.raises(LostWorker, match=f"a process that loads images {expected}"):
        delivered.extend(iter(lambda: next(batches)["value"][0, 0].item(), None))
    assert delivered == [0, 2, 4, 6][: len(delivered)]  # what it had loaded ahead may be lost with it
    assert all_end(pids) and time.monotonic() - began < 5
    assert next(batches, None) is None


def test_kills_at_any_moment_end_within_seconds():
    """Between two batches, while one is loaded, sent or fetched: never a hang, and never another error."""
    for number in range(12):
        batches = loader(Items(10**6), keys(10**6), 2)
        for _ in range(number % 3):
            next(batches)
        time.sleep(0.001 * number)
        os.kill(batches._workers[number % 2]._process.pid, signal.SIGKILL)
        began = time.monotonic()
        with pytest.raises(LostWorker, match="SIGKILL, as the system does where memory runs out: .*--num-threads"):
            for _ in batches:
                pass
        assert time.monotonic() - began < 5


class Odd(Exception):
    def __init__(self, one, two):
        super().__init__(f"{one} {two}")


@pytest.mark.parametrize(
    ("error", "kind", "text"),
    [
        (ValueError("a.png: truncated"), ValueError, "a.png: truncated"),
        (FileNotFoundError(2, "No such file or directory", "a.png"), FileNotFoundError, "a.png"),
        (EOFError("no data left"), EOFError, "no data left"),
        (MemoryError("much"), MemoryError, "much"),
        (Odd("a", "b"), RuntimeError, "Odd: a b"),
    ],
)
def test_an_error_of_the_data_keeps_its_type(error, kind, text):
    def fail():
        raise error

    batches = loader(Items(act=fail, at=6), keys(40), 2)
    pids = [worker._process.pid for worker in batches._workers]
    assert [next(batches)["value"][0, 0].item() for _ in range(3)] == [0, 2, 4]
    with pytest.raises(kind, match=text) as raised:
        next(batches)
    assert type(raised.value) is kind and "in fail" in str(raised.value.__cause__)  # where, for --debug
    assert all_end(pids)


def test_signals_to_the_group_are_for_the_training_process():
    batches = loader(Items(), keys(40), 2)
    next(batches)
    for worker in batches._workers:
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            os.kill(worker._process.pid, number)
    assert len(list(batches)) == 19


LIVES = """
import os, signal, sys, time
from fastgan.training.workers import loader
from tests.training.test_workers import Items, keys
batches = loader(Items(10 ** 6, (lambda: time.sleep(1000)) if "stuck" in sys.argv else None, 13), keys(10 ** 6), 3)
for _ in range(3): next(batches)
print(*[worker._process.pid for worker in batches._workers], flush=True)
if "error" in sys.argv: raise ValueError("a bug")
if "leave" in sys.argv: sys.exit(0)
time.sleep(1000)
"""


@pytest.mark.skipif(not os.path.exists("/proc/self/stat"), reason="looks at /proc")
@pytest.mark.parametrize("how", ["killed", "killed stuck", "error", "leave", "leave stuck"])
def test_no_process_outlives_the_training_process(how):
    process = subprocess.Popen(
        [sys.executable, "-c", LIVES, *how.split()], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    )
    pids = list(map(int, process.stdout.readline().split()))
    assert len(pids) == 3
    if "killed" in how:
        process.kill()
    assert process.wait(20) == {"killed": -9, "error": 1, "leave": 0}[how.split()[0]]
    assert all_end(pids)
    process.stdout.close()
