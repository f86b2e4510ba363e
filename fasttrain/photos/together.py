"""Find near-duplicates in a source before the splits are drawn, so that all copies get the same split."""

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
from fasttrain.text import counted

DISTANCE = 4
"""The hashes of near-duplicates differ in at most this many of 64 bits. It is the default of `inspect`, too."""

_SIDE = 32  # px, as in imagehash.phash
_BLOCK = 256  # photographs that are hashed at a time
_SAVE_EVERY_S = 30.0
_ROW = np.dtype([("read", "?"), ("decodes", "?"), ("hash", "<u8"), ("content", "S16")])

Links = list[tuple[int, int]]


def keep_together(source: Source, workers: int, advance: Callable[[int], None]) -> Source:
    """Return a copy of `source` with near-duplicates in the same group. The copy's `near_duplicates` lists these
    groups.

    Photographs are near-duplicates if their bytes are equal, or if their perceptual hashes differ in at most DISTANCE
    bits. Groups that `source` has already are joined if near-duplicates connect them. Near-duplicates that the source
    puts into different splits stay there, and a note in `notes` says how many. The hashes are cached.

    `workers` is the number of threads. `advance` is called with the number of photographs that were hashed since the
    last call. If `advance` raises an exception, the search ends.
    """
    links = _links(_hashes(source, workers, advance))
    found = _linked(len(source.paths), links)
    groups, across = _merged(source, links)
    note = f"--keep-duplicates-together: {counted(len(found), 'group')} of {sum(map(len, found)):,} near-duplicates"
    note += f", the largest of {max(map(len, found)):,}" if found else ""
    if across:
        note += (
            f"; the source puts {counted(len(across), 'photograph')} into another split than a near-duplicate, which "
            "stays so: see duplicates.csv"
        )
    counts = {
        "groups": len(found),
        "photographs": sum(map(len, found)),
        "across_splits": len(across),
    }
    return replace(
        source,
        groups=groups,
        near_duplicates=tuple(map(tuple, found)),
        notes=(*source.notes, note),
        settings={**source.settings, "keep_duplicates_together": counts},
    )


def _links(hashes: NDArray[np.void]) -> Links:
    """Return pairs of positions that are near-duplicates. Pairs with equal bytes come first."""
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
    """Return the groups of positions that are connected by links. Each group is sorted."""
    sets = _Sets(count)
    for one, other in links:
        sets.join(one, other)
    groups: dict[int, list[int]] = {}
    for row in sorted({row for link in links for row in link}):
        groups.setdefault(sets.first(row), []).append(row)
    return list(groups.values())


def _merged(source: Source, links: Links) -> tuple[tuple[str, ...], set[int]]:
    """Return the group of each photograph, and the positions of photographs with a near-duplicate that the source puts
    into another split."""
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
    """Yield the positions of each group of the source."""
    rows: dict[str, list[int]] = {}
    for row, group in enumerate(source.groups):
        if group:
            rows.setdefault(group, []).append(row)
    yield from rows.values()


class _Sets:
    """Disjoint sets of the numbers 0 to count - 1 (Tarjan 1975). Each set is identified by its smallest member."""

    def __init__(self, count: int) -> None:
        self._above = list(range(count))

    def first(self, member: int) -> int:
        """Return the smallest member of the set with `member`."""
        above = self._above
        while above[member] != member:
            above[member] = member = above[above[member]]
        return member

    def join(self, one: int, other: int) -> None:
        """Join the sets with `one` and `other`."""
        low, high = sorted((self.first(one), self.first(other)))
        self._above[high] = low


def _hashes(source: Source, workers: int, advance: Callable[[int], None]) -> NDArray[np.void]:
    """Return the hashes of each photograph, as `_ROW`. Photographs that were hashed before and have not changed come
    from the cache."""
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
                found = pool.map(lambda row: budget.run(lambda hold: _read_small(source, row, hold)), rows.tolist())
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


def _read_small(source: Source, row: int, hold: Hold) -> tuple[bytes, NDArray[np.uint8] | None]:
    """Return the result of `_small`, while the memory for the file is held."""
    with hold(pixels_of_file(source.size(row))):
        return _small(source, row, hold)


def _small(source: Source, row: int, hold: Hold) -> tuple[bytes, NDArray[np.uint8] | None]:
    """Return 16 hexadecimal digits of the file's SHA-256, and its image at a reduced size, uint8 RGB [32, 32, 3].

    If the file can't be read, both are empty. If the photograph can't be decoded, the image is None. The conversion
    reports the reason.
    """
    from PIL.Image import Resampling

    try:
        data = source.read(row)
    except OSError as error:
        if fault_of_machine(error):
            raise
        return b"", None
    content = hashlib.sha256(data).hexdigest()[:16].encode()
    share = COEFFICIENTS if sniff(data[:HEAD]) == "JPEG" else 1  # JPEGs are decoded at a reduced size
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
    """Return the cached hashes, or empty rows if there are none."""
    try:
        found: NDArray[np.void] = np.load(path, allow_pickle=False)
        if found.dtype == _ROW and found.shape == (count,):
            return found
    except (OSError, ValueError, EOFError):
        pass
    return np.zeros(count, _ROW)


def _save(path: Path, hashes: NDArray[np.void]) -> None:
    # The cache is optional. If the disk is full, writing the shards reports it.
    """Write the hashes to the cache, if possible."""
    with contextlib.suppress(OSError):
        make_folder(path.parent)
        with atomic_write(path) as file:
            np.save(file, hashes)
