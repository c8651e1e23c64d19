"""Settings of the process that only a command that runs in a process of its own may make (``python -m``), and no
import.

They are made before torch is imported, which starts OpenMP's threads.

GNU OpenMP's threads spin for milliseconds at the end of every parallel loop, and a training step has thousands of short
ones. Where another process wants a core, each loop then waits for the scheduler: with one busy neighbour, the built-in
CycleGAN's step on two cores went from 0.21 s to between 1.2 and 5 s. Threads that spin a little and then sleep keep
0.21 s alone and take 0.7 to 1.4 s beside that neighbour. OMP_WAIT_POLICY or GOMP_SPINCOUNT in the environment decide
otherwise.

glibc gives freed memory back to the system and takes it anew, a page fault for every 4 KiB of every result. Kept
instead, the same step took 0.16 to 0.20 s. MALLOC_TRIM_THRESHOLD_ or MALLOC_MMAP_THRESHOLD_ in the environment decide
otherwise.
"""

import ctypes
import os
import sys
from types import TracebackType

_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3  # of mallopt(3)


def keep_freed_memory() -> None:
    """Let glibc keep up to 1 GiB of freed memory, and serve results up to 32 MiB (its limit) from it."""
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if os.name == "posix" else None
    if mallopt is not None:
        mallopt(_TRIM_THRESHOLD, 1 << 30)
        mallopt(_MMAP_THRESHOLD, 32 << 20)


def leave_quietly(kind: type[BaseException], error: BaseException, traceback: TracebackType | None) -> None:
    """What an error that nothing caught prints: Ctrl-C while the command is still being imported, one word."""
    if issubclass(kind, KeyboardInterrupt):
        print(str(error) or "interrupted", file=sys.stderr)
    else:
        sys.__excepthook__(kind, error, traceback)


def settle() -> None:
    """Make both settings, unless the environment makes its own, and leave quietly at Ctrl-C."""
    sys.excepthook = leave_quietly
    if "OMP_WAIT_POLICY" not in os.environ:
        os.environ.setdefault("GOMP_SPINCOUNT", "20000")
    if not {"MALLOC_TRIM_THRESHOLD_", "MALLOC_MMAP_THRESHOLD_"} & os.environ.keys():
        keep_freed_memory()
