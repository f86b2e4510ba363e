"""`TuneResult`: the result of `tune`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Trial:
    """A trial of the search, with its settings and its result.

    `top1`: the validation top-1 accuracy of the epoch whose weights its run keeps; None if no epoch ended. `epochs`:
    how many epochs it trained. `state`: "complete", "pruned", "diverged", "out of memory" or "failed".
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

    `command`: the command line that trains with the best settings. `plots`: the PNG files. `photographs`: the size of
    the val split, on which the trials are compared.
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
