"""The reject threshold: the probability below which a model's answer is "unknown"."""

from __future__ import annotations

from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from fasttrain.checkpoint.run_folder import RunFolder
from fasttrain.checkpoint.weights import WEIGHTS, weights_file
from fasttrain.config.load import read_toml
from fasttrain.config.location import user_path
from fasttrain.data.crops import evaluation_crop
from fasttrain.errors import UserError, of_os
from fasttrain.evaluation.bootstrap import accuracy_intervals
from fasttrain.evaluation.predict import Predictor


@dataclass(frozen=True)
class Rejection:
    """A reject threshold and what it gives on the photographs that it was chosen on.

    answered, right: how many of the `photographs` reach the threshold, and how many of those answers are right.
    """

    threshold: float
    photographs: int
    answered: int
    right: int

    @property
    def precision(self) -> float:
        """The share of the answers that are right."""
        return self.right / self.answered

    @property
    def coverage(self) -> float:
        """The share of the photographs that are answered."""
        return self.answered / self.photographs

    def __str__(self) -> str:
        low, high = accuracy_intervals(np.array([self.right]), np.array([self.answered]))[0]
        return (
            f"reject threshold {self.threshold:.4f}: of {self.photographs:,} validation photographs it answers "
            f"{self.answered:,} ({self.coverage:.1%}), {self.precision:.1%} of them right (95 % interval {low:.1%} to "
            f"{high:.1%})"
        )


def best_rejection(confidence: NDArray[np.float64], right: NDArray[np.bool_], precision: float) -> Rejection | None:
    """Return the threshold that answers most photographs with at least `precision`; None where there is none.

    confidence: [n], the probability of the likeliest class. right: [n], whether that is the photograph's class. The
    threshold lies between two confidences, so that the last digits of another runtime don't matter.
    """
    order = np.argsort(-confidence, kind="stable")
    sure, hits = confidence[order], np.cumsum(right[order])
    answered = np.arange(1, len(sure) + 1)
    below = np.append(sure[1:], 0.0)
    fits = np.flatnonzero((hits >= precision * answered) & (below < sure))  # no threshold lies between equal ones
    if not len(fits):
        return None
    last = fits[-1]
    return Rejection(float((sure[last] + below[last]) / 2), len(sure), int(answered[last]), int(hits[last]))


def choose_rejection(
    predictor: Predictor, checkpoint: str | Path, precision: float, data: str | Path | None = None
) -> Rejection:
    """Choose the reject threshold for a target `precision` on the validation split, and store it in `model.json`.

    `predictor` is the model of `checkpoint`, a run folder or its `model.safetensors`; it uses the threshold from then
    on. data: by default what the run was trained on. Raises UserError where no threshold reaches the precision.
    """
    if not 0 < precision <= 1:
        raise UserError(f"--precision {precision:g}: give a share above 0 and up to 1, such as 0.98")
    if predictor.spec.multi_label:
        raise UserError("--precision: a model of sets has a threshold for each class in model.json; leave it out")
    weights = weights_file(user_path(checkpoint))
    if weights.name != WEIGHTS:
        raise UserError(f"{weights}: --precision is for a run's final weights; give its run folder, then export it")
    run = RunFolder(weights.parent)
    confidence, right = _on_validation(predictor, _data_of(run) if data is None else data)
    found = best_rejection(confidence, right, precision)
    if found is None:
        most = (np.cumsum(right[np.argsort(-confidence)]) / np.arange(1, len(right) + 1)).max()
        raise UserError(
            f"--precision {precision:g}: no threshold reaches it on {len(right):,} validation photographs; the most is "
            f"{most:.1%}"
        )
    try:
        run.write_reject_threshold(found.threshold)
    except OSError as error:
        raise of_os(error, run.model_spec) from error
    predictor.reject_threshold = found.threshold
    return found


def _data_of(run: RunFolder) -> str:
    settings = read_toml(run.config) if run.config.is_file() else {}
    if "data" not in settings:
        raise UserError(f"{run.config}: doesn't say what the run was trained on; give --data shards")
    if settings.get("refit") or settings.get("fold"):
        raise UserError(f"{run.path}: the run was trained on its validation split too; give --data others, or --reject")
    return str(settings["data"])


def _on_validation(predictor: Predictor, data: str | Path) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    from fasttrain.data.splits import split_ids
    from fasttrain.evaluation.splits import batches, model_labels, require_same_kind
    from fasttrain.shards.convert import ensure_shards
    from fasttrain.shards.reader import ShardSet
    from fasttrain.shards.settings import ShardSettings

    shards = ShardSet.open(ensure_shards(data, ShardSettings(), predictor.classes))
    require_same_kind(shards.multi_label, False, data)
    position = model_labels(shards.classes, predictor.classes, data)
    confidence, right = [], []
    with closing(batches(shards, split_ids(shards, "val", data), evaluation_crop(predictor.spec.geometry))) as loaded:
        for images, labels, _ in loaded:
            probabilities = predictor.probabilities(images.numpy())
            confidence.append(probabilities.max(axis=1))
            right.append(probabilities.argmax(axis=1) == position[labels.numpy()])
    return np.concatenate(confidence), np.concatenate(right)
