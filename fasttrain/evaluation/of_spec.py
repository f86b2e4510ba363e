"""Evaluate a model by its spec: with one class per photograph, or with sets of classes."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING, Any, TypeAlias

from fasttrain.evaluation.bootstrap import with_intervals, with_set_intervals
from fasttrain.evaluation.calibration import with_calibration
from fasttrain.evaluation.evaluate import Predictions, evaluate_model, evaluate_multi_label
from fasttrain.evaluation.label_sets import SetEvaluation, SetPredictions
from fasttrain.evaluation.metrics import Evaluation
from fasttrain.model.criterion import validation_criterion
from fasttrain.model.factory import ModelSpec

if TYPE_CHECKING:
    import torch

    from fasttrain.ranks import Ranks

AnyEvaluation: TypeAlias = Evaluation | SetEvaluation
AnyPredictions: TypeAlias = Predictions | SetPredictions


def evaluate_split(
    model: torch.nn.Module,
    batches: Iterable[tuple[torch.Tensor, torch.Tensor, Any]],
    spec: ModelSpec,
    *,
    device: torch.device,
    preprocess: Callable[[torch.Tensor], torch.Tensor],
    autocast: Callable[[], AbstractContextManager[Any]] = nullcontext,
    ranks: Ranks | None = None,
    logits_seen: Callable[[torch.Tensor, torch.Tensor], None] | None = None,
) -> tuple[AnyEvaluation, AnyPredictions]:
    """Evaluate the model that `spec` describes. Return the metrics and all predictions.

    A model with one class per photograph is evaluated by `evaluate_model` at the temperature in `spec`, a multi-label
    model by `evaluate_multi_label` at the thresholds in `spec`. If there are no thresholds yet, they are chosen on
    these photographs. The other arguments are those of these two functions.
    """
    criterion = validation_criterion(multi_label=spec.multi_label)
    shared: Any = {"device": device, "preprocess": preprocess, "autocast": autocast, "criterion": criterion}
    classes = list(spec.classes)
    if spec.multi_label:
        return evaluate_multi_label(model, batches, classes=classes, thresholds=spec.thresholds, ranks=ranks, **shared)
    return evaluate_model(
        model,
        batches,
        num_classes=len(classes),
        classes=classes,
        temperature=spec.temperature,
        ranks=ranks,
        logits_seen=logits_seen,
        **shared,
    )


def with_certainty(evaluation: AnyEvaluation, predictions: AnyPredictions) -> AnyEvaluation:
    """Return `evaluation` with calibration errors and confidence intervals, computed from its `predictions`.

    For a multi-label model only confidence intervals are computed.
    """
    if isinstance(evaluation, SetEvaluation):
        assert isinstance(predictions, SetPredictions)
        return with_set_intervals(evaluation, predictions)
    assert isinstance(predictions, Predictions)
    return with_intervals(with_calibration(evaluation, predictions))
