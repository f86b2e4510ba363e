"""`TuneResult`: the result of `tune`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Trial:
    """A trial of the search: a training run with its settings and its result.

    `number`: the trial's number. `settings`: learning rate, weight decay and batch size. `top1`: the validation top-1
    accuracy, in [0, 1], of the epoch whose weights the run keeps; None if no epoch ended. `epochs`: the number of
    trained epochs. `state`: "complete", "pruned" (ended early because others are better), "diverged", "out of memory"
    or "failed". `folder`: the folder that holds the run's folder.
    """

    number: int
    settings: dict[str, Any]
    top1: float | None
    epochs: int
    state: str
    folder: Path


@dataclass(frozen=True)
class TuneResult:
    """The result of `tune`: all trials of the study in `out`, and the best one.

    `best`: the complete trial with the highest `top1`, or None if no trial is complete. `command`: the command line
    that trains with its settings, or None. `plots`: the PNG files with Optuna's plots. `photographs`: the size of the
    val split, on which the trials are compared.
    """

    out: Path
    trials: list[Trial]
    best: Trial | None
    command: str | None
    plots: list[Path]
    photographs: int

    def to_dict(self) -> dict[str, Any]:
        """Return the result as JSON data."""

        def plain(trial: Trial) -> dict[str, Any]:
            return {**vars(trial), "folder": str(trial.folder)}

        return {
            "out": str(self.out),
            "trials": [plain(trial) for trial in self.trials],
            "best": plain(self.best) if self.best else None,
            "command": self.command,
            "plots": [str(path) for path in self.plots],
            "split": "val",
            "photographs": self.photographs,
        }
