"""`TrainResult`: what a finished run returns."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fasttrain.config.monitor import MONITORS
from fasttrain.evaluation.label_sets import SetEvaluation
from fasttrain.evaluation.metrics import Evaluation

RECORDED = frozenset(
    {
        *("epoch", "train_loss", "train_top1", "val_loss", "val_top1", "val_macro_f1", "learning_rate", "l2"),
        *("train_subset_accuracy", "val_subset_accuracy", "val_map", "val_micro_f1", "val_hamming_loss"),
        *("improved", "epoch_seconds", "img/s", "wait_share", "image_size", "bad_samples", "cuda_peak_bytes"),
        *("skipped_steps", "phase"),
    }
)
"""The fields of an epoch's record that are the run's own; callbacks log others."""


@dataclass(frozen=True)
class Averaged:
    """The epochs, from 1, whose weights were averaged, and the average's value of the monitored metric."""

    epochs: tuple[int, ...]
    value: float

    @property
    def said(self) -> str:
        """Return a phrase for people."""
        return f"average of epochs {', '.join(map(str, self.epochs))}"


@dataclass(frozen=True)
class TrainResult:
    """The result of a finished run: its folder, one record an epoch, the final evaluation of the best epoch's weights.

    `monitor` is the metric that chose the best epoch. `averaged`: the weights are an average in place of that epoch's.
    `refit_epochs`: the weights were trained once more on train and val, for so many epochs.
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

    @property
    def best(self) -> dict[str, Any]:
        """Return the record of the best epoch."""
        return self.history[self.best_epoch - 1]

    @property
    def weights_said(self) -> str:
        """Return whose weights these are, for people."""
        if self.refit_epochs:
            return f"weights refitted on train and val for {self.refit_epochs} epochs, which have no validation figure"
        return f"weights of epoch {self.best_epoch}" if self.averaged is None else self.averaged.said

    @property
    def chosen_by(self) -> str:
        """Return what made the best epoch the best, for people."""
        return MONITORS[self.monitor].title
