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
    """Connect standard streams that were closed (`>&-`) to the null device.

    Otherwise the next file to be opened would get their descriptor, and printed output would go into that file.
    """
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # gets the lowest free descriptor, which is `number`
        if getattr(sys, name) is None:
            setattr(sys, name, open(number, "w" if number else "r", closefd=False))  # noqa: SIM115


def write_by_line() -> None:
    """Flush standard output after each line. Print escapes for file names that are not valid text."""
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
    """Discard all later output, and what is still buffered, which Python would otherwise write when it exits."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, sys.stdout.fileno())
    os.close(nowhere)


class OptionalOutput:
    """Wraps the standard output of a command whose results are written to files, so that it survives a full disk.

    The first failed write is reported once, on standard error. Later output is discarded.
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
    """Let this process continue if its standard output is a file on a disk that becomes full."""
    sys.stdout = cast(TextIO, OptionalOutput(sys.stdout))
