"""A real MLflow server that is killed, restarted, cut off, slow and replaced by nonsense: each entry arrives once."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import threading
import time
import tracemalloc
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from fasttrain.tracking import tracker as tracking
from fasttrain.tracking.names import epoch_metrics, final_metrics
from fasttrain.tracking.record import RECORD, Record, record_uuid
from fasttrain.tracking.store import UUID, Store
from fasttrain.tracking.sync import deliver_runs
from fasttrain.tracking.tracker import Tracker
from tests.reliability.conftest import Fault
from tests.support import warm
from tests.support.patience import PATIENCE, wait_until
from tests.support.runs import SMALL, arguments, paused, program
from tests.tracking.fault_proxy import FAULTS, Proxy
from tests.tracking.mlflow_processes import Server, delivered, end_epoch

Rows = Counter[tuple[str, int, str, int]]
"""Metrics as (name, step, value, time)."""


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """One for all tests here; each has an experiment of its own."""
    server = Server(tmp_path_factory.mktemp("server"))
    server.start()
    yield server
    server.kill()


@pytest.fixture
def proxy(server: Server) -> Iterator[Proxy]:
    with Proxy(server.port).serving() as proxy:
        yield proxy


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty working directory; a client that gives up, and tries again, sooner than it would for people."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.delenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", raising=False)
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "2")
    for name, seconds in {
        "_FIRST_RETRY_S": 0.02,
        "_RETRY_S": 0.2,
        "_FAILING_S": PATIENCE,
    }.items():
        monkeypatch.setattr(tracking, name, seconds)
    return tmp_path


def record_of(folder: Path) -> Record:
    record = Record.load(folder / RECORD)
    assert record is not None
    return record


def logged(folder: Path) -> Rows:
    """Return the values in the run's folder."""
    history = json.loads((folder / "history.json").read_text()) if (folder / "history.json").exists() else []
    times = record_of(folder).times
    rows = Counter(
        (name, each["epoch"], repr(value), times[str(each["epoch"])])
        for each in history
        for name, value in epoch_metrics(each).items()
    )
    if (path := folder / "evaluation.json").exists():
        said, written = json.loads(path.read_text()), int(path.stat().st_mtime * 1000)
        rows.update((name, len(history), repr(value), written) for name, value in final_metrics(said).items())
    return rows


def arrived(client: Any, run: Any) -> Rows:
    """Return the values in the store."""
    return Counter(
        (name, point.step, repr(point.value), point.timestamp)
        for name in run.data.metrics
        for point in client.get_metric_history(run.info.run_id, name)
    )


def only_run(uri: str, experiment: str) -> tuple[Any, Any]:
    """The client and the one run that the experiment has."""
    client = Store(uri).client
    (run,) = found(client, experiment)
    return client, run


def found(client: Any, experiment: str, **options: Any) -> list[Any]:
    """Return the runs of an experiment; ask again where the server had just closed the connection that was kept."""
    import mlflow

    for again in (True, False):
        try:
            number = client.get_experiment_by_name(experiment).experiment_id
            return list(client.search_runs([number], **options))
        except mlflow.exceptions.MlflowException as error:
            if not again or "Connection aborted" not in str(error):
                raise
    raise AssertionError


def assert_once(server: Server, experiment: str, folder: Path, status: str = "FINISHED") -> Any:
    client, run = only_run(server.uri, experiment)
    there, wanted = arrived(client, run), logged(folder)
    assert wanted and there == wanted, f"lost {wanted - there}, too many {there - wanted}"
    assert run.info.status == status
    return run


def artifacts(server: Server, run: Any) -> dict[str, bytes]:
    folder = server.folder / "artifacts" / run.info.experiment_id / run.info.run_id / "artifacts"
    return {path.name: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.full
def test_the_server_is_killed_and_restarted_at_random_moments(
    server: Server, here: Path, fault: Fault, monkeypatch: pytest.MonkeyPatch
) -> None:
    kills = fault.times(short=1, full=20)
    chance = random.Random(8)
    run_folder = here / "run"
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "20")
    step, stop = 0, threading.Event()

    def train() -> None:
        nonlocal step
        while not stop.is_set():
            step = end_epoch(run_folder, loss=1 / (step + 1), top1=step / 7, nan=float("nan"))
            tracker.sync()
            if step % 20 == 0:
                (run_folder / f"picture-{step}.png").write_bytes(b"picture" * 1000)
                tracker.log_artifacts([run_folder / f"picture-{step}.png"])
            time.sleep(0.02)

    waited = []
    params = {f"p{number}": number for number in range(150)}
    with Tracker.start("killed", "r", params, folder=run_folder, uri=server.uri) as tracker:
        training = threading.Thread(target=train)
        training.start()
        for number in range(kills):
            time.sleep(chance.random() * 0.8)
            server.kill()
            before = step
            wait_until(lambda: step > before + 20)  # noqa: B023
            server.start()
            began, goal = time.monotonic(), {entry.key for entry in tracker._record.entries()}
            wait_until(lambda: goal <= set(tracker._record.delivered))  # noqa: B023
            waited.append(time.monotonic() - began)
            if number == kills - 1:
                stop.set()
                training.join()
    run = assert_once(server, "killed", run_folder)
    assert len(run.data.params) == 150
    assert artifacts(server, run) == {f"picture-{at}.png": b"picture" * 1000 for at in range(20, step + 1, 20)}
    rows = sum(logged(run_folder).values())
    fault.seen(
        "MLflow's server killed in mid-run",
        "SIGKILL of the whole `mlflow server` (SQLite) at a random moment, restarted on its port while the run goes on",
        kills,
        measured=f"{rows:,} values, each there once, in one run; all there at most {max(waited):.1f} s after a restart",
    )


@pytest.mark.full
def test_requests_and_answers_are_lost_delayed_and_forged(
    server: Server, proxy: Proxy, here: Path, fault: Fault
) -> None:
    """Each kind of fault in turn, at random requests: the first ones to make the experiment and the run among them."""
    wanted = fault.times(short=len(FAULTS), full=500)
    chance = random.Random(8)
    kinds = list(FAULTS)
    lied: set[int] = set()
    turn = 0

    def policy(method: str, path: str) -> str | None:
        nonlocal turn
        if method == "PUT" and runs not in lied:  # "taken", says somebody of a file
            lied.add(runs)
            return "nothing with 200"
        share = 1 / 3 if turn < wanted else 0.0
        if chance.random() >= share:
            return None
        if turn % len(kinds) == 0:
            chance.shuffle(kinds)
        turn += 1
        return kinds[(turn - 1) % len(kinds)]

    proxy.policy, proxy.patience = policy, 2.5
    runs = 0
    while turn < wanted:
        runs += 1
        folder, name = here / f"run-{runs}", f"faults {runs}"
        folder.mkdir()
        (folder / "report.html").write_text(f"page {runs}")
        with Tracker.start(name, "r", {"lr": 0.1}, {"host": "a"}, folder=folder, uri=proxy.uri) as tracker:
            for step in range(1, 41):
                end_epoch(folder, loss=1 / step, top1=step / 7)
                tracker.sync()
                if step % 10 == 0:
                    wait_until(lambda: delivered(tracker))
            tracker.set_tags({"best": 3})
            wait_until(lambda: delivered(tracker))
            tracker.log_artifacts([folder / "report.html"])
        tracker._thread.join()
        if record_of(folder).missing():  # a file, set aside after three faults in a row
            proxy.policy = lambda method, path: None
            deliver_runs([folder], print)
            proxy.policy = policy
        run = assert_once(server, name, folder)
        assert run.data.params == {"lr": "0.1"} and run.data.tags["best"] == "3" and run.data.tags["host"] == "a"
        assert artifacts(server, run) == {"report.html": f"page {runs}".encode()}
    assert set(proxy.done) == set(FAULTS)
    fault.seen(
        "requests to MLflow's server lost, refused, delayed, answered with nonsense",
        f"a proxy does one of {len(FAULTS)} things to every third request: {', '.join(FAULTS)}",
        proxy.done.total(),
        measured=f"{runs} runs, every value, setting, tag and file there, once",
    )


def test_a_run_is_made_once_whatever_becomes_of_the_answer(
    server: Server, proxy: Proxy, here: Path, fault: Fault
) -> None:
    """The request that makes the run is the one that MLflow's API can't repeat."""
    times = fault.times(short=3, full=60)
    kinds = ("cut after", "half an answer", "late")
    chance = random.Random(8)
    for number in range(times):
        kind, left = kinds[number % 3], chance.randint(1, 2)

        def policy(method: str, path: str) -> str | None:
            nonlocal left
            if not path.endswith("/runs/create") or left == 0:
                return None
            left -= 1
            return kind  # noqa: B023

        proxy.policy, proxy.patience = policy, 60.0
        proxy.release.clear()
        before = proxy.done["late"]
        folder, name = here / f"run-{number}", f"made once {number}"
        with Tracker.start(name, "r", {}, folder=folder, uri=proxy.uri) as tracker:
            end_epoch(folder, loss=1.0)
            tracker.sync()
            wait_until(lambda: tracker.run_id is not None)
            proxy.release.set()  # the request that timed out is carried out only now
            made = 1 + proxy.done["late"] - before
            wait_until(lambda: len(every_run(server, name)) == made)  # noqa: B023
        run = assert_once(server, name, folder)
        twins = [each for each in every_run(server, name) if each.info.run_id != run.info.run_id]
        assert all(not each.data.metrics and each.info.lifecycle_stage == "deleted" for each in twins)
    fault.seen(
        "the answer to the request that makes MLflow's run is lost",
        f"the proxy treats `runs/create`, once or twice: {', '.join(kinds)}",
        times,
        measured="one run each; an empty twin that a slow server made later is deleted",
    )


def every_run(server: Server, experiment: str) -> list[Any]:
    """Deleted ones, too."""
    return found(Store(server.uri).client, experiment, run_view_type=3)


def test_training_goes_on_while_the_server_takes_its_time(
    server: Server, proxy: Proxy, here: Path, fault: Fault, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No answer comes before a hundred epochs are done; at full length, each of the first ones takes 30 s."""
    seconds = fault.times(short=3, full=30)
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "40")
    asked = threading.Event()
    go_on, slow = threading.Event(), 4

    def policy(method: str, path: str) -> str | None:
        nonlocal slow
        asked.set()
        go_on.wait()
        if slow > 0:
            slow -= 1
            time.sleep(seconds if slow == 0 or fault.full else 0)
        return None

    proxy.policy = policy
    run_folder = here / "run"
    with Tracker.start("slow", "r", {"lr": 1}, folder=run_folder, uri=proxy.uri) as tracker:
        assert asked.wait(60)
        for epoch in range(1, 101):
            end_epoch(run_folder, loss=1 / epoch)
            tracker.sync()
        (run_folder / "picture.png").write_bytes(b"picture")
        tracker.log_artifacts([run_folder / "picture.png"])
        tracker.set_tags({"done": epoch})
        assert proxy.seen.total() == 1 and tracker.run_id is None, "nothing waited for an answer"
        go_on.set()
        wait_until(lambda: delivered(tracker))
    run = assert_once(server, "slow", run_folder)
    assert run.data.tags["done"] == "100" and artifacts(server, run)
    fault.seen(
        "MLflow's server slow",
        f"a proxy answers after {seconds} s; a run ends 100 epochs, and logs a file and tags, before the first answer",
        4 if fault.full else 1,
        measured="100 epochs done during the first request",
    )


@pytest.mark.full
def test_a_training_that_is_stopped_in_an_outage_leaves_at_once_and_delivers_when_resumed(
    server: Server, proxy: Proxy, shard_folder: Path, here: Path, fault: Fault
) -> None:
    times = fault.times(short=1, full=6)
    for number in range(times):
        folder, experiment = here / str(number), f"stopped {number}"
        folder.mkdir()
        kind = ("never answered", "refused", "500")[number % 3]
        proxy.policy = lambda method, path: kind  # noqa: B023
        settings = {**SMALL, "data": shard_folder, "out": folder / "runs", "experiment": experiment}
        process = start(proxy.uri, folder, 4, **{**settings, "batch_size": 32, "epochs": 3, "save_every": 1})
        with paused(process, folder):
            process.send_signal(signal.SIGTERM)
        output, _ = process.communicate(timeout=PATIENCE)
        assert process.returncode == 75 and "Traceback" not in output, output
        (run_folder,) = (folder / "runs").iterdir()
        assert record_of(run_folder).run_id is None and record_of(run_folder).delivered == []
        proxy.policy = lambda method, path: None
        deliver_runs([folder / "runs"], print)
        assert_once(server, experiment, run_folder, "KILLED")
        if not fault.full:
            continue
        process = start(proxy.uri, folder, None, resume=run_folder)
        output, _ = process.communicate(timeout=PATIENCE)
        assert process.returncode == 0, output
        run = assert_once(server, experiment, run_folder)
        assert run.data.params["model"] == SMALL["model"] and run.data.metrics["val_best/epoch"] >= 1
        assert "report.html" in artifacts(server, run)
    fault.seen(
        "SIGTERM while MLflow's server is away",
        "`fasttrain train` in its second epoch, the server silent, refusing or failing in turn; with it back, "
        "`fasttrain runs --deliver`, then resumed",
        times,
        measured="exit code 75; all is there, once",
    )


def start(uri: str, folder: Path, pause_at: int | None, **settings: Any) -> subprocess.Popen[str]:
    return warm.Popen(
        [*program(pause_at, folder), "train", *arguments(**settings)],
        env={**os.environ, "MLFLOW_TRACKING_URI": uri, "MLFLOW_HTTP_REQUEST_TIMEOUT": "40", "OMP_NUM_THREADS": "1"},
        cwd=folder,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


LOGGER = """
import json, sys, time
from pathlib import Path
from fasttrain.tracking.tracker import Tracker
from tests.tracking.mlflow_processes import end_epoch
uri, last, folder = sys.argv[1], int(sys.argv[2]), Path("run")
with Tracker.start("logger killed", "r", {"lr": 0.1}, folder=folder, uri=uri) as tracker:
    history = folder / "history.json"
    done = json.loads(history.read_text()) if history.exists() else []
    history.write_text(json.dumps(done := done[: len(done) // 10 * 10]))  # as its last checkpoint, ten epochs apart
    tracker.sync()
    for epoch in range(len(done), last):
        end_epoch(folder, loss=epoch / 7, nan=float("nan"))
        tracker.sync()
        time.sleep(0.003)
"""


def test_a_training_that_is_killed_while_it_delivers(server: Server, here: Path, fault: Fault) -> None:
    kills = fault.times(short=1, full=20)
    chance = random.Random(8)
    command = [sys.executable, "-c", LOGGER, server.uri]
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    path = here / "run" / RECORD
    for _ in range(kills):
        before = set(record_of(here / "run").delivered) if path.exists() else set()
        process = subprocess.Popen([*command, "1000000"], cwd=here, env=environment)
        wait_until(lambda: path.exists() and len(set(record_of(here / "run").delivered) - before) > 2)  # noqa: B023
        time.sleep(chance.random() * 0.3)
        process.kill()
        process.wait()
    seen = len(json.loads((here / "run" / "history.json").read_text()))
    subprocess.run([*command, str(seen + 50)], cwd=here, env=environment, check=True)
    client, run = only_run(server.uri, "logger killed")
    there, wanted = arrived(client, run), logged(here / "run")
    values = Counter((name, step, value) for name, step, value, _ in there.elements())
    assert values == Counter((name, step, value) for name, step, value, _ in wanted.elements()), "each there once"
    assert Counter(step for name, step, _ in values if name == "nan") == Counter(range(1, seen + 51))
    assert run.data.params == {"lr": "0.1"} and run.info.status == "FINISHED"
    fault.seen(
        "a process killed while it delivers to MLflow",
        "SIGKILL of the process that trains, at a random moment of its delivery, and a resumed one",
        kills,
        measured=f"{values.total():,} values, each there once",
    )


@pytest.mark.parametrize("scheme", ["sqlite", "file"])
def test_killed_between_the_stores_commit_and_our_note_of_it(
    scheme: str, server: Server, here: Path, fault: Fault, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A store in files has what is sent twice twice; the folder of such a kill lacks the last mark."""
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    if scheme == "sqlite":
        shutil.copy(server.folder / "mlflow.db", here / "mlflow.db")
    uri = f"sqlite:///{here / 'mlflow.db'}" if scheme == "sqlite" else f"file://{here / 'mlruns'}"
    times = fault.times(short=3, full=50)
    chance = random.Random(8)
    for number in range(times):
        folder = here / str(number)
        with Tracker.start(f"unnoted {number}", "r", {"lr": 0.1}, {"a": 1}, folder=folder, uri=uri) as tracker:
            for step in range(40):
                end_epoch(folder, loss=step / 7, nan=float("nan"))
                tracker.sync()
        record = record_of(folder)
        record.delivered = chance.sample(record.delivered, chance.randrange(len(record.delivered)))
        if number % 3 == 0:
            record.run_id = None
        record.save()
        deliver_runs([folder], print)
        client, run = only_run(uri, f"unnoted {number}")
        assert arrived(client, run) == logged(folder)
        assert (run.info.status, run.data.params) == ("FINISHED", {"lr": "0.1"})
    fault.seen(
        f"a kill between MLflow's commit and our note of it, {'SQLite' if scheme == 'sqlite' else 'files'}",
        "a random part of the marks taken out of `tracking.json`, at times the run's id, too, and delivered again",
        times,
        measured="each value there once",
    )


INTERRUPTED = """
import os, signal, sys, time
from pathlib import Path
from fasttrain.stop import StopRequest
from fasttrain.tracking import tracker as tracking
from fasttrain.tracking.tracker import Tracker
tracking._KILLED_S, Tracker.finish.__defaults__ = 3600.0, ("FINISHED", 3600.0)  # what a server that answers may take
with StopRequest() as stop, Tracker.start("e", "r", {}, folder=Path("run"), uri=sys.argv[1]) as tracker:
    tracker.log_metrics({"loss": 1.0}, 1)
    Path("asked").touch()
    os.kill(os.getpid(), signal.SIGINT)
    while stop.requested is None:  # two that come at once are one
        time.sleep(0.001)
    os.kill(os.getpid(), signal.SIGINT)
"""


def test_ctrl_c_twice_leaves_though_the_server_never_answers(
    server: Server, proxy: Proxy, here: Path, fault: Fault
) -> None:
    proxy.policy = lambda method, path: "never answered"
    environment = {**os.environ, "MLFLOW_HTTP_REQUEST_TIMEOUT": "3600"}
    times = fault.times(short=1, full=10)
    for _ in range(times):
        done = subprocess.run(
            [sys.executable, "-c", INTERRUPTED, proxy.uri],
            cwd=here,
            env=environment,
            capture_output=True,
            text=True,
            timeout=PATIENCE,
            check=False,
        )
        # 1: Python forgets that it was interrupted where another thread, which imports MLflow, calls exec() after it.
        assert done.returncode in (-signal.SIGINT, 1) and "\nKeyboardInterrupt" in done.stderr, done.stderr
        assert "--deliver" in done.stderr, "what is kept, and how to deliver it"
    kinds = [entry.kind for entry in record_of(here / "run").missing()]
    assert kinds == ["params", "tags", "metrics", "status"], "a metric is logged once"
    fault.seen(
        "Ctrl-C twice while MLflow's server never answers",
        "two SIGINTs in a row, a server that takes requests and is silent, a time-out of an hour",
        times,
        measured="the process ended, all of it in its folder",
    )


def test_a_long_outage_costs_no_memory(here: Path, fault: Fault) -> None:
    """While a server is away, only the time of each epoch is kept in memory: the rest is read when it is back."""
    epochs = fault.times(short=100, full=1000)
    folder = here / "run"
    tracker = Tracker.start("e", "r", {}, folder=folder, uri="http://127.0.0.1:9")
    wait_until(lambda: tracker._failures > 0)
    end_epoch(folder, loss=1.0)
    tracker.sync()
    tracemalloc.start()
    for epoch in range(1, epochs):
        end_epoch(folder, loss=1 / epoch, top1=0.5)
        tracker.sync()
    # A try in the background reads all of the history, and lets it go: what is kept shows between two tries.
    wait_until(lambda: tracemalloc.get_traced_memory()[0] < 1_000_000)
    grown, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    tracker.finish(timeout=0)
    assert len(record_of(folder).missing()) == epochs + 3
    size = (folder / RECORD).stat().st_size
    fault.seen(
        "MLflow's server away for as many epochs as a run may have",
        "epochs end while every connection is refused",
        epochs,
        measured=f"memory grew by {grown / 1e3:,.0f} kB, tracking.json to {size / 1e3:,.0f} kB",
    )


def test_the_tag_that_makes_a_run_one(server: Server, here: Path) -> None:
    with Tracker.start("tagged", "r", {}, folder=here / "run", uri=server.uri):
        pass
    _, run = only_run(server.uri, "tagged")
    assert run.data.tags[UUID] == record_uuid(here / "run")
