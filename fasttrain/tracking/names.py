"""The names of a run's metrics: `train/…`, `val/…`, `val_best/…`, `test/…` and `speed/…`, the same in every tracker.

`val_best/…` are validation metrics of the weights that the run keeps. Trackers sort groups by name, so the curves of
`train` and `val` come before these single numbers. A metric that a callback logs keeps its own name.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

EPOCH = {
    "train_loss": "train/loss",
    "train_top1": "train/top1",
    "train_subset_accuracy": "train/subset_accuracy",
    "learning_rate": "train/learning_rate",
    "l2": "train/l2",
    "skipped_steps": "train/skipped_steps",
    "bad_samples": "train/bad_samples",
    "val_loss": "val/loss",
    "val_top1": "val/top1",
    "val_map": "val/map",
    "val_micro_f1": "val/micro_f1",
    "val_macro_f1": "val/macro_f1",
    "val_subset_accuracy": "val/subset_accuracy",
    "val_hamming_loss": "val/hamming_loss",
    "img/s": "speed/images_per_second",
    "wait_share": "speed/wait_share",
    "epoch_seconds": "speed/epoch_seconds",
    "cuda_peak_bytes": "speed/cuda_peak_bytes",
}
"""The metric's name for each field of an epoch's record in `history.json`."""

NOT_LOGGED = frozenset({"epoch", "improved", "image_size", "phase"})
"""Fields of an epoch's record that are not metrics."""

FINAL = (
    *("loss", "top1", "top3", "top5", "macro_precision", "macro_recall", "macro_f1"),
    *("weighted_precision", "weighted_f1", "ece", "uncalibrated_ece"),
    *("map", "micro_f1", "subset_accuracy", "hamming_loss"),
)
"""The metrics of the final evaluation. `accuracy` and `weighted_recall` equal `top1`, and `samples` is constant."""

_RUN = {"best_epoch": "val_best/epoch", "training_seconds": "speed/training_seconds"}
_OLD_PREFIXES = {
    **dict.fromkeys(("best_epoch_val_", "averaged_val_", "best_val_"), "val_best/"),
    "best_test_": "test/",
}


def epoch_metrics(record: Mapping[str, Any]) -> dict[str, float]:
    """Return the metrics in an epoch's `record` of `history.json`, by name."""
    numbers = _numbers(record)
    return {EPOCH.get(name, name): value for name, value in numbers.items() if name not in NOT_LOGGED}


def final_metrics(evaluation: Mapping[str, Any]) -> dict[str, float]:
    """Return the metrics in `evaluation.json`, by name.

    Top-3 accuracy is left out with up to 3 classes, and top-5 accuracy with up to 5, because they are then always 1.
    """
    group = "test" if evaluation["split"] == "test" else "val_best"
    classes = len(evaluation.get("classes") or ()) or math.inf
    numbers = {"loss": math.nan, **_numbers(evaluation)}  # JSON has no number for a loss that is not finite
    found = {_RUN[name]: numbers[name] for name in _RUN if name in numbers}
    for prefix in ("best_epoch_val_", "averaged_val_"):  # an average replaces the best epoch's weights
        found |= {f"val_best/{name.removeprefix(prefix)}": numbers[name] for name in numbers if name.startswith(prefix)}
    constant = {f"top{count}" for count in (3, 5) if classes <= count}
    return found | {f"{group}/{name}": numbers[name] for name in FINAL if name in numbers and name not in constant}


def current_name(name: str) -> str:
    """Return the current name of the metric `name`, which may be a name that an older version used."""
    for prefix, group in _OLD_PREFIXES.items():
        if name.startswith(prefix):
            return group + name.removeprefix(prefix)
    return EPOCH.get(name) or _RUN.get(name, name)


def current_names(metrics: Mapping[str, float]) -> dict[str, float]:
    """Return a run's `metrics`, which an older version may have logged, by the names that metrics have now."""
    order = list(_OLD_PREFIXES)

    def rank(name: str) -> int:  # if a metric has two old names, the later one wins: that of the final weights
        return next((order.index(prefix) for prefix in order if name.startswith(prefix)), len(order))

    return {current_name(name): metrics[name] for name in sorted(metrics, key=rank)}


def old_epoch_metrics(record: Mapping[str, Any]) -> dict[str, float]:
    """Return the metrics in an epoch's `record` of `history.json`, by the names that older versions used."""
    return {name: value for name, value in _numbers(record).items() if name != "epoch"}


def old_final_metrics(evaluation: Mapping[str, Any]) -> dict[str, float]:
    """Return the metrics in `evaluation.json`, by the names that older versions used."""
    numbers = _numbers(evaluation)
    without_prefix = ("training_seconds", "best_epoch", "averaged", "refit")
    plain = {name: numbers.pop(name) for name in list(numbers) if name.startswith(without_prefix)}
    figures = {"loss": math.nan, **numbers}
    return {f"best_{evaluation['split']}_{name}": value for name, value in figures.items()} | plain


def _numbers(record: Mapping[str, Any]) -> dict[str, float]:
    return {name: float(value) for name, value in record.items() if isinstance(value, (int, float))}
