"""Whether an epoch was the best so far, and whether it is time to stop."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any


@dataclass
class EarlyStopping:
    """Follows validation loss. `patience` epochs without improvement stop the run; 0 never does."""

    patience: int
    best_loss: float = math.inf
    best_epoch: int = -1
    waited: int = 0

    def update(self, epoch: int, validation_loss: float) -> bool:
        """True where `validation_loss` is the least so far (NaN never is)."""
        if validation_loss < self.best_loss:
            self.best_loss, self.best_epoch, self.waited = validation_loss, epoch, 0
            return True
        self.waited += 1
        return False

    @property
    def should_stop(self) -> bool:
        return 0 < self.patience <= self.waited

    def state_dict(self) -> dict[str, Any]:
        return asdict(self)

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """All but `patience`, which is this run's setting."""
        self.best_loss, self.best_epoch, self.waited = (
            state["best_loss"],
            state["best_epoch"],
            state["waited"],
        )

    def forget(self) -> None:
        """No epoch was the best so far, and none was without improvement."""
        self.best_loss, self.best_epoch, self.waited = math.inf, -1, 0
