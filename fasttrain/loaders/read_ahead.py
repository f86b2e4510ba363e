"""Asks the kernel for planned photographs' bytes before the decoding threads touch them.

On a cold page cache a thread that decodes from mapped memory waits for the disk at each photograph, with one read in
flight. Told of the next ones, the kernel keeps the disk's queue full (`madvise(MADV_WILLNEED)`).
"""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import numpy as np

from fasttrain.loaders.plan import SHARD_WINDOW, Batch

if TYPE_CHECKING:
    from fasttrain.shards.reader import Located, ShardSet

_PHOTOGRAPHS = 1024  # some 50 MB of Food-101's
_PHOTOGRAPHS_BY_SHARD = SHARD_WINDOW * 500  # half a window of shards as `convert` makes them


class ReadAhead:
    """Runs in front of a loader through the same planned batches; a thread of its own asks, so nobody waits for it.

    With `whole_shards` it asks for each shard as a whole, in the order in which the plan comes to them: a disk then
    reads in sequence. What is read lies in the page cache, not in the process.
    """

    def __init__(self, shards: ShardSet, batches: Iterator[Batch], *, whole_shards: bool) -> None:
        self._shards = shards
        self._batches = batches
        self._whole_shards = whole_shards
        self._distance = _PHOTOGRAPHS_BY_SHARD if whole_shards else _PHOTOGRAPHS
        self._asked = self._reached = 0
        self._seen: set[int] = set()
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="read-ahead")

    def advance(self, photographs: int) -> None:
        """The loader has taken so many more photographs to decode."""
        self._reached += photographs
        while self._asked < self._reached + self._distance and (batch := next(self._batches, None)) is not None:
            self._asked += len(batch)
            self._thread.submit(
                _ask, self._unseen_shards(batch) if self._whole_shards else self._shards.locate(batch.ids)
            )

    def close(self) -> None:
        """Drops what has not been asked for yet."""
        self._thread.shutdown(wait=True, cancel_futures=True)

    def _unseen_shards(self, batch: Batch) -> Located:
        numbers = [
            each for each in np.unique(self._shards.index["shard"][batch.ids]).tolist() if each not in self._seen
        ]
        self._seen.update(numbers)
        return self._shards.locate_shards(numbers)


def _ask(where: Located) -> None:
    from fasttrain import _native

    _native.will_need(where.addresses, where.lengths)
