"""A real MLflow server that works, dies in mid-run, comes back; servers that never answer. Nothing is lost."""

from __future__ import annotations

import json
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from mlflow_processes import Server, wait_until

from fasttrain.tracking.mlflow import Tracker
from fasttrain.tracking.store import Store

pytestmark = pytest.mark.usefixtures("here")


def steps(client: Any, run_id: str | None, name: str) -> list[tuple[int, float]]:
    return [(point.step, point.value) for point in client.get_metric_history(run_id, name)]


def delivered(tracker: Tracker, entries: int) -> bool:
    mark = tracker._journal.delivered
    return mark is not None and mark.entries >= entries


@pytest.fixture
def mute() -> Iterator[str]:
    """The URI of a server that takes connections and never answers."""
    with socket.create_server(("127.0.0.1", 0), backlog=50) as listening:
        yield f"http://127.0.0.1:{listening.getsockname()[1]}"


def test_a_server_that_dies_in_mid_run_costs_nothing(
    here: Path, client: Any, server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", server.uri)
    figure = here / "figure.png"
    figure.write_bytes(b"png")
    said: list[str] = []
    params = {f"p{number}": number for number in range(120)}
    with Tracker.start("e", "r", params, {"host": "a"}, journal=here / "run", report=said.append) as tracker:
        tracker.log_metrics({"loss": 0.0}, 0)
        tracker.log_artifact(figure)
        wait_until(lambda: delivered(tracker, 3), 60)
        assert tracker.uri == server.uri
        on_server = tracker.run_id
        remote = Store(server.uri).client
        assert steps(remote, on_server, "loss") == [(0, 0.0)]
        assert [file.path for file in remote.list_artifacts(on_server)] == ["figure.png"]
        assert len(remote.get_run(on_server).data.params) == 120
        server.kill()
        for step in range(1, 30):
            tracker.log_metrics({"loss": float(step)}, step)
        wait_until(lambda: tracker.uri != server.uri and delivered(tracker, 32), 60)
        server.start()
    assert len(said) == 1
    assert "\n" not in said[0]
    assert server.uri in said[0]
    assert "mlflow.db" in said[0]
    run = client.get_run(tracker.run_id)
    assert run.info.status == "FINISHED"
    assert len(run.data.params) == 120
    assert run.data.tags["host"] == "a"
    assert str(on_server) in run.data.tags["fasttrain.replaces"]
    assert steps(client, tracker.run_id, "loss") == [(step, float(step)) for step in range(30)]
    assert [file.path for file in client.list_artifacts(tracker.run_id)] == ["figure.png"]
    left = remote.get_run(on_server)
    assert left.info.status == "FINISHED"
    assert left.data.tags["fasttrain.continued_in"] == tracker.uri

    # Resumed, it stays where its history is, though the server is back.
    with Tracker.start("e", "r", params, journal=here / "run", report=said.append) as resumed:
        resumed.log_metrics({"loss": 30.0}, 30)
    assert resumed.run_id == tracker.run_id
    assert steps(client, tracker.run_id, "loss") == [(step, float(step)) for step in range(31)]
    assert len(said) == 1


def test_a_server_that_is_not_there_is_reported_once(here: Path, client: Any) -> None:
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        uri = f"http://user:secret@127.0.0.1:{closed.getsockname()[1]}"
    said: list[str] = []
    with Tracker.start("e", "r", {"lr": 0.1}, uri=uri, journal=here / "run", report=said.append) as tracker:
        for step in range(10):
            tracker.log_metrics({"loss": float(step)}, step)
    assert len(said) == 1
    assert "Connection refused" in said[0]
    assert "secret" not in said[0] + (here / "run" / "tracking.jsonl").read_text()
    run = client.get_run(tracker.run_id)
    assert (run.info.status, run.data.params) == ("FINISHED", {"lr": "0.1"})
    assert steps(client, tracker.run_id, "loss") == [(step, float(step)) for step in range(10)]


def test_training_does_not_wait_for_a_server_that_never_answers(
    here: Path, client: Any, mute: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "2")
    said: list[str] = []
    with Tracker.start("e", "r", {}, uri=mute, journal=here / "run", report=said.append) as tracker:
        for step in range(1000):
            tracker.log_metrics({"loss": float(step)}, step)
        assert (tracker.run_id, said) == (None, [])  # all logged while the server is still being waited for
    assert len(said) == 1
    assert steps(client, tracker.run_id, "loss") == [(step, float(step)) for step in range(1000)]
    assert client.get_run(tracker.run_id).info.status == "FINISHED"


def test_the_wait_at_the_end_is_bounded(here: Path, mute: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "1")
    said: list[str] = []
    tracker = Tracker.start("e", "r", {}, uri=mute, journal=here / "run", report=said.append)
    tracker.log_metrics({"loss": 1.0}, 1)
    tracker.finish(timeout=0.2)
    assert len(said) == 1
    journal = here / "run" / "tracking.jsonl"
    assert str(journal) in said[0]
    kept = [json.loads(line) for line in journal.read_text().splitlines()]
    assert [entry["op"] for entry in kept] == ["start", "metrics", "finish"]
    tracker._thread.join()


def test_a_run_deleted_on_the_server_goes_on_locally(here: Path, client: Any, tmp_path: Path) -> None:
    other = f"sqlite:///{tmp_path / 'other.db'}"
    (tmp_path / "other.db").write_bytes((here / "mlflow.db").read_bytes())
    said: list[str] = []
    with Tracker.start("e", "r", {"lr": 1}, uri=other, journal=here / "run", report=said.append) as tracker:
        tracker.log_metrics({"loss": 0.0}, 0)
        wait_until(lambda: delivered(tracker, 2), 60)
        Store(other).client.delete_run(tracker.run_id)
        tracker.log_metrics({"loss": 1.0}, 1)
    assert len(said) == 1
    assert tracker.uri == f"sqlite:///{here / 'mlflow.db'}"
    assert steps(client, tracker.run_id, "loss") == [(0, 0.0), (1, 1.0)]
