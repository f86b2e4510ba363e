"""Evaluate a model in one pass over a split: metrics, and the prediction for each photograph."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable, Sequence
from contextlib import AbstractContextManager, closing, nullcontext
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
import numpy.typing as npt

from fasttrain.errors import UserError
from fasttrain.evaluation.label_sets import SetEvaluation, SetPredictions, evaluate_sets
from fasttrain.evaluation.metrics import ClassificationMeter, Evaluation

if TYPE_CHECKING:
    import torch

    from fasttrain.ranks import Ranks


@dataclass(frozen=True)
class Predictions:
    """A model's predictions for N photographs: the K = min(5, C) likeliest of C classes for each.

    `ids`: int64 [N], row numbers of the shards' index. `labels`: int64 [N], the true classes. `top`: int64 [N, K], the
    predicted classes, the likeliest first. `probabilities`: float32 [N, K] in [0, 1], their probabilities at the
    model's temperature. `uncalibrated`: float32 [N, K], their probabilities at temperature 1, or None if that is the
    model's temperature. `of_label`: float32 [N], the probability of the true class at temperature 1, or None if
    unknown. `of_label_calibrated`: float32 [N], the same at the model's temperature, or None if unknown.
    """

    ids: npt.NDArray[np.int64]
    labels: npt.NDArray[np.int64]
    top: npt.NDArray[np.int64]
    probabilities: npt.NDArray[np.float32]
    uncalibrated: npt.NDArray[np.float32] | None = None
    of_label: npt.NDArray[np.float32] | None = None
    of_label_calibrated: npt.NDArray[np.float32] | None = None

    def probability_of_truth(self, row: int) -> float | None:
        """Return the true class's probability, in [0, 1], of the photograph in this row, or None if it is unknown."""
        if self.of_label_calibrated is not None:
            return float(self.of_label_calibrated[row])
        place = np.flatnonzero(self.top[row] == self.labels[row])
        return float(self.probabilities[row, place[0]]) if len(place) else None


_P = TypeVar("_P", Predictions, SetPredictions)


def evaluate_model(
    model: torch.nn.Module,
    batches: Iterable[tuple[torch.Tensor, torch.Tensor, Any]],
    *,
    num_classes: int,
    device: torch.device | str,
    preprocess: Callable[[torch.Tensor], torch.Tensor],
    classes: Sequence[str] | None = None,
    autocast: Callable[[], AbstractContextManager[Any]] = nullcontext,
    criterion: Callable[[torch.Tensor, torch.Tensor], torch.Tensor] | None = None,
    temperature: float = 1.0,
    logits_seen: Callable[[torch.Tensor, torch.Tensor], None] | None = None,
    ranks: Ranks | None = None,
) -> tuple[Evaluation, Predictions]:
    """Evaluate a model with one class per photograph. Return the metrics and all predictions.

    `batches`: yields images, uint8 [n, H, W, 3], labels, int64 [n], and ids, int64 [n]. `preprocess`: turns images on
    `device` into the model's input. `criterion`: the loss, averaged over a batch. `temperature`: divides the logits
    before the softmax, and changes only probabilities. `logits_seen`: called with the logits, float32 [n, C], and the
    labels of each batch. `ranks`: the processes that evaluate together. Each rank passes its own batches, and all ranks
    get the metrics and predictions of all photographs, in the order of their ids.

    The model runs in eval mode under `torch.inference_mode`; its training flags are restored afterwards. The host
    doesn't wait for the device before the last batch. Raises UserError if there are no photographs.
    """
    import torch

    meter = ClassificationMeter(num_classes, device)
    ids: list[npt.NDArray[np.int64]] = []
    labels: list[torch.Tensor] = []
    top: list[torch.Tensor] = []
    probabilities: list[torch.Tensor] = []
    uncalibrated: list[torch.Tensor] = []
    of_label: list[torch.Tensor] = []
    of_label_calibrated: list[torch.Tensor] = []
    outputs = _outputs(model, batches, device=device, preprocess=preprocess, autocast=autocast)
    with torch.inference_mode(), closing(outputs):
        for logits, targets, batch_ids in outputs:
            loss = criterion(logits, targets) * len(targets) if criterion else None
            ranked = meter.update(logits, targets, loss)
            ids.append(batch_ids)
            labels.append(targets)
            top.append(ranked)
            plain = logits.softmax(1)
            uncalibrated.append(plain.gather(1, ranked))
            of_label.append(plain.gather(1, targets[:, None])[:, 0])
            calibrated = (logits / temperature).softmax(1)
            probabilities.append(calibrated.gather(1, ranked))
            of_label_calibrated.append(calibrated.gather(1, targets[:, None])[:, 0])
            if logits_seen is not None:
                logits_seen(logits, targets)
    mine = None
    if ids:
        columns = labels, top, probabilities, uncalibrated, of_label, of_label_calibrated
        rest = (torch.cat(each).cpu().numpy() for each in columns)
        mine = Predictions(np.concatenate(ids), *rest)
    if ranks is not None and ranks.size > 1:
        meter.merge(ranks)
        mine = _by_id([each for each in ranks.gather(mine) if each is not None])
    if mine is None:
        raise UserError("there are no photographs to evaluate in this split; choose another --split")
    return meter.compute(classes), mine


def evaluate_multi_label(
    model: torch.nn.Module,
    batches: Iterable[tuple[torch.Tensor, torch.Tensor, Any]],
    *,
    classes: Sequence[str],
    device: torch.device | str,
    preprocess: Callable[[torch.Tensor], torch.Tensor],
    autocast: Callable[[], AbstractContextManager[Any]] = nullcontext,
    criterion: Callable[[torch.Tensor, torch.Tensor], torch.Tensor],
    thresholds: Sequence[float] | None = None,
    ranks: Ranks | None = None,
) -> tuple[SetEvaluation, SetPredictions]:
    """Evaluate a multi-label model. Return the metrics and all predictions.

    The arguments are those of `evaluate_model`, but labels are float32 [n, C], 1 for each class of a photograph.
    `thresholds`: the probability from which a class counts as predicted, one per class. If it is None, thresholds are
    chosen on these photographs: see `label_sets.best_thresholds`.
    """
    import torch

    ids: list[npt.NDArray[np.int64]] = []
    columns: list[tuple[torch.Tensor, torch.Tensor]] = []
    loss_sums: list[torch.Tensor] = []
    outputs = _outputs(model, batches, device=device, preprocess=preprocess, autocast=autocast)
    with torch.inference_mode(), closing(outputs):
        for logits, targets, batch_ids in outputs:
            loss_sums.append(criterion(logits, targets) * len(targets))
            ids.append(batch_ids)
            columns.append((targets > 0.5, logits.sigmoid()))
    mine, loss_sum = None, float(torch.stack(loss_sums).double().sum()) if loss_sums else 0.0
    if ids:
        labels, probabilities = (torch.cat(each).cpu().numpy() for each in zip(*columns, strict=True))
        mine = SetPredictions(np.concatenate(ids), labels, probabilities)
    if ranks is not None and ranks.size > 1:
        parts = ranks.gather((mine, loss_sum))
        mine, loss_sum = _by_id([each for each, _ in parts if each is not None]), sum(each for _, each in parts)
    if mine is None:
        raise UserError("there are no photographs to evaluate in this split; choose another --split")
    return evaluate_sets(mine, classes, loss_sum / len(mine.ids), thresholds), mine


def _outputs(
    model: torch.nn.Module,
    batches: Iterable[tuple[torch.Tensor, torch.Tensor, Any]],
    *,
    device: torch.device | str,
    preprocess: Callable[[torch.Tensor], torch.Tensor],
    autocast: Callable[[], AbstractContextManager[Any]],
) -> Generator[tuple[torch.Tensor, torch.Tensor, npt.NDArray[np.int64]], None, None]:
    """Yield logits, targets and ids of each batch that isn't empty. The model is in eval mode while this runs."""
    from fasttrain.device import copy_to

    training = {module: module.training for module in model.modules()}
    model.eval()
    try:
        for images, targets, batch_ids in batches:
            if not len(targets):  # this rank's part of the last batch of several
                continue
            with autocast():
                logits = model(preprocess(copy_to(device, images)))
            yield logits.float(), copy_to(device, targets), np.asarray(batch_ids, np.int64)
    finally:
        for module, flag in training.items():
            module.training = flag


def _by_id(parts: list[_P]) -> _P | None:
    """Return the predictions of all ranks in one, in the order of their ids, or None if there are none."""
    if not parts:
        return None
    order = np.argsort(np.concatenate([part.ids for part in parts]), kind="stable")
    kind = type(parts[0])
    columns = (np.concatenate([getattr(part, field.name) for part in parts])[order] for field in fields(kind))
    return kind(*columns)
