"""Build the loaders of each split from a data folder."""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray

from fasttrain.data.crops import PlannedCrop, RandomResizedCrop
from fasttrain.data.loader import Loader
from fasttrain.errors import UserError
from fasttrain.evaluation.splits import batches
from fasttrain.loaders import base
from fasttrain.loaders.read_ahead import require_room
from fasttrain.loaders.registry import choose_loader
from fasttrain.ranks import Ranks
from fasttrain.shards.format import SPLITS
from fasttrain.shards.reader import ShardSet
from fasttrain.text import counted

_NAMED = 5  # classes that a line names at most


@dataclass(frozen=True)
class Loaders:
    """The loaders of the splits, all of the same back end. `test` is None if the shards have no test split."""

    train: base.Loader
    val: base.Loader
    test: base.Loader | None

    def bad_samples(self, ranks: Ranks, validated: bool) -> dict[str, int]:
        """Return `{"bad_samples": n}`: how many samples were left out of this epoch on all ranks.

        Samples of the training split are counted, and if the epoch was `validated`, those of the validation split, too.
        Returns {} if the run is set to stop at a bad sample.
        """
        if self.train.settings.on_bad_sample == "error":
            return {}
        return {"bad_samples": sum(ranks.gather(self.train.bad_count + self.val.bad_count * validated))}

    def close(self) -> None:
        """Close all loaders."""
        for loader in (self.train, self.val, self.test):
            if loader is not None:
                loader.close()


def make_loaders(
    shards: ShardSet,
    crop: RandomResizedCrop,
    evaluated: PlannedCrop,
    *,
    shuffle: Literal[True, "shards"],
    hflip: float,
    vflip: float,
    sampling: Literal["none", "balanced"] = "none",
    **options: Any,
) -> Loaders:
    """Return a loader for each split.

    `crop`, the flips, `shuffle` and `sampling` apply to the training split only. The other splits are read in order
    with the crop `evaluated`. `options`: further arguments of `Loader`, the same for all splits.

    Raises UserError if there is nothing to train on or to validate with, or if the cache is too small for the shards.
    """
    require_room(shards, "shards" if shuffle == "shards" else "full")
    ids: dict[str, NDArray[np.int64]] = {split: shards.ids(split) for split in SPLITS}
    if len(shards.classes) == 1 and not shards.multi_label:
        only = repr(shards.classes[0])
        raise UserError(
            f"{shards.location}: one class only, {only}; a classifier needs two: add a class and convert again"
        )
    fraction = shards.manifest.settings.get("val_fraction", 0)
    one_per_class = len(ids["train"]) <= np.count_nonzero(shards.class_counts("train"))
    if one_per_class:
        val_fix = ": each class has one photograph, which goes into train; add photographs and convert again"
    elif fraction:  # draws at least one of each class, unless the source has its own validation folder
        val_fix = ": the validation folder has no readable photograph; fill or remove it, and convert again"
    else:
        val_fix = "; convert again with a --val-fraction above 0, such as 0.2"
    for split, fix in (("train", "; add photographs and convert again"), ("val", val_fix)):
        if not len(ids[split]):
            raise UserError(f"{shards.location}: no photograph in the {split} split{fix}")
    return Loaders(
        train=Loader(
            shards,
            split="train",
            crop=crop,
            hflip=hflip,
            vflip=vflip,
            shuffle=shuffle,
            sampling=sampling,
            with_ids=True,
            **options,
        ),
        val=Loader(shards, split="val", crop=evaluated, with_ids=True, **options),
        test=Loader(shards, split="test", crop=evaluated, with_ids=True, **options) if len(ids["test"]) else None,
    )


def make_refit_loader(
    shards: ShardSet, crop: RandomResizedCrop, *, shuffle: Literal[True, "shards"], loader: str, **options: Any
) -> base.Loader:
    """Return a loader of the training and validation splits together.

    `options`: further arguments of `Loader`. FFCV reads one split at a time, so the native loader takes its place, with
    the same photographs and crops.
    """
    ids = np.sort(np.concatenate([shards.ids("train"), shards.ids("val")]))
    if choose_loader(loader, shards, str(options["device"]))[0].name == "ffcv":
        loader = "native"
    return Loader(shards, split="train", ids=ids, crop=crop, shuffle=shuffle, with_ids=True, loader=loader, **options)


def photographs_in_order(
    loader: base.Loader, shards: ShardSet, ids: NDArray[np.int64], crop: PlannedCrop, device: torch.device
) -> Generator[tuple[torch.Tensor, torch.Tensor, torch.Tensor], None, None]:
    """Yield `(images, labels, ids)` of each batch of the photographs `ids`, without shuffling.

    `ids`: int64 [n], row numbers of the index of `shards`. Batch size, back end, threads and the treatment of bad
    samples are those of `loader`. The order is that of `evaluation.splits.batches`.
    """
    settings = loader.settings
    yield from batches(
        shards,
        ids,
        crop,
        batch_size=settings.batch_size,
        loader=loader.name,
        workers=settings.workers,
        device=device,
        on_bad_sample=settings.on_bad_sample,
        report=settings.report,
    )


def photographs_of(shards: ShardSet) -> str:
    """Return the sizes of the splits that aren't empty as text, such as "train 800, val 200 photographs"."""
    return ", ".join(f"{name} {count:,}" for name, count in shards.split_sizes().items() if count) + " photographs"


def absent_classes(shards: ShardSet) -> list[str]:
    """Return a line for each split that has no photographs of some classes.

    The line names these classes and the consequence. A split without any photographs gets no line.
    """
    lines = []
    for split in SPLITS:
        counts = shards.class_counts(split)
        absent = [name for name, count in zip(shards.classes, counts, strict=True) if not count]
        if absent and len(absent) < len(counts):
            named = ", ".join(absent[:_NAMED]) + (f" and {len(absent) - _NAMED:,} more" * (len(absent) > _NAMED))
            means = "training can't learn" if split == "train" else "the macro averages leave out"
            classes = counted(len(absent), "class", "classes")
            lines.append(f"{split}: no photograph of {classes}, which {means}: {named}")
    return lines


def balanced_weights(shards: ShardSet) -> torch.Tensor:
    """Return the weight of each class, float32 [classes], from its number of photographs in the training split.

    The weights are scikit-learn's "balanced" ones: n / (classes * n_class). For multi-label data a weight is the number
    of photographs without the class divided by the number with it.
    """
    counts, samples = shards.class_counts("train"), len(shards.ids("train"))
    if shards.multi_label:
        return torch.from_numpy((samples - counts).clip(1) / counts.clip(1)).float()
    return torch.from_numpy(samples / (len(counts) * np.maximum(counts, 1))).float()
