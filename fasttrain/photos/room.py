"""Bounds the memory of decoding by the pixels in flight, not by the number of threads."""

from __future__ import annotations

import contextlib
import functools
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from typing import TypeVar

from fasttrain.memory import free_memory

Hold = Callable[[int], AbstractContextManager[None]]
"""Takes room for so many pixels until its context ends."""

_Result = TypeVar("_Result")
_BYTES_A_PIXEL = 24  # measured: RGBA laid onto white, encoded with optimal tables; its file and its JPEG besides
_SHARE = 0.5  # of the memory that is free


def unbounded(pixels: int) -> AbstractContextManager[None]:
    """Hold nothing: for one photograph at a time."""
    return contextlib.nullcontext()


def pixels_that_fit() -> int:
    """Return how many pixels may be decoded at a time in half of the memory that is free."""
    return max(int(free_memory() * _SHARE) // _BYTES_A_PIXEL, 1)


class PixelBudget:
    """At most `pixels` are held at a time; a photograph of more is decoded alone."""

    def __init__(self, pixels: int) -> None:
        self._most = pixels
        self._held = 0
        self._changed = threading.Condition()

    def run(self, work: Callable[[Hold], _Result]) -> _Result:
        """Return `work(hold)`.

        Where `hold` finds no room, `work` is left, and called again once there is: a photograph that waits takes no
        memory, not even for its file.
        """
        wanted = 0
        while True:
            with self._waited_for(wanted) as held:
                try:
                    return work(functools.partial(self._hold, held))
                except _Crowded as crowded:
                    more = crowded.pixels
            wanted = more

    @contextlib.contextmanager
    def _waited_for(self, pixels: int) -> Iterator[int]:
        pixels = min(pixels, self._most)
        with self._changed:
            self._changed.wait_for(lambda: self._held + pixels <= self._most)
            self._held += pixels
        try:
            yield pixels
        finally:
            self._give(pixels)

    @contextlib.contextmanager
    def _hold(self, held: int, pixels: int) -> Iterator[None]:
        more = max(min(pixels, self._most) - held, 0)
        with self._changed:
            if self._held + more > self._most:
                raise _Crowded(pixels)
            self._held += more
        try:
            yield
        finally:
            self._give(more)

    def _give(self, pixels: int) -> None:
        if pixels:
            with self._changed:
                self._held -= pixels
                self._changed.notify_all()


class _Crowded(Exception):
    """There is no room for so many pixels now."""

    def __init__(self, pixels: int) -> None:
        super().__init__(f"no room for {pixels:,} pixels")
        self.pixels = pixels
