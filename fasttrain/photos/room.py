"""Limit the memory of decoding by the pixels in flight, not by the number of threads."""

from __future__ import annotations

import contextlib
import functools
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from typing import TypeVar

from fasttrain.memory import free_memory, give_back_heap

Hold = Callable[[int], AbstractContextManager[None]]
"""Reserves room for a number of pixels until its context ends."""

_Result = TypeVar("_Result")
COEFFICIENTS = 4
"""This many pixels' coefficients take the memory of one decoded pixel."""

_BYTES_A_PIXEL = 24  # measured: RGBA put on white, encoded with optimal tables, with its file and its JPEG
_SMALL = 16  # anything smaller than the budget by this factor may stay on its thread's heap
_SHARE = 0.5  # of the free memory


def unbounded(pixels: int) -> AbstractContextManager[None]:
    """Hold nothing, for decoding one photograph at a time."""
    return contextlib.nullcontext()


def pixels_that_fit() -> int:
    """Return how many pixels can be decoded at a time in half of the free memory."""
    return max(int(free_memory() * _SHARE) // _BYTES_A_PIXEL, 1)


def pixels_of_file(size: int) -> int:
    """Return the memory of a file of `size` bytes in pixels. The file is copied twice when it is opened."""
    return size * 3 // _BYTES_A_PIXEL


class PixelBudget:
    """Holds at most `pixels` at a time. A photograph with more is decoded alone."""

    def __init__(self, pixels: int) -> None:
        self._most = pixels
        self._held = 0
        self._changed = threading.Condition()

    def run(self, work: Callable[[Hold], _Result]) -> _Result:
        """Return `work(hold)`. Its holds may be nested.

        If `hold` finds no room, `work` is abandoned, and called again once there is room. So a photograph that waits
        takes no memory, not even for its file.
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
                give_back_heap()  # glibc keeps what a thread frees, for that thread only
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
            turn.used -= pixels  # the reservation stays until `work` has returned and its images are freed


class _Turn:
    """One photograph's share: the pixels reserved for it, and those it uses."""

    def __init__(self, reserved: int) -> None:
        self.reserved = reserved
        self.used = 0


class _Crowded(Exception):
    """There is currently no room for this many pixels."""

    def __init__(self, pixels: int) -> None:
        super().__init__(f"no room for {pixels:,} pixels")
        self.pixels = pixels
