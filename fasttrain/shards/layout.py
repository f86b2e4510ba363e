"""Which photograph goes into which shard: a pure function of the source's list and the settings."""

from __future__ import annotations

import csv
import io
import re
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fasttrain.photos.source import Source
from fasttrain.photos.split import decide_splits, shuffled
from fasttrain.shards.format import SPLITS

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


def split_file(source: Source, jobs: list[ShardJob]) -> bytes:
    """Return `splits.csv`: each photograph's path and split, as `convert --splits` takes them again."""
    splits = np.empty(len(source.paths), np.int8)
    for job in jobs:
        splits[job.rows] = job.split
    text = io.StringIO(newline="")
    table = csv.writer(text, lineterminator="\n")
    table.writerow(("path", "split"))
    table.writerows((path, SPLITS[split]) for path, split in zip(source.paths, splits.tolist(), strict=True))
    return text.getvalue().encode("utf-8", "surrogateescape")
