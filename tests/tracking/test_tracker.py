"""Runs in the local SQLite store: what is logged arrives, and each run ends as it should."""

from __future__ import annotations

import inspect
import json
import math
import signal
from pathlib import Path
from typing import Any

import pytest
from mlflow_processes import FirstRun, run_python

from fasttrain.errors import Stopped
from fasttrain.tracking import mlflow as tracking
from fasttrain.tracking.journal import JOURNAL, Journal, journal_uuid, set_aside
from fasttrain.tracking.mlflow import NullTracker, Tracker
from fasttrain.tracking.waiting import deliver_runs
from tests.support.patience import PATIENCE, wait_until


@pytest.fixture(autouse=True)
def _patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """A store that was busy once is not one that is away."""
    monkeypatch.setattr(tracking, "_AWAY_S", PATIENCE)


def test_everything_logged_is_in_the_store(here: Path, client: Any) -> None:
    photo = here / "confusion_matrix.png"
    photo.write_bytes(b"png")
    params = {**{f"p{number}": number for number in range(250)}, "list": [0.08, 1.0], "long": "x" * 7000}
    with Tracker.start("food", "first", params, {"host": "a"}, journal=here / "run") as tracker:
        for step in range(1500):
            tracker.log_metrics({"val_loss": 1 / (step + 1), "img/s": step, "f1 crème: brûlée?": 0.5}, step)
        tracker.log_metrics({"nan": math.nan}, 3)
        tracker.log_artifact(photo, "figures")
        tracker.set_tags({"late": "yes", "wide": "y" * 9000})
    assert tracker.uri == f"sqlite:///{here / 'mlflow.db'}"
    assert tracker.run_id is not None
    run = client.get_run(tracker.run_id)
    assert run.info.status == "FINISHED"
    assert run.info.run_name == "first"
    assert client.get_experiment(run.info.experiment_id).name == "food"
    assert len(run.data.params) == len(params)
    assert run.data.params["p249"] == "249"
    assert run.data.params["list"] == "[0.08, 1.0]"
    assert run.data.params["long"].startswith("xxx")
    assert run.data.params["long"].endswith("(7000 characters)")
    assert {name: run.data.tags[name] for name in ("host", "late")} == {"host": "a", "late": "yes"}
    history = client.get_metric_history(tracker.run_id, "img/s")
    assert [(point.step, point.value) for point in history] == [(step, step) for step in range(1500)]
    assert "f1 crème: brûlée_" in run.data.metrics
    assert math.isnan(run.data.metrics["nan"])
    assert [file.path for file in client.list_artifacts(tracker.run_id, "figures")] == ["figures/confusion_matrix.png"]
    assert (here / "mlartifacts" / tracker.run_id / "artifacts/figures/confusion_matrix.png").exists()


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (KeyboardInterrupt(), "KILLED"),
        (Stopped("SIGTERM"), "KILLED"),
        (SystemExit(75), "KILLED"),
        (SystemExit(0), "FINISHED"),
        (SystemExit(2), "FAILED"),
        (ValueError("the loss is NaN"), "FAILED"),
    ],
)
def test_a_run_ends_by_what_ended_it(here: Path, client: Any, error: BaseException, status: str) -> None:
    with pytest.raises(type(error)), Tracker.start("e", "r", {}, journal=here / "run") as tracker:
        tracker.log_metrics({"loss": 1.0}, 1)
        raise error
    run = client.get_run(tracker.run_id)
    assert run.info.status == status
    assert run.info.end_time >= run.info.start_time
    assert run.data.metrics == {"loss": 1.0}
    said = f"{type(error).__name__}: {error}" if status == "FAILED" else None
    assert run.data.tags.get("error") == said


def test_a_real_ctrl_c_kills_the_run(here: Path, client: Any) -> None:
    with pytest.raises(KeyboardInterrupt), Tracker.start("e", "r", {}, journal=here / "run") as tracker:
        tracker.wait_for_run()
        signal.raise_signal(signal.SIGINT)
    assert client.get_run(tracker.run_id).info.status == "KILLED"


def test_a_resumed_run_goes_on_in_its_run(here: Path, client: Any) -> None:
    with (
        pytest.raises(Stopped),
        Tracker.start("e", "r", {"lr": 0.1, "epochs": 2}, journal=here / "run") as first,
    ):
        first.log_metrics({"loss": 3.0}, 1)
        first.log_metrics({"loss": 2.0}, 2)
        raise Stopped("SIGTERM")
    with Tracker.start("e", "r", {"lr": 0.2, "epochs": 2, "new": 1}, journal=here / "run") as second:
        assert second.wait_for_run() == first.run_id
        second.log_metrics({"loss": 2.0}, 2)
        second.log_metrics({"loss": 1.0}, 3)
        wait_until(lambda: client.get_run(first.run_id).info.status == "RUNNING")
    run = client.get_run(first.run_id)
    assert run.info.status == "FINISHED"
    assert run.data.params == {"lr": "0.1", "epochs": "2", "new": "1"}
    changed = {name: value for name, value in run.data.tags.items() if name.startswith("changed")}
    assert changed == {"changed.lr": "0.2"}
    points = client.get_metric_history(first.run_id, "loss")
    assert [(point.step, point.value) for point in points] == [(1, 3.0), (2, 2.0), (3, 1.0)]
    assert len(client.search_runs([run.info.experiment_id])) == 1


def test_a_run_id_without_its_journal_is_continued_and_a_lost_one_replaced(here: Path, client: Any) -> None:
    with Tracker.start("e", "r", {"lr": 0.1}, journal=here / "a") as first:
        pass
    with Tracker.start("e", "r", {"lr": 0.1}, journal=here / "b", run_id=first.run_id) as second:
        second.log_metrics({"loss": 1.0}, 1)
    assert second.run_id == first.run_id
    lost = "0" * 32
    with Tracker.start("e", "r", {}, journal=here / "c", run_id=lost) as third:
        pass
    assert third.run_id not in (lost, first.run_id)
    assert client.get_run(third.run_id).data.tags["fasttrain.continues"] == lost


def test_what_a_killed_process_logged_arrives_when_it_is_resumed(here: Path, client: Any) -> None:
    script = """
import os, signal, sys
from pathlib import Path
from fasttrain.tracking.mlflow import Tracker
tracker = Tracker.start("e", "r", {"lr": 0.1}, journal=Path("run"))
for step in range(20):
    tracker.log_metrics({"loss": float(step)}, step)
assert "mlflow.entities" not in sys.modules
os.kill(os.getpid(), signal.SIGKILL)
"""
    done = run_python(script, here)
    assert done.returncode == -signal.SIGKILL
    journal = here / "run" / "tracking.jsonl"
    journal.write_bytes(journal.read_bytes() + b'{"op": "metrics", "ti')
    with Tracker.start("e", "r", {"lr": 0.1}, journal=here / "run") as tracker:
        tracker.log_metrics({"loss": 20.0}, 20)
    points = client.get_metric_history(tracker.run_id, "loss")
    assert [(point.step, point.value) for point in points] == [(step, step) for step in range(21)]
    assert [json.loads(line)["op"] for line in journal.read_text().splitlines()].count("metrics") == 21


def test_a_garbled_line_costs_only_itself(here: Path, client: Any) -> None:
    with Tracker.start("e", "r", {}, journal=here / "run") as first:
        first.log_metrics({"loss": 0.0}, 0)
        first.log_metrics({"loss": 1.0}, 1)
    journal = here / "run" / "tracking.jsonl"
    lines = journal.read_text().splitlines(keepends=True)
    lines[lines.index(next(line for line in lines if '"loss": 0.0' in line))] = "\0\0\0\n"
    journal.write_text("".join(lines))
    with Tracker.start("e", "r", {"new": 1}, journal=here / "run") as second:
        second.log_metrics({"loss": 2.0}, 2)
    assert second.run_id == first.run_id
    points = client.get_metric_history(first.run_id, "loss")
    assert [(point.step, point.value) for point in points] == [(step, step) for step in range(3)]
    assert client.get_run(first.run_id).data.params == {"new": "1"}


def test_two_runs_in_one_process_do_not_mix(here: Path, client: Any) -> None:
    with (
        Tracker.start("e", "one", {"n": 1}, journal=here / "1") as one,
        Tracker.start("e", "two", {"n": 2}, journal=here / "2") as two,
    ):
        for step in range(50):
            one.log_metrics({"loss": 1.0 + step}, step)
            two.log_metrics({"loss": 100.0 + step}, step)
    assert one.run_id != two.run_id
    for tracker, first, n in ((one, 1.0, "1"), (two, 100.0, "2")):
        points = client.get_metric_history(tracker.run_id, "loss")
        assert [point.value for point in points] == [first + step for step in range(50)]
        assert client.get_run(tracker.run_id).data.params == {"n": n}


def test_a_missing_artifact_is_reported_and_the_run_goes_on(here: Path, client: Any) -> None:
    said: list[str] = []
    with Tracker.start("e", "r", {}, journal=here / "run", report=said.append) as tracker:
        tracker.log_artifact(here / "gone.png")
        tracker.log_metrics({"loss": 1.0}, 1)
    assert len(said) == 1
    assert "gone.png" in said[0]
    run = client.get_run(tracker.run_id)
    assert (run.info.status, run.data.metrics) == ("FINISHED", {"loss": 1.0})


def test_an_unusable_store_is_reported_once_and_the_journal_has_everything(
    here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tracking, "_AWAY_S", 0.5)
    (here / "mlflow.db").write_bytes(b"no database at all " * 1000)
    said: list[str] = []
    with Tracker.start("e", "r", {}, journal=here / "run", report=said.append) as tracker:
        tracker.log_metrics({"loss": 1.5}, 1)
    assert 1 <= len(said) <= 2, "that it fails, and at the end what to do"
    assert "\n" not in "".join(said) and "--deliver" in said[-1]
    assert all("not a database" in line and str(here / "run" / "tracking.jsonl") in line for line in said)
    assert '"loss": 1.5' in (here / "run" / "tracking.jsonl").read_text()


def test_a_journal_that_cannot_be_written_is_reported_and_the_store_still_gets_all(here: Path, client: Any) -> None:
    (here / "run").write_text("a file where the folder should be")
    said: list[str] = []
    with Tracker.start("e", "r", {}, journal=here / "run", report=said.append) as tracker:
        tracker.log_metrics({"loss": 1.5}, 1)
    assert len(said) == 1
    assert client.get_run(tracker.run_id).data.metrics == {"loss": 1.5}


def test_logging_after_the_end_is_an_error(here: Path) -> None:
    with Tracker.start("e", "r", {}, journal=here / "run") as tracker:
        pass
    tracker.finish("FAILED")
    with pytest.raises(RuntimeError, match="too late"):
        tracker.log_metrics({"loss": 1.0}, 1)


def test_the_first_run_in_a_folder_says_nothing(first_run: FirstRun) -> None:
    done = first_run.process
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert (first_run.folder / "mlflow.db").exists()


def test_the_null_tracker_has_the_same_interface() -> None:
    for name in ("log_metrics", "log_artifact", "set_tags", "finish", "wait_for_run"):
        assert inspect.signature(getattr(NullTracker, name)) == inspect.signature(getattr(Tracker, name))
    with NullTracker() as tracker:
        tracker.log_metrics({"loss": 1.0}, 1)
        tracker.finish()
    assert tracker.wait_for_run() is tracker.uri is None


@pytest.mark.parametrize(
    ("uri", "said"),
    [
        ("mysql://user:pa/ss@host/db", "mysql://host/db"),
        ("http://user:p@ss@host:5000", "http://host:5000"),
        ("postgresql://host/db?user=u&password=x&sslmode=on", "postgresql://host/db?user=u&password=…&sslmode=on"),
        ("sqlite:////home/you/mlflow.db", "sqlite:////home/you/mlflow.db"),
    ],
)
def test_passwords_are_shown_to_nobody(uri: str, said: str) -> None:
    from fasttrain.tracking.store import shown

    assert shown(uri) == said


def test_what_is_set_aside_is_a_run_of_its_own(here: Path, client: Any) -> None:
    """A training run that goes back: MLflow can't forget the later epochs, so another MLflow run begins."""
    run, weights = here / "runs" / "one", here / "runs" / "one" / "model.safetensors"
    with Tracker.start("food", "one", {}, journal=run) as before:
        for step in (1, 2, 3):
            before.log_metrics({"loss": step}, step)
    assert before.fresh
    with Tracker.start("food", "one", {}, journal=run) as again:
        weights.write_bytes(b"of epoch 3")
    assert not again.fresh and again.uuid == before.uuid == journal_uuid(run) and again.run_id == before.run_id
    kept = Journal(run / JOURNAL)  # what the store still lacks
    kept.append({"op": "metrics", "time": 5, "metrics": {"loss": 4.0}, "step": 4})
    kept.append({"op": "artifact", "path": weights.name, "folder": None})
    kept.close()
    set_aside(run, {"abandoned": "at epoch 1"})
    assert journal_uuid(run) is None
    with Tracker.start("food", "one", {}, journal=run) as after:
        after.log_metrics({"loss": 1}, 1)
        after.log_metrics({"loss": 9}, 2)
        weights.write_bytes(b"of another epoch")
        after.set_tags({"mlflow.runName": "renamed"})
    assert after.fresh and after.run_id not in (None, before.run_id)
    said: list[str] = []
    deliver_runs([run], said.append)
    losses = {
        each: sorted((point.step, point.value) for point in client.get_metric_history(each, "loss"))
        for each in (before.run_id, after.run_id)
    }
    assert losses == {before.run_id: [(1, 1), (2, 2), (3, 3), (4, 4)], after.run_id: [(1, 1), (2, 9)]}
    found = client.get_run(before.run_id)
    assert found.data.tags["abandoned"] == "at epoch 1" and found.info.status == "KILLED"
    assert client.list_artifacts(before.run_id) == [], "the folder's files are another branch's by now"
    assert client.get_run(after.run_id).info.run_name == "renamed"
    set_aside(run, {"abandoned": "again"})
    assert sorted(path.name for path in run.glob("*.jsonl")) == ["tracking-1.jsonl", "tracking-2.jsonl"]
