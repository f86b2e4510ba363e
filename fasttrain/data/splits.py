"""Look up the splits of a data set by name."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from fasttrain.errors import UserError
from fasttrain.shards.format import ALL, SPLITS
from fasttrain.shards.reader import ShardSet
from fasttrain.text import nearest


def check_split(split: str) -> None:
    """Raise UserError if `split` is neither a split's name nor "all"."""
    names = [*SPLITS, ALL]
    if split not in names:
        raise UserError(f"split = '{split}' is not one of {', '.join(names)}{nearest(split, names)}")


def split_ids(shards: ShardSet, split: str, data: str | Path) -> NDArray[np.int64]:
    """Return the ids of the photographs in `split`, which may be "all", int64 [n].

    Raises UserError if there are none. `data`: the data's location, for the message.
    """
    if not len(shards):
        raise UserError(f"{data}: there are no photographs; give another --data")
    ids = np.arange(len(shards), dtype=np.int64) if split == ALL else shards.ids(split)
    if not len(ids):
        splits = [f"{name} ({count:,})" for name, count in shards.manifest.splits.items() if count]
        raise UserError(f"{data}: no photograph in the {split} split; give another --split: {', '.join(splits)} or all")
    return ids
