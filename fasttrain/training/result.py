"""`TrainResult`: what a finished run returns."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fasttrain.evaluation.label_sets import SetEvaluation
from fasttrain.evaluation.metrics import Evaluation

RECORDED = frozenset(
    {
        *("epoch", "train_loss", "train_top1", "val_loss", "val_top1", "learning_rate", "l2", "improved"),
        *(
            "train_subset_accuracy",
            "val_subset_accuracy",
            "val_map",
            "val_micro_f1",
            "val_macro_f1",
            "val_hamming_loss",
        ),
        *("epoch_seconds", "img/s", "wait_share", "image_size", "bad_samples", "cuda_peak_bytes", "skipped_steps"),
    }
)
"""The metrics of an epoch that every run records; callbacks log others."""


@dataclass(frozen=True)
class TrainResult:
    """What a finished run leaves: its folder, one record an epoch, the final evaluation of the best epoch's weights."""

    folder: Path
    history: list[dict[str, Any]]
    best_epoch: int
    evaluation: Evaluation | SetEvaluation
    seconds: float
    mlflow_run_id: str | None
