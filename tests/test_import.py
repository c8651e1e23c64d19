"""Importing any module of ours leaves the process as it was; running a command may set it up."""

import subprocess
import sys

from fastgan.__main__ import COMMANDS

LOOK = r"""
import ctypes, gc, importlib, locale, logging, multiprocessing, os, pkgutil, random, signal, sys, threading, warnings
import importlib.util
import numpy, PIL.Image, PIL.ImageFile, safetensors.torch, torch, tqdm
if importlib.util.find_spec("triton"):
    import triton

libraries = []  # how often the C library was opened, as to set up its allocator
class CDLL(ctypes.CDLL):
    def __init__(self, name, *rest, **more):
        if name is None or "libc." in str(name):
            libraries.append(name)
        super().__init__(name, *rest, **more)
ctypes.CDLL = CDLL

def state():
    mask = os.umask(0)
    os.umask(mask)
    return {
        "hooks": (sys.excepthook, sys.unraisablehook, sys.displayhook, threading.excepthook),
        "tracing": (sys.gettrace(), sys.getprofile(), sys.getrecursionlimit(), gc.get_threshold()),
        "environment": dict(os.environ),
        "signal handlers": {number: signal.getsignal(number) for number in signal.valid_signals()},
        "warnings": list(warnings.filters),
        "logging": (logging.root.level, list(logging.root.handlers), logging.root.manager.disable),
        "places": (os.getcwd(), mask, locale.setlocale(locale.LC_ALL), list(sys.path), list(sys.meta_path)),
        "streams": (sys.stdin, sys.stdout, sys.stderr),
        "processes": (multiprocessing.get_start_method(allow_none=True), torch.multiprocessing.get_sharing_strategy()),
        "threads": (torch.get_num_threads(), torch.get_num_interop_threads(), threading.active_count()),
        "defaults": (torch.get_default_dtype(), torch.get_default_device(), torch.is_grad_enabled(),
                     torch.are_deterministic_algorithms_enabled(), torch.utils.deterministic.fill_uninitialized_memory),
        "backends": (torch.backends.cudnn.benchmark, torch.backends.cudnn.deterministic, torch.backends.mkldnn.enabled,
                     torch.get_float32_matmul_precision(), torch.backends.cuda.matmul.allow_tf32,
                     torch.backends.cudnn.allow_tf32, torch.is_autocast_enabled("cpu"), torch.get_flush_denormal()
                     if hasattr(torch, "get_flush_denormal") else None),
        "random numbers": (random.getstate(), str(numpy.random.get_state()), torch.get_rng_state().tolist()),
        "pictures": (PIL.Image.MAX_IMAGE_PIXELS, PIL.ImageFile.LOAD_TRUNCATED_IMAGES),
        "opened libraries": list(libraries),
    }
"""

IMPORT_ALL = """
import fastgan
before, count = state(), 0
names = [module.name for module in pkgutil.walk_packages(fastgan.__path__, "fastgan.") if module.name != "fastgan._C"]
if importlib.util.find_spec("triton"):
    import fastgan.kernels  # a folder beside the package where that is installed in place
    names += [module.name for module in pkgutil.iter_modules(fastgan.kernels.__path__, "fastgan.kernels.")]
for name in names:
    importlib.import_module(name)
    after = state()
    assert before == after, (name, [key for key in before if before[key] != after[key]])
    count += 1
print("same after", count)
"""


def in_a_process(code):
    return subprocess.run([sys.executable, "-c", LOOK + code], capture_output=True, text=True)


def test_no_import_changes_the_process():
    result = in_a_process(IMPORT_ALL)
    assert result.returncode == 0, result.stderr
    assert int(result.stdout.removeprefix("same after ")) > 60, result.stdout


CHANGES = [
    "sys.excepthook = print",
    "os.environ['A'] = 'b'",
    "signal.signal(signal.SIGTERM, signal.SIG_IGN)",
    "warnings.simplefilter('ignore')",
    "torch.set_num_threads(torch.get_num_threads() + 1)",
    "ctypes.CDLL(None)",
    "torch.set_default_dtype(torch.float64)",
    "torch.rand(1)",
    "logging.basicConfig()",
]


def test_the_comparison_sees_a_change():
    code = f"for change in {CHANGES}:\n    before = state()\n    exec(change)\n    print(before == state())"
    result = in_a_process(code)
    assert result.stdout == len(CHANGES) * "False\n", result.stderr


def test_a_command_that_runs_sets_up_its_process_before_torch():
    code = """
import contextlib, io, os, runpy, sys
os.environ.pop("GOMP_SPINCOUNT", None), os.environ.pop("OMP_WAIT_POLICY", None)
from fastgan import _process
seen, settle = [], _process.settle
_process.settle = lambda: seen.append("torch" in sys.modules) or settle()
for name in COMMANDS:
    sys.argv = [name, "--help"]
    with contextlib.suppress(SystemExit), contextlib.redirect_stdout(io.StringIO()):
        runpy.run_module("fastgan." + name, run_name="__main__")
assert seen == [False, *[True] * 8], seen  # the first imported torch for the others; fastgan.tune measures a GPU
assert "GOMP_SPINCOUNT" in os.environ and sys.excepthook is _process.leave_quietly
print("settled")
""".replace("COMMANDS", repr(COMMANDS))
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert result.stdout == "settled\n", result.stderr
