"""A warning about a model that is hardly better than its baseline, with the likeliest reasons."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from fasttrain.evaluation.baseline import majority_baseline
from fasttrain.evaluation.label_sets import SetEvaluation
from fasttrain.evaluation.metrics import Evaluation

NEAR = 1.1  # times the baseline
_REASONS = 2
_ONE_ANSWER = 0.9  # of all predictions
_LEARNED = 0.25  # above the baseline in training
_FELL = 0.95  # of the first epoch's loss
_FEW_EPOCHS = 5
_UNEVEN = 0.5


def baseline_warning(
    evaluation: Evaluation | SetEvaluation, history: Sequence[Mapping[str, Any]] = (), *, pretrained: bool = True
) -> str | None:
    """Return one line where the evaluated model is below or near its baseline, else None.

    `history` is that of the run, as in `history.json`; without it nothing is said about training. `pretrained` says if
    the run began with trained weights.
    """
    if isinstance(evaluation, SetEvaluation):
        if evaluation.map > NEAR * evaluation.chance:
            return None
        said = f"mAP {evaluation.map:.3f} is hardly better than that of random scores ({evaluation.chance:.3f})"
        return _line(said, _of_loss(history, math.inf) + _of_training(history, evaluation.chance, pretrained))
    baseline = majority_baseline(evaluation)
    top1, share = evaluation.top1, baseline.share
    always = f"always answering {baseline.name} ({_percent(share)})"
    if share == 1 or (top1 > NEAR * share and not _may_be_chance(evaluation, share)):
        return None
    if top1 > NEAR * share:
        return f"Top-1 {_percent(top1)} may be no better than {always}: {evaluation.samples:,} photographs can't tell"
    said = f"Top-1 {_percent(top1)} is {'worse' if top1 < share else 'hardly better'} than {always}"
    reasons = _of_loss(history, 3 * math.log(len(evaluation.classes))) + _of_answers(evaluation)
    reasons += _of_training(history, share, pretrained)
    if share >= _UNEVEN:
        reasons.append("most photographs are of one class (--sampling balanced, --monitor macro_f1)")
    return _line(said, reasons)


def _may_be_chance(evaluation: Evaluation, share: float) -> bool:
    return evaluation.top1_interval is not None and evaluation.top1_interval[0] <= share


def _of_loss(history: Sequence[Mapping[str, Any]], exploded: float) -> list[str]:
    """Return what the loss says: that it ended above `exploded`, some multiple of that of guessing, or did not fall."""
    if not history:
        return []
    losses = [record["train_loss"] for record in history]
    last = max(losses[-1], history[-1].get("val_loss", 0.0))
    if last > exploded:
        return [f"the loss exploded, to {last:,.1f}, so lower --learning-rate"]
    if len(losses) > 1 and not min(losses[1:]) < _FELL * losses[0]:
        return ["the training loss did not fall, so try another --learning-rate (fasttrain lr-find)"]
    return []


def _of_answers(evaluation: Evaluation) -> list[str]:
    answers = np.asarray(evaluation.confusion_matrix.sum(0)).ravel()
    likeliest = int(answers.argmax())
    if (share := answers[likeliest] / evaluation.samples) < _ONE_ANSWER:
        return []
    return [f"it answers {evaluation.classes[likeliest].name} for {_percent(share)} of the photographs"]


def _of_training(history: Sequence[Mapping[str, Any]], share: float, pretrained: bool) -> list[str]:
    if not history:
        return ["other photographs or labels than the model was trained on (fasttrain inspect shows them)"]
    learned = max(record.get("train_top1", 0.0) for record in history)
    if learned > share + _LEARNED:
        return [
            f"it learned the training photographs ({_percent(learned)}), so the labels or the look of these may differ",
            "too few photographs for so many epochs",
        ]
    reasons = [] if pretrained else ["it began without pretrained weights"]
    if len(history) <= _FEW_EPOCHS:
        reasons.append(f"{len(history)} epoch{'s' * (len(history) > 1)} may be too few")
    return reasons or ["the labels may be wrong (fasttrain inspect --labels)"]


def _line(said: str, reasons: Sequence[str]) -> str:
    return f"{said}. Likely reasons: {'; '.join(reasons[:_REASONS])}"


def _percent(share: float) -> str:
    return f"{100 * share:.1f} %"
