"""`TrainResult`: the result of a finished run."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fasttrain.config.monitor import MONITORS
from fasttrain.evaluation.label_sets import SetEvaluation
from fasttrain.evaluation.metrics import Evaluation
from fasttrain.text import counted

RECORDED = frozenset(
    {
        *("epoch", "train_loss", "train_top1", "val_loss", "val_top1", "val_macro_f1", "learning_rate", "l2"),
        *("train_subset_accuracy", "val_subset_accuracy", "val_map", "val_micro_f1", "val_hamming_loss"),
        *("improved", "epoch_seconds", "img/s", "wait_share", "image_size", "bad_samples", "cuda_peak_bytes"),
        *("skipped_steps", "phase"),
    }
)
"""The fields of an epoch's record that the run itself writes. Callbacks can't log metrics with these names."""


@dataclass(frozen=True)
class Averaged:
    """An average of the weights of several epochs.

    `epochs`: the numbers of these epochs, from 1. `value`: the monitored metric of the average on the validation split.
    """

    epochs: tuple[int, ...]
    value: float

    @property
    def description(self) -> str:
        """Return a phrase such as "average of epochs 3, 5"."""
        return f"average of epochs {', '.join(map(str, self.epochs))}"


@dataclass(frozen=True)
class TrainResult:
    """The result of a run: its folder, a record per epoch, and the final evaluation.

    `history`: one record per epoch, as in `history.json`. `best_epoch`: the number, from 1, of the epoch with the best
    `monitor`, a metric of the validation split. `evaluation`: the metrics of the saved weights on the test split, or on
    the validation split if there is no test split. `seconds`: the time of training, validation and the final
    evaluation. `total_seconds`: the time of the run, which includes loading, cached features and the report; None for a
    resumed run. `mlflow_run_id`: the id in MLflow, or None.

    The saved weights are those of the best epoch, unless one of the following is set. `averaged`: the average of
    several epochs that replaced them. `refit_epochs`: the number of epochs for which a refit trained on train and val
    together, or 0 without a refit.
    """

    folder: Path
    history: list[dict[str, Any]]
    best_epoch: int
    evaluation: Evaluation | SetEvaluation
    seconds: float
    mlflow_run_id: str | None
    monitor: str = "val_loss"
    averaged: Averaged | None = None
    refit_epochs: int = 0
    total_seconds: float | None = None

    @property
    def best(self) -> dict[str, Any]:
        """Return the record of the best epoch."""
        return self.history[self.best_epoch - 1]

    @property
    def weights_text(self) -> str:
        """Return a description of the weights of the result, such as "weights of epoch 3"."""
        if self.refit_epochs:
            return f"weights refitted on train and val for {counted(self.refit_epochs, 'epoch')}, without validation"
        return f"weights of epoch {self.best_epoch}" if self.averaged is None else self.averaged.description

    @property
    def chosen_by(self) -> str:
        """Return the display name of the metric that chose the best epoch."""
        return MONITORS[self.monitor].title
