"""The majority baseline: the accuracy of a model that always answers the most frequent class."""

from __future__ import annotations

from dataclasses import dataclass

from fasttrain.evaluation.metrics import Evaluation


@dataclass(frozen=True)
class Baseline:
    """The most frequent class of a split, and its share of the photographs, in [0, 1]."""

    name: str
    share: float


def majority_baseline(evaluation: Evaluation) -> Baseline:
    """Return the baseline of the evaluated split. If several classes are the most frequent, the one with the lowest
    label is used."""
    largest = max(evaluation.classes, key=lambda each: each.support)
    return Baseline(largest.name, largest.support / evaluation.samples)
