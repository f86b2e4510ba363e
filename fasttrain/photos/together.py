"""Find near-duplicates in a source before the splits are drawn, so that each stays with its copies."""

from __future__ import annotations

import contextlib
import hashlib
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from fasttrain.config.location import cache_root
from fasttrain.errors import fault_of_machine, no_memory
from fasttrain.files import atomic_write, make_folder
from fasttrain.photos.duplicates import find_duplicates, perceptual_hashes
from fasttrain.photos.formats import HEAD, sniff
from fasttrain.photos.pictures import BrokenPhoto, decode_picture, onto_white, opened
from fasttrain.photos.room import COEFFICIENTS, Hold, PixelBudget, pixels_of_file, pixels_that_fit
from fasttrain.photos.source import UNDECIDED, Source

DISTANCE = 4
"""The number of bits, out of 64, in which the hashes of near-duplicates may differ, as in `inspect` by default."""

_SIDE = 32  # px, as in imagehash.phash
_BLOCK = 256
_SAVE_EVERY_S = 30.0
_ROW = np.dtype([("read", "?"), ("decodes", "?"), ("hash", "<u8"), ("content", "S16")])

Links = list[tuple[int, int]]


def keep_together(source: Source, workers: int, advance: Callable[[int], None]) -> Source:
    """Return `source` with its near-duplicates in common groups, and listed as `twins`.

    Photographs with equal bytes, or whose perceptual hashes differ in at most DISTANCE bits, are linked, and so are
    those of the same group in the source. Links between two given splits change nothing and are counted in a note. The
    hashes are cached. `advance(photographs)` reports progress, and its exceptions end the reading.
    """
    links = _links(_hashes(source, workers, advance))
    twins = _linked(len(source.paths), links)
    groups, across = _merged(source, links)
    note = f"--keep-duplicates-together: {len(twins):,} groups of {sum(map(len, twins)):,} near-duplicates"
    note += f", the largest of {max(map(len, twins)):,}" if twins else ""
    if across:
        note += (
            f"; {len(across):,} photographs are in another given split than a copy, and stay there: see duplicates.csv"
        )
    counts = {"groups": len(twins), "photographs": sum(map(len, twins)), "across_splits": len(across)}
    return replace(
        source,
        groups=groups,
        twins=tuple(map(tuple, twins)),
        notes=(*source.notes, note),
        settings={**source.settings, "keep_duplicates_together": counts},
    )


def _links(hashes: NDArray[np.void]) -> Links:
    """Return pairs of positions that are near-duplicates, equal ones first."""
    links: Links = []
    first: dict[bytes, int] = {}
    for row in np.flatnonzero(hashes["content"] != b"").tolist():
        known = first.setdefault(bytes(hashes["content"][row]), row)
        if known != row:
            links.append((known, row))
    rows = np.flatnonzero(hashes["decodes"])
    found = find_duplicates(hashes["hash"][rows], np.zeros(len(rows), np.int64), DISTANCE)
    links += [(one, other) for one, other in rows[found.pairs].tolist()]
    return links


def _linked(count: int, links: Links) -> list[list[int]]:
    """Return the groups of positions that are linked, directly or through others, each sorted."""
    sets = _Sets(count)
    for one, other in links:
        sets.join(one, other)
    groups: dict[int, list[int]] = {}
    for row in sorted({row for link in links for row in link}):
        groups.setdefault(sets.first(row), []).append(row)
    return list(groups.values())


def _merged(source: Source, links: Links) -> tuple[tuple[str, ...], set[int]]:
    """Return each photograph's group, and the positions of those with a near-duplicate in another given split."""
    sets = _Sets(len(source.paths))
    for rows in _rows_of_groups(source):
        for one, other in pairwise(rows):
            sets.join(one, other)
    given: dict[int, int] = {}
    for row in np.flatnonzero(source.splits != UNDECIDED).tolist():
        given.setdefault(sets.first(row), int(source.splits[row]))
    across: set[int] = set()
    for one, other in links:
        splits = [given.get(sets.first(row), UNDECIDED) for row in (one, other)]
        if UNDECIDED not in splits and splits[0] != splits[1]:
            across |= {one, other}
        else:
            sets.join(one, other)
            if max(splits) != UNDECIDED:
                given[sets.first(one)] = max(splits)
    size = np.bincount([sets.first(row) for row in range(len(source.paths))], minlength=len(source.paths))
    firsts = (sets.first(row) for row in range(len(source.paths)))
    return tuple(source.paths[first] if size[first] > 1 else "" for first in firsts), across


def _rows_of_groups(source: Source) -> Iterator[list[int]]:
    rows: dict[str, list[int]] = {}
    for row, group in enumerate(source.groups):
        if group:
            rows.setdefault(group, []).append(row)
    yield from rows.values()


class _Sets:
    """Disjoint sets of 0 .. count - 1 (Tarjan 1975). Each is identified by its smallest member."""

    def __init__(self, count: int) -> None:
        self._above = list(range(count))

    def first(self, member: int) -> int:
        above = self._above
        while above[member] != member:
            above[member] = member = above[above[member]]
        return member

    def join(self, one: int, other: int) -> None:
        low, high = sorted((self.first(one), self.first(other)))
        self._above[high] = low


def _hashes(source: Source, workers: int, advance: Callable[[int], None]) -> NDArray[np.void]:
    """Return a `_ROW` for each photograph. Those read before, in the same state, come from the cache."""
    path = cache_root() / "hashes" / f"{source.local_state.removeprefix('sha256:')}.npy"
    hashes = _cached(path, len(source.paths))
    left = np.flatnonzero(~hashes["read"])
    advance(len(hashes) - len(left))
    budget = PixelBudget(pixels_that_fit())
    saved = time.monotonic()
    with ThreadPoolExecutor(workers) as pool:
        try:
            for rows in np.split(left, range(_BLOCK, len(left), _BLOCK)) if len(left) else ():
                small = np.zeros((len(rows), _SIDE, _SIDE, 3), np.uint8)
                found = pool.map(lambda row: budget.run(lambda hold: _held(source, row, hold)), rows.tolist())
                for position, (content, pixels) in enumerate(found):
                    hashes["content"][rows[position]] = content
                    hashes["decodes"][rows[position]] = pixels is not None
                    if pixels is not None:
                        small[position] = pixels
                hashes["hash"][rows] = perceptual_hashes(small)
                hashes["read"][rows] = True
                if time.monotonic() - saved > _SAVE_EVERY_S:
                    _save(path, hashes)
                    saved = time.monotonic()
                advance(len(rows))
        finally:
            pool.shutdown(cancel_futures=True)
            if len(left):
                _save(path, hashes)
    return hashes


def _held(source: Source, row: int, hold: Hold) -> tuple[bytes, NDArray[np.uint8] | None]:
    with hold(pixels_of_file(source.size(row))):
        return _small(source, row, hold)


def _small(source: Source, row: int, hold: Hold) -> tuple[bytes, NDArray[np.uint8] | None]:
    """Return 16 hexadecimal digits of the content's SHA-256, and the image as uint8 RGB [32, 32, 3].

    A file that can't be read has neither, and one that can't be decoded has no image. The conversion reports why.
    """
    from PIL.Image import Resampling

    try:
        data = source.read(row)
    except OSError as error:
        if fault_of_machine(error):
            raise
        return b"", None
    content = hashlib.sha256(data).hexdigest()[:16].encode()
    share = COEFFICIENTS if sniff(data[:HEAD]) == "JPEG" else 1  # JPEGs are decoded at an eighth of their size
    try:
        with opened(data, lambda pixels: hold(pixels // share)) as picture:
            picture.image.draft("RGB", (_SIDE, _SIDE))
            image = onto_white(decode_picture(picture)).convert("RGB")
            return content, np.asarray(image.resize((_SIDE, _SIDE), Resampling.BILINEAR, reducing_gap=3.0))
    except BrokenPhoto as error:
        if no_memory(error.reason):
            raise MemoryError(f"at {source.root / source.paths[row]}") from error
        return content, None


def _cached(path: Path, count: int) -> NDArray[np.void]:
    try:
        found: NDArray[np.void] = np.load(path, allow_pickle=False)
        if found.dtype == _ROW and found.shape == (count,):
            return found
    except (OSError, ValueError, EOFError):
        pass
    return np.zeros(count, _ROW)


def _save(path: Path, hashes: NDArray[np.void]) -> None:
    # Without a cache they are computed again. If the disk is full, writing the shards reports it.
    with contextlib.suppress(OSError):
        make_folder(path.parent)
        with atomic_write(path) as file:
            np.save(file, hashes)
