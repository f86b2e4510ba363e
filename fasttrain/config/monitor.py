"""The metrics of a validation that can choose the best epoch."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any, Literal

MonitorName = Literal["val_loss", "top1", "macro_f1", "map", "auto"]


@dataclass(frozen=True)
class Monitor:
    """A monitored metric: its names in an evaluation and in an epoch's record, its direction, its name for people."""

    metric: str
    field: str
    greater_is_better: bool
    title: str

    def of(self, evaluation: Any) -> float:
        """Return the metric's value in an `Evaluation` or a `SetEvaluation`."""
        return float(getattr(evaluation, self.metric))

    def measured_by(self, evaluation: type) -> bool:
        """Return whether evaluations of this class, a dataclass, have the metric."""
        return self.metric in {each.name for each in fields(evaluation)}

    def is_better(self, value: float, than: float) -> bool:
        """Return whether `value` is strictly better. NaN never is."""
        return value > than if self.greater_is_better else value < than


MONITORS: dict[str, Monitor] = {
    "val_loss": Monitor("loss", "val_loss", False, "lowest validation loss"),
    "top1": Monitor("top1", "val_top1", True, "highest validation top-1"),
    "macro_f1": Monitor("macro_f1", "val_macro_f1", True, "highest validation macro F1"),
    "map": Monitor("map", "val_map", True, "highest validation mAP"),
}
"""Each metric by its name in the setting `monitor`."""
