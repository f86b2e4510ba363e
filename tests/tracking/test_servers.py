"""A real MLflow server that works, dies in mid-run, comes back; servers that never answer. Nothing is lost."""

from __future__ import annotations

import socket
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from mlflow_processes import Server, delivered, end_epoch

from fasttrain.errors import UserError
from fasttrain.tracking import tracker as tracking
from fasttrain.tracking.record import RECORD, Record
from fasttrain.tracking.runs import list_runs, waiting_runs
from fasttrain.tracking.store import Store
from fasttrain.tracking.sync import deliver_runs
from fasttrain.tracking.tracker import Tracker
from tests.support.patience import PATIENCE, wait_until

pytestmark = pytest.mark.usefixtures("here")


def steps(client: Any, run_id: str | None, name: str) -> list[tuple[int, float]]:
    return [(point.step, point.value) for point in client.get_metric_history(run_id, name)]


def lacks(folder: Path) -> int:
    """How many entries the store of the run in `folder` lacks, by what lies there."""
    record = Record.load(folder / RECORD)
    assert record is not None
    return len(record.missing())


@pytest.fixture(autouse=True)
def eager(monkeypatch: pytest.MonkeyPatch) -> None:
    """It asks again soon, and a run's end waits for as long as a busy machine takes."""
    for name, seconds in {"_FIRST_RETRY_S": 0.02, "_RETRY_S": 0.2, "_FAILING_S": PATIENCE}.items():
        monkeypatch.setattr(tracking, name, seconds)


@contextmanager
def given_up_soon() -> Iterator[None]:
    """A run's end does not wait for a store that is away."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tracking, "_FAILING_S", 0.5)
        yield


@pytest.fixture
def mute() -> Iterator[str]:
    """The URI of a server that takes connections and never answers."""
    with socket.create_server(("127.0.0.1", 0), backlog=50) as listening:
        yield f"http://127.0.0.1:{listening.getsockname()[1]}"


@pytest.fixture
def closed() -> str:
    """A URI where nobody listens."""
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        return f"http://user:secret@127.0.0.1:{closed.getsockname()[1]}"


@pytest.mark.slow
@pytest.mark.full
def test_a_server_that_dies_in_mid_run_and_comes_back_has_everything(
    here: Path, server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", server.uri)
    figure = here / "run" / "figure.png"
    said: list[str] = []
    params = {f"p{number}": number for number in range(120)}
    with Tracker.start("e", "r", params, {"host": "a"}, folder=here / "run", report=said.append) as tracker:
        end_epoch(here / "run", loss=1.0)
        tracker.sync()
        wait_until(lambda: delivered(tracker))
        on_server = tracker.run_id
        server.kill()
        for step in range(2, 31):
            end_epoch(here / "run", loss=float(step))
            tracker.sync()
        figure.write_bytes(b"png")
        tracker.log_artifacts([figure])
        wait_until(lambda: len(said) == 1)
        server.start()
        wait_until(lambda: delivered(tracker))
    assert (tracker.run_id, tracker.uri) == (on_server, server.uri)
    assert len(said) == 2 and "\n" not in said[0]
    assert f"{server.uri} fails" in said[0] and str(here / "run") in said[0]
    assert said[1] == f"MLflow: {server.uri} works again and has everything"
    remote = Store(server.uri).client
    run = remote.get_run(on_server)
    assert run.info.status == "FINISHED" and len(run.data.params) == 120 and run.data.tags["host"] == "a"
    assert steps(remote, on_server, "loss") == [(step, float(step)) for step in range(1, 31)]
    assert [file.path for file in remote.list_artifacts(on_server)] == ["figure.png"]
    assert lacks(here / "run") == 0

    # A resumed run goes on there, even where another store is configured by now.
    monkeypatch.delenv("MLFLOW_TRACKING_URI")
    with Tracker.start("e", "r", params, folder=here / "run", report=said.append) as resumed:
        end_epoch(here / "run", loss=31.0)
        resumed.sync()
    assert resumed.run_id == on_server
    assert steps(remote, on_server, "loss") == [(step, float(step)) for step in range(1, 32)]
    assert len(said) == 2


@pytest.mark.slow
def test_a_run_that_found_no_server_is_delivered_by_command(
    here: Path, client: Any, closed: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    said: list[str] = []
    (here / "runs" / "r").mkdir(parents=True)
    (here / "runs" / "r" / "config.toml").write_text("epochs = 3\n")
    folder = here / "runs" / "r"
    with (
        given_up_soon(),
        Tracker.start("e", "r", {"lr": 0.1}, uri=closed, folder=folder, report=said.append) as tracker,
    ):
        for step in range(1, 11):
            end_epoch(folder, loss=float(step))
            tracker.sync()
        tracker.log_artifacts([folder / "config.toml"])
        wait_until(lambda: len(said) == 1)
    tracker._thread.join()
    assert tracker.run_id is None
    assert "Connection refused" in said[0] and f"fasttrain runs --deliver {folder}" in said[-1]
    assert "lacks 14 entries" in said[-1], "settings, tags, ten epochs, a file and the end"
    assert "secret" not in "".join(said) + (folder / RECORD).read_text()
    (waiting,) = waiting_runs(Path("runs"))
    assert (waiting.name, waiting.status, waiting.experiment, waiting.waiting) == ("r", "finished", "e", 14)

    with pytest.raises(UserError, match=r"runs/r: http://127.*refused.*try again later"):
        deliver_runs([Path("runs")], said.append)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{here / 'mlflow.db'}")
    (here / "runs").rename(here / "moved")
    said.clear()
    deliver_runs([Path("moved")], said.append)
    assert said == [f"moved/r: delivered to sqlite:///{here / 'mlflow.db'}"]
    run = list_runs(experiment="e")[0]
    assert run.status == "finished" and run.params == {"lr": "0.1"}
    assert steps(client, run.run_id, "loss") == [(step, float(step)) for step in range(1, 11)]
    assert [file.path for file in client.list_artifacts(run.run_id)] == ["config.toml"]
    deliver_runs([Path("moved")], said.append)
    assert said[1:] == ["nothing to deliver in moved"] and waiting_runs(Path("moved")) == []
    with pytest.raises(UserError, match="nowhere: there is no such folder"):
        deliver_runs([Path("nowhere")], said.append)


@pytest.mark.slow
def test_the_next_run_beside_it_delivers_what_waits(
    here: Path, server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    server.kill()
    said: list[str] = []
    with given_up_soon():
        for name in ("one", "two"):
            folder = here / "runs" / name
            with Tracker.start("e", name, {}, uri=server.uri, folder=folder, report=said.append) as tracker:
                tracker.log_metrics({"loss": 1.0}, 1)
        with Tracker.start("e", "elsewhere", {}, uri="http://127.0.0.1:9", folder=here / "runs" / "elsewhere"):
            pass
    server.start()
    said.clear()
    with Tracker.start("e", "three", {}, uri=server.uri, folder=here / "runs" / "three", report=said.append):
        wait_until(lambda: len(said) == 2)
    assert [line.split(", ")[1] for line in said] == [str(here / "runs" / name) for name in ("one", "two")]
    assert sorted(run.name for run in list_runs(server.uri)) == ["one", "r", "three", "two"], "r is the fixture's"
    assert [run.name for run in waiting_runs(here / "runs")] == ["elsewhere"]


@pytest.mark.slow
def test_training_does_not_wait_for_a_server_that_never_answers(here: Path, mute: str) -> None:
    said: list[str] = []
    tracker = Tracker.start("e", "r", {}, uri=mute, folder=here / "run", report=said.append)
    for _ in range(200):
        end_epoch(here / "run", loss=1.0)
        tracker.sync()
    assert (tracker.run_id, said) == (None, [])  # all done while the server is still being waited for
    tracker.finish(timeout=0.2)
    assert len(said) == 1 and "lacks 203 entries" in said[0] and str(here / "run") in said[0]
    record = Record.load(here / "run" / RECORD)
    assert record is not None and record.status == "FINISHED"
    kinds = [entry.kind for entry in record.missing()]
    assert kinds == ["params", "tags", *["metrics"] * 200, "status"]


def test_asking_for_the_run_of_a_silent_server_costs_its_time_once(here: Path, mute: str) -> None:
    tracker = Tracker.start("e", "r", {}, uri=mute, folder=here / "run")
    assert tracker.wait_for_run(0.1) is None and tracker.wait_for_run(sys.maxsize / 1e10) is None
    tracker.finish("KILLED", timeout=0.1)


def test_only_one_process_at_a_time_delivers(here: Path, mute: str) -> None:
    said: list[str] = []
    tracker = Tracker.start("e", "r", {}, uri=mute, folder=here / "run")
    deliver_runs([here / "run"], said.append)
    assert said == [f"{here / 'run'}: not delivered: the run is still training, and delivers its own entries"]
    tracker.finish("KILLED", timeout=0.1)


def test_a_run_deleted_in_its_store_is_made_anew_with_everything(here: Path, client: Any) -> None:
    with Tracker.start("e", "r", {"lr": 1}, folder=here / "run") as tracker:
        tracker.log_metrics({"loss": 0.0}, 0)
        wait_until(lambda: delivered(tracker))
        deleted = tracker.run_id
        client.delete_run(deleted)
        tracker.log_metrics({"loss": 1.0}, 1)
    assert tracker.run_id not in (None, deleted)
    run = client.get_run(tracker.run_id)
    assert run.info.status == "FINISHED" and run.data.params == {"lr": "1"}
    assert run.data.tags["fasttrain.continues"] == deleted
    assert steps(client, tracker.run_id, "loss") == [(0, 0.0), (1, 1.0)]


def test_what_a_healthy_store_refuses_is_set_aside_told_and_tried_again(here: Path, client: Any) -> None:
    """An artifacts folder that can't be made: the rest must not wait for it."""
    said: list[str] = []
    figure = here / "run" / "figure.png"
    (here / "mlartifacts").write_text("a file where the folder should be")
    with Tracker.start("e", "r", {}, folder=here / "run", report=said.append) as tracker:
        figure.write_bytes(b"png")
        tracker.log_artifacts([figure])
        wait_until(lambda: any("figure.png can't be logged" in line for line in said))
        tracker.log_metrics({"loss": 1.0}, 1)
    assert client.get_run(tracker.run_id).data.metrics == {"loss": 1.0}
    assert any("figure.png can't be logged" in line for line in said)
    assert not any("fails (" in line for line in said), "a store that refuses a file is not away"
    assert lacks(here / "run") == 1 and "lacks 1 entry" in said[-1]
    with pytest.raises(UserError, match="refuses 1 entry"):
        deliver_runs([here / "run"], said.append)
    (here / "mlartifacts").unlink()
    deliver_runs([here / "run"], said.append)
    assert [file.path for file in client.list_artifacts(tracker.run_id)] == ["figure.png"]
    assert lacks(here / "run") == 0
