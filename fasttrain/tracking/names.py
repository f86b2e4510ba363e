"""The names of a run's metrics: `train/…`, `val/…`, `val_best/…`, `test/…` and `speed/…`, the same in every tracker.

`val_best/…` are validation figures of the weights that the run keeps. The pages of trackers sort groups by name, so the
curves of `train` and `val` come before these single numbers. A metric that a callback logs keeps its own name.
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
"""The metric of each field of an epoch's record in `history.json`."""

NOT_LOGGED = frozenset({"epoch", "improved", "image_size", "phase"})
"""Fields of an epoch's record that are no metrics: the step itself, a flag, a setting, a word."""

FINAL = (
    *("loss", "top1", "top3", "top5", "macro_precision", "macro_recall", "macro_f1"),
    *("weighted_precision", "weighted_f1", "ece", "uncalibrated_ece"),
    *("map", "micro_f1", "subset_accuracy", "hamming_loss"),
)
"""The figures of the final evaluation. `accuracy` and `weighted_recall` are `top1` again; `samples` is a constant."""

_RUN = {"best_epoch": "val_best/epoch", "training_seconds": "speed/training_seconds"}
_OLD_PREFIXES = {
    **dict.fromkeys(("best_epoch_val_", "averaged_val_", "best_val_"), "val_best/"),
    "best_test_": "test/",
}


def epoch_metrics(record: Mapping[str, Any]) -> dict[str, float]:
    """Return the metrics in one record of `history.json`."""
    numbers = _numbers(record)
    return {EPOCH.get(name, name): value for name, value in numbers.items() if name not in NOT_LOGGED}


def final_metrics(evaluation: Mapping[str, Any]) -> dict[str, float]:
    """Return the metrics in `evaluation.json`, without a top-K over K classes or fewer, which is always 1."""
    group = "test" if evaluation["split"] == "test" else "val_best"
    classes = len(evaluation.get("classes") or ()) or math.inf
    numbers = {"loss": math.nan, **_numbers(evaluation)}  # JSON holds no loss that isn't finite
    found = {_RUN[name]: numbers[name] for name in _RUN if name in numbers}
    for prefix in ("best_epoch_val_", "averaged_val_"):  # an average replaces the best epoch's weights
        found |= {f"val_best/{name.removeprefix(prefix)}": numbers[name] for name in numbers if name.startswith(prefix)}
    constant = {f"top{count}" for count in (3, 5) if classes <= count}
    return found | {f"{group}/{name}": numbers[name] for name in FINAL if name in numbers and name not in constant}


def current_name(name: str) -> str:
    """Return today's name of a metric that an older version may have logged."""
    for prefix, group in _OLD_PREFIXES.items():
        if name.startswith(prefix):
            return group + name.removeprefix(prefix)
    return EPOCH.get(name) or _RUN.get(name, name)


def current_names(metrics: Mapping[str, float]) -> dict[str, float]:
    """Return a run's metrics by today's names, whichever version logged them."""
    order = list(_OLD_PREFIXES)

    def rank(name: str) -> int:  # of two old names of one metric, the one that is closer to the final weights is later
        return next((order.index(prefix) for prefix in order if name.startswith(prefix)), len(order))

    return {current_name(name): metrics[name] for name in sorted(metrics, key=rank)}


def old_epoch_metrics(record: Mapping[str, Any]) -> dict[str, float]:
    """Return the metrics in one record of `history.json` by the names that older versions logged."""
    return {name: value for name, value in _numbers(record).items() if name != "epoch"}


def old_final_metrics(evaluation: Mapping[str, Any]) -> dict[str, float]:
    """Return the metrics in `evaluation.json` by the names that older versions logged."""
    numbers = _numbers(evaluation)
    apart = ("training_seconds", "best_epoch", "averaged", "refit")
    own = {name: numbers.pop(name) for name in list(numbers) if name.startswith(apart)}
    figures = {"loss": math.nan, **numbers}
    return {f"best_{evaluation['split']}_{name}": value for name, value in figures.items()} | own


def _numbers(record: Mapping[str, Any]) -> dict[str, float]:
    return {name: float(value) for name, value in record.items() if isinstance(value, (int, float))}
