"""Runs that the first release left, in `first_release/`: one that finished, and the same one killed after step 4.

They were made on the shards in `tests/shards/first_release` by commit a1d6236, with `tests.support.tiny_timm` as the
model, and `predictions.json` by its `predict` of the finished run. Checkpoints older than these are pickles: see
test_checkpoint_folder.py.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from fasttrain import evaluate, predict, train
from fasttrain.checkpoint.trained import load_trained
from fasttrain.errors import UserError
from tests.support import tiny_timm

HERE = Path(__file__).with_name("first_release")
DATA = Path(__file__).parents[1] / "shards" / "first_release"
CLOSE = {"rel": 1e-3}  # another processor, another order of sums

assert tiny_timm.fasttrain_tiny, "timm knows the model once it is imported"


def test_it_predicts_what_it_predicted_then() -> None:
    then = json.loads((HERE / "predictions.json").read_text())
    found = predict(HERE / "finished", [DATA / "photographs" / each["image"] for each in then], top_k=2)
    for now, each in zip(found, then, strict=True):
        assert list(now.classes) == each["classes"]
        assert list(now.probabilities) == pytest.approx(each["probabilities"], **CLOSE)


def test_it_is_evaluated_as_it_was_then() -> None:
    then = json.loads((HERE / "finished" / "evaluation.json").read_text())
    found = evaluate(HERE / "finished", DATA / "shards", split="val", loader="torchvision")
    assert found.loss == pytest.approx(then["loss"], **CLOSE)
    assert found.confusion_matrix.tolist() == then["confusion_matrix"]


def test_a_model_of_a_newer_schema_is_refused_by_name(tmp_path: Path) -> None:
    newer = shutil.copytree(HERE / "finished", tmp_path / "newer")
    spec = json.loads((newer / "model.json").read_text())
    (newer / "model.json").write_text(json.dumps({**spec, "schema": 2}))
    with pytest.raises(UserError, match=r"model\.json: schema 2 is newer than this fasttrain's 1; upgrade fasttrain$"):
        load_trained(newer)


@pytest.mark.slow
def test_the_killed_one_resumes_and_trains_as_it_would_have_then(tmp_path: Path) -> None:
    shutil.copytree(HERE / "stopped", tmp_path / "stopped")
    result = train(resume=str(tmp_path / "stopped"), data=DATA / "shards")
    then = json.loads((HERE / "finished" / "history.json").read_text())
    assert result.folder == tmp_path / "stopped"
    for now, each in zip(result.history, then, strict=True):
        for name in ("train_loss", "val_loss", "learning_rate"):
            assert now[name] == pytest.approx(each[name], **CLOSE), name
    (start,) = json.loads((result.folder / "provenance.json").read_text())["starts"]
    assert start["step"] == 4
