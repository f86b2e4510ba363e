"""Early stopping: track the best epoch and decide when to stop."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any

from fasttrain.config.monitor import MONITORS


@dataclass
class EarlyStopping:
    """Tracks the metric `monitor`, and stops a run after `patience` epochs without improvement.

    A `patience` of 0 never stops a run. `best`: the best value so far. `best_epoch`: the epoch with that value, counted
    from 0. Before the first epoch these are None and -1. `waited`: the number of epochs after the best one. If several
    epochs have the best value, the first of them is the best epoch, as in timm and Lightning.
    """

    patience: int
    monitor: str = "val_loss"
    best: float | None = None
    best_epoch: int = -1
    waited: int = 0

    def update(self, epoch: int, value: float) -> bool:
        """Count the validation of `epoch`, counted from 0, with the metric's `value`.

        Returns whether `value` is better than all values before. NaN never is.
        """
        if self.best is None:
            improved = math.isfinite(value)
        else:
            improved = MONITORS[self.monitor].is_better(value, self.best)
        if improved:
            self.best, self.best_epoch, self.waited = value, epoch, 0
        else:
            self.waited += 1
        return improved

    @property
    def should_stop(self) -> bool:
        """Return whether the last `patience` epochs, or more, brought no improvement. False if `patience` is 0."""
        return 0 < self.patience <= self.waited

    def state_dict(self) -> dict[str, Any]:
        return asdict(self)

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore everything but `patience` and `monitor`, which stay as this run's settings give them."""
        best = state["best"] if "best" in state else state["best_loss"]  # its name in older checkpoints
        self.best = None if best is None or math.isinf(best) else best
        self.best_epoch, self.waited = state["best_epoch"], state["waited"]

    def forget(self) -> None:
        """Reset everything to the state before the first epoch."""
        self.best, self.best_epoch, self.waited = None, -1, 0
