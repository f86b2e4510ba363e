"""Compare two runs on the same photographs: McNemar's exact test, and the difference in top1 with its interval."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from fasttrain.evaluation.bootstrap import REPLICATES
from fasttrain.evaluation.metrics import Interval
from fasttrain.evaluation.prediction_file import StoredPredictions

_SEED = 0


@dataclass(frozen=True)
class Paired:
    """The accuracy of two runs on the photographs that both evaluated with the same label.

    `photographs`: the number of these photographs. `first`, `second`: the number of photographs that each run
    evaluated. `relabelled`: the number of common photographs with different labels, which aren't compared.
    `only_first`, `only_second`: the number of photographs that only the first, or only the second, run classified
    correctly. `top1`: the accuracy of each run, in [0, 1]. `difference`: the second run's top1 minus the first's, in
    [-1, 1]. `interval`: the 95 % bootstrap interval of `difference`. `p`: the two-sided p-value of McNemar's exact
    test. If `photographs` is 0, `top1`, `difference`, `interval` and `p` have no meaning.
    """

    photographs: int
    first: int
    second: int
    relabelled: int
    only_first: int
    only_second: int
    top1: tuple[float, float]
    difference: float
    interval: Interval
    p: float

    @property
    def same(self) -> bool:
        """Return whether both runs evaluated the same photographs with the same labels."""
        return self.photographs == self.first == self.second

    def to_dict(self) -> dict[str, Any]:
        """Return the comparison for JSON. Values without meaning, because no photograph was compared, become None."""
        plain = {**asdict(self), "top1": list(self.top1), "interval": list(self.interval)}
        if not self.photographs:
            plain |= dict.fromkeys(("top1", "difference", "interval", "p"))
        return plain


def compare_pairs(first: StoredPredictions, second: StoredPredictions) -> Paired:
    """Compare two runs on the photographs that both evaluated.

    Photographs are matched by their keys in the shards. The photographs of a run are those of its test split or, if it
    has none, those of its validation split.
    """
    first, second = first.final(), second.final()
    _, rows_in_first, rows_in_second = np.intersect1d(first.keys, second.keys, return_indices=True)
    one, other = first.part(rows_in_first), second.part(rows_in_second)
    same_label = one.classes[one.labels] == other.classes[other.labels]
    correct = [(each.top[:, 0] == each.labels)[same_label] for each in (one, other)]
    count = int(same_label.sum())
    only_first, only_second = int((correct[0] & ~correct[1]).sum()), int((correct[1] & ~correct[0]).sum())
    return Paired(
        photographs=count,
        first=len(first),
        second=len(second),
        relabelled=int((~same_label).sum()),
        only_first=only_first,
        only_second=only_second,
        top1=(float(correct[0].mean()), float(correct[1].mean())) if count else (0.0, 0.0),
        difference=(only_second - only_first) / count if count else 0.0,
        interval=difference_interval(only_first, only_second, count) if count else (0.0, 0.0),
        p=mcnemar(only_first, only_second),
    )


def mcnemar(only_first: int, only_second: int) -> float:
    """Return the two-sided p-value of McNemar's exact test (McNemar 1947), in [0, 1].

    It is the probability of a division at least as uneven as (`only_first`, `only_second`) if both runs are equally
    good. `only_first` and `only_second` are the numbers of photographs that only the first, or only the second, run
    classified correctly.
    """
    from scipy.stats import binomtest  # type: ignore[import-untyped]

    differing = only_first + only_second
    return float(binomtest(only_first, differing).pvalue) if differing else 1.0


def difference_interval(only_first: int, only_second: int, photographs: int) -> Interval:
    """Return the 95 % bootstrap interval of the second run's top1 minus the first's, in [-1, 1].

    `only_first`, `only_second`: the numbers of photographs that only the first, or only the second, run classified
    correctly. `photographs`: the number of all photographs, at least 1. A replicate draws photographs together with the
    answers of both runs, because the runs make many mistakes on the same photographs. If the runs never differ, the
    bootstrap interval would be empty. The bounds are then those of the exact interval of a share of 0, as in
    `accuracy_intervals`.
    """
    if not only_first + only_second:
        bound = float(1 - 0.025 ** (1 / photographs))
        return -bound, bound
    shares = np.array([only_first, only_second, photographs - only_first - only_second]) / photographs
    drawn = np.random.default_rng(_SEED).multinomial(photographs, shares, size=REPLICATES)
    low, high = np.quantile((drawn[:, 1] - drawn[:, 0]) / photographs, [0.025, 0.975])
    return float(low), float(high)
