"""`--loader native`: our own C++ pool, which decodes only the crop's part of each photograph.

Works on every shard; fastest on those cut at every MCU (`convert --cut mcu`, the default with the native module).
"""

from __future__ import annotations

import sys
from collections import deque
from collections.abc import Callable, Iterator
from itertools import islice
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray

from fasttrain.loaders.base import BadSamples, Loader, LoaderSettings
from fasttrain.loaders.plan import Batch
from fasttrain.loaders.read_ahead import ReadAhead
from fasttrain.photos.cut import native_available
from fasttrain.shards.reader import Located

if TYPE_CHECKING:
    from fasttrain.shards.reader import ShardSet

_LOCATED = 8  # batches looked up at a time: a look-up costs the consumer's thread about as much for all as for one
_AHEAD = 3  # batches in the pool's hands while the consumer works
_UNUSED = 3  # references to a buffer that no tensor shares: the list's, the loop's and getrefcount's own


class NativeLoader(Loader):
    """Threads of one process; memory is `_AHEAD` + 1 batches beyond those that the consumer keeps."""

    name = "native"

    def __init__(self, shards: ShardSet, ids: NDArray[np.int64], settings: LoaderSettings) -> None:
        super().__init__(shards, ids, settings)
        self._sizes = shards.sizes()
        self._pool: Any = None
        self._buffers: list[NDArray[np.uint8]] = []

    @classmethod
    def unavailable(cls, shards: ShardSet, device: str) -> str | None:
        if native_available():
            return None
        return "fasttrain was installed without its native module; `fasttrain doctor` says how to get it"

    @classmethod
    def preference(cls, device: str) -> int:
        return 50

    def _load(self, batches: Callable[[], Iterator[Batch]]) -> Iterator[tuple[torch.Tensor, BadSamples]]:
        from fasttrain import _native

        if self._pool is None:
            self._pool = _native.Pool(max(self.settings.workers, 1))
        waiting = self._located(batches())
        read_ahead = ReadAhead(self.shards, batches(), whole_shards=self.settings.shuffle == "shards")
        flying: deque[tuple[int, torch.Tensor]] = deque()
        try:
            while True:
                while len(flying) < _AHEAD and (found := next(waiting, None)) is not None:
                    read_ahead.advance(len(found[0]))
                    flying.append(self._submit(*found))
                if not flying:
                    return
                ticket, images = flying.popleft()
                bad = self._pool.wait(ticket)
                yield images, bad
        finally:
            read_ahead.close()
            for ticket, _ in flying:
                self._pool.wait(ticket)

    def close(self) -> None:
        super().close()
        if self._pool is not None:
            self._pool.close()
            self._pool = None

    def _located(self, batches: Iterator[Batch]) -> Iterator[tuple[Batch, Located]]:
        """Each batch with where its bytes lie; of shards behind a URL only as it comes, as others aren't here yet."""
        while several := list(islice(batches, 1 if self.shards.remote else _LOCATED)):
            where = self.shards.locate(np.concatenate([batch.ids for batch in several]))
            first = 0
            for batch in several:
                part = slice(first, first := first + len(batch))
                yield batch, Located(where.addresses[part], where.lengths[part], where.mapped)

    def _submit(self, batch: Batch, where: Located) -> tuple[int, torch.Tensor]:
        images = self._output(batch)
        ticket = self._pool.submit(
            where.addresses,
            where.lengths,
            self._sizes[batch.ids],
            np.ascontiguousarray(batch.boxes),
            batch.flips.astype(np.uint8),
            images.numpy(),
            raw=self.shards.raw,
            keep=where.mapped,
        )
        return ticket, images

    def _output(self, batch: Batch) -> torch.Tensor:
        shape = (len(batch), *batch.size, 3)
        if self.settings.device.startswith("cuda"):
            return torch.empty(shape, dtype=torch.uint8, pin_memory=True)  # torch keeps a ring of these itself
        # Fresh pages cost the kernel more than decoding a photograph: a buffer is used again once no tensor shares it.
        for buffer in self._buffers:
            if buffer.shape == shape and sys.getrefcount(buffer) == _UNUSED:
                return torch.from_numpy(buffer)
        fresh = np.empty(shape, dtype=np.uint8)
        if len(self._buffers) <= _AHEAD and len(batch) == self.settings.batch_size:
            self._buffers.append(fresh)
        return torch.from_numpy(fresh)
