"""Measures what a photograph costs in memory, files and time outside of its shard: the figures of docs/scaling.md.

python docs/scripts/scale.py [PHOTOGRAPHS]
"""

from __future__ import annotations

import json
import resource
import sys
import time
import tracemalloc
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path

import numpy as np

from fasttrain.loaders.plan import Crop, EpochPlan
from fasttrain.photos.source import UNDECIDED, Listing, Photo, make_source
from fasttrain.shards.assemble import index_of
from fasttrain.shards.destination import FileState
from fasttrain.shards.keys import make_keys
from fasttrain.shards.layout import ShardJob, lay_out, split_files
from fasttrain.shards.parts import Part, read_parts

SHARD = 1000


class Records:
    """A destination that holds nothing but records."""

    def __init__(self, records: dict[str, bytes]) -> None:
        self.records = records

    def shards(self) -> dict[str, FileState]:
        return {f"{name}.{kind}": FileState(1, "") for name in self.records for kind in ("tar", "idx")}

    def read_all(self, names: list[str]) -> Iterator[bytes]:
        return iter(self.records.values())


def say(what: str, value: float, unit: str) -> None:
    print(f"{what:40} {value:8.1f} {unit}")


@contextmanager
def timed(what: str, count: int) -> Iterator[None]:
    start = time.perf_counter()
    yield
    say(what, (time.perf_counter() - start) / count * 1e6, "s a million")


def part(job: ShardJob, keys: list[str], labels: list[int]) -> Part:
    draw = np.random.default_rng(0).integers
    lengths = draw(30_000, 60_000, len(keys))
    sides = draw(300, 600, (2, len(keys))).tolist()
    crcs = draw(0, 1 << 32, len(keys)).tolist()
    return Part(1, "0" * 64, "0" * 64, "", keys, lengths.cumsum().tolist(), lengths.tolist(), *sides, labels, crcs)


def main(count: int) -> None:
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with timed("listing, layout", count):
        photos = [
            Photo(f"class_{i % 1000:04d}/photo_{i:010d}.jpg", f"class_{i % 1000:04d}", UNDECIDED, 47_000 + i, (i, i, i))
            for i in range(count)
        ]
        source = make_source(Listing("folder", "", Path("/"), sorted({each.name for each in photos}), photos, []))
        jobs = lay_out(source, val_fraction=0.05, seed=0, shard_size=SHARD)
        keys = make_keys(source.paths)
    splits = split_files(source, jobs)["splits.csv"]
    say("a machine's memory", (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024 / count, "bytes")
    say("splits.csv", len(splits) / count, "bytes")
    del photos
    records = {
        job.name: json.dumps(
            asdict(part(job, [keys[row] for row in job.rows], source.labels[job.rows].tolist())), separators=(",", ":")
        ).encode()
        for job in jobs
    }
    say("records", sum(map(len, records.values())) / count, "bytes")
    some = jobs[: max(1, 50_000 // SHARD)]
    tracemalloc.start()
    parts = list(read_parts(Records({job.name: records[job.name] for job in some}), some))  # type: ignore[arg-type]
    say("merge's memory", tracemalloc.get_traced_memory()[0] / sum(len(job.rows) for job in some), "bytes")
    tracemalloc.stop()
    with timed("merge", count):
        parts = list(read_parts(Records(records), jobs))  # type: ignore[arg-type]
        index = index_of([(job, found) for job, found in parts if found])
    say("index.npy", index.itemsize, "bytes")
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with timed("an epoch's plan", count):
        sizes = np.full((count, 2), 500, np.int32)
        plan = EpochPlan.training(np.arange(count), sizes, seed=0, epoch=0, size=224, crop=Crop())
    say("plan, kept", sum(each.nbytes for each in vars(plan).values() if hasattr(each, "nbytes")) / count, "bytes")
    say("plan, at its peak", (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024 / count, "bytes")


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 1_000_000)
