"""From a data folder to the loaders of each split."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray

from fasttrain.data.crops import CenterCrop, RandomResizedCrop
from fasttrain.data.loader import Loader
from fasttrain.errors import UserError
from fasttrain.loaders import base
from fasttrain.loaders.read_ahead import require_room
from fasttrain.ranks import Ranks
from fasttrain.shards.format import SPLITS
from fasttrain.shards.reader import ShardSet

_NAMED = 5  # classes


@dataclass(frozen=True)
class Loaders:
    """One loader of the same class for each split; `test` is None where the shards have none."""

    train: base.Loader
    val: base.Loader
    test: base.Loader | None

    def bad_samples(self, ranks: Ranks) -> dict[str, int]:
        """`bad_samples`: those left out of this epoch's training and validation, on all ranks; empty where they stop
        the run."""
        if self.train.settings.on_bad_sample == "error":
            return {}
        return {"bad_samples": sum(ranks.gather(self.train.bad_count + self.val.bad_count))}

    def close(self) -> None:
        for loader in (self.train, self.val, self.test):
            if loader is not None:
                loader.close()


def make_loaders(
    shards: ShardSet, crop: RandomResizedCrop, *, shuffle: Literal[True, "shards"], **options: Any
) -> Loaders:
    """Return a loader of each split, with `Loader`'s `options`. `crop` is the training split's; others are centred.

    Raises UserError where there is nothing to train on or to validate with, or the cache is too small for the shards.
    """
    require_room(shards, "shards" if shuffle == "shards" else "full")
    ids: dict[str, NDArray[np.int64]] = {split: shards.ids(split) for split in SPLITS}
    if len(shards.classes) == 1 and not shards.multi_label:
        raise UserError(f"{shards.location}: one class only, {shards.classes[0]!r}; a classifier needs two")
    fraction = shards.manifest.settings.get("val_fraction", 0)
    lone = len(ids["train"]) <= np.count_nonzero(shards.class_counts("train"))
    if lone:
        room = "give a class two photographs or more"
    elif fraction:  # which draws at least one of each class, unless the source has some of its own
        room = "its validation folder is empty, or all in it is broken: fill it, or remove it"
    else:
        room = "give a --val-fraction above 0, such as 0.2"
    for split, mend in (("train", "add photographs"), ("val", room)):
        if not len(ids[split]):
            raise UserError(f"{shards.location}: no photograph in the {split} split; convert again: {mend}")
    center = CenterCrop(crop.size)
    return Loaders(
        train=Loader(shards, split="train", crop=crop, shuffle=shuffle, with_ids=True, **options),
        val=Loader(shards, split="val", crop=center, with_ids=True, **options),
        test=Loader(shards, split="test", crop=center, with_ids=True, **options) if len(ids["test"]) else None,
    )


def photographs_of(shards: ShardSet) -> str:
    """Return "train 800, val 200 photographs" for the splits that have some."""
    return ", ".join(f"{name} {count:,}" for name, count in shards.manifest.splits.items() if count) + " photographs"


def absent_classes(shards: ShardSet) -> list[str]:
    """A line for each split that is there without some of the classes, and for what that means."""
    lines = []
    for split in SPLITS:
        counts = shards.class_counts(split)
        absent = [name for name, count in zip(shards.classes, counts, strict=True) if not count]
        if absent and len(absent) < len(counts):
            named = ", ".join(absent[:_NAMED]) + (f" and {len(absent) - _NAMED:,} more" * (len(absent) > _NAMED))
            means = "can't be learnt" if split == "train" else "are left out of the macro averages"
            lines.append(f"{split}: {len(absent):,} of {len(counts):,} classes have no photograph and {means}: {named}")
    return lines


def balanced_weights(shards: ShardSet) -> torch.Tensor:
    """float32 [classes]: n / (classes * n_class) over the training split, as scikit-learn's "balanced".

    Of multi-label shards the photographs without a class over those with it, as `pos_weight` takes them.
    """
    counts, samples = shards.class_counts("train"), len(shards.ids("train"))
    if shards.multi_label:
        return torch.from_numpy((samples - counts).clip(1) / counts.clip(1)).float()
    return torch.from_numpy(samples / (len(counts) * np.maximum(counts, 1))).float()
