"""Handle SIGTERM and Ctrl-C: a run saves a checkpoint after the current step and ends. A second Ctrl-C ends it at
once."""

from __future__ import annotations

import os
import signal
import threading
from types import FrameType
from typing import Any


class StopRequest:
    """Catches SIGINT and SIGTERM inside a `with` block: `requested` is the last such signal, or None.

    A second Ctrl-C raises KeyboardInterrupt. Python installs signal handlers in the main thread only, so in any other
    thread `requested` stays None.
    """

    def __init__(self, message: str = "") -> None:
        """`message` is printed to a terminal at the first Ctrl-C, as the work continues for a moment."""
        self._message = message
        self.requested: signal.Signals | None = None
        self._previous: dict[signal.Signals, Any] = {}

    def __enter__(self) -> StopRequest:
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                self._previous[number] = signal.signal(number, self._handle)
        return self

    def __exit__(self, *exception: object) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if self.requested is signal.SIGINT and number == signal.SIGINT:
            raise KeyboardInterrupt
        self.requested = signal.Signals(number)
        if self._message and number == signal.SIGINT and os.isatty(2):
            # Not through rich, as the interrupted code may hold its lock. Overwrite the line of rich's bar.
            os.write(2, f"\r\x1b[2K{self._message}; press Ctrl-C again to stop at once\n".encode())
