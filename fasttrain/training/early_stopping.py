"""Whether an epoch was the best so far, and whether it is time to stop."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any

from fasttrain.config.monitor import MONITORS


@dataclass
class EarlyStopping:
    """Follows the metric `monitor` of each validation. `patience` epochs without improvement stop the run; 0 never
    does.

    Of equal epochs the first one is the best, as with timm and Lightning. `best` is None before the first epoch.
    """

    patience: int
    monitor: str = "val_loss"
    best: float | None = None
    best_epoch: int = -1
    waited: int = 0

    def update(self, epoch: int, value: float) -> bool:
        """Return whether the metric's `value` is better than all before (NaN never is)."""
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
        return 0 < self.patience <= self.waited

    def state_dict(self) -> dict[str, Any]:
        return asdict(self)

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """All but `patience` and `monitor`, which are this run's settings."""
        best = state["best"] if "best" in state else state["best_loss"]  # the name in older checkpoints
        self.best = None if best is None or math.isinf(best) else best
        self.best_epoch, self.waited = state["best_epoch"], state["waited"]

    def forget(self) -> None:
        """No epoch was the best so far, and none was without improvement."""
        self.best, self.best_epoch, self.waited = None, -1, 0
