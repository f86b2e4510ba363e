"""Temperature scaling: dividing the logits by one number, the temperature, makes a model calibrated.

The method is that of Guo et al., "On Calibration of Modern Neural Networks", ICML 2017, section 4.2.
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
_MOST_LOGITS = 1 << 22  # 41,000 photographs with 101 classes, or 4,000 with 1,000, are enough to fit one number


class LogitSample:
    """Collects the logits on which a temperature is fitted.

    They are those of all photographs, or of every k-th one if all would be more than about 4 million numbers.
    `photographs`: the number of photographs. `classes`: the number of classes, C.
    """

    def __init__(self, photographs: int, classes: int) -> None:
        self._every = max(1, math.ceil(photographs * classes / _MOST_LOGITS))
        self._seen = 0
        self._logits: list[torch.Tensor] = []
        self._labels: list[torch.Tensor] = []

    def add(self, logits: torch.Tensor, labels: torch.Tensor) -> None:
        """Add a batch: `logits` float32 [n, C], `labels` int64 [n]. The host doesn't wait for the device."""
        first = -self._seen % self._every
        self._seen += len(labels)
        self._logits.append(logits[first :: self._every].clone())  # the next batch may reuse this memory
        self._labels.append(labels[first :: self._every].clone())

    def temperature(self, ranks: Ranks) -> float:
        """Return the temperature fitted on the photographs of all `ranks`. Every rank must call this."""
        mine = None
        if self._labels:
            import torch

            mine = torch.cat(self._logits).cpu().numpy(), torch.cat(self._labels).cpu().numpy()
        parts = [each for each in ranks.gather(mine) if each is not None]
        logits, labels = np.concatenate([each[0] for each in parts]), np.concatenate([each[1] for each in parts])
        return ranks.from_main(lambda: fit_temperature(logits, labels))


def fit_temperature(logits: npt.NDArray[np.floating], labels: npt.NDArray[np.int64]) -> float:
    """Return the temperature, in [0.05, 20], that minimizes the cross-entropy of `logits` / temperature.

    `logits`: float [N, C]. `labels`: int64 [N], the true classes. If every photograph is classified correctly, the loss
    only falls as the temperature falls, so there is no minimum and 1 is returned.
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
