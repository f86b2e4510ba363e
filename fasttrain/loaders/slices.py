"""Make JPEGs that hold only the crops of a batch, for decoders that take files.

They are copied out of cut shards without decoding them.
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
    """Return whether these shards are cut and the native module is installed, so that crops can be copied out."""
    return shards.manifest.settings.get("cut") in ("mcu", "row") and native_available()


def complete_jpegs(shards: ShardSet, batch: Batch) -> tuple[list[NDArray[np.uint8]], NDArray[np.int32]]:
    """Return the complete stored JPEGs of a batch, in the same form as `sliced_jpegs`. No bytes are copied."""
    jpegs = [np.frombuffer(shards.bytes(int(sample)), dtype=np.uint8) for sample in batch.ids]
    return jpegs, np.ascontiguousarray(batch.boxes[:, :2])


def sliced_jpegs(shards: ShardSet, batch: Batch, threads: int = 1) -> tuple[list[NDArray[np.uint8]], NDArray[np.int32]]:
    """Return JPEGs that hold little more than the crops of a batch, and the position of each crop in its JPEG.

    The JPEGs are n arrays, uint8 [bytes]. The positions are (top, left) in pixels, int32 [n, 2]. `threads`: the number
    of threads. A photograph that can't be sliced, for instance because it is broken, is returned completely. See
    `fasttrain.photos.cut.slice_jpeg`.
    """
    from fasttrain import _native

    where = shards.locate(batch.ids)
    buffer, offsets, lengths, corners = _native.slice_batch(*where, np.ascontiguousarray(batch.boxes), threads)
    ends = offsets + lengths
    return [buffer[start:end] for start, end in zip(offsets.tolist(), ends.tolist(), strict=True)], corners
