"""`train` from the settings to the artifacts, each row of the original script's table."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from fasttrain import evaluate, predict, train
from fasttrain.checkpoint.folder import checkpoints_of
from fasttrain.checkpoint.trained import load_trained
from fasttrain.errors import UserError
from fasttrain.evaluation.prediction_file import read_predictions
from fasttrain.shards.reader import ShardSet
from tests.support.patience import PATIENCE
from tests.support.runs import SMALL, last_state


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    """MLflow's own SQLite store for this module."""
    patch = pytest.MonkeyPatch()
    path = tmp_path_factory.mktemp("store")
    uri = f"sqlite:///{path}/mlflow.db"
    patch.setenv("MLFLOW_TRACKING_URI", uri)
    patch.chdir(path)
    yield uri
    patch.undo()


@pytest.fixture(scope="module")
def result(shard_folder, tmp_path_factory, store):
    """One tracked run, three epochs."""
    out = tmp_path_factory.mktemp("runs")
    settings = {**SMALL, "epochs": 3, "experiment": "tests", "run_name": "one", "class_weights": "balanced"}
    return train(data=shard_folder, out=out, amp=True, label_smoothing=0.1, clip_grad=1.0, **settings)


def test_the_run_folder_holds_every_artifact(result):
    names = {path.name for path in result.folder.iterdir()}
    assert {
        "model.safetensors",
        "class_to_idx.json",
        "model.json",
        "evaluation.json",
        "predictions.npz",
        "config.toml",
        "provenance.json",
        "history.json",
        "confusion_matrix.png",
        "curves.png",
        "report.html",
        "checkpoints",
    } <= names
    evaluation = json.loads((result.folder / "evaluation.json").read_text())
    assert {"top1", "top3", "top5", "macro_f1", "weighted_f1", "macro_precision", "macro_recall"} <= evaluation.keys()
    assert evaluation["top1"] == result.evaluation.top1
    low, high = evaluation["top1_interval"]
    assert low <= evaluation["top1"] <= high and all(each["recall_interval"] for each in evaluation["classes"])
    assert json.loads((result.folder / "class_to_idx.json").read_text())["donuts"] >= 0


def test_its_predictions_are_those_that_were_evaluated(result, shard_folder):
    shards, found = ShardSet.open(shard_folder), read_predictions(result.folder / "predictions.npz")
    assert sorted(found.keys.tolist()) == sorted(shards.index["key"][shards.ids("val")].tolist())
    assert (found.top[:, 0] == found.labels).mean() == pytest.approx(result.evaluation.top1)
    assert found.classes.tolist() == shards.classes and (found.splits == 1).all()
    first = np.take_along_axis(found.probabilities, (found.top == found.labels[:, None]).argmax(1)[:, None], 1)[:, 0]
    known = (found.top == found.labels[:, None]).any(1)
    np.testing.assert_allclose(first[known], found.of_label[known], rtol=1e-6)


def test_config_toml_resolves_to_the_same_run(result):
    from fasttrain.config.load import read_toml, resolve

    config = resolve(read_toml(result.folder / "config.toml"))
    assert config.epochs == 3 and config.class_weights == "balanced" and config.amp


def test_history_says_what_each_epoch_did(result):
    assert [record["epoch"] for record in result.history] == [1, 2, 3]
    for record in result.history:
        assert {"train_loss", "train_top1", "val_loss", "val_top1", "learning_rate", "improved"} <= record.keys()
        assert record["epoch_seconds"] > 0 and record["img/s"] > 0 and 0 <= record["wait_share"] <= 1


def test_mlflow_has_settings_metrics_artifacts_and_an_end(result, store):
    from mlflow.tracking import MlflowClient

    client = MlflowClient(store)
    run = client.get_run(result.mlflow_run_id)
    assert run.info.status == "FINISHED" and run.info.run_name == "one"
    assert client.get_experiment(run.info.experiment_id).name == "tests"
    assert run.data.params["label_smoothing"] == "0.1" and run.data.params["model"] == "mobilenetv2_035"
    curve = client.get_metric_history(run.info.run_id, "val/loss")
    assert [point.step for point in curve] == [1, 2, 3]
    assert curve[-1].value == pytest.approx(result.history[-1]["val_loss"])
    assert run.data.metrics["speed/training_seconds"] > 0
    (start,) = json.loads((result.folder / "provenance.json").read_text())["starts"]
    assert (start["step"], start["folder"]) == (0, str(Path.cwd())) and start["command"]
    assert run.data.tags["command"] == start["command"]
    artifacts = {each.path for each in client.list_artifacts(run.info.run_id)}
    assert {"model.safetensors", "confusion_matrix.png", "evaluation.json", "config.toml"} <= artifacts


def test_the_best_epochs_weights_are_kept(result, shard_folder):
    best = min(result.history, key=lambda record: record["val_loss"])
    assert result.best_epoch == best["epoch"]
    evaluation = evaluate(result.folder, shard_folder, split="val", loader="torchvision", workers=0, amp=True)
    assert evaluation.loss == pytest.approx(best["val_loss"], rel=1e-3)
    assert evaluation.top1 == pytest.approx(result.evaluation.top1)


def test_evaluate_takes_folder_weights_and_checkpoint(result, shard_folder):
    model, spec = load_trained(result.folder)
    assert spec.classes == tuple(sorted(spec.classes)) and len(spec.classes) == 6 and not model.training
    last, _ = load_trained(checkpoints_of(result.folder)[0])
    weights, _ = load_trained(result.folder / "model.safetensors")
    state = last_state(result.folder)["model"]
    assert torch.equal(last.state_dict()["classifier.weight"], state["classifier.weight"])
    assert torch.equal(weights.state_dict()["conv_stem.weight"], model.state_dict()["conv_stem.weight"])
    with pytest.raises(UserError, match="no photograph in the test split"):
        evaluate(result.folder, shard_folder, split="test")


def test_predict_sees_photographs_as_validation_does(result, photographs, tmp_path):
    from PIL import Image

    images = sorted(photographs.glob("donuts/*.jpg"))[:3]
    predictions = predict(result.folder, images, top_k=3)
    for prediction in predictions:
        assert len(prediction.classes) == 3 and list(prediction.probabilities) == sorted(prediction.probabilities)[::-1]
    png = tmp_path / "same.png"
    Image.open(images[0]).save(png)
    other = predict(result.folder, [png], top_k=3)[0]
    assert other.probabilities[0] == pytest.approx(predictions[0].probabilities[0], abs=0.1)
    with pytest.raises(UserError, match=r"none\.jpg"):
        predict(result.folder, [tmp_path / "none.jpg"])
    text = tmp_path / "text.jpg"
    text.write_text("not a photograph")
    with pytest.raises(UserError, match=r"text\.jpg"):
        predict(result.folder, [text])


@pytest.mark.slow
def test_a_folder_of_photographs_can_be_trained_on(photographs, tmp_path, monkeypatch, store):
    monkeypatch.setenv("FASTTRAIN_CACHE", str(tmp_path / "cache"))
    made = train(data=photographs, out=tmp_path, track=False, **{**SMALL, "epochs": 1, "limit_batches": 2})
    assert made.evaluation.samples > 0
    assert list((tmp_path / "cache" / "shards").glob("*/manifest.json"))


def test_both_named_models_and_any_timm_name(shard_folder):
    from fasttrain.config.geometry import Geometry
    from fasttrain.model.factory import create_model, model_spec

    for name in ("mobilenetv2_100", "efficientnet_b0", "resnet18"):
        model = create_model(name, 5)
        assert model(torch.zeros(1, 3, 64, 64)).shape == (1, 5)
        assert model_spec(model, name, "abcde", Geometry(64)).mean == pytest.approx((0.485, 0.456, 0.406))
    with pytest.raises(UserError, match="did you mean 'efficientnet_b0'"):
        create_model("eficientnet_b0", 5)


@pytest.mark.slow
def test_pretrained_without_a_network_names_the_other_ways(monkeypatch, tmp_path):
    """A hub that refuses connections stands for a machine without a network."""
    code = "from fasttrain.model.factory import create_model\ncreate_model('mobilenetv2_100', 5, pretrained=True)"
    environment = {**os.environ, "HF_ENDPOINT": "http://127.0.0.1:9", "HF_HOME": str(tmp_path)}
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, timeout=PATIENCE
    )
    assert "UserError" in done.stderr.splitlines()[-1]
    assert "--weights" in done.stderr.splitlines()[-1] and "--no-pretrained" in done.stderr.splitlines()[-1]


@pytest.mark.slow
def test_early_stopping_ends_the_run(shard_folder, tmp_path):
    settings = {**SMALL, "epochs": 9, "early_stopping": 1, "learning_rate": 1e-9, "optimizer": "sgd"}
    made = train(data=shard_folder, out=tmp_path, track=False, limit_batches=1, **settings)
    assert len(made.history) < 9 and not made.history[-1]["improved"]


@pytest.mark.slow
def test_same_seed_same_weights_other_seed_others(shard_folder, tmp_path):
    def weights(seed: int, name: str) -> torch.Tensor:
        settings = {**SMALL, "epochs": 1, "limit_batches": 2, "seed": seed, "deterministic": True}
        made = train(data=shard_folder, out=tmp_path / name, track=False, **settings)
        return load_file(made.folder / "model.safetensors")["classifier.weight"]

    first = weights(1, "a")
    assert torch.equal(first, weights(1, "b"))
    assert not torch.equal(first, weights(2, "c"))


def test_a_loss_that_is_not_finite_stops_with_advice(result, shard_folder, tmp_path):
    poisoned = load_file(result.folder / "model.safetensors")
    poisoned["classifier.bias"][0] = float("nan")
    save_file(poisoned, tmp_path / "poisoned.safetensors")
    with pytest.raises(UserError, match="lower --learning-rate"):
        train(data=shard_folder, out=tmp_path, track=False, weights=tmp_path / "poisoned.safetensors", **SMALL)
    log = next(Path(tmp_path).glob("*/train.log")).read_text()
    assert "Traceback" in log, "the stack trace belongs in the log file"
