"""From a data folder to the loaders of each split."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray

from fasttrain.errors import UserError
from fasttrain.loaders.base import Loader, LoaderSettings
from fasttrain.loaders.read_ahead import require_room
from fasttrain.shards.format import SPLITS
from fasttrain.shards.reader import ShardSet


@dataclass(frozen=True)
class Loaders:
    """One loader of the same class for each split; `test` is None where the shards have none."""

    train: Loader
    val: Loader
    test: Loader | None

    def close(self) -> None:
        for loader in (self.train, self.val, self.test):
            if loader is not None:
                loader.close()


def make_loaders(shards: ShardSet, kind: type[Loader], training: LoaderSettings) -> Loaders:
    """`training` holds the training split's settings; the others get centre crops.

    Raises UserError where there is nothing to train on or to validate with, or the cache is too small for the shards.
    """
    require_room(shards, training.shuffle)
    ids: dict[str, NDArray[np.int64]] = {split: shards.ids(split) for split in SPLITS}
    for split, mend in (("train", "add photographs"), ("val", "use a greater --val-fraction")):
        if not len(ids[split]):
            raise UserError(f"{shards.location}: no photograph in the {split} split; convert again: {mend}")
    evaluation = replace(training, crop=None)
    return Loaders(
        train=kind(shards, ids["train"], training),
        val=kind(shards, ids["val"], evaluation),
        test=kind(shards, ids["test"], evaluation) if len(ids["test"]) else None,
    )


def balanced_weights(shards: ShardSet) -> torch.Tensor:
    """float32 [classes]: n / (classes * n_class) over the training split, as scikit-learn's "balanced"."""
    labels = shards.labels()[shards.ids("train")]
    counts = np.bincount(labels, minlength=len(shards.classes))
    return torch.from_numpy(len(labels) / (len(counts) * np.maximum(counts, 1))).float()
