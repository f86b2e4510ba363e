"""One MLflow store (a server or a local SQLite file) and the one run in it that a journal is delivered to."""

from __future__ import annotations

import logging
import os
import re
import sys
import tempfile
import threading
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from fasttrain.tracking.database import make_database
from fasttrain.tracking.journal import Entry

if TYPE_CHECKING:
    from mlflow.entities import Metric, Run
    from mlflow.tracking import MlflowClient

# MLflow's own limits (mlflow.utils.validation), for what it refuses or silently cuts beyond them.
PARAM_LENGTH = 6000
TAG_LENGTH = 8000
KEY_LENGTH = 250

UUID = "fasttrain.uuid"
"""The tag that a run is known by, whatever became of the answer to the request that made it."""

# Whoever delivers tries again by itself: MLflow's own retries (7 by default) send a `create_run` twice, whose answer
# was lost. A server may take half a minute to answer. Values set by the user win.
_ENVIRONMENT = {
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "40",
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
    bare = re.sub(r"//[^?#\s]*@", "//", uri)
    return re.sub(r"([?&](?:\w*password|\w*token)=)[^&#\s]*", r"\1…", bare)


def set_environment() -> None:
    """Sets MLflow's time-outs, retries and chatter for this process, where the user has not set them."""
    for name, value in _ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    if not Path(os.path.expanduser("~")).is_absolute():  # noqa: PTH111 - Path's raises
        # MLflow can't be imported by an account without a home folder, as in `docker run --user 12345`.
        os.environ["HOME"] = tempfile.gettempdir()


class NotTaken(Exception):
    """The store said that it took something, and does not have it."""


class Store:
    """The run in one store. Every call may block for as long as MLflow's time-outs allow.

    Raises mlflow.exceptions.MlflowException, OSError, NotTaken or the database's own errors: the caller tries again.
    """

    def __init__(self, uri: str) -> None:
        # Alembic keeps process-wide state while it creates a database.
        with _opening:
            from mlflow.tracking import MlflowClient

            # Only now: MLflow configures its loggers when it is imported.
            for name in ("mlflow.store", "mlflow.tracking", "alembic"):
                logging.getLogger(name).setLevel(logging.WARNING)
            # It prints a stack trace of what it raises, and we tell in a line.
            logging.getLogger("mlflow.store.db.utils").setLevel(logging.CRITICAL)
            make_database(uri)
            self.client: MlflowClient = MlflowClient(uri)
        self.uri = uri
        self.run_id = ""
        self._uuid = ""
        self._once: bool | None = None

    def open_run(self, start: Entry, uuid: str, run_id: str | None = None) -> None:
        """Continues `run_id`, else the run tagged `uuid`; where the store has neither, makes one by the `start`
        entry."""
        self._uuid = uuid
        if run_id and self._has(run_id):
            self.run_id = run_id
            return
        experiment = self._experiment(start["experiment"])
        if not (found := self._twins(experiment)):
            tags = {UUID: uuid, **({"fasttrain.continues": run_id} if run_id else {})}
            self.client.create_run(experiment, start["time"], tags, start["run_name"])
            found = self._twins(experiment)
        if not found:
            raise NotTaken("it made a run and does not have it")
        self.run_id = str(found[0].info.run_id)

    def deliver(self, entries: Sequence[Entry], doubtful: bool = False) -> None:
        """Brings entries of one `op` into the run, and makes sure that they are there.

        `doubtful`: some may be there already. SQL stores take a value that they have as the same; for others, which
        would have it twice, what is there is left out.
        """
        op = entries[0]["op"]
        if op == "metrics":
            self._metrics(entries, doubtful)
            return
        one = {"start": self._start, "tags": self._tags, "artifact": self._artifact, "finish": self._finish}[op]
        for entry in entries:
            one(entry)

    def check(self) -> Run:
        """The run as the store has it; raises what any other call would raise where the store does not answer or has
        lost the run."""
        run = self.client.get_run(self.run_id)
        if run.info.run_id != self.run_id or run.info.lifecycle_stage != "active":
            raise NotTaken(f"the run {self.run_id} is not there any more")
        return run

    def _has(self, run_id: str) -> bool:
        from mlflow.exceptions import MlflowException

        try:
            run = self.client.get_run(run_id)
        except MlflowException as error:
            if error.error_code == "RESOURCE_DOES_NOT_EXIST":
                return False
            raise
        return bool(run.info.run_id == run_id and run.info.lifecycle_stage == "active")

    def _twins(self, experiment: str) -> list[Run]:
        """The runs with our tag, the one to keep first: several, where an answer to `create_run` was lost."""
        found = self.client.search_runs([experiment], f"tags.`{UUID}` = '{self._uuid}'")
        return sorted(found, key=lambda run: (_is_empty(run), run.info.run_id))

    def _remove_twins(self, experiment: str) -> None:
        for run in self._twins(experiment):
            if run.info.run_id != self.run_id and _is_empty(run):
                self.client.delete_run(run.info.run_id)

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
        if not found.experiment_id:
            raise NotTaken(f"it answers without the experiment '{name}'")
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

        run = self.check()
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
        if missing := {_key(name) for name in entry["params"]} - self.check().data.params.keys():
            raise NotTaken(f"it took {len(missing)} settings and does not have them")

    def _metrics(self, entries: Sequence[Entry], doubtful: bool) -> None:
        from mlflow.entities import Metric

        metrics = [
            Metric(_key(name), value, entry["time"], entry["step"])
            for entry in entries
            for name, value in entry["metrics"].items()
        ]
        by_name: dict[str, list[Metric]] = defaultdict(list)
        for metric in metrics:
            by_name[metric.key].append(metric)
        if doubtful and not self._takes_once():
            # A last value that is older than all of these says that none of them is there, without the whole history.
            last = self._last()
            for name, own in by_name.items():
                if name in last and last[name] >= min(map(_moment, own)):
                    there = set(map(_row, self.client.get_metric_history(self.run_id, name)))
                    by_name[name] = [metric for metric in own if _row(metric) not in there]
            metrics = [metric for own in by_name.values() for metric in own]
        self.client.log_batch(self.run_id, metrics=metrics)
        last = self._last()
        for name, own in by_name.items():
            if own and (name not in last or last[name] < max(map(_moment, own))):
                there = set(map(_row, self.client.get_metric_history(self.run_id, name)))
                if any(_row(metric) not in there for metric in own):
                    raise NotTaken(f"it took {name} and does not have it")

    def _takes_once(self) -> bool:
        if self._once is None:
            self._once = urlsplit(self.uri).scheme not in ("", "file") if not is_remote(self.uri) else self._is_sql()
        return self._once

    def _is_sql(self) -> bool:
        """Whether the server says that it keeps its runs in SQL; older ones don't say."""
        from mlflow.utils.rest_utils import http_request

        try:
            credentials = self.client._tracking_client.store.get_host_creds()
            answer = http_request(credentials, "/api/3.0/mlflow/server-info", "GET")
            return bool(answer.status_code == 200 and answer.json()["store_type"] == "SqlStore")
        except Exception:  # whatever it is: then what it has is compared
            return False

    def _last(self) -> dict[str, tuple[int, int]]:
        """The moment of each metric's last value."""
        return {metric.key: _moment(metric) for metric in self.check().data._metric_objs}

    def _tags(self, entry: Entry) -> None:
        from mlflow.entities import RunTag

        tags = [RunTag(_key(name), _cut(value, TAG_LENGTH)) for name, value in entry["tags"].items()]
        self.client.log_batch(self.run_id, tags=tags)
        if missing := {tag.key for tag in tags} - self.check().data.tags.keys():
            raise NotTaken(f"it took {len(missing)} tags and does not have them")

    def _artifact(self, entry: Entry) -> None:
        path, folder = Path(entry["path"]), entry["folder"]
        size = path.stat().st_size
        self.client.log_artifact(self.run_id, str(path), folder)
        there = {file.path: file.file_size for file in self.client.list_artifacts(self.run_id, folder)}
        if there.get(f"{folder}/{path.name}" if folder else path.name) != size:
            raise NotTaken(f"it took {path.name} and does not have it")

    def _finish(self, entry: Entry) -> None:
        self.client.set_terminated(self.run_id, entry["status"], entry["time"])
        run = self.check()
        if run.info.status != entry["status"]:
            raise NotTaken(f"it ended the run and still says that it is {run.info.status.lower()}")
        # At last: a slow server may have made a twin long after it was asked to.
        self._remove_twins(run.info.experiment_id)


def _is_empty(run: Run) -> bool:
    return not run.data.metrics and not run.data.params


def _moment(metric: Metric) -> tuple[int, int]:
    return metric.step, metric.timestamp


def _row(metric: Metric) -> tuple[int, int, str]:
    """What a store tells metrics of one name apart by; SQL stores know no infinity."""
    value = metric.value
    return *_moment(metric), repr(min(max(value, -sys.float_info.max), sys.float_info.max) if value == value else value)


def _key(name: str) -> str:
    """The name with what MLflow refuses in one (it allows letters, digits and `_-. :/`) replaced."""
    return re.sub(r"[^\w\-. :/]", "_", name)[:KEY_LENGTH]


def _cut(value: str, length: int) -> str:
    if len(value) <= length:
        return value
    note = f"… ({len(value)} characters)"
    return value[: length - len(note)] + note
