"""Confident learning against cleanlab's own answer, and the way of a list back into `convert --relabel`."""

from __future__ import annotations

import csv
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from fasttrain.errors import UserError
from fasttrain.evaluation.prediction_file import OUT_OF_FOLD, StoredPredictions, write_predictions
from fasttrain.inspection.labels import confident_issues, find_label_issues
from fasttrain.photos.source import SourceOptions
from fasttrain.shards.convert import convert
from fasttrain.shards.reader import ShardSet


def predicted(probabilities: np.ndarray, labels: np.ndarray, keys: list[bytes] | None = None) -> StoredPredictions:
    """Return the part of float [N, C] `probabilities` that a run stores."""
    count, classes = probabilities.shape
    top = np.argsort(-probabilities, axis=1, kind="stable")[:, :5]
    rows = np.arange(count)
    return StoredPredictions(
        np.array([f"class {number}" for number in range(classes)]),
        np.array(keys or [f"{number}".encode() for number in rows]),
        np.ones(count, np.uint8),
        labels.astype(np.int32),
        top.astype(np.int32),
        np.take_along_axis(probabilities, top, 1).astype(np.float32),
        probabilities[rows, labels].astype(np.float32),
    )


def flipped(classes: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Probabilities of a good model, labels of which a tenth are wrong, and which those are."""
    generator = np.random.default_rng(0)
    truth = generator.integers(0, classes, 2000)
    logits = generator.normal(size=(2000, classes))
    logits[np.arange(2000), truth] += 4
    probabilities = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    wrong = generator.random(2000) < 0.1
    labels = np.where(wrong, (truth + generator.integers(1, classes, 2000)) % classes, truth)
    return probabilities, labels, wrong


@pytest.mark.parametrize("classes", [3, 12])
def test_flipped_labels_are_found_and_the_surest_come_first(classes: int) -> None:
    probabilities, labels, wrong = flipped(classes)
    rows, suggested, scores = confident_issues(predicted(probabilities, labels))
    assert wrong[rows].mean() > 0.85 and wrong[rows].sum() / wrong.sum() > 0.65
    assert wrong[rows[:100]].mean() > 0.98 and (np.diff(scores) <= 0).all() and (scores > 0).all()
    assert (suggested != labels[rows]).all()


def test_the_rule_by_hand() -> None:
    """Thresholds: 0.5 for class 0, the mean of 0.9, 0.5 and 0.1; 0.575 for class 1."""
    probabilities = np.array([[0.9, 0.1], [0.5, 0.5], [0.1, 0.9], [0.4, 0.6], [0.45, 0.55]])
    rows, suggested, scores = confident_issues(predicted(probabilities, np.array([0, 0, 0, 1, 1])))
    assert rows.tolist() == [2] and suggested.tolist() == [1] and scores == pytest.approx([0.8])
    everything = confident_issues(predicted(probabilities, np.zeros(5, np.int64)))
    assert not len(everything[0]), "a class without photographs is never suggested"


@pytest.fixture
def run(shard_folder: Path, tmp_path: Path) -> tuple[Path, dict[str, str]]:
    """A folder of folds that contradicts two labels, and the class it suggests for each file."""
    shards = ShardSet.open(shard_folder)
    known = np.flatnonzero(shards.index["split"] < 2)
    labels = shards.labels()[known]
    sure = np.full((len(known), 6), 0.02)
    sure[np.arange(len(known)), labels] = 0.9
    for row, score in ((3, 0.95), (40, 0.93)):
        sure[row] = 0.01
        sure[row, (labels[row] + 1) % 6] = score
    made = predicted(sure, labels, shards.index["key"][known].tolist())
    folder = tmp_path / "run"
    (folder / "fold-1").mkdir(parents=True)
    (folder / "fold-1" / "config.toml").write_text(f'data = "{shard_folder}"\n')
    made = StoredPredictions(np.array(shards.classes), *list(vars(made).values())[1:])
    write_predictions(folder / OUT_OF_FOLD, made)
    files = {
        f"{shards.index['key'][known[row]].decode()}.jpg": shards.classes[(labels[row] + 1) % 6] for row in (3, 40)
    }
    return folder, files


def test_the_list_goes_back_into_convert(run: Any, photographs: Path, tmp_path: Path, cli: Any) -> None:
    folder, files = run
    table, sheet = tmp_path / "labels.csv", tmp_path / "labels.png"
    code, said, more = cli("inspect", "--labels", folder, "--table", table, "--sheet", sheet)
    assert code == 0 and "doubtful labels: 2 of 96" in said and str(table) in more
    assert Image.open(sheet).width > 200
    rows = list(csv.DictReader(table.open(newline="")))
    assert list(rows[0]) == ["file", "given", "suggested", "score"]
    assert {row["file"]: row["suggested"] for row in rows} == files and rows[0]["score"] == "0.9400"
    assert all((photographs / row["file"]).is_file() and row["file"].startswith(row["given"]) for row in rows)
    convert(
        photographs, tmp_path / "fixed", options=SourceOptions(relabel=table), workers=1, progress=False, cut="none"
    )
    fixed = ShardSet.open(tmp_path / "fixed")
    assert fixed.manifest.settings["relabel"]["relabelled"] == 2
    for file, name in files.items():
        row = fixed.index["key"].tolist().index(file.removesuffix(".jpg").encode())
        assert fixed.classes[fixed.index["label"][row]] == name
    code, said, _ = cli("inspect", "--labels", folder, "--table", table, "--json")
    assert code == 0 and [each["score"] for each in json.loads(said)["issues"]] == pytest.approx([0.94, 0.92])


def test_a_run_of_other_data_or_without_predictions_is_told(run: Any, photographs: Path, tmp_path: Path) -> None:
    folder, _ = run
    for name in ("pizza", "soup"):
        for path in sorted((photographs / name).glob("000[0-5].jpg")):
            (tmp_path / "other" / name).mkdir(parents=True, exist_ok=True)
            shutil.copy(path, tmp_path / "other" / name / f"x{path.name}")
    convert(tmp_path / "other", tmp_path / "shards", workers=1, progress=False, cut="none")
    with pytest.raises(UserError, match="has no photograph"):
        find_label_issues(folder, tmp_path / "shards")
    with pytest.raises(UserError, match=r"predictions\.npz: no such file"):
        find_label_issues(tmp_path)
