"""MLflow's own variables, and working directories whose path means something in a URL."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from fasttrain.errors import UserError
from fasttrain.tracking.database import database_file, quoted
from fasttrain.tracking.record import RECORD, Record
from fasttrain.tracking.runs import list_runs, tracking_uri
from fasttrain.tracking.store import Store, artifact_location, configured_uri, local_uri, shown
from fasttrain.tracking.sync import deliver_runs
from fasttrain.tracking.tracker import Tracker
from tests.tracking.mlflow_processes import end_epoch


def tracked(here: Path, name: str, **given: Any) -> tuple[Tracker, Any]:
    """A run, and what MLflow says of it."""
    given = {"experiment": None, "run_name": None, "params": {}, **given}
    with Tracker.start(folder=here / "runs" / name, **given) as tracker:
        end_epoch(here / "runs" / name, val_loss=1.0)
        tracker.sync()
    return tracker, Store(local_uri()).client.get_run(tracker.run_id)


def experiment_of(client: Any, run: Any) -> str:
    return str(client.get_experiment(run.info.experiment_id).name)


@pytest.mark.slow
def test_the_experiment_and_the_name_are_mlflows_where_none_are_given(
    here: Path, client: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, plain = tracked(here, "a")
    assert (experiment_of(client, plain), plain.info.run_name) == ("fasttrain", "a")
    monkeypatch.setenv("MLFLOW_EXPERIMENT_NAME", "food")
    monkeypatch.setenv("MLFLOW_RUN_NAME", "named")
    _, named = tracked(here, "b")
    assert (experiment_of(client, named), named.info.run_name) == ("food", "named")
    _, given = tracked(here, "c", experiment="fasttrain", run_name="mine")
    assert (experiment_of(client, given), given.info.run_name) == ("fasttrain", "mine")
    monkeypatch.delenv("MLFLOW_EXPERIMENT_NAME")
    _, resumed = tracked(here, "b")
    assert resumed.info.run_id == named.info.run_id, "a run stays where it began"
    monkeypatch.setenv("MLFLOW_EXPERIMENT_ID", named.info.experiment_id)
    _, numbered = tracked(here, "d")
    assert experiment_of(client, numbered) == "food"
    record = Record.load(here / "runs" / "d" / RECORD)
    assert record is not None and record.experiment == "food"


def test_an_experiment_that_the_store_does_not_have_is_said(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_EXPERIMENT_ID", "987654")
    monkeypatch.setattr("fasttrain.tracking.tracker._FAILING_S", 0.5)
    said: list[str] = []
    with Tracker.start(None, None, {}, folder=here / "run", report=said.append):
        pass
    assert "987654" in said[-1] and "--deliver" in said[-1]


def test_the_run_that_mlflow_run_made_is_taken_once(here: Path, client: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    made = client.create_run(client.create_experiment("projects"), run_name="made")
    monkeypatch.setenv("MLFLOW_RUN_ID", made.info.run_id)
    tracker, run = tracked(here, "a")
    assert tracker.run_id == made.info.run_id and run.info.status == "FINISHED" and run.info.run_name == "made"
    assert run.data.metrics == {"val/loss": 1.0} and run.data.tags["fasttrain.uuid"] == tracker.uuid
    assert "MLFLOW_RUN_ID" not in os.environ, "as MLflow itself does: a second run in this process is another"
    second, _ = tracked(here, "b")
    assert second.run_id != made.info.run_id
    monkeypatch.setenv("MLFLOW_RUN_ID", made.info.run_id)
    resumed, _ = tracked(here, "b")
    assert resumed.run_id == second.run_id, "a run stays where it began"


@pytest.mark.slow
def test_the_command_line_takes_the_experiment_from_mlflows_variable(
    shard_folder: Path, here: Path, client: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    from fasttrain import train
    from tests.support.runs import SMALL

    monkeypatch.setenv("MLFLOW_EXPERIMENT_NAME", "food")
    result = train(data=shard_folder, out=here / "runs", **{**SMALL, "track": True, "epochs": 1, "limit_batches": 1})
    assert experiment_of(client, client.get_run(result.mlflow_run_id)) == "food"


ODD = ["alice@corp.example.com", "what?now", "100%41", "50%", "a#b", "a:b", "with space", "a;b&c=d", "sqlite:", "über"]


@pytest.mark.parametrize("name", ODD)
@pytest.mark.slow
def test_a_folder_with_any_name_has_its_store_in_it(
    name: str, tmp_path: Path, empty_store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import shutil

    here = tmp_path / "work" / name
    here.mkdir(parents=True)
    monkeypatch.chdir(here)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    with pytest.raises(UserError, match="no runs are tracked here"):
        tracking_uri()
    shutil.copy(empty_store, here / "mlflow.db")
    uri = local_uri()
    assert database_file(uri) == here / "mlflow.db" and shown(uri) == uri == tracking_uri()
    (here / "picture.png").write_bytes(b"png")
    with Tracker.start("food", "r", {}, folder=here) as tracker:
        tracker.log_artifacts([here / "picture.png"])
        end_epoch(here, val_loss=1.0)
        tracker.sync()
    location = artifact_location(uri)
    assert location is not None and (here / "mlartifacts" / str(tracker.run_id) / "artifacts/picture.png").is_file()
    assert [run.name for run in list_runs(experiment="food")] == ["r"]
    monkeypatch.chdir(tmp_path)
    with Tracker.start("food", "r", {}, folder=here) as elsewhere:
        end_epoch(here, val_loss=0.5)
        elsewhere.sync()
    assert elsewhere.run_id == tracker.run_id, "resumed from elsewhere, it goes on in its store"
    said: list[str] = []
    deliver_runs([here], said.append)
    assert said == [f"nothing to deliver in {here}"]
    assert [each.name for each in (tmp_path / "work").iterdir()] == [name], "nothing was made beside it"
    assert [each.name for each in tmp_path.iterdir()] == ["work"]


@pytest.mark.parametrize("name", ["what?now", "100%41"])
@pytest.mark.slow
def test_a_new_database_in_such_a_folder(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from fasttrain.tracking.database import make_database

    (tmp_path / name).mkdir()
    make_database(local_uri(tmp_path / name))
    assert [path.name for path in (tmp_path / name).iterdir()] == ["mlflow.db"]
    assert [path.name for path in tmp_path.iterdir()] == [name]


def test_only_paths_that_need_it_are_quoted(tmp_path: Path) -> None:
    assert quoted(Path("/home/alice@corp/a b#c")) == "/home/alice@corp/a b#c"
    for other in ("sqlite:///:memory:", "sqlite://", "http://host", "file:///x"):
        assert database_file(other) is None
    assert database_file("sqlite:///mlflow.db?timeout=5") == Path("mlflow.db")


@pytest.mark.parametrize(
    ("uri", "said"),
    [
        (
            "htp://me:secret@host:5000",
            r"= htp://host:5000: MLflow doesn't know the scheme 'htp'; did you mean 'http'",
        ),
        (
            "sqllite:///x.db",
            r"MLflow doesn't know the scheme 'sqllite'; did you mean 'sqlite'",
        ),
        (
            "file:///srv/mlruns",
            r"= file:///srv/mlruns: MLflow no longer keeps runs in folders; .* or unset the variable",
        ),
        ("mlruns", r"= mlruns: MLflow no longer keeps runs in folders; .*or set MLFLOW_ALLOW_FILE_STORE=true"),
    ],
)
def test_a_store_that_mlflow_has_not_is_refused_at_the_start(
    uri: str, said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from fasttrain.commands.train import train
    from fasttrain.tracking.store import _keeps_runs_in_folders

    if "folders" in said and _keeps_runs_in_folders():
        pytest.skip("this MLflow keeps runs in folders")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    for start in (tracking_uri, configured_uri, lambda: train(data="nowhere", log_format="json")):
        with pytest.raises(UserError, match=said):
            start()
    with pytest.raises(UserError, match="nowhere"):
        train(data="nowhere", track=False)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("uri", ["http://h", "https://h", "postgresql+psycopg2://h/x", "databricks", "sqlite:///x.db"])
def test_stores_that_mlflow_has_are_taken(uri: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    assert configured_uri() == uri


def test_a_folder_is_taken_where_mlflow_is_told_to(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "file:///srv/mlruns")
    assert configured_uri() == "file:///srv/mlruns"
