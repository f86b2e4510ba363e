"""The bounded queue: how many photographs, and how many bytes, are in work at the same time."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from contextlib import contextmanager

from fasttrain.serving.limits import Limits, Refused


class Admission:
    """Counts the photographs in work, from the first byte of a request to its answer. Used by one event loop."""

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._rate = _Rate()
        self.photographs = 0
        self.bytes = 0

    @contextmanager
    def enter(self) -> Iterator[Place]:
        """Hold a place for one photograph. Raises Refused (429) where none is left."""
        place = Place(self)
        place.grow(photographs=1)
        try:
            yield place
        finally:
            place.release()

    def take(self, photographs: int, size: int) -> None:
        """Count more photographs and bytes. Raises Refused (429) where they would pass a limit."""
        if self.photographs + photographs > self._limits.queue or self.bytes + size > self._limits.bodies:
            wait = {"Retry-After": str(self._rate.seconds_for(self.photographs))}
            raise Refused(429, f"the queue is full, {self.photographs:,} photographs are in work; try again", wait)
        self.photographs += photographs
        self.bytes += size

    def give_back(self, photographs: int, size: int) -> None:
        """Count photographs and bytes that are done."""
        self._rate.add(photographs)
        self.photographs -= photographs
        self.bytes -= size


class Place:
    """One request's share of the queue, held by the request and by work of it that outlives it."""

    def __init__(self, admission: Admission) -> None:
        self._admission = admission
        self._photographs = self._bytes = 0
        self._holders = 1

    def grow(self, photographs: int = 0, size: int = 0) -> None:
        """Take room for more. Raises Refused (429)."""
        self._admission.take(photographs, size)
        self._photographs += photographs
        self._bytes += size

    def hold(self) -> None:
        self._holders += 1

    def release(self) -> None:
        self._holders -= 1
        if not self._holders:
            self._admission.give_back(self._photographs, self._bytes)


class _Rate:
    """Photographs a second of late, for `Retry-After`."""

    def __init__(self) -> None:
        self._since, self._count, self._last = time.monotonic(), 0, 0.0

    def add(self, photographs: int) -> None:
        self._count += photographs
        if (seconds := time.monotonic() - self._since) > 5:
            self._since, self._count, self._last = time.monotonic(), 0, self._count / seconds

    def seconds_for(self, photographs: int) -> int:
        rate = self._last or self._count / max(time.monotonic() - self._since, 1e-3)
        return min(max(math.ceil(photographs / rate) if rate else 1, 1), 60)
