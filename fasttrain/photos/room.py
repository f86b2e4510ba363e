"""Bounds the memory of decoding by the pixels in flight, not by the number of threads."""

from __future__ import annotations

import contextlib
import functools
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from typing import TypeVar

from fasttrain.memory import free_memory, give_back_heap

Hold = Callable[[int], AbstractContextManager[None]]
"""Takes room for so many pixels until its context ends."""

_Result = TypeVar("_Result")
COEFFICIENTS = 4
"""So many pixels' coefficients take the memory of one decoded pixel."""

_BYTES_A_PIXEL = 24  # measured: RGBA laid onto white, encoded with optimal tables; its file and its JPEG besides
_SMALL = 16  # times: what is smaller than the budget by as much may stay on its thread's heap
_SHARE = 0.5  # of the memory that is free


def unbounded(pixels: int) -> AbstractContextManager[None]:
    """Hold nothing: for one photograph at a time."""
    return contextlib.nullcontext()


def pixels_that_fit() -> int:
    """Return how many pixels may be decoded at a time in half of the memory that is free."""
    return max(int(free_memory() * _SHARE) // _BYTES_A_PIXEL, 1)


def pixels_of_file(size: int) -> int:
    """Return how many pixels take the memory of a file of `size` bytes: it is copied twice as it is opened."""
    return size * 3 // _BYTES_A_PIXEL


class PixelBudget:
    """At most `pixels` are held at a time; a photograph of more is decoded alone."""

    def __init__(self, pixels: int) -> None:
        self._most = pixels
        self._held = 0
        self._changed = threading.Condition()

    def run(self, work: Callable[[Hold], _Result]) -> _Result:
        """Return `work(hold)`, whose holds may lie within each other.

        Where `hold` finds no room, `work` is left, and called again once there is: a photograph that waits takes no
        memory, not even for its file.
        """
        wanted = 0
        while True:
            with self._turn(wanted) as turn:
                try:
                    return work(functools.partial(self._hold, turn))
                except _Crowded as crowded:
                    more = crowded.pixels
            wanted = more

    @contextlib.contextmanager
    def _turn(self, pixels: int) -> Iterator[_Turn]:
        turn = _Turn(min(pixels, self._most))
        if turn.reserved:
            with self._changed:
                self._changed.wait_for(lambda: self._held + turn.reserved <= self._most)
                self._held += turn.reserved
        try:
            yield turn
        finally:
            if turn.reserved > self._most // _SMALL:
                give_back_heap()  # glibc keeps what a thread frees, for that thread alone
            if turn.reserved:
                with self._changed:
                    self._held -= turn.reserved
                    self._changed.notify_all()

    @contextlib.contextmanager
    def _hold(self, turn: _Turn, pixels: int) -> Iterator[None]:
        turn.used += pixels
        try:
            if (more := min(turn.used, self._most) - turn.reserved) > 0:
                with self._changed:
                    if self._held + more > self._most:
                        raise _Crowded(turn.used)
                    self._held += more
                turn.reserved += more
            yield
        finally:
            turn.used -= pixels  # what is reserved stays so until `work` has returned, and its pictures are gone


class _Turn:
    """One photograph's share: pixels that are reserved for it, and those that it uses."""

    def __init__(self, reserved: int) -> None:
        self.reserved = reserved
        self.used = 0


class _Crowded(Exception):
    """There is no room for so many pixels now."""

    def __init__(self, pixels: int) -> None:
        super().__init__(f"no room for {pixels:,} pixels")
        self.pixels = pixels
