"""Find photographs that are stored in several classes: samples with identical bytes but different labels."""

from __future__ import annotations

import csv
import hashlib
import io
from collections import defaultdict
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from fasttrain.shards.destination import Destination
from fasttrain.shards.format import class_names
from fasttrain.shards.keys import make_keys


def find_label_conflicts(
    out: Destination, index: NDArray[np.void], shards: Sequence[str], classes: Sequence[str], splits: bytes
) -> list[tuple[str, str]]:
    """Return (path, reason) of each sample whose bytes also occur with another label, sorted by path.

    `shards` are the file names in the order of their numbers in `index`. `splits` is the contents of `splits.csv`,
    which gives the paths. A sample that it doesn't list is named by its key instead. Only the bytes of samples that
    agree in length and CRC-32 are read.
    """
    groups = [rows for candidates in _candidates(index) for rows in _same_bytes(out, index, shards, candidates)]
    if not groups:
        return []
    paths = [row["path"] for row in csv.DictReader(io.StringIO(splits.decode("utf-8", "surrogateescape"), newline=""))]
    path_of = dict(zip(make_keys(paths), paths, strict=True))
    found = []
    for rows in groups:
        named = sorted(
            (path_of.get(key := index["key"][row].decode(), key), class_names(index[row], classes)) for row in rows
        )
        for path, name in named:
            other, other_name = next(each for each in named if each[1] != name)
            found.append((path, f"in class {name!r}, and in {other_name!r} as {other}"))
    return sorted(found)


def _candidates(index: NDArray[np.void]) -> list[NDArray[np.int64]]:
    """Return groups of rows with the same length and CRC-32 that span several classes."""
    sums = index["crc32"].astype(np.uint64)
    sums <<= np.uint64(32)
    sums |= index["length"].astype(np.uint64)
    rows = np.argsort(sums, kind="stable")
    sums = sums[rows]
    first = int(np.searchsorted(sums, np.uint64(1 << 32)))  # older shards have 0 as their CRC-32
    repeated = np.zeros(len(sums), np.bool_)
    repeated[first:-1] = sums[first + 1 :] == sums[first:-1]
    repeated[first + 1 :] |= repeated[first:-1]
    sums, rows = sums[repeated], rows[repeated]
    if not len(rows):
        return []
    labels = _numbers(index[rows])
    starts = np.flatnonzero(np.concatenate(([True], sums[1:] != sums[:-1])))
    ends = np.append(starts[1:], len(sums))
    mixed = np.minimum.reduceat(labels, starts) != np.maximum.reduceat(labels, starts)
    return [rows[start:end] for start, end in zip(starts[mixed].tolist(), ends[mixed].tolist(), strict=True)]


def _same_bytes(
    out: Destination, index: NDArray[np.void], shards: Sequence[str], rows: NDArray[np.int64]
) -> list[list[int]]:
    """Return groups of `rows` with the same bytes that span several classes."""
    places = [(shards[row["shard"]], int(row["offset"]), int(row["length"])) for row in index[rows]]
    same: dict[bytes, list[int]] = defaultdict(list)
    for row, data in zip(rows.tolist(), out.read_ranges(places), strict=True):
        same[hashlib.sha256(data).digest()].append(row)
    return [found for found in same.values() if len(set(_numbers(index[found]).tolist())) > 1]


def _numbers(rows: NDArray[np.void]) -> NDArray[np.int64]:
    """Return a number for each row that is the same for the same label or set."""
    if "labels" in (rows.dtype.names or ()):
        return np.unique(rows["labels"], axis=0, return_inverse=True)[1].reshape(-1).astype(np.int64)
    return rows["label"].astype(np.int64)
