"""`predictions.npz`: what a run said about each photograph that it didn't train on."""

from __future__ import annotations

import io
import json
from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING
from zipfile import BadZipFile

import numpy as np
import numpy.typing as npt

from fasttrain.errors import UserError
from fasttrain.evaluation.evaluate import Predictions
from fasttrain.files import atomic_write_bytes
from fasttrain.shards.format import SPLITS
from fasttrain.text import read_text

if TYPE_CHECKING:
    from fasttrain.shards.reader import ShardSet

OUT_OF_FOLD = "out_of_fold.npz"
"""The predictions of all folds, in their folder; a run's own are in `predictions.npz`."""


@dataclass(frozen=True)
class StoredPredictions:
    """Predictions of N photographs, each by a model that wasn't trained on it; K = min(5, C).

    classes: U [C], names in label order. keys: S [N], the photographs' names in the shards. splits: uint8 [N], 1 val, 2
    test. labels: int32 [N], the classes that they were given. top: int32 [N, K], predicted classes, the likeliest
    first. probabilities: float32 [N, K], theirs, and of_label: float32 [N], that of the given class; both at
    temperature 1.
    """

    classes: npt.NDArray[np.str_]
    keys: npt.NDArray[np.bytes_]
    splits: npt.NDArray[np.uint8]
    labels: npt.NDArray[np.int32]
    top: npt.NDArray[np.int32]
    probabilities: npt.NDArray[np.float32]
    of_label: npt.NDArray[np.float32]

    def __len__(self) -> int:
        return len(self.keys)

    def part(self, rows: npt.NDArray[np.int64]) -> StoredPredictions:
        """Return the predictions in these rows."""
        columns = {field.name: getattr(self, field.name)[rows] for field in fields(self) if field.name != "classes"}
        return StoredPredictions(self.classes, **columns)

    def final(self) -> StoredPredictions:
        """Return those of the test split; of the validation split where there is no test split."""
        return self.part(np.flatnonzero(self.splits == self.splits.max())) if len(self) else self


def stored(parts: Sequence[tuple[str, Predictions]], shards: ShardSet) -> StoredPredictions:
    """Return the predictions of several splits of `shards`, each with the split's name."""
    made = [each for _, each in parts]
    uncalibrated = [each.probabilities if each.uncalibrated is None else each.uncalibrated for each in made]
    return StoredPredictions(
        classes=np.array(shards.classes, np.str_),
        keys=np.concatenate([shards.index["key"][each.ids] for each in made]),
        splits=np.concatenate([np.full(len(each.ids), SPLITS.index(split), np.uint8) for split, each in parts]),
        labels=np.concatenate([each.labels for each in made]).astype(np.int32),
        top=np.concatenate([each.top for each in made]).astype(np.int32),
        probabilities=np.concatenate(uncalibrated).astype(np.float32),
        of_label=np.concatenate([each.of_label for each in made if each.of_label is not None]).astype(np.float32),
    )


def joined(parts: Sequence[StoredPredictions]) -> StoredPredictions:
    """Return the predictions of several runs with the same classes, one after the other."""
    names = [field.name for field in fields(StoredPredictions) if field.name != "classes"]
    columns = {name: np.concatenate([getattr(each, name) for each in parts]) for name in names}
    return StoredPredictions(parts[0].classes, **columns)


def write_predictions(path: Path, predictions: StoredPredictions) -> None:
    """Write the file, whole or not at all; the same predictions give the same bytes. Raises OSError."""
    file = io.BytesIO()
    np.savez(file, **{field.name: getattr(predictions, field.name) for field in fields(predictions)})
    atomic_write_bytes(path, file.getvalue())


def read_predictions(path: Path) -> StoredPredictions:
    """Read the file. Raises UserError where it is absent or damaged."""
    try:
        with np.load(path, allow_pickle=False) as found:
            columns = {field.name: found[field.name] for field in fields(StoredPredictions)}
        predictions = StoredPredictions(**columns)
        _require_consistent(predictions)
    except FileNotFoundError:
        raise UserError(f"{path}: not there; {_why_absent(path)}") from None
    except OSError as error:
        raise UserError(f"{path}: {error.strerror or error}; evaluate again") from error
    except (ValueError, KeyError, TypeError, IndexError, EOFError, BadZipFile) as error:
        raise UserError(f"{path}: not predictions of fasttrain's ({error}); train again") from error
    return predictions


def _why_absent(path: Path) -> str:
    try:
        sets = bool(json.loads(read_text(path.with_name("model.json"))).get("multi_label"))
    except (OSError, ValueError, AttributeError):
        sets = False
    if sets:
        return "its run has sets of classes, and predictions are kept where a photograph has one class"
    return "the run hasn't ended, or is one of an older fasttrain"


def _require_consistent(predictions: StoredPredictions) -> None:
    count, classes = len(predictions.keys), len(predictions.classes)
    for name in ("splits", "labels", "of_label"):
        if getattr(predictions, name).shape != (count,):
            raise ValueError(f"{name} has another length than keys")
    shape = predictions.top.shape
    if len(shape) != 2 or shape != predictions.probabilities.shape or shape[0] != count or not shape[1]:
        raise ValueError("top and probabilities don't fit")
    for labels in (predictions.labels, predictions.top):
        if labels.dtype.kind != "i" or (count and not 0 <= labels.min() <= labels.max() < classes):
            raise ValueError("a label is none of the classes")
