"""The photographs that a model is evaluated on: which split, which of the model's classes, in which batches."""

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
    """Return the split to evaluate where the user names none.

    A folder of class folders is evaluated whole: "all". Shards, and photographs in `train/`, `val/` and `test/` or with
    Food-101's `meta/`, have splits of their own: "val".
    """
    if is_url(data):
        return "val"
    folder = user_path(data)
    undivided = folder.is_dir() and not (folder / MANIFEST).exists() and not defines_splits(folder)
    return ALL if undivided else "val"


def model_labels(classes: Sequence[str], known: Sequence[str], data: str | Path) -> NDArray[np.int64]:
    """Return int64 [len(classes)]: the position in `known`, the model's classes, of each of the data's `classes`.

    The data may lack some of the model's classes, and have them in another order. Raises UserError for a class that the
    model doesn't know.
    """
    require_known(classes, known, data)
    position = {name: number for number, name in enumerate(known)}
    return np.array([position[name] for name in classes], dtype=np.int64)


def as_model(labels: torch.Tensor, position: NDArray[np.int64], spec: ModelSpec) -> torch.Tensor:
    """Return the data's labels as the model's; `position` is that of `model_labels`."""
    import torch

    where = torch.from_numpy(position)
    if labels.ndim == 1:
        return where[labels]
    return labels.new_zeros((len(labels), len(spec.classes))).index_copy_(1, where, labels)


def require_same_kind(data_is_multi_label: bool, model_is_multi_label: bool, data: str | Path) -> None:
    """Raise UserError where photographs have one class and the model says sets, or the other way round."""
    if data_is_multi_label and not model_is_multi_label:
        raise UserError(f"{data} has sets of classes, and the model says one class a photograph; give --data others")
    if model_is_multi_label and not data_is_multi_label:
        raise UserError(f"{data} has one class a photograph, and the model says sets; convert it with --multi-label")


def batches(
    shards: ShardSet, ids: NDArray[np.int64], crop: PlannedCrop | int, **options: Any
) -> Generator[tuple[torch.Tensor, torch.Tensor, torch.Tensor], None, None]:
    """Yield `(images, labels, ids)` of `ids`, int64 [n], with `Loader`'s other `options`.

    crop: how they are seen, or the size of the usual centre crop.

    All of them come to this process, also under `torch.distributed`. Each split goes through a loader of its own, as
    FFCV's files hold one split each.
    """
    from fasttrain.data.crops import as_crop
    from fasttrain.data.loader import Loader

    splits = shards.index["split"][ids]
    for number in np.unique(splits):
        chosen = {"split": SPLITS[number], "ids": ids[splits == number], "crop": as_crop(crop, training=False)}
        with Loader(shards, **chosen, **_IN_ORDER, **options) as loader:
            yield from loader
