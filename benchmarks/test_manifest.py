"""How long a million samples take to open: `pytest benchmarks/test_manifest.py -s`."""

from __future__ import annotations

import resource
import time
from pathlib import Path

import numpy as np
import pytest
from synthetic_shards import write_synthetic_shards

from fasttrain.loaders.plan import Crop, EpochPlan
from fasttrain.shards.reader import ShardSet


@pytest.mark.parametrize("samples", [100_000, 1_000_000])
def test_opening_many_samples(samples: int, tmp_path: Path) -> None:
    """`ShardSet.open`, its columns, and an epoch's plan: seconds, the median of five, and MB."""
    folder = tmp_path / "shards"
    write_synthetic_shards(folder, samples=samples, shards=samples // 1000, classes=1000)
    before, rounds = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, []
    for _ in range(5):
        start = time.perf_counter()
        shards = ShardSet.open(folder)
        opened = time.perf_counter()
        ids, sizes = shards.ids("train"), shards.sizes()
        shards.labels()
        columns = time.perf_counter()
        EpochPlan.training(ids, sizes, seed=0, epoch=0, size=224, crop=Crop())
        rounds.append((opened - start, columns - opened, time.perf_counter() - columns))
    more = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024
    times = np.median(rounds, axis=0)
    print(
        f"\n{samples:,} samples: open {times[0]:.2f} s, columns {times[1]:.2f} s, an epoch's plan {times[2]:.2f} s, "
        f"{more:.0f} MB more at the most"
    )
