"""Which photograph goes into which shard: a pure function of the source's list and the settings."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fasttrain.photos.sources import UNDECIDED, Source
from fasttrain.photos.split import shuffled, stratified_split
from fasttrain.shards.format import SPLITS


@dataclass(frozen=True)
class ShardJob:
    """One shard to be: its name without suffix, its split (0 train, 1 val, 2 test), and positions in the source."""

    name: str
    split: int
    rows: NDArray[np.int64]


def lay_out(source: Source, *, val_fraction: float, seed: int, shard_size: int) -> list[ShardJob]:
    """Train, then val, then test, each in a seeded shuffled order, so that reading in sequence mixes classes."""
    splits = source.splits.copy()
    open_rows = np.flatnonzero(splits == UNDECIDED)
    splits[open_rows] = stratified_split(source.labels[open_rows], val_fraction, seed)
    jobs = []
    for split, name in enumerate(SPLITS):
        rows = np.flatnonzero(splits == split)
        rows = rows[shuffled(len(rows), seed, split)]
        jobs += [
            ShardJob(f"{name}-{number:05d}", split, rows[start : start + shard_size])
            for number, start in enumerate(range(0, len(rows), shard_size))
        ]
    return jobs
