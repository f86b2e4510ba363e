"""Evaluation of a model by what its spec says of it: one class a photograph, or a set of classes."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING, Any

from fasttrain.evaluation.evaluate import Predictions, evaluate_model, evaluate_multi_label
from fasttrain.evaluation.label_sets import SetEvaluation, SetPredictions
from fasttrain.evaluation.metrics import Evaluation
from fasttrain.model.criterion import make_criterion
from fasttrain.model.factory import ModelSpec

if TYPE_CHECKING:
    import torch

    from fasttrain.ranks import Ranks


def evaluate_split(
    model: torch.nn.Module,
    batches: Iterable[tuple[torch.Tensor, torch.Tensor, Any]],
    spec: ModelSpec,
    *,
    device: torch.device,
    preprocess: Callable[[torch.Tensor], torch.Tensor],
    autocast: Callable[[], AbstractContextManager[Any]] = nullcontext,
    ranks: Ranks | None = None,
) -> tuple[Evaluation | SetEvaluation, Predictions | SetPredictions]:
    """Evaluate the model that `spec` describes: see `evaluate_model` and `evaluate_multi_label`.

    The thresholds of a multi-label model are the spec's; where it has none, they are chosen on these photographs.
    """
    criterion = make_criterion(multi_label=spec.multi_label)
    shared: Any = {"device": device, "preprocess": preprocess, "autocast": autocast, "criterion": criterion}
    classes = list(spec.classes)
    if spec.multi_label:
        return evaluate_multi_label(model, batches, classes=classes, thresholds=spec.thresholds, ranks=ranks, **shared)
    return evaluate_model(model, batches, num_classes=len(classes), classes=classes, ranks=ranks, **shared)
