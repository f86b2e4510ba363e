"""Show the progress of a conversion: a live bar in a terminal or notebook, and a line every 10 seconds in a log."""

from __future__ import annotations

import contextlib
import signal
import time
from collections.abc import Callable, Iterator
from types import TracebackType

from rich.console import Console
from rich.progress import TextColumn

from fasttrain.errors import Stopped
from fasttrain.stop import StopRequest
from fasttrain.terminal import bar

_LINE_EVERY_S = 10.0


class ConvertProgress:
    """Counts photographs, and shows the rate and the remaining time. Use it as a context.

    `total` is the number of photographs, and `done` of them were finished before.
    """

    def __init__(self, console: Console, total: int, done: int) -> None:
        self._console = console
        self._live = console.is_terminal or console.is_jupyter
        self._bar = bar(console, TextColumn("{task.fields[rate]}"))
        self._task = self._bar.add_task("convert", total=total, completed=done, rate="")
        self._total, self._before, self._now = total, done, 0
        self._start = self._last_line = time.monotonic()

    @property
    def rate(self) -> float:
        """Return the photographs per second since the start."""
        return self._now / max(time.monotonic() - self._start, 1e-9)

    def advance(self, photographs: int = 1) -> None:
        """Count `photographs` more."""
        self._now += photographs
        if self._live:
            self._bar.update(self._task, advance=photographs, rate=f"{self.rate:,.0f} img/s")
        elif time.monotonic() - self._last_line > _LINE_EVERY_S:
            self._last_line = time.monotonic()
            done = self._before + self._now
            left = (self._total - done) / max(self.rate, 1e-9)
            self._console.print(
                f"convert: {done:,} of {self._total:,} photographs, {self.rate:,.0f} img/s, {left:,.0f} s left"
            )

    def __enter__(self) -> ConvertProgress:
        self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bar.stop()


class Interrupted(Exception):
    """Raised to stop a conversion after a signal."""


@contextlib.contextmanager
def stopping(stop: StopRequest, console: Console, message: Callable[[], str]) -> Iterator[None]:
    """Return a context that turns `Interrupted` into KeyboardInterrupt, or into Stopped if the signal was SIGTERM.

    `message()` is printed, or becomes the message of Stopped.
    """
    try:
        yield
    except (Interrupted, KeyboardInterrupt) as interruption:
        if stop.requested is signal.SIGTERM:
            raise Stopped(message()) from interruption
        console.print(message())
        raise KeyboardInterrupt from interruption
