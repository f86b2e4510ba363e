"""The curve of the learning-rate range test, and the suggested rate.

The exponential mean of fastai and Lightning lags by half of a sweep of 100 steps, and begins with the noise of a few
batches, so its steepest fall is seldom that of the loss. The smoothing here avoids both.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

MEDIAN_OF = 5  # steps; single batches must neither end the sweep nor decide the slope


@dataclass(frozen=True)
class LrFindResult:
    """The result of a range test, with one entry per step: its learning rate, its loss, and the smoothed loss.

    `suggestion`: where the smoothed loss falls most steeply over the logarithm of the rate (see `steepest`); None if
    it does not fall. `diverged`: the test ended early. `photographs`: the size of the train split, from which the
    steps drew.
    """

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
    """Return a running median of five `losses`, smoothed by a Gaussian of `width` steps. Neither causes a lag."""
    from scipy.ndimage import gaussian_filter1d, median_filter  # type: ignore[import-untyped]

    calm = median_filter(np.asarray(losses, np.float64), MEDIAN_OF, mode="nearest")
    smoothed: list[float] = (gaussian_filter1d(calm, width, mode="nearest") if width else calm).tolist()
    return smoothed


def steepest(rates: list[float], smoothed: list[float]) -> float | None:
    """Return the rate at which `smoothed` falls most steeply over log(rate) in its first fall, or None if it does not
    fall.

    The first tenth does not count, because it is the noise of the first batches.
    """
    fall = slice(len(rates) // 10, _end_of_first_fall(smoothed) + 1)
    if len(rates[fall]) < 3:
        return None
    slopes = np.gradient(np.asarray(smoothed[fall]), np.log(rates[fall]))
    least = int(slopes.argmin())
    return rates[fall][least] if slopes[least] < 0 else None


def _end_of_first_fall(smoothed: list[float]) -> int:
    """Return where the loss is lowest before it first rises by half of its fall, if that fall was a tenth or more.

    Later the network is ruined. It may fall again, at a useless rate, by learning to predict the same for all images.
    """
    for end in range(1, len(smoothed)):
        least = int(np.argmin(smoothed[:end]))
        fallen = max(smoothed[: least + 1]) - smoothed[least]
        if fallen > 0.1 * smoothed[0] and smoothed[end] - smoothed[least] > fallen / 2:
            return least
    return int(np.argmin(smoothed))
