"""`register`: a run's model in a real SQLite store of MLflow, as MLflow loads it."""

from __future__ import annotations

import base64
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest

from fasttrain import predict
from fasttrain.commands.register import register
from fasttrain.errors import UserError
from fasttrain.tracking.tracker import Tracker
from fasttrain.version import __version__
from tests.support import tiny_timm

TESTS = Path(__file__).parents[1]
PICTURES = sorted((TESTS / "shards" / "first_release" / "photographs").glob("*/00.jpg"))

assert tiny_timm.fasttrain_tiny, "timm knows the model once it is imported"


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run, tracked in a store of its own."""
    here = tmp_path_factory.mktemp("register")
    run = shutil.copytree(TESTS / "checkpoint" / "first_release" / "finished", here / "run")
    with Tracker.start("tests", None, {"epochs": 3}, folder=run, uri=f"sqlite:///{here}/mlflow.db"):
        pass
    return run


@pytest.fixture(autouse=True)
def _store(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{run.parent}/mlflow.db")


@pytest.mark.slow
def test_mlflow_loads_it_and_answers_as_predict_does(run: Path) -> None:
    import mlflow

    first, second = register(run, "clothes"), register(run, "clothes")
    assert (first.uri, second.uri) == ("models:/clothes/1", "models:/clothes/2")
    before = mlflow.get_tracking_uri()
    mlflow.set_tracking_uri(first.store)
    try:
        found = mlflow.MlflowClient().get_model_version("clothes", "1")
        assert found.run_id == first.run_id and found.status == "READY"
        assert mlflow.MlflowClient().get_run(first.run_id).info.status == "FINISHED"
        model = mlflow.pyfunc.load_model(second.uri)
        rows = pd.DataFrame({"image": [path.read_bytes() for path in PICTURES]})
        answers = model.predict(rows)
        needed = mlflow.pyfunc.get_model_dependencies(second.uri)
        assert f"fasttrain-vision=={__version__}" in Path(needed).read_text() and "dali" not in Path(needed).read_text()
        assert model.metadata.get_input_schema().input_names() == ["image"]
        assert len(model.predict(rows, params={"top_k": 1})["classes"][0]) == 1
        with pytest.raises(ValueError, match="row 1: "):
            model.predict(pd.DataFrame({"image": [PICTURES[0].read_bytes(), b"no picture"]}))
    finally:
        mlflow.set_tracking_uri(before)
    for row, ours in zip(answers.to_dict("records"), predict(run, PICTURES), strict=True):
        assert row["classes"] == list(ours.classes)
        assert row["probabilities"] == pytest.approx(list(ours.probabilities))


@pytest.mark.full
def test_mlflow_models_predict_takes_the_bytes_of_a_jpeg(run: Path, tmp_path: Path) -> None:
    made = register(run, "served")
    picture = base64.b64encode(PICTURES[0].read_bytes()).decode()
    request = {"dataframe_split": {"columns": ["image"], "data": [[picture]]}}
    (tmp_path / "request.json").write_text(json.dumps(request))
    (tmp_path / "sitecustomize.py").write_text("import tests.support.tiny_timm\n")
    command = [sys.executable, "-m", "mlflow", "models", "predict", "-m", made.uri, "--env-manager", "local"]
    command += ["-i", str(tmp_path / "request.json"), "-o", str(tmp_path / "answer.json")]
    paths = os.pathsep.join([str(tmp_path), str(TESTS.parent)])
    said = subprocess.run(command, env={**os.environ, "PYTHONPATH": paths}, capture_output=True, text=True, check=False)
    assert said.returncode == 0, said.stderr
    (answer,) = json.loads((tmp_path / "answer.json").read_text())["predictions"]
    (ours,) = predict(run, PICTURES[:1])
    assert answer["classes"] == list(ours.classes)
    assert answer["probabilities"] == pytest.approx(list(ours.probabilities))


def test_a_run_without_a_store_is_refused_in_a_line(run: Path, tmp_path: Path) -> None:
    bare = shutil.copytree(run, tmp_path / "bare")
    record = json.loads((bare / "tracking.json").read_text())
    (bare / "tracking.json").write_text(json.dumps({**record, "run_id": None}))
    with pytest.raises(UserError, match="is not in its MLflow store yet; run `fasttrain runs --deliver"):
        register(bare, "clothes")
    (bare / "tracking.json").unlink()
    with pytest.raises(UserError, match="not tracked in MLflow; train with --track mlflow"):
        register(bare, "clothes")
    with pytest.raises(UserError, match="no such run folder; give the folder of a finished run"):
        register(tmp_path / "missing", "clothes")
    with pytest.raises(UserError, match=r"could not register the model as ''"):
        register(run, "")
