"""Measure the accuracy that a model loses by exporting: compare model and file on the same photographs."""

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

_MOST = 2_000  # photographs, enough to measure top1 to about 1.3 points
_BATCH = 32


@dataclass(frozen=True)
class Accuracy:
    """The accuracies of the model and of the exported file on the same photographs of the validation split.

    `measure`: the kind of accuracy, "top1", or for a multi-label model "exact match", the share of photographs whose
    set of classes is predicted exactly. `photographs`: their number. `model`: the model's accuracy, in [0, 1].
    `exported`: the file's accuracy, in [0, 1]. `difference`: `exported` minus `model`, in [-1, 1].

    Each `..._interval` is a 95 % bootstrap interval, (low, high). `difference_interval` is paired: each resample holds
    the same photographs for model and file.
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
    """Return the shards `data`, if the accuracy of the model that `spec` describes can be measured on them.

    Return None if `data` isn't a folder or URL of shards, if it has classes that the model doesn't know, or if only one
    of data and model is multi-label.
    """
    if data is None or not (is_url(data) or (user_path(data) / MANIFEST).exists()):
        return None
    shards = ShardSet.open(data)
    same_kind = shards.multi_label == spec.multi_label
    return shards if same_kind and set(shards.classes) <= set(spec.classes) else None


def measure_accuracy(shards: ShardSet, spec: ModelSpec, model: Run, exported: Run) -> Accuracy | None:
    """Measure the accuracies of `model` and of `exported`, which runs the file, on the split "val" of `shards`.

    Both functions take pixels, uint8 [n, H, W, 3], and return logits, float32 [n, classes]. At most 2,000 photographs,
    evenly spaced in the split, are used. Return None if the split is empty.
    """
    ids = shards.ids("val")
    ids = ids[evenly(len(ids), _MOST)]
    if not len(ids):
        return None
    position = model_labels(shards.classes, spec.classes, str(shards.location))
    parts: list[list[torch.Tensor]] = [[], []]
    with closing(batches(shards, ids, evaluation_crop(spec.geometry), batch_size=_BATCH)) as loaded:
        for images, data_labels, _ in loaded:
            labels = as_model(data_labels, position, spec)
            for part, run in zip(parts, (model, exported), strict=True):
                part.append(_right(run(images), labels, spec))
    by_model, by_file = (torch.cat(part).numpy() for part in parts)
    only_model, only_file = int((by_model & ~by_file).sum()), int((by_file & ~by_model).sum())
    right_counts = np.array([by_model.sum(), by_file.sum()])
    intervals = accuracy_intervals(right_counts, np.full(2, len(by_model)))
    return Accuracy(
        "exact match" if spec.multi_label else "top1",
        len(by_model),
        float(by_model.mean()),
        (float(intervals[0, 0]), float(intervals[0, 1])),
        float(by_file.mean()),
        (float(intervals[1, 0]), float(intervals[1, 1])),
        (only_file - only_model) / len(by_model),
        difference_interval(only_model, only_file, len(by_model)),
    )


def _right(logits: torch.Tensor, labels: torch.Tensor, spec: ModelSpec) -> torch.Tensor:
    """Return whether each photograph is classified correctly, bool [n]."""
    if not spec.multi_label:
        return logits.argmax(1) == labels
    thresholds = torch.tensor(spec.thresholds or [0.5] * len(spec.classes), dtype=torch.float64)
    return ((logits.sigmoid().double() >= thresholds) == (labels > 0.5)).all(1)
