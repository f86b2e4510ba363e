"""Limit the memory that decoding takes: threads wait until there is memory for the pixels of their photograph."""

from __future__ import annotations

import contextlib
import functools
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from typing import TypeVar

from fasttrain.memory import free_memory, give_back_heap

Hold = Callable[[int], AbstractContextManager[None]]
"""Called with a number of pixels, it returns a context in which memory for them is reserved."""

_Result = TypeVar("_Result")
COEFFICIENTS = 4
"""The DCT coefficients of this many pixels take as much memory as one decoded pixel."""

_BYTES_A_PIXEL = 24  # measured with an RGBA image put on white and encoded with optimal tables, with its files
_SMALL = 16  # freed memory below this fraction of the budget isn't returned to the system
_SHARE = 0.5  # the share of the free memory to use


def unbounded(pixels: int) -> AbstractContextManager[None]:
    """Return a context that reserves no memory. Pass this function as `hold` to decode one photograph at a time."""
    return contextlib.nullcontext()


def pixels_that_fit() -> int:
    """Return how many pixels may be in memory at a time, so that they take at most half of the free memory."""
    return max(int(free_memory() * _SHARE) // _BYTES_A_PIXEL, 1)


def pixels_of_file(size: int) -> int:
    """Return the number of pixels that take as much memory as opening a file of `size` bytes. The file's bytes are
    copied twice."""
    return size * 3 // _BYTES_A_PIXEL


class PixelBudget:
    """Lets threads hold at most `pixels` pixels in memory at a time. A photograph with more pixels is decoded alone."""

    def __init__(self, pixels: int) -> None:
        self._most = pixels
        self._held = 0
        self._changed = threading.Condition()

    def run(self, work: Callable[[Hold], _Result]) -> _Result:
        """Return `work(hold)`. `work` enters the context `hold(n)` before it uses memory for n pixels.

        `work` may enter such contexts within each other. If the pixels don't fit, `hold` ends `work` by an exception,
        and `work` is called again from its beginning when they fit. So a photograph that waits takes no memory, not
        even for its file.
        """
        wanted = 0
        while True:
            with self._reservation(wanted) as reservation:
                try:
                    return work(functools.partial(self._hold, reservation))
                except _NoMemoryNow as refused:
                    more = refused.pixels
            wanted = more

    @contextlib.contextmanager
    def _reservation(self, pixels: int) -> Iterator[_Reservation]:
        """Wait until `pixels` can be reserved, and yield the reservation, which ends with the context."""
        reservation = _Reservation(min(pixels, self._most))
        if reservation.reserved:
            with self._changed:
                self._changed.wait_for(lambda: self._held + reservation.reserved <= self._most)
                self._held += reservation.reserved
        try:
            yield reservation
        finally:
            if reservation.reserved > self._most // _SMALL:
                give_back_heap()  # otherwise glibc keeps the memory that a thread freed, for this thread only
            if reservation.reserved:
                with self._changed:
                    self._held -= reservation.reserved
                    self._changed.notify_all()

    @contextlib.contextmanager
    def _hold(self, reservation: _Reservation, pixels: int) -> Iterator[None]:
        """Reserve `pixels` more. Raises _NoMemoryNow if they don't fit."""
        reservation.used += pixels
        try:
            if (more := min(reservation.used, self._most) - reservation.reserved) > 0:
                with self._changed:
                    if self._held + more > self._most:
                        raise _NoMemoryNow(reservation.used)
                    self._held += more
                reservation.reserved += more
            yield
        finally:
            reservation.used -= pixels  # the reservation stays until `work` has returned and its images are freed


class _Reservation:
    """The pixels that are reserved for one photograph, and those that it uses."""

    def __init__(self, reserved: int) -> None:
        self.reserved = reserved
        self.used = 0


class _NoMemoryNow(Exception):
    """Raised if `pixels` don't fit into the budget at present."""

    def __init__(self, pixels: int) -> None:
        super().__init__(f"no memory for {pixels:,} pixels at present")
        self.pixels = pixels
