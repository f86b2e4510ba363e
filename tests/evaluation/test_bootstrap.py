"""Bootstrap intervals against photographs that are drawn one by one, against SciPy, and as JSON holds them."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
from scipy.stats import binomtest

from fasttrain.evaluation.bootstrap import accuracy_intervals, with_intervals
from fasttrain.evaluation.confusion import sparse_confusion
from fasttrain.evaluation.metrics import ClassResult, Evaluation


def evaluation_of(matrix: np.ndarray, confusion: object = None) -> Evaluation:
    """An evaluation of which only the confusion matrix means something."""
    classes = tuple(ClassResult(f"class {number}", 0, 0, 0, int(row.sum())) for number, row in enumerate(matrix))
    return Evaluation(int(matrix.sum()), 1.0, *[0.5] * 10, classes, matrix if confusion is None else confusion)


def test_an_interval_is_that_of_photographs_drawn_one_by_one() -> None:
    right = np.zeros(400, np.bool_)
    right[:312] = True
    drawn = np.random.default_rng(1).choice(right, (4000, len(right))).mean(axis=1)
    theirs = np.percentile(drawn, [2.5, 97.5])
    low, high = accuracy_intervals(np.array([312]), np.array([400]))[0]
    assert low == pytest.approx(theirs[0], abs=0.006)
    assert high == pytest.approx(theirs[1], abs=0.006)
    assert (low, high) == tuple(accuracy_intervals(np.array([312]), np.array([400]))[0])


def test_an_interval_does_not_depend_on_others() -> None:
    right, samples = np.array([40, 290, 290]), np.array([41, 340, 340])
    _, *same = accuracy_intervals(right, samples).tolist()
    assert same[0] == same[1] == accuracy_intervals(right[1:2], samples[1:2])[0].tolist()
    matrix = np.array([[40, 1, 0], [9, 250, 40], [0, 0, 0]])
    whole = accuracy_intervals(np.array([290]), np.array([340]))[0]
    assert with_intervals(evaluation_of(matrix)).top1_interval == tuple(whole.tolist())


def test_all_right_is_not_certain() -> None:
    (first, none) = accuracy_intervals(np.array([5, 0]), np.array([5, 5]))
    exact = binomtest(5, 5).proportion_ci(0.95, "exact")
    assert first == pytest.approx([exact.low, 1]) and none == pytest.approx([0, 1 - exact.low])


def test_95_of_100_intervals_hold_the_truth() -> None:
    generator = np.random.default_rng(3)
    right = generator.binomial(200, 0.8, 1000)
    low, high = accuracy_intervals(right, np.full(1000, 200)).T
    assert 0.92 < ((low <= 0.8) & (high >= 0.8)).mean() < 0.98


def test_classes_without_photographs_have_none_and_json_holds_the_rest() -> None:
    matrix = np.array([[30, 10, 0], [0, 0, 0], [5, 0, 55]])
    found = with_intervals(evaluation_of(matrix))
    assert found.classes[1].recall_interval is None
    for place, share in ((0, 0.75), (2, 55 / 60)):
        low, high = found.classes[place].recall_interval or (1, 0)
        assert low < share < high
    low, high = found.top1_interval or (1, 0)
    assert low < 0.85 < high and high - low < 0.16
    text = json.dumps(found.to_dict())
    assert Evaluation.from_dict(json.loads(text)) == found and "top1_interval" not in found.scalars()
    before = {name: each for name, each in json.loads(text).items() if name not in ("top1_interval", "ece")}
    assert Evaluation.from_dict(before) == replace(found, top1_interval=None)

    true, predicted = matrix.nonzero()
    sparse = sparse_confusion(3 * true + predicted, matrix[true, predicted], 3)
    assert with_intervals(evaluation_of(matrix, sparse)).top1_interval == found.top1_interval
