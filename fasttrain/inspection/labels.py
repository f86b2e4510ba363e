"""Find labels that are probably wrong, by confident learning.

It compares labels with the predictions of models that were not trained on these photographs: Northcutt, Jiang, Chuang,
"Confident Learning: Estimating Uncertainty in Dataset Labels", JAIR 70 (2021), section 3. The method is implemented
here because cleanlab needs the probabilities of all classes, and a run stores only the five highest.
"""

from __future__ import annotations

import csv
import io
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fasttrain.checkpoint.run_folder import RunFolder
from fasttrain.config.load import read_toml
from fasttrain.config.location import user_path
from fasttrain.errors import UserError, of_os
from fasttrain.evaluation.prediction_file import OUT_OF_FOLD, StoredPredictions, read_predictions
from fasttrain.files import atomic_write_bytes
from fasttrain.shards.convert import ensure_shards
from fasttrain.shards.folds import keys_of_paths
from fasttrain.shards.reader import ShardSet


@dataclass(frozen=True)
class LabelIssue:
    """A photograph with a doubtful label. `sample` is its row in the index, `file` its path in the source.

    `given`: its class. `suggested`: the class that the model predicts. `score`: the probability of the suggested class
    minus that of the given one, in (-1, 1].
    """

    sample: int
    file: str
    given: str
    suggested: str
    score: float


@dataclass(frozen=True)
class LabelIssues:
    """The doubtful labels, the surest first.

    `location`: the folder or URL of the shards. `photographs`: how many have a prediction. `stored`: how many are in
    the shards.
    """

    location: str
    photographs: int
    stored: int
    issues: list[LabelIssue]

    def to_dict(self) -> dict[str, Any]:
        """Return the issues as JSON data."""
        return asdict(self)


def find_label_issues(run: str | Path, data: str | Path | None = None) -> LabelIssues:
    """Find photographs whose labels contradict the predictions that are stored in the folder `run`.

    `run` is the folder of `train --folds`, with predictions for the photographs of all folds, or the folder of a single
    run, with predictions for photographs that it wasn't trained on. `data`: the shards or photographs, by default those
    in the run's settings. Raises UserError if `run` has no predictions, or if `data` lacks a photograph that has one.
    """
    folder = user_path(run)
    of_folds = (folder / OUT_OF_FOLD).is_file()
    predictions = read_predictions(folder / OUT_OF_FOLD if of_folds else RunFolder(folder).predictions)
    if data is None:
        data = read_toml(RunFolder(folder / "fold-1" if of_folds else folder).config)["data"]
    shards = ShardSet.open(ensure_shards(data))
    row_of = {key: number for number, key in enumerate(shards.index["key"].tolist())}
    path_of = {key: path for path, key in keys_of_paths(shards).items()}
    rows, suggested, scores = confident_issues(predictions)
    issues = []
    for row, label, score in zip(rows.tolist(), suggested.tolist(), scores.tolist(), strict=True):
        key = predictions.keys[row]
        if key not in row_of:
            raise UserError(
                f"{shards.location} has no photograph {key.decode()}, for which {folder} has a prediction; give the "
                "data of that run"
            )
        given, other = (str(predictions.classes[each]) for each in (predictions.labels[row], label))
        issues.append(LabelIssue(row_of[key], path_of.get(key, key.decode()), given, other, score))
    return LabelIssues(str(shards.location), len(predictions), len(shards), issues)


def confident_issues(
    predictions: StoredPredictions,
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float64]]:
    """Return the predictions that contradict their label, with the greatest score first.

    Return their rows in `predictions`, int64 [m], the suggested classes, int64 [m], and the scores, float64 [m].

    The threshold of a class is the mean probability that the model gives to it for photographs with that label. A
    photograph belongs to the most probable class among those whose threshold it reaches. It is an issue if that class
    is not its label, and is more probable than its label.
    """
    labels, top = predictions.labels.astype(np.int64), predictions.top.astype(np.int64)
    classes = len(predictions.classes)
    of_label = predictions.of_label.astype(np.float64)
    counts = np.bincount(labels, minlength=classes)
    with np.errstate(invalid="ignore"):
        thresholds = np.bincount(labels, of_label, classes) / counts
    thresholds[counts == 0] = np.inf  # a class without photographs has no threshold
    probabilities = predictions.probabilities.astype(np.float64)
    reached = np.where(probabilities >= thresholds[top], probabilities, -1.0)
    best = reached.argmax(1)
    rows = np.arange(len(labels))
    suggested, sure = top[rows, best], reached[rows, best]
    wrong = np.flatnonzero((sure >= 0) & (suggested != labels) & (sure > of_label))
    scores = sure[wrong] - of_label[wrong]
    order = np.argsort(-scores, kind="stable")
    return wrong[order], suggested[wrong[order]], scores[order]


def write_label_table(found: LabelIssues, path: Path) -> None:
    """Write the issues to a CSV file with the columns file, given, suggested and score, for `convert --relabel`.

    Raises UserError if it can't be written.
    """
    text = io.StringIO(newline="")
    table = csv.writer(text, lineterminator="\n")
    table.writerow(("file", "given", "suggested", "score"))
    table.writerows((each.file, each.given, each.suggested, f"{each.score:.4f}") for each in found.issues)
    try:
        atomic_write_bytes(path, text.getvalue().encode("utf-8", "surrogateescape"))
    except OSError as error:
        raise of_os(error, path, "choose another --table") from error
