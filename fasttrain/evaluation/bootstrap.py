"""Bootstrap confidence intervals of accuracies, which are uncertain because the photographs are only a sample."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import numpy.typing as npt

from fasttrain.evaluation.metrics import Evaluation

REPLICATES = 2000
_TAIL = 0.025  # the share outside a 95 % interval, on each side
_SEED = 0


def with_intervals(evaluation: Evaluation) -> Evaluation:
    """Return `evaluation` with 95 % intervals of top1 and of the recall of each class that has photographs."""
    right, support = evaluation.confusion_matrix.diagonal(), evaluation.confusion_matrix.sum(1)
    present = np.flatnonzero(support)
    hits = np.append(right[present], right.sum())
    found = accuracy_intervals(hits, np.append(support[present], support.sum()))
    classes = list(evaluation.classes)
    for label, (low, high) in zip(present.tolist(), found[:-1].tolist(), strict=True):
        classes[label] = replace(classes[label], recall_interval=(low, high))
    low, high = found[-1].tolist()
    return replace(evaluation, top1_interval=(low, high), classes=tuple(classes))


def accuracy_intervals(
    right: npt.NDArray[np.int64], samples: npt.NDArray[np.int64], replicates: int = REPLICATES
) -> npt.NDArray[np.float64]:
    """Return the 95 % percentile intervals of n accuracies, float64 [n, 2] in [0, 1]: lower bound, upper bound.

    `right`: int64 [n], the numbers of correctly classified photographs. `samples`: int64 [n], the numbers of all
    photographs, at least 1. `replicates`: the number of bootstrap samples.

    If photographs are drawn with replacement, the number of correct ones has a binomial distribution, so each replicate
    takes only one random number. If all photographs are correct, or none, all replicates are equal and the interval
    would be empty. One bound is then taken from the exact interval (Clopper and Pearson 1934).
    """
    generator = np.random.default_rng(_SEED)
    share = right / samples
    drawn = generator.binomial(samples, share, size=(replicates, len(right))) / samples
    low, high = np.quantile(drawn, [_TAIL, 1 - _TAIL], axis=0)
    bound = _TAIL ** (1 / samples)
    return np.stack([np.where(share == 1, bound, low), np.where(share == 0, 1 - bound, high)], axis=1)
