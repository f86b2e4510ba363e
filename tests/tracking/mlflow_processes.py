"""Helpers of the tracking tests: an MLflow server that can be killed and restarted, a Python that can be."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import urllib.request
from dataclasses import dataclass
from pathlib import Path

from fasttrain.files import atomic_write_bytes, make_folder
from fasttrain.tracking.tracker import Tracker
from tests.support.patience import wait_until

FIRST_RUN = """
import sys
from pathlib import Path
from fasttrain.tracking import tracker as tracking
from fasttrain.tracking.tracker import Tracker
tracking.FINISH_TIMEOUT = 600  # MLflow makes a database, which takes long on a busy machine
assert "mlflow" not in sys.modules
with Tracker.start("first", "r", {"lr": 0.1}, folder=Path("run")) as tracker:
    tracker.log_metrics({"loss": 1.0}, 1)
assert tracker.run_id
"""


def end_epoch(folder: Path, **values: float) -> int:
    """Add an epoch to the folder's `history.json`, as training does, and return its number."""
    path = folder / "history.json"
    history = json.loads(path.read_text()) if path.exists() else []
    history.append({"epoch": len(history) + 1, **values})
    make_folder(folder)
    atomic_write_bytes(path, json.dumps(history).encode())
    return len(history)


def delivered(tracker: Tracker) -> bool:
    """Return whether the store has everything in the folder."""
    return not tracker._sync.missing()


@dataclass(frozen=True)
class FirstRun:
    """The first run ever in a folder, by a process of its own."""

    folder: Path
    process: subprocess.CompletedProcess[str]


def run_python(script: str, folder: Path) -> subprocess.CompletedProcess[str]:
    places = [str(Path(__file__).parents[2]), str(Path(__file__).parent)]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(places)}
    environment.pop("MLFLOW_TRACKING_URI", None)
    return subprocess.run(
        [sys.executable, "-c", script], env=environment, cwd=folder, capture_output=True, text=True, check=False
    )


class Server:
    """`mlflow server` on 127.0.0.1, in a process group of its own."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        self.uri = f"http://127.0.0.1:{self.port}"
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        self.process = subprocess.Popen(
            [
                sys.executable,
                *(
                    "-m",
                    "mlflow",
                    "server",
                    "--host",
                    "127.0.0.1",
                    "--port",
                    str(self.port),
                    "--workers",
                    "1",
                ),
                *("--backend-store-uri", f"sqlite:///{self.folder / 'mlflow.db'}"),
                *("--artifacts-destination", str(self.folder / "artifacts")),
            ],
            cwd=self.folder,
            # Its job queue, which nothing here uses, makes a start three times as long.
            env={**os.environ, "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"},
            stdout=(self.folder / "server.log").open("ab"),
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        wait_until(self._answers, 0.1)

    def kill(self) -> None:
        if self.process is not None:
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()
            self.process = None

    def _answers(self) -> bool:
        assert self.process is not None
        assert self.process.poll() is None, (self.folder / "server.log").read_text()
        try:
            with urllib.request.urlopen(f"{self.uri}/health", timeout=10) as answer:
                return bool(answer.status == 200)
        except OSError:
            return False
