"""Runs in the local SQLite store: what is logged arrives, and each run ends as it should."""

from __future__ import annotations

import inspect
import json
import math
import os
import signal
from pathlib import Path
from typing import Any

import pytest
from mlflow_processes import FirstRun, delivered, end_epoch, run_python

from fasttrain.errors import Stopped
from fasttrain.tracking import tracker as tracking
from fasttrain.tracking.record import RECORD, record_uuid, set_aside
from fasttrain.tracking.sync import deliver_runs
from fasttrain.tracking.tracker import NullTracker, Tracker
from tests.support.patience import PATIENCE, wait_until


@pytest.fixture(autouse=True)
def _patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """A store that was busy once is not one that is away."""
    monkeypatch.setattr(tracking, "_FAILING_S", PATIENCE)


@pytest.mark.slow
def test_everything_in_the_folder_is_in_the_store(here: Path, client: Any) -> None:
    run_folder = here / "run"
    params = {**{f"p{number}": number for number in range(250)}, "list": [0.08, 1.0], "long": "x" * 7000}
    history = [
        {"epoch": epoch, "val_loss": 1 / epoch, "img/s": epoch, "f1 crème: brûlée?": 0.5, "improved": True}
        for epoch in range(1, 1501)
    ]
    with Tracker.start("food", "first", params, {"host": "a"}, folder=run_folder) as tracker:
        (run_folder / "history.json").write_text(json.dumps(history))
        tracker.sync()
        tracker.log_metrics({"nan": math.nan}, 3)
        (run_folder / "confusion_matrix.png").write_bytes(b"png")
        tracker.log_artifacts([run_folder / "confusion_matrix.png", run_folder / "evaluation.json"])
        evaluation = {
            "split": "test",
            "best_epoch": 7,
            "training_seconds": 2.5,
            "loss": None,
            "top1": 0.5,
            "classes": [],
        }
        (run_folder / "evaluation.json").write_text(json.dumps(evaluation))
        tracker.sync()
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
    points = client.get_metric_history(tracker.run_id, "speed/images_per_second")
    assert [(point.step, point.value) for point in points] == [(epoch, epoch) for epoch in range(1, 1501)]
    assert "f1 crème: brûlée_" in run.data.metrics and "improved" not in run.data.metrics
    assert math.isnan(run.data.metrics["nan"]) and math.isnan(run.data.metrics["test/loss"])
    assert {name: run.data.metrics[name] for name in ("test/top1", "val_best/epoch", "speed/training_seconds")} == {
        "test/top1": 0.5,
        "val_best/epoch": 7,
        "speed/training_seconds": 2.5,
    }
    (final,) = client.get_metric_history(tracker.run_id, "test/top1")
    assert final.step == 1500
    names = {file.path for file in client.list_artifacts(tracker.run_id)}
    assert names == {"confusion_matrix.png", "evaluation.json"}
    assert (here / "mlartifacts" / tracker.run_id / "artifacts/confusion_matrix.png").exists()


def test_each_epoch_keeps_the_time_at_which_it_ended(here: Path, client: Any) -> None:
    """Whenever it arrives: the last one ended when the history was written, those before it as much earlier."""
    run_folder = here / "run"
    run_folder.mkdir()
    history = [{"epoch": epoch, "val_loss": 1.0, "epoch_seconds": 100 * epoch} for epoch in (1, 2, 3)]
    (run_folder / "history.json").write_text(json.dumps(history))
    os.utime(run_folder / "history.json", (10_000, 10_000))
    with Tracker.start("e", "r", {}, folder=run_folder) as first:
        first.sync()
        end_epoch(run_folder, val_loss=0.5)
        os.utime(run_folder / "history.json", (20_000, 20_000))
        first.sync()
    with Tracker.start("e", "r", {}, folder=run_folder) as again:
        os.utime(run_folder / "history.json", (30_000, 30_000))
        again.sync()
    points = client.get_metric_history(again.run_id, "val/loss")
    assert [point.timestamp for point in points] == [9_500_000, 9_700_000, 10_000_000, 20_000_000]


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
    with pytest.raises(type(error)), Tracker.start("e", "r", {}, folder=here / "run") as tracker:
        tracker.log_metrics({"loss": 1.0}, 1)
        raise error
    run = client.get_run(tracker.run_id)
    assert run.info.status == status
    assert run.info.end_time >= run.info.start_time
    assert run.data.metrics == {"loss": 1.0}
    said = f"{type(error).__name__}: {error}" if status == "FAILED" else None
    assert run.data.tags.get("error") == said


def test_a_real_ctrl_c_kills_the_run(here: Path, client: Any) -> None:
    with pytest.raises(KeyboardInterrupt), Tracker.start("e", "r", {}, folder=here / "run") as tracker:
        tracker.wait_for_run()
        signal.raise_signal(signal.SIGINT)
    assert client.get_run(tracker.run_id).info.status == "KILLED"


def test_a_resumed_run_goes_on_in_its_run(here: Path, client: Any) -> None:
    with (
        pytest.raises(Stopped),
        Tracker.start("e", "r", {"lr": 0.1, "epochs": 2}, folder=here / "run") as first,
    ):
        first.log_metrics({"loss": 3.0}, 1)
        first.log_metrics({"loss": 2.0}, 2)
        raise Stopped("SIGTERM")
    with Tracker.start("e", "r", {"lr": 0.2, "epochs": 2, "new": 1}, folder=here / "run") as second:
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


def test_a_run_is_found_by_its_id_or_uuid_and_a_lost_one_replaced(here: Path, client: Any) -> None:
    with Tracker.start("e", "r", {"lr": 0.1}, folder=here / "a") as first:
        pass
    with Tracker.start("e", "r", {"lr": 0.1}, folder=here / "b", run_id=first.run_id) as second:
        second.log_metrics({"loss": 1.0}, 1)
    assert second.run_id == first.run_id
    lost = "0" * 32
    with Tracker.start("e", "r", {}, folder=here / "c", run_id=lost) as third:
        pass
    assert third.run_id not in (lost, first.run_id)
    with Tracker.start("e", "r", {}, folder=here / "d", uuid=second.uuid) as fourth:
        pass
    assert (fourth.run_id, fourth.uuid) == (first.run_id, second.uuid)
    assert client.get_run(third.run_id).data.tags["fasttrain.continues"] == lost


@pytest.mark.slow
def test_what_a_killed_process_left_arrives_when_it_is_resumed(here: Path, client: Any) -> None:
    script = """
import os, signal
from pathlib import Path
from fasttrain.tracking.tracker import Tracker
from mlflow_processes import end_epoch
tracker = Tracker.start("e", "r", {"lr": 0.1}, folder=Path("run"))
for epoch in range(20):
    end_epoch(Path("run"), loss=float(epoch))
    tracker.sync()
os.kill(os.getpid(), signal.SIGKILL)
"""
    done = run_python(script, here)
    assert done.returncode == -signal.SIGKILL, done.stderr
    before = json.loads((here / "run" / RECORD).read_text())["times"]
    with Tracker.start("e", "r", {"lr": 0.1}, folder=here / "run") as tracker:
        end_epoch(here / "run", loss=20.0)
        tracker.sync()
    points = client.get_metric_history(tracker.run_id, "loss")
    assert [(point.step, point.value) for point in points] == [(step, step - 1) for step in range(1, 22)]
    assert [point.timestamp for point in points][:-1] == [before[str(step)] for step in range(1, 21)]


def test_a_damaged_record_costs_only_itself(here: Path, client: Any) -> None:
    """The checkpoint has the run's UUID, too; the metrics are in the other files."""
    with Tracker.start("e", "r", {}, folder=here / "run") as first:
        end_epoch(here / "run", loss=1.0)
        first.sync()
    (here / "run" / RECORD).write_text("\0\0\0")
    said: list[str] = []
    with Tracker.start("e", "r", {"new": 1}, folder=here / "run", uuid=first.uuid, report=said.append) as second:
        end_epoch(here / "run", loss=2.0)
        second.sync()
    assert second.run_id == first.run_id
    assert len(said) == 1 and f"{here / 'run' / RECORD} can't be read" in said[0]
    points = client.get_metric_history(first.run_id, "loss")
    assert [(point.step, point.value) for point in points] == [(1, 1.0), (2, 2.0)]
    assert client.get_run(first.run_id).data.params == {"new": "1"}


def test_an_epoch_that_is_trained_again_is_added_where_it_differs(here: Path, client: Any) -> None:
    """After a kill the history ends at the checkpoint; the same epoch has the same loss, and takes another time."""
    run_folder = here / "run"
    with Tracker.start("e", "r", {}, folder=run_folder) as first:
        end_epoch(run_folder, loss=1.0, seconds=5.0)
        kept = (run_folder / "history.json").read_bytes()
        end_epoch(run_folder, loss=0.5, seconds=6.0)
        first.sync()
    with Tracker.start("e", "r", {}, folder=run_folder) as second:
        (run_folder / "history.json").write_bytes(kept)
        second.sync()
        end_epoch(run_folder, loss=0.5, seconds=7.0)
        second.sync()
    assert second.run_id == first.run_id
    found = {name: client.get_metric_history(first.run_id, name) for name in ("loss", "seconds")}
    assert [(point.step, point.value) for point in found["loss"]] == [(1, 1.0), (2, 0.5)]
    assert [(point.step, point.value) for point in found["seconds"]] == [(1, 5.0), (2, 6.0), (2, 7.0)]


@pytest.mark.slow
def test_two_runs_in_one_process_do_not_mix(here: Path, client: Any) -> None:
    with (
        Tracker.start("e", "one", {"n": 1}, folder=here / "1") as one,
        Tracker.start("e", "two", {"n": 2}, folder=here / "2") as two,
    ):
        for step in range(50):
            one.log_metrics({"loss": 1.0 + step}, step)
            two.log_metrics({"loss": 100.0 + step}, step)
    assert one.run_id != two.run_id
    for tracker, first, n in ((one, 1.0, "1"), (two, 100.0, "2")):
        points = client.get_metric_history(tracker.run_id, "loss")
        assert [point.value for point in points] == [first + step for step in range(50)]
        assert client.get_run(tracker.run_id).data.params == {"n": n}


def test_a_file_that_is_gone_is_left_out(here: Path, client: Any) -> None:
    with Tracker.start("e", "r", {}, folder=here / "run") as tracker:
        tracker.log_artifacts([here / "run" / "gone.png"])
        tracker.log_metrics({"loss": 1.0}, 1)
    run = client.get_run(tracker.run_id)
    assert (run.info.status, run.data.metrics) == ("FINISHED", {"loss": 1.0})


def test_an_unusable_store_is_reported_once_and_the_folder_has_everything(
    here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tracking, "_FAILING_S", 0.5)
    (here / "mlflow.db").write_bytes(b"no database at all " * 1000)
    said: list[str] = []
    with Tracker.start("e", "r", {}, folder=here / "run", report=said.append) as tracker:
        tracker.log_metrics({"loss": 1.5}, 1)
    assert 1 <= len(said) <= 2, "that it fails, and at the end what to do"
    assert "\n" not in "".join(said) and "--deliver" in said[-1]
    assert all("not a database" in line and str(here / "run") in line for line in said)
    assert '"loss": 1.5' in (here / "run" / RECORD).read_text()


def test_a_record_that_cannot_be_written_is_reported_and_the_store_still_gets_all(here: Path, client: Any) -> None:
    (here / "run").write_text("a file where the folder should be")
    said: list[str] = []
    with Tracker.start("e", "r", {}, folder=here / "run", report=said.append) as tracker:
        tracker.log_metrics({"loss": 1.5}, 1)
    assert len(said) == 1 and str(here / "run" / RECORD) in said[0]
    assert client.get_run(tracker.run_id).data.metrics == {"loss": 1.5}


def test_logging_after_the_end_is_an_error(here: Path) -> None:
    with Tracker.start("e", "r", {}, folder=here / "run") as tracker:
        pass
    tracker.finish("FAILED")
    with pytest.raises(RuntimeError, match="too late"):
        tracker.log_metrics({"loss": 1.0}, 1)


def test_the_first_run_in_a_folder_says_nothing(first_run: FirstRun) -> None:
    done = first_run.process
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert (first_run.folder / "mlflow.db").exists()


def test_the_null_tracker_has_the_same_interface() -> None:
    for name in ("sync", "log_metrics", "log_artifacts", "set_tags", "finish", "wait_for_run"):
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
        ("sqlite:////home/alice@corp/mlflow.db", "sqlite:////home/alice@corp/mlflow.db"),
        ("file:///home/alice@corp/mlruns", "file:///home/alice@corp/mlruns"),
    ],
)
def test_passwords_are_shown_to_nobody(uri: str, said: str) -> None:
    from fasttrain.tracking.store import shown

    assert shown(uri) == said


@pytest.mark.slow
def test_what_is_set_aside_is_a_run_of_its_own(here: Path, client: Any) -> None:
    """A training run that goes back: MLflow can't forget the later epochs, so another MLflow run begins."""
    run, weights = here / "runs" / "one", here / "runs" / "one" / "model.safetensors"
    with Tracker.start("food", None, {}, folder=run) as before:
        for step in (1, 2, 3):
            end_epoch(run, loss=step)
            before.sync()
    with Tracker.start("food", None, {}, folder=run) as again:
        weights.write_bytes(b"of epoch 3")
    assert again.uuid == before.uuid == record_uuid(run) and again.run_id == before.run_id
    first = (run / "history.json").read_text()
    end_epoch(run, loss=4)  # the store still lacks this epoch
    set_aside(run, {"abandoned": "at epoch 1"})
    assert record_uuid(run) is None
    with Tracker.start("food", "renamed", {}, folder=run) as after:
        assert after.wait_for_run()
        wait_until(lambda: delivered(after))
        assert "loss" not in client.get_run(after.run_id).data.metrics, "the history is still the other branch's"
        (run / "history.json").write_text(json.dumps(json.loads(first)[:1]))
        after.sync()
        end_epoch(run, loss=9)
        after.sync()
        weights.write_bytes(b"of another epoch")
    assert after.uuid != before.uuid and after.run_id not in (None, before.run_id)
    said: list[str] = []
    deliver_runs([run], said.append)
    losses = {
        each: sorted((point.step, point.value) for point in client.get_metric_history(each, "loss"))
        for each in (before.run_id, after.run_id)
    }
    assert losses == {before.run_id: [(1, 1), (2, 2), (3, 3), (4, 4)], after.run_id: [(1, 1), (2, 9)]}
    found = client.get_run(before.run_id)
    assert found.data.tags["abandoned"] == "at epoch 1" and found.info.status == "FINISHED"
    assert client.list_artifacts(before.run_id) == [], "the folder's files are another branch's by now"
    assert client.get_run(after.run_id).info.run_name == "renamed"
    assert client.get_run(before.run_id).info.run_name == "one"
    set_aside(run, {"abandoned": "again"})
    assert sorted(path.name for path in run.glob("tracking*")) == ["tracking-1.json", "tracking-2.json"]


def test_a_delayed_run_leaves_the_store_alone_until_it_begins(here: Path) -> None:
    tracker = Tracker.start("food", "late", {}, folder=here / "run", delayed=True)
    assert (here / "run" / RECORD).is_file()
    assert not tracker._sync.connected.wait(0.5) and tracker._sync.asked_at is None
    tracker.begin()
    wait_until(lambda: delivered(tracker))
    tracker.finish()
    with Tracker.start("food", "short", {}, folder=here / "short", delayed=True) as other:
        pass
    assert other.run_id is not None, "the end of a run doesn't wait for its first step"
