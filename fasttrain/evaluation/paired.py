"""Two runs on the same photographs: McNemar's exact test, and the difference of their top1 with its interval."""

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
    """The accuracy of two runs on the `photographs` that both evaluated with the same label.

    first, second: how many photographs each of them evaluated. relabelled: photographs of both that have another label
    in each, and don't count. only_first, only_second: what one of them alone got right. p: McNemar's exact, two-sided;
    difference: top1 of the second less that of the first, with its 95 % bootstrap interval. Without photographs in
    common top1, difference and interval mean nothing.
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
        """Return whether both evaluated the same photographs with the same labels."""
        return self.photographs == self.first == self.second

    def to_dict(self) -> dict[str, Any]:
        """Return what JSON can hold; what means nothing is None."""
        plain = {**asdict(self), "top1": list(self.top1), "interval": list(self.interval)}
        if not self.photographs:
            plain |= dict.fromkeys(("top1", "difference", "interval", "p"))
        return plain


def compare_pairs(first: StoredPredictions, second: StoredPredictions) -> Paired:
    """Compare two runs on the photographs of their last evaluations, matched by their names in the shards."""
    first, second = first.final(), second.final()
    _, left, right = np.intersect1d(first.keys, second.keys, return_indices=True)
    one, other = first.part(left), second.part(right)
    same = one.classes[one.labels] == other.classes[other.labels]
    rights = [(each.top[:, 0] == each.labels)[same] for each in (one, other)]
    count = int(same.sum())
    only_first, only_second = int((rights[0] & ~rights[1]).sum()), int((rights[1] & ~rights[0]).sum())
    return Paired(
        photographs=count,
        first=len(first),
        second=len(second),
        relabelled=int((~same).sum()),
        only_first=only_first,
        only_second=only_second,
        top1=(float(rights[0].mean()), float(rights[1].mean())) if count else (0.0, 0.0),
        difference=(only_second - only_first) / count if count else 0.0,
        interval=difference_interval(only_first, only_second, count) if count else (0.0, 0.0),
        p=mcnemar(only_first, only_second),
    )


def mcnemar(only_first: int, only_second: int) -> float:
    """Return the two-sided p-value of McNemar's exact test: how likely so uneven a split is if both are equally good.

    Only photographs count that one of the two alone got right; each is as likely either's (McNemar 1947).
    """
    from scipy.stats import binomtest  # type: ignore[import-untyped]

    differing = only_first + only_second
    return float(binomtest(only_first, differing).pvalue) if differing else 1.0


def difference_interval(only_first: int, only_second: int, photographs: int) -> Interval:
    """Return the 95 % bootstrap interval of top1 of the second less top1 of the first.

    Photographs are drawn with both answers, since the two runs err on much the same ones. Where they never differ, the
    bounds are those at which that would be no surprise, as for a class without a mistake.
    """
    if not only_first + only_second:
        bound = float(1 - 0.025 ** (1 / photographs))
        return -bound, bound
    shares = np.array([only_first, only_second, photographs - only_first - only_second]) / photographs
    drawn = np.random.default_rng(_SEED).multinomial(photographs, shares, size=REPLICATES)
    low, high = np.quantile((drawn[:, 1] - drawn[:, 0]) / photographs, [0.025, 0.975])
    return float(low), float(high)
