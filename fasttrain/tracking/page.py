"""Serve MLflow's web page for the store that runs are tracked in."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable, Mapping
from typing import IO, Any

from fasttrain.errors import UserError
from fasttrain.machine import end_all, start_apart
from fasttrain.sockets import bound_socket
from fasttrain.stop import StopRequest
from fasttrain.tracking.store import artifact_location, home_for_mlflow, is_remote, set_environment, shown

_GRACE_S = 5.0
_TRAINING = "?workflowType=machine_learning"


def serve(uri: str, host: str, port: int, say: Callable[[str], None]) -> None:
    """Run `mlflow server` for the store at `uri` until Ctrl-C or SIGTERM.

    `say` receives the page's address as soon as the page answers. If `uri` is that of a tracking server, nothing is
    started, because the server has its own page, whose address `say` receives. Raises KeyboardInterrupt on Ctrl-C,
    SystemExit(143) on SIGTERM, and UserError if the address can't be used or the started server ends by itself.
    """
    if is_remote(uri):
        say(f"the runs are tracked by a server, which has its own page: {shown(uri)}")
        return
    bound_socket(host, port).close()  # fails now, and with a plain reason, if the address can't be used
    set_environment()
    command = ["server", "--backend-store-uri", uri, "--host", host, "--port", str(port), "--workers", "1"]
    if (artifacts := artifact_location(uri)) is not None:
        command += ["--artifacts-destination", artifacts]
    page = f"http://{'127.0.0.1' if host == '0.0.0.0' else host}:{port}"
    with tempfile.TemporaryFile() as log, StopRequest() as stop:
        # In its own session the server doesn't receive Ctrl-C, so it prints no stack trace.
        server = start_apart(
            [sys.executable, "-m", "mlflow", *command],
            env={"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false", **os.environ, **home_for_mlflow()},
            stdout=log,
            stderr=subprocess.STDOUT,
        )
        try:
            reported = False
            while not stop.requested:
                if server.poll() is not None:
                    raise UserError(f"MLflow's server on {shown(uri)} ended: {_last_line(log)}")
                if not reported and (reported := _answers(page)):
                    experiment, run = _addresses(page)
                    say(f"MLflow: {experiment} (Ctrl-C ends it), on {shown(uri)}")
                    if run is not None:
                        say(f"newest run: {run}")
                time.sleep(0.2)
        finally:
            end_all(server, _GRACE_S)
    if stop.requested is signal.SIGINT:
        raise KeyboardInterrupt
    raise SystemExit(128 + signal.SIGTERM)


def _answers(page: str) -> bool:
    try:
        with urllib.request.urlopen(f"{page}/health", timeout=2) as answer:
            return bool(answer.status == 200)
    except OSError:
        return False


def _addresses(page: str) -> tuple[str, str | None]:
    """Return the addresses of the newest run's experiment and of the run itself, or `page` and None without runs.

    They ask for MLflow's pages for model training. Without this, MLflow 3 shows those for generative AI.
    """
    newest = {"max_results": 1, "order_by": ["attributes.start_time DESC"]}
    try:
        experiments = _post(page, "experiments/search", {"max_results": 1000}).get("experiments", [])
        ids = [each["experiment_id"] for each in experiments]
        runs = _post(page, "runs/search", {"experiment_ids": ids, **newest}).get("runs", [])
    except (OSError, ValueError):
        return page, None
    if not runs:
        return page, None
    experiment, run = (runs[0]["info"][name] for name in ("experiment_id", "run_id"))
    address = f"{page}/#/experiments/{experiment}"
    return address + _TRAINING, f"{address}/runs/{run}{_TRAINING}"


def _post(page: str, endpoint: str, values: Mapping[str, Any]) -> dict[str, Any]:
    """Send `values` to an endpoint of MLflow's REST API and return the response."""
    headers = {"Content-Type": "application/json"}
    request = urllib.request.Request(f"{page}/api/2.0/mlflow/{endpoint}", json.dumps(values).encode(), headers)
    with urllib.request.urlopen(request, timeout=10) as answer:
        found: dict[str, Any] = json.load(answer)
        return found


def _last_line(log: IO[bytes]) -> str:
    log.seek(0)
    lines = log.read().decode(errors="replace").split("\n")
    return next((line.strip() for line in reversed(lines) if line.strip()), "it printed nothing")
