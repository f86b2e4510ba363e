"""Accuracy lost by exporting: how often the file and the model are right, on the same photographs."""

from __future__ import annotations

from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from fasttrain.config.location import is_url, user_path
from fasttrain.data.crops import evaluation_crop
from fasttrain.evaluation.bootstrap import accuracy_intervals
from fasttrain.evaluation.metrics import Interval
from fasttrain.evaluation.paired import difference_interval
from fasttrain.evaluation.splits import as_model, batches, model_labels
from fasttrain.export.base import Run
from fasttrain.export.photographs import evenly
from fasttrain.model.factory import ModelSpec
from fasttrain.shards.format import MANIFEST
from fasttrain.shards.reader import ShardSet

_MOST = 2_000  # photographs, which give top1 to about 1.3 points
_BATCH = 32


@dataclass(frozen=True)
class Accuracy:
    """How many of `photographs` of the validation split the model and the exported file are right on, as shares.

    measure: "top1", or "exact match" for a multi-label model: the photographs whose classes are all right, and no
    others. The intervals are of 95 %, by the bootstrap; that of the difference, the file's share less the model's,
    draws both answers together.
    """

    measure: str
    photographs: int
    model: float
    model_interval: Interval
    exported: float
    exported_interval: Interval
    difference: float
    difference_interval: Interval


def labelled_shards(data: str | Path | None, spec: ModelSpec) -> ShardSet | None:
    """Return the shards in `data`; None where it is something else, or its labels aren't those of the model."""
    if data is None or not (is_url(data) or (user_path(data) / MANIFEST).exists()):
        return None
    shards = ShardSet.open(data)
    same_kind = shards.multi_label == spec.multi_label
    return shards if same_kind and set(shards.classes) <= set(spec.classes) else None


def measure_accuracy(shards: ShardSet, spec: ModelSpec, model: Run, exported: Run) -> Accuracy | None:
    """Show both the validation split of `shards`, uint8 [n, H, W, 3]; 2,000 evenly spaced ones where there are more.

    None where the split is empty.
    """
    ids = shards.ids("val")
    ids = ids[evenly(len(ids), _MOST)]
    if not len(ids):
        return None
    position = model_labels(shards.classes, spec.classes, str(shards.location))
    rights: list[list[torch.Tensor]] = [[], []]
    with closing(batches(shards, ids, evaluation_crop(spec.geometry), batch_size=_BATCH)) as loaded:
        for images, of_data, _ in loaded:
            labels = as_model(of_data, position, spec)
            for right, run in zip(rights, (model, exported), strict=True):
                right.append(_right(run(images), labels, spec))
    one, other = (torch.cat(right).numpy() for right in rights)
    only_one, only_other = int((one & ~other).sum()), int((other & ~one).sum())
    right_counts = np.array([one.sum(), other.sum()])
    intervals = accuracy_intervals(right_counts, np.full(2, len(one)))
    return Accuracy(
        "exact match" if spec.multi_label else "top1",
        len(one),
        float(one.mean()),
        (float(intervals[0, 0]), float(intervals[0, 1])),
        float(other.mean()),
        (float(intervals[1, 0]), float(intervals[1, 1])),
        (only_other - only_one) / len(one),
        difference_interval(only_one, only_other, len(one)),
    )


def _right(logits: torch.Tensor, labels: torch.Tensor, spec: ModelSpec) -> torch.Tensor:
    """Return bool [n]."""
    if not spec.multi_label:
        return logits.argmax(1) == labels
    thresholds = torch.tensor(spec.thresholds or [0.5] * len(spec.classes), dtype=torch.float64)
    return ((logits.sigmoid().double() >= thresholds) == (labels > 0.5)).all(1)
