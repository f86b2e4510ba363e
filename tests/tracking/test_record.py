"""The record of an MLflow run in its folder: what a store has and lacks, and what older versions wrote."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
from mlflow_processes import end_epoch

from fasttrain.tracking.lock import FolderLock, is_locked
from fasttrain.tracking.record import JOURNAL, RECORD, Record, record_files, record_uuid, set_aside
from fasttrain.tracking.runs import find_runs, run_of_folder, waiting_runs
from fasttrain.tracking.store import shown
from fasttrain.tracking.sync import Busy, deliver_runs, sync
from fasttrain.tracking.tracker import Tracker


def a_record(folder: Path, **values: Any) -> Record:
    folder.mkdir(exist_ok=True)
    return Record(folder / RECORD, "u", "e", "r", {"lr": "0.1"}, {"host": "a"}, **values)


def kinds(record: Record) -> list[str]:
    return [entry.kind for entry in record.missing()]


def test_what_is_marked_is_not_missing_until_it_changes(tmp_path: Path) -> None:
    record = a_record(tmp_path)
    end_epoch(tmp_path, loss=1.0)
    assert kinds(record) == ["status", "params", "tags", "metrics"]
    for entry in record.entries():
        record.mark_delivered([entry])
    assert record.missing() == []
    again = Record.load(tmp_path / RECORD)
    assert again is not None and again.missing() == []
    again.params["lr"] = "0.2"
    end_epoch(tmp_path, loss=1.0)
    assert kinds(again) == ["params", "metrics"]
    again.status, again.ended = "FINISHED", 5
    again.mark_delivered(again.missing())
    again.status, again.ended = "RUNNING", None
    assert kinds(again) == ["status"], "a run that goes on is not ended any more"
    again.set_destination("sqlite:///another", "1")
    assert len(again.missing()) == 5, "another store has nothing"


def test_a_file_is_logged_again_where_it_changed(tmp_path: Path) -> None:
    record = a_record(tmp_path, artifacts=["a.png", "absent.png"])
    (tmp_path / "a.png").write_bytes(b"one")
    record.mark_delivered(record.entries())
    assert record.missing() == []
    os.utime(tmp_path / "a.png", (1000, 1000))  # a copy of the folder may have other times
    assert record.missing() == []
    (tmp_path / "a.png").write_bytes(b"two")
    assert kinds(record) == ["artifact"]


def test_who_delivers_keeps_what_a_resumed_run_wrote_meanwhile(tmp_path: Path) -> None:
    delivering = a_record(tmp_path)
    delivering.shared = True
    delivering.save()
    resumed = Record.load(tmp_path / RECORD)
    assert resumed is not None
    resumed.tags["late"] = "yes"
    resumed.save()
    delivering.mark_delivered(delivering.entries()[:2])
    found = Record.load(tmp_path / RECORD)
    assert found is not None and found.tags["late"] == "yes" and kinds(found) == ["tags"]


def test_what_is_set_aside_keeps_its_metrics_and_ends(tmp_path: Path) -> None:
    end_epoch(tmp_path, loss=1.0)
    (tmp_path / "a.png").write_bytes(b"one")
    a_record(tmp_path, artifacts=["a.png"], ready=True).save()
    set_aside(tmp_path, {"abandoned": "why"})
    (tmp_path / "history.json").unlink()
    assert record_uuid(tmp_path) is None and record_files(tmp_path) == [tmp_path / "tracking-1.json"]
    aside = Record.load(tmp_path / "tracking-1.json")
    assert aside is not None and aside.uuid == "u"
    assert aside.status == "KILLED" and aside.ended is not None and aside.tags["abandoned"] == "why"
    assert kinds(aside) == ["params", "tags", "metrics", "status"]
    (tmp_path / RECORD).write_text("{")
    set_aside(tmp_path, {"abandoned": "a damaged one, of which nothing is known"})
    assert record_files(tmp_path) == [tmp_path / "tracking-1.json"]


def test_a_run_with_a_damaged_history_is_set_aside_and_ends(tmp_path: Path) -> None:
    a_record(tmp_path).save()
    (tmp_path / "history.json").write_text("[")
    assert set_aside(tmp_path, {"abandoned": "why"}) == "e"
    aside = Record.load(tmp_path / "tracking-1.json")
    assert aside is not None and aside.status == "KILLED" and aside.metrics == []


def test_who_delivers_leaves_the_record_of_another_run_alone(tmp_path: Path) -> None:
    """The run went back meanwhile: its folder has a new MLflow run."""
    delivering = a_record(tmp_path)
    delivering.shared = True
    delivering.save()
    set_aside(tmp_path, {"abandoned": "why"})
    Record(tmp_path / RECORD, "new", "e", "r", {}, {}).save()
    delivering.set_destination("sqlite:///x", "1" * 32)
    delivering.mark_delivered(delivering.entries())
    assert record_uuid(tmp_path) == "new" and delivering.missing() == []


def test_the_last_metrics_of_a_run_that_goes_on_are_kept(tmp_path: Path) -> None:
    end_epoch(tmp_path, loss=1.0)
    (tmp_path / "evaluation.json").write_text('{"split": "val", "top1": 0.5, "best_epoch": 1}')
    record = a_record(tmp_path)
    record.mark_delivered(record.entries()[:3])
    record.keep_final_metrics()
    (tmp_path / "evaluation.json").unlink()
    (row,) = record.metrics
    assert row["step"] == 1 and row["metrics"]["val_best/top1"] == 0.5
    record.metrics.clear()
    record.keep_final_metrics()
    assert record.metrics == [], "there are none"


def test_one_process_at_a_time_has_the_lock(tmp_path: Path) -> None:
    first, second = FolderLock(tmp_path), FolderLock(tmp_path)
    assert first.take() and first.take() and not second.take() and is_locked(tmp_path)
    with pytest.raises(Busy, match="another process"):
        sync(a_record(tmp_path), "sqlite:///x", print)
    first.release()
    assert not is_locked(tmp_path) and second.take()
    assert FolderLock(tmp_path / "absent").take()


@pytest.mark.slow
def test_a_folder_that_was_never_tracked_gets_a_uuid_and_is_synced_once(here: Path, client: Any) -> None:
    """A run with --no-track that is resumed with --track: MLflow gets the epochs so far, too."""
    run = here / "run"
    for loss in (2.0, 1.0):
        end_epoch(run, val_loss=loss, epoch_seconds=10.0)
    os.utime(run / "history.json", (1000, 1000))
    with Tracker.start("food", None, {"epochs": 2}, folder=run) as tracker:
        tracker.sync()
    record = Record.load(run / RECORD)
    assert record is not None and record.uuid == record_uuid(run) == tracker.uuid
    for forgotten in ([], record.delivered[:2]):
        record.delivered, record.run_id = forgotten, None
        assert sync(record, f"sqlite:///{here / 'mlflow.db'}", print) == 0
    (found,) = client.search_runs([client.get_experiment_by_name("food").experiment_id])
    assert found.info.run_name == "run" and found.info.status == "FINISHED" and found.data.params == {"epochs": "2"}
    assert found.data.tags["fasttrain.uuid"] == record.uuid
    points = client.get_metric_history(found.info.run_id, "val/loss")
    assert [(each.step, each.value, each.timestamp) for each in points] == [(1, 2.0, 990_000), (2, 1.0, 1_000_000)]


def old_journal(folder: Path, uri: str, run_id: str | None, **end: Any) -> None:
    """The journal that a run of an older version of fasttrain left, of which the first three lines are delivered."""
    folder.mkdir(parents=True)
    start = {"uuid": "old", "experiment": "food", "run_name": "before", "params": {"lr": "1"}, "tags": {"host": "a"}}
    lines = [json.dumps({"op": "start", "time": 500, "uri": uri, **start})]
    lines += [
        json.dumps({"op": "metrics", "time": 1000 * epoch, "metrics": {"val_loss": 1.0 / epoch}, "step": epoch})
        for epoch in (1, 2)
    ]
    delivered = len("\n".join(lines)) + 1
    lines += [
        json.dumps({"op": "artifact", "time": 2500, "path": "config.toml", "folder": None}),
        json.dumps({"op": "tags", "time": 2600, "tags": {"best": "2"}}),
        json.dumps({"op": "finish", "time": 3000, "status": "FINISHED"}),
    ]
    if run_id:
        lines.append(
            json.dumps({"op": "delivered", "uri": uri, "run_id": run_id, "end": delivered, "refused": [], **end})
        )
    (folder / "config.toml").write_text("lr = 1\n")
    (folder / "history.json").write_text(
        json.dumps([{"epoch": epoch, "val_loss": 1.0 / epoch, "val_top1": 0.5, "epoch_seconds": 1} for epoch in (1, 2)])
    )
    (folder / JOURNAL).write_text("\n".join([*lines, '{"op": "metr']))


@pytest.mark.slow
def test_an_older_versions_journal_is_delivered_where_it_stopped(here: Path, client: Any) -> None:
    uri, run = f"sqlite:///{here / 'mlflow.db'}", here / "runs" / "one"
    with Tracker.start("food", "before", {"lr": 1}, folder=here / "elsewhere") as began:
        for epoch in (1, 2):
            began.log_metrics({"val_loss": 1.0 / epoch}, epoch)
    old_journal(run, uri, began.run_id)
    (waiting,) = waiting_runs(here / "runs")
    assert waiting.name == "before" and waiting.run_id == began.run_id and waiting.status == "finished"
    said: list[str] = []
    deliver_runs([run], said.append)
    assert said == [f"{run}: delivered to {shown(uri)}"]
    found = client.get_run(began.run_id)
    assert found.data.tags["best"] == "2" and found.info.end_time == 3000
    points = client.get_metric_history(began.run_id, "val_loss")
    assert [(each.step, each.value) for each in points] == [(1, 1.0), (2, 0.5)], "each once"
    assert [each.timestamp for each in client.get_metric_history(began.run_id, "val_top1")] == [1000, 2000]
    assert [file.path for file in client.list_artifacts(began.run_id)] == ["config.toml"]
    deliver_runs([run], said.append)
    assert said[1:] == [f"nothing to deliver in {run}"]
    with Tracker.start(None, None, {"lr": 1}, folder=run) as resumed:
        end_epoch(run, val_loss=0.25)
        resumed.sync()
    assert (resumed.run_id, resumed.uuid) == (began.run_id, "old")
    points = client.get_metric_history(began.run_id, "val_loss")
    assert [(each.step, each.value) for each in points] == [(1, 1.0), (2, 0.5), (3, 0.25)]


def test_an_older_versions_journal_that_was_delivered_does_not_wait(here: Path) -> None:
    run = here / "runs" / "one"
    old_journal(run, "http://server", "1" * 32, end=1_000_000)
    assert waiting_runs(here / "runs") == []
    (found,) = find_runs([str(run)])
    assert found.status == "finished" and found.experiment == "food" and found.start == 0.5
    assert found.params == {"lr": "1"} and found.curves["val/loss"] == {1: 1.0, 2: 0.5}
    (run / JOURNAL).rename(run / "tracking-1.jsonl")
    assert waiting_runs(here / "runs") == [] and run_of_folder(run).experiment is None
    set_aside(run, {"abandoned": "there is nothing"})


def test_a_journal_with_a_line_that_lacks_something_is_not_believed(tmp_path: Path) -> None:
    (tmp_path / JOURNAL).write_text('{"op": "start", "uuid": "old"}\n')
    with pytest.raises(ValueError, match=r"tracking\.jsonl lacks"):
        Record.load(tmp_path / RECORD)
    assert record_uuid(tmp_path) is None


def test_an_older_versions_journal_is_set_aside(tmp_path: Path) -> None:
    run = tmp_path / "run"
    old_journal(run, "http://server", None)
    (run / "tracking-1.jsonl").write_text("")
    set_aside(run, {"abandoned": "why"})
    assert sorted(path.name for path in run.glob("tracking*")) == [
        "tracking-1.jsonl",
        "tracking-2.json",
        "tracking-2.jsonl",
    ]
    aside = Record.load(run / "tracking-2.json")
    assert aside is not None and aside.uuid == "old" and aside.tags == {"host": "a", "best": "2", "abandoned": "why"}
    assert [row["time"] for row in aside.metrics] == [1000, 2000] and record_uuid(run) is None
    empty = Record.load(run / "tracking-1.json")
    assert empty is None
