"""Bootstrap confidence intervals of accuracies, which are uncertain because the photographs are only a sample."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import numpy.typing as npt

from fasttrain.evaluation.label_sets import Scores, SetEvaluation, SetPredictions, Truth
from fasttrain.evaluation.metrics import Evaluation

REPLICATES = 2000
_SET_REPLICATES = (100, 500)  # fewer for large splits: each replicate sums up all scores anew
_SET_SCORES = 500_000_000  # the scores in all replicates together, at most: a few seconds of work
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
    share = right / samples
    drawn = np.empty((len(right), replicates))
    for place, (count, hit) in enumerate(zip(samples.tolist(), share.tolist(), strict=True)):
        # A new generator for each, so that an interval doesn't depend on the others that are computed with it.
        drawn[place] = np.random.default_rng(_SEED).binomial(count, hit, replicates)
    low, high = np.quantile(drawn, [_TAIL, 1 - _TAIL], axis=1) / samples
    bound = _TAIL ** (1 / samples)
    return np.stack([np.where(share == 1, bound, low), np.where(share == 0, 1 - bound, high)], axis=1)


def with_set_intervals(evaluation: SetEvaluation, predictions: SetPredictions) -> SetEvaluation:
    """Return `evaluation` with 95 % intervals of `map` and of the average precision of each class with photographs.

    `predictions`: those from which `evaluation` was computed.
    """
    present = np.flatnonzero(predictions.labels.any(0))
    if not len(present):
        return evaluation
    drawn = _drawn_precisions(predictions.labels[:, present], predictions.probabilities[:, present])
    with np.errstate(invalid="ignore"):  # 0 / 0 in a replicate without any of the classes
        means = np.nansum(drawn, axis=1) / np.isfinite(drawn).sum(1)
    bounds = np.nanquantile(np.column_stack([drawn, means]), [_TAIL, 1 - _TAIL], axis=0).T.tolist()
    classes = list(evaluation.classes)
    for label, (low, high) in zip(present.tolist(), bounds[:-1], strict=True):
        classes[label] = replace(classes[label], ap_interval=(low, high))
    low, high = bounds[-1]
    return replace(evaluation, map_interval=(low, high), classes=tuple(classes))


def _drawn_precisions(truth: Truth, scores: Scores) -> npt.NDArray[np.float64]:
    """Return the average precision of each class in each replicate, float64 [replicates, C].

    `truth`: bool [N, C], with at least one True in each class. `scores`: float32 [N, C]. It is NaN if a replicate
    contains no photograph of the class. A photograph that is drawn k times counts k times, so the scores are sorted
    only once.
    """
    count = len(truth)
    order = np.argsort(-scores, axis=0, kind="stable")
    truth, scores = np.take_along_axis(truth, order, 0), np.take_along_axis(scores, order, 0)
    below = np.vstack([scores[:-1] != scores[1:], np.ones((1, scores.shape[1]), bool)])
    rows = np.where(below, np.arange(count)[:, None], count)
    ends = np.minimum.accumulate(rows[::-1], axis=0)[::-1]  # the last row with the same score
    generator = np.random.default_rng(_SEED)
    drawn = np.empty((np.clip(_SET_SCORES // truth.size, *_SET_REPLICATES), truth.shape[1]))
    for replicate in drawn:
        weights = np.bincount(generator.integers(0, count, count), minlength=count)[order]
        hits = weights * truth
        seen, found = np.cumsum(weights, axis=0), np.cumsum(hits, axis=0)
        with np.errstate(invalid="ignore"):  # 0 / 0 before the first photograph that was drawn
            precision = np.take_along_axis(found / seen, ends, 0)
            replicate[:] = np.where(hits > 0, hits * precision, 0).sum(0) / found[-1]
    return drawn
