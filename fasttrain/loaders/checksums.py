"""Compare stored bytes with the CRC-32 in the index, once per sample and process, in a separate thread.

A photograph with a flipped bit can usually still be decoded, and decoders differ in the damage that they notice. If
bytes are compared, a sample is bad for all loaders or for none. Bytes that are unchanged since the conversion can be
read by every decoder.
"""

from __future__ import annotations

import zlib
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from fasttrain.loaders.plan import Batch
from fasttrain.photos.cut import native_available
from fasttrain.shards.checksum import CHANGED

if TYPE_CHECKING:
    from fasttrain.shards.reader import Located, ShardSet

_AHEAD = 2  # batches compared while the consumer works


class Checksums:
    """Compares the checksums of samples with the index.

    `locate`: returns the locations of the bytes of samples, int64 [n], for the native module. Nothing is compared if
    the index has no checksums, or for shards behind a URL, whose SHA-256 is checked when they are fetched.
    """

    def __init__(self, shards: ShardSet, locate: Callable[[NDArray[np.int64]], Located]) -> None:
        self._shards, self._locate = shards, locate
        self._crc32s = None if shards.remote else shards.crc32s()
        self._compared = np.zeros(len(shards) if self._crc32s is not None else 0, np.bool_)
        self._bad: set[int] = set()
        self._thread: ThreadPoolExecutor | None = None

    def changed_samples(self, batches: Iterable[Batch]) -> Iterator[list[tuple[int, str]]]:
        """Yield for each batch the positions of samples whose bytes have changed since the conversion, with a reason.

        The bytes of later batches are compared in a thread meanwhile.
        """
        pending: deque[tuple[Batch, Future[None] | None]] = deque()
        for batch in batches:
            pending.append((batch, self._submit(batch)))
            if len(pending) > _AHEAD:
                yield self._changed_in(*pending.popleft())
        while pending:
            yield self._changed_in(*pending.popleft())

    def close(self) -> None:
        """End the thread."""
        if self._thread is not None:
            self._thread.shutdown(cancel_futures=True)
            self._thread = None

    def _submit(self, batch: Batch) -> Future[None] | None:
        """Compare the samples of `batch` in the thread, or return None if there is nothing to compare."""
        if self._crc32s is None or not len(fresh := batch.ids[~self._compared[batch.ids]]):
            return None
        if self._thread is None:
            self._thread = ThreadPoolExecutor(1, thread_name_prefix="checksums")
        expected = self._crc32s[fresh]
        if native_available():
            # Locate the bytes in this thread: a ShardSet is not made for several threads.
            return self._thread.submit(self._compare, fresh, expected, self._locate(fresh))
        stored = [self._shards.bytes(sample) for sample in fresh.tolist()]
        return self._thread.submit(self._compare, fresh, expected, stored)

    def _compare(
        self, samples: NDArray[np.int64], expected: NDArray[np.uint32], stored: Located | list[memoryview]
    ) -> None:
        # Record the results here: the caller may be gone, and a sample is compared only once.
        self._bad.update(samples[_crc32s(stored) != expected].tolist())
        self._compared[samples] = True

    def _changed_in(self, batch: Batch, comparing: Future[None] | None) -> list[tuple[int, str]]:
        """Wait until `batch` is compared, and return its changed samples."""
        if comparing is not None:
            comparing.result()
        if not self._bad:
            return []
        return [(position, CHANGED) for position, sample in enumerate(batch.ids.tolist()) if sample in self._bad]


def _crc32s(stored: Located | list[memoryview]) -> NDArray[np.uint32]:
    if isinstance(stored, list):
        return np.array([zlib.crc32(each) for each in stored], np.uint32)
    from fasttrain import _native

    return _native.crc32s(*stored)
