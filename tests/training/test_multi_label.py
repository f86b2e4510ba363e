"""Runs on sets of classes: they learn, resume exactly and choose thresholds, which evaluate, predict and export use."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path
from typing import Any

import pytest
import torch

from fasttrain import evaluate, train
from fasttrain.checkpoint.run_folder import RunFolder
from fasttrain.checkpoint.trained import load_trained
from fasttrain.errors import UserError
from fasttrain.evaluation.label_sets import SetEvaluation
from fasttrain.evaluation.predict import predict
from fasttrain.evaluation.printed import print_predictions
from fasttrain.shards.reader import ShardSet
from fasttrain.training.data import balanced_weights
from fasttrain.training.result import TrainResult
from tests.support.runs import SMALL, killed_after, last_state

RUN: dict[str, Any] = {**SMALL, "loader": "auto", "track": False, "deterministic": True, "crop_scale": (0.8, 1.0)}


@pytest.fixture(scope="module")
def result(multi_label_shards: Path, tmp_path_factory: pytest.TempPathFactory) -> TrainResult:
    return train(data=multi_label_shards, out=tmp_path_factory.mktemp("runs"), **{**RUN, "epochs": 12})


@pytest.mark.slow
def test_it_learns(result: TrainResult) -> None:
    evaluation = result.evaluation
    assert isinstance(evaluation, SetEvaluation)
    assert evaluation.map > evaluation.chance + 0.25
    record = result.history[-1]
    assert {"val_map", "val_micro_f1", "val_macro_f1", "train_subset_accuracy"} <= record.keys()
    assert "val_top1" not in record and "train_top1" not in record


@pytest.mark.slow
def test_thresholds_are_stored_and_used(result: TrainResult, multi_label_shards: Path, tmp_path: Path) -> None:
    assert isinstance(result.evaluation, SetEvaluation)
    _, spec = load_trained(result.folder)
    assert spec.multi_label and spec.thresholds == result.evaluation.thresholds
    again = evaluate(result.folder, multi_label_shards, report=tmp_path / "page.html")
    assert isinstance(again, SetEvaluation)
    assert again.map == pytest.approx(result.evaluation.map) and again.thresholds == spec.thresholds
    page = (tmp_path / "page.html").read_text()
    assert "threshold" in page and "mAP" in page and "Confusion matrix" not in page
    stored = json.loads((result.folder / "evaluation.json").read_text())
    assert stored["map"] == result.evaluation.map and stored["classes"][0]["threshold"] == spec.thresholds[0]
    names = [path.name for path in RunFolder(result.folder).pictures()]
    assert names == ["curves.png", "precision_by_class.png", "mistakes.csv", "report.html"]


@pytest.mark.slow
def test_predict_names_every_class_above_its_threshold(result: TrainResult, multi_label_pictures: Path) -> None:
    pictures = sorted(multi_label_pictures.glob("*.jpg"))[:12]
    found = predict(result.folder, pictures, device="cpu", workers=1)
    _, spec = load_trained(result.folder)
    assert spec.thresholds is not None
    thresholds = dict(zip(spec.classes, spec.thresholds, strict=True))
    assert all(
        probability >= thresholds[name]
        for each in found
        for name, probability in zip(each.classes, each.probabilities, strict=True)
    )
    assert len({len(each.classes) for each in found}) > 1
    assert found[0].to_dict()["classes"] == [
        {"class": name, "probability": share}
        for name, share in zip(found[0].classes, found[0].probabilities, strict=True)
    ]
    text = io.StringIO()
    print_predictions(found, "csv", text, width=None)
    rows = list(csv.DictReader(io.StringIO(text.getvalue())))
    assert [row["classes"] for row in rows] == ["|".join(each.classes) for each in found]
    table = io.StringIO()
    print_predictions(found, "table", table, width=None)
    assert table.getvalue().splitlines()[0].endswith("classes") and len(table.getvalue().splitlines()) == 13


@pytest.mark.slow
def test_export_has_the_thresholds(result: TrainResult, tmp_path: Path, multi_label_shards: Path) -> None:
    from fasttrain.export.export import export

    done = export(result.folder, "torchscript", tmp_path / "m.ts", photographs=4, speed=False)
    assert isinstance(result.evaluation, SetEvaluation)
    assert done.metadata["thresholds"] == list(result.evaluation.thresholds) and done.metadata["multi_label"]
    assert str(multi_label_shards) in done.source, "the run's own data, where none is given"
    assert done.accuracy is not None and done.accuracy.measure == "exact match"
    assert done.accuracy.exported == done.accuracy.model > 0


@pytest.mark.slow
def test_killed_in_mid_epoch_and_resumed(multi_label_shards: Path, tmp_path: Path) -> None:
    settings = {**RUN, "save_every": 1, "ema_decay": 0.9, "mixup": 0.4, "class_weights": "balanced", "drop_rate": 0.2}
    settings |= {"data": multi_label_shards, "label_smoothing": 0.1}
    alone = train(out=tmp_path / "alone", **settings)
    with killed_after(lambda state: state["step"] == 12):
        train(out=tmp_path / "killed", **settings)
    resumed = train(resume="auto", out=tmp_path / "killed")
    ours, theirs = last_state(resumed.folder), last_state(alone.folder)
    for part in ("model", "ema"):
        assert all(torch.equal(ours[part][name], tensor) for name, tensor in theirs[part].items())
    assert resumed.evaluation == alone.evaluation
    spec = (folder / "model.json" for folder in (resumed.folder, alone.folder))
    assert len({path.read_bytes() for path in spec}) == 1


@pytest.mark.slow
def test_linear_probe(multi_label_shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FASTTRAIN_CACHE", str(tmp_path / "cache"))
    settings = {name: value for name, value in RUN.items() if name != "learning_rate"}
    found = train(data=multi_label_shards, out=tmp_path / "runs", linear_probe=True, **settings).evaluation
    assert isinstance(found, SetEvaluation) and found.map > found.chance


@pytest.mark.slow
def test_another_kind_of_data_is_refused(result: TrainResult, shard_folder: Path) -> None:
    with pytest.raises(UserError, match="has one class per photograph, but the model is multi-label"):
        evaluate(result.folder, shard_folder)


def test_balanced_weights_are_absent_over_present(multi_label_shards: Path) -> None:
    shards = ShardSet.open(multi_label_shards)
    labels = shards.labels(shards.ids("train"))
    expected = (1 - labels).sum(0) / labels.sum(0)
    assert balanced_weights(shards).tolist() == pytest.approx(expected.tolist())
