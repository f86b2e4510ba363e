"""`TuneResult`: the result of `tune`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Trial:
    """A trial: its settings, its result and how it ended.

    `top1`: the validation top1 of the epoch that its run keeps; None if it failed. `state`: complete, pruned or
    failed.
    """

    number: int
    settings: dict[str, Any]
    top1: float | None
    epochs: int
    state: str
    folder: Path


@dataclass(frozen=True)
class TuneResult:
    """All trials of the study in `out`, the best one, and the command line that trains with its settings.

    `photographs`: the size of the val split, which decides between trials.
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
