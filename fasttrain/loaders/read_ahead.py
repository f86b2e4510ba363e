"""Asks for planned photographs' bytes before the decoding threads touch them: of the kernel, and of the network.

On a cold page cache a thread that decodes from mapped memory waits for the disk at each photograph, with one read in
flight. Told of the next ones, the kernel keeps the disk's queue full (`madvise(MADV_WILLNEED)`). Shards behind a URL
are fetched whole, a window of them ahead, several at a time.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, TypeVar

import numpy as np
from numpy.typing import NDArray

from fasttrain.config.location import shown_size
from fasttrain.errors import UserError
from fasttrain.loaders.plan import SHARD_WINDOW, Batch
from fasttrain.machine import read_soon

if TYPE_CHECKING:
    from fasttrain.shards.reader import Located, ShardSet

T = TypeVar("T")

_PHOTOGRAPHS = 1024  # some 50 MB of Food-101's
_PHOTOGRAPHS_BY_SHARD = SHARD_WINDOW * 500  # half a window of shards as `convert` makes them
_FETCHES = 4  # shards on their way at a time
_WINDOWS_KEPT = 3  # the one just left, whose last batches are still decoded, the one being read, and the next


class ReadAhead:
    """Runs in front of a loader through the same planned batches; threads of its own ask, so nobody waits for them.

    With `whole_shards` it asks for each shard as a whole, in the order in which the plan comes to them: a disk then
    reads in sequence. What is read lies in the page cache, not in the process; what is fetched, in the disk's cache.
    """

    def __init__(self, shards: ShardSet, batches: Iterable[Batch], *, whole_shards: bool) -> None:
        self._shards = shards
        # Where samples aren't mapped, each is read before it is decoded, and there is nothing to ask for.
        self._batches = iter(batches if shards.mapped else ())
        self._whole_shards = whole_shards
        self._distance = _PHOTOGRAPHS_BY_SHARD if whole_shards else _PHOTOGRAPHS
        if shards.remote and whole_shards:
            self._distance = SHARD_WINDOW * -(-len(shards) // len(shards.manifest.shards))
        # Asking costs a look-up and the waking of a thread, while the consumer waits: several batches at a time.
        self._slack = 0 if shards.remote else self._distance // 4
        self._asked = self._reached = 0
        self._seen: set[int] = set()
        self._here: set[int] = set()
        self._stop = threading.Event()
        self._threads = ThreadPoolExecutor(_FETCHES if shards.remote else 1, thread_name_prefix="read-ahead")

    def advance(self, photographs: int) -> None:
        """The loader has taken so many more photographs to decode."""
        self._reached += photographs
        if self._asked > self._reached + self._distance - self._slack:
            return
        batches: list[Batch] = []
        while self._asked < self._reached + self._distance and (batch := next(self._batches, None)) is not None:
            self._asked += len(batch)
            batches.append(batch)
        if self._shards.remote:
            for batch in batches:
                self._fetch_for(batch)
        elif batches:
            ids = np.concatenate([batch.ids for batch in batches])
            if self._whole_shards:
                where = self._shards.locate_shards(self._unseen(self._numbers(ids)))
            else:
                where = self._shards.locate(ids)
            self._threads.submit(_ask, where)

    def close(self) -> None:
        """Drops what has not been asked for yet, and downloads that nobody waits for."""
        self._stop.set()
        self._threads.shutdown(wait=True, cancel_futures=True)

    def _numbers(self, ids: NDArray[np.int64]) -> list[int]:
        return np.unique(self._shards.index["shard"][ids]).tolist()

    def _unseen(self, numbers: list[int]) -> list[int]:
        fresh = [each for each in numbers if each not in self._seen]
        self._seen.update(fresh)
        return fresh

    def _fetch_for(self, batch: Batch) -> None:
        numbers = self._numbers(batch.ids)
        fresh = self._unseen(numbers)
        for number in fresh:
            self._threads.submit(self._fetch, number)
        # What was just fetched is in the page cache.
        if not (self._whole_shards or fresh) and self._here.issuperset(numbers):
            self._threads.submit(_ask, self._shards.locate(batch.ids))

    def _fetch(self, number: int) -> None:
        # What goes wrong here goes wrong again for the one who needs the shard, and is told there.
        path = self._shards.fetch(number, self._stop)
        self._here.add(number)
        if self._whole_shards:
            with contextlib.suppress(OSError), path.open("rb") as file:
                read_soon(file.fileno())


def fetched_ahead(shards: ShardSet, batches: Sequence[Batch], results: Iterable[T]) -> Iterator[T]:
    """`results`, one for each of `batches`, while the shards of the batches after it are fetched.

    For a local folder nothing is done. Threads start with the first result, so processes forked before are safe.
    """
    if not shards.remote:
        yield from results
        return
    ahead = ReadAhead(shards, batches, whole_shards=True)
    try:
        for batch, result in zip(batches, results, strict=True):
            ahead.advance(len(batch))
            yield result
    finally:
        ahead.close()


def require_room(shards: ShardSet, shuffle: str) -> None:
    """UserError where shuffled epochs would fetch the same shards over and over, since the cache can't hold them."""
    budget = shards.files.budget()
    sizes = sorted((shard.bytes for shard in shards.manifest.shards), reverse=True)
    if budget is None or sum(sizes) <= budget:
        return
    said = f"{shards.location}: {shown_size(sum(sizes))} of shards, and the cache may hold {shown_size(budget)}"
    if shuffle != "shards":
        raise UserError(
            f"{said}; add --shuffle shards, which fetches each once an epoch, or give a greater --cache-size"
        )
    needed = sum(sizes[: _WINDOWS_KEPT * SHARD_WINDOW])
    if needed > budget:
        raise UserError(
            f"{said}; --shuffle shards mixes {SHARD_WINDOW} and fetches the next ones ahead: give --cache-size "
            f"{shown_size(needed)} or more, or convert with a smaller --shard-size"
        )


def _ask(where: Located) -> None:
    from fasttrain import _native

    _native.will_need(*where)
