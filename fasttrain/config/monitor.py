"""The metrics of a validation that can choose the best epoch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

MonitorName = Literal["val_loss", "top1", "macro_f1"]


@dataclass(frozen=True)
class Monitor:
    """A monitored metric: its name in an epoch's record, which direction is better, and its name for people."""

    field: str
    greater_is_better: bool
    title: str

    def is_better(self, value: float, than: float) -> bool:
        """Return whether `value` is strictly better. NaN never is."""
        return value > than if self.greater_is_better else value < than


MONITORS: dict[str, Monitor] = {
    "val_loss": Monitor("val_loss", False, "lowest validation loss"),
    "top1": Monitor("val_top1", True, "highest validation top-1"),
    "macro_f1": Monitor("val_macro_f1", True, "highest validation macro F1"),
}
"""Each metric by its name in the setting `monitor`."""
