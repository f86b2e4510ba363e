"""Write a conversion's `index.npy`, `rejected.tsv` and other lists, and last of all `manifest.json`."""

from __future__ import annotations

import hashlib
import io
import os
from collections import Counter
from collections.abc import Collection, Sequence
from pathlib import Path, PurePosixPath
from typing import Any, cast

import numpy as np

from fasttrain.errors import UserError
from fasttrain.photos.label_bits import bytes_for, packed
from fasttrain.photos.source import TRAIN, SourceSummary
from fasttrain.shards.destination import Destination
from fasttrain.shards.format import (
    CONFLICTS,
    CONVERTED,
    DUPLICATES,
    EXTRA,
    INDEX,
    MANIFEST,
    REJECTED,
    SPLIT_FILE,
    SPLITS,
    IndexSummary,
    Manifest,
    Origin,
    index_dtype,
)
from fasttrain.shards.label_conflicts import find_label_conflicts
from fasttrain.shards.layout import ShardJob
from fasttrain.shards.parts import Part
from fasttrain.text import printable


def assemble(
    out: Destination, source: SourceSummary, parts: list[tuple[ShardJob, Part]], settings: dict[str, Any]
) -> Manifest:
    """Write the index, the lists and, last, the manifest. Return the manifest.

    `parts` has the job and the record of each shard, in the order of `lay_out`. `rejected.tsv` is always written, the
    other lists only if they have lines. Raises UserError, after `rejected.tsv` is written, if a class has no training
    photograph left, and OSError if the disk can't be written.
    """
    broken = [rejected for _, part in parts for rejected in part.broken]
    rejected = sorted([*source.ignored, *broken])
    out.write(REJECTED, b"".join(list_line(path, reason) for path, reason in rejected))
    kept = [(job, part) for job, part in parts if part.keys]
    require_training(f"{out}/{REJECTED}", source.classes, kept, dict(broken))
    changed = sorted(changed for _, part in kept for changed in part.changed)
    if changed:
        out.write(CONVERTED, b"".join(list_line(path, reason) for path, reason in changed))
    index = index_of(kept, bytes_for(len(source.classes)) if source.multi_label else 0)
    file = io.BytesIO()
    np.save(file, index)
    out.write(INDEX, file.getvalue())
    splits = out.read(SPLIT_FILE) if out.has(SPLIT_FILE) else b""
    conflicts = find_label_conflicts(out, index, [f"{job.name}.tar" for job, _ in kept], source.classes, splits)
    if conflicts:
        out.write(CONFLICTS, b"".join(list_line(path, reason) for path, reason in conflicts))
    lists = [REJECTED, *([CONVERTED] if changed else []), *([CONFLICTS] if conflicts else [])]
    lists += [name for name in (SPLIT_FILE, DUPLICATES, EXTRA) if out.has(name)]
    digests = {f"{job.name}.idx": part.index_sha256 for job, part in kept}
    how = sum((Counter(part.counts) for _, part in kept), Counter())
    manifest = Manifest(
        schema=2 if source.multi_label else 1,
        classes=list(source.classes),
        splits={split: sum(len(part.keys) for job, part in kept if SPLITS[job.split] == split) for split in SPLITS},
        source=Origin(kind=source.kind, name=source.name, fingerprint=source.fingerprint),
        shards=[part.shard(job) for job, part in kept],
        index=IndexSummary(sha256=_sha256(file.getvalue()), samples=len(index)),
        settings=settings,
        counts={
            "photos": source.photos,
            "stored": len(index),
            **dict(sorted(how.items())),
            "broken": len(broken),
            "ignored": len(source.ignored),
        },
        multi_label=source.multi_label,
        files={name: digests.get(name) or _sha256(out.read(name)) for name in (*lists, *digests)},
    )
    out.write(MANIFEST, manifest.to_bytes())
    return manifest


def require_training(
    listed: Path | str,
    classes: Sequence[str],
    kept: list[tuple[ShardJob, Part]],
    broken: dict[str, str],
    known: Collection[int] = (),
) -> None:
    """Raise UserError if a class has no training photograph left.

    `kept` are the shards with photographs. `broken` has the reason why a photograph is broken, by the photograph's
    path, and `listed` is the file with these reasons. Classes whose label is in `known` are not checked.
    """
    left = {*known, *(label for job, part in kept if job.split == TRAIN for label in part.classes)}
    for label, name in enumerate(classes):
        if label not in left:
            if any(label in part.classes for _, part in kept):
                raise UserError(
                    f"class {name!r} has no training photograph: all of its photographs are in val or test; add "
                    "photographs, or change the splits"
                )
            inside = (reason for path, reason in broken.items() if name in PurePosixPath(path).parts[:-1])
            first = next((f", such as: {reason}" for reason in inside), "")
            raise UserError(
                f"class {name!r} has no usable training photograph (the reasons are in {listed}{first}); add some, "
                "or remove its folder"
            )


def index_of(kept: list[tuple[ShardJob, Part]], set_bytes: int = 0) -> np.ndarray[Any, np.dtype[np.void]]:
    """Return the rows of `index.npy` for shards that are numbered from 0. `set_bytes` is the argument of
    `index_dtype`."""
    longest = max((len(key) for _, part in kept for key in part.keys), default=1)
    index = np.zeros(sum(len(part.keys) for _, part in kept), dtype=index_dtype(longest, set_bytes))
    start = 0
    for number, (job, part) in enumerate(kept):
        rows = index[start : start + len(part.keys)]
        rows["key"] = [key.encode() for key in part.keys]
        rows["shard"], rows["split"] = number, job.split
        rows["offset"], rows["length"] = part.offsets, part.lengths
        rows["width"], rows["height"] = part.widths, part.heights
        rows["crc32"] = part.crcs
        if set_bytes:
            rows["labels"] = packed(cast("list[list[int]]", part.labels), 8 * set_bytes)
        else:
            rows["label"] = part.labels
        start += len(rows)
    return index


def _sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def list_line(path: str, reason: str) -> bytes:
    """Return a line of `rejected.tsv`, `converted.tsv` or `label_conflicts.tsv`: the path and the reason."""
    # A file name may hold characters that break a table.
    plain = [printable(text.replace("\\", "\\\\")) for text in (path, reason)]
    return os.fsencode("\t".join(plain) + "\n")
