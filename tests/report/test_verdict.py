"""The line about a model that is hardly better than its baseline: when it is said, and the likeliest reasons."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch

from fasttrain.evaluation.baseline import majority_baseline
from fasttrain.evaluation.label_sets import SetEvaluation
from fasttrain.evaluation.metrics import ClassificationMeter, Evaluation, Interval
from fasttrain.report.verdict import baseline_warning

NAMES = ["cake", "pizza", "soup"]


def evaluated(answers: list[int], labels: list[int], interval: Interval | None = None) -> Evaluation:
    meter = ClassificationMeter(len(NAMES))
    meter.update(torch.nn.functional.one_hot(torch.tensor(answers), len(NAMES)).float(), torch.tensor(labels))
    return replace(meter.compute(NAMES), top1_interval=interval)


def history(*losses: float, top1: float = 0.3) -> list[dict[str, Any]]:
    return [{"epoch": epoch, "train_loss": loss, "train_top1": top1} for epoch, loss in enumerate(losses, 1)]


PROBE = [{**record, "l2": 0.1} for record in history(1.1, 1.2)]
LABELS = [0, 0, 1, 1, 1, 1, 2, 2, 2, 2]  # pizza and soup are equally frequent
WORSE = evaluated([1, 1, 0, 0, 0, 2, 1, 1, 0, 2], LABELS)  # one right


def test_the_baseline_is_the_most_frequent_class() -> None:
    baseline = majority_baseline(WORSE)
    assert (baseline.name, baseline.share) == ("pizza", 0.4)


def test_a_good_model_gets_no_line() -> None:
    assert baseline_warning(evaluated(LABELS, LABELS, (0.8, 1.0)), history(1.0, 0.2)) is None
    assert baseline_warning(evaluated([1] * 4, [1] * 4)) is None, "one class alone: nothing can be better"


@pytest.mark.parametrize(
    ("evaluation", "said"),
    [
        (WORSE, "Top-1 10.0 % is worse than always answering pizza (40.0 %)"),
        (evaluated([1] * 10, LABELS), "Top-1 40.0 % is hardly better than"),
        (
            evaluated([0, 0, 1, 1, 1, 0, 0, 0, 0, 2], LABELS, (0.3, 0.9)),
            "may be no better than always answering pizza (40.0 %): too few photographs to tell (10)",
        ),
    ],
)
def test_how_far_it_is_from_the_baseline(evaluation: Evaluation, said: str) -> None:
    line = baseline_warning(evaluation)
    assert line is not None and said in line and "\n" not in line


@pytest.mark.parametrize(
    ("evaluation", "epochs", "pretrained", "reason"),
    [
        (
            evaluated([1] * 10, LABELS),
            history(1.0, 0.9),
            True,
            "the model answers pizza for 100.0 % of the photographs",
        ),
        (
            WORSE,
            history(1.1, 900.0),
            True,
            "the loss exploded, to 900.0, so lower --learning-rate",
        ),
        (WORSE, history(*[1.1] * 9), True, "the training loss did not fall, so try another --learning-rate"),
        (WORSE, history(1.1, 0.5), False, "began without pretrained weights; 2 epochs may be too few"),
        (WORSE, history(1.1, 0.1, top1=0.98), True, "the model learned the training photographs (98.0 %)"),
        (WORSE, history(*[3 / epoch for epoch in range(1, 30)]), True, "the labels may be wrong"),
        (WORSE, PROBE, True, "the classifier alone was trained, so leave --linear-probe out"),
        (WORSE, [], True, "other photographs or labels than the model was trained on"),
        (evaluated([1] * 6 + [0] * 4, [1] * 9 + [2]), history(1.0, 0.2), True, "most photographs are of one class"),
    ],
)
def test_the_likeliest_reasons(
    evaluation: Evaluation, epochs: list[dict[str, Any]], pretrained: bool, reason: str
) -> None:
    line = baseline_warning(evaluation, epochs, pretrained=pretrained)
    assert line is not None and reason in line
    assert line.partition("Likely reasons: ")[2].count("; ") <= 1, "two at most"


def test_sets_of_classes_are_compared_with_random_scores() -> None:
    poor = SetEvaluation(10, 0.7, 0.21, 0.1, 0.1, 0.0, 0.4, chance=0.2, classes=())
    assert "mAP 0.210 is hardly better than that of random scores (0.200)" in (baseline_warning(poor) or "")
    assert baseline_warning(replace(poor, map=0.5)) is None
