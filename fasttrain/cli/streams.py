"""Handle standard streams that are closed, write to a full disk, or have lost their reader."""

from __future__ import annotations

import contextlib
import errno
import os
import sys
from collections.abc import Callable
from typing import Any, TextIO, cast

from fasttrain.errors import STDOUT, of_os

_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO)


def open_closed_streams() -> None:
    """Connect those standard streams to the null device that were closed when the process started (`>&-`).

    Otherwise the next file to be opened would get a stream's descriptor, and printed output would go into that file.
    """
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # gets the lowest free descriptor, which is `number`
        if getattr(sys, name) is None:
            setattr(sys, name, open(number, "w" if number else "r", closefd=False))  # noqa: SIM115


def write_by_line() -> None:
    """Make standard output flush after each line, and print escapes for characters that it can't encode."""
    if hasattr(sys.stdout, "reconfigure"):
        sys.stdout.reconfigure(line_buffering=True, errors="backslashreplace")


def stdout_failed() -> bool:
    """Return whether the last output could not be written. If so, discard all later output."""
    try:
        sys.stdout.flush()
    except (OSError, ValueError):
        discard_stdout()
        return True
    return False


def discard_stdout() -> None:
    """Discard the output that is still buffered, and all later output, so that Python doesn't write it at its exit."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, sys.stdout.fileno())
    os.close(nowhere)


class OptionalOutput:
    """Wraps standard output, so that a command whose results go to files continues if the output's disk is full.

    The first failed write is reported on standard error. All later output is discarded.
    """

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        self._try(lambda: self._stream.write(text))
        return len(text)

    def flush(self) -> None:
        self._try(self._stream.flush)

    def _try(self, write: Callable[[], object]) -> None:
        try:
            write()
        except OSError as error:
            if error.errno not in _FULL:
                raise
            discard_stdout()
            with contextlib.suppress(OSError):
                print(f"{of_os(error, STDOUT)}: the run continues without printing", file=sys.stderr)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


def make_stdout_optional() -> None:
    """Let this process continue without printing if its standard output is a file on a disk that becomes full."""
    sys.stdout = cast(TextIO, OptionalOutput(sys.stdout))
