"""`fasttrain ui`: MLflow's page on the local store, in a real process."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import socket
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from fasttrain.errors import UserError
from fasttrain.tracking.page import serve
from fasttrain.tracking.tracker import Tracker
from tests.support.patience import PATIENCE


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


@contextlib.contextmanager
def ui(here: Path) -> Iterator[tuple[subprocess.Popen[str], str, int]]:
    """Start `fasttrain ui` in a process of its own: the process, the address that it printed first, and its port."""
    port = free_port()
    process = subprocess.Popen(
        [sys.executable, "-m", "fasttrain", "ui", "--port", str(port)],
        cwd=here,
        env={**os.environ, "COLUMNS": "200"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        assert process.stdout is not None
        said = process.stdout.readline()
        address = re.search(r"http://127\.0\.0\.1:\d+\S*", said)
        assert address and str(port) in said, said
        yield process, address[0], port
    finally:
        if process.poll() is None:  # SIGKILL would leave MLflow's server behind
            process.send_signal(signal.SIGINT)
            process.communicate(timeout=PATIENCE)


@pytest.mark.full
def test_the_page_shows_runs_and_their_files_and_ends_with_ctrl_c(here: Path) -> None:
    (here / "run").mkdir()
    (here / "run" / "config.toml").write_text("epochs = 3\n")
    with Tracker.start("food", "r", {"lr": 0.1}, folder=here / "run") as tracker:
        tracker.log_artifacts([here / "run" / "config.toml"])
    with ui(here) as (process, address, port):
        page = address.partition("/#")[0]
        assert "MLflow" in urllib.request.urlopen(page, timeout=PATIENCE).read().decode()
        wanted = f"{page}/get-artifact?path=config.toml&run_uuid={tracker.run_id}"
        assert urllib.request.urlopen(wanted, timeout=PATIENCE).read() == b"epochs = 3\n"
        with pytest.raises(UserError, match="in use; give another --port"):
            serve(f"sqlite:///{here / 'mlflow.db'}", "127.0.0.1", port, print)
        process.send_signal(signal.SIGINT)
        _, error = process.communicate(timeout=PATIENCE)
    assert process.returncode == 130 and error == ""
    with socket.socket() as again:  # nothing of the server is left
        again.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        again.bind(("127.0.0.1", port))


@pytest.mark.slow
def test_the_printed_address_shows_the_newest_experiments_runs_in_a_browser(here: Path, browser: Any) -> None:
    for number, experiment in enumerate(("earlier", "food")):
        (here / experiment).mkdir()
        with Tracker.start(experiment, f"run-{number}-of-mine", {"lr": 0.1}, folder=here / experiment) as tracker:
            tracker.log_metrics({"top1": 0.5}, step=1)
    with ui(here) as (process, address, _):
        assert process.stdout is not None
        run = process.stdout.readline().removeprefix("newest run: ").strip()
        tab = browser.new_page(viewport={"width": 1400, "height": 900})
        tab.goto(address)
        tab.get_by_text("run-1-of-mine").first.wait_for(timeout=1000 * PATIENCE)
        assert not tab.get_by_text("run-0-of-mine").count()
        assert run == f"{address.partition('?')[0]}/runs/{tracker.run_id}?workflowType=machine_learning"
        tab.goto(run)
        tab.get_by_text("run-1-of-mine").first.wait_for(timeout=1000 * PATIENCE)
        if picture := os.environ.get("FASTTRAIN_PICTURES"):
            tab.screenshot(path=f"{picture}/mlflow.png")


def test_a_tracking_server_has_its_own_page() -> None:
    said: list[str] = []
    serve("https://someone:secret@mlflow.example", "127.0.0.1", free_port(), said.append)
    assert len(said) == 1 and "https://mlflow.example" in said[0] and "secret" not in said[0]


@pytest.mark.slow
def test_a_server_that_does_not_start_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "mlflow.db").write_text("no database")
    with pytest.raises(UserError, match=r"mlflow\.db ended: .+"):
        serve(f"sqlite:///{tmp_path / 'mlflow.db'}", "127.0.0.1", free_port(), print)


def test_a_host_that_this_machine_does_not_have_is_named_as_the_cause(here: Path) -> None:
    with pytest.raises(UserError, match=r"no.such.host.invalid:5000: .*; give another --host"):
        serve(f"sqlite:///{here / 'mlflow.db'}", "no.such.host.invalid", 5000, print)
