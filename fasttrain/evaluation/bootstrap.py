"""Bootstrap confidence intervals of accuracies: how far off a figure may be, as the photographs are only a sample."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import numpy.typing as npt

from fasttrain.evaluation.metrics import Evaluation

REPLICATES = 2000
_OUTSIDE = 0.025  # on each side of a 95 % interval
_SEED = 0


def with_intervals(evaluation: Evaluation) -> Evaluation:
    """Return `evaluation` with the 95 % interval of top1, and of the recall of each class that has photographs."""
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
    """Return float64 [n, 2], the 95 % percentile intervals of `right` / `samples`, int64 [n], `samples` above 0.

    Drawing `samples` photographs with replacement draws the number of right ones from a binomial distribution, so a
    replicate is one number. Where all are right, or none, all replicates are the same and the bootstrap would claim to
    be certain: there the outer bound is that of the exact interval (Clopper and Pearson 1934).
    """
    generator = np.random.default_rng(_SEED)
    share = right / samples
    drawn = generator.binomial(samples, share, size=(replicates, len(right))) / samples
    low, high = np.quantile(drawn, [_OUTSIDE, 1 - _OUTSIDE], axis=0)
    bound = _OUTSIDE ** (1 / samples)
    return np.stack([np.where(share == 1, bound, low), np.where(share == 0, 1 - bound, high)], axis=1)
