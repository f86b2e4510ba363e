"""Choose the reject threshold: the probability below which a model answers "unknown"."""

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
    """A reject threshold, and its effect on the photographs on which it was chosen.

    `threshold`: in [0, 1]. `photographs`: the number of photographs. `answered`: the number of photographs with a
    probability of at least the threshold. `right`: the number of correct answers among the answered ones.
    """

    threshold: float
    photographs: int
    answered: int
    right: int

    @property
    def precision(self) -> float:
        """The share of the answers that are right, in [0, 1]."""
        return self.right / self.answered

    @property
    def coverage(self) -> float:
        """The share of the photographs that are answered, in [0, 1]."""
        return self.answered / self.photographs

    def __str__(self) -> str:
        low, high = accuracy_intervals(np.array([self.right]), np.array([self.answered]))[0]
        return (
            f"reject threshold {self.threshold:.4f}: of {self.photographs:,} validation photographs it answers "
            f"{self.answered:,} ({self.coverage:.1%}), {self.precision:.1%} of them right (95 % interval {low:.1%} to "
            f"{high:.1%})"
        )


def best_rejection(confidence: NDArray[np.float64], right: NDArray[np.bool_], precision: float) -> Rejection | None:
    """Return the threshold with which the most photographs are answered at a precision of at least `precision`.

    Returns None if no threshold reaches that precision.

    `confidence`: float64 [n] in [0, 1], the probability of the likeliest class. `right`: bool [n], whether that class
    is the true one. `precision`: in (0, 1]. The threshold lies half-way between two confidences, so that another
    runtime's rounding doesn't change an answer.
    """
    order = np.argsort(-confidence, kind="stable")
    descending, hits = confidence[order], np.cumsum(right[order])
    answered = np.arange(1, len(descending) + 1)
    below = np.append(descending[1:], 0.0)
    # No threshold can separate equal confidences.
    fits = np.flatnonzero((hits >= precision * answered) & (below < descending))
    if not len(fits):
        return None
    last = fits[-1]
    threshold = float((descending[last] + below[last]) / 2)
    return Rejection(threshold, len(descending), int(answered[last]), int(hits[last]))


def choose_rejection(
    predictor: Predictor, checkpoint: str | Path, precision: float, data: str | Path | None = None
) -> Rejection:
    """Choose the reject threshold for a precision on the validation split, and store it in the run's `model.json`.

    `predictor`: the model of `checkpoint`; it uses the new threshold from then on. `checkpoint`: a run folder or its
    `model.safetensors`. `precision`: the share of answers that must be right, in (0, 1]. `data`: shards or a folder of
    photographs, by default the data that the run was trained on. Raises UserError if no threshold reaches the
    precision, or if the data is missing.
    """
    if not 0 < precision <= 1:
        raise UserError(f"--precision {precision:g}: give a share above 0 and up to 1, such as 0.98")
    if predictor.spec.multi_label:
        raise UserError(
            "--precision: a multi-label model has a threshold for each class in model.json; leave out --precision"
        )
    weights = weights_file(user_path(checkpoint), exported=True)
    if weights.name != WEIGHTS:
        raise UserError(f"{weights}: --precision is for a run's final weights; give the run folder as --checkpoint")
    run = RunFolder(weights.parent)
    confidence, right = _on_validation(predictor, _data_of(run) if data is None else data)
    found = best_rejection(confidence, right, precision)
    if found is None:
        most = (np.cumsum(right[np.argsort(-confidence)]) / np.arange(1, len(right) + 1)).max()
        raise UserError(
            f"--precision {precision:g}: no threshold reaches it on {len(right):,} validation photographs, where the "
            f"highest possible precision is {most:.1%}; give a lower precision"
        )
    try:
        run.write_reject_threshold(found.threshold)
    except OSError as error:
        raise of_os(error, run.model_spec) from error
    predictor.reject_threshold = found.threshold
    return found


def _data_of(run: RunFolder) -> str:
    """Return the data that the run was trained on. Raises UserError if its validation split can't be used."""
    settings = read_toml(run.config) if run.config.is_file() else {}
    if "data" not in settings:
        raise UserError(f"{run.config}: the setting `data` is missing; give the run's data as --data")
    if settings.get("refit") or settings.get("fold"):
        raise UserError(
            f"{run.path}: the run was also trained on its validation split; give other data as --data, or --reject"
        )
    return str(settings["data"])


def _on_validation(predictor: Predictor, data: str | Path) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """Return the confidence of each validation photograph, float64 [n], and whether its answer is right, bool [n]."""
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
