"""Two runs photograph by photograph: the test by hand, the interval, other photographs, and the file between them."""

from __future__ import annotations

import json
from dataclasses import replace
from math import comb
from pathlib import Path

import numpy as np
import pytest

from fasttrain.errors import UserError
from fasttrain.evaluation.paired import compare_pairs, difference_interval, mcnemar
from fasttrain.evaluation.prediction_file import StoredPredictions, joined, read_predictions, write_predictions
from fasttrain.report.comparison import pair_lines

CLASSES = np.array(["cat", "dog", "owl"])


def run_with(right: np.ndarray, first: int = 0, split: int = 2) -> StoredPredictions:
    """Predictions of photographs numbered from `first`, of which those with `right` have their class."""
    count = len(right)
    labels = (np.arange(first, first + count) % 3).astype(np.int32)
    guess = np.where(right, labels, (labels + 1) % 3)
    keys = np.array([f"photo/{number}".encode() for number in range(first, first + count)])
    sure = np.tile(np.array([[0.7, 0.3]], np.float32), (count, 1))
    top = np.stack([guess, (guess + 1) % 3], 1).astype(np.int32)
    of_label = np.where(right, 0.7, 0.1).astype(np.float32)
    return StoredPredictions(CLASSES, keys, np.full(count, split, np.uint8), labels, top, sure, of_label)


def test_mcnemar_is_the_sum_of_the_binomials_tails() -> None:
    assert mcnemar(3, 12) == pytest.approx(2 * sum(comb(15, k) for k in range(4)) / 2**15)
    assert mcnemar(3, 12) == mcnemar(12, 3) and mcnemar(0, 0) == 1 and mcnemar(7, 7) == 1


def test_only_what_differs_makes_the_interval_wide() -> None:
    low, high = difference_interval(30, 50, 1000)
    deviation = np.sqrt((80 / 1000 - 0.02**2) / 1000)
    assert (low, high) == pytest.approx((0.02 - 1.96 * deviation, 0.02 + 1.96 * deviation), abs=0.002)
    assert difference_interval(0, 0, 20) == pytest.approx((-0.168, 0.168), abs=0.001)


def test_the_second_less_the_first() -> None:
    first = np.array([True] * 60 + [False] * 40)
    second = np.array([True] * 55 + [False] * 5 + [True] * 25 + [False] * 15)
    found = compare_pairs(run_with(first), run_with(second))
    assert found.same and (found.photographs, found.only_first, found.only_second) == (100, 5, 25)
    assert found.top1 == (0.6, 0.8) and found.difference == pytest.approx(0.2) and found.p < 0.001
    assert found.interval[0] > 0
    lines = [str(line) for line in pair_lines(found, "B")]
    assert len(lines) == 2 and "B - A = +20.00 points" in lines[1]
    json.dumps(found.to_dict(), allow_nan=False)


def test_photographs_are_matched_by_name_whatever_their_order_and_others_are_left_out() -> None:
    right = np.arange(50) % 4 > 0
    one, other = run_with(right), run_with(right[20:], first=20)
    shuffled = other.part(np.random.default_rng(0).permutation(30))
    found = compare_pairs(one, shuffled)
    assert (found.photographs, found.first, found.second, found.same) == (30, 50, 30, False)
    assert found.only_first == found.only_second == 0 and found.p == 1
    assert "only 30 are compared" in str(pair_lines(found, "B")[0])
    apart = compare_pairs(one, run_with(right, first=100))
    (line,) = pair_lines(apart, "B")
    assert "none can be compared" in str(line) and apart.to_dict()["difference"] is None

    relabelled = replace(other, labels=np.where(np.arange(30) < 4, (other.labels + 1) % 3, other.labels))
    found = compare_pairs(run_with(right[20:], first=20), relabelled)
    assert (found.photographs, found.relabelled, found.same) == (26, 4, False)
    renamed = replace(other, classes=np.array(["owl", "cat", "dog"]))
    assert compare_pairs(other, renamed).photographs == 0


def test_the_test_split_is_compared_and_the_validation_split_where_there_is_none() -> None:
    right = np.ones(10, np.bool_)
    both = joined([run_with(right, split=1), run_with(right[:4], first=50, split=2)])
    assert len(both) == 14 and len(both.final()) == 4
    assert len(run_with(right, split=1).final()) == 10


def test_the_file_holds_them_with_the_same_bytes_each_time(tmp_path: Path) -> None:
    made = run_with(np.arange(9) % 2 > 0)
    for name in ("a.npz", "b.npz"):
        write_predictions(tmp_path / name, made)
    assert (tmp_path / "a.npz").read_bytes() == (tmp_path / "b.npz").read_bytes()
    found = read_predictions(tmp_path / "a.npz")
    for name in vars(made):
        np.testing.assert_array_equal(getattr(found, name), getattr(made, name))


def test_a_damaged_file_is_named(tmp_path: Path) -> None:
    path, made = tmp_path / "predictions.npz", run_with(np.arange(9) % 2 > 0)
    with pytest.raises(UserError, match=r"predictions\.npz: no such file"):
        read_predictions(path)
    write_predictions(path, made)
    whole = path.read_bytes()
    for bad in (b"", b"PK", whole[:-40], whole[: len(whole) // 2], b"\x93NUMPY" + whole):
        path.write_bytes(bad)
        with pytest.raises(UserError, match=r"predictions\.npz"):
            read_predictions(path)
    for name, value in (("labels", made.labels + 3), ("of_label", made.of_label[:-1]), ("top", made.top[:, 0])):
        write_predictions(path, replace(made, **{name: value}))
        with pytest.raises(UserError, match=r"predictions\.npz"):
            read_predictions(path)
