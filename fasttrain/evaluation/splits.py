"""The photographs that a model is evaluated on: which split, which of the model's classes, in which batches."""

from __future__ import annotations

from collections.abc import Generator, Sequence
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from fasttrain.config.location import is_url, user_path
from fasttrain.errors import UserError
from fasttrain.photos.sources import divides_itself, require_known
from fasttrain.shards.format import ALL, MANIFEST, SPLITS
from fasttrain.text import nearest

if TYPE_CHECKING:
    import torch

    from fasttrain.loaders.base import Loader, LoaderSettings
    from fasttrain.shards.reader import ShardSet


def default_split(data: str | Path) -> str:
    """Return the split to evaluate where the user names none.

    A folder of class folders is evaluated whole: "all". Shards, and photographs in `train/`, `val/` and `test/` or with
    Food-101's `meta/`, have splits of their own: "val".
    """
    if is_url(data):
        return "val"
    folder = user_path(data)
    undivided = folder.is_dir() and not (folder / MANIFEST).exists() and not divides_itself(folder)
    return ALL if undivided else "val"


def check_split(split: str) -> None:
    """Raise UserError if `split` is neither a split's name nor "all"."""
    names = [*SPLITS, ALL]
    if split not in names:
        raise UserError(f"split = '{split}' is not one of {', '.join(names)}{nearest(split, names)}")


def split_ids(shards: ShardSet, split: str, data: str | Path) -> NDArray[np.int64]:
    """Return int64 [n], the ids of the photographs in `split`, which may be "all".

    Raises UserError where there are none; `data` is what the user gave.
    """
    if not len(shards):
        raise UserError(f"{data}: there is no photograph in it; give --data others")
    ids = np.arange(len(shards), dtype=np.int64) if split == ALL else shards.ids(split)
    if not len(ids):
        there = [f"{name} ({count:,})" for name, count in shards.manifest.splits.items() if count]
        raise UserError(f"{data}: no photograph in the {split} split; give another --split: {', '.join(there)} or all")
    return ids


def model_labels(classes: Sequence[str], known: Sequence[str], data: str | Path) -> NDArray[np.int64]:
    """Return int64 [len(classes)]: the position in `known`, the model's classes, of each of the data's `classes`.

    The data may lack some of the model's classes, and have them in another order. Raises UserError for a class that the
    model doesn't know.
    """
    require_known(classes, known, data)
    position = {name: number for number, name in enumerate(known)}
    return np.array([position[name] for name in classes], dtype=np.int64)


def batches(
    kind: type[Loader], shards: ShardSet, ids: NDArray[np.int64], settings: LoaderSettings
) -> Generator[tuple[torch.Tensor, torch.Tensor, torch.Tensor], None, None]:
    """Yield what a loader of class `kind` yields for `ids`, int64 [n], each split through a loader of its own.

    FFCV's files hold one split each, so no loader is asked for two.
    """
    splits = shards.index["split"][ids]
    for split in np.unique(splits):
        with closing(kind(shards, ids[splits == split], settings)) as loader:
            yield from loader
