"""Metrics of sets of classes against scikit-learn, and thresholds of the greatest F1."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
import torch
from sklearn.metrics import average_precision_score, f1_score, hamming_loss

from fasttrain.augment.mix import PlannedMixup
from fasttrain.evaluation.bootstrap import with_set_intervals
from fasttrain.evaluation.label_sets import SetPredictions, average_precision, best_thresholds, evaluate_sets
from fasttrain.model.criterion import SetCrossEntropy


def drawn(count: int = 200, seed: int = 0) -> SetPredictions:
    """Scores that know something of four classes; of a fifth there is no photograph."""
    random = np.random.default_rng(seed)
    truth = random.random((count, 5)) < (0.5, 0.3, 0.1, 0.05, 0.0)
    logits = random.normal(size=(count, 5)) + 1.5 * truth - 1
    return SetPredictions(np.arange(count), truth, (1 / (1 + np.exp(-logits))).astype(np.float32))


def test_metrics_are_scikit_learns() -> None:
    found = drawn()
    truth, scores = found.labels, found.probabilities
    result = evaluate_sets(found, list("abcde"), 0.3, thresholds=[0.4] * 5)
    said = scores >= 0.4
    assert result.map == pytest.approx(average_precision_score(truth[:, :4], scores[:, :4], average="macro"))
    assert result.micro_f1 == pytest.approx(f1_score(truth, said, average="micro"))
    assert result.macro_f1 == pytest.approx(f1_score(truth[:, :4], said[:, :4], average="macro"))
    assert result.hamming_loss == pytest.approx(hamming_loss(truth, said))
    assert result.subset_accuracy == pytest.approx((truth == said).all(1).mean())
    assert result.chance == pytest.approx(truth[:, :4].mean())
    assert math.isnan(result.classes[4].ap) and result.classes[4].support == 0
    assert [each.name for each in result.worst(9)] == sorted(
        "abcd", key=lambda name: result.classes["abcd".index(name)].ap
    )
    plain = json.loads(json.dumps(result.to_dict(), allow_nan=False))
    assert plain["map"] == result.map and plain["classes"][4]["ap"] is None


@pytest.mark.parametrize("decimals", [8, 1])
def test_intervals_are_those_of_photographs_drawn_one_by_one(decimals: int) -> None:
    found = drawn(300)
    found = SetPredictions(found.ids, found.labels, found.probabilities.round(decimals))
    result = with_set_intervals(evaluate_sets(found, list("abcde"), 0.3), found)
    random, maps, first = np.random.default_rng(5), [], []
    for _ in range(600):
        rows = random.integers(0, 300, 300)
        resampled = SetPredictions(found.ids, found.labels[rows], found.probabilities[rows])
        each = evaluate_sets(resampled, list("abcde"), 0.3)
        maps.append(each.map)
        first.append(each.classes[0].ap)
    assert result.map_interval == pytest.approx(np.percentile(maps, [2.5, 97.5]), abs=0.015)
    assert result.classes[0].ap_interval == pytest.approx(np.percentile(first, [2.5, 97.5]), abs=0.015)
    assert result.classes[4].ap_interval is None
    low, high = json.loads(json.dumps(result.to_dict(), allow_nan=False))["map_interval"]
    assert low < result.map < high and "map_interval" not in result.scalars()


@pytest.mark.filterwarnings("error")
def test_a_replicate_without_a_rare_class_is_left_out_of_its_interval() -> None:
    truth = np.zeros((20, 2), np.bool_)
    truth[3, 0] = True
    scores = np.linspace(0.1, 0.9, 40, dtype=np.float32).reshape(20, 2)
    found = SetPredictions(np.arange(20), truth, scores)
    result = with_set_intervals(evaluate_sets(found, list("ab"), 0.3), found)
    low, high = result.map_interval or (1, 0)
    assert 0 < low < result.map < high < 1 and result.map_interval == result.classes[0].ap_interval


@pytest.mark.parametrize("decimals", [8, 1])
def test_average_precision_is_scikit_learns_to_the_last_bit(decimals: int) -> None:
    for seed in range(20):
        random = np.random.default_rng(seed)
        truth, scores = random.random(101) < 0.3, random.random(101).astype(np.float32).round(decimals)
        assert average_precision(truth, scores) == average_precision_score(truth, scores)


def test_thresholds_have_the_greatest_f1() -> None:
    found = drawn(seed=1)
    cuts = best_thresholds(found.labels, found.probabilities)
    for label in range(4):
        truth, scores = found.labels[:, label], found.probabilities[:, label]
        best = max(f1_score(truth, scores >= cut) for cut in np.unique(scores))
        assert f1_score(truth, scores >= cuts[label]) == pytest.approx(best)
        assert cuts[label] not in scores
    assert cuts[4] == 0.5
    equal = best_thresholds(np.array([[True], [False], [True]]), np.full((3, 1), 0.7, np.float32))
    assert 0 < equal[0] < 0.7


def test_the_loss_is_torchs() -> None:
    logits, targets = torch.randn(6, 3), (torch.rand(6, 3) > 0.5).float()
    weights = torch.tensor([1.0, 2.0, 5.0])
    theirs = torch.nn.BCEWithLogitsLoss(pos_weight=weights)(logits, targets * 0.8 + 0.1)
    ours = SetCrossEntropy(weights, label_smoothing=0.2)
    assert torch.allclose(ours(logits, targets), theirs)
    each = SetCrossEntropy()
    each.reduction = "none"
    assert each(logits, targets).shape == (6,)


def test_mixup_mixes_sets_as_it_mixes_labels() -> None:
    ids, labels = np.arange(5), torch.tensor([0, 2, 1, 1, 0])
    inputs = torch.rand(5, 3, 8, 8)
    mix = PlannedMixup(0.4, 1.0, 3, seed=7)
    of_labels = mix(inputs.clone(), labels, ids, 0)
    of_sets = mix(inputs.clone(), torch.nn.functional.one_hot(labels, 3).float(), ids, 0)
    assert all(torch.equal(ours, theirs) for ours, theirs in zip(of_sets, of_labels, strict=True))
    sets = torch.tensor([[1.0, 1, 0], [0, 0, 0], [1, 1, 1], [0, 1, 0], [0, 0, 1]])
    before = sets.clone()
    _, targets = mix(inputs.clone(), sets, ids, 0)
    assert torch.equal(sets, before) and torch.equal(targets[4], sets[4])
    assert torch.allclose(targets[:4] + targets[:4].flip(0), sets[:4] + sets[:4].flip(0))
