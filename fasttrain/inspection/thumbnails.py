"""Decode every sample once to 32 x 32 pixels, for perceptual hashes and to find samples that can't be decoded."""

from __future__ import annotations

import io
from collections import deque
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from fasttrain.cores import usable_cores
from fasttrain.photos.cut import native_available

if TYPE_CHECKING:
    from fasttrain.shards.reader import ShardSet

SIDE = 32  # px, as in imagehash.phash
_BLOCK = 256  # samples
_AHEAD = 2  # blocks being decoded


@dataclass(frozen=True)
class Thumbnails:
    """Small versions of n samples.

    `ids`: int64 [n]. `pixels`: uint8 RGB [n, 32, 32, 3], stretched to a square. `bad`: (position in `ids`, reason) of
    each sample that can't be decoded; its pixels are zero.
    """

    ids: NDArray[np.int64]
    pixels: NDArray[np.uint8]
    bad: list[tuple[int, str]]


def read_thumbnails(shards: ShardSet, ids: NDArray[np.int64], workers: int | None = None) -> Iterator[Thumbnails]:
    """Yield thumbnails of the samples `ids`, int64 [n], in order, a few hundred at a time.

    `workers`: number of threads, by default one per core. The native decoder reads every MCU. Without the native
    module, Pillow's `draft` mode is used. That is slower and less strict: it finds truncated files, but decodes most
    damaged bytes without an error.
    """
    threads = workers or usable_cores()
    blocks = [ids[start : start + _BLOCK] for start in range(0, len(ids), _BLOCK)]
    return _native(shards, blocks, threads) if native_available() else _pillow(shards, blocks, threads)


def _native(shards: ShardSet, blocks: list[NDArray[np.int64]], threads: int) -> Iterator[Thumbnails]:
    from fasttrain import _native

    pool = _native.Pool(threads)
    sizes = shards.sizes()
    pending: deque[tuple[int, Thumbnails]] = deque()
    try:
        for block in blocks:
            where, size = shards.locate(block), sizes[block]
            _native.will_need(*where)
            boxes = np.concatenate([np.zeros_like(size), size], axis=1)
            pixels = np.empty((len(block), SIDE, SIDE, 3), np.uint8)
            ticket = pool.submit(*where, size, boxes, np.zeros(len(block), np.uint8), pixels, shards.raw)
            pending.append((ticket, Thumbnails(block, pixels, [])))
            if len(pending) > _AHEAD:
                yield _finish(pool, *pending.popleft())
        while pending:
            yield _finish(pool, *pending.popleft())
    finally:
        pool.close()


def _finish(pool: Any, ticket: int, thumbnails: Thumbnails) -> Thumbnails:
    thumbnails.bad.extend(pool.wait(ticket))
    return thumbnails


def _pillow(shards: ShardSet, blocks: list[NDArray[np.int64]], threads: int) -> Iterator[Thumbnails]:
    sizes = shards.sizes()
    with ThreadPoolExecutor(threads) as pool:
        for block in blocks:
            # Only this thread maps shards, as a ShardSet must not be used by several threads.
            found = list(
                pool.map(
                    _thumbnail, map(shards.bytes, block.tolist()), sizes[block].tolist(), [shards.raw] * len(block)
                )
            )
            bad = [(position, each) for position, each in enumerate(found) if isinstance(each, str)]
            black = np.zeros((SIDE, SIDE, 3), np.uint8)
            yield Thumbnails(block, np.stack([black if isinstance(each, str) else each for each in found]), bad)


def _thumbnail(data: memoryview, size: list[int], raw: bool) -> NDArray[np.uint8] | str:
    """Return the pixels, or the reason why the sample can't be decoded."""
    from PIL import Image

    height, width = size
    try:
        if raw:
            image = Image.fromarray(np.frombuffer(data, np.uint8).reshape(height, width, 3))
        else:
            image = Image.open(io.BytesIO(data), formats=("JPEG",))
            image.draft("RGB", (SIDE, SIDE))
        return np.asarray(image.convert("RGB").resize((SIDE, SIDE), Image.Resampling.BILINEAR))
    except Exception as error:  # Pillow raises all kinds of errors on damaged files
        return " ".join(str(error).split()) or type(error).__name__
