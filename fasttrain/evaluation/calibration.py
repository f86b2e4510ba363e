"""Calibration: a model is calibrated if it is right in 80 % of the cases in which its confidence is 80 %."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from fasttrain.evaluation.evaluate import Predictions
from fasttrain.evaluation.metrics import Evaluation

BINS = 15
CALIBRATED = 0.02
"""How far the mean confidence may be from the accuracy in a model that is called well calibrated."""


@dataclass(frozen=True)
class Calibration:
    """The accuracy of a model by its confidence, in B bins of equal width: bin i is (i / B, (i + 1) / B].

    `counts`: int64 [B], the number of samples in each bin. `confidence`, `accuracy`: float64 [B] in [0, 1], the means
    over each bin; NaN for an empty bin.
    """

    counts: npt.NDArray[np.int64]
    confidence: npt.NDArray[np.float64]
    accuracy: npt.NDArray[np.float64]

    @property
    def ece(self) -> float:
        """The expected calibration error, in [0, 1]: the mean of |accuracy - confidence| over bins, weighted by the
        number of samples."""
        return float(np.nansum(np.abs(self.accuracy - self.confidence) * self.counts) / self.counts.sum())

    @property
    def overconfidence(self) -> float:
        """The mean confidence minus the accuracy, in [-1, 1]. It is below 0 if the model is underconfident."""
        return float(np.nansum((self.confidence - self.accuracy) * self.counts) / self.counts.sum())


def calibrate(confidences: npt.NDArray[np.floating], right: npt.NDArray[np.bool_], *, bins: int = BINS) -> Calibration:
    """Return the accuracy of N predictions by their confidence, in `bins` bins of equal width.

    `confidences`: float [N] in [0, 1], the probabilities of the predicted classes. `right`: bool [N], whether each
    prediction is correct. The method is that of Guo et al., "On Calibration of Modern Neural Networks", ICML 2017,
    section 2. Raises ValueError if there are no samples.
    """
    if not len(confidences):
        raise ValueError("no samples to calibrate on")
    values = confidences.astype(np.float64)
    bin_of = np.clip(np.ceil(values * bins).astype(np.int64) - 1, 0, bins - 1)
    counts = np.bincount(bin_of, minlength=bins)
    with np.errstate(invalid="ignore"):
        confidence = np.bincount(bin_of, values, bins) / counts
        accuracy = np.bincount(bin_of, right.astype(np.float64), bins) / counts
    return Calibration(counts.astype(np.int64), confidence, accuracy)


def calibration_of(predictions: Predictions) -> Calibration:
    """Return the calibration of `predictions`. The confidence is the probability of the likeliest class."""
    return calibrate(predictions.probabilities[:, 0], predictions.top[:, 0] == predictions.labels)


def uncalibrated(predictions: Predictions) -> Calibration:
    """Return the calibration that `predictions` would have at temperature 1."""
    if predictions.uncalibrated is None:
        return calibration_of(predictions)
    return calibrate(predictions.uncalibrated[:, 0], predictions.top[:, 0] == predictions.labels)


def with_calibration(evaluation: Evaluation, predictions: Predictions) -> Evaluation:
    """Return `evaluation` with its calibration errors `ece` and `uncalibrated_ece`, computed from its `predictions`."""
    after, before = calibration_of(predictions).ece, uncalibrated(predictions).ece
    return replace(evaluation, ece=after, uncalibrated_ece=before)
