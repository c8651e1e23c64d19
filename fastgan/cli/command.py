"""How a command ends: its exit code, and one line for an error."""

from __future__ import annotations

import io
import os
import sys
from collections.abc import Callable, Sequence
from typing import Any

from fastgan._errors import EXPECTED, sentence
from fastgan._printable import printable

INTERRUPTED = 130
FAILED = 2


def run(main: Callable[[list[str]], int], argv: Sequence[str] | None = None) -> int:
    """Run a command and return its exit code.

    An expected error prints ``error: <sentence>`` on stderr and gives 2; ``--debug`` among the arguments (taken out
    before ``main`` sees them) or ``FASTGAN_DEBUG=1`` lets the traceback through. Ctrl-C gives 130. A reader that
    closes our stdout (``| head``) ends the command without a word. Characters that the console's encoding does not have
    (names of files, above all) are printed as escapes.
    """
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    arguments = list(sys.argv[1:] if argv is None else argv)
    debug = "--debug" in arguments or os.environ.get("FASTGAN_DEBUG", "") not in ("", "0")
    arguments = [argument for argument in arguments if argument != "--debug"]
    try:
        code = main(arguments)
        if sys.stdout is not None:  # it was closed (>&-) before we began
            sys.stdout.flush()
        return code
    except BrokenPipeError:
        # The interpreter flushes stdout once more at exit: give it somewhere to go.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141
    except KeyboardInterrupt as interrupt:
        print(str(interrupt) or "interrupted", file=sys.stderr)
        return INTERRUPTED
    except EXPECTED as error:
        if debug:
            raise
        print(printable(f"error: {sentence(error)}"), file=sys.stderr)
        return FAILED


def outlast_console() -> None:
    """Let nothing that is printed in this process fail any more: what a reader that has ended, a full disk or a closed
    terminal does not take is lost, which is said once. For a command that has more to lose than what it prints."""
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if isinstance(stream, io.TextIOWrapper):
            stream.flush()
            lasting = _Lasting(stream, name)
            buffered = isinstance(stream.buffer, io.BufferedIOBase)  # python -u prints without
            setattr(
                sys,
                name,
                io.TextIOWrapper(
                    io.BufferedWriter(lasting) if buffered else lasting,
                    stream.encoding,
                    stream.errors,
                    line_buffering=stream.line_buffering,
                    write_through=stream.write_through,
                ),
            )


class _Lasting(io.RawIOBase):
    """Writes where ``stream`` does; what cannot be written counts as written."""

    def __init__(self, stream: io.TextIOWrapper, name: str):
        self._stream, self.name, self._told = stream, name, False
        self._raw: Any = getattr(stream.buffer, "raw", stream.buffer)

    def write(self, data: Any) -> int:
        try:
            written = self._raw.write(data)
        except OSError as error:
            if self.name == "stdout" and not self._told and sys.stderr is not None:
                print(f"stdout cannot be written ({sentence(error)}): the run goes on without it", file=sys.stderr)
            self._told = True
            written = None
        return len(data) if written is None else written  # None, too, of a pipe that is full and waits for nobody

    def writable(self) -> bool:
        return True

    def fileno(self) -> int:
        return self._raw.fileno()

    def isatty(self) -> bool:
        return self._raw.isatty()
