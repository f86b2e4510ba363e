"""Write shards without photographs, for tests of large data: `python tools/synthetic_shards.py OUT N SHARDS CLASSES`.

The manifest and the index are real. The tars are sparse files of zeros, which take no room on the disk.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np

from fasttrain.photos.source import SourceSummary
from fasttrain.shards.assemble import assemble
from fasttrain.shards.destination import Folder
from fasttrain.shards.layout import ShardJob, shard_name
from fasttrain.shards.parts import Part

_EACH = 20_480  # bytes from photograph to photograph


def write_synthetic_shards(out: Path, samples: int, shards: int, classes: int) -> None:
    """Write `samples` samples of `classes` classes in `shards` shards to `out`, all in the split "train"."""
    out.mkdir(parents=True)
    parts = []
    for number in range(shards):
        rows = np.arange(number, samples, shards)
        count = len(rows)
        part = Part(
            bytes=count * _EACH + 10_240,
            sha256=f"{number:064x}",
            keys=[f"class-{row % classes:05d}/photograph-{row:08d}" for row in rows.tolist()],
            offsets=[512 + place * _EACH for place in range(count)],
            lengths=[18_000] * count,
            widths=[512] * count,
            heights=[384] * count,
            labels=(rows % classes).tolist(),
            crcs=[0] * count,
        )
        name = shard_name(0, number)
        with (out / f"{name}.tar").open("wb") as file:
            file.truncate(part.bytes)
        (out / f"{name}.idx").write_bytes(b"v1.2 0\n")
        parts.append((ShardJob(name, 0, rows), part))
    names = tuple(f"class-{number:05d}" for number in range(classes))
    assemble(Folder(out), SourceSummary("folder", "synthetic", names, samples, (), "sha256:0"), parts, {})


if __name__ == "__main__":
    write_synthetic_shards(Path(sys.argv[1]), *map(int, sys.argv[2:5]))
