"""The learning-rate range test's curve, and the rate that it suggests.

fastai's and Lightning's exponential mean lags by half of a sweep of 100 steps, and its first values are the noise of a
few batches, so that its steepest fall is seldom the loss's. So the smoothing here is another.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

MEDIAN_OF = 5  # steps: single batches must neither end the sweep nor make the slope


@dataclass(frozen=True)
class LrFindResult:
    """One entry a step: its learning rate, its loss, and the smoothed loss. `suggestion`: where that falls the steepest
    over the logarithm of the rate (see `steepest`); None where it doesn't fall. `diverged`: it ended early.
    `photographs`: how many the train split has, from which the steps took theirs."""

    learning_rates: list[float]
    losses: list[float]
    smoothed: list[float]
    suggestion: float | None
    diverged: bool
    photographs: int
    picture: Path | None

    def to_dict(self) -> dict[str, Any]:
        return {**asdict(self), "split": "train", "picture": str(self.picture) if self.picture else None}


def smooth(losses: list[float], width: float) -> list[float]:
    """The running median of five `losses`, then a Gaussian of `width` steps over it: neither lags."""
    from scipy.ndimage import gaussian_filter1d, median_filter  # type: ignore[import-untyped]

    calm = median_filter(np.asarray(losses, np.float64), MEDIAN_OF, mode="nearest")
    smoothed: list[float] = (gaussian_filter1d(calm, width, mode="nearest") if width else calm).tolist()
    return smoothed


def steepest(rates: list[float], smoothed: list[float]) -> float | None:
    """The rate at which `smoothed` falls the steepest over log(rate) in its first fall. None where it doesn't fall.

    The first tenth, the noise of the first batches, doesn't count.
    """
    fall = slice(len(rates) // 10, _end_of_first_fall(smoothed) + 1)
    if len(rates[fall]) < 3:
        return None
    slopes = np.gradient(np.asarray(smoothed[fall]), np.log(rates[fall]))
    least = int(slopes.argmin())
    return rates[fall][least] if slopes[least] < 0 else None


def _end_of_first_fall(smoothed: list[float]) -> int:
    """Where the loss is the least, before it first rises by half of what it fell, if that was a tenth or more.

    Beyond that the network is wrecked, and falls anew at a rate that nobody wants: to saying the same of all pictures.
    """
    for end in range(1, len(smoothed)):
        least = int(np.argmin(smoothed[:end]))
        fallen = max(smoothed[: least + 1]) - smoothed[least]
        if fallen > 0.1 * smoothed[0] and smoothed[end] - smoothed[least] > fallen / 2:
            return least
    return int(np.argmin(smoothed))
