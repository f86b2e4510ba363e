"""One MLflow store (a server or a local SQLite file) and the one run in it that a journal is delivered to."""

from __future__ import annotations

import logging
import os
import re
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from fasttrain.tracking.journal import Entry

if TYPE_CHECKING:
    from mlflow.tracking import MlflowClient

# MLflow's own limits (mlflow.utils.validation), for what it refuses or silently cuts beyond them.
PARAM_LENGTH = 6000
TAG_LENGTH = 8000
KEY_LENGTH = 250

# A dead server must cost seconds (MLflow's defaults: 7 retries of 120 s); values set by the user win.
_ENVIRONMENT = {
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "5",
    "MLFLOW_HTTP_REQUEST_BACKOFF_FACTOR": "1",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
    "MLFLOW_DISABLE_TELEMETRY": "true",
}
_opening = threading.Lock()


def local_uri(folder: Path | None = None) -> str:
    """The SQLite store in `folder` (default: the working directory)."""
    return f"sqlite:///{(folder or Path.cwd()).resolve() / 'mlflow.db'}"


def is_remote(uri: str) -> bool:
    """Whether the store is reached over a network, and so may fail while this machine is well."""
    return urlsplit(uri).scheme in ("http", "https", "databricks", "databricks-uc")


def shown(uri: str) -> str:
    """The URI without user name and password, for people and logs."""
    return re.sub(r"//[^/@]*@", "//", uri)


def set_environment() -> None:
    """Sets MLflow's time-outs, retries and chatter for this process, where the user has not set them."""
    for name, value in _ENVIRONMENT.items():
        os.environ.setdefault(name, value)


class Store:
    """The run in one store. Every call may block for as long as MLflow's time-outs allow.

    Raises mlflow.exceptions.MlflowException, OSError or the database's own errors: the caller decides whether
    to go elsewhere.
    """

    def __init__(self, uri: str) -> None:
        # Alembic keeps process-wide state while it creates a database.
        with _opening:
            from mlflow.tracking import MlflowClient

            # Only now: MLflow configures its loggers when it is imported.
            for name in ("mlflow.store", "mlflow.tracking", "alembic"):
                logging.getLogger(name).setLevel(logging.WARNING)
            self.client: MlflowClient = MlflowClient(uri)
        self.uri = uri
        self.run_id = ""

    def open_run(self, start: Entry, run_id: str | None = None, tags: dict[str, str] | None = None) -> None:
        """Continues `run_id`; where the store lacks it, makes a run by the `start` entry, with `tags`."""
        if run_id and self._has(run_id):
            self.run_id = run_id
            return
        experiment = self._experiment(start["experiment"])
        run = self.client.create_run(experiment, start["time"], tags or {}, start["run_name"])
        self.run_id = run.info.run_id

    def deliver(self, entries: Sequence[Entry]) -> None:
        """Brings entries of one `op` into the run. Bringing the same ones again changes nothing."""
        op = entries[0]["op"]
        if op == "metrics":
            self._metrics(entries)
            return
        one = {"start": self._start, "tags": self._tags, "artifact": self._artifact, "finish": self._finish}[op]
        for entry in entries:
            one(entry)

    def check(self) -> None:
        """Raises what any other call would raise where the store does not answer or has lost the run."""
        self.client.get_run(self.run_id)

    def _has(self, run_id: str) -> bool:
        from mlflow.exceptions import MlflowException

        try:
            return bool(self.client.get_run(run_id).info.lifecycle_stage == "active")
        except MlflowException as error:
            if error.error_code == "RESOURCE_DOES_NOT_EXIST":
                return False
            raise

    def _experiment(self, name: str) -> str:
        from mlflow.exceptions import MlflowException

        found = self.client.get_experiment_by_name(name)
        if found is None:
            try:
                return str(self.client.create_experiment(name, self._artifact_location()))
            except MlflowException:  # another run may have been quicker
                found = self.client.get_experiment_by_name(name)
                if found is None:
                    raise
        if found.lifecycle_stage == "deleted":
            self.client.restore_experiment(found.experiment_id)
        return str(found.experiment_id)

    def _artifact_location(self) -> str | None:
        # Else MLflow puts ./mlruns into whatever folder the process happens to be in.
        if not self.uri.startswith("sqlite:///"):
            return None
        return (Path(self.uri.removeprefix("sqlite:///")).resolve().parent / "mlartifacts").as_uri()

    def _start(self, entry: Entry) -> None:
        from mlflow.entities import Param

        run = self.client.get_run(self.run_id)
        if run.info.status != "RUNNING":
            self.client.update_run(self.run_id, status="RUNNING")
        there = run.data.params
        new: list[Param] = []
        tags: dict[str, str] = dict(entry["tags"])
        for name, value in entry["params"].items():
            key, text = _key(name), _cut(value, PARAM_LENGTH)
            if key not in there:
                new.append(Param(key, text))
            elif there[key] != text:
                tags[f"changed.{name}"] = value
        # The client splits batches at the store's limits (100 params, 100 tags, 1,000 metrics).
        self.client.log_batch(self.run_id, params=new)
        self._tags({"tags": tags})

    def _metrics(self, entries: Sequence[Entry]) -> None:
        from mlflow.entities import Metric

        # Key, value, time and step are the primary key in MLflow's store: sent twice, they are there once.
        metrics = [
            Metric(_key(name), value, entry["time"], entry["step"])
            for entry in entries
            for name, value in entry["metrics"].items()
        ]
        self.client.log_batch(self.run_id, metrics=metrics)

    def _tags(self, entry: Entry) -> None:
        from mlflow.entities import RunTag

        tags = [RunTag(_key(name), _cut(value, TAG_LENGTH)) for name, value in entry["tags"].items()]
        self.client.log_batch(self.run_id, tags=tags)

    def _artifact(self, entry: Entry) -> None:
        self.client.log_artifact(self.run_id, entry["path"], entry["folder"])

    def _finish(self, entry: Entry) -> None:
        self.client.set_terminated(self.run_id, entry["status"], entry["time"])


def _key(name: str) -> str:
    """The name with what MLflow refuses in one (it allows letters, digits and `_-. :/`) replaced."""
    return re.sub(r"[^\w\-. :/]", "_", name)[:KEY_LENGTH]


def _cut(value: str, length: int) -> str:
    if len(value) <= length:
        return value
    note = f"… ({len(value)} characters)"
    return value[: length - len(note)] + note
