"""SIGTERM and Ctrl-C end a run after the step in progress, with a checkpoint; a second Ctrl-C ends it at once."""

from __future__ import annotations

import os
import signal
import threading
from types import FrameType
from typing import Any


class StopRequest:
    """A context manager; inside it `requested` holds the signal that asked to stop, or None.

    Outside the main thread, where Python can't install handlers, it never asks.
    """

    def __init__(self, said: str = "") -> None:
        """`said`: what a person at a terminal is told at the first Ctrl-C, as the work goes on for a moment."""
        self._said = said
        self.requested: signal.Signals | None = None
        self._previous: dict[signal.Signals, Any] = {}

    def __enter__(self) -> StopRequest:
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                self._previous[number] = signal.signal(number, self._ask)
        return self

    def __exit__(self, *exception: object) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)

    def _ask(self, number: int, frame: FrameType | None) -> None:
        if self.requested is signal.SIGINT and number == signal.SIGINT:
            raise KeyboardInterrupt
        self.requested = signal.Signals(number)
        if self._said and number == signal.SIGINT and os.isatty(2):
            # Not through rich, whose lock the interrupted code may hold; over the line of its bar.
            os.write(2, f"\r\x1b[2K{self._said}; Ctrl-C again stops at once\n".encode())
