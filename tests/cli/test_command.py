"""Exit codes, and the sentence for what went wrong."""

import io
import os
import signal
import subprocess
import sys

import pytest

from fastgan._errors import UserError, sentence
from fastgan.cli import command
from fastgan.training.interrupt import Interrupt


def failing(error):
    def main(argv):
        raise error

    return main


def test_success_and_failure(capsys):
    assert command.run(lambda argv: 0, []) == 0
    assert command.run(failing(UserError("--x is 3: it must be 4")), []) == 2
    assert capsys.readouterr().err == "error: --x is 3: it must be 4\n"
    assert command.run(failing(KeyboardInterrupt()), []) == 130
    with pytest.raises(TypeError):  # a bug is no sentence
        command.run(failing(TypeError("bug")), [])


def test_debug_lets_the_traceback_through(monkeypatch):
    seen = []

    def main(argv):
        seen.append(argv)
        raise UserError("no")

    with pytest.raises(UserError):
        command.run(main, ["a", "--debug", "b"])
    assert seen == [["a", "b"]]
    monkeypatch.setenv("FASTGAN_DEBUG", "1")
    with pytest.raises(UserError):
        command.run(main, [])
    monkeypatch.setenv("FASTGAN_DEBUG", "0")
    assert command.run(main, []) == 2


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (FileNotFoundError(2, "No such file or directory", "x.png"), "x.png: No such file or directory"),
        (OSError(28, "No space left on device"), "No space left on device"),
        (RuntimeError("size mismatch\nTensor 1\nTensor 2"), "size mismatch (FASTGAN_DEBUG=1 shows where)"),
        (ValueError(""), "ValueError (FASTGAN_DEBUG=1 shows where)"),
        (
            ValueError(
                "Caught ValueError in DataLoader worker process 0.\nOriginal Traceback (most recent call last):\n"
                "  File x\nfastgan.data.images.ImageError: a.png: truncated"
            ),
            "a.png: truncated",
        ),
        (
            ValueError("Expected more than 1 value per channel when training, got input size (1, 64)"),
            "batch norm needs two images or more in a batch: give a larger --batch-size (FASTGAN_DEBUG=1 shows where)",
        ),
        (
            RuntimeError(
                "[enforce fail at alloc_cpu.cpp:127] err == 0. DefaultCPUAllocator: can't allocate memory: you tried "
                "to allocate 2147483648000 bytes. Error code 12 (Cannot allocate memory)"
            ),
            "out of memory: 2,000.0 GiB were asked for at once; a smaller --batch-size, --crop-size or network needs less "  # noqa: E501
            "(FASTGAN_DEBUG=1 shows where)",
        ),
        (
            RuntimeError("CUDA out of memory. Tried to allocate 2 GiB. More"),
            "CUDA out of memory: a smaller --batch-size or --crop-size needs less (FASTGAN_DEBUG=1 shows where)",
        ),
    ],
)
def test_one_line_for_any_error(error, expected):
    assert sentence(error) == expected


def test_a_reader_that_goes_away():
    code = (
        "import sys\nfrom fastgan.cli import command\n"
        "def main(argv):\n    for n in range(100000):\n        print(n)\n    return 0\n"
        "sys.exit(command.run(main))"
    )
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    process.stdout.readline()
    process.stdout.close()
    assert process.stderr.read() == b""
    process.stderr.close()
    assert process.wait() == 141


def test_no_stdout_at_all():
    code = "import sys\nfrom fastgan.cli import command\nsys.exit(command.run(lambda argv: print('x') or 0))"
    result = subprocess.run(["sh", "-c", 'exec "$0" -c "$1" >&-', sys.executable, code], capture_output=True)
    assert (result.returncode, result.stderr) == (0, b"")


def test_an_interrupt_before_the_command_runs_prints_one_word():
    code = "from fastgan import _process; _process.settle(); raise KeyboardInterrupt"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert result.returncode != 0 and result.stderr == "interrupted\n"


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_first_signal_asks_second_leaves(number, capfd):
    before = signal.getsignal(number)
    with Interrupt() as interrupt:
        assert not interrupt.requested
        os.kill(os.getpid(), number)
        assert interrupt.requested
        assert "finishing this step, then saving" in capfd.readouterr().err
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), number)
    assert signal.getsignal(number) is before


@pytest.mark.skipif(not hasattr(signal, "SIGHUP"), reason="there is no SIGHUP")
def test_a_terminal_that_closes_only_asks(monkeypatch):
    """Shells send SIGHUP twice, and SIGTERM follows at the end of a session; nohup's runs go on."""
    before = signal.signal(signal.SIGHUP, signal.SIG_DFL)
    try:
        with Interrupt() as interrupt:
            os.kill(os.getpid(), signal.SIGHUP)
            assert interrupt.requested
            for number in (signal.SIGHUP, signal.SIGTERM):
                os.kill(os.getpid(), number)
            with pytest.raises(KeyboardInterrupt):
                os.kill(os.getpid(), signal.SIGTERM)
        assert signal.getsignal(signal.SIGHUP) is signal.SIG_DFL
        signal.signal(signal.SIGHUP, signal.SIG_IGN)
        with Interrupt() as interrupt:
            os.kill(os.getpid(), signal.SIGHUP)
            assert not interrupt.requested
    finally:
        signal.signal(signal.SIGHUP, before)


OUTLASTS = """
import sys
from fastgan.cli import command
def main(argv):
    for n in range(5000):
        print(n, flush=n % 2 == 0)
    print("said", file=sys.stderr)
    return 7
command.outlast_console()
sys.exit(command.run(main))
"""


@pytest.mark.skipif(os.name != "posix", reason="needs pipes and terminals that end")
@pytest.mark.parametrize(("what", "flags"), [("reader", ["-u"]), ("reader", []), ("full disk", []), ("terminal", [])])
def test_a_console_that_ends_does_not_end_the_command(what, flags):
    if what == "reader":
        other, lost = os.pipe()
    elif what == "terminal":
        other, lost = os.openpty()
    else:
        if not os.path.exists("/dev/full"):
            pytest.skip("there is no /dev/full")
        other, lost = os.open(os.devnull, os.O_RDONLY), os.open("/dev/full", os.O_WRONLY)
    os.close(other)
    both = what == "terminal"
    result = subprocess.run(
        [sys.executable, *flags, "-c", OUTLASTS],
        stdin=subprocess.DEVNULL,
        stdout=lost,
        stderr=lost if both else subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    os.close(lost)
    assert result.returncode == 7
    if not both:
        why = {"reader": "Broken pipe", "full disk": "No space left on device"}[what]
        assert result.stderr == f"stdout cannot be written ({why}): the run goes on without it\nsaid\n"


def test_a_console_that_lasts_is_as_before():
    result = subprocess.run([sys.executable, "-c", OUTLASTS], capture_output=True, text=True)
    assert (result.returncode, result.stderr) == (7, "said\n")
    assert result.stdout.split() == [str(n) for n in range(5000)]


@pytest.mark.parametrize("encoding", ["ascii", "cp1252", "utf-8"])
def test_names_that_the_console_cannot_print_are_escaped(encoding, monkeypatch):
    """Cyrillic in a Western console or the C locale; bytes that are no UTF-8, as python reads them from a folder."""
    streams = {
        name: io.TextIOWrapper(io.BytesIO(), encoding=encoding, errors="strict") for name in ("stdout", "stderr")
    }
    for name, stream in streams.items():
        monkeypatch.setattr(sys, name, stream)
    odd = "фото/" + os.fsdecode(b"caf\xe9") if os.name == "posix" else "фото"

    def main(argv):
        print(odd)
        raise UserError(f"{odd}: no such file")

    assert command.run(main, []) == 2
    for stream in streams.values():
        stream.flush()
        text = stream.buffer.getvalue().decode(encoding)
        assert ("фото" in text) == (encoding == "utf-8") and ("\\udce9" in text) == (os.name == "posix")
