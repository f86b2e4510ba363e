"""`train --folds`: real runs, one killed on the way; every photograph predicted by the model that didn't see it."""

from __future__ import annotations

import io
import json
import sys
from pathlib import Path
from typing import Any

import mlflow
import numpy as np
import pytest
import torch
from rich.console import Console
from safetensors.torch import save_file

import fasttrain
from fasttrain import evaluate
from fasttrain.commands.folds import train_folds
from fasttrain.config.values import Fold
from fasttrain.errors import UserError
from fasttrain.evaluation.prediction_file import OUT_OF_FOLD, read_predictions
from fasttrain.model.factory import create_model
from fasttrain.shards.folds import FoldView
from fasttrain.shards.reader import ShardSet
from tests.support.runs import SMALL, killed_after

PROBE = {name: each for name, each in SMALL.items() if name != "learning_rate"}
PROBE |= {"image_size": 32, "linear_probe": True, "deterministic": True, "model": "mobilenetv2_035"}


@pytest.fixture(scope="module")
def made(shard_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Three folds at a stretch, and three of which the second was killed after its first epoch; MLflow's store."""
    root = tmp_path_factory.mktemp("folds")
    torch.manual_seed(3)
    model = create_model("mobilenetv2_035", 6)
    model.train()(torch.randn(16, 3, 32, 32))
    save_file(model.state_dict(), root / "begin.safetensors")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FASTTRAIN_CACHE", str(root / "cache"))
        patch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{root}/mlflow.db")
        settings = {"data": shard_folder, "weights": root / "begin.safetensors", **PROBE}
        whole = train_folds(folds=3, out=root / "whole", experiment="folds", **settings)
        saves = []

        def second_folds_first_epoch(state: dict[str, Any]) -> bool:
            saves.append(state["epoch"])
            return len(saves) == 3

        with killed_after(second_folds_first_epoch):
            train_folds(folds=3, out=root / "killed", track=False, **settings)
        (folder,) = (root / "killed").iterdir()
        assert [path.name for path in sorted(folder.glob("fold-*/evaluation.json"))] == ["evaluation.json"]
        killed = train_folds(resume="auto", out=root / "killed", track=False)
        yield whole, killed, mlflow.MlflowClient(f"sqlite:///{root}/mlflow.db")


@pytest.mark.full
def test_every_photograph_is_predicted_by_the_model_that_did_not_see_it(made: Any, shard_folder: Path) -> None:
    whole, _, _ = made
    shards = ShardSet.open(shard_folder)
    found = read_predictions(whole.folder / OUT_OF_FOLD)
    known = np.flatnonzero(shards.index["split"] < 2)
    assert found.keys.tolist() == shards.index["key"][known].tolist() and whole.photographs == len(known)
    np.testing.assert_array_equal(found.labels, shards.labels()[known])
    assert whole.overall == (found.top[:, 0] == found.labels).mean()
    for number, folder in enumerate(whole.runs, 1):
        ids = FoldView(shards, Fold(number, 3), 42).ids("val")
        rows = np.searchsorted(known, ids)
        own = read_predictions(folder / "predictions.npz")
        own = own.part(np.flatnonzero(own.splits == 1))
        order = np.argsort(own.keys)
        np.testing.assert_array_equal(own.keys[order], np.sort(found.keys[rows]))
        assert whole.top1[number - 1] == pytest.approx((found.top[rows, 0] == found.labels[rows]).mean())
        history = json.loads((folder / "history.json").read_text())
        best = json.loads((folder / "evaluation.json").read_text())["best_epoch"]
        assert history[best - 1]["val_top1"] == pytest.approx(whole.top1[number - 1])
    assert whole.mean == pytest.approx(np.mean(whole.top1)) and whole.deviation == pytest.approx(
        np.std(whole.top1, ddof=1)
    )


@pytest.mark.slow
def test_killed_and_resumed_it_ends_with_the_same_bits(made: Any) -> None:
    whole, killed, _ = made
    for name in (OUT_OF_FOLD, *(f"fold-{number}/model.safetensors" for number in (1, 2, 3))):
        assert (whole.folder / name).read_bytes() == (killed.folder / name).read_bytes(), name
    assert whole.top1 == killed.top1
    assert json.loads((killed.folder / "folds.json").read_text())["mean"] == whole.mean


@pytest.mark.slow
def test_mlflow_has_the_folds_below_their_run(made: Any) -> None:
    whole, _, client = made
    runs = client.search_runs([client.get_experiment_by_name("folds").experiment_id])
    (parent,) = (run for run in runs if "mlflow.parentRunId" not in run.data.tags)
    children = [run for run in runs if run is not parent]
    assert {run.info.run_name for run in children} == {"fold 1/3", "fold 2/3", "fold 3/3"}
    assert {run.data.tags["mlflow.parentRunId"] for run in children} == {parent.info.run_id}
    assert {run.data.params["fold"] for run in children} == {"1/3", "2/3", "3/3"}
    assert parent.data.metrics["val/mean_top1"] == pytest.approx(whole.mean)


@pytest.mark.slow
def test_what_does_not_fit_is_told(
    made: Any, shard_folder: Path, tmp_path: Path, monkeypatch: Any, caplog: pytest.LogCaptureFixture
) -> None:
    whole, _, _ = made
    with pytest.raises(UserError, match=r"folds = 4: .* was started with 3"):
        train_folds(folds=4, resume=str(whole.folder))
    with pytest.raises(UserError, match=r"seed = 42 can't become 1"):
        train_folds(resume=str(whole.folder), seed=1)
    said = io.StringIO()
    train_folds(resume=str(whole.folder), workers=1, console=Console(file=said, width=200))
    assert (
        "changed settings don't apply to fold-1, fold-2, fold-3, which are finished: workers: 0 -> 1" in said.getvalue()
    )
    with pytest.raises(UserError, match="is not a folder of `train --folds`"):
        train_folds(folds=3, resume=str(tmp_path))
    with pytest.raises(UserError, match="fold = 1/3: --folds sets this"):
        train_folds(folds=3, fold="1/3")
    with pytest.raises(UserError, match="refit would train on the fold"):
        train_folds(folds=3, refit=True)
    settings = json.loads((whole.folder / "folds.json").read_text())["config"]
    assert "image_size" in settings and "warmup_epochs" not in settings, "only what was given"
    with caplog.at_level("WARNING"):
        evaluate(whole.runs[0], shard_folder, split="val", device="cpu", workers=0)
        assert "only the test split is new to it" in caplog.text
    with pytest.raises(UserError, match=r"fasttrain\.train_folds"):
        fasttrain.train(data=shard_folder, folds=3, out=tmp_path)
    with pytest.raises(UserError, match="a fold mixes train and val"):
        fasttrain.train(**{**SMALL, "data": shard_folder, "fold": "1/3", "loader": "ffcv", "out": tmp_path})

    from fasttrain.cli import main

    monkeypatch.setattr(sys, "argv", ["fasttrain", "train", "--resume", str(whole.folder), "--no-track"])
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 0, "nothing is left to do, and the result is told once more"


@pytest.mark.slow
def test_one_fold_alone_trains_on_pictures(shard_folder: Path, tmp_path: Path) -> None:
    settings = {**SMALL, "model": "test_convnext", "image_size": 32, "epochs": 1, "track": False}
    result = fasttrain.train(data=shard_folder, out=tmp_path, fold="2/4", **settings)
    found = read_predictions(result.folder / "predictions.npz")
    shards = ShardSet.open(shard_folder)
    validated = FoldView(shards, Fold(2, 4), 42).ids("val")
    assert sorted(found.keys[found.splits == 1].tolist()) == sorted(shards.index["key"][validated].tolist())
    assert 'fold = "2/4"' in (result.folder / "config.toml").read_text()
