"""The bounded queue: limits the photographs and the bytes that the service processes at the same time."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from contextlib import contextmanager

from fasttrain.serving.limits import Limits, Refused
from fasttrain.text import counted


class Admission:
    """Counts the photographs and bytes that are being processed, from a request's first byte to its answer.

    `photographs`, `bytes`: the current numbers. Only one event loop may use an instance, which has no lock.
    """

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._rate = _Rate()
        self.photographs = 0
        self.bytes = 0

    @contextmanager
    def enter(self) -> Iterator[Place]:
        """Return a context that counts a new request's first photograph, and yields the request's place in the queue.

        `Place.grow` adds further photographs and the bytes. Raises Refused (429) if the queue is full.
        """
        place = Place(self)
        place.grow(photographs=1)
        try:
            yield place
        finally:
            place.release()

    def take(self, photographs: int, size: int) -> None:
        """Add photographs and bytes to the counts. Raises Refused (429) if that would exceed a limit."""
        if self.photographs + photographs > self._limits.queue or self.bytes + size > self._limits.bodies:
            wait = {"Retry-After": str(self._rate.seconds_for(self.photographs))}
            queued = f"{counted(self.photographs, 'photograph')} of {self.bytes / 1e6:,.1f} MB"
            raise Refused(429, f"the queue is full, with {queued}; try again later", wait)
        self.photographs += photographs
        self.bytes += size

    def give_back(self, photographs: int, size: int) -> None:
        """Subtract finished photographs and their bytes from the counts."""
        self._rate.add(photographs)
        self.photographs -= photographs
        self.bytes -= size


class Place:
    """A request's place in the queue: the photographs and bytes that it adds to the counts of `Admission`.

    The request holds its place, and so does each of its decoding threads that still runs after the answer. When the
    last of these holders releases the place, its photographs and bytes are subtracted from the counts.
    """

    def __init__(self, admission: Admission) -> None:
        self._admission = admission
        self._photographs = self._bytes = 0
        self._holders = 1

    def grow(self, photographs: int = 0, size: int = 0) -> None:
        """Add photographs and bytes to the place and to the counts. Raises Refused (429) if a limit is exceeded."""
        self._admission.take(photographs, size)
        self._photographs += photographs
        self._bytes += size

    def hold(self) -> None:
        """Add a holder, which must call `release` once."""
        self._holders += 1

    def release(self) -> None:
        """Remove a holder. If it was the last one, subtract the place's photographs and bytes from the counts."""
        self._holders -= 1
        if not self._holders:
            self._admission.give_back(self._photographs, self._bytes)


class _Rate:
    """Measures the recent rate of finished photographs, for `Retry-After`."""

    def __init__(self) -> None:
        self._since, self._count, self._last = time.monotonic(), 0, 0.0

    def add(self, photographs: int) -> None:
        self._count += photographs
        if (seconds := time.monotonic() - self._since) > 5:
            self._since, self._count, self._last = time.monotonic(), 0, self._count / seconds

    def seconds_for(self, photographs: int) -> int:
        """Return how many seconds a number of `photographs` takes at the recent rate, an integer from 1 to 60."""
        rate = self._last or self._count / max(time.monotonic() - self._since, 1e-3)
        return min(max(math.ceil(photographs / rate) if rate else 1, 1), 60)
