"""Which photograph goes into which shard: a pure function of the source's list and the settings."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from fasttrain.files import atomic_write_bytes
from fasttrain.photos.source import Source
from fasttrain.photos.split import decide_splits, shuffled
from fasttrain.shards.format import DUPLICATES, SPLIT_FILE, SPLITS

SHARD_NAME = re.compile(rf"(?P<split>{'|'.join(SPLITS)})-[0-9]{{5,9}}")


def shard_name(split: int, number: int) -> str:
    """Return a shard's name without suffix, which matches `SHARD_NAME`; `split` is 0 train, 1 val, 2 test."""
    return f"{SPLITS[split]}-{number:05d}"


@dataclass(frozen=True)
class ShardJob:
    """One shard to be: its name without suffix, its split (0 train, 1 val, 2 test), and positions in the source."""

    name: str
    split: int
    rows: NDArray[np.int64]


def lay_out(
    source: Source, *, val_fraction: float, seed: int, shard_size: int, test_fraction: float = 0.0
) -> list[ShardJob]:
    """Train, then val, then test, each in a seeded shuffled order, so that reading in sequence mixes classes."""
    splits = decide_splits(source, val_fraction, test_fraction, seed)
    jobs = []
    for split in range(len(SPLITS)):
        rows = np.flatnonzero(splits == split)
        rows = rows[shuffled(len(rows), seed, split)]
        jobs += [
            ShardJob(shard_name(split, number), split, rows[start : start + shard_size])
            for number, start in enumerate(range(0, len(rows), shard_size))
        ]
    return jobs


def write_split_files(folder: Path, source: Source, jobs: list[ShardJob]) -> None:
    """Write `splits.csv`: each photograph's path and split, as `convert --splits` takes them again.

    Where near-duplicates were looked for, `duplicates.csv` lists them.
    """
    splits = np.empty(len(source.paths), np.int8)
    for job in jobs:
        splits[job.rows] = job.split
    names = [SPLITS[split] for split in splits.tolist()]
    _write_table(folder / SPLIT_FILE, ("path", "split"), zip(source.paths, names, strict=True))
    if source.twins:
        _write_table(folder / DUPLICATES, ("path", "split", "group", "across_splits"), _twins(source, names))


def _twins(source: Source, names: Sequence[str]) -> Iterator[tuple[str, str, int, str]]:
    for number, rows in enumerate(source.twins, start=1):
        across = "yes" if len({names[row] for row in rows}) > 1 else ""
        yield from ((source.paths[row], names[row], number, across) for row in rows)


def _write_table(path: Path, columns: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    text = io.StringIO(newline="")
    table = csv.writer(text, lineterminator="\n")
    table.writerow(columns)
    table.writerows(rows)
    atomic_write_bytes(path, text.getvalue().encode("utf-8", "surrogateescape"))
