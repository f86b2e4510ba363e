"""Write `mistakes.csv`, the list of all photographs that a model classified wrongly."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from fasttrain.errors import of_os
from fasttrain.evaluation.evaluate import Predictions
from fasttrain.evaluation.label_sets import SetEvaluation, SetPredictions
from fasttrain.files import atomic_write_bytes
from fasttrain.shards.folds import keys_of_paths

if TYPE_CHECKING:
    from fasttrain.evaluation.metrics import Evaluation
    from fasttrain.shards.reader import ShardSet

COLUMNS = ("file", "true", "predicted", "probability", "probability_of_true")
SET_COLUMNS = ("file", "true", "predicted")
FileOf = Callable[[int], str]
Row = tuple[str, ...]
SEPARATOR = "|"  # between the classes of one photograph


def mistakes_beside(page: Path) -> Path:
    """Return the path of the list of mistakes that belongs to a report: `report-mistakes.csv` for `report.html`."""
    return page.with_name(f"{page.stem}-mistakes.csv")


def write_mistakes(
    path: Path, evaluation: Evaluation | SetEvaluation, predictions: Predictions | SetPredictions, shards: ShardSet
) -> int:
    """Write the list of mistakes to `path`, the most confident first, and return the number of mistakes.

    The file is a CSV table with the columns `COLUMNS` or, for a multi-label model, `SET_COLUMNS`, where the rows are in
    the order of `predictions`. `shards`: the evaluated data, from which the names of the files come. Raises UserError
    if the file can't be written.
    """
    names = [each.name for each in evaluation.classes]
    file_of = files_of(shards)
    columns: Row
    if isinstance(predictions, SetPredictions):
        assert isinstance(evaluation, SetEvaluation)
        columns, rows = SET_COLUMNS, list(_wrong_sets(evaluation, predictions, names, file_of))
    else:
        columns, rows = COLUMNS, list(_wrong(predictions, names, file_of))
    text = io.StringIO(newline="")
    table = csv.writer(text, lineterminator="\n")
    table.writerow(columns)
    table.writerows(rows)
    try:
        atomic_write_bytes(path, text.getvalue().encode("utf-8", "surrogateescape"))
    except OSError as error:
        raise of_os(error, path, "give another path for the report") from error
    return len(rows)


def files_of(shards: ShardSet) -> FileOf:
    """Return a function from a sample's row number in the index of `shards` to the name of its file.

    The name is the path in the source or, if that is unknown, the key in the shards.
    """
    path_of = {key: path for path, key in keys_of_paths(shards).items()}

    def file_of(sample: int) -> str:
        key = shards.index["key"][sample]
        return path_of.get(key, key.decode())

    return file_of


def _wrong(predictions: Predictions, names: list[str], file_of: FileOf) -> Iterator[Row]:
    rows = np.flatnonzero(predictions.top[:, 0] != predictions.labels)
    for row in rows[np.argsort(-predictions.probabilities[rows, 0], kind="stable")].tolist():
        top, probabilities = predictions.top[row], predictions.probabilities[row]
        probability = predictions.probability_of_truth(row)
        truth = "" if probability is None else f"{probability:.4f}"
        file, true = file_of(int(predictions.ids[row])), names[predictions.labels[row]]
        yield file, true, names[top[0]], f"{probabilities[0]:.4f}", truth


def _wrong_sets(
    evaluation: SetEvaluation, predictions: SetPredictions, names: list[str], file_of: FileOf
) -> Iterator[Row]:
    answers = predictions.probabilities >= np.array(evaluation.thresholds)
    for row in np.flatnonzero((answers != predictions.labels).any(1)).tolist():
        true, predicted = (
            SEPARATOR.join(names[label] for label in np.flatnonzero(each[row]))
            for each in (predictions.labels, answers)
        )
        yield file_of(int(predictions.ids[row])), true, predicted
