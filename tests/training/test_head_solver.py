"""The linear probe's head is the one that scikit-learn's logistic regression finds."""

from __future__ import annotations

import contextlib

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression

from fasttrain.device import fast_math
from fasttrain.training.head_solver import solve_head
from fasttrain.training.linear_probe import l2_strength
from tests.support.tf32 import EmulatedTF32


def gaussian(generator: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Six overlapping classes along 40 features whose scales span four orders of magnitude, far from zero."""
    labels = generator.integers(0, 6, 1200)
    centers = np.random.default_rng(1).normal(0, 0.5, (6, 40))
    features = centers[labels] + generator.normal(0, 1, (1200, 40))
    return features * np.logspace(-2, 2, 40) + 300, labels


def rectified(generator: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Sparse, correlated features as a network's last ReLU gives them, more of them than samples; one is constant."""
    labels = generator.integers(0, 4, 1200)
    mix = np.random.default_rng(2).normal(0, 1, (12, 600))
    centers = np.random.default_rng(3).normal(0, 1, (4, 12))
    features = np.maximum((centers[labels] + generator.normal(0, 1.2, (1200, 12))) @ mix - 2, 0)
    features[:, 7] = 3.0
    return features, labels


def split(draw, samples: int = 400) -> list[tuple[np.ndarray, np.ndarray]]:
    features, labels = draw(np.random.default_rng(0))
    features = features.astype(np.float32)
    return [(features[part], labels[part]) for part in (slice(0, samples), slice(samples, 800), slice(800, 1200))]


def solved(features: np.ndarray, labels: np.ndarray, l2: float, head: torch.nn.Linear | None = None) -> torch.nn.Linear:
    head = head or torch.nn.Linear(features.shape[1], int(labels.max()) + 1)
    criterion = torch.nn.CrossEntropyLoss()
    assert solve_head(head, torch.from_numpy(features), torch.from_numpy(labels), criterion, l2)
    return head


def logits_of(head: torch.nn.Linear, features: np.ndarray) -> np.ndarray:
    with torch.no_grad():
        return head(torch.from_numpy(features)).numpy()


def loss_of(logits: np.ndarray, labels: np.ndarray) -> float:
    return float(torch.nn.functional.cross_entropy(torch.from_numpy(logits), torch.from_numpy(labels)))


def standardize(features: np.ndarray, by: np.ndarray) -> np.ndarray:
    deviation = by.std(axis=0, dtype=np.float64)
    return (features - by.mean(axis=0, dtype=np.float64)) / np.where(deviation < 1e-6, 1, deviation)


@pytest.mark.parametrize("draw", [gaussian, rectified])
@pytest.mark.parametrize("l2", [1.0, 1e-2, 1e-4])
def test_it_finds_the_minimum_that_scikit_learn_finds(draw, l2):
    train, _, test = split(draw)
    features = standardize(train[0], train[0])
    theirs = LogisticRegression(C=1 / (l2 * len(features)), max_iter=5000, tol=1e-8).fit(features, train[1])
    expected = theirs.decision_function(features), theirs.decision_function(standardize(test[0], train[0]))
    head = solved(*train, l2)
    weight = head.weight.detach().numpy() * np.where((deviation := train[0].std(axis=0)) < 1e-6, 1, deviation)

    def objective(logits: np.ndarray, weight: np.ndarray) -> float:
        return loss_of(logits, train[1]) + l2 / 2 * float((weight**2).sum())

    least = objective(expected[0], theirs.coef_)
    assert objective(logits_of(head, train[0]), weight) == pytest.approx(least, rel=2e-3)
    assert loss_of(logits_of(head, test[0]), test[1]) == pytest.approx(loss_of(expected[1], test[1]), rel=0.02)


@pytest.mark.parametrize("draw", [gaussian, rectified])
@pytest.mark.slow
def test_a_path_of_penalties_is_not_worse_than_scikit_learn_with_its_own_choice(draw):
    """Paired bootstrap over the test samples: the interval of the difference in top1 includes 0 or favours us."""
    train, val, test = split(draw)
    features = standardize(train[0], train[0])
    tried = [
        LogisticRegression(C=strength, max_iter=5000).fit(features, train[1]) for strength in np.logspace(-4, 2, 13)
    ]
    theirs = max(tried, key=lambda each: each.score(standardize(val[0], train[0]), val[1]))
    right_theirs = theirs.predict(standardize(test[0], train[0])) == test[1]
    head, best = torch.nn.Linear(features.shape[1], int(train[1].max()) + 1), (np.inf, np.empty(0))
    for epoch in range(10):
        solved(*train, l2_strength(epoch, 10, len(train[1])), head)
        loss = loss_of(logits_of(head, val[0]), val[1])
        best = min(best, (loss, logits_of(head, test[0])), key=lambda each: each[0])
    right = best[1].argmax(1) == test[1]
    rows = np.random.default_rng(5).integers(0, len(right), (2000, len(right)))
    difference = right.astype(float) - right_theirs
    assert np.quantile(difference[rows].mean(1), 0.975) >= 0, (right.mean(), right_theirs.mean())
    assert right.mean() > 0.5, "the task is neither trivial nor hopeless"


def test_a_class_without_samples_two_classes_and_no_bias_are_solved():
    train, _, test = split(gaussian)
    kept = train[1] != 2
    head = solved(train[0][kept], train[1][kept], 1e-2, torch.nn.Linear(40, 6))
    assert not (logits_of(head, test[0]).argmax(1) == 2).any()
    two = train[1] < 2
    assert loss_of(logits_of(solved(train[0][two], train[1][two], 1e-3), train[0][two]), train[1][two]) < 0.5
    no_bias = solved(standardize(train[0], train[0]).astype(np.float32), train[1], 1e-2, torch.nn.Linear(40, 6, False))
    assert no_bias.bias is None and np.isfinite(logits_of(no_bias, test[0])).all()


def test_a_requested_stop_leaves_the_head_unchanged():
    features, labels = split(gaussian)[0]
    head = torch.nn.Linear(40, 6)
    before = head.weight.detach().clone()
    inputs, targets = torch.from_numpy(features), torch.from_numpy(labels)
    assert not solve_head(head, inputs, targets, torch.nn.CrossEntropyLoss(), 1e-2, stop_requested=lambda: True)
    assert torch.equal(head.weight, before)


def test_the_penalties_run_from_the_middle_to_the_extremes():
    assert [l2_strength(epoch, 3, 1000) for epoch in range(3)] == pytest.approx([1e-1, 1e-3, 10])
    four = [1 / (1000 * l2_strength(epoch, 4, 1000)) for epoch in range(4)]
    assert four == pytest.approx([10 ** (-8 / 3), 10 ** (-4 / 3), 1e-4, 1])
    assert l2_strength(0, 1, 1000) == pytest.approx(1e-1)


def test_a_gpu_that_rounds_to_tf32_solves_for_the_same_head():
    (features, labels), *_ = split(gaussian)
    heads = []
    fast_math(deterministic=False)
    for mode in (contextlib.nullcontext(), EmulatedTF32()):
        head = torch.nn.Linear(features.shape[1], 6)
        torch.nn.init.zeros_(head.weight)
        torch.nn.init.zeros_(head.bias)
        with mode:
            heads.append(solved(features, labels, 1e-2, head))
    assert torch.get_float32_matmul_precision() == "high", "it is put back"
    assert torch.equal(heads[0].weight, heads[1].weight) and torch.equal(heads[0].bias, heads[1].bias)
