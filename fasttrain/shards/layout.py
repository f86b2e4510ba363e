"""Decide which photographs go into which shard. The result depends only on the source and the settings."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fasttrain.photos.source import Source
from fasttrain.photos.split import decide_splits, shuffled
from fasttrain.shards.format import DUPLICATES, SPLIT_FILE, SPLITS

SHARD_NAME = re.compile(rf"(?P<split>{'|'.join(SPLITS)})-[0-9]{{5,9}}")


def shard_name(split: int, number: int) -> str:
    """Return a shard's name without suffix, such as "train-00002". `split` is 0 train, 1 val, 2 test."""
    return f"{SPLITS[split]}-{number:05d}"


@dataclass(frozen=True)
class Earlier:
    """The state of existing shards, for `convert --append`.

    - `held`: the split that an earlier conversion gave to each of the source's n photographs, int8 [n], or -1 for a
      photograph that is new.
    - `added`: whether each photograph is to be written now, bool [n].
    - `first`: the number of the first new shard of each split.
    """

    held: NDArray[np.int8]
    added: NDArray[np.bool_]
    first: tuple[int, ...]


@dataclass(frozen=True)
class ShardJob:
    """A shard to write.

    `name` has no suffix, `split` is 0 train, 1 val, 2 test, and `rows` are the positions of its photographs in the
    source, int64 [n].
    """

    name: str
    split: int
    rows: NDArray[np.int64]


def lay_out(
    source: Source,
    *,
    val_fraction: float,
    seed: int,
    shard_size: int,
    test_fraction: float = 0.0,
    earlier: Earlier | None = None,
) -> list[ShardJob]:
    """Return the shards to write: those of train, then val, then test.

    `shard_size` is the number of photographs in a shard; the other arguments are those of `decide_splits`. The
    photographs of each split are in a random order that depends on `seed`, so that sequential reading mixes classes.
    """
    splits = decide_splits(source, val_fraction, test_fraction, seed, earlier.held if earlier else None)
    jobs = []
    for split in range(len(SPLITS)):
        rows = np.flatnonzero(splits == split if earlier is None else (splits == split) & earlier.added)
        first = earlier.first[split] if earlier else 0
        rows = rows[shuffled(len(rows), seed, split)]
        jobs += [
            ShardJob(shard_name(split, number), split, rows[start : start + shard_size])
            for number, start in enumerate(range(0, len(rows), shard_size), first)
        ]
    return jobs


def split_files(source: Source, jobs: list[ShardJob]) -> dict[str, bytes]:
    """Return the bytes of `splits.csv` and, if near-duplicates were searched for, of `duplicates.csv`, by file name.

    `splits.csv` has the path, split and size of each photograph, in the form that `convert --splits` reads.
    """
    splits = splits_of(source, jobs, np.empty(len(source.paths), np.int8))
    sizes = source.sizes.tolist() or [-1] * len(source.paths)
    rows = ((path, SPLITS[split], size) for path, split, size in zip(source.paths, splits, sizes, strict=True))
    files = {SPLIT_FILE: table_of(("path", "split", "bytes"), rows)}
    return {**files, DUPLICATES: duplicates_table(source, splits)} if source.near_duplicates else files


def splits_of(source: Source, jobs: list[ShardJob], others: NDArray[np.int8]) -> NDArray[np.int8]:
    """Return the split of each photograph, int8 [n]: the split of its job, or its value in `others` if no job has
    it."""
    splits = others.copy()
    for job in jobs:
        splits[job.rows] = job.split
    return splits


def duplicates_table(source: Source, splits: NDArray[np.int8]) -> bytes:
    """Return the contents of `duplicates.csv`: path, split and group of each near-duplicate, and whether its group is
    in several splits."""
    rows = (
        (source.paths[row], SPLITS[splits[row]], number, "yes" if len(set(splits[list(group)].tolist())) > 1 else "")
        for number, group in enumerate(source.near_duplicates, start=1)
        for row in group
    )
    return table_of(("path", "split", "group", "across_splits"), rows)


def table_of(columns: Sequence[str], rows: Iterable[Sequence[object]]) -> bytes:
    """Return a CSV file, as bytes, with the given column names and rows."""
    text = io.StringIO(newline="")
    table = csv.writer(text, lineterminator="\n")
    table.writerow(columns)
    table.writerows(rows)
    return text.getvalue().encode("utf-8", "surrogateescape")
