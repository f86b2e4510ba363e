"""Choose the photographs that a model is evaluated on, match their classes with the model's, and load them."""

from __future__ import annotations

from collections.abc import Generator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from fasttrain.config.location import is_url, user_path
from fasttrain.errors import UserError
from fasttrain.photos.sources import defines_splits, require_known
from fasttrain.shards.format import ALL, MANIFEST, SPLITS

if TYPE_CHECKING:
    import torch

    from fasttrain.data.crops import PlannedCrop
    from fasttrain.model.factory import ModelSpec
    from fasttrain.shards.reader import ShardSet

_IN_ORDER: dict[str, Any] = {"shuffle": False, "hflip": 0, "with_ids": True, "rank": 0, "world_size": 1}


def default_split(data: str | Path) -> str:
    """Return the split to evaluate if the user names none: "val" or "all".

    It is "val" for data with splits: shards, photographs in `train/`, `val/` and `test/`, and Food-101 with its
    `meta/`. It is "all" for a folder of class folders.
    """
    if is_url(data):
        return "val"
    folder = user_path(data)
    undivided = folder.is_dir() and not (folder / MANIFEST).exists() and not defines_splits(folder)
    return ALL if undivided else "val"


def model_labels(classes: Sequence[str], known: Sequence[str], data: str | Path) -> NDArray[np.int64]:
    """Return the model's label of each of the data's classes, int64 [len(classes)].

    `classes`: the names of the data's classes. `known`: the names of the model's classes. `data`: the data's location,
    for the message. The data may have fewer classes than the model, in another order. Raises UserError for a class that
    the model doesn't know.
    """
    require_known(classes, known, data)
    label_of = {name: label for label, name in enumerate(known)}
    return np.array([label_of[name] for name in classes], dtype=np.int64)


def as_model(labels: torch.Tensor, position: NDArray[np.int64], spec: ModelSpec) -> torch.Tensor:
    """Return labels of the data as labels of the model: int64 [n], or float32 [n, classes] for sets of classes.

    `labels`: int64 [n], or float32 [n, the data's classes] for sets of classes. `position`: int64 [the data's classes],
    the result of `model_labels`.
    """
    import torch

    model_label = torch.from_numpy(position)
    if labels.ndim == 1:
        return model_label[labels]
    return labels.new_zeros((len(labels), len(spec.classes))).index_copy_(1, model_label, labels)


def require_same_kind(data_is_multi_label: bool, model_is_multi_label: bool, data: str | Path) -> None:
    """Raise UserError if only the data or only the model is multi-label."""
    if data_is_multi_label and not model_is_multi_label:
        raise UserError(
            f"{data} is multi-label, but the model predicts one class per photograph; give other data as --data"
        )
    if model_is_multi_label and not data_is_multi_label:
        raise UserError(
            f"{data} has one class per photograph, but the model is multi-label; convert the photographs with "
            "--multi-label"
        )


def batches(
    shards: ShardSet, ids: NDArray[np.int64], crop: PlannedCrop | int, **options: Any
) -> Generator[tuple[torch.Tensor, torch.Tensor, torch.Tensor], None, None]:
    """Yield `(images, labels, ids)` for the photographs `ids`, without shuffling, as `fasttrain.Loader` does.

    `ids`: int64 [n], row numbers of the shards' index. `crop`: a crop as `Loader` takes it, or the side of a centre
    crop in pixels. `options`: other arguments of `Loader`. This process gets all photographs, even under
    `torch.distributed`.

    The order is that of `ids` within each split, one split after the other, because FFCV's files hold one split each.
    So match results to photographs by the `ids` that are yielded.
    """
    from fasttrain.data.crops import as_crop
    from fasttrain.data.loader import Loader

    splits = shards.index["split"][ids]
    for number in np.unique(splits):
        chosen = {"split": SPLITS[number], "ids": ids[splits == number], "crop": as_crop(crop, training=False)}
        with Loader(shards, **chosen, **_IN_ORDER, **options) as loader:
            yield from loader
