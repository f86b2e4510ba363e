"""Calibration against torchmetrics, and against a case worked out by hand."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from fasttrain.evaluation.calibration import calibrate, calibration_of
from fasttrain.evaluation.evaluate import Predictions


@pytest.mark.parametrize("bins", [1, 10, 15])
@pytest.mark.parametrize("sharpness", [0.5, 3.0])
def test_ece_is_torchmetrics(bins: int, sharpness: float) -> None:
    pytest.importorskip("torchmetrics")
    from torchmetrics.functional.classification import multiclass_calibration_error  # takes seconds

    generator = torch.Generator().manual_seed(bins)
    probabilities = (sharpness * torch.randn(3000, 11, generator=generator, dtype=torch.float64)).softmax(1)
    labels = torch.multinomial(probabilities, 1, generator=generator)[:, 0]
    labels[::3] = torch.randint(11, (1000,), generator=generator)
    theirs = multiclass_calibration_error(probabilities, labels, 11, n_bins=bins)
    sure, first = probabilities.max(1)
    ours = calibrate(sure.numpy(), (first == labels).numpy(), bins=bins)
    assert ours.ece == pytest.approx(float(theirs), abs=1e-6)  # which counts in float32
    assert ours.counts.sum() == 3000 and len(ours.counts) == bins


def test_a_case_by_hand() -> None:
    sure = np.array([0.45, 0.5, 0.95, 1.0, 1.0], np.float32)
    found = calibrate(sure, np.array([True, False, True, True, False]), bins=10)
    assert found.counts.tolist() == [0, 0, 0, 0, 2, 0, 0, 0, 0, 3]  # 0.5 belongs to (0.4, 0.5], 1 to the last
    assert np.isnan(found.accuracy[0]) and np.isnan(found.confidence[0])
    assert found.accuracy[[4, 9]] == pytest.approx([1 / 2, 2 / 3])
    assert found.confidence[[4, 9]] == pytest.approx([0.475, 2.95 / 3])
    assert found.ece == pytest.approx((2 * 0.025 + 3 * (2.95 - 2) / 3) / 5)
    assert found.overconfidence == pytest.approx(sure.mean() - 0.6)


def test_too_modest_is_below_zero_and_nothing_is_an_error() -> None:
    labels = np.array([1, 0])
    top = np.array([[1, 0], [0, 1]])
    found = calibration_of(Predictions(np.arange(2), labels, top, np.array([[0.6, 0.4], [0.7, 0.3]], np.float32)))
    assert found.overconfidence == pytest.approx(-0.35)
    assert found.ece == pytest.approx(0.35)
    with pytest.raises(ValueError, match="no samples"):
        calibrate(np.array([]), np.array([], np.bool_))


@given(st.lists(st.tuples(st.floats(0, 1, width=32), st.booleans()), min_size=1, max_size=80), st.integers(1, 20))
def test_ece_is_what_the_papers_sum_says(samples: list[tuple[float, bool]], bins: int) -> None:
    """Guo et al.'s equation 3 sample by sample in fractions, where no edge of a bin is rounded."""
    total = Fraction(0)
    for number in range(bins):
        low, high = Fraction(number, bins), Fraction(number + 1, bins)
        inside = [
            (Fraction(sure), right) for sure, right in samples if low < Fraction(sure) <= high or (number == 0 == sure)
        ]
        total += abs(sum((right - sure for sure, right in inside), Fraction(0)))
    sure, right = (np.array(column) for column in zip(*samples, strict=True))
    found = calibrate(sure, right, bins=bins)
    assert found.counts.sum() == len(samples)
    assert found.ece == pytest.approx(float(total / len(samples)), abs=1e-9)
    assert found.overconfidence == pytest.approx(sure.mean() - right.mean(), abs=1e-9)
    assert abs(found.overconfidence) <= found.ece + 1e-9
