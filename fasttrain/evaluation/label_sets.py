"""Metrics of multi-label models: average precision, F1 at a threshold for each class, Hamming loss."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from fasttrain.evaluation.confusion import ratio

Truth = npt.NDArray[np.bool_]
Scores = npt.NDArray[np.float32]


@dataclass(frozen=True)
class SetClassResult:
    """One class: its average precision, NaN without positives; its threshold, and what it gives, in [0, 1].

    support: the photographs of the split that have the class.
    """

    name: str
    ap: float
    threshold: float
    precision: float
    recall: float
    f1: float
    support: int


@dataclass(frozen=True)
class SetEvaluation:
    """How a multi-label model did on a split. Shares are in [0, 1]; `loss` is NaN where none was given.

    map: the mean of the classes' average precisions, over those that the split has. F1 is at the classes' thresholds:
    micro over all decisions, macro the mean over classes that the split has. subset_accuracy: photographs whose whole
    set is right. hamming_loss: wrong decisions among all. chance: what `map` is for random scores.
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

    EACH_EPOCH: ClassVar = ("map", "micro_f1", "macro_f1", "subset_accuracy", "hamming_loss")
    """The figures that an epoch's record holds besides the loss."""

    @property
    def thresholds(self) -> tuple[float, ...]:
        """A probability a class, from which on it counts as seen."""
        return tuple(each.threshold for each in self.classes)

    def worst(self, count: int = 5) -> list[SetClassResult]:
        """The `count` classes of the lowest average precision that the split has, worst first."""
        present = [result for result in self.classes if result.support]
        return sorted(present, key=lambda result: (result.ap, result.name))[:count]

    def scalars(self) -> dict[str, float]:
        """The figures without classes, as MLflow takes them."""
        return {field.name: float(getattr(self, field.name)) for field in fields(self) if field.name != "classes"}

    def to_dict(self) -> dict[str, Any]:
        """Return the evaluation as strict JSON can hold it: a number that isn't finite is None."""
        plain: dict[str, Any] = {"samples": self.samples}
        plain |= {name: _finite(value) for name, value in self.scalars().items() if name != "samples"}
        classes = [{**asdict(result), "ap": _finite(result.ap)} for result in self.classes]
        return {**plain, "classes": classes, "worst_classes": [result.name for result in self.worst()]}


@dataclass(frozen=True)
class SetPredictions:
    """The answers of a model for each of N photographs.

    `ids` int64[N]: rows of the shards' index. `labels` bool[N, C]: the true sets. `probabilities` float32[N, C].
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
    """Return the metrics; without `thresholds` they are chosen on these very predictions, see `best_thresholds`."""
    truth, scores = predictions.labels, predictions.probabilities
    cuts = best_thresholds(truth, scores) if thresholds is None else np.array(thresholds, np.float64)
    said = scores >= cuts
    support = truth.sum(0)
    hits, alarms, misses = (each.sum(0) for each in (truth & said, ~truth & said, truth & ~said))
    precision, recall = ratio(hits, hits + alarms), ratio(hits, hits + misses)
    f1 = ratio(2 * hits, 2 * hits + alarms + misses)
    ap = np.full(len(classes), math.nan)
    for label in np.flatnonzero(support):
        ap[label] = average_precision(truth[:, label], scores[:, label])
    there = support > 0
    total = int((2 * hits + alarms + misses).sum())
    return SetEvaluation(
        samples=len(truth),
        loss=loss,
        map=float(ap[there].mean()) if there.any() else math.nan,
        micro_f1=float(2 * hits.sum() / total) if total else 0.0,
        macro_f1=float(f1[there].mean()) if there.any() else math.nan,
        subset_accuracy=float((truth == said).all(1).mean()),
        hamming_loss=float((truth != said).mean()),
        chance=float((support[there] / len(truth)).mean()) if there.any() else math.nan,
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
    """Return the average precision of one class, for `truth` bool[N] with a positive and `scores` float32[N].

    It is the sum, over the distinct scores, of the precision at that threshold times the recall gained there.
    """
    order = np.argsort(-scores, kind="stable")
    scores = scores[order]
    last = np.append(np.flatnonzero(np.diff(scores)), len(scores) - 1)  # of each distinct score
    hits = np.cumsum(truth[order])[last]
    precision, recall = hits / (last + 1), hits / hits[-1]
    lost = np.diff(recall[::-1], append=0.0)  # summed from the lowest score up, as scikit-learn does
    return float(max(0.0, -np.sum(lost * precision[::-1])))


def best_thresholds(truth: Truth, scores: Scores) -> npt.NDArray[np.float64]:
    """Return float64[C]: for each class the threshold of the greatest F1, 0.5 where no photograph has the class.

    It lies half-way between two scores; of several with the same F1 it is the highest.
    """
    cuts = np.full(scores.shape[1], 0.5)
    for label in np.flatnonzero(truth.any(0)):
        order = np.argsort(-scores[:, label], kind="stable")
        sorted_scores = scores[order, label].astype(np.float64)
        hits = np.cumsum(truth[order, label])
        f1 = 2 * hits / (np.arange(1, len(order) + 1) + hits[-1])
        below = np.append(sorted_scores[1:], 0.0)
        f1[below == sorted_scores] = -1.0  # no threshold lies between equal scores
        best = int(f1.argmax())
        cuts[label] = (sorted_scores[best] + below[best]) / 2
    return cuts


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None
