"""The meter against scikit-learn, and the edges that scikit-learn leaves to its caller."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn import metrics as sk

from fasttrain.evaluation.confusion import DENSE_UP_TO
from fasttrain.evaluation.metrics import ClassificationMeter, Evaluation


def fill(
    num_classes: int, samples: int, seed: int, present: list[int] | None = None, ties: bool = False
) -> tuple[ClassificationMeter, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(samples, num_classes, generator=generator)
    labels = torch.randint(num_classes, (samples,), generator=generator)
    if present is not None:
        labels = torch.tensor(present)[labels % len(present)]
    logits[torch.arange(samples), labels] += 1.0
    if ties:
        logits = logits.round()
    meter = ClassificationMeter(num_classes)
    for at in range(0, samples, 37):
        chunk, wanted = logits[at : at + 37], labels[at : at + 37]
        meter.update(chunk, wanted, torch.nn.functional.cross_entropy(chunk, wanted, reduction="sum"))
    return meter, logits, labels


@pytest.mark.parametrize(("num_classes", "samples"), [(6, 50), (6, 1000), (101, 3000)])
def test_agrees_with_scikit_learn(num_classes: int, samples: int) -> None:
    meter, logits, labels = fill(num_classes, samples, seed=samples)
    result = meter.compute()
    predicted = logits.argmax(1)
    assert result.samples == samples
    assert result.loss == pytest.approx(torch.nn.functional.cross_entropy(logits, labels).item(), rel=1e-5)
    assert result.top1 == result.accuracy == pytest.approx(sk.accuracy_score(labels, predicted))
    for k in (3, 5):
        expected = sk.top_k_accuracy_score(labels, logits, k=k, labels=range(num_classes))
        assert getattr(result, f"top{k}") == pytest.approx(expected)
    for average in ("macro", "weighted"):
        expected = sk.precision_recall_fscore_support(labels, predicted, average=average, zero_division=0)
        got = [getattr(result, f"{average}_{name}") for name in ("precision", "recall", "f1")]
        assert got == list(expected[:3])
    by_class = sk.precision_recall_fscore_support(labels, predicted, labels=range(num_classes), zero_division=0)
    for field, expected in zip(("precision", "recall", "f1", "support"), by_class, strict=True):
        assert [getattr(each, field) for each in result.classes] == list(expected)
    np.testing.assert_array_equal(
        result.confusion_matrix, sk.confusion_matrix(labels, predicted, labels=range(num_classes))
    )
    assert result.confusion_matrix.dtype == np.int64


def test_classes_without_samples_are_left_out_of_the_macro_averages() -> None:
    meter, logits, labels = fill(8, 400, seed=1, present=[0, 2, 3, 6])
    result = meter.compute()
    expected = sk.precision_recall_fscore_support(
        labels, logits.argmax(1), labels=[0, 2, 3, 6], average="macro", zero_division=0
    )
    assert [result.macro_precision, result.macro_recall, result.macro_f1] == list(expected[:3])
    assert result.classes[1].support == 0
    assert result.classes[1].f1 == 0.0
    assert all(math.isfinite(value) for value in result.scalars().values())
    assert {each.name for each in result.worst(8)} == {"0", "2", "3", "6"}


@pytest.mark.parametrize("num_classes", [1, 2, 4])
def test_top_k_with_fewer_classes_than_k_is_one(num_classes: int) -> None:
    meter, _, _ = fill(num_classes, 60, seed=3)
    result = meter.compute()
    assert result.top5 == 1.0
    assert result.top3 == (1.0 if num_classes <= 3 else pytest.approx(result.top3))
    assert result.top1 <= result.top3 <= result.top5


def test_worst_classes_are_ordered_by_f1_then_recall() -> None:
    meter = ClassificationMeter(3)
    truth = torch.tensor([0] * 10 + [1] * 10 + [2] * 10)
    predicted = torch.tensor([0] * 10 + [1] * 4 + [2] * 6 + [2] * 9 + [1])
    meter.update(torch.nn.functional.one_hot(predicted, 3).float(), truth)
    result = meter.compute(["apple", "bread", "cake"])
    assert [each.name for each in result.worst(2)] == ["bread", "cake"]
    assert result.worst(1)[0].recall == pytest.approx(0.4)


def test_survives_json() -> None:
    meter, _, _ = fill(5, 90, seed=5)
    result = meter.compute(list("abcde"))
    text = json.dumps(result.to_dict(), allow_nan=False)
    assert Evaluation.from_dict(json.loads(text)) == result
    assert json.loads(text)["worst_classes"] == [each.name for each in result.worst()]


def test_a_loss_that_is_not_finite_survives_json() -> None:
    meter = ClassificationMeter(2)
    meter.update(torch.eye(2), torch.tensor([0, 1]))
    result = meter.compute()
    assert math.isnan(result.loss)
    assert math.isnan(Evaluation.from_dict(json.loads(json.dumps(result.to_dict(), allow_nan=False))).loss)


def test_half_precision_losses_are_summed_in_double() -> None:
    meter = ClassificationMeter(2)
    for _ in range(3000):
        meter.update(torch.eye(2), torch.tensor([0, 1]), torch.tensor(2.0, dtype=torch.bfloat16))
    assert meter.loss_and_accuracy() == (1.0, 1.0)


def test_labels_beyond_the_classes_are_an_error() -> None:
    for label in (3, -1):
        with pytest.raises((IndexError, RuntimeError)):
            ClassificationMeter(3).update(torch.eye(3)[:1], torch.tensor([label]))


def test_nothing_counted_is_an_error() -> None:
    with pytest.raises(ValueError, match="no samples"):
        ClassificationMeter(3).compute()


@settings(max_examples=40)
@given(
    num_classes=st.integers(1, 9),
    samples=st.integers(1, 200),
    seed=st.integers(0, 2**31),
    present=st.one_of(st.none(), st.sets(st.integers(0, 8), min_size=1)),
)
@pytest.mark.slow
def test_random_inputs_agree_with_scikit_learn(
    num_classes: int, samples: int, seed: int, present: set[int] | None
) -> None:
    """Inputs have one class or many, classes that are never true, never predicted, or neither, and few samples."""
    there = None if present is None else sorted({label % num_classes for label in present})
    meter, logits, labels = fill(num_classes, samples, seed, there)
    result, predicted = meter.compute(), logits.argmax(1)
    support = np.bincount(labels, minlength=num_classes)
    assert [each.support for each in result.classes] == support.tolist()
    every = sk.precision_recall_fscore_support(labels, predicted, labels=range(num_classes), zero_division=0)
    for field, expected in zip(("precision", "recall", "f1"), every, strict=False):
        assert [getattr(each, field) for each in result.classes] == list(expected)
    for average in ("macro", "weighted"):
        expected = sk.precision_recall_fscore_support(
            labels, predicted, labels=np.flatnonzero(support), average=average, zero_division=0
        )
        got = [getattr(result, f"{average}_{name}") for name in ("precision", "recall", "f1")]
        assert got == list(expected[:3])
    assert result.weighted_recall == pytest.approx(result.top1), "which is what weighing recall by support comes to"
    assert np.array_equal(result.confusion_matrix, sk.confusion_matrix(labels, predicted, labels=range(num_classes)))
    for k in (1, 3, 5):
        hits = [label in row for label, row in zip(labels, logits.argsort(1, descending=True)[:, :k], strict=True)]
        assert getattr(result, f"top{k}") == pytest.approx(np.mean(hits))
    assert Evaluation.from_dict(json.loads(json.dumps(result.to_dict()))) == result


@given(num_classes=st.integers(2, 8), samples=st.integers(1, 100), seed=st.integers(0, 2**31))
def test_ties_count_one_class_and_top_k_lies_between_the_bounds(num_classes: int, samples: int, seed: int) -> None:
    """Which of equal logits comes first is torch's choice; whatever it is, all figures are of the same choice."""
    meter, logits, labels = fill(num_classes, samples, seed, ties=True)
    result = meter.compute()
    predicted = logits.topk(min(5, num_classes), dim=1).indices[:, 0]
    assert result.top1 == pytest.approx(sk.accuracy_score(labels, predicted))
    assert np.array_equal(result.confusion_matrix, sk.confusion_matrix(labels, predicted, labels=range(num_classes)))
    own = logits[torch.arange(samples), labels][:, None]
    better, equal = (logits > own).sum(1), (logits == own).sum(1)
    for k in (1, 3, 5):
        least, most = (better + equal <= k).float().mean(), (better < k).float().mean()
        assert float(least) - 1e-6 <= getattr(result, f"top{k}") <= float(most) + 1e-6


@pytest.mark.parametrize("batches", [37, 1000])
def test_of_many_classes_the_matrix_is_sparse_and_the_figures_are_the_same(
    batches: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("fasttrain.evaluation.metrics._MOST_PENDING", batches)
    classes = DENSE_UP_TO + 1
    meter, logits, labels = fill(classes, 3000, seed=4)
    result, predicted = meter.compute(), logits.argmax(1)
    assert not isinstance(result.confusion_matrix, np.ndarray)
    assert np.array_equal(
        result.confusion_matrix.toarray(), sk.confusion_matrix(labels, predicted, labels=range(classes))
    )
    by_class = sk.precision_recall_fscore_support(labels, predicted, labels=range(classes), zero_division=0)
    for field, expected in zip(("precision", "recall", "f1", "support"), by_class, strict=True):
        assert [getattr(each, field) for each in result.classes] == list(expected)
    text = json.dumps(result.to_dict(), allow_nan=False)
    assert len(text) < 400_000 and Evaluation.from_dict(json.loads(text)) == result
    again = meter.compute()
    assert again == result, "computing counts nothing twice"
    for label in (classes, -1):
        with pytest.raises(IndexError):
            meter.update(torch.zeros(1, classes), torch.tensor([label]))
