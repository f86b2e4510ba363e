"""Standard input, output and error output, where they are closed, full or nobody reads them."""

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
    """Has those that were closed (`>&-`) lead nowhere: the next file to be opened would get their number, and whatever
    is printed would go into it."""
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # takes the least number, this one
        if getattr(sys, name) is None:
            setattr(sys, name, open(number, "w" if number else "r", closefd=False))  # noqa: SIM115


def write_by_line() -> None:
    """Have each line reach a log file when it is printed, also where it holds a file's name that is no text."""
    if hasattr(sys.stdout, "reconfigure"):
        sys.stdout.reconfigure(line_buffering=True, errors="backslashreplace")


def stdout_refuses() -> bool:
    """Return whether the last output could not be written. If so, later output is discarded."""
    try:
        sys.stdout.flush()
    except (OSError, ValueError):
        discard_stdout()
        return True
    return False


def discard_stdout() -> None:
    """Discard later output, including what is buffered, which Python would otherwise try to write when it ends."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, sys.stdout.fileno())
    os.close(nowhere)


class Outlived:
    """Standard output of a command whose results lie elsewhere: where a full disk takes no more of it, that is said
    once, on the error output, and the command goes on."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        self._tried(lambda: self._stream.write(text))
        return len(text)

    def flush(self) -> None:
        self._tried(self._stream.flush)

    def _tried(self, write: Callable[[], object]) -> None:
        try:
            write()
        except OSError as error:
            if error.errno not in _FULL:
                raise
            discard_stdout()
            with contextlib.suppress(OSError):
                print(f"{of_os(error, STDOUT)}: the run continues without it", file=sys.stderr)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


def outlive_stdout() -> None:
    """Has this process go on where its standard output is on a full disk."""
    sys.stdout = cast(TextIO, Outlived(sys.stdout))
