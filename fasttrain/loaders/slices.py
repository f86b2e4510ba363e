"""JPEGs that hold only the crops of a batch, for decoders that take files.

They are copied out of cut shards undecoded.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from fasttrain.loaders.plan import Batch
from fasttrain.photos.cut import native_available

if TYPE_CHECKING:
    from fasttrain.shards.reader import ShardSet


def can_slice(shards: ShardSet) -> bool:
    """Return whether these shards are cut and fasttrain has its C++ module."""
    return shards.manifest.settings.get("cut") in ("mcu", "row") and native_available()


def whole_jpegs(shards: ShardSet, batch: Batch) -> tuple[list[NDArray[np.uint8]], NDArray[np.int32]]:
    """Return what `sliced_jpegs` does, but with the complete photographs as they are stored. Nothing is copied."""
    jpegs = [np.frombuffer(shards.bytes(int(sample)), dtype=np.uint8) for sample in batch.ids]
    return jpegs, np.ascontiguousarray(batch.boxes[:, :2])


def sliced_jpegs(shards: ShardSet, batch: Batch, threads: int = 1) -> tuple[list[NDArray[np.uint8]], NDArray[np.int32]]:
    """Return n JPEGs, uint8 [bytes] each, and the (top, left) of each one's crop in it, in pixels, int32 [n, 2].

    See `fasttrain.photos.cut.slice_jpeg`. A photograph that can't be sliced, such as a broken one, is returned
    completely.
    """
    from fasttrain import _native

    where = shards.locate(batch.ids)
    buffer, offsets, lengths, corners = _native.slice_batch(*where, np.ascontiguousarray(batch.boxes), threads)
    ends = offsets + lengths
    return [buffer[start:end] for start, end in zip(offsets.tolist(), ends.tolist(), strict=True)], corners
