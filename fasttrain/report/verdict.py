"""A warning about a model that is hardly better than its baseline, with the likeliest reasons."""

from __future__ import annotations

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
        return _line(said, _of_training(history, evaluation.chance, pretrained))
    baseline = majority_baseline(evaluation)
    compared = _compared(evaluation, baseline.share)
    if compared is None or baseline.share == 1:
        return None
    said = f"Top-1 {_percent(evaluation.top1)} is {compared} always answering {baseline.name}"
    said += f" ({_percent(baseline.share)})"
    reasons = _of_answers(evaluation) + _of_training(history, baseline.share, pretrained)
    if baseline.share >= _UNEVEN:
        reasons.append("most photographs are of one class (--sampling balanced, --monitor macro_f1)")
    return _line(said, reasons)


def _compared(evaluation: Evaluation, share: float) -> str | None:
    if evaluation.top1 < share:
        return "worse than"
    if evaluation.top1 <= NEAR * share:
        return "hardly better than"
    if evaluation.top1_interval is not None and evaluation.top1_interval[0] <= share:
        return f"on {evaluation.samples:,} photographs not surely better than"
    return None


def _of_answers(evaluation: Evaluation) -> list[str]:
    answers = np.asarray(evaluation.confusion_matrix.sum(0)).ravel()
    likeliest = int(answers.argmax())
    if (share := answers[likeliest] / evaluation.samples) < _ONE_ANSWER:
        return []
    return [f"it answers {evaluation.classes[likeliest].name} for {_percent(share)} of the photographs"]


def _of_training(history: Sequence[Mapping[str, Any]], share: float, pretrained: bool) -> list[str]:
    if not history:
        return ["other photographs or labels than the model was trained on (fasttrain inspect shows them)"]
    losses = [record["train_loss"] for record in history]
    learned = max(record.get("train_top1", 0.0) for record in history)
    if learned > share + _LEARNED:
        said = (
            f"it learned the training photographs ({_percent(learned)}), so their labels or look may differ from these"
        )
        return [said, "there are too few for the epochs"]
    reasons = []
    if len(losses) > 1 and not min(losses[1:]) < _FELL * losses[0]:
        reasons.append("the training loss did not fall, so try another --learning-rate (fasttrain lr-find)")
    if not pretrained:
        reasons.append("it began without pretrained weights")
    if len(history) <= _FEW_EPOCHS:
        reasons.append(f"{len(history)} epoch{'s' * (len(history) > 1)} may be too few")
    return reasons or ["the labels may be wrong (fasttrain inspect --labels)"]


def _line(said: str, reasons: Sequence[str]) -> str:
    return f"{said}. Likely reasons: {'; '.join(reasons[:_REASONS])}"


def _percent(share: float) -> str:
    return f"{100 * share:.1f} %"
