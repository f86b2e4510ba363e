"""What the tracking tests share: an MLflow server that can be killed and restarted, a Python that can be."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import urllib.request
from dataclasses import dataclass
from pathlib import Path

from tests.support.patience import wait_until

FIRST_RUN = """
import sys
from pathlib import Path
from fasttrain.tracking import mlflow as tracking
from fasttrain.tracking.mlflow import Tracker
tracking.FINISH_TIMEOUT = 600  # MLflow makes a database, which takes long on a busy machine
assert "mlflow" not in sys.modules
with Tracker.start("first", "r", {"lr": 0.1}, journal=Path("run")) as tracker:
    tracker.log_metrics({"loss": 1.0}, 1)
assert tracker.run_id
"""


@dataclass(frozen=True)
class FirstRun:
    """The first run ever in a folder, by a process of its own."""

    folder: Path
    process: subprocess.CompletedProcess[str]


def run_python(script: str, folder: Path) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
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
