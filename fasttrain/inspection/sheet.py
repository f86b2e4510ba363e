"""Draw contact sheets of duplicates, and of photographs with doubtful labels, for people to judge."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from fasttrain.config.values import CacheSize
from fasttrain.inspection.findings import Inspection
from fasttrain.inspection.labels import LabelIssues
from fasttrain.report.contact_sheet import contact_sheet, save_sheet
from fasttrain.shards.reader import ShardSet
from fasttrain.text import counted

SIDE = 160  # px
MOST = 60  # pairs


def write_duplicates_sheet(found: Inspection, path: Path, cache_size: CacheSize | None = None) -> int:
    """Draw the first `MOST` pairs of duplicates side by side into the picture file `path`. Return how many were drawn.

    If there are none, return 0 and write no file. Raises UserError if the file can't be written.
    """
    if found.duplicates is None or not found.duplicates.pairs:
        return 0
    shards = ShardSet.open(found.location, cache_size)
    pairs = found.duplicates.pairs[:MOST]
    gap = np.full((SIDE, 4, 3), 255, np.uint8)
    pictures = [
        np.concatenate([_photograph(shards, pair.first.id), gap, _photograph(shards, pair.second.id)], axis=1)
        for pair in pairs
    ]
    captions = [
        f"{pair.distance} bits: {pair.first.split} {pair.first.key}\n{pair.second.split} {pair.second.key}"
        for pair in pairs
    ]
    title = f"{found.location}: {len(pairs):,} of {counted(found.duplicates.total, 'pair')}"
    save_sheet(contact_sheet(np.stack(pictures), captions, title=title, columns=min(4, len(pairs))), path)
    return len(pairs)


def write_labels_sheet(found: LabelIssues, path: Path, cache_size: CacheSize | None = None) -> int:
    """Draw the first `MOST` doubtful labels into the picture file `path`. Return how many were drawn.

    Each photograph is shown with its label and the suggested one. If there are none, return 0 and write no file. Raises
    UserError if the file can't be written.
    """
    issues = found.issues[:MOST]
    if not issues:
        return 0
    shards = ShardSet.open(found.location, cache_size)
    pictures = np.stack([_photograph(shards, each.sample) for each in issues])
    captions = [f"{each.given} → {each.suggested}\n{each.score:+.2f} {each.file}" for each in issues]
    title = f"{found.location}: {len(issues):,} of {len(found.issues):,} doubtful labels, the surest first"
    save_sheet(contact_sheet(pictures, captions, title=title), path)
    return len(issues)


def _photograph(shards: ShardSet, sample: int) -> NDArray[np.uint8]:
    """Return the photograph `sample`, padded with white to a square, uint8 [SIDE, SIDE, 3]."""
    from PIL import Image, ImageOps

    data = shards.bytes(sample)
    if shards.raw:
        height, width = shards.sizes()[sample].tolist()
        image = Image.fromarray(np.frombuffer(data, np.uint8).reshape(height, width, 3))
    else:
        image = Image.open(io.BytesIO(data))
        image.draft("RGB", (SIDE, SIDE))
    return np.asarray(ImageOps.pad(image.convert("RGB"), (SIDE, SIDE), color="white"))
