"""`--loader native`: a C++ thread pool that decodes only the crop of each photograph.

It works on all shards, and is fastest on those cut at every MCU (`convert --cut mcu`, the default with the native
module).
"""

from __future__ import annotations

import weakref
from collections import defaultdict, deque
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray

from fasttrain.loaders.base import LoaderSettings, ShardLoader
from fasttrain.loaders.plan import BadSamples, Batch, flags_of
from fasttrain.loaders.read_ahead import ReadAhead
from fasttrain.loaders.to_device import empty_pictures
from fasttrain.photos.cut import native_available

if TYPE_CHECKING:
    from fasttrain.shards.reader import Located, ShardSet

_LOCATED = 8  # batches located at a time; locating all costs the consumer's thread about as much as locating one
_AHEAD = 3  # batches in the pool while the consumer works


class NativeLoader(ShardLoader):
    """A loader with threads in one process. It keeps four batches in memory besides those that the consumer keeps."""

    name = "native"

    def __init__(self, shards: ShardSet, ids: NDArray[np.int64], settings: LoaderSettings) -> None:
        super().__init__(shards, ids, settings)
        self._sizes = shards.sizes()
        self._pool: Any = None
        self._views = 1 + len(settings.further_views)
        # Memory of batches that are no longer in use, by its shape.
        self._free: defaultdict[tuple[int, ...], deque[NDArray[np.uint8]]] = defaultdict(
            lambda: deque(maxlen=(_AHEAD + 1) * self._views)
        )

    @classmethod
    def unavailable(cls, shards: ShardSet, device: str) -> str | None:
        if native_available():
            return None
        return "fasttrain was installed without its native module; `fasttrain doctor` says how to install it"

    @classmethod
    def preference(cls, device: str) -> int:
        return 50

    def _load(self, batches: Sequence[Batch]) -> Iterator[tuple[torch.Tensor, BadSamples]]:
        from fasttrain import _native

        if self._pool is None:
            self._pool = _native.Pool(max(self.settings.workers, 1))
        waiting = self._located(batches)
        first_views = [batch for batch in batches if batch.view == 0]
        read_ahead = ReadAhead(self.shards, first_views, by_shard=self.settings.shuffle == "shards")
        submitted: deque[tuple[int, torch.Tensor]] = deque()
        try:
            while True:
                while len(submitted) < _AHEAD * self._views and (found := next(waiting, None)) is not None:
                    batch, where = found
                    if batch.view == 0:
                        read_ahead.advance(len(batch))
                    submitted.append(self._submit(batch, where))
                if not submitted:
                    return
                ticket, images = submitted.popleft()
                bad = self._pool.wait(ticket)
                yield images, bad
        finally:
            read_ahead.close()
            if self._pool is not None:  # otherwise `close` has waited for all of them
                for ticket, _ in submitted:
                    self._pool.wait(ticket)

    def set_image_size(self, side: int) -> None:
        super().set_image_size(side)
        self._free.clear()

    def close(self) -> None:
        super().close()
        if self._pool is not None:
            self._pool.close()
            self._pool = None

    def _located(self, batches: Sequence[Batch]) -> Iterator[tuple[Batch, Located]]:
        """Yield each batch with the location of its bytes.

        Batches of shards behind a URL are located one at a time, because the following shards are not fetched yet.
        """
        at_a_time = (_LOCATED if self.shards.mapped and not self.shards.remote else 1) * self._views
        for start in range(0, len(batches), at_a_time):
            several = batches[start : start + at_a_time]
            first_views = [batch for batch in several if batch.view == 0]
            where = self.shards.locate(np.concatenate([batch.ids for batch in first_views]))
            first = 0
            for batch in several:
                if batch.view == 0:
                    part = slice(first, first := first + len(batch))
                yield batch, where.part(part)

    def _submit(self, batch: Batch, where: Located) -> tuple[int, torch.Tensor]:
        images = self._output(batch)
        ticket = self._pool.submit(
            *where,
            self._sizes[batch.ids],
            np.ascontiguousarray(batch.boxes),
            flags_of(batch).astype(np.uint8),
            images.numpy(),
            raw=self.shards.raw,
        )
        return ticket, images

    def _output(self, batch: Batch) -> torch.Tensor:
        if self.settings.device.startswith("cuda"):
            return empty_pictures((len(batch), *batch.size, 3), self.settings.device)
        # Fresh pages cost the kernel more than decoding a photograph, so memory is reused.
        shape = (max(self.settings.batch_size, len(batch)), *batch.size, 3)
        free = self._free[shape]
        buffer = free.pop() if free else np.empty(shape, dtype=np.uint8)
        images = buffer[: len(batch)]
        # Everything that shares the tensor's storage (views, slices, arrays made from it) keeps `images` alive.
        weakref.finalize(images, free.append, buffer).atexit = False
        return torch.from_numpy(images)
