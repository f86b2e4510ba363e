"""Temperature scaling: the one number that logits are divided by, so that probabilities are as sure as they are right.

Guo et al., "On Calibration of Modern Neural Networks", ICML 2017, section 4.2.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    import torch

    from fasttrain.ranks import Ranks

LEAST, GREATEST = 0.05, 20.0
_MOST_LOGITS = 1 << 22  # 41,000 photographs of 101 classes, 4,000 of 1,000: enough for one number


class LogitSample:
    """Collect the logits that a temperature is fitted on: of each photograph, or of every k-th where there are many."""

    def __init__(self, photographs: int, classes: int) -> None:
        self._every = max(1, math.ceil(photographs * classes / _MOST_LOGITS))
        self._seen = 0
        self._logits: list[torch.Tensor] = []
        self._labels: list[torch.Tensor] = []

    def add(self, logits: torch.Tensor, labels: torch.Tensor) -> None:
        """Add a batch: `logits` float32 [n, C], `labels` int64 [n]. The host does not wait for them."""
        first = -self._seen % self._every
        self._seen += len(labels)
        self._logits.append(logits[first :: self._every].clone())  # the next batch may be written where these lie
        self._labels.append(labels[first :: self._every].clone())

    def temperature(self, ranks: Ranks) -> float:
        """Return the temperature for the photographs of all `ranks`, each of which calls this."""
        mine = None
        if self._labels:
            import torch

            mine = torch.cat(self._logits).cpu().numpy(), torch.cat(self._labels).cpu().numpy()
        parts = [each for each in ranks.gather(mine) if each is not None]
        logits, labels = np.concatenate([each[0] for each in parts]), np.concatenate([each[1] for each in parts])
        return ranks.from_main(lambda: fit_temperature(logits, labels))


def fit_temperature(logits: npt.NDArray[np.floating], labels: npt.NDArray[np.int64]) -> float:
    """Return the temperature with the least negative log-likelihood of `labels` int64 [N] given `logits` [N, C].

    It lies in [0.05, 20]. Where every photograph is right, the likelihood grows with every smaller temperature and says
    nothing about how sure the model should be: then it is 1.
    """
    from scipy.optimize import minimize_scalar  # type: ignore[import-untyped]

    if (logits.argmax(1) == labels).all():
        return 1.0
    shifted = logits.astype(np.float64)
    shifted -= shifted.max(1, keepdims=True)
    given = shifted[np.arange(len(labels)), labels]

    def loss(log_temperature: float) -> float:
        scale = math.exp(-log_temperature)
        return float(np.mean(np.log(np.exp(shifted * scale).sum(1)) - given * scale))

    found = minimize_scalar(loss, bounds=(math.log(LEAST), math.log(GREATEST)), method="bounded")
    return math.exp(found.x) if found.fun < loss(0.0) else 1.0
