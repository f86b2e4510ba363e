"""Smooth the curve of a learning-rate range test, and suggest a rate.

fastai and Lightning smooth with an exponential mean. In a sweep of 100 steps that mean lags by half of the sweep, and
begins with the noise of a few batches. So it is seldom steepest at the same rate as the loss. The smoothing here avoids
both.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

MEDIAN_OF = 5  # steps; single batches must neither end the sweep nor decide the slope


@dataclass(frozen=True)
class LrFindResult:
    """The result of a learning-rate range test.

    `learning_rates`, `losses`, `smoothed`: the rate, the loss and the smoothed loss of each step. `suggestion`: the
    rate at which the smoothed loss falls most steeply, or None if it does not fall. `diverged`: the test ended early
    because the loss diverged. `photographs`: the size of the train split, from which the batches were drawn. `picture`:
    the PNG file with the curve, or None if none was asked for.
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
    """Return `losses` smoothed by a running median of five steps, then by a Gaussian of `width` steps.

    Both are centred on the step, so the result doesn't lag.
    """
    from scipy.ndimage import gaussian_filter1d, median_filter  # type: ignore[import-untyped]

    calm = median_filter(np.asarray(losses, np.float64), MEDIAN_OF, mode="nearest")
    smoothed: list[float] = (gaussian_filter1d(calm, width, mode="nearest") if width else calm).tolist()
    return smoothed


def steepest(rates: list[float], smoothed: list[float]) -> float | None:
    """Return the learning rate at which the smoothed loss falls most steeply over log(rate), or None if it never falls.

    `rates`, `smoothed`: the learning rate and the smoothed loss of each step. Later falls than the first don't count,
    because the network is ruined after the loss has risen again. The first tenth of the steps, which is noise, doesn't
    count either.
    """
    fall = slice(len(rates) // 10, _end_of_first_fall(smoothed) + 1)
    if len(rates[fall]) < 3:
        return None
    slopes = np.gradient(np.asarray(smoothed[fall]), np.log(rates[fall]))
    least = int(slopes.argmin())
    return rates[fall][least] if slopes[least] < 0 else None


def _end_of_first_fall(smoothed: list[float]) -> int:
    """Return the step with the lowest loss before the loss first rises by more than half of its fall.

    A fall must be more than a tenth of the first loss to count. After such a rise the network is ruined. The loss may
    fall again, at a useless rate, as the network learns to predict the same for all images.
    """
    for end in range(1, len(smoothed)):
        least = int(np.argmin(smoothed[:end]))
        fallen = max(smoothed[: least + 1]) - smoothed[least]
        if fallen > 0.1 * smoothed[0] and smoothed[end] - smoothed[least] > fallen / 2:
            return least
    return int(np.argmin(smoothed))
