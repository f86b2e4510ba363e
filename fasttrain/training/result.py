"""`TrainResult`: what a finished run returns."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fasttrain.evaluation.metrics import Evaluation


@dataclass(frozen=True)
class TrainResult:
    """What a finished run leaves: its folder, one record an epoch, the final evaluation of the best epoch's weights."""

    folder: Path
    history: list[dict[str, Any]]
    best_epoch: int
    evaluation: Evaluation
    seconds: float
    mlflow_run_id: str | None
