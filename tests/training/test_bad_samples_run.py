"""`--on-bad-sample`: what a run says of samples that have changed, where it counts them, how it goes on."""

from __future__ import annotations

import io
import shutil
from pathlib import Path

import mlflow
import pytest
from rich.console import Console
from safetensors.torch import load_file

from fasttrain import evaluate, train
from fasttrain.config.schema import TrainConfig
from fasttrain.errors import UserError
from fasttrain.shards.reader import ShardSet
from tests.support.runs import SMALL, killed_after

SKIP = {**SMALL, "on_bad_sample": "skip", "deterministic": True, "seed": 4}


@pytest.fixture(scope="module")
def damaged(shard_folder, tmp_path_factory) -> ShardSet:
    """A bit of each of two training samples and of one of validation turned round."""
    folder = Path(shutil.copytree(shard_folder, tmp_path_factory.mktemp("bad") / "shards"))
    shards = ShardSet.open(folder)
    for sample in (4, 9, int(shards.ids("val")[1])):
        row = shards.index[sample]
        path = folder / shards.manifest.shards[row["shard"]].name
        content = bytearray(path.read_bytes())
        content[int(row["offset"]) + int(row["length"]) - 60] ^= 2
        path.write_bytes(content)
    return ShardSet.open(folder)


@pytest.fixture(autouse=True)
def store(tmp_path, monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/mlflow.db")
    monkeypatch.chdir(tmp_path)


def keys(shards: ShardSet) -> list[str]:
    return [shards.index["key"][sample].decode() for sample in (4, 9, int(shards.ids("val")[1]))]


@pytest.mark.slow
def test_they_are_told_counted_and_tracked(damaged, tmp_path):
    said = io.StringIO()
    result = train(data=damaged.folder, out=tmp_path / "runs", console=Console(file=said, width=500), **SKIP)
    assert [record["bad_samples"] for record in result.history] == [3, 3]
    for where in (said.getvalue(), next(result.folder.glob("*.log")).read_text()):
        assert all(where.count(f"({key}): its bytes have changed") == 1 for key in keys(damaged)), where
    with pytest.raises(UserError, match="its bytes have changed"):
        evaluate(result.folder, damaged.folder, loader="torchvision", workers=0, device="cpu")
    scored = evaluate(
        result.folder, damaged.folder, on_bad_sample="skip", loader="torchvision", workers=0, device="cpu"
    )
    assert scored.samples == len(damaged.ids("val")) - 1
    assert "3 bad left out" in said.getvalue() and "3 left out of an epoch" in said.getvalue()
    tracked = mlflow.MlflowClient().get_metric_history(result.mlflow_run_id, "train/bad_samples")
    assert [metric.value for metric in tracked] == [3, 3]


@pytest.mark.slow
def test_a_run_killed_in_mid_epoch_ends_with_the_same_weights_and_counts(damaged, tmp_path):
    settings = {**SKIP, "data": damaged.folder, "save_every": 1}
    whole = train(out=tmp_path / "whole", **settings)
    with killed_after(lambda state: state["loader"].get("bad_samples") == 1):
        train(out=tmp_path / "killed", **settings)
    (folder,) = (tmp_path / "killed").iterdir()
    resumed = train(resume=str(folder))
    one, other = (load_file(result.folder / "model.safetensors") for result in (whole, resumed))
    assert all((one[name] == other[name]).all() for name in one)
    assert [record["bad_samples"] for record in resumed.history] == [3, 3]


@pytest.mark.slow
def test_by_default_the_first_one_ends_it_in_one_line(damaged, tmp_path):
    with pytest.raises(UserError) as caught:
        train(data=damaged.folder, out=tmp_path / "runs", **SMALL)
    said = str(caught.value)
    assert any(f"({key}): its bytes have changed since" in said for key in keys(damaged)) and "\n" not in said
    assert f"`fasttrain inspect {damaged.folder} --verify`" in said and "--on-bad-sample skip" in said


def test_features_are_of_all_photographs():
    with pytest.raises(ValueError, match="on_bad_sample = 'skip' can't be combined with linear_probe"):
        TrainConfig(linear_probe=True, on_bad_sample="skip")
