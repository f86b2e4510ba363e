"""The validation metrics that can choose the best epoch of a run."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any, Literal

MonitorName = Literal["val_loss", "top1", "macro_f1", "map", "auto"]


@dataclass(frozen=True)
class Monitor:
    """A validation metric that can choose the best epoch.

    `metric`: the name of its attribute in an `Evaluation`. `field`: its key in the record of an epoch, as in
    `history.json`. `title`: its description in words. `short`: its name in the lines that a run prints.
    """

    metric: str
    field: str
    greater_is_better: bool
    title: str
    short: str

    def of(self, evaluation: Any) -> float:
        """Return the value of the metric in `evaluation`, an `Evaluation` or (multi-label) a `SetEvaluation`."""
        return float(getattr(evaluation, self.metric))

    def measured_by(self, evaluation: type) -> bool:
        """Return whether the class `evaluation`, which is `Evaluation` or `SetEvaluation`, has this metric."""
        return self.metric in {each.name for each in fields(evaluation)}

    def is_better(self, value: float, than: float) -> bool:
        """Return whether `value` is strictly better than the value `than`. NaN never is."""
        return value > than if self.greater_is_better else value < than


MONITORS: dict[str, Monitor] = {
    "val_loss": Monitor("loss", "val_loss", False, "lowest validation loss", "val loss"),
    "top1": Monitor("top1", "val_top1", True, "highest validation top-1", "val acc"),
    "macro_f1": Monitor("macro_f1", "val_macro_f1", True, "highest validation macro F1", "val F1"),
    "map": Monitor("map", "val_map", True, "highest validation mAP", "val mAP"),
}
"""The metrics by their names in the setting `monitor`."""
