"""Calibration: whether a model that says 80 % is right in 80 % of the cases."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from fasttrain.evaluation.evaluate import Predictions
from fasttrain.evaluation.metrics import Evaluation

BINS = 15


@dataclass(frozen=True)
class Calibration:
    """Samples in equal bins of confidence, bin i being (i / B, (i + 1) / B].

    `counts` int64[B]; `confidence` and `accuracy` float64[B], the means over each bin in [0, 1], NaN where it is empty.
    """

    counts: npt.NDArray[np.int64]
    confidence: npt.NDArray[np.float64]
    accuracy: npt.NDArray[np.float64]

    @property
    def ece(self) -> float:
        """The expected calibration error, in [0, 1]: |accuracy - confidence|, averaged over the samples' bins."""
        return float(np.nansum(np.abs(self.accuracy - self.confidence) * self.counts) / self.counts.sum())

    @property
    def overconfidence(self) -> float:
        """Mean confidence less accuracy, in [-1, 1]; below 0 the model is better than it says."""
        return float(np.nansum((self.confidence - self.accuracy) * self.counts) / self.counts.sum())


def calibrate(confidences: npt.NDArray[np.floating], right: npt.NDArray[np.bool_], *, bins: int = BINS) -> Calibration:
    """Return the calibration over N samples: `confidences`, float[N], of the predicted classes, and `right`, bool[N].

    It follows Guo et al., "On Calibration of Modern Neural Networks", ICML 2017, section 2. Raises ValueError without
    samples.
    """
    if not len(confidences):
        raise ValueError("no samples to calibrate on")
    sure = confidences.astype(np.float64)
    which = np.clip(np.ceil(sure * bins).astype(np.int64) - 1, 0, bins - 1)
    counts = np.bincount(which, minlength=bins)
    with np.errstate(invalid="ignore"):
        confidence = np.bincount(which, sure, bins) / counts
        accuracy = np.bincount(which, right.astype(np.float64), bins) / counts
    return Calibration(counts.astype(np.int64), confidence, accuracy)


def calibration_of(predictions: Predictions) -> Calibration:
    """Return the calibration of `predictions`, by the probability of the first choice."""
    return calibrate(predictions.probabilities[:, 0], predictions.top[:, 0] == predictions.labels)


def uncalibrated(predictions: Predictions) -> Calibration:
    """Return the calibration that the same predictions have at temperature 1."""
    if predictions.uncalibrated is None:
        return calibration_of(predictions)
    return calibrate(predictions.uncalibrated[:, 0], predictions.top[:, 0] == predictions.labels)


def with_calibration(evaluation: Evaluation, predictions: Predictions) -> Evaluation:
    """Return `evaluation`, to which the `predictions` belong, with its calibration errors."""
    after, before = calibration_of(predictions).ece, uncalibrated(predictions).ece
    return replace(evaluation, ece=after, uncalibrated_ece=before)
