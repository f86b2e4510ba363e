"""Metrics of multi-label models: average precision, F1 at each class's threshold, and Hamming loss."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from fasttrain.evaluation.confusion import ratio
from fasttrain.evaluation.metrics import Interval

Truth = npt.NDArray[np.bool_]
Scores = npt.NDArray[np.float32]


@dataclass(frozen=True)
class SetClassResult:
    """The metrics of one class, each in [0, 1].

    `ap`: the average precision, or NaN if no photograph has the class. `threshold`: the probability from which the
    class counts as predicted. `precision`, `recall`, `f1`: the values at that threshold. `support`: the number of
    photographs that have the class. `ap_interval`: the 95 % interval of `ap` (see `bootstrap`), or None if it wasn't
    computed.
    """

    name: str
    ap: float
    threshold: float
    precision: float
    recall: float
    f1: float
    support: int
    ap_interval: Interval | None = None


@dataclass(frozen=True)
class SetEvaluation:
    """The metrics of a multi-label model on a split. All but `samples` and `loss` are in [0, 1].

    `samples`: the number of photographs. `loss`: the mean loss. `map`: the mean of the average precisions of all
    classes that occur in the split. `micro_f1`: the F1 over all decisions, a decision being a photograph and a class.
    `macro_f1`: the mean F1 of the classes that occur. Both F1 are computed at the thresholds of the classes.
    `subset_accuracy`: the share of photographs whose set of classes is predicted exactly. `hamming_loss`: the share of
    wrong decisions. `chance`: the `map` of random scores. `map_interval`: the 95 % interval of `map` (see `bootstrap`),
    or None if it wasn't computed.
    """

    samples: int
    loss: float
    map: float
    micro_f1: float
    macro_f1: float
    subset_accuracy: float
    hamming_loss: float
    chance: float
    classes: tuple[SetClassResult, ...]
    map_interval: Interval | None = None

    EACH_EPOCH: ClassVar = ("map", "micro_f1", "macro_f1", "subset_accuracy", "hamming_loss")
    """The metrics in an epoch's record, besides the loss."""

    @property
    def thresholds(self) -> tuple[float, ...]:
        """The thresholds, one per class: the probability from which the class counts as predicted."""
        return tuple(each.threshold for each in self.classes)

    def worst(self, count: int = 5) -> list[SetClassResult]:
        """Return the `count` classes with the lowest average precision, worst first. Skip those without photographs."""
        present = [result for result in self.classes if result.support]
        return sorted(present, key=lambda result: (result.ap, result.name))[:count]

    def scalars(self) -> dict[str, float]:
        """Return the metrics by name, without those of single classes, for MLflow."""
        names = [field.name for field in fields(self) if field.name not in ("classes", "map_interval")]
        return {name: float(getattr(self, name)) for name in names}

    def to_dict(self) -> dict[str, Any]:
        """Return the evaluation for strict JSON. Numbers that aren't finite become None."""
        plain: dict[str, Any] = {"samples": self.samples}
        plain |= {name: _finite(value) for name, value in self.scalars().items() if name != "samples"}
        classes = [{**asdict(result), "ap": _finite(result.ap)} for result in self.classes]
        if self.map_interval is not None:
            plain["map_interval"] = self.map_interval
        return {**plain, "classes": classes, "worst_classes": [result.name for result in self.worst()]}


@dataclass(frozen=True)
class SetPredictions:
    """A multi-label model's predictions for N photographs and C classes.

    `ids`: int64 [N], row numbers of the shards' index. `labels`: bool [N, C], the true classes. `probabilities`:
    float32 [N, C] in [0, 1].
    """

    ids: npt.NDArray[np.int64]
    labels: Truth
    probabilities: Scores


def evaluate_sets(
    predictions: SetPredictions,
    classes: Sequence[str],
    loss: float,
    thresholds: Sequence[float] | None = None,
) -> SetEvaluation:
    """Return the metrics of `predictions`.

    `classes`: the names, by label. `loss`: the mean loss. `thresholds`: one per class, in [0, 1]. If it is None, they
    are chosen on the same predictions: see `best_thresholds`.
    """
    truth, scores = predictions.labels, predictions.probabilities
    cuts = best_thresholds(truth, scores) if thresholds is None else np.array(thresholds, np.float64)
    predicted = scores >= cuts
    support = truth.sum(0)
    hits, false_alarms, misses = (each.sum(0) for each in (truth & predicted, ~truth & predicted, truth & ~predicted))
    precision, recall = ratio(hits, hits + false_alarms), ratio(hits, hits + misses)
    f1 = ratio(2 * hits, 2 * hits + false_alarms + misses)
    ap = np.full(len(classes), math.nan)
    for label in np.flatnonzero(support):
        ap[label] = average_precision(truth[:, label], scores[:, label])
    present = support > 0
    total = int((2 * hits + false_alarms + misses).sum())
    return SetEvaluation(
        samples=len(truth),
        loss=loss,
        map=float(ap[present].mean()) if present.any() else math.nan,
        micro_f1=float(2 * hits.sum() / total) if total else 0.0,
        macro_f1=float(f1[present].mean()) if present.any() else math.nan,
        subset_accuracy=float((truth == predicted).all(1).mean()),
        hamming_loss=float((truth != predicted).mean()),
        chance=float((support[present] / len(truth)).mean()) if present.any() else math.nan,
        classes=tuple(
            SetClassResult(
                name,
                ap=float(ap[label]),
                threshold=float(cuts[label]),
                precision=float(precision[label]),
                recall=float(recall[label]),
                f1=float(f1[label]),
                support=int(support[label]),
            )
            for label, name in enumerate(classes)
        ),
    )


def average_precision(truth: Truth, scores: Scores) -> float:
    """Return the average precision of one class, in [0, 1], as scikit-learn defines it.

    It is the sum, over all distinct scores, of the precision at that threshold times the recall gained there. `truth`:
    bool [N], with at least one True. `scores`: float32 [N].
    """
    order = np.argsort(-scores, kind="stable")
    scores = scores[order]
    last = np.append(np.flatnonzero(np.diff(scores)), len(scores) - 1)  # the last position of each distinct score
    hits = np.cumsum(truth[order])[last]
    precision, recall = hits / (last + 1), hits / hits[-1]
    steps = np.diff(recall[::-1], append=0.0)  # from the lowest score up, so that rounding equals scikit-learn's
    return float(max(0.0, -np.sum(steps * precision[::-1])))


def best_thresholds(truth: Truth, scores: Scores) -> npt.NDArray[np.float64]:
    """Return for each class the threshold with the greatest F1, float64 [C] in [0, 1].

    `truth`: bool [N, C]. `scores`: float32 [N, C]. A threshold lies half-way between two scores. If several have the
    same F1, the highest is returned; if no photograph has the class, 0.5.
    """
    cuts = np.full(scores.shape[1], 0.5)
    for label in np.flatnonzero(truth.any(0)):
        order = np.argsort(-scores[:, label], kind="stable")
        sorted_scores = scores[order, label].astype(np.float64)
        hits = np.cumsum(truth[order, label])
        f1 = 2 * hits / (np.arange(1, len(order) + 1) + hits[-1])
        below = np.append(sorted_scores[1:], 0.0)
        f1[below == sorted_scores] = -1.0  # no threshold can separate equal scores
        best = int(f1.argmax())
        cuts[label] = (sorted_scores[best] + below[best]) / 2
    return cuts


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None
