"""Request the bytes of planned photographs from the kernel or the network before the decoding threads need them.

On a cold page cache, a thread that decodes from mapped memory waits for the disk at each photograph, with one read in
flight. If the kernel knows the next ones, it keeps the disk's queue full (`madvise(MADV_WILLNEED)`). Shards behind a
URL are fetched completely, a window of them ahead, several at a time.
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

_PHOTOGRAPHS = 1024  # about 50 MB of Food-101
_PHOTOGRAPHS_BY_SHARD = SHARD_WINDOW * 500  # half a window of shards with `convert`'s defaults
_FETCHES = 4  # shards fetched at the same time
_WINDOWS_KEPT = 3  # the previous one, whose last batches are still decoded, the current one, and the next


class ReadAhead:
    """Runs ahead of a loader through the same planned batches, in its own threads.

    With `by_shard` it requests each shard completely, in the order in which the plan needs them, so that a disk
    reads in sequence. Otherwise it requests the bytes of each photograph. Bytes of local shards go to the page cache,
    and shards behind a URL to the cache on the disk; neither takes memory of this process.
    """

    def __init__(self, shards: ShardSet, batches: Iterable[Batch], *, by_shard: bool) -> None:
        self._shards = shards
        # Samples that are not mapped are read before they are decoded, so there is nothing to request.
        self._batches = iter(batches if shards.mapped else ())
        self._by_shard = by_shard
        self._distance = _PHOTOGRAPHS_BY_SHARD if by_shard else _PHOTOGRAPHS
        if shards.remote and by_shard:
            self._distance = SHARD_WINDOW * -(-len(shards) // len(shards.manifest.shards))
        # A request costs a lookup and wakes a thread while the consumer waits, so it covers several batches.
        self._slack = 0 if shards.remote else self._distance // 4
        self._requested = self._taken = 0
        self._requested_shards: set[int] = set()
        self._fetched: set[int] = set()
        self._stop = threading.Event()
        self._threads = ThreadPoolExecutor(_FETCHES if shards.remote else 1, thread_name_prefix="read-ahead")

    def advance(self, photographs: int) -> None:
        """Record that the loader has taken `photographs` more photographs, and request later ones."""
        self._taken += photographs
        if self._requested > self._taken + self._distance - self._slack:
            return
        batches: list[Batch] = []
        while self._requested < self._taken + self._distance and (batch := next(self._batches, None)) is not None:
            self._requested += len(batch)
            batches.append(batch)
        if self._shards.remote:
            for batch in batches:
                self._fetch_for(batch)
        elif batches:
            ids = np.concatenate([batch.ids for batch in batches])
            if self._by_shard:
                where = self._shards.locate_shards(self._not_requested(self._shard_numbers(ids)))
            else:
                where = self._shards.locate(ids)
            self._threads.submit(_will_need, where)

    def close(self) -> None:
        """Drop pending requests, and downloads that nobody waits for."""
        self._stop.set()
        self._threads.shutdown(wait=True, cancel_futures=True)

    def _shard_numbers(self, ids: NDArray[np.int64]) -> list[int]:
        return np.unique(self._shards.index["shard"][ids]).tolist()

    def _not_requested(self, numbers: list[int]) -> list[int]:
        """Return the shards in `numbers` that were not requested before, and mark them as requested."""
        fresh = [each for each in numbers if each not in self._requested_shards]
        self._requested_shards.update(fresh)
        return fresh

    def _fetch_for(self, batch: Batch) -> None:
        """Fetch the remote shards of `batch` in the threads."""
        numbers = self._shard_numbers(batch.ids)
        fresh = self._not_requested(numbers)
        for number in fresh:
            self._threads.submit(self._fetch, number)
        # Freshly fetched data is already in the page cache.
        if not (self._by_shard or fresh) and self._fetched.issuperset(numbers):
            self._threads.submit(_will_need, self._shards.locate(batch.ids))

    def _fetch(self, number: int) -> None:
        # An error here occurs again when the shard is needed, and is reported there.
        path = self._shards.fetch(number, self._stop)
        self._fetched.add(number)
        if self._by_shard:
            with contextlib.suppress(OSError), path.open("rb") as file:
                read_soon(file.fileno())


def fetched_ahead(shards: ShardSet, batches: Sequence[Batch], results: Iterable[T]) -> Iterator[T]:
    """Yield `results`, one for each of `batches`, while the shards of later batches are fetched.

    For a local folder, nothing is fetched. Threads start with the first result, so processes forked before that are
    safe.
    """
    if not shards.remote:
        yield from results
        return
    ahead = ReadAhead(shards, batches, by_shard=True)
    try:
        for batch, result in zip(batches, results, strict=True):
            ahead.advance(len(batch))
            yield result
    finally:
        ahead.close()


def require_room(shards: ShardSet, shuffle: str) -> None:
    """Raise UserError if shuffled epochs would fetch the same shards repeatedly because the cache is too small."""
    budget = shards.files.budget()
    sizes = sorted((shard.bytes for shard in shards.manifest.shards), reverse=True)
    if budget is None or sum(sizes) <= budget:
        return
    problem = f"{shards.location}: {shown_size(sum(sizes))} of shards, and the cache may hold {shown_size(budget)}"
    if shuffle != "shards":
        raise UserError(
            f"{problem}; add --shuffle shards, which fetches each shard once per epoch, or give a greater --cache-size"
        )
    needed = sum(sizes[: _WINDOWS_KEPT * SHARD_WINDOW])
    if needed > budget:
        raise UserError(
            f"{problem}; --shuffle shards mixes {SHARD_WINDOW} shards and fetches the next ones: give --cache-size "
            f"{shown_size(needed)} or more, or convert with a smaller --shard-size"
        )


def _will_need(where: Located) -> None:
    """Ask the kernel to read these bytes into the page cache."""
    from fasttrain import _native

    _native.will_need(*where)
