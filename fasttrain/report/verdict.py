"""Warn about a model that is hardly better than its baseline, and name the likeliest reasons."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from fasttrain.evaluation.baseline import majority_baseline
from fasttrain.evaluation.label_sets import SetEvaluation
from fasttrain.evaluation.metrics import Evaluation
from fasttrain.report.summary import is_probe

NEAR = 1.1  # a model is near its baseline up to this multiple of it
_REASONS = 2  # the most reasons to name
_ONE_ANSWER = 0.9  # a model gives only one answer if this share of its predictions is one class
_LEARNED = 0.25  # the training accuracy above the baseline from which the model has learned
_FELL = 0.95  # the loss has fallen if it is below this multiple of the first epoch's
_FEW_EPOCHS = 5
_UNEVEN = 0.5  # the share of the most frequent class from which classes are uneven


def baseline_warning(
    evaluation: Evaluation | SetEvaluation, history: Sequence[Mapping[str, Any]] = (), *, pretrained: bool = True
) -> str | None:
    """Return one line of warning if the model is worse or hardly better than its baseline, else None.

    The baseline is the accuracy of always answering the most frequent class or, for a multi-label model, the `map` of
    random scores. The line names the likeliest reasons. `history`: the run's records, as in `history.json`. If it is
    empty, no reasons in the training are named. `pretrained`: whether the run started from pretrained weights.
    """
    if isinstance(evaluation, SetEvaluation):
        if evaluation.map > NEAR * evaluation.chance:
            return None
        finding = f"mAP {evaluation.map:.3f} is hardly better than that of random scores ({evaluation.chance:.3f})"
        reasons = _loss_reasons(history, math.inf) + _training_reasons(history, evaluation.chance, pretrained)
        return _line(finding, reasons)
    baseline = majority_baseline(evaluation)
    top1, share = evaluation.top1, baseline.share
    always = f"always answering {baseline.name} ({_percent(share)})"
    if share == 1 or (top1 > NEAR * share and not _may_be_chance(evaluation, share)):
        return None
    if top1 > NEAR * share:
        few = f"too few photographs to tell ({evaluation.samples:,})"
        return f"Top-1 {_percent(top1)} may be no better than {always}: {few}"
    finding = f"Top-1 {_percent(top1)} is {'worse' if top1 < share else 'hardly better'} than {always}"
    reasons = _loss_reasons(history, 3 * math.log(len(evaluation.classes))) + _answer_reasons(evaluation)
    reasons += _training_reasons(history, share, pretrained)
    if share >= _UNEVEN:
        reasons.append("most photographs are of one class (--sampling balanced, --monitor macro_f1)")
    return _line(finding, reasons)


def _may_be_chance(evaluation: Evaluation, share: float) -> bool:
    """Return whether the interval of top1 includes the baseline's accuracy `share`."""
    return evaluation.top1_interval is not None and evaluation.top1_interval[0] <= share


def _loss_reasons(history: Sequence[Mapping[str, Any]], exploded: float) -> list[str]:
    """Return a reason if the training loss ended above `exploded` or did not fall, else an empty list."""
    if not history or is_probe(history):  # each fit of a probe ends at the lowest loss, without a learning rate
        return []
    losses = [record["train_loss"] for record in history]
    last = max(losses[-1], history[-1].get("val_loss", 0.0))
    if last > exploded:
        return [f"the loss exploded, to {last:,.1f}, so lower --learning-rate"]
    if len(losses) > 1 and not min(losses[1:]) < _FELL * losses[0]:
        return ["the training loss did not fall, so try another --learning-rate (fasttrain lr-find)"]
    return []


def _answer_reasons(evaluation: Evaluation) -> list[str]:
    """Return a reason if nearly all predictions are the same class, else an empty list."""
    answers = np.asarray(evaluation.confusion_matrix.sum(0)).ravel()
    likeliest = int(answers.argmax())
    if (share := answers[likeliest] / evaluation.samples) < _ONE_ANSWER:
        return []
    return [f"the model answers {evaluation.classes[likeliest].name} for {_percent(share)} of the photographs"]


def _training_reasons(history: Sequence[Mapping[str, Any]], share: float, pretrained: bool) -> list[str]:
    """Return the likeliest reasons in the training and its data, given the baseline's accuracy `share`."""
    if not history:
        return ["other photographs or labels than the model was trained on (fasttrain inspect shows them)"]
    learned = max(record.get("train_top1", 0.0) for record in history)
    if learned > share + _LEARNED:
        return [
            f"the model learned the training photographs ({_percent(learned)}), but the evaluated ones may differ",
            "too few photographs" if is_probe(history) else "too few photographs for so many epochs",
        ]
    reasons = [] if pretrained else ["the run began without pretrained weights"]
    if is_probe(history):
        reasons.append("the classifier alone was trained, so leave --linear-probe out")
    elif len(history) <= _FEW_EPOCHS:
        reasons.append(f"{len(history)} epoch{'s' * (len(history) > 1)} may be too few")
    return reasons or ["the labels may be wrong (fasttrain inspect --labels)"]


def _line(finding: str, reasons: Sequence[str]) -> str:
    return f"{finding}. Likely reasons: {'; '.join(reasons[:_REASONS])}"


def _percent(share: float) -> str:
    return f"{100 * share:.1f} %"
