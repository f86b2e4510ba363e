"""Read and write `predictions.npz`: a run's predictions for the photographs that it wasn't trained on."""

from __future__ import annotations

import io
import json
import shlex
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
"""The file with the predictions of all folds, in the folds' folder. A run's own file is `predictions.npz`."""


@dataclass(frozen=True)
class StoredPredictions:
    """Predictions for N photographs, each by a model that wasn't trained on it: the K = min(5, C) likeliest classes.

    `classes`: str [C], the names, by label. `keys`: bytes [N], the photographs' keys in the shards. `splits`: uint8
    [N], 1 for val and 2 for test. `labels`: int32 [N], the photographs' labels. `top`: int32 [N, K], predicted classes,
    the likeliest first. `probabilities`: float32 [N, K], their probabilities. `of_label`: float32 [N], the probability
    of the photograph's label. Probabilities are at temperature 1.
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
        """Return the predictions at the positions `rows`, int64 [n]."""
        columns = {field.name: getattr(self, field.name)[rows] for field in fields(self) if field.name != "classes"}
        return StoredPredictions(self.classes, **columns)

    def final(self) -> StoredPredictions:
        """Return the predictions for the test split, or for the validation split if there is no test split."""
        return self.part(np.flatnonzero(self.splits == self.splits.max())) if len(self) else self


def stored(parts: Sequence[tuple[str, Predictions]], shards: ShardSet) -> StoredPredictions:
    """Return the predictions for several splits of `shards` in the form that is stored.

    `parts`: the name of each split and its predictions.
    """
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
    """Concatenate the predictions of several runs with the same classes."""
    names = [field.name for field in fields(StoredPredictions) if field.name != "classes"]
    columns = {name: np.concatenate([getattr(each, name) for each in parts]) for name in names}
    return StoredPredictions(parts[0].classes, **columns)


def write_predictions(path: Path, predictions: StoredPredictions) -> None:
    """Write the file atomically. Equal predictions give equal bytes. Raises OSError if it can't be written."""
    file = io.BytesIO()
    np.savez(file, **{field.name: getattr(predictions, field.name) for field in fields(predictions)})
    atomic_write_bytes(path, file.getvalue())


def read_predictions(path: Path) -> StoredPredictions:
    """Read the file. Raises UserError if it is missing or damaged."""
    try:
        with np.load(path, allow_pickle=False) as found:
            columns = {field.name: found[field.name] for field in fields(StoredPredictions)}
        predictions = StoredPredictions(**columns)
        _require_consistent(predictions)
    except FileNotFoundError:
        raise UserError(f"{path}: no such file; {_why_missing(path)}") from None
    except OSError as error:
        raise UserError(f"{path}: {error.strerror or error}; evaluate again") from error
    except (ValueError, KeyError, TypeError, IndexError, EOFError, BadZipFile) as error:
        raise UserError(f"{path}: this isn't a file of fasttrain's predictions ({error}); train again") from error
    return predictions


def _why_missing(path: Path) -> str:
    try:
        multi_label = bool(json.loads(read_text(path.with_name("model.json"))).get("multi_label"))
    except (OSError, ValueError, AttributeError):
        multi_label = False
    if multi_label:
        return "multi-label runs don't store their predictions; give a run with one class per photograph"
    if path.with_name("evaluation.json").is_file():
        return "the run has ended without storing predictions, as with older versions of fasttrain; train again"
    return "the run hasn't finished; resume it with: fasttrain train --resume " + shlex.quote(str(path.parent))


def _require_consistent(predictions: StoredPredictions) -> None:
    """Raise ValueError if the arrays don't have the shapes and values that `StoredPredictions` describes."""
    count, classes = len(predictions.keys), len(predictions.classes)
    for name in ("splits", "labels", "of_label"):
        if getattr(predictions, name).shape != (count,):
            raise ValueError(f"{name} and keys differ in length")
    shape = predictions.top.shape
    if len(shape) != 2 or shape != predictions.probabilities.shape or shape[0] != count or not shape[1]:
        raise ValueError("top and probabilities differ in shape")
    for labels in (predictions.labels, predictions.top):
        if labels.dtype.kind != "i" or (count and not 0 <= labels.min() <= labels.max() < classes):
            raise ValueError("a label is out of range")
